"""What is looked at before the first step, and not found out after hours: GPUs, disk, ranks, data, a step."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from configs.errors import EnvironmentFailure, SettingsError
from configs.progress import log
from pretrain.token_blocks.blocks import IGNORED
from pretrain.training import checkpoints

SHARE_OF_A_FREE_GPU = 0.8  # of its memory; the rest may be a desktop's or this process's own context
# A checkpoint's bytes a trained parameter: weights of at most 4, float32 master weights, AdamW's two moments.
_BYTES_TRAINED, _BYTES_FROZEN = 16, 4


def check(trainer: Any) -> None:
    """All of it, on every rank, once the model is on its device and a checkpoint, if there is one, is loaded.

    Raises:
        EnvironmentFailure: a GPU is missing or in use, or the disk too full.
    """
    meet()
    if trainer.args.save_strategy != "no":
        check_disk(Path(trainer.args.output_dir), checkpoint_bytes(trainer.model), trainer.args.save_total_limit)
    num_blocks = read_every_source(trainer.train_dataset)
    seconds = dry_step(trainer)
    log.info(
        f"ready: room for checkpoints, {num_blocks} blocks read from every source, a step tried in {seconds:.1f} s; "
        f"attention {trainer.args.attn_implementation}"
    )


def check_gpus(on_cpu: bool) -> None:
    """Refuse to start where Slurm gave more GPUs than torch sees, or where somebody else is using this rank's.

    A torch that was built without CUDA trains on processors, whatever Slurm gave, and says so.

    Args:
        on_cpu: the run uses no GPU, so that others may use them all.

    Raises:
        EnvironmentFailure: saying which, on which node.
    """
    given = os.environ.get("SLURM_GPUS_ON_NODE", "")
    found = torch.cuda.device_count()
    too_few = given.isdigit() and int(given) > found and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if too_few and not torch.version.cuda:
        log.warning(f"{socket.gethostname()}: Slurm gave {given} GPUs, and this torch, built without CUDA, uses none")
    elif too_few:
        raise EnvironmentFailure(
            "torch does not see the GPUs that Slurm gave the job",
            where=socket.gethostname(),
            found=f"{found} GPUs",
            wanted=given,
            todo="compare nvidia-smi on this node with torch.version.cuda; with CUDA_VISIBLE_DEVICES= none is used",
        )
    if not found or on_cpu:
        return
    device = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(device)
    if free < SHARE_OF_A_FREE_GPU * total:
        raise EnvironmentFailure(
            "a GPU is in use by another process",
            where=f"{socket.gethostname()}, GPU {device} ({torch.cuda.get_device_name(device)})",
            found=f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
            wanted=f"{SHARE_OF_A_FREE_GPU:.0%} of them",
            todo="nvidia-smi names the process; end it, or leave this GPU out with CUDA_VISIBLE_DEVICES",
        )


def checkpoint_bytes(model: Any) -> int:
    """About the size of one checkpoint: all weights, and the optimizer's state of those that are trained."""
    sizes = [(getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for weight in model.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    adapter_only = hasattr(model, "peft_config")  # of an adapter's checkpoint the base model is no part
    frozen = 0 if adapter_only else sum(size for size, is_trained in sizes if not is_trained)
    return _BYTES_TRAINED * trained + _BYTES_FROZEN * frozen


def check_disk(output_dir: Path, num_bytes: int, save_total_limit: int | None) -> None:
    """Refuse to start without room for the checkpoints that will lie there at once.

    A new one is written before the oldest is removed; those that are there already have their room.

    Args:
        output_dir: folder of the run.
        num_bytes: size of one checkpoint.
        save_total_limit: complete checkpoints kept; None keeps all, of which the next two are reckoned with.

    Raises:
        EnvironmentFailure: with the room found and wanted.
    """
    kept = save_total_limit or 1
    wanted = num_bytes * max(1, kept + 1 - checkpoints.num_complete(output_dir))
    free = shutil.disk_usage(output_dir).free
    if free < wanted:
        raise EnvironmentFailure(
            "there is too little room for checkpoints",
            where=output_dir,
            found=f"{free / 2**30:,.2f} GiB free",
            wanted=f"{wanted / 2**30:,.2f} GiB, as {kept} of {num_bytes / 2**30:,.2f} stay while the next is written",
            todo="make room, or give an --output_dir on another disk; then the same command",
        )


def meet() -> None:
    """Have all ranks meet, and say where they are. A rank that does not come ends the wait with torch's own error."""
    if not torch.distributed.is_initialized():
        return
    hosts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(hosts, os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    nodes = ", ".join(f"{count} on {host}" for host, count in Counter(hosts).items())
    log.info(f"{len(hosts)} ranks met: {nodes}")


def read_every_source(dataset: Any) -> int:
    """Read blocks in which every source occurs, as far as the data knows its sources; returns how many were read."""
    indices = dataset.one_of_each_source() if hasattr(dataset, "one_of_each_source") else [0]
    return sum(1 for index in indices if dataset[index])


def dry_step(trainer: Any) -> float:
    """Forward and backward of one batch, leaving no trace; returns the seconds it took.

    The gradient is taken with respect to the embedded tokens, through every layer: no weight gets one, so the hooks of
    DDP and ZeRO, which would reduce and keep it, are never called, and no optimizer or counter sees this batch. Random
    states are put back. The memory of weight gradients is therefore the one thing it does not try.

    Only the last segment's labels count, so that every other token's gradient is zero, unless attention or a recurrent
    state crosses from one document to the next.

    Raises:
        SettingsError: it does, in this architecture or by this attention on this device.
    """
    start = time.monotonic()
    dataset, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    batch = trainer.data_collator([dataset[index % len(dataset)] for index in range(size)])
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model, embedded = trainer.model, []  # not the wrapped one: a ZeRO engine would begin to reduce gradients

    def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output if output.requires_grad else output.requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=devices), trainer.compute_loss_context_manager():
            inputs = trainer._prepare_inputs(batch)
            labels = inputs["labels"]
            segments = (inputs["position_ids"] == 0).flatten().cumsum(0).view_as(labels)
            others = segments != segments.masked_fill(labels == IGNORED, 0).amax()
            loss = model(**{**inputs, "labels": labels.masked_fill(others, IGNORED)}, use_cache=False).loss
            gradient = torch.autograd.grad(loss, embedded)[0]
    finally:
        hook.remove()
        model.train(was_training)
    of_experts = getattr(model.config.get_text_config(), "output_router_logits", False)  # a loss of all tokens, too
    if not of_experts and (gradient[others].abs() > 0).any():
        raise SettingsError(
            "documents of one block see each other in this model",
            where=f"{model.config.model_type}, attention {trainer.args.attn_implementation}",
            found="a loss that depends on another document's tokens",
            wanted="layers that begin anew where positions do",
            todo="try --attn_implementation sdpa; else another base model",
        )
    return time.monotonic() - start
