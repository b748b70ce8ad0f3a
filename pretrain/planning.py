"""The arithmetic of a training run, without weights, data or a GPU: parameters, memory a GPU, steps, tokens, days."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError, SettingsError
from configs.files import read_json
from configs.progress import duration
from pretrain.models import empty_model, find_model, load_config, load_tokenizer, refuse_adapter
from pretrain.throughput import CARDS, flops_per_token, head_dim
from pretrain.token_blocks.blocks import TokenBlocks
from pretrain.token_blocks.tokenizing import tokenizer_hash
from pretrain.training.launching import count_processes

GIB = 2**30
# What is on a GPU beside the terms below, in GiB: CUDA and NCCL, DeepSpeed's communication buckets (two of 5e8 bfloat16
# elements), fragments. Assumed, not measured.
RESERVE_GIB = 4.0


@dataclass(frozen=True)
class Load:
    """What of a training run decides its memory and time.

    Attributes:
        config: the model's transformers configuration.
        num_parameters, num_trained: all of the model's weights, and those that are trained (fewer with LoRA).
        micro_batch_size, block_size: blocks a device and micro-batch; tokens a block.
        bf16: bfloat16 weights beside float32 masters in the optimizer; float32 weights alone otherwise.
        checkpointing: recompute each layer's activations in backward.
        fused_loss: the loss is taken in chunks and the logits are never there as a whole (liger's kernel).
        offload_optimizer, offload_weights: kept in the machine's memory and not on the GPU.
        bf16_gradients: beside bfloat16 weights a step's gradients are summed in bfloat16, DeepSpeed's default, and not
            in float32, as configs/deepspeed/ has it.
    """

    config: Any
    num_parameters: int
    num_trained: int
    micro_batch_size: int
    block_size: int
    bf16: bool
    checkpointing: bool
    fused_loss: bool = False
    offload_optimizer: bool = False
    offload_weights: bool = False
    bf16_gradients: bool = False


def accumulation_steps(global_batch_size: int, per_device_batch_size: int, num_devices: int) -> int:
    """Micro-batches a step, so that a step has `global_batch_size` blocks whatever the number of devices.

    Raises:
        ValueError: the devices cannot share such a batch out evenly.
    """
    steps, rest = divmod(global_batch_size, per_device_batch_size * num_devices)
    if rest or not steps:
        fitting = [n for n in range(1, per_device_batch_size) if global_batch_size % (n * num_devices) == 0]
        raise ValueError(
            f"global_batch_size {global_batch_size} is no multiple of per_device_train_batch_size "
            f"{per_device_batch_size} x {num_devices} devices; "
            + (f"per_device_train_batch_size {fitting[-1]} would do" if fitting else "give another number of devices")
        )
    return steps


def activation_bytes(load: Load) -> dict[str, float]:
    """Bytes of activations a micro-batch needs at its peak: `kept` between layers, one layer's `working` set, `logits`.

    Counted from transformers' decoder layers with gated feed-forward and fused attention (flash, memory-efficient or
    SDPA without a materialised score matrix), in elements of 2 bytes (bf16; 4 otherwise), a token:

    - between layers, with checkpointing: the layer's input, hidden_size;
    - a layer: norms, residuals and their float32 copies 10 hidden_size, queries, keys and values (repeated for all
      query heads) and output 4 heads x head_dim, feed-forward 4 intermediate_size;
    - gradients on their way through a layer: 3 intermediate_size + hidden_size;
    - logits: float32 log-probabilities and two gradients of them, 12 bytes an entry of the vocabulary.

    The logits are gone before the first layer is recomputed, so the larger of `working` and `logits` counts.
    `tests/test_planning.py` compares it with what a real backward pass allocates.
    """
    config, num_tokens = load.config, load.micro_batch_size * load.block_size
    element = 2 if load.bf16 else 4
    heads = config.num_attention_heads * head_dim(config)
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # BLOOM does not say
    layer = element * (10 * config.hidden_size + 4 * heads + 4 * intermediate)
    gradients = element * (3 * intermediate + config.hidden_size)
    between = element * config.hidden_size if load.checkpointing else layer
    logits = 12.0 * (config.hidden_size if load.fused_loss else config.vocab_size)
    return {
        "kept": between * config.num_hidden_layers * num_tokens,
        "working": (gradients + (layer if load.checkpointing else 0)) * num_tokens,
        "logits": logits * num_tokens,
    }


def memory_gib(load: Load, zero_stage: int, num_gpus: int) -> dict[str, float]:
    """GiB a GPU by use. The states of the model follow ZeRO (Rajbhandari et al. 2020, section 3 and figure 1).

    A trained weight has 2 bytes (bf16), its gradient 4 (with `bf16_gradients`, as in the paper, 2) and its optimizer
    state 12: float32 master weight and AdamW's two moments. Stage 1 shares the optimizer states out over the GPUs, 2
    the gradients too, 3 the weights too. Without bf16 it is 4, 4 and 8. Stage 0 is training without DeepSpeed: float32
    weights, which autocast copies to bf16, and DistributedDataParallel's copy of the gradients.
    """
    frozen = load.num_parameters - load.num_trained
    trained = load.num_trained
    if zero_stage:
        weights = 2 * load.num_parameters if load.bf16 else 4 * load.num_parameters
        gradients = (2 if load.bf16_gradients else 4) * trained
        optimizer = (12 if load.bf16 else 8) * trained
    else:
        weights = frozen * (2 if load.bf16 else 4) + trained * (6 if load.bf16 else 4)
        gradients, optimizer = 4 * trained * (1 if num_gpus == 1 else 2), 8 * trained
    shared = [num_gpus if zero_stage >= stage else 1 for stage in (3, 2, 1)]
    if load.offload_weights and zero_stage == 3:
        weights = 0
    if load.offload_optimizer and zero_stage:
        optimizer = 0
        # Once shared out they follow the optimizer, but stage 2 sums them on the GPU where that is not their own type.
        if zero_stage == 3 or (zero_stage == 2 and (load.bf16_gradients or not load.bf16)):
            gradients = 0
    activations = activation_bytes(load)
    return {
        "weights": weights / shared[0] / GIB,
        "gradients": gradients / shared[1] / GIB,
        "optimizer": optimizer / shared[2] / GIB,
        "kept": activations["kept"] / GIB,
        "layer or logits": max(activations["working"], activations["logits"]) / GIB,
        "reserve": RESERVE_GIB,
    }


def find_card(name: str) -> tuple[str, Any]:
    """The card that `name` names as torch does, with or without the maker; else the first that begins so (A100, H100).

    Raises:
        SettingsError: none is called so.
    """
    names = {known: (known, known.partition(" ")[2]) for known in CARDS}
    for fits in (str.__eq__, str.startswith):  # an L4 is no L40S
        for known, (whole, without_maker) in names.items():
            if fits(whole, name) or fits(without_maker, name):
                return known, CARDS[known]
    raise SettingsError(
        "the card is not in the table",
        where="planned_card",
        found=name,
        wanted=", ".join(CARDS),
        todo="give one of these",
    )


def zero_stage_of(deepspeed: Any) -> tuple[int, bool, bool, bool]:
    """ZeRO stage of a DeepSpeed configuration (file, mapping or none); whether it offloads optimizer, weights; and
    whether it leaves the sum of gradients in the type of the weights."""
    if not deepspeed:
        return 0, False, False, False
    content = read_json(deepspeed) if isinstance(deepspeed, (str, Path)) else deepspeed
    zero = content.get("zero_optimization", {})
    offloads = [zero.get(name, {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")]
    left = content.get("data_types", {}).get("grad_accum_dtype") != "fp32"
    return int(zero.get("stage", 0)), offloads[0], offloads[1], left


def plan(args: Any, model: Any, name: str, block_size: int, num_blocks: int, data: str) -> str:
    """The plan of a run as text: what --dry_run of both training stages prints.

    Args:
        args: the stage's TrainSettings.
        model: the model to train, its weights on the meta device (`models.empty_model`), frozen ones marked as such.
        name: what to call the model.
        block_size: tokens a block.
        num_blocks: training blocks of one epoch; 0 when unknown, which wants args.max_steps.
        data: what to call the data.
    """
    here = count_processes()
    num_gpus = args.planned_gpus or here[0] * here[1]
    accumulation = args.gradient_accumulation_steps
    if args.global_batch_size:
        try:
            accumulation = accumulation_steps(args.global_batch_size, args.per_device_train_batch_size, num_gpus)
        except ValueError as error:
            raise SettingsError("the batch cannot be shared out", found=error, todo="change one of them") from None
    blocks_per_step = num_gpus * args.per_device_train_batch_size * accumulation
    steps = args.max_steps
    if steps <= 0:
        steps = math.ceil(-(-num_blocks // blocks_per_step) * args.num_train_epochs)
    if steps <= 0:
        raise SettingsError("there is not one step to plan for", where=data, todo="give more data or tokens")
    num_tokens = steps * blocks_per_step * block_size
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    num_parameters = sum(size for size, _ in sizes)
    num_trained = sum(size for size, requires_grad in sizes if requires_grad)
    stage, offload_optimizer, offload_weights, left = zero_stage_of(args.deepspeed)
    load = Load(
        model.config,
        num_parameters,
        num_trained,
        args.per_device_train_batch_size,
        block_size,
        bool(args.bf16),
        bool(args.activation_checkpointing),
        bool(args.use_liger_kernel),
        offload_optimizer,
        offload_weights,
        bf16_gradients=bool(args.bf16) and left,
    )
    card_name, card = find_card(args.planned_card)
    if not 0 < args.planned_mfu <= 1:
        raise SettingsError(
            "no such MFU", where="planned_mfu", found=args.planned_mfu, wanted="0 to 1", todo="give one"
        )
    flops = flops_per_token(model, block_size)
    seconds = flops * num_tokens / (num_gpus * args.planned_mfu * card.tflops * 1e12)
    trained = f", {num_trained:,} of them trained" if num_trained != num_parameters else ""
    epochs = f", {steps * blocks_per_step / num_blocks:.2f} epochs" if num_blocks else ""
    lines = [
        f"model  {name}: {model.config.model_type}, {num_parameters:,} parameters{trained}",
        f"data   {data}",
        f"step   {num_gpus} devices x {args.per_device_train_batch_size} blocks x {accumulation} micro-batches = "
        f"{blocks_per_step:,} blocks of {block_size:,} = {blocks_per_step * block_size:,} tokens",
        f"run    {steps:,} steps, {num_tokens:,} tokens{epochs}",
        *_memory_lines(load, stage, num_gpus, card_name, card),
        f"time   {duration(seconds)} ({seconds / 86400:,.1f} days) on {num_gpus} x {card_name} at "
        f"{100 * args.planned_mfu:g} % MFU: {num_tokens / seconds / num_gpus:,.0f} tokens/s a GPU, "
        f"{flops / 1e9:,.1f} GFLOP a token, peak {card.tflops:g} TFLOP/s",
    ]
    if here[0] * here[1] != num_gpus:
        lines.append(f"here   a start would have {here[0]} x {here[1]} processes (--planned_gpus none plans for them)")
    return "\n".join(lines)


def _memory_lines(load: Load, stage: int, num_gpus: int, card_name: str, card: Any) -> list[str]:
    """The table of memory by ZeRO stage, and whether the stage that is set fits the card."""
    rows = {each: memory_gib(load, each, num_gpus) for each in range(4)}
    names = list(rows[0])
    widths = [max(9, len(name)) for name in names]
    lines = ["memory a GPU, GiB", "  ZeRO  " + "  ".join(map(str.rjust, names, widths)) + "      total"]
    for each, row in rows.items():
        cells = "  ".join(f"{value:.1f}".rjust(width) for value, width in zip(row.values(), widths, strict=True))
        lines.append(f"  {each}{'*' if each == stage else ' '}    {cells}  {sum(row.values()):9.1f}")
    if load.offload_optimizer or load.offload_weights:
        # Float32 master weights, moments, gradients, and what stage 3 sums these in or 2 sends back; bfloat16 weights.
        optimizer = 16 + (4 if stage == 3 and not load.bf16_gradients else 2)
        moved = (optimizer * load.offload_optimizer + 2 * load.offload_weights) * load.num_trained / GIB
        lines.append(f"  in the nodes' memory, all together: {moved:,.1f} GiB")
    total = sum(rows[stage].values())
    if total <= card.gib:
        return [*lines, f"fits   ZeRO {stage} takes {total:.1f} of {card.gib} GiB ({card_name})"]
    cures = [f"ZeRO {each}" for each in range(stage + 1, 4) if sum(rows[each].values()) <= card.gib][:1]
    largest = max(rows[stage], key=rows[stage].get)
    if largest == "kept" and not load.checkpointing:
        cures.append("activation_checkpointing")
    cures.append("a smaller per_device_train_batch_size" if largest in ("kept", "layer or logits") else "more GPUs")
    takes = f"ZeRO {stage} takes {total:.1f} of {card.gib} GiB ({card_name})"
    return [*lines, f"DOES NOT FIT: {takes}; try {', or '.join(cures)}"]


def plan_pretraining(settings: Any, args: Any, data: Path | None) -> str:
    """The plan of a pretraining run.

    The model is the one that a start would load; where it is not on this machine, the settings' `architecture`. With
    it here, the data are checked as at a start; without data the plan goes by max_steps or planned_tokens.

    Raises:
        MissingInputError: there are neither token blocks nor a number of steps or tokens to plan for.
        SettingsError: the blocks do not fit the model or the settings.
    """
    name = settings.model_name_or_path
    refuse_adapter(name or "")
    config, is_here = load_config(name, settings.architecture)
    name = find_model(name) if is_here else name
    block_size, num_blocks = settings.block_size, 0
    if data is not None and (is_here or settings.data):
        blocks = TokenBlocks(data, verify=False)
        if is_here:
            blocks.check_tokenizer(tokenizer_hash(load_tokenizer(name)), name)
        check_block_size(settings.block_size, blocks.block_size, data)
        block_size, split = blocks.block_size, blocks.index["splits"]["train"]
        num_blocks = split["num_blocks"]
        described = f"{data}: {num_blocks:,} blocks of {block_size:,} tokens, {split['num_tokens']:,} tokens"
    else:
        block_size = block_size or min(2048, config.max_position_embeddings)
        described = "none given"
        if settings.planned_tokens:
            num_blocks = round(settings.planned_tokens / block_size)
            described += f": planned for {settings.planned_tokens / 1e9:g} billion tokens"
        elif args.max_steps <= 0:
            raise MissingInputError(
                "there is no length of the run to plan for",
                where="pretrain/train.py --dry_run",
                found="no token blocks, no max_steps, no planned_tokens",
                todo="give --data, --max_steps or --planned_tokens",
            )
    if warning := beyond_positions(config, block_size):
        described += f"\nWARNING {warning}"
    return plan(args, empty_model(config), name or "", block_size, num_blocks, described)


def beyond_positions(config: Any, block_size: int) -> str:
    """What is to be said of blocks with more tokens than the model was trained to read at once; empty of others."""
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    if known is None or block_size <= known:
        return ""
    return f"the model was trained to {known:,} positions only, of {block_size:,} in a block"


def check_block_size(wanted: int | None, found: int, where: Path) -> None:
    """Refuse blocks of another size than the settings are for.

    Raises:
        SettingsError: showing both.
    """
    if wanted and wanted != found:
        raise SettingsError(
            "the token blocks have another size than the settings want",
            where=where,
            found=f"{found} tokens a block",
            wanted=wanted,
            todo=f"prepare the blocks again with --block_size {wanted}, or train with --block_size {found}",
        )
