"""Starting training processes: one a GPU on every node of the job, never nn.DataParallel."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from configs.errors import EXIT_CODE_FILE, ExitCode, UserError
from configs.progress import log
from configs.settings import check

STOP_FILE_VARIABLE = "STOP_FILE"  # names the file whose presence ends a run; run.sh sets it
LOG_VARIABLE = "LOG_FILE"  # names the job's log, which the tasks of srun write to through a pipe; run.sh sets it
OWN_STOP_FILE = "stopped-by-sigterm"  # its name where one process, watched by no run.sh or launcher, made it
SECONDS_TO_END = 10


def count_processes() -> tuple[int, int]:
    """Nodes, and processes a node, of a training started here (see `launch_all_processes`)."""
    import torch

    num_nodes = int(os.environ.get("SLURM_NNODES", "1")) if "SLURM_STEP_ID" in os.environ else 1
    asked = int(os.environ.get("NUM_PROCESSES", num_nodes))
    return num_nodes, torch.cuda.device_count() or max(1, asked // num_nodes)


def launch_all_processes(settings_classes: Callable[[], tuple[type, ...]]) -> None:
    """Start a plainly started training script again under torchrun, once a GPU and node, and exit with its code.

    The command line is read once before, so that a wrong name is refused once and not by every process. Nodes are those
    of the Slurm step the script runs in (srun, one task a node), else one. Without a GPU there is one process a node,
    or as many as NUM_PROCESSES in the environment says, counted over all nodes. Returns when one process is enough, as
    for a dry run, and in the processes that torchrun started.

    Args:
        settings_classes: gives the dataclasses that the command line is read into; `dry_run` is a field of one.

    Raises:
        SettingsError: the command line has unknown names or values of a wrong type.
    """
    if EXIT_CODE_FILE in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    if "TORCHELASTIC_RUN_ID" in os.environ or {"--help", "-h"} & set(sys.argv):
        return
    # Preemption sends SIGTERM to every process of a Slurm step. This one passes it on as a STOP file; those that it
    # starts leave it alone, or they would end before the step in progress is saved.
    ends = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if check(*settings_classes()).get("dry_run"):
        signal.signal(signal.SIGTERM, ends)
        return
    num_nodes, num_processes = count_processes()
    if num_processes * num_nodes == 1:
        if STOP_FILE_VARIABLE not in os.environ:
            folder = tempfile.mkdtemp(prefix="stop-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            os.environ[STOP_FILE_VARIABLE] = str(Path(folder) / OWN_STOP_FILE)
        _stop_on_sigterm()
        return
    log.info(f"starting {num_processes} processes on {num_nodes} nodes with torchrun")
    words = [sys.executable, "-m", "torch.distributed.run"]
    words += [f"--nnodes={num_nodes}", f"--nproc_per_node={num_processes}"]
    # Not SIGTERM, which the processes leave alone; those that outlive a dead one get SIGKILL after some seconds.
    words += ["--signals_to_handle=SIGINT,SIGHUP,SIGQUIT", f"--shutdown_timeout={SECONDS_TO_END}"]
    if num_nodes > 1:
        words += ["--rdzv_backend=c10d", f"--rdzv_endpoint={_rendezvous()}"]
        words += [f"--rdzv_id={os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"]
    else:
        words += ["--standalone"]
    os.environ.setdefault("OMP_NUM_THREADS", str(_count_threads(num_processes)))
    # What libraries will change in later versions is no news to a user of pinned ones: DeepSpeed says it in every step.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    with tempfile.TemporaryDirectory() as folder:
        # torchrun knows only success and failure, so the processes leave their code in a file.
        code_file = Path(folder) / "code"
        plain = STOP_FILE_VARIABLE not in os.environ
        stop_file = Path(os.environ.setdefault(STOP_FILE_VARIABLE, str(Path(folder) / "stop")))
        environment = {**os.environ, EXIT_CODE_FILE: str(code_file)}
        with subprocess.Popen([*words, *sys.argv], env=environment, stdin=subprocess.PIPE) as torchrun:
            _stop_on_sigterm()
            torchrun.wait()
        code = int(code_file.read_text()) if code_file.is_file() else ExitCode.DONE
        if plain and stop_file.exists() and code == ExitCode.DONE and torchrun.returncode == 0:
            code = ExitCode.STOPPED
    if torchrun.returncode and code in (ExitCode.DONE, ExitCode.FAILED_ITEMS, ExitCode.STOPPED):
        # A process crashed beside those.
        print(_died().render(), file=sys.stderr)
        code = ExitCode.BUG
    if code == ExitCode.FAILED_ITEMS and num_nodes > 1:
        code = ExitCode.DONE  # srun would kill the other nodes; the run record has the failed items
    sys.exit(code)


def _count_threads(num_processes: int) -> int:
    """Threads of each of a node's processes: its share of this node's CPUs.

    NUM_PROCESSES counts those of all nodes, as nodes where it is given may be virtual ones that share this machine.
    """
    asked = int(os.environ.get("NUM_PROCESSES", "1"))
    return max(1, len(os.sched_getaffinity(0)) // max(asked, num_processes))


def _rendezvous() -> str:
    """Where the nodes of a Slurm step meet: its first node, and a port of the job's own."""
    names = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], capture_output=True, text=True, check=True
    )
    return f"{names.stdout.split()[0]}:{20_000 + int(os.environ['SLURM_JOB_ID']) % 10_000}"


def end_of_job() -> float | None:
    """When Slurm's time limit ends this job, in seconds since the epoch; None without Slurm or a limit."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    words = ["squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%e"]
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return float(answer) if answer.isdigit() else None


def _died() -> UserError:
    """What to say when a process ended without a word of its own, by a signal or a crash of a library."""
    output = Path(os.environ.get(LOG_VARIABLE, "/proc/self/fd/2")).resolve()
    log_file = output if output.is_file() else "the lines above"
    return UserError(
        "a training process died",
        where=f"node {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}, log {log_file}",
        found="torchrun's report above: rank, exit code or signal",
        todo="its last words are above; after signal 9 look whether memory was full (dmesg, seff). The same command "
        "goes on from the newest complete checkpoint",
    )


def code_when_stopped(by_hand: bool) -> int:
    """The exit code of a run that a STOP file ended.

    143 where somebody wants it to rest, so that the job is not requeued and none that waits for its result starts, and
    for whoever started one process plainly and sent it SIGTERM. Else 0, for run.sh, which looks at its file and
    requeues the job, and for the launcher.

    Args:
        by_hand: the file lay in the run's folder.
    """
    stop_file = Path(os.environ.get(STOP_FILE_VARIABLE, ""))
    own = stop_file.name == OWN_STOP_FILE and stop_file.exists()
    return ExitCode.STOPPED if by_hand or own else ExitCode.DONE


def _stop_on_sigterm() -> None:
    """Have SIGTERM end the run after the step in progress, with a checkpoint (`callbacks.StopFileCallback`)."""
    stop_file = Path(os.environ[STOP_FILE_VARIABLE])
    signal.signal(signal.SIGTERM, lambda *_: stop_file.touch())


def _end_with_launcher() -> None:
    """End this process when the command that a user sees has died, by whatever signal.

    Processes under torchrun outlive it otherwise, and would write into the folder in which the same command goes on.
    They share its standard input, a pipe that the launcher alone holds open and never writes to.
    """
    os.read(0, 1)
    os._exit(ExitCode.BUG)


def let_killed_builds_go() -> None:
    """Have torch lock the folder of a C++ extension with a lock that ends with its holder.

    DeepSpeed's are compiled at their first use and looked up at every start, each time under a lock file. torch's own
    is a file that its holder removes: after one SIGKILL between the two, every training on this machine would wait for
    ever for a process that is gone.
    """
    from torch.utils import cpp_extension

    cpp_extension.FileBaton = _KernelLock


class _KernelLock:
    """What torch.utils.file_baton.FileBaton offers, by flock on a file beside torch's own."""

    def __init__(self, lock_file_path: str, *_: object, **__: object):
        self._file = open(f"{lock_file_path}.flock", "a")  # noqa: SIM115 (held until released)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it; returns whether."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self) -> None:
        """Return when whoever has the lock is done, or dead."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.release()

    def release(self) -> None:
        """Give the lock back."""
        self._file.close()


def join_group_of_one() -> None:
    """Give DeepSpeed the process group it wants when a script runs as a single process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def leave_group() -> None:
    """Destroy the process group: without it a process that used ZeRO aborts at exit after all its work is done."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
