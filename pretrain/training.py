"""The trainer that pretraining and fine-tuning share: packed blocks, token-weighted loss, evaluation by language."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from configs.errors import ExitCode, SettingsError
from configs.files import REPOSITORY, read_json
from configs.progress import log, rank
from configs.settings import setting
from pretrain import checkpoints
from pretrain.attention import VARLEN, as_one_row, choose_attention
from pretrain.blocks import IGNORED, Collator
from pretrain.callbacks import (
    STOP_FILE,
    CompleteCheckpointCallback,
    MetricsCallback,
    PreflightCallback,
    StopFileCallback,
    read_metrics,
)
from pretrain.launching import join_group_of_one, let_killed_builds_go
from pretrain.loss_plot import plot_losses
from pretrain.metering import Meter
from pretrain.planning import accumulation_steps


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
    attn_implementation: str | None = setting(
        None, "sdpa, flash_attention_2, flex_attention; the best that keeps documents apart on this device by default"
    )
    use_liger_kernel: bool | None = setting(None, "fused kernels; by default on GPUs where liger-kernel is installed")
    logging_nan_inf_filter: bool = setting(False, "a loss that is no number ends the run, and is not averaged away")
    ddp_find_unused_parameters: bool | None = setting(False, "every trained parameter has a gradient here")
    global_batch_size: int | None = setting(
        None, "blocks a step on all devices; gradient_accumulation_steps then follows from the number of devices"
    )
    dry_run: bool = setting(False, "print the resolved settings and the arithmetic, and stop")
    planned_gpus: int | None = setting(None, "GPUs that --dry_run plans for; by default the processes of a start here")
    planned_card: str = setting("NVIDIA A100-SXM4-80GB", "card that --dry_run plans for")
    planned_mfu: float = setting(0.4, "share of the card's peak that --dry_run reckons with")

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.bf16 is None:
            self.bf16 = native_bf16()
        if self.activation_checkpointing is None:
            alias = self.gradient_checkpointing  # transformers' older name
            on_gpus = not self.use_cpu or self.dry_run  # plans are for GPUs
            self.activation_checkpointing = on_gpus if alias is None else alias
        if self.use_liger_kernel is None:
            self.use_liger_kernel = not self.use_cpu and importlib.util.find_spec("liger_kernel") is not None
        self.attention_is_ours = self.attn_implementation is None  # then it may give way to what the model has
        if not self.dry_run:  # which may plan for another machine
            half_precision = self.bf16 or self.fp16
            self.attn_implementation = choose_attention(self.attn_implementation, self.use_cpu, half_precision)
        if self.use_cpu and "RANK" in os.environ:
            self.ddp_backend = self.ddp_backend or "gloo"
        if self.deepspeed:
            if isinstance(self.deepspeed, str) and not Path(self.deepspeed).is_file():
                self.deepspeed = str(REPOSITORY / self.deepspeed)  # configs/deepspeed/..., from another folder
            if not self.dry_run:
                join_group_of_one()
                let_killed_builds_go()
                self._join_group()
        if self.global_batch_size:  # before DeepSpeed's configuration takes the numbers over
            if self.gradient_accumulation_steps != 1:
                raise ValueError("gradient_accumulation_steps follows from global_batch_size: give one of the two")
            num_devices = 1 if self.dry_run else int(os.environ.get("WORLD_SIZE", "1"))
            self.gradient_accumulation_steps = accumulation_steps(
                self.global_batch_size, self.per_device_train_batch_size, num_devices
            )
        asked, deepspeed = self.output_dir, self.deepspeed
        if self.dry_run:  # under ZeRO 3 the plan's empty model would get weights
            self.deepspeed = None
        super().__post_init__()
        self.deepspeed = deepspeed
        self.output_dir = asked  # transformers would call an unnamed folder trainer_output; the stage names it

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = []
        if self.save_total_limit == 1:
            found.append("save_total_limit 1: wanted 2 or more, as one may be half written when a run is killed")
        zero = (read_json(self.deepspeed) if isinstance(self.deepspeed, str) else self.deepspeed or {}).get(
            "zero_optimization", {}
        )
        if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            found.append(
                "deepspeed: ZeRO 3 without stage3_gather_16bit_weights_on_model_save true would save no weights that "
                "from_pretrained loads"
            )
        return found

    def _join_group(self) -> None:
        """Have DeepSpeed meet the other ranks before a model is loaded: ZeRO 3 shares its weights out while loading."""
        import deepspeed

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
        self.evaluation, self.block_size, self.meter = evaluation, block_size, Meter()
        self._losses: list[torch.Tensor] = []  # of this step on this rank
        preflight = PreflightCallback()
        super().__init__(
            data_collator=Collator(block_size, pad_token_id),
            eval_dataset=evaluation or None,  # which `evaluate` knows itself; the Trainer wants one for --eval_strategy
            callbacks=[preflight, self.metrics_callback, self.stop_callback, CompleteCheckpointCallback()],
            **arguments,
        )
        preflight.trainer = self
        for printer in ("PrinterCallback", "ProgressCallback"):  # one line of ours instead of dictionaries
            for callback in [c for c in self.callback_handler.callbacks if type(c).__name__ == printer]:
                self.remove_callback(callback)

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
        varlen = self.args.attn_implementation.startswith(VARLEN)
        return as_one_row(inputs) if varlen else inputs

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
        """Token-weighted loss and perplexity by language over all held-out blocks, shared out over the ranks.

        Perplexity is exp of the mean loss of a token over the whole language, not a mean over blocks.
        """
        start = time.monotonic()
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
        self.meter.leave_out(time.monotonic() - start)
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
    if trainer.stop_callback.stopped:
        return "stopped", {}
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


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _by_language(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = {"perplexity": "eval_perplexity_", "loss": "eval_loss_"}
    return {k: {n[len(p) :]: v for n, v in row.items() if n.startswith(p)} for k, p in names.items()}
