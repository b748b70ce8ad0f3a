"""The settings that pretraining and fine-tuning share: transformers' own, with this repository's defaults."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from configs.files import REPOSITORY, read_json
from configs.settings import setting
from pretrain.planning import accumulation_steps
from pretrain.training.attention import choose_attention
from pretrain.training.launching import join_group_of_one, let_killed_builds_go


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
    per_device_eval_batch_size: int | None = setting(
        None, "blocks a device in evaluation; by default as many as in training, whose logits there is memory for"
    )
    logging_steps: float = setting(10, "a line of metrics every so many steps")
    save_steps: float = setting(200, "a checkpoint every so many steps")
    save_total_limit: int | None = setting(2, "complete checkpoints kept")
    report_to: str | list[str] | None = setting("tensorboard", "where metrics go beside metrics.jsonl")
    disable_tqdm: bool | None = setting(True, "no bars: one line of progress an interval")
    remove_unused_columns: bool = setting(False, "blocks are no columns")
    activation_checkpointing: bool | None = setting(None, "recompute activations in backward; by default on GPUs")
    attn_implementation: str | None = setting(
        None, "sdpa, flash_attention_2, flex_attention, sdpa_by_segment; by default the best for packed blocks here"
    )
    use_liger_kernel: bool | None = setting(None, "fused kernels; by default on GPUs where liger-kernel is installed")
    logging_nan_inf_filter: bool = setting(False, "a loss that is no number ends the run, and is not averaged away")
    ddp_find_unused_parameters: bool | None = setting(False, "every trained parameter has a gradient here")
    global_batch_size: int | None = setting(
        None, "blocks a step on all devices; gradient_accumulation_steps then follows from the number of devices"
    )
    early_stopping_patience: int | None = setting(
        None, "end after so many evaluations without a better metric_for_best_model"
    )
    hang_timeout: float | None = setting(
        None, "end the run when a process gives no sign of life for so many seconds, and name it; off by default"
    )
    dry_run: bool = setting(False, "print the resolved settings and the arithmetic, and stop")
    planned_gpus: int | None = setting(None, "GPUs that --dry_run plans for; by default the processes of a start here")
    planned_card: str = setting("NVIDIA A100-SXM4-80GB", "card that --dry_run plans for")
    planned_mfu: float = setting(0.4, "share of the card's peak that --dry_run reckons with")

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        if self.bf16 is None:
            self.bf16 = native_bf16()
        # transformers' older name, and the only one that some versions know (5.17), where it is never None.
        only_older = "activation_checkpointing" not in TrainingArguments.__dataclass_fields__
        if self.activation_checkpointing is None:
            alias = (self.gradient_checkpointing or None) if only_older else self.gradient_checkpointing
            on_gpus = not self.use_cpu or self.dry_run  # plans are for GPUs
            self.activation_checkpointing = on_gpus if alias is None else alias
        if only_older:
            self.gradient_checkpointing = self.activation_checkpointing
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
        if self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better = "accuracy" in self.metric_for_best_model  # losses, perplexities, unparsed: less
        if self.early_stopping_patience:
            self.metric_for_best_model = self.metric_for_best_model or "loss"
            self.restore_callback_states_from_checkpoint = True  # a resumed run goes on counting
        asked, deepspeed = self.output_dir, self.deepspeed
        if self.dry_run:  # under ZeRO 3 the plan's empty model would get weights
            self.deepspeed = None
        super().__post_init__()
        self.deepspeed = deepspeed
        self.output_dir = asked  # transformers would call an unnamed folder trainer_output; the stage names it

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in counts if getattr(self, name) < 1]
        if self.learning_rate is not None and not 0 <= self.learning_rate < math.inf:
            found.append(f"learning_rate {self.learning_rate}: wanted 0 or more")
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            found.append(f"num_train_epochs {self.num_train_epochs}: wanted above 0, or max_steps")
        if self.save_total_limit == 1:
            found.append("save_total_limit 1: wanted 2 or more, as one may be half written when a run is killed")
        if self.hang_timeout is not None and self.hang_timeout < 30:
            found.append(f"hang_timeout {self.hang_timeout}: wanted 30 or more, and longer than the longest saving")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            found.append(f"early_stopping_patience {self.early_stopping_patience}: wanted 1 or more")
        if self.early_stopping_patience and self.eval_strategy == "no":
            found.append("early_stopping_patience: eval_strategy is no; wanted steps or epoch, to stop at")
        deepspeed = read_json(self.deepspeed) if isinstance(self.deepspeed, str) else self.deepspeed
        zero = (deepspeed or {}).get("zero_optimization", {})
        if deepspeed and not zero.get("stage"):
            found.append(
                "deepspeed: without a ZeRO stage it updates the weights before a gradient that is not finite can be "
                "seen, and gives no gradient norm: wanted stage 1, 2 or 3, or --deepspeed none"
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

        backend = "gloo" if self.use_cpu else "nccl"
        deepspeed.init_distributed(backend, timeout=self.ddp_timeout_delta, verbose=False)
