"""The trainer that pretraining and fine-tuning share: packed blocks, token-weighted loss, evaluation by language."""

from __future__ import annotations

import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from configs.errors import ExitCode, SettingsError
from configs.progress import log, rank
from pretrain.older_readers import write_for_older_readers
from pretrain.token_blocks.blocks import IGNORED, Collator
from pretrain.training import checkpoints
from pretrain.training.attention import as_one_row, can_be_packed, wants_one_row
from pretrain.training.best_checkpoint import BestCheckpointTrainer, EarlyStopping
from pretrain.training.callbacks import (
    STOP_FILE,
    CompleteCheckpointCallback,
    MetricsCallback,
    PreflightCallback,
    StopFileCallback,
    read_metrics,
)
from pretrain.training.loss_plot import plot_losses
from pretrain.training.metering import Meter
from pretrain.training.train_settings import TrainSettings


class PackedTrainer(BestCheckpointTrainer):
    """Trainer on packed blocks.

    Args:
        evaluation: language to its held-out blocks; `evaluate` gives loss and perplexity of each.
        block_size: tokens a block.
        pad_token_id: id that fills blocks.
        label: how progress lines begin.
    """

    def __init__(
        self, *, evaluation: dict[str, Dataset], block_size: int, pad_token_id: int, label: str, **arguments: Any
    ):
        args = arguments["args"]
        self.metrics_callback = MetricsCallback(Path(args.output_dir), label)
        self.stop_callback = StopFileCallback(Path(args.output_dir))
        self.evaluation, self.block_size, self.meter = evaluation, block_size, Meter()
        self._losses: list[torch.Tensor] = []  # of this step on this rank
        preflight = PreflightCallback()
        patience = args.early_stopping_patience
        super().__init__(
            data_collator=Collator(block_size, pad_token_id),
            eval_dataset=evaluation or None,  # which `evaluate` knows itself; the Trainer wants one for --eval_strategy
            callbacks=[preflight, self.metrics_callback, CompleteCheckpointCallback(), self.stop_callback]
            + ([EarlyStopping(patience)] if patience else []),
            **arguments,
        )
        preflight.trainer = self
        for printer in ("PrinterCallback", "ProgressCallback"):  # one line of ours instead of dictionaries
            for callback in [c for c in self.callback_handler.callbacks if type(c).__name__ == printer]:
                self.remove_callback(callback)

    @property
    def stopped(self) -> bool:
        """Whether the run was ended before its last step, to go on later."""
        return self.stop_callback.stopped

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        """The order of the blocks: the dataset's own where it says so (a mixture drawn by priority), else shuffled."""
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if getattr(dataset, "in_order", False):
            return torch.utils.data.SequentialSampler(dataset)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, *arguments: Any) -> tuple[list, Any]:
        """The batches of one step; counts their target tokens and the time it took to get them."""
        start = time.monotonic()
        batches, num_targets = super().get_batch_samples(*arguments)
        self.meter.count(num_targets, time.monotonic() - start)
        return batches, num_targets

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        one_row = wants_one_row(self.args.attn_implementation) and can_be_packed(self.model.config.model_type)
        return as_one_row(inputs) if one_row else inputs

    def compute_loss(self, *arguments: Any, **more: Any) -> torch.Tensor:
        """The loss, and not a number where it is infinite: its gradient, which all ranks share, tells them all.

        An infinite loss may have a finite gradient, which would be taken as if nothing had been wrong.
        """
        loss = super().compute_loss(*arguments, **more)
        self._losses.append(loss.detach())
        return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm over all ranks, which the Trainer asks for before the optimizer's step.

        ZeRO's optimizers step before that, inside backward, but by themselves leave out a step whose norm is not
        finite, and then give infinity for it.

        Raises:
            SettingsError: it is not finite. On rank 0, which speaks for all; the others leave quietly.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        losses, self._losses = self._losses, []
        if norm is None or (math.isfinite(norm) and norm >= 0):
            return norm
        mine = [loss.item() for loss in losses]
        by_rank = [mine]
        if torch.distributed.is_initialized():
            by_rank = [None] * self.args.world_size
            torch.distributed.all_gather_object(by_rank, mine)
        if self.args.fp16 and all(math.isfinite(value) for values in by_rank for value in values):
            return norm  # the loss scaler leaves this step out and lowers its scale
        if rank() != 0:
            raise SystemExit(ExitCode.SETTINGS)
        bad = [
            f"loss {value} on rank {number}, micro-batch {micro_batch}"
            for number, values in enumerate(by_rank)
            for micro_batch, value in enumerate(values, start=1)
            if not math.isfinite(value)
        ]
        newest = checkpoints.newest_checkpoint(Path(self.args.output_dir))
        raise SettingsError(
            f"step {self.state.global_step + 1} is not finite; its update was not made",
            where=self.args.output_dir,
            found="; ".join(bad) or f"gradient norm {norm}, losses finite on all ranks",
            wanted="finite losses and gradients",
            todo=f"the same command goes on from {newest.name if newest else 'the start'}; if it ends at this step "
            "again, lower learning_rate or max_grad_norm in another --output_dir, or look for a damaged block",
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the figures of speed beside a training loss."""
        if "loss" in logs:
            model = self.accelerator.unwrap_model(self.model)
            step, num_steps = self.state.global_step, self.state.max_steps
            logs = {**logs, **self.meter.read(step, num_steps, self.args.world_size, model, self.block_size)}
        super().log(logs, start_time)

    def _save_checkpoint(self, *arguments: Any) -> None:
        with checkpoints.full_disk_is_named(Path(self.args.output_dir)):
            super()._save_checkpoint(*arguments)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the model on what was held out, and log it."""
        start = time.monotonic()
        model = self.model_wrapped if self.model_wrapped is not None else self.model
        was_training = model.training
        model.eval()
        metrics = self.measure(model)
        model.train(was_training)
        self.evaluated_at = self.state.global_step
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.meter.leave_out(time.monotonic() - start)
        return metrics

    def measure(self, model: Any) -> dict[str, float]:
        """Token-weighted loss and perplexity by language over all held-out blocks, shared out over the ranks.

        Perplexity is exp of the mean loss of a token over the whole language, not a mean over blocks.
        """
        metrics: dict[str, float] = {}
        total = torch.zeros(2, dtype=torch.float64)
        for lang, blocks in self.evaluation.items():
            sums = self._sum_losses(model, blocks)
            total += sums
            if not sums[1]:  # only documents of one token, which nothing predicts
                continue
            metrics[f"eval_loss_{lang}"] = (sums[0] / sums[1]).item()
            # `min` in this order: NaN stays NaN.
            metrics[f"eval_perplexity_{lang}"] = math.exp(min((sums[0] / sums[1]).item(), 50.0))
        if total[1]:
            metrics["eval_loss"] = (total[0] / total[1]).item()
        return metrics

    @torch.no_grad()
    def _sum_losses(self, model: Any, blocks: Dataset) -> torch.Tensor:
        """Sum of token losses and number of tokens, (2,), over all ranks.

        Every rank makes the same number of forward passes (ZeRO 3 gathers weights in each): a rank that has run out
        of blocks repeats its first without counting it.
        """
        world, batch = self.args.world_size, self.args.per_device_eval_batch_size
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        num_batches = -(-len(blocks) // batch)
        for first in range(0, num_batches, world):
            mine = first + self.args.process_index
            number = mine if mine < num_batches else 0
            items = [blocks[i] for i in range(number * batch, min(len(blocks), (number + 1) * batch))]
            inputs = self._prepare_inputs(self.data_collator(items))
            num_targets = (inputs["labels"] != IGNORED).sum()
            with self.compute_loss_context_manager():
                loss = model(**inputs, use_cache=False).loss
            if mine < num_batches and num_targets:
                sums += torch.stack([loss.double() * num_targets, num_targets.double()])
        if world > 1:
            torch.distributed.all_reduce(sums)
        return sums.cpu()


def prepare_to_start(args: TrainSettings) -> Path | None:
    """Remove an old STOP file and half-written checkpoints (rank 0); returns the checkpoint to go on from, or None."""
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output_dir / "tensorboard"))  # the one way to say it
    if rank() == 0:
        (output_dir / STOP_FILE).unlink(missing_ok=True)
        checkpoints.remove_incomplete(output_dir)
    # Rank 0's choice for all: other nodes may see a network file system as it was a second ago.
    found = [checkpoints.newest_checkpoint(output_dir) if rank() == 0 else None]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found, device=args.device)
    newest = found[0]
    if newest:
        log.info(f"resuming from {newest}")
    return newest


def train(trainer: PackedTrainer, checkpoint: Path | None) -> tuple[str, dict[str, Any]]:
    """Train to the end, or until a STOP file; evaluates before the first and after the last step.

    Returns:
        "finished" or "stopped", and the figures for the run record: losses and perplexities by language before and
        after, steps, tokens and seconds of training.

    Raises:
        SettingsError: nothing to train on.
    """
    args, output_dir = trainer.args, Path(trainer.args.output_dir)
    if len(trainer.train_dataset) == 0:
        raise SettingsError("there is not one training block", where=output_dir, todo="give more data")
    args.eval_on_start = checkpoint is None and bool(trainer.evaluation)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.stopped:
        return "stopped", {}
    if trainer.evaluated_at != trainer.state.global_step:
        trainer.evaluate()
    rows = read_metrics(output_dir / "metrics.jsonl") if rank() == 0 else []
    if any("loss" in row for row in rows):
        plot_losses(rows, output_dir / "loss.svg")
    evaluated = [row for row in rows if "eval_loss" in row]
    speed = "target_tokens_per_second"
    return "finished", {
        "num_steps": trainer.state.global_step,
        "train_loss": _mean([row["loss"] for row in rows if "loss" in row]),
        "target_tokens_per_second": _median([row[speed] for row in rows if speed in row]),
        "before": _by_language(evaluated[0]) if evaluated else {},
        "after": _by_language(evaluated[-1]) if evaluated else {},
        **({"best_step": trainer.state.best_global_step} if args.load_best_model_at_end else {}),
    }


def save_result(trainer: PackedTrainer) -> None:
    """Save weights and tokenizer in the run's folder, for others to read, without the pickle of arguments."""
    folder = Path(trainer.args.output_dir)
    with checkpoints.full_disk_is_named(folder):
        trainer.save_model(str(folder))
    if rank() == 0:
        (folder / "training_args.bin").unlink(missing_ok=True)
        umask = os.umask(0)
        os.umask(umask)
        for path in folder.glob("*.safetensors"):  # safetensors makes them private to the user
            path.chmod(0o666 & ~umask)
        write_for_older_readers(folder)
        with checkpoints.full_disk_is_named(folder):
            checkpoints.flush_to_disk(folder)  # the checkpoints are removed now


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _by_language(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = {"perplexity": "eval_perplexity_", "loss": "eval_loss_"}
    if "eval_accuracy" in row:
        names["accuracy"] = "eval_accuracy_"
    return {k: {n[len(p) :]: v for n, v in row.items() if n.startswith(p)} for k, p in names.items()}
