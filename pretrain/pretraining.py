"""The work of train.py: settings to a pretrained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.errors import FailedItems, SettingsError
from configs.files import fingerprint, read_json
from configs.progress import log, rank
from configs.settings import setting
from pretrain.models import (
    attention_of,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
    refuse_adapter,
)
from pretrain.planning import beyond_positions, check_block_size, plan_pretraining
from pretrain.token_blocks.blocks import TokenBlocks
from pretrain.token_blocks.tokenizing import tokenizer_hash
from pretrain.training.attention import can_be_packed
from pretrain.training.running import already_done, run_training
from pretrain.training.train_settings import TrainSettings
from pretrain.training.trainer import PackedTrainer

# What the output depends on, of all settings: how often a line is logged is not among them.
_IDENTITY = [
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
    "deepspeed",
    "lr_scheduler_kwargs",
    "optim_args",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "optim",
]
# And these, where the result is one of several checkpoints or training may end early.
_SELECTION = [
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
]


@dataclass
class PretrainArguments(TrainSettings):
    """Published settings (MMedLM, section "Training Details"): AdamW, 2e-5, cosine, weight decay 0.01, warm-up 1 %."""

    learning_rate: float = setting(2e-5, "highest learning rate")
    weight_decay: float = setting(0.01, "weight decay")
    per_device_train_batch_size: int = setting(8, "blocks a device and micro-batch")
    num_train_epochs: float = setting(1.0, "passes over the blocks, where max_steps is not given")
    deepspeed: dict | str | None = setting("configs/deepspeed/zero2.json", "DeepSpeed configuration")


def training_identity(args: TrainSettings, **more: Any) -> dict[str, Any]:
    """What a trained model depends on: the settings that matter, and what the caller adds (data, model)."""
    values = {name: getattr(args, name) for name in _IDENTITY}
    if isinstance(args.deepspeed, str):
        values["deepspeed"] = fingerprint(read_json(args.deepspeed))
    if args.load_best_model_at_end or args.early_stopping_patience:
        values["selection"] = {name: getattr(args, name) for name in _SELECTION}
    values["global_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {**values, **more}


def pretrain(settings: Any, args: PretrainArguments, data: Path | None) -> int:
    """Train on the blocks in `data`, which only a dry run can do without; returns the exit code."""
    if args.dry_run:
        print(plan_pretraining(settings, args, data))
        return 0
    assert data is not None
    model_path = find_model(settings.model_name_or_path)
    refuse_adapter(model_path)
    config, _ = load_config(model_path)
    if not can_be_packed(config.model_type):
        raise SettingsError(
            "documents of one block would see each other in this architecture",
            where=model_path,
            found=f"{config.model_type}, whose layers do not begin anew where positions do",
            wanted="attention with rotary or learned positions in every layer",
            todo="another base model; such models can be fine-tuned (an example a block), not pretrained here",
        )
    blocks = TokenBlocks(data, verify=rank() == 0)
    tokenizer = load_tokenizer(model_path)
    blocks.check_tokenizer(tokenizer_hash(tokenizer), model_path)
    check_block_size(settings.block_size, blocks.block_size, data)
    identity = training_identity(args, data=fingerprint(blocks.index), model=model_identity(model_path))
    if rank() == 0:
        log.info(f"token blocks {data}, model {model_path}")
        if warning := beyond_positions(config, blocks.block_size):
            log.warning(f"WARNING {warning}")
    done = already_done(args, "pretrain", Path(model_path).name, identity)
    if done is not None:
        return done

    if args.attention_is_ours:
        args.attn_implementation = attention_of(model_path, args.attn_implementation)

    def make_trainer() -> PackedTrainer:
        return PackedTrainer(
            model=load_model(model_path, torch.float32, args.attn_implementation),
            args=args,
            train_dataset=blocks.split("train"),
            evaluation={lang: blocks.split(f"validation.{lang}") for lang in blocks.validation_languages},
            block_size=blocks.block_size,
            pad_token_id=tokenizer.pad_token_id,
            processing_class=tokenizer,
            label="pretrain",
        )

    found = {"data": str(data), "model_name_or_path": model_path}
    described = {**records.plain(settings), **args.to_dict(), **found}
    result = {**found, "block_size": blocks.block_size}
    return run_training(args, "pretrain", identity, described, make_trainer, result, FailedItems())
