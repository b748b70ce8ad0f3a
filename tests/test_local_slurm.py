"""scripts/local_slurm.sh gives a Slurm that does what the pipeline's jobs ask of a cluster."""

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from os import kill
from pathlib import Path

import pytest

LOCAL_SLURM = Path(__file__).parents[1] / "scripts" / "local_slurm.sh"
Environment = dict[str, str]


def run(env: Environment, *words: str | Path, code: int = 0) -> str:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


def submit(env: Environment, folder: Path, script: str, *options: str) -> str:
    """The job's number. The job writes to out.NUMBER in the folder, out.NUMBER_INDEX in an array."""
    output = "out.%A_%a" if any(option.startswith("--array") for option in options) else "out.%j"
    path = folder / "job.sh"
    path.write_text("#!/bin/bash\n" + script)
    return run(env, "sbatch", "--parsable", f"--output={folder}/{output}", *options, path).strip()


def wait_until(test: Callable[[], bool], what: str, seconds: int = 60) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)


def wait_for(env: Environment, *jobs: str) -> None:
    """Until they have left the queue. `sbatch --wait` asks ever more seldom, so it is late by up to half a minute."""
    wait_until(lambda: not run(env, "squeue", "--noheader", "--jobs", ",".join(jobs)), f"end of jobs {jobs}")


def state(env: Environment, job: str) -> str:
    found = re.search(r"JobState=(\w+)", run(env, "scontrol", "show", "job", job))
    assert found
    return found[1]


def processes(env: Environment) -> list[int]:
    """All that runs with this cluster's settings (zombies, which have no environment, do not run)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if f"SLURM_CONF={env['SLURM_CONF']}".encode() in words:
            found.append(int(path.parent.name))
    return found


def pids(env: Environment) -> dict[str, int]:
    return {path.stem: int(path.read_text()) for path in Path(env["LOCAL_SLURM_DIR"]).glob("run/*.pid")}


@pytest.fixture(scope="module", autouse=True)
def signalled(slurm: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slurm looks at time limits twice a minute, so this job begins before the tests and is read by the last."""
    folder = tmp_path_factory.mktemp("signalled")
    script = """
        echo "life ${SLURM_RESTART_COUNT:-0}"
        [[ ${SLURM_RESTART_COUNT:-0} == 0 ]] || exit 0
        trap 'echo signal; scontrol requeue "$SLURM_JOB_ID"' USR1
        while :; do sleep 0.2; done
    """
    job = submit(slurm, folder, script, "--time=1", "--signal=B:USR1@60", "--requeue", "--open-mode=append")
    return folder / f"out.{job}"


def test_srun_reaches_two_nodes(slurm: Environment) -> None:
    said = run(
        slurm, "srun", "--nodes=2", "--ntasks-per-node=1",
        "bash", "-c", "echo $SLURM_PROCID $SLURM_NNODES $SLURMD_NODENAME; getent hosts n1 n2 >/dev/null",
    )  # fmt: skip
    assert sorted(said.splitlines()) == ["0 2 n1", "1 2 n2"]


def test_published_headers_are_accepted(slurm: Environment, tmp_path: Path) -> None:
    script = """
#SBATCH --nodes=2 --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
        echo "$CUDA_VISIBLE_DEVICES $SLURM_CPUS_PER_TASK $SLURM_JOB_PARTITION $COLOUR"
    """
    job = submit(slurm | {"COLOUR": "green"}, tmp_path, script, "--wait")
    assert (tmp_path / f"out.{job}").read_text() == "0,1,2,3,4,5,6,7 16 local green\n"


def test_array_runs_all_but_no_more_than_allowed_at_once(slurm: Environment, tmp_path: Path) -> None:
    script = 'sleep 1; squeue --noheader --states=RUNNING --array --jobs "$SLURM_ARRAY_JOB_ID" | wc -l'
    job = submit(slurm, tmp_path, script, "--array=0-3%2")
    wait_for(slurm, job)
    running = [int((tmp_path / f"out.{job}_{i}").read_text()) for i in range(4)]
    assert all(1 <= count <= 2 for count in running)


def test_what_waits_for_a_failed_job_is_cancelled(slurm: Environment, tmp_path: Path) -> None:
    first = submit(slurm, tmp_path, "exit 5", "--hold")
    second = submit(slurm, tmp_path, "true", f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes")
    run(slurm, "scontrol", "release", first)
    wait_for(slurm, first, second)
    assert (state(slurm, first), state(slurm, second)) == ("FAILED", "CANCELLED")
    assert not (tmp_path / f"out.{second}").exists()


def test_second_start_changes_nothing(slurm: Environment) -> None:
    before = pids(slurm)
    said = run(slurm, LOCAL_SLURM, "start").splitlines()
    assert said[0].startswith("already running") and said[-1] == f"source {slurm['LOCAL_SLURM_DIR']}/env.sh"
    assert pids(slurm) == before and sorted(before) == ["munged", "n1", "n2", "slurmctld"]


def test_killed_cluster_is_recovered_and_stop_leaves_nothing(
    new_slurm: Callable[[], Environment], tmp_path: Path
) -> None:
    env = new_slurm()
    mark = f"# local_slurm {env['LOCAL_SLURM_DIR']};"
    run(env, LOCAL_SLURM, "status", code=3)
    for _ in range(2):
        run(env, LOCAL_SLURM, "start")
        assert Path("/etc/hosts").read_text().count(mark) == 1
        job = submit(env, tmp_path, "setsid sleep 300 & echo begun; sleep 300")
        wait_until((tmp_path / f"out.{job}").exists, "start of the job")
        kill(pids(env)["slurmctld"], signal.SIGKILL)
        run(env, LOCAL_SLURM, "status", code=3)
    run(env, LOCAL_SLURM, "start")
    assert "idle" in run(env, LOCAL_SLURM, "status") and processes(env)
    submit(env, tmp_path, "setsid sleep 300 & sleep 300", "--nodes=2")
    for _ in range(2):
        run(env, LOCAL_SLURM, "stop")
        assert processes(env) == [] and pids(env) == {}
        assert mark not in Path("/etc/hosts").read_text()
    assert (Path(env["LOCAL_SLURM_DIR"]) / "log" / "slurmctld.log").stat().st_size > 0


def test_taken_port_is_named(new_slurm: Callable[[], Environment]) -> None:
    env = new_slurm()
    port = int(env["LOCAL_SLURM_PORT"]) + 1
    with socket.create_server(("127.0.0.1", port)):
        said = run(env, LOCAL_SLURM, "start", code=4)
    assert f"port {port}" in said
    assert all(part in said for part in ("where:", "found:", "wanted:", "do:"))


def test_folder_of_others_is_refused(tmp_path: Path, new_slurm: Callable[[], Environment]) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "precious").touch()
    said = run(new_slurm(), LOCAL_SLURM, "start", "--dir", tmp_path, code=2)
    assert str(tmp_path) in said and (tmp_path / "log" / "precious").exists()


def test_signal_before_the_time_limit_and_requeue_give_a_second_life(slurm: Environment, signalled: Path) -> None:
    wait_for(slurm, signalled.suffix[1:])
    lines = [line for line in signalled.read_text().splitlines() if not line.startswith(("slurmstepd", "Terminated"))]
    assert lines == ["life 0", "signal", "life 1"]
