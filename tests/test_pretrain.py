"""Pretraining: killed, stopped and resumed equals uninterrupted; accumulation weighs by tokens; evaluation by language."""

import json
import math
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

from configs.files import read_json
from pretrain import checkpoints
from pretrain.blocks import IGNORED, Collator
from pretrain.callbacks import STOP_FILE, MetricsCallback, StopFileCallback, read_metrics
from pretrain.models import load_model
from pretrain.throughput import flops_per_token, peak_tflops
from pretrain.training import PackedTrainer, TrainSettings, prepare_to_start, train

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
    """One command, which two processes with ZeRO 2 work on, and its folder."""

    def __init__(self, folder, blocks, model, env, report_to):
        self.folder, self.env = folder, {**env, "NUM_PROCESSES": "2"}
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
        }
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self.command = [sys.executable, "pretrain/train.py", *words]

    def start(self, **env):
        return subprocess.Popen(
            self.command, cwd=ROOT, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
        clock = ("seconds_per_step", "target_tokens_per_second", "seconds_left")
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
    run = Run(tmp_path / "broken", blocks, tiny_model, script_env, report_to="none")
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


def test_a_stop_file_ends_the_run_after_the_step_with_a_checkpoint_but_not_after_the_last(tmp_path, monkeypatch):
    monkeypatch.delenv("STOP_FILE", raising=False)

    def after_step(step):
        callback = StopFileCallback(tmp_path)
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=5), control)
        assert control.should_save == control.should_training_stop == callback.stopped
        return callback.stopped

    assert not after_step(3)
    (tmp_path / STOP_FILE).touch()
    assert after_step(3) and not after_step(5)
    (tmp_path / STOP_FILE).unlink()
    monkeypatch.setenv("STOP_FILE", str(tmp_path / "elsewhere"))
    assert not after_step(3)
    (tmp_path / "elsewhere").touch()
    assert after_step(3)


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    callback = MetricsCallback(tmp_path, "test")
    text = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (0, 2, 4, 6)) + '{"step": 8, "lo'
    for resumed_at, kept in ((4, [0, 2, 4]), (5, [0, 2, 4]), (0, [])):
        callback.path.write_text(text)
        callback.on_train_begin(None, SimpleNamespace(global_step=resumed_at, is_world_process_zero=True), None)
        assert [row["step"] for row in read_metrics(callback.path)] == kept


def test_flops_of_a_token_by_hand(tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    # A layer: queries 32 x 32, keys and values 32 x 16 each (2 of 4 heads of 8), output 32 x 32, three of 32 x 64 in
    # the feed-forward part, two norms of 32. Then the last norm and the output layer of 800 x 32; no input embedding.
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32 + 800 * 32
    attention = 6 * 2 * 4 * 8 * 100
    assert flops_per_token(model, 100) == 6 * weights + attention
    # The output layer works as hard when it shares the weights of the embedding.
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert flops_per_token(model, 100) == 6 * weights + attention
    # ZeRO 3 leaves an empty weight that knows its size.
    for weight in model.parameters():
        weight.ds_numel = weight.numel()
        weight.data = torch.empty(0)
    assert flops_per_token(model, 100) == 6 * weights + attention


def test_peak_of_a_card_is_known_or_not_guessed():
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert (peak_tflops("NVIDIA H100 PCIe"), peak_tflops("NVIDIA H100 80GB HBM3")) == (756, 989)
    assert peak_tflops("NVIDIA GeForce RTX 4090") is None
