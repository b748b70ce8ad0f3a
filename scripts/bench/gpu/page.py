"""One JSON and one readable page of all parts that ran."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.files import REPOSITORY, read_json, write_json
from configs.records import RunRecord
from scripts.bench.gpu.asking import SHAPES
from scripts.bench.gpu.finetuning import FINETUNING, LARGEST_LEAK, LEAK, best_of_trl
from scripts.bench.gpu.materials import GpuBenchSettings, described, has_gpu
from scripts.bench.gpu.measures import STAGE
from scripts.bench.gpu.pretraining import KEPT, PRETRAINING

Parts = Mapping[str, Mapping[str, Any]]  # part to measure to its figures


def report(settings: GpuBenchSettings, names: Sequence[str]) -> Path:
    """Write assets/benchmarks/GPU_DATE.json and .md, or with --quick or without a GPU report.* of the output folder.

    Args:
        settings: of the benchmark.
        names: all parts, in the page's order; those that did not run are named on it.

    Returns:
        The page.
    """
    import torch

    from pretrain.throughput import peak_tflops

    paths = {name: settings.output_dir / name / "run.json" for name in names}
    records = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    own = RunRecord(settings.output_dir, STAGE, {}, {}).data
    device = torch.cuda.get_device_name() if has_gpu() else "no GPU"
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": own["commit"],
        "versions": own["versions"],
        "machine": own["machine"],
        "device": device,
        "peak_tflops": peak_tflops(device),
        **described(settings),
        "missing": [name for name in names if name not in records],
        "parts": {name: record["result"] for name, record in records.items()},
    }
    is_real = has_gpu() and not settings.quick
    stem = REPOSITORY / "assets" / "benchmarks" / f"GPU_{found['date']}" if is_real else settings.output_dir / "report"
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), found)
    page = stem.with_suffix(".md")
    page.write_text(render(found, is_real), encoding="utf-8")
    return page


def render(found: Mapping[str, Any], is_real: bool) -> str:
    """The page of what `report` found."""
    parts = found["parts"]
    rate = parts.get("matmul", {}).get("product", {}).get("tflops")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"# Measured on {found['device']}, {found['date']}", ""]
    if not is_real:
        lines += ["Small shapes or no GPU: this proves that the benchmark runs, and measures nothing.", ""]
    lines += [f"Commit {found['commit'] or 'unknown'}, {versions}. Made by `bash scripts/bench/gpu.sh`.", ""]
    lines.append(
        f"Questions and documents: {found['questions and documents']}; tokenizer: {found['tokenizer']}. Weights are "
        "random ones of the shapes named, but for the last table's. Each way runs in a process of its own on the "
        "same machine; memory is the highest that torch allocated, GiB."
    )
    for section in (_pretraining(parts, found["peak_tflops"], rate), _profile(parts), _finetuning(parts)):
        lines += section
    lines += _evaluation(parts) + _real(parts) + _errors(parts, found["missing"])
    return "\n".join(lines) + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table, `-` for what is not there; nothing where there is no row."""
    if not rows:
        return []
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    return ["", *(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *cells))]


def ratio(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> float | None:
    """`name` of the first by that of the second, where both have it."""
    return round(first[name] / second[name], 2) if first.get(name) and second.get(name) else None


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _pretraining(parts: Parts, peak: float | None, rate: float | None) -> list[str]:
    rows = []
    for name, own in itertools.product(PRETRAINING, ("ours", KEPT)):
        ours, published = (parts.get(name, {}).get(way, {}) for way in (own, "published"))
        if not ours and (not published or own == KEPT):
            continue
        speeds = [way.get("useful_tokens_per_second") for way in (ours, published)]
        way = ours.get("way", {})
        setting = f"{way['blocks']} x {way['accumulation']}, {way['optim']}, {_deepspeed(way)}" if way else None
        setting = f"{setting}, nothing recomputed" if way and not way["recomputed"] else setting
        share = ratio(ours, {"tflops": rate}, "tflops")
        mfu = [_percent(ours.get(f"mfu{kind}")) for kind in ("", "_non_causal", "_documents")]
        memory = [way.get("memory_gib") for way in (ours, published)]
        times = ratio(ours, published, "useful_tokens_per_second")
        rows.append([name, setting, *speeds, times, ours.get("tflops"), share, *mfu, *memory])
    headings = ["part", "ours: blocks x accumulation", "useful tokens/s, ours", "published way", "ratio", "TFLOP/s"]
    headings += ["of the matrix product", "MFU", "non-causal", "of documents", "memory, ours", "published way"]
    text = (
        f"Peak {peak or 'unknown'} TFLOP/s (bf16, dense); a large matrix product reaches {rate or 'unknown'}. FLOPs "
        "of a token: 6 a weight plus causal attention over a whole block (pretrain/throughput.py). Non-causal counts "
        "that attention twice, as llm-foundry does; of documents only within each document, which is what is computed. "
        "Useful tokens are neither padding nor repeated; recomputed activations do not count. Ours is train.py by "
        "default and, where activations fit, without recomputing them, a quarter less work; the published way is "
        "transformers' Trainer with micro-batches of 8, activation checkpointing, rows of one document padded to the "
        "block and windows overlapping by a quarter."
    )
    return ["", "## Pretraining", "", text, *table(headings, rows)] if rows else []


def _deepspeed(way: Mapping[str, Any]) -> str:
    return Path(way["deepspeed"]).stem if way.get("deepspeed") else "no DeepSpeed"


def _profile(parts: Parts) -> list[str]:
    found = {name: of for name, of in parts.get("profile", {}).items() if "shares" in of}
    rows = [[f"{name} ({of['attention']})", *map(_percent, of["shares"].values())] for name, of in found.items()]
    headings = ["step", *next(iter(found.values()))["shares"]] if found else []
    longest = [f"- {_percent(share)} `{kernel}`" for of in found.values() for kernel, share in of["longest"].items()]
    text = "A step of ours by kind of kernel, shares of its time; waiting is when none runs. The longest ones below."
    return ["", "## Profile", "", text, *table(headings, rows), "", *longest] if rows else []


def _finetuning(parts: Parts) -> list[str]:
    rows, notes = [], []
    for part in FINETUNING:
        found = parts.get(part, {})
        ours, leaks = found.get("ours", {}), found.get(LEAK, {})
        for name, of in found.items():
            if "useful_tokens_per_second" not in of:
                continue
            leak = f"{leaks[name]:.1e}" if name in leaks else None
            times = ratio(ours, of, "useful_tokens_per_second")
            rows.append([part, name, of["useful_tokens_per_second"], times, of["memory_gib"], of["real_share"], leak])
        if best := best_of_trl(found):
            times = ratio(ours, found[best], "useful_tokens_per_second")
            notes.append(
                f"- {part}: trl's fastest way that keeps examples apart is {best}; ours is {times} times as fast"
            )
    headings = ["part", "way", "useful tokens/s", "ours is, times", "memory", "share of real tokens", "leak"]
    text = (
        "Training examples at their own lengths. The leak is the largest difference between an example's loss in a "
        f"batch and alone (float32, sdpa, on processors); above {LARGEST_LEAK:g} examples see each other."
    )
    return ["", "## Fine-tuning", "", text, *table(headings, rows), "", *notes] if rows else []


def _evaluation(parts: Parts) -> list[str]:
    rows = []
    for part in SHAPES:
        for name, of in parts.get(part, {}).items():
            if "ratio" not in of:
                continue
            rival = "harness" if "harness" in of else "published"
            speeds = [of[who]["questions_per_second"] for who in ("ours", rival)]
            same = of.get("identical_share", of.get("same_text_share"))
            label = {"harness": "lm-evaluation-harness", "published": "one at a time"}[rival]
            rows.append([part, name, speeds[0], label, speeds[1], of["ratio"], of["batch_size"], _percent(same)])
    headings = ["part", "what", "questions/s, ours", "rival", "questions/s", "ratio", "batch", "same choice or text"]
    text = (
        "Test questions, bfloat16. Answers are greedy and, with random weights, all as long as they may be (256 tokens "
        "in a whole run); the published loop asks one question after another, here some of them, drawn evenly by "
        "length. The harness has our batch size."
    )
    return ["", "## Evaluation", "", text, *table(headings, rows)] if rows else []


def _real(parts: Parts) -> list[str]:
    found = parts.get("real", {})
    runs = {"base": found.get("base", {}), **found.get("rows", {})}
    rows = []
    for label, kinds in runs.items():
        if not isinstance(kinds, Mapping) or "answer_only" not in kinds:
            continue
        answer, rationale = kinds["answer_only"], kinds["with_rationale"]
        of = [(answer, "accuracy"), (rationale, "accuracy"), (rationale, "bleu_1_sentence"), (rationale, "rouge_1_f")]
        rows.append([label, *(_interval(scores, name) for scores, name in of), _percent(answer.get("chance_level"))])
    headings = ["model", "accuracy, answer only", "accuracy, with rationale", "BLEU-1", "ROUGE-1", "chance"]
    text = (
        "SmolLM2-135M by configs/ablation/smollm2_135m.yaml: averages over the languages of the Test split, with 95 % "
        "intervals over questions. For research, not for clinical use."
    )
    steps = ["", found["rows"]["table"].strip()] if "table" in found.get("rows", {}) else []
    return ["", "## A real result", "", text, *table(headings, rows), *steps] if rows else []


def _interval(scores: Mapping[str, Any], name: str) -> str | None:
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    ends = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return None if scores.get(name) is None else f"{_percent(scores[name])}{ends}"


def _errors(parts: Parts, missing: Sequence[str]) -> list[str]:
    errors = [
        f"- {part}, {name}: {of['error'].splitlines()[0]}"
        for part, found in parts.items()
        for name, of in found.items()
        if "error" in of
    ]
    errors += [f"- {part}: not run" for part in missing]
    return ["", "## Not measured", "", *errors] if errors else []
