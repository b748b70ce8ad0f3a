"""Pretraining: killed, stopped and resumed equals uninterrupted; accumulation weighs by tokens; evaluation by language.

LONG_TESTS=1 pytest tests/test_pretrain.py -k random_moments      five kills in each ZeRO stage, which takes minutes
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from configs.errors import SettingsError
from configs.files import read_json
from pretrain.models import load_model
from pretrain.token_blocks.blocks import IGNORED, Collator
from pretrain.training import callbacks, checkpoints
from pretrain.training.callbacks import (
    STOP_FILE,
    CompleteCheckpointCallback,
    MetricsCallback,
    StopFileCallback,
    read_metrics,
)
from pretrain.training.launching import code_when_stopped, end_of_job
from pretrain.training.train_settings import TrainSettings
from pretrain.training.trainer import PackedTrainer, prepare_to_start, train

ROOT = Path(__file__).parents[1]
NUM_STEPS, SAVE_STEPS = 12, 3


@pytest.fixture(scope="module")
def blocks(tmp_path_factory, tiny_model, script_env):
    """Token blocks of the sample's French and English documents."""
    folder = tmp_path_factory.mktemp("blocks")
    inputs = [str(ROOT / "assets" / "sample" / "documents" / f"{lang}.medical.jsonl") for lang in ("fr", "en")]
    words = ["--model_name_or_path", str(tiny_model), "--block_size", "128", "--validation_share", "0.2"]
    command = [sys.executable, "pretrain/prepare.py", "--input", *inputs, "--output_dir", str(folder), *words]
    subprocess.run(command, cwd=ROOT, env=script_env, check=True, capture_output=True, timeout=120)
    return folder


class Run:
    """One command, which by default two processes with ZeRO 2 work on, and its folder."""

    def __init__(self, folder, blocks, model, env, report_to="none", num_processes=2, **more):
        self.folder, self.env = folder, {**env, "NUM_PROCESSES": str(num_processes)}
        settings = {
            "data": blocks,
            "model_name_or_path": model,
            "output_dir": folder,
            "max_steps": NUM_STEPS,
            "save_steps": SAVE_STEPS,
            "per_device_train_batch_size": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "bf16": "false",
            "report_to": report_to,
            **more,
        }
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self.command = [sys.executable, "pretrain/train.py", *words]

    def start(self, output=subprocess.PIPE, **env):
        return subprocess.Popen(
            self.command, cwd=ROOT, env=self.env | env, stdout=output, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, **env):
        """What the command printed."""
        process = self.start(**env)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    @property
    def record(self):
        return read_json(self.folder / "run.json")

    def metrics(self):
        """The rows of metrics.jsonl without what a clock decides."""
        clock = ("seconds_per_step", "target_tokens_per_second", "seconds_left", "data_wait_share", "memory_gib")
        rows = read_metrics(self.folder / "metrics.jsonl")
        return [{n: v for n, v in row.items() if n not in clock and not n.startswith("eval_runtime")} for row in rows]


def wait_until(condition, process=None, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def processes_that_name(folder):
    """Ids of the processes on this machine with `folder` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended just now
    return found


@pytest.mark.slow
def test_killed_stopped_and_resumed_equals_uninterrupted(tmp_path, blocks, tiny_model, script_env):
    straight = Run(tmp_path / "straight", blocks, tiny_model, script_env, report_to="tensorboard")
    straight.finish()
    assert straight.record["status"] == "finished" and straight.record["lives"] == 1
    steps = [row["step"] for row in straight.metrics()]
    assert steps == [0, *range(1, NUM_STEPS + 1), NUM_STEPS]  # evaluated before the first and after the last step
    assert not list(straight.folder.glob("checkpoint-*"))
    assert list((straight.folder / "tensorboard").glob("events*")) and not (straight.folder / "runs").exists()

    # SIGKILL reaches only the process that a user sees; those that torchrun started must not live on.
    run = Run(tmp_path / "broken", blocks, tiny_model, script_env)
    process = run.start()
    wait_until((run.folder / f"checkpoint-{SAVE_STEPS}" / "complete.json").is_file, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not processes_that_name(run.folder), seconds=20)
    assert run.record["status"] == "running" and not (run.folder / "model.safetensors").exists()

    stop = tmp_path / "stop"
    stop.touch()
    assert "resuming from" in run.finish(STOP_FILE=str(stop))
    assert run.record["status"] == "stopped" and not (run.folder / "model.safetensors").exists()
    stopped_at = run.metrics()[-1]["step"]
    assert SAVE_STEPS < stopped_at < NUM_STEPS
    assert checkpoints.newest_checkpoint(run.folder).name == f"checkpoint-{stopped_at}"

    (run.folder / STOP_FILE).touch()  # an old one is removed at the start
    assert f"resuming from {run.folder}/checkpoint-{stopped_at}" in run.finish()
    assert run.record["status"] == "finished" and run.record["lives"] == 3
    assert run.metrics() == straight.metrics()
    wanted, found = (load_file(each.folder / "model.safetensors") for each in (straight, run))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    start = load_file(tiny_model / "model.safetensors")
    assert not any(torch.equal(start[name], found[name]) for name in start if "norm" not in name)
    same = ("num_steps", "train_loss", "before", "after")
    results = straight.record["result"], run.record["result"]
    assert {name: results[0][name] for name in same} == {name: results[1][name] for name in same}
    assert results[0]["after"]["loss"].keys() == {"en", "fr"}
    assert all(results[0]["after"]["loss"][lang] < results[0]["before"]["loss"][lang] for lang in ("en", "fr"))

    weights = run.folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert "already done" in run.finish() and weights.stat().st_mtime_ns == before
    assert {path.name for path in run.folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")} == set()
    assert "held out, fr" in (run.folder / "loss.svg").read_text()


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes minutes: LONG_TESTS=1 pytest -k random_moments")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_killed_at_random_moments_equals_uninterrupted(tmp_path, blocks, tiny_model, script_env, stage):
    settings = {"deepspeed": f"configs/deepspeed/zero{stage}.json", "max_steps": 60, "gradient_accumulation_steps": 4}
    straight = Run(tmp_path / "straight", blocks, tiny_model, script_env, **settings)
    straight.finish()
    run = Run(tmp_path / "killed", blocks, tiny_model, script_env, **settings)
    draw, num_kills = random.Random(stage), 5
    killed = []
    for number in range(num_kills):
        target = draw.randrange(40 * number // num_kills, 40 * (number + 1) // num_kills)
        process = run.start(output=subprocess.DEVNULL)  # a pipe that nobody reads fills up
        wait_until(lambda target=target: (run.metrics() or [{"step": -1}])[-1]["step"] >= target, process)
        time.sleep(draw.random() * 0.1)  # in a step, or while a checkpoint is written
        victim = draw.choice(["command", "rank"])
        pids = [process.pid] if victim == "command" else [draw.choice(training_processes(run.folder, process.pid))]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        wait_until(lambda: not processes_that_name(run.folder), seconds=60)
        newest = checkpoints.newest_checkpoint(run.folder)
        killed.append((victim, run.metrics()[-1]["step"], newest and newest.name))
        assert process.returncode != 0
    run.finish()
    print(f"ZeRO {stage}: killed (process, step, newest checkpoint) {killed}")
    assert run.record["lives"] == num_kills + 1
    assert run.metrics() == straight.metrics()
    wanted, found = (load_file(each.folder / "model.safetensors") for each in (straight, run))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert run.record["result"]["after"] == straight.record["result"]["after"]


def training_processes(folder, command):
    """Ids of the two ranks of a command: those at the end of the line of processes that it started."""
    pids = processes_that_name(folder)
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids}
    ranks = [pid for pid in pids if pid not in parents and pid != command]
    assert len(ranks) == 2
    return ranks


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"a tmpfs needs root: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(small_disk, blocks, tiny_model, script_env):
    settings = {"num_processes": 1, "deepspeed": "none", "max_steps": 40}
    run = Run(small_disk / "run", blocks, tiny_model, script_env, **settings)
    process = run.start()
    wait_until((run.folder / f"checkpoint-{SAVE_STEPS}" / "complete.json").is_file, process)
    room = 2**17  # for rows of metrics, and not for a checkpoint
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 4, said
    assert "error: the disk is full" in said and "it goes on from checkpoint-" in said
    newest = checkpoints.newest_checkpoint(run.folder)
    assert newest.name in said and load_file(newest / "model.safetensors")
    assert run.record["status"] == "failed" and not (run.folder / "model.safetensors").exists()
    process = run.start()
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 4 and "error: " in said  # still full
    assert checkpoints.newest_checkpoint(run.folder) == newest
    (small_disk / "filler").unlink()
    assert f"resuming from {newest}" in run.finish()
    assert run.record["status"] == "finished" and run.record["result"]["num_steps"] == 40


def unequal_blocks(num_blocks, seed=0):
    """Blocks of 48 tokens, the first almost full and the last almost empty."""
    draw = np.random.default_rng(seed)
    lengths = [[30, 10], [20], [9, 3], [2], [25, 20, 3], [4]]
    return [[(ids, ids) for ids in (draw.integers(2, 700, size=n) for n in row)] for row in lengths[:num_blocks]]


def mean_loss(model, blocks):
    """Loss of a token over all blocks, each segment seen alone."""
    total, count = 0.0, 0
    for ids, _ in [segment for block in blocks for segment in block]:
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None, :-1]).logits[0]
        total += torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids)[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count


def one_step(output_dir, model, train_blocks, evaluation, batch, accumulation):
    """Metrics rows of a run of one step in this process, and its result."""
    args = TrainSettings(
        output_dir=str(output_dir),
        max_steps=1,
        warmup_steps=0,
        learning_rate=1e-2,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=True,
    )
    trainer = PackedTrainer(
        model=load_model(str(model), torch.float32),
        args=args,
        train_dataset=train_blocks,
        evaluation=evaluation,
        block_size=48,
        pad_token_id=1,
        label="test",
    )
    checkpoint = prepare_to_start(args)
    assert checkpoint is None
    assert train(trainer, checkpoint)[0] == "finished"
    return read_metrics(output_dir / "metrics.jsonl")


def test_accumulation_weighs_by_tokens_and_evaluation_is_by_language(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    model = load_model(str(tiny_model), torch.float32)
    train_blocks = unequal_blocks(4)
    no_target = [[(np.array([1]), np.array([1]))]]
    evaluation = {"en": unequal_blocks(5, seed=1), "fr": unequal_blocks(3, seed=2)}
    at_once = one_step(tmp_path / "4x1", tiny_model, train_blocks, {**evaluation, "ru": no_target}, 4, 1)
    in_turn = one_step(tmp_path / "1x4", tiny_model, train_blocks, evaluation, 1, 4)
    assert "eval_loss_ru" not in at_once[0]
    for first, second in zip(at_once, in_turn, strict=True):
        for name in first.keys() & {"loss", "grad_norm", "eval_loss", "eval_loss_en", "eval_loss_fr"}:
            assert first[name] == pytest.approx(second[name], rel=1e-5), (first["step"], name)
    before, step, after = at_once
    assert (before["step"], step["step"], after["step"]) == (0, 1, 1)
    assert step["loss"] == pytest.approx(mean_loss(model, train_blocks), rel=1e-5)
    for lang, blocks in evaluation.items():
        assert before[f"eval_loss_{lang}"] == pytest.approx(mean_loss(model, blocks), rel=1e-5)
        assert before[f"eval_perplexity_{lang}"] == pytest.approx(math.exp(mean_loss(model, blocks)), rel=1e-4)
        assert after[f"eval_loss_{lang}"] != before[f"eval_loss_{lang}"]
    assert before["eval_loss"] == pytest.approx(mean_loss(model, evaluation["en"] + evaluation["fr"]), rel=1e-5)
    targets = sum(int((Collator(48, 1)([block])["labels"] != IGNORED).sum()) for block in train_blocks)
    assert targets == sum(len(ids) - 1 for block in train_blocks for ids, _ in block)


def test_an_infinite_loss_of_finite_gradient_stops_before_the_step(tmp_path, tiny_model, monkeypatch):
    compute = Trainer.compute_loss
    monkeypatch.setattr(Trainer, "compute_loss", lambda *args, **more: compute(*args, **more) + math.inf)
    with pytest.raises(SettingsError, match="step 1 is not finite") as refused:
        one_step(tmp_path, tiny_model, unequal_blocks(4), {}, 4, 1)
    assert refused.value.found == "loss inf on rank 0, micro-batch 1" and "from the start" in refused.value.todo


def test_settings_that_would_lose_a_run_are_refused():
    def problems(**more):
        return TrainSettings(output_dir="unused", bf16=False, use_cpu=True, report_to="none", **more).problems()

    assert problems() == []
    few = {"per_device_train_batch_size": 3}  # what memory there is for in training; as many in evaluation
    assert TrainSettings(output_dir="unused", bf16=False, use_cpu=True, report_to="none", **few).eval_batch_size == 3
    assert "wanted 2 or more" in problems(save_total_limit=1)[0]
    for name, value in {"per_device_eval_batch_size": 0, "learning_rate": -1.0, "num_train_epochs": 0.0}.items():
        (found,) = problems(**{name: value})
        assert found.startswith(f"{name} {value}: wanted ")
    assert problems(num_train_epochs=0.0, max_steps=9) == []
    for deepspeed in ({}, {"bf16": {"enabled": "auto"}}, {"zero_optimization": {"stage": 0}}):
        assert len(problems(dry_run=True, deepspeed=deepspeed)) == bool(deepspeed)
    assert "no gradient norm" in problems(dry_run=True, deepspeed={"zero_optimization": {"stage": 0}})[0]
    zero3 = {"stage": 3}
    assert "gather" in problems(dry_run=True, deepspeed={"zero_optimization": zero3})[0]
    zero3["stage3_gather_16bit_weights_on_model_save"] = True
    assert problems(dry_run=True, deepspeed={"zero_optimization": zero3}) == []


def test_only_complete_checkpoints_count(tmp_path):
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / STOP_FILE).touch()
    for step in (9, 10):
        checkpoints.mark_complete(tmp_path / f"checkpoint-{step}", step)
    assert prepare_to_start(SimpleNamespace(output_dir=str(tmp_path))).name == "checkpoint-10"
    left = {"checkpoint-9", "checkpoint-10", "checkpoint-notes"}
    assert {path.name for path in tmp_path.iterdir()} == left
    checkpoints.remove_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-notes"}
    assert checkpoints.newest_checkpoint(tmp_path) is None


def test_a_checkpoint_is_marked_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-4"
    written = [checkpoint / "model.safetensors", checkpoint / "global_step4" / "optimizer.pt"]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.fstat(file).st_ino), fsync(file)))
    state = SimpleNamespace(global_step=4, is_world_process_zero=True)
    CompleteCheckpointCallback().on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert checkpoints.newest_checkpoint(tmp_path) == checkpoint
    assert set(flushed[:-1]) == {path.stat().st_ino for path in written}, "the marker is the last"


def test_a_stop_file_ends_the_run_after_the_step_with_a_checkpoint_but_not_after_the_last(tmp_path, monkeypatch):
    monkeypatch.delenv("STOP_FILE", raising=False)

    def after_step(step):
        callback = StopFileCallback(tmp_path)
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=5), control)
        assert control.should_save == control.should_training_stop == callback.stopped
        return callback.stopped and code_when_stopped(callback.by_hand)

    assert after_step(3) is False
    (tmp_path / STOP_FILE).touch()
    assert after_step(3) == 143 and after_step(5) is False  # not done, and wanted so: nothing goes on from it
    (tmp_path / STOP_FILE).unlink()
    monkeypatch.setenv("STOP_FILE", str(tmp_path / "elsewhere"))
    assert after_step(3) is False
    (tmp_path / "elsewhere").touch()
    assert after_step(3) == 0 and after_step(3) is not False  # for run.sh, which requeues the job
    (tmp_path / STOP_FILE).touch()
    assert after_step(3) == 143  # both: it shall rest


def test_a_run_stops_in_time_for_its_checkpoint_before_the_time_limit(tmp_path, monkeypatch):
    """Steps of 70 s and checkpoints of 300 s, in a job that ends after 1,000 s and gets no signal."""
    clock = {"now": 0.0}
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(time=lambda: clock["now"], monotonic=lambda: clock["now"]))
    monkeypatch.setattr(callbacks, "end_of_job", lambda: 1000.0)
    monkeypatch.setenv("STOP_FILE", str(tmp_path / "asked"))
    args = SimpleNamespace(output_dir=str(tmp_path))

    def life(first, save_at=None):
        clock["now"] = 0.0
        stop, complete = StopFileCallback(tmp_path), CompleteCheckpointCallback()
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        state = SimpleNamespace(global_step=first, max_steps=1000, is_world_process_zero=True)
        stop.on_train_begin(args, state, control)
        while not control.should_training_stop and clock["now"] < 2000:
            clock["now"] += 70
            state.global_step += 1
            control.should_save = state.global_step == save_at
            for callback in (complete, stop):
                callback.on_step_end(args, state, control)
            if control.should_save:
                (tmp_path / f"checkpoint-{state.global_step}").mkdir()
                clock["now"] += 300
                for callback in (complete, stop):
                    callback.on_save(args, state, control)
        (tmp_path / "asked").unlink()
        return state.global_step - first, clock["now"]

    # A checkpoint at step 2, so that from step to step it takes 370 s at most: 370 + 450 s are not left after step 3.
    assert life(0, save_at=2) == (3, 3 * 70 + 300 + 300)
    assert checkpoints.seconds_to_save(tmp_path) == 300
    assert life(3) == (7, 7 * 70 + 300)  # which knows it from the life before: 70 + 450 s are not left after step 7


def test_the_end_of_a_job_is_what_slurm_says(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text(
        '#!/bin/sh\n[ "$*" = "--noheader --jobs=7 --format=%e" ] && date -d @1700000000 "+$SLURM_TIME_FORMAT"'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert end_of_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert end_of_job() == 1_700_000_000
    squeue.write_text("#!/bin/sh\necho N/A")  # no limit
    assert end_of_job() is None
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert end_of_job() is None


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    callback = MetricsCallback(tmp_path, "test")
    text = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (0, 2, 4, 6)) + '{"step": 8, "lo'
    for resumed_at, kept in ((4, [0, 2, 4]), (5, [0, 2, 4]), (0, [])):
        callback.path.write_text(text)
        callback.on_train_begin(None, SimpleNamespace(global_step=resumed_at, is_world_process_zero=True), None)
        assert [row["step"] for row in read_metrics(callback.path)] == kept
