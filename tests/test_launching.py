"""Training processes: the launcher gives their exit code, and they never outlive it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from dataclasses import dataclass
from configs.errors import MissingInputError, run
from configs.progress import rank
from configs.settings import setting
from pretrain.training.launching import launch_all_processes

@dataclass
class Settings:
    folder: Path = setting(positional=True)
    steps: int = setting(1)

def main():
    launch_all_processes(lambda: (Settings,))
    folder = Path(sys.argv[1])
    (folder / f"{rank()} of {os.environ['WORLD_SIZE']}").write_text(str(os.getpid()))
    {body}

run(main)
"""
BODIES = {
    "return 0": 0,
    "raise MissingInputError('there is no model', todo='get one')": 3,
    "return 5": 5,
    "return 143": 143,
    "return 5 if rank() == 0 else 1 / 0": 1,
}


def start(folder, body, env, *words, output=subprocess.PIPE):
    (folder / "script.py").write_text(SCRIPT.replace("{body}", body))
    command = [sys.executable, str(folder / "script.py"), str(folder), *words]
    env = env | {"NUM_PROCESSES": "2"}
    return subprocess.Popen(
        command, env=env, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.parametrize("body", BODIES)
def test_the_code_of_the_processes_is_that_of_the_command(body, tmp_path, script_env):
    process = start(tmp_path, body, script_env)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == BODIES[body], said
    assert (tmp_path / "0 of 2").is_file() or BODIES[body], said
    assert ("error: there is no model" in said) == ("Missing" in body)


def test_wrong_settings_are_refused_once_and_start_no_process(tmp_path, script_env):
    process = start(tmp_path, "return 0", script_env, "--stesp", "3", "--steps", "many")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert said.count("2 wrong settings") == 1 and "near: steps" in said and "found 'many'" in said
    assert "torchrun" not in said and not list(tmp_path.glob("* of 2"))


def test_a_dead_process_ends_the_command_within_a_minute_and_its_node_rank_and_log_are_named(tmp_path, script_env):
    body = """
    if rank() == 1:
        os.kill(os.getpid(), 9)
    time.sleep(300)"""
    log_file = tmp_path / "log"
    began = time.monotonic()
    with open(log_file, "w") as log:
        process = start(tmp_path, body, script_env | {"SLURMD_NODENAME": "n7"}, output=log)
        process.wait(timeout=60)
    said = log_file.read_text()
    assert process.returncode == 1 and time.monotonic() - began < 60, said
    assert "error: a training process died" in said and f"node n7, log {log_file}" in said
    assert "rank      : 1 (local_rank: 1)" in said and "Signal 9 (SIGKILL)" in said  # torchrun's own words
    assert not any(map(alive, map(int, (path.read_text() for path in tmp_path.glob("* of 2")))))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_both(process, folder):
    """The ids of the two training processes, once they work."""
    files = [folder / "0 of 2", folder / "1 of 2"]
    end = time.monotonic() + 120
    while not all(path.is_file() and path.read_text() for path in files):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return [int(path.read_text()) for path in files]


def test_processes_end_with_the_command_that_started_them(tmp_path, script_env):
    process = start(tmp_path, "time.sleep(300)", script_env)
    pids = wait_for_both(process, tmp_path)
    assert all(map(alive, pids))
    process.kill()
    said, _ = process.communicate(timeout=60)  # ends when the last process has closed its output
    assert process.returncode == -signal.SIGKILL, said
    end = time.monotonic() + 60
    while any(map(alive, pids)):  # until whoever inherits them has noticed
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sigterm_to_all_processes_becomes_a_stop_file_and_ends_none(tmp_path, script_env):
    body = """
    while not os.path.exists(os.environ["STOP_FILE"]):
        time.sleep(0.02)
    time.sleep(1)  # the step in progress, and its checkpoint
    (folder / f"saved {rank()}").touch()"""
    process = start(tmp_path, body, script_env)
    wait_for_both(process, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does before it takes the nodes away
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said  # it is not done
    assert {path.name for path in tmp_path.glob("saved *")} == {"saved 0", "saved 1"}


def test_one_process_is_started_where_one_is_enough(tmp_path, script_env):
    (tmp_path / "script.py").write_text(
        "import os, sys\nfrom dataclasses import dataclass\nfrom pretrain.training.launching import launch_all_processes\n"
        "@dataclass\nclass Settings:\n    dry_run: bool = False\n"
        "launch_all_processes(lambda: (Settings,))\nprint(os.getppid(), 'RANK' in os.environ)"
    )
    (tmp_path / "dry.yaml").write_text("dry_run: true\n")
    two = {"NUM_PROCESSES": "2"}
    for words, env in (
        ([], {}),
        (["--help"], two),
        (["--dry_run"], two),
        (["--dry_run=true"], two),
        (["--config", str(tmp_path / "dry.yaml")], two),
        (["--config", str(tmp_path / "dry.yaml"), "--dry_run", "false"], {}),
    ):
        command = [sys.executable, str(tmp_path / "script.py"), *words]
        answer = subprocess.run(command, env=script_env | env, capture_output=True, text=True, timeout=60, check=True)
        assert answer.stdout == f"{os.getpid()} False\n"


def test_processes_share_the_cpus_of_their_node_whatever_the_number_of_nodes(monkeypatch):
    from pretrain.training.launching import _count_threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.delenv("NUM_PROCESSES", raising=False)
    monkeypatch.setenv("SLURM_NNODES", "16")
    assert [_count_threads(number) for number in (1, 8, 100)] == [64, 8, 1]
    monkeypatch.setenv("NUM_PROCESSES", "2")  # one on each of two virtual nodes of one machine
    assert _count_threads(1) == 32


BUILDER = """
import sys, time
from torch.utils import cpp_extension
from pretrain.training.launching import let_killed_builds_go

let_killed_builds_go()
baton = cpp_extension.FileBaton(sys.argv[1])
print(baton.try_acquire(), flush=True)
time.sleep(600)
"""


def test_a_killed_build_of_an_extension_does_not_hold_up_the_next(tmp_path, script_env, monkeypatch):
    """torch's own lock file outlives its holder, and every later training would wait for it."""
    from torch.utils import cpp_extension

    from pretrain.training.launching import let_killed_builds_go

    monkeypatch.setattr(cpp_extension, "FileBaton", cpp_extension.FileBaton)  # put back at the end
    let_killed_builds_go()
    lock = tmp_path / "lock"
    lock.touch()  # as torch's own leaves it
    command = [sys.executable, "-c", BUILDER, str(lock)]
    with subprocess.Popen(command, env=script_env, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout.readline() == "True\n"
        second = cpp_extension.FileBaton(str(lock), wait_seconds=1)
        assert not second.try_acquire()
        waiter = threading.Thread(target=second.wait, daemon=True)
        waiter.start()
        waiter.join(0.5)
        assert waiter.is_alive()
        builder.kill()
        waiter.join(60)
        assert not waiter.is_alive()
    third = cpp_extension.FileBaton(str(lock))
    assert third.try_acquire()
    third.release()
