"""Where the time of a training step goes: kernels by kind, and the gaps in which the device waits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from scripts.bench.gpu.materials import GpuBenchSettings, make_blocks, make_model
from scripts.bench.gpu.measures import Measure

# The first that a kernel's name holds.
_KINDS = {
    "attention": r"flash|fmha|flex|attention|sdpa",
    "loss": r"cross_entropy|nll|softmax|logsumexp",
    "optimizer": r"multi_tensor|adam|adafactor|foreach|lamb",
    "matrix products": r"gemm|nvjet|cutlass|cublas|mm_|matmul|::mm|::addmm|::bmm|linear",
    "copies": r"memcpy|memset|copy|cat",
    "norms, activations, sums": "",
}


def profiling(settings: GpuBenchSettings) -> Mapping[str, Measure]:
    """The measures of the part."""
    return {"1.8b, 2048": partial(profile_steps, settings, "mmedlm2_1.8b", 2048, 16)}


def profile_steps(settings: GpuBenchSettings, shape: str, block_size: int, batch: int) -> dict[str, Any]:
    """Two micro-batches and a step of the trainer of pretraining, after two steps, under torch's profiler.

    Without DeepSpeed, which changes one card's optimizer only. Shares are of the time between the first kernel's
    start and the last one's end; "waiting" is that in which none runs.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    from pretrain.models import load_model, load_tokenizer
    from pretrain.pretraining import PretrainArguments
    from pretrain.token_blocks.blocks import TokenBlocks
    from pretrain.training.trainer import PackedTrainer

    block_size, batch = (512, 2) if settings.quick else (block_size, batch)
    folder, on_gpu = make_model(settings, shape), torch.cuda.is_available()
    args = PretrainArguments(
        output_dir=str(settings.output_dir / "run-profile"),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=2,
        max_steps=3,
        save_strategy="no",
        report_to="none",
        deepspeed=None,
        optim="adamw_torch_fused",
    )
    profiler = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])

    class Window(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                profiler.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                if on_gpu:
                    torch.cuda.synchronize()
                profiler.stop()

    trainer = PackedTrainer(
        model=load_model(str(folder), torch.float32, args.attn_implementation),
        args=args,
        train_dataset=TokenBlocks(make_blocks(settings, block_size, 0)).split("train"),
        evaluation={},
        block_size=block_size,
        pad_token_id=load_tokenizer(str(folder)).pad_token_id,
        label="profile",
    )
    trainer.add_callback(Window())
    trainer.train()
    return {"attention": args.attn_implementation, **summary(kernels_of(profiler.events(), on_gpu))}


def kernels_of(events: Iterable[Any], on_gpu: bool) -> list[tuple[str, float, float]]:
    """Name, start and end in microseconds of what ran on the device, out of torch's profiler.

    An operation on processors holds those that it calls: it counts with its own time only.
    """
    if not on_gpu:
        return [(e.name, e.time_range.start, e.time_range.start + e.self_cpu_time_total) for e in events]
    on_device = [e for e in events if e.device_type.name == "CUDA" and not getattr(e, "is_user_annotation", False)]
    return [(e.name, e.time_range.start, e.time_range.end) for e in on_device]


def kind_of(kernel: str) -> str:
    """The kind of work that a kernel's name tells of."""
    return next(kind for kind, pattern in _KINDS.items() if re.search(pattern, kernel.lower()))


def summary(kernels: Iterable[tuple[str, float, float]]) -> dict[str, Any]:
    """Shares of the time by kind of kernel, and the ten kernels with most of it.

    Args:
        kernels: name, start and end in microseconds of each. Where several run at once, time counts for each of them.
    """
    kernels = sorted(kernels, key=lambda kernel: kernel[1])
    whole = max(end for _, _, end in kernels) - kernels[0][1]
    busy, reached = 0.0, kernels[0][1]
    by_kind: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
    by_name: dict[str, float] = {}
    for name, start, end in kernels:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        by_kind[kind_of(name)] += end - start
        by_name[name] = by_name.get(name, 0.0) + end - start
    most = sorted(by_name.items(), key=lambda item: -item[1])[:10]
    return {
        "milliseconds": round(whole / 1000, 3),
        "num_kernels": len(kernels),
        "shares": {kind: round(value / whole, 4) for kind, value in by_kind.items()}
        | {"waiting": round(1 - busy / whole, 4)},
        "longest": {name[:120]: round(value / whole, 4) for name, value in most},
    }
