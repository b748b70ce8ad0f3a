"""The trainer that pretraining and fine-tuning share: packed blocks, token-weighted loss, evaluation by language."""

from __future__ import annotations

import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from configs.errors import SettingsError
from configs.files import REPOSITORY
from configs.progress import log, rank
from configs.settings import setting
from pretrain import checkpoints
from pretrain.blocks import IGNORED, Collator
from pretrain.callbacks import STOP_FILE, CompleteCheckpointCallback, MetricsCallback, StopFileCallback, read_metrics
from pretrain.launching import join_group_of_one, let_killed_builds_go


def native_bf16() -> bool:
    """Whether bfloat16 is fast here: any recent GPU, and CPUs with AVX512-BF16 or AMX. Others emulate it, slowly."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass
class TrainSettings(TrainingArguments):
    """transformers.TrainingArguments with the defaults of this repository; all other names are as users know them."""

    output_dir: str | None = setting(None, "folder of the run; runs/STAGE/NAME by default")
    bf16: bool | None = setting(None, "bfloat16; by default where the device has it, float32 elsewhere")
    lr_scheduler_type: str = setting("cosine", "learning rate schedule")
    warmup_steps: float = setting(0.01, "warm-up, in steps, or below 1 as a share of them")
    max_grad_norm: float = setting(1.0, "gradient clipping")
    logging_steps: float = setting(10, "a line of metrics every so many steps")
    save_steps: float = setting(200, "a checkpoint every so many steps")
    save_total_limit: int | None = setting(2, "complete checkpoints kept")
    report_to: str | list[str] | None = setting("tensorboard", "where metrics go beside metrics.jsonl")
    disable_tqdm: bool | None = setting(True, "no bars: one line of progress an interval")
    remove_unused_columns: bool = setting(False, "blocks are no columns")
    activation_checkpointing: bool | None = setting(None, "recompute activations in backward; by default on GPUs")
    ddp_find_unused_parameters: bool | None = setting(False, "every trained parameter has a gradient here")
    dry_run: bool = setting(False, "print the resolved settings and the arithmetic, and stop")

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.bf16 is None:
            self.bf16 = native_bf16()
        if self.activation_checkpointing is None:
            self.activation_checkpointing = not self.use_cpu
        if self.use_cpu and "RANK" in os.environ:
            self.ddp_backend = self.ddp_backend or "gloo"
        if self.deepspeed:
            if isinstance(self.deepspeed, str) and not Path(self.deepspeed).is_file():
                self.deepspeed = str(REPOSITORY / self.deepspeed)  # configs/deepspeed/..., from another folder
            join_group_of_one()
            let_killed_builds_go()
            self._join_group()
        asked = self.output_dir
        super().__post_init__()
        self.output_dir = asked  # transformers would call an unnamed folder trainer_output; the stage names it

    def _join_group(self) -> None:
        """Have DeepSpeed meet the other ranks before a model is loaded: ZeRO 3 shares its weights out while loading."""
        import deepspeed

        if not self.dry_run:
            deepspeed.init_distributed(dist_backend="gloo" if self.use_cpu else "nccl", verbose=False)


class PackedTrainer(Trainer):
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
        self.evaluation, self.block_size, self.num_targets_seen = evaluation, block_size, 0
        super().__init__(
            data_collator=Collator(block_size, pad_token_id),
            callbacks=[self.metrics_callback, self.stop_callback, CompleteCheckpointCallback()],
            **arguments,
        )
        self.metrics_callback.trainer = self
        for printer in ("PrinterCallback", "ProgressCallback"):  # one line of ours instead of dictionaries
            for callback in [c for c in self.callback_handler.callbacks if type(c).__name__ == printer]:
                self.remove_callback(callback)

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One forward and backward; counts the tokens that have a label."""
        self.num_targets_seen += int((inputs["labels"] != IGNORED).sum())
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Token-weighted loss and perplexity by language over all held-out blocks, shared out over the ranks.

        Perplexity is exp of the mean loss of a token over the whole language, not a mean over blocks.
        """
        model = self.model_wrapped if self.model_wrapped is not None else self.model
        was_training = model.training
        model.eval()
        metrics: dict[str, float] = {}
        total = torch.zeros(2, dtype=torch.float64)
        for lang, blocks in self.evaluation.items():
            sums = self._sum_losses(model, blocks)
            total += sums
            if not sums[1]:  # only documents of one token, which nothing predicts
                continue
            metrics[f"eval_loss_{lang}"] = (sums[0] / sums[1]).item()
            metrics[f"eval_perplexity_{lang}"] = math.exp(min(50.0, (sums[0] / sums[1]).item()))
        if total[1]:
            metrics["eval_loss"] = (total[0] / total[1]).item()
        model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
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
            inputs = {name: value.to(self.args.device) for name, value in self.data_collator(items).items()}
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
    if trainer.stop_callback.stopped:
        return "stopped", {}
    trainer.evaluate()
    rows = read_metrics(output_dir / "metrics.jsonl") if rank() == 0 else []
    evaluated = [row for row in rows if "eval_loss" in row]
    speed = "target_tokens_per_second"
    return "finished", {
        "num_steps": trainer.state.global_step,
        "train_loss": _mean([row["loss"] for row in rows if "loss" in row]),
        "target_tokens_per_second": _median([row[speed] for row in rows if speed in row]),
        "before": _by_language(evaluated[0]) if evaluated else {},
        "after": _by_language(evaluated[-1]) if evaluated else {},
    }


def save_result(trainer: PackedTrainer) -> None:
    """Save weights and tokenizer in the run's folder, without the pickle of arguments that transformers adds."""
    trainer.save_model(trainer.args.output_dir)
    (Path(trainer.args.output_dir) / "training_args.bin").unlink(missing_ok=True)


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _by_language(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = {"perplexity": "eval_perplexity_", "loss": "eval_loss_"}
    return {k: {n[len(p) :]: v for n, v in row.items() if n.startswith(p)} for k, p in names.items()}
