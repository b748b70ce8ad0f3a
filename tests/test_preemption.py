"""Training under a real Slurm: preempted with SIGTERM to all its processes, it saves, requeues itself and goes on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.callbacks import read_metrics

ROOT = Path(__file__).parents[1]
NUM_STEPS = 40


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_preempted_run_is_requeued_and_ends_as_if_in_one_piece(slurm, tmp_path, tiny_model):
    env = slurm | {"NUM_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    sample = ROOT / "assets" / "sample" / "documents" / "en.medical.jsonl"
    words = ["--input", sample, "--output_dir", tmp_path / "blocks", "--model_name_or_path", tiny_model]
    prepare = [sys.executable, "pretrain/prepare.py", *words, "--block_size", "128"]
    subprocess.run(prepare, cwd=ROOT, env=env, check=True, capture_output=True, timeout=120)

    def submit(name):
        settings = {
            "data": tmp_path / "blocks",
            "model_name_or_path": tiny_model,
            "output_dir": tmp_path / name,
            "max_steps": NUM_STEPS,
            "per_device_train_batch_size": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 1000,
            "report_to": "none",
            "deepspeed": "configs/deepspeed/zero3.json",
        }
        arguments = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        log = tmp_path / f"{name}.log"
        command = ["sbatch", "--parsable", "--nodes=2", f"--output={log}", "--open-mode=append", "--cpus-per-task=1"]
        command += ["pretrain/run.sh", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def status(name):
        path = tmp_path / name / "run.json"
        return json.loads(path.read_text())["status"] if path.exists() else ""

    def log(name):
        path = tmp_path / f"{name}.log"
        return path.read_text() if path.exists() else ""

    preempted = submit("preempted")
    wait_until(lambda: len(read_metrics(tmp_path / "preempted" / "metrics.jsonl")) > 3, 120)
    subprocess.run(["scancel", "--signal=TERM", preempted], env=env, check=True)
    wait_until(lambda: status("preempted") == "stopped", 60)
    step = read_metrics(tmp_path / "preempted" / "metrics.jsonl")[-1]["step"]
    assert 3 <= step < NUM_STEPS and (tmp_path / "preempted" / f"checkpoint-{step}" / "complete.json").is_file()
    submit("straight")
    wait_until(lambda: status("straight") == "finished", 120)
    assert (
        status("preempted") == "finished"
        or "PENDING"
        in subprocess.run(
            ["squeue", "-h", "-j", preempted, "-o", "%T"], env=env, capture_output=True, text=True, check=True
        ).stdout
    ), log("preempted")
    wait_until(lambda: status("preempted") == "finished", 240)  # a requeued job waits up to two minutes
    record = json.loads((tmp_path / "preempted" / "run.json").read_text())
    assert record["lives"] == 2 and record["slurm"]["SLURM_RESTART_COUNT"] == "1", log("preempted")
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "preempted"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
