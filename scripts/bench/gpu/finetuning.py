"""Fine-tuning on the training questions' lengths: ours against padding and trl, by the functions of bench_finetune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.gpu.materials import SMOLLM2, GpuBenchSettings, data_folder, make_model
from scripts.bench.gpu.measures import Measure

LEAK = "leak"
LARGEST_LEAK = 1e-4  # of an example's loss, from which on a way is no rival: its examples see each other


@dataclass(frozen=True)
class Finetuning:
    """What is fine-tuned: a shape as `make_model` takes it, all its weights or an adapter of rank 16."""

    shape: str
    lora: bool


FINETUNING = {
    "finetune-1.8b-full": Finetuning("mmedlm2_1.8b", lora=False),
    "finetune-8b-lora": Finetuning("mmed_llama3_8b", lora=True),
}
# Way of bench_finetune to its times the batch: about 8,192 useful tokens a micro-batch for ours and trl's; the padded
# way as it was published and twice as wide.
_WAYS = {
    "ours": ("ours", 4),
    "padded, batches of 8": ("padded, batches of 8", 1),
    "padded, batches of 16": ("padded, batches of 8", 2),
    "trl, packed": ("trl, packed", 4),
    "trl, padding-free, batches of 16": ("trl, padding-free, batches of 8", 2),
    "trl, by length, batches of 8": ("trl, by length, batches of 8", 1),
}


def finetuning(settings: GpuBenchSettings) -> Mapping[str, Measure]:
    """The measures of a part: whether the ways keep examples apart, then the speed and memory of each."""
    part = FINETUNING[settings.part]
    ways = {name: partial(measure_way, settings, part, way, scale) for name, (way, scale) in _WAYS.items()}
    return {LEAK: partial(measure_leaks, settings), **ways}


def _bench_settings(settings: GpuBenchSettings, lora: bool) -> Any:
    from scripts.bench.bench_finetune import BenchFinetuneSettings

    return BenchFinetuneSettings(
        output_dir=settings.output_dir / f"run-{settings.part}",
        data=data_folder(settings),
        lora=lora,
        block_size=512 if settings.quick else 2048,
        num_steps=1 if settings.quick else max(20, settings.num_steps),
    )


def _segments(settings: GpuBenchSettings, bench: Any, model: Path) -> list[Any]:
    from scripts.bench.bench_finetune import all_segments

    segments = all_segments(bench, str(model))
    return [segment for segment in segments if len(segment[0]) <= 200][:32] if settings.quick else segments


def measure_way(settings: GpuBenchSettings, part: Finetuning, way: str, batch_scale: int) -> dict[str, Any]:
    """Useful tokens a second and memory of one way, after three steps that are not counted."""
    from scripts.bench import bench_finetune

    model, bench = make_model(settings, part.shape), _bench_settings(settings, part.lora)
    segments = _segments(settings, bench, model)
    batch_scale, num_warmup = (1, 1) if settings.quick else (batch_scale, 3)
    row = bench_finetune.measure_way(way, bench, str(model), segments, batch_scale, num_warmup)
    share = bench_finetune.real_share(way, segments, bench.block_size, batch_scale)
    return {
        "useful_tokens_per_second": round(bench_finetune.useful_speed(way, row, share), 1),
        "memory_gib": round(row["peak_gib"], 2),
        "real_share": round(share if share < 1 else row["real"] / row["processed"], 3),
        "num_examples": len(segments),
        "mean_tokens": round(sum(len(ids) for ids, _ in segments) / len(segments), 1),
        "seconds": row["seconds"],
    }


def measure_leaks(settings: GpuBenchSettings) -> dict[str, Any]:
    """By way, how far an example's loss in a batch is from its loss alone: float32, SmolLM2's shape, on processors."""
    from scripts.bench import bench_finetune

    model, bench = make_model(settings, SMOLLM2), _bench_settings(settings, lora=False)
    segments = _segments(settings, bench, model)[:500]
    return {
        name: bench_finetune.measure_leak(way, bench, str(model), segments)["largest_difference"]
        for name, (way, _) in _WAYS.items()
        if way.startswith(("ours", "trl"))
    }


def best_of_trl(found: Mapping[str, Any]) -> str | None:
    """The fastest way of trl whose examples do not see each other, as far as is known; None where there is none."""
    leaks = found.get(LEAK, {})
    speeds = {
        name: values["useful_tokens_per_second"]
        for name, values in found.items()
        if name.startswith("trl") and "useful_tokens_per_second" in values
    }
    apart = {name: speed for name, speed in speeds.items() if leaks.get(name, 0.0) <= LARGEST_LEAK}
    return max(apart, key=lambda name: apart[name]) if apart else None
