"""The frame of a training run, the same for every stage: done already, or record, check, train, save, finish."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems
from configs.files import fingerprint
from configs.progress import log, rank
from pretrain.models import already_made
from pretrain.training import preflight
from pretrain.training.checkpoints import remove_all
from pretrain.training.heartbeats import heartbeats
from pretrain.training.launching import STOP_FILE_VARIABLE, code_when_stopped, leave_group
from pretrain.training.train_settings import TrainSettings
from pretrain.training.trainer import PackedTrainer, prepare_to_start, save_result, train


def already_done(args: TrainSettings, stage: str, name: str, identity: dict[str, Any]) -> int | None:
    """Name the run's folder, where the user did not, and look into it.

    Args:
        args: whose output_dir is set.
        stage: folder under runs/.
        name: how the folder's name begins; the identity's fingerprint follows.
        identity: what the result depends on.

    Returns:
        The exit code of the finished run that lies there, or None.

    Raises:
        SettingsError: the folder holds a run of other settings or data, or others' weights.
    """
    args.output_dir = args.output_dir or str(records.RUNS / stage / f"{name}-{fingerprint(identity)[:8]}")
    done = already_made(Path(args.output_dir), identity)
    if done is None:
        log.info(f"{stage}: {args.output_dir}")
        return None
    log.info(f"already done: {args.output_dir}")
    leave_group()
    return records.exit_code(done)


def run_training(
    args: TrainSettings,
    stage: str,
    identity: dict[str, Any],
    settings: dict[str, Any],
    make_trainer: Callable[[], PackedTrainer],
    result: dict[str, Any],
    failed: FailedItems,
) -> int:
    """Train to the end, or until asked to stop; the same call goes on from the newest complete checkpoint.

    Args:
        args: with output_dir named (`already_done`).
        stage: name in the run record.
        identity: what the result depends on.
        settings: everything that was set, for the reader of run.json.
        make_trainer: loads data and model; called when the run has its record and its folder.
        result: what run.json says of the result beside the trainer's figures.
        failed: rows that could not be used, those that `make_trainer` finds included.

    Returns:
        The exit code.
    """
    output_dir = Path(args.output_dir)
    preflight.check_gpus(args.use_cpu)
    recorded = records.run_record(output_dir, stage, settings, identity) if rank() == 0 else nullcontext()
    with recorded as record, heartbeats(args.hang_timeout):
        checkpoint = prepare_to_start(args)
        trainer = make_trainer()
        status, figures = train(trainer, checkpoint)
        if status == "finished":
            save_result(trainer)
        if rank() == 0:
            if status == "finished" and STOP_FILE_VARIABLE in os.environ:  # the request to stop came too late
                Path(os.environ[STOP_FILE_VARIABLE]).unlink(missing_ok=True)
            failed.write(output_dir / "failures.jsonl")
            record.finish(status, len(failed), **result, **figures)
        leave_group()
        if status == "finished" and rank() == 0:
            remove_all(output_dir)
            print(output_dir)
    return failed.exit_code if status == "finished" else code_when_stopped(trainer.stop_callback.by_hand)
