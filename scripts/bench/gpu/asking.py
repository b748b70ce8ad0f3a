"""Evaluation on the test questions: log-likelihoods and answers with rationale, by the functions of bench_inference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from scripts.bench.gpu.materials import GpuBenchSettings, data_folder, make_model
from scripts.bench.gpu.measures import Measure

SHAPES = {"evaluate-1.8b": "mmedlm2_1.8b", "evaluate-8b": "mmed_llama3_8b"}


def asking(settings: GpuBenchSettings) -> Mapping[str, Measure]:
    """The measures of a part."""
    shape = SHAPES[settings.part]
    return {
        "log-likelihoods": partial(measure, settings, shape, "likelihood"),
        "answers with rationale": partial(measure, settings, shape, "generation"),
    }


def measure(settings: GpuBenchSettings, shape: str, what: str) -> dict[str, Any]:
    """Questions a second of ours and of the rival, in this process, one after the other.

    Random weights hardly ever end an answer, so that every answer has all the tokens that it may have, and batches
    gain nothing from answers that end early.
    """
    from scripts.bench import bench_inference

    bench = bench_inference.BenchSettings(
        output_dir=settings.output_dir / f"run-{settings.part}",
        data=data_folder(settings),
        model=make_model(settings, shape),
        max_questions=2 if settings.quick else None,
        published_questions=2 if settings.quick else 8,
        batch_size=4 if settings.quick else 32,
        generation_batch_size=4 if settings.quick else 128,
        max_new_tokens=4 if settings.quick else 256,
        precision="bfloat16",
    )
    found = {"likelihood": bench_inference.likelihood, "generation": bench_inference.generation}[what](bench)
    num, rival = found["num_questions"], "harness" if what == "likelihood" else "published"
    num_rival = found.get("num_published", num)
    own = {name: found[name] for name in ("identical_share", "same_text_share") if name in found}
    return {
        "ours": {"questions_per_second": round(num / found["ours"]["clock_seconds"], 3)},
        rival: {"questions_per_second": round(num_rival / found[rival]["clock_seconds"], 3)},
        "ratio": round(found["times_as_fast_clock"], 2),
        "num_questions": num,
        "num_questions_of_rival": num_rival,
        "batch_size": bench.batch_size if what == "likelihood" else bench.generation_batch_size,
        "max_new_tokens": 0 if what == "likelihood" else bench.max_new_tokens,
        **own,
    }
