"""What one GPU does with this code and with the published way, part by part; scripts/bench/gpu.sh runs all of it.

    bash scripts/bench/gpu.sh [--quick] [--part NAME]
    python scripts/bench/bench_gpu.py --part matmul --output_dir runs/bench-gpu

Models are random weights of real shapes, with the demo model's tokenizer; documents and questions are those of
`--data`. Ours is `pretrain/train.py` as users start it; the published way is transformers' plain Trainer with the
published settings (rows of one document padded to the block size, overlapping windows, micro-batches of 8 x 8,
activation checkpointing), in the same part. `--quick` runs the same code on small shapes, also without a GPU: it
proves the benchmark and measures nothing.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from configs.errors import EnvironmentFailure, MissingInputError, SettingsError
from configs.files import REPOSITORY, read_json, write_json
from configs.progress import log
from configs.records import RunRecord
from configs.settings import parse, setting
from pretrain.models import DEMO_MODEL
from pretrain.throughput import CARDS, flops_per_token, head_dim, peak_tflops


@dataclass(frozen=True)
class Pretraining:
    """One comparison: a file of configs/pretrain whose shape it takes, and how both ways run it.

    `blocks` is the micro-batch of ours, `accumulation` how many make a step of either way; `optim` is transformers'
    name, the same for both.
    """

    shape: str
    block_size: int
    blocks: int
    accumulation: int = 8
    optim: str = "adamw_torch_fused"
    deepspeed: str | None = "configs/deepspeed/zero1.json"


PRETRAINING = {
    "pretrain-1.8b-2048": Pretraining("mmedlm2_1.8b", 2048, 16),
    "pretrain-1.8b-8192": Pretraining("mmedlm2_1.8b", 8192, 4),
    # AdamW's states of 8B (96 GB beside weights and gradients) do not fit on one card: Adafactor's do, for both ways.
    "pretrain-8b-2048": Pretraining("mmed_llama3_8b", 2048, 8, 2, "adafactor", None),
    "pretrain-8b-8192": Pretraining("mmed_llama3_8b", 8192, 2, 2, "adafactor", None),
    "pretrain-135m-2048": Pretraining("", 2048, 32),
}


@dataclass
class GpuBenchSettings:
    """Settings of the benchmark."""

    part: str = setting(help=f"check, matmul, {', '.join(PRETRAINING)}, or report")
    output_dir: Path = setting(Path("runs/bench-gpu"), "folder of models, token blocks and one JSON a part")
    data: Path = setting(Path("../shared/data"), "folder with documents/*.jsonl; the sample where it is not there")
    num_steps: int = setting(6, "steps of each way, of which the first two are not counted")
    quick: bool = setting(False, "small shapes, on whatever device there is")


def quick_shape(shape: dict[str, Any]) -> dict[str, Any]:
    """The same architecture with two narrow layers and the demo model's vocabulary."""
    small = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return {**shape, **small, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def make_model(settings: GpuBenchSettings, shape: str) -> Path:
    """A folder with random bfloat16 weights of a shape and the demo model's tokenizer; the demo model for no shape."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not DEMO_MODEL.is_dir():
        raise MissingInputError(
            "the demo model is missing", where=DEMO_MODEL, todo="python scripts/download.py smollm2-135m"
        )
    if not shape and not settings.quick:
        return DEMO_MODEL
    folder = settings.output_dir / "models" / (shape or "smollm2_135m") / ("quick" if settings.quick else "whole")
    if (folder / "tokenizer_config.json").is_file():  # written last
        return folder
    if shape:
        file = REPOSITORY / "configs" / "pretrain" / f"{shape}.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))["architecture"]
    else:
        values = AutoConfig.from_pretrained(DEMO_MODEL).to_dict()
        values = {k: values[k] for k in ("model_type", "vocab_size", "max_position_embeddings", "rms_norm_eps")}
    config = AutoConfig.for_model(**(quick_shape(values) if settings.quick else values))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(folder)
    return folder


def make_blocks(settings: GpuBenchSettings, block_size: int, overlap: int) -> Path:
    """Token blocks of the documents: packed, or the published windows."""
    data = settings.data / "documents"
    if not data.is_dir():
        data = REPOSITORY / "assets" / "sample" / "documents"
    folder = settings.output_dir / f"blocks-{block_size}-{overlap}"
    words = ["--input", data, "--output_dir", folder, "--model_name_or_path", DEMO_MODEL, "--block_size", block_size]
    words += ["--validation_share", 0, *(["--overlap", overlap] if overlap else [])]
    command("pretrain/prepare.py", *words)
    return folder


def command(script: str, *words: Any) -> None:
    """Run one of this repository's commands; its log goes on to ours.

    Raises:
        EnvironmentFailure: it did not end well; failed items (exit code 5) are no reason here.
    """
    whole = [sys.executable, str(REPOSITORY / script), *map(str, words)]
    code = subprocess.run(whole, check=False, stdout=subprocess.DEVNULL).returncode
    if code not in (0, 5):
        raise EnvironmentFailure(
            "a measured command failed", where=" ".join(whole), found=f"exit code {code}", todo="see its log above"
        )


def measure_ours(settings: GpuBenchSettings, part: Pretraining, model: Path, batch: int) -> dict[str, Any]:
    """`train.py` on packed blocks; the median of its own lines of metrics after the second step."""
    blocks = make_blocks(settings, part.block_size, 0)
    output = settings.output_dir / f"run-{settings.part}"
    shutil.rmtree(output, ignore_errors=True)  # each part measures anew
    words = ["--data", blocks, "--model_name_or_path", model, "--output_dir", output, "--optim", part.optim]
    words += ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", part.accumulation]
    words += ["--max_steps", settings.num_steps, "--logging_steps", 1, "--save_strategy", "no", "--report_to", "none"]
    words += ["--deepspeed", part.deepspeed] if part.deepspeed else ["--deepspeed", "null"]
    command("pretrain/train.py", *words)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "target_tokens_per_second" in row][2:]
    speed = statistics.median(row["target_tokens_per_second"] for row in rows)
    found = {"useful_tokens_per_second": speed, "memory_gib": max(row["memory_gib"] for row in rows)}
    found["tokens_a_step"] = batch * part.accumulation * part.block_size
    shutil.rmtree(output, ignore_errors=True)  # weights of no use
    return found


def measure_published(settings: GpuBenchSettings, part: Pretraining, model: Path) -> dict[str, Any]:
    """transformers' Trainer with the published settings, in this process.

    Rows are single windows padded to the block size, a quarter of it (512 of 2,048) shared with the one before. Useful
    are tokens that are neither padding nor repeated; the loss here bears on repeated ones too, as it did there.
    """
    import numpy as np
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    from pretrain.token_blocks.blocks import IGNORED, TokenBlocks
    from pretrain.training.train_settings import native_bf16

    blocks = TokenBlocks(make_blocks(settings, part.block_size, part.block_size // 4)).split("train")
    windows = [segment for index in range(len(blocks)) for segment in blocks[index]]
    pad = AutoTokenizer.from_pretrained(model).pad_token_id
    useful = 0

    def collate(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        nonlocal useful
        ids = np.full((len(rows), part.block_size), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, (tokens, labels) in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            useful += int((labels[1:] != IGNORED).sum())
        labels = torch.from_numpy(np.where(mask, ids, IGNORED))
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}

    times: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append((time.perf_counter(), useful))

    output = settings.output_dir / f"published-{settings.part}"
    args = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=2 if settings.quick else min(8, part.blocks),
        gradient_accumulation_steps=part.accumulation,
        max_steps=settings.num_steps,
        learning_rate=2e-5,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        bf16=native_bf16(),
        gradient_checkpointing=True,
        optim=part.optim,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    Trainer(network, args, data_collator=collate, train_dataset=windows, callbacks=[Clock()]).train()
    shutil.rmtree(output, ignore_errors=True)
    (start, before), (end, after) = times[1], times[-1]
    found: dict[str, Any] = {"useful_tokens_per_second": round((after - before) / (end - start), 1)}
    if torch.cuda.is_available():
        found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def pretraining(settings: GpuBenchSettings) -> dict[str, Any]:
    """Ours and the published way on one shape: useful tokens a second, MFU by two formulas, memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    part = PRETRAINING[settings.part]
    if settings.quick:
        part = Pretraining(part.shape, 512, 2, 2, part.optim, part.deepspeed)
    model = make_model(settings, part.shape)
    found: dict[str, Any] = {"part": part.__dict__}
    found["ours"] = measure_ours(settings, part, model, part.blocks)
    found["published"] = measure_published(settings, part, model)
    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    flops = flops_per_token(empty, part.block_size)
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head_dim(config) * part.block_size
    peak = peak_tflops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    for way in ("ours", "published"):
        tflops = found[way]["useful_tokens_per_second"] * flops / 1e12
        found[way]["tflops"] = round(tflops, 2)
        if peak:
            found[way]["mfu"] = round(tflops / peak, 4)
            found[way]["mfu_non_causal"] = round(tflops / peak * (flops + attention) / flops, 4)
    ratio = found["ours"]["useful_tokens_per_second"] / found["published"]["useful_tokens_per_second"]
    return {**found, "ratio": round(ratio, 2)}


def matmul(settings: GpuBenchSettings) -> dict[str, Any]:
    """The rate of a large bfloat16 matrix product, which no training step can pass: median of 20 after 5, TFLOP/s."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 256 if settings.quick else 16384
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(25):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"size": size, "tflops": round(2 * size**3 / statistics.median(times[5:]) / 1e12, 2)}


def check(settings: GpuBenchSettings) -> dict[str, Any]:
    """Before anything is timed: a packed block's loss is that of its documents one by one, on this device.

    In float32 within 1e-5 relative with sdpa, and in bfloat16 within 2e-2 with the attention that training takes
    here, whose kernels are others.

    Raises:
        SettingsError: it is not, so a measured speed would be that of wrong work.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pretrain.token_blocks.blocks import IGNORED, Collator, TokenBlocks
    from pretrain.training.attention import VARLEN, as_one_row, choose_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block_size = 512
    blocks = TokenBlocks(make_blocks(settings, block_size, 0)).split("train")
    segments = next(blocks[i] for i in range(len(blocks)) if len(blocks[i]) > 1)
    collate = Collator(block_size, AutoTokenizer.from_pretrained(DEMO_MODEL).pad_token_id)
    found: dict[str, Any] = {}
    half = choose_attention(None, device.type == "cpu", half_precision=True)
    for dtype, attention, bound in ((torch.float32, "sdpa", 1e-5), (torch.bfloat16, half, 2e-2)):
        model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=dtype, attn_implementation=attention)
        model = model.to(device).eval()

        def loss_sum(rows: list, model: Any = model, attention: str = attention) -> float:
            batch = {name: value.to(device) for name, value in collate(rows).items()}
            count = (batch["labels"] != IGNORED).sum()
            batch = as_one_row(batch) if attention.startswith(VARLEN) else batch
            with torch.inference_mode():
                return float(model(**batch, use_cache=False).loss.double() * count)

        packed, alone = loss_sum([segments]), sum(loss_sum([[segment]]) for segment in segments)
        difference = abs(packed - alone) / alone
        found[f"{attention} {dtype}".replace("torch.", "")] = {"difference": difference, "bound": bound}
        if not difference <= bound:
            raise SettingsError(
                "packed documents do not give the loss that they give alone",
                where=f"attention {attention}, {dtype}, {device}",
                found=f"{packed} against {alone}, relative difference {difference:.1e}",
                wanted=f"at most {bound:g}",
                todo="do not train with this attention here; give --attn_implementation sdpa and report it",
            )
    return found


def report(settings: GpuBenchSettings) -> dict[str, Any]:
    """One JSON and one page of all parts that ran: assets/benchmarks/GPU_DATE.* on a GPU, else in the output folder."""
    files = sorted(path for path in settings.output_dir.glob("*.json") if path.stem != "report")
    parts = {path.stem: read_json(path) for path in files}
    record = RunRecord(settings.output_dir, "bench-gpu", {}, {}).data
    found = {name: record[name] for name in ("versions", "machine", "commit")}
    found |= {"date": time.strftime("%Y-%m-%d"), "quick": settings.quick, "parts": parts}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    peak = CARDS[name].tflops if name in CARDS else None
    found["device"], found["peak_tflops"] = name, peak
    rate = parts.get("matmul", {}).get("tflops")
    lines = [f"# Measured on {name}, {found['date']}", ""]
    if settings.quick or not torch.cuda.is_available():
        lines += ["Small shapes or no GPU: this proves that the benchmark runs, and measures nothing.", ""]
    lines += [
        f"Commit {found['commit'] or 'unknown'}, " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        "",
    ]
    lines += [
        f"Peak {peak or 'unknown'} TFLOP/s (bf16, dense); a large matrix product reaches {rate} TFLOP/s. FLOPs of a "
        "token: 6 a weight plus causal attention (pretrain/throughput.py); non-causal counts attention in full, as "
        "llm-foundry does. Useful tokens are neither padding nor repeated; recomputed activations do not count.",
        "",
        "| part | useful tokens/s, ours | published way | ratio | TFLOP/s | of the matrix product | MFU | non-causal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part, values in parts.items():
        if "ratio" not in values:
            continue
        ours, published = values["ours"], values["published"]
        share = f"{ours['tflops'] / rate:.2f}" if rate else "-"
        mfu = [f"{100 * ours[key]:.1f} %" if key in ours else "-" for key in ("mfu", "mfu_non_causal")]
        speeds = [f"{way['useful_tokens_per_second']:.0f}" for way in (ours, published)]
        cells = [part, *speeds, values["ratio"], ours["tflops"], share, *mfu]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    keep = torch.cuda.is_available() and not settings.quick
    stem = REPOSITORY / "assets" / "benchmarks" / f"GPU_{found['date']}" if keep else settings.output_dir / "report"
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), found)
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"report": str(stem.with_suffix(".md"))}


def main() -> int:
    (settings,) = parse(__doc__, GpuBenchSettings)
    parts: dict[str, Callable[[GpuBenchSettings], dict[str, Any]]] = {
        "check": check,
        "matmul": matmul,
        **dict.fromkeys(PRETRAINING, pretraining),
        "report": report,
    }
    if settings.part not in parts:
        raise SettingsError("there is no such part", found=settings.part, wanted=", ".join(parts), todo="give one")
    if not torch.cuda.is_available() and not settings.quick:
        raise EnvironmentFailure("there is no GPU", wanted="one GPU", todo="--quick runs the same on small shapes")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    found = parts[settings.part](settings)
    if settings.part != "report":
        write_json(settings.output_dir / f"{settings.part}.json", found)
    log.info(f"{settings.part}: done")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    run(main)
