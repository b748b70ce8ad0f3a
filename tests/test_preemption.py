"""Training under a real Slurm: preempted with SIGTERM to all its processes, it saves, requeues itself and goes on.

LONG_TESTS=1 pytest tests/test_preemption.py -k time_limit      a time limit that hits twice, which takes a quarter hour
LONG_TESTS=1 pytest tests/test_preemption.py -k dead_rank       a rank killed on one of two nodes
LONG_TESTS=1 pytest tests/test_preemption.py -k salloc          run.sh and a bare srun under salloc
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.training.callbacks import read_metrics

ROOT = Path(__file__).parents[1]
NUM_STEPS = 40
LONG_RUN_STEPS = int(os.environ.get("LONG_RUN_STEPS", 4000))  # more than two lives of a minute get done


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


class Cluster:
    """Trainings with ZeRO 3 on the two nodes of a cluster, each with a log and a folder of its own."""

    def __init__(self, slurm, folder, model, **settings):
        self.folder, self.env = (
            folder,
            slurm | {"NUM_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        )
        sample = ROOT / "assets" / "sample" / "documents" / "en.medical.jsonl"
        words = ["--input", sample, "--output_dir", folder / "blocks", "--model_name_or_path", model]
        prepare = [sys.executable, "pretrain/prepare.py", *words, "--block_size", "128"]
        subprocess.run(prepare, cwd=ROOT, env=self.env, check=True, capture_output=True, timeout=120)
        self.settings = {
            "data": folder / "blocks",
            "model_name_or_path": model,
            "per_device_train_batch_size": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 10_000,
            "report_to": "none",
            "deepspeed": "configs/deepspeed/zero3.json",
            **settings,
        }

    def arguments(self, name):
        """What a training into the folder `name` is started with."""
        settings = self.settings | {"output_dir": self.folder / name}
        return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]

    def submit(self, name, *options):
        """The id of a job that trains into the folder `name`."""
        command = ["sbatch", "--parsable", "--nodes=2", f"--output={self.folder / name}.log", "--open-mode=append"]
        command += ["--cpus-per-task=1", *options, "pretrain/run.sh", *self.arguments(name)]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def record(self, name):
        path = self.folder / name / "run.json"
        return json.loads(path.read_text()) if path.exists() else {"status": ""}

    def log(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def rows(self, name):
        """Metrics without what a clock decides."""
        rows = read_metrics(self.folder / name / "metrics.jsonl")
        return [{key: row[key] for key in row if key in ("step", "grad_norm") or "loss" in key} for row in rows]

    def assert_equal(self, name, other):
        """Same weights to the last bit, same losses to the last digit."""
        wanted, found = (load_file(self.folder / each / "model.safetensors") for each in (name, other))
        assert wanted.keys() == found.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert self.rows(name) == self.rows(other)


@pytest.mark.slow
def test_preempted_run_is_requeued_and_ends_as_if_in_one_piece(slurm, tmp_path, tiny_model):
    cluster = Cluster(slurm, tmp_path, tiny_model, max_steps=NUM_STEPS)
    preempted = cluster.submit("preempted")
    wait_until(lambda: len(cluster.rows("preempted")) > 3, 120)
    subprocess.run(["scancel", "--signal=TERM", preempted], env=cluster.env, check=True)
    wait_until(lambda: cluster.record("preempted")["status"] == "stopped", 60)
    step = cluster.rows("preempted")[-1]["step"]
    assert 3 <= step < NUM_STEPS and (tmp_path / "preempted" / f"checkpoint-{step}" / "complete.json").is_file()
    cluster.submit("straight")
    wait_until(lambda: cluster.record("straight")["status"] == "finished", 120)
    queue = ["squeue", "-h", "-j", preempted, "-o", "%T"]
    state = subprocess.run(queue, env=cluster.env, capture_output=True, text=True, check=True).stdout
    assert cluster.record("preempted")["status"] == "finished" or "PENDING" in state, cluster.log("preempted")
    wait_until(
        lambda: cluster.record("preempted")["status"] == "finished", 240
    )  # a requeued job waits up to two minutes
    record = cluster.record("preempted")
    assert record["lives"] == 2 and record["slurm"]["SLURM_RESTART_COUNT"] == "1", cluster.log("preempted")
    cluster.assert_equal("straight", "preempted")


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes a quarter hour: LONG_TESTS=1 pytest -k time_limit")
def test_a_time_limit_that_hits_twice_requeues_twice_and_the_run_ends_as_if_in_one_piece(slurm, tmp_path, tiny_model):
    cluster = Cluster(slurm, tmp_path, tiny_model, max_steps=LONG_RUN_STEPS)
    limited = cluster.submit("limited", "--time=3", "--signal=B:USR1@90")
    show = ["scontrol", "show", "job", limited]
    wait_until(lambda: b" Restarts=2 " in subprocess.run(show, env=cluster.env, capture_output=True).stdout, 1200)
    # However slow the machine, the third life is the last.
    subprocess.run(["scontrol", "update", f"jobid={limited}", "timelimit=UNLIMITED"], env=cluster.env, check=True)
    wait_until(lambda: cluster.record("limited")["status"] == "finished", 1200)
    record = cluster.record("limited")
    assert record["lives"] == 3 and record["slurm"]["SLURM_RESTART_COUNT"] == "2", cluster.log("limited")
    cluster.submit("straight")
    wait_until(lambda: cluster.record("straight")["status"] == "finished", 1200)
    assert cluster.record("straight")["lives"] == 1
    cluster.assert_equal("straight", "limited")
    print("lives", record["lives"], "seconds", record["wall_seconds"])


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes a minute: LONG_TESTS=1 pytest -k dead_rank")
def test_a_dead_rank_on_one_of_two_nodes_ends_the_job_within_a_minute_and_is_not_requeued(slurm, tmp_path, tiny_model):
    cluster = Cluster(slurm, tmp_path, tiny_model, max_steps=100_000)
    job = cluster.submit("dead")
    wait_until(lambda: len(cluster.rows("dead")) > 3, 240)
    ((node, pid),) = [
        (env["SLURMD_NODENAME"], pid) for pid, env in processes_of(tmp_path / "dead") if env.get("RANK") == "1"
    ]
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    queue = ["squeue", "-h", "-j", job]
    wait_until(lambda: not subprocess.run(queue, env=cluster.env, capture_output=True, text=True).stdout.strip(), 60)
    print(f"ended {time.monotonic() - began:.0f} s after the kill")
    wait_until(lambda: not processes_of(tmp_path / "dead"), 10)
    said = cluster.log("dead")
    assert "error: a training process died" in said and f"node {node}, log {tmp_path / 'dead.log'}" in said
    assert cluster.record("dead")["lives"] == 1 and "requeue" not in said


BY_HAND = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "python", "pretrain/train.py"]


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes a minute: LONG_TESTS=1 pytest -k salloc")
@pytest.mark.parametrize("command", [["bash", "pretrain/run.sh"], BY_HAND], ids=["run.sh", "srun"])
def test_the_nodes_of_salloc_find_each_other(slurm, tmp_path, tiny_model, command):
    cluster = Cluster(slurm, tmp_path, tiny_model, max_steps=4)
    words = ["salloc", "--nodes=2", "--cpus-per-task=1", *command, *cluster.arguments("run")]
    answer = subprocess.run(words, cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    orders = ("1 on n1, 1 on n2", "1 on n2, 1 on n1")  # torchrun gives one machine's nodes ranks by their process ids
    assert any(f"2 ranks met: {order}" in answer.stderr for order in orders), answer.stderr
    assert cluster.record("run")["status"] == "finished"


def processes_of(folder):
    """(id, environment) of the processes on this machine with `folder` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (path / "cmdline").read_bytes():
                pairs = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                found.append((int(path.name), dict(pair.split("=", 1) for pair in pairs if "=" in pair)))
        except OSError:
            continue  # it ended just now
    return found
