"""The work of train.py: settings to a pretrained model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.files import fingerprint, read_json
from configs.progress import duration, log, rank
from configs.settings import setting
from pretrain.blocks import TokenBlocks
from pretrain.checkpoints import remove_all
from pretrain.launching import code_when_stopped, leave_group
from pretrain.models import find_model, load_model, load_tokenizer, model_identity, refuse_adapter
from pretrain.tokenizing import tokenizer_hash
from pretrain.training import PackedTrainer, TrainSettings, prepare_to_start, save_result, train

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


@dataclass
class PretrainArguments(TrainSettings):
    """Published settings (MMedLM, section "Training Details"): AdamW, 2e-5, cosine, weight decay 0.01, warm-up 1 %."""

    learning_rate: float = setting(2e-5, "highest learning rate")
    weight_decay: float = setting(0.01, "weight decay")
    per_device_train_batch_size: int = setting(8, "blocks a device and micro-batch")
    per_device_eval_batch_size: int = setting(8, "blocks a device in evaluation")
    num_train_epochs: float = setting(1.0, "passes over the blocks, where max_steps is not given")
    deepspeed: dict | str | None = setting("configs/deepspeed/zero2.json", "DeepSpeed configuration")


def training_identity(args: TrainSettings, **more: Any) -> dict[str, Any]:
    """What a trained model depends on: the settings that matter, and what the caller adds (data, model)."""
    values = {name: getattr(args, name) for name in _IDENTITY}
    if isinstance(args.deepspeed, str):
        values["deepspeed"] = fingerprint(read_json(args.deepspeed))
    values["global_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {**values, **more}


def arithmetic(args: TrainSettings, num_blocks: int, num_tokens: int, block_size: int, model: str) -> str:
    """Steps, tokens, and memory of the run as text, without loading the model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
    num_parameters = sum(p.numel() for p in empty.parameters())
    blocks_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = args.max_steps if args.max_steps > 0 else int(-(-num_blocks // blocks_per_step) * args.num_train_epochs)
    # bf16 weights and gradients, float32 master weights and two AdamW moments: 16 bytes a parameter before sharding.
    gib = 16 * num_parameters / 2**30
    num_tokens_trained = steps * blocks_per_step * block_size
    seconds = 6 * num_parameters * num_tokens_trained / (args.world_size * 0.4 * 312e12)
    return "\n".join(
        [
            f"model {model}: {num_parameters / 1e6:,.1f} M parameters",
            f"data: {num_blocks:,} blocks of {block_size} tokens, {num_tokens:,} tokens",
            f"step: {args.world_size} devices x {args.per_device_train_batch_size} x "
            f"{args.gradient_accumulation_steps} = {blocks_per_step} blocks, {blocks_per_step * block_size:,} tokens",
            f"run: {steps:,} steps, {num_tokens_trained:,} tokens, "
            f"{steps * blocks_per_step / max(1, num_blocks):.2f} epochs",
            f"weights, gradients, optimizer: {gib:.1f} GiB in all, {gib / args.world_size:.1f} GiB a device when "
            "ZeRO 3 shards them, activations beside",
            f"time: {duration(seconds)} on A100s of this number at 40 % MFU",
        ]
    )


def pretrain(settings: Any, args: PretrainArguments, data: Path) -> int:
    """Train on the blocks in `data`; returns the exit code."""
    model_path = find_model(settings.model_name_or_path)
    refuse_adapter(model_path)
    blocks = TokenBlocks(data, verify=rank() == 0 and not args.dry_run)
    tokenizer = load_tokenizer(model_path)
    blocks.check_tokenizer(tokenizer_hash(tokenizer), model_path)
    identity = training_identity(args, data=fingerprint(blocks.index), model=model_identity(model_path))
    name = Path(model_path).name
    args.output_dir = args.output_dir or str(records.RUNS / "pretrain" / f"{name}-{fingerprint(identity)[:8]}")
    if rank() == 0:
        log.info(f"token blocks {data}, model {model_path}, output {args.output_dir}")
    train_split = blocks.index["splits"]["train"]
    if args.dry_run:
        print(arithmetic(args, train_split["num_blocks"], train_split["num_tokens"], blocks.block_size, model_path))
        return 0
    done = records.already_done(Path(args.output_dir), identity)
    if done:
        log.info(f"already done: {args.output_dir}")
        leave_group()
        return records.exit_code(done)
    described = {**records.plain(settings), **args.to_dict(), "data": str(data), "model_name_or_path": model_path}
    with recorded(args.output_dir, "pretrain", described, identity) as record:
        checkpoint = prepare_to_start(args)
        evaluation = {lang: blocks.split(f"validation.{lang}") for lang in blocks.validation_languages}
        trainer = PackedTrainer(
            model=load_model(model_path, torch.float32, settings.attn_implementation),
            args=args,
            train_dataset=blocks.split("train"),
            evaluation=evaluation,
            block_size=blocks.block_size,
            pad_token_id=tokenizer.pad_token_id,
            processing_class=tokenizer,
            label="pretrain",
        )
        status, result = train(trainer, checkpoint)
        if status == "finished":
            save_result(trainer)
        if rank() == 0:
            record.finish(status, data=str(data), model_name_or_path=model_path, block_size=blocks.block_size, **result)
        leave_group()
        if status == "finished" and rank() == 0:
            remove_all(Path(args.output_dir))
            print(args.output_dir)
    return code_when_stopped() if status == "stopped" else 0


def recorded(output_dir: str, stage: str, settings: dict[str, Any], identity: dict[str, Any]) -> Any:
    """The run record as a context on rank 0, nothing on the others."""
    return records.run_record(Path(output_dir), stage, settings, identity) if rank() == 0 else nullcontext()
