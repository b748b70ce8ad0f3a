"""What watches a training run: STOP file, complete checkpoints, metrics.jsonl with speed and time left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from configs.files import atomic_open
from configs.progress import duration, log
from pretrain.training import preflight
from pretrain.training.checkpoints import flush_to_disk, full_disk_is_named, mark_complete, seconds_to_save
from pretrain.training.launching import STOP_FILE_VARIABLE, end_of_job

STOP_FILE = "STOP"


def _same_on_all_ranks(*values: bool) -> list[bool]:
    """Rank 0's values on every rank: a file may appear between two ranks' looks at it."""
    if not torch.distributed.is_initialized():
        return list(values)
    flags = torch.tensor(values, dtype=torch.uint8, device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.broadcast(flags, 0)
    return [bool(flag) for flag in flags.tolist()]


def _wait_for_all_ranks() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


class StopFileCallback(TrainerCallback):
    """Ends the run after the step in progress when OUTPUT/STOP exists: checkpoint, then a clean end.

    It is the one way to end a run early. The file that STOP_FILE in the environment names ends it too: run.sh, which
    does not know the folder, touches that on USR1 (time limit), and SIGTERM (preemption) does (`launching`). Those ask
    for the job to go on later; the file in the folder, which somebody made by hand, does not (`by_hand`).

    USR1 comes at a fixed time before the limit, too late for a checkpoint of a terabyte. So the file is also touched
    here, as soon as another step, as long as the longest so far, and a checkpoint might not end before the limit.
    """

    def __init__(self, output_dir: Path):
        self.output_dir, self.by_hand_file = output_dir, output_dir / STOP_FILE
        self.asked_file = os.environ.get(STOP_FILE_VARIABLE)
        self.stopped = self.by_hand = False
        self._limit: float | None = None  # rank 0 looks at it for all
        self._step_ended: float | None = None
        self._longest = self._saving = 0.0  # seconds from one step's end to the next one's, and of a checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.asked_file:
            self._limit, self._saving = end_of_job(), seconds_to_save(self.output_dir)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._limit:  # this comes after CompleteCheckpointCallback's
            self._saving = seconds_to_save(self.output_dir)

    def _mind_the_limit(self) -> None:
        now = time.time()
        self._longest = max(self._longest, now - (self._step_ended or now))
        self._step_ended = now
        # Half as much again: file systems are slower when others save too.
        if self._limit and now + self._longest + 1.5 * self._saving > self._limit:
            log.info(
                f"the job's time limit is in {duration(self._limit - now)}; a checkpoint took {self._saving:.0f} s"
            )
            Path(self.asked_file or "").touch()
            self._limit = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._mind_the_limit()
        asked = bool(self.asked_file) and os.path.exists(self.asked_file)
        asked, by_hand = _same_on_all_ranks(asked, self.by_hand_file.exists())
        if (asked or by_hand) and state.global_step < state.max_steps:
            log.info(f"asked to stop: saving at step {state.global_step} of {state.max_steps}")
            self.stopped, self.by_hand = True, by_hand
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.stopped and state.epoch % 1:  # broken off, which is no end: nothing is evaluated or saved again
            control.should_save = control.should_evaluate = False
        return control


class CompleteCheckpointCallback(TrainerCallback):
    """Marks a checkpoint complete once every rank has written its part; writes none after the last step.

    The last step's would be removed as soon as the result is saved, and the Trainer, resumed from it, takes one step
    more. A run killed in between goes on from the checkpoint before it, to the same weights.
    """

    _began = 0.0  # the saving that may come

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._began = time.monotonic()
        control.should_save = control.should_save and state.global_step < state.max_steps
        return control

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        _wait_for_all_ranks()  # or one might look for files that another is about to rename
        with full_disk_is_named(checkpoint.parent):  # network file systems say it as late as here
            flush_to_disk(checkpoint)
        _wait_for_all_ranks()
        if state.is_world_process_zero:
            mark_complete(checkpoint, state.global_step, round(time.monotonic() - self._began, 1))


class PreflightCallback(TrainerCallback):
    """Looks at ranks, disk and data, and tries a step, before the first one of this life (`preflight`)."""

    trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        preflight.check(self.trainer)
        self.trainer.meter.begin(state.global_step)


class MetricsCallback(TrainerCallback):
    """Writes metrics.jsonl and one line of progress an interval.

    On resume, rows after the checkpoint's step are dropped, so that the file reads as if the run had never been
    interrupted.
    """

    def __init__(self, output_dir: Path, label: str):
        self.path, self.label = output_dir / "metrics.jsonl", label

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= state.global_step and state.global_step]
        with atomic_open(self.path) as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or not state.is_world_process_zero or "train_runtime" in logs:
            return
        row = {"step": state.global_step, "num_steps": state.max_steps, "epoch": state.epoch}
        row.update({name: value for name, value in logs.items() if name != "epoch"})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        log.info(f"{self.label}: " + describe(row))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def describe(row: dict[str, Any]) -> str:
    """One metrics row as a line for people."""
    parts = [f"step {row['step']} of {row['num_steps']}"]
    if "loss" in row:
        parts.append(f"loss {row['loss']:.4f}")
        parts += [f"gradient norm {row['grad_norm']:.2f}"] if row.get("grad_norm") is not None else []
        parts.append(f"learning rate {row['learning_rate']:.2e}")
        parts.append(f"{row['target_tokens_per_second']:,.0f} target tokens/s")
        parts += [f"MFU {row['mfu']:.1%}"] if "mfu" in row else []
        parts.append(f"{duration(row['seconds_left'])} left")
    evaluated = {
        name[len("eval_perplexity_") :]: value for name, value in row.items() if name.startswith("eval_perplexity_")
    }
    if evaluated:
        parts.append("perplexity " + " ".join(f"{lang} {value:.2f}" for lang, value in evaluated.items()))
    accuracy = {
        name[len("eval_accuracy_") :]: value for name, value in row.items() if name.startswith("eval_accuracy_")
    }
    if accuracy:
        parts.append("accuracy " + " ".join(f"{lang} {value:.1%}" for lang, value in accuracy.items()))
    return ", ".join(parts)
