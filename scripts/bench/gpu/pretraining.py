"""Pretraining: train.py as users start it against transformers' plain Trainer with the published settings."""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.gpu.materials import SMOLLM2, GpuBenchSettings, command, make_blocks, make_model
from scripts.bench.gpu.measures import Measure

KEPT = "ours, nothing recomputed"


@dataclass(frozen=True)
class Pretraining:
    """One comparison of the two ways.

    Attributes:
        shape: as `make_model` takes it.
        block_size: tokens a block.
        blocks: micro-batch of ours; the published one is 8.
        accumulation: micro-batches a step of either way.
        optim: transformers' name, the same for both.
        deepspeed: configuration of ours, where DeepSpeed is installed.
        kept: micro-batch of ours with nothing recomputed, 0 where the activations of one block do not fit on 140 GB.
        recomputed: activations are recomputed in backward, which costs a forward pass that counts as no work.
    """

    shape: str
    block_size: int
    blocks: int
    accumulation: int = 8
    optim: str = "adamw_torch_fused"
    deepspeed: str | None = "configs/deepspeed/zero1.json"
    kept: int = 0
    recomputed: bool = True


PRETRAINING = {
    "pretrain-135m-2048": Pretraining(SMOLLM2, 2048, 32, kept=16),
    "pretrain-1.8b-2048": Pretraining("mmedlm2_1.8b", 2048, 16, kept=8),
    "pretrain-1.8b-8192": Pretraining("mmedlm2_1.8b", 8192, 4, kept=2),
    # AdamW's states of 8B (96 GB beside weights and gradients) do not fit on one card: Adafactor's do, for both ways.
    "pretrain-8b-2048": Pretraining("mmed_llama3_8b", 2048, 8, 2, "adafactor", None, kept=2),
    "pretrain-8b-8192": Pretraining("mmed_llama3_8b", 8192, 2, 2, "adafactor", None),
}


def pretraining(settings: GpuBenchSettings) -> Mapping[str, Measure]:
    """The measures of a part."""
    part = PRETRAINING[settings.part]
    if settings.quick:
        part = replace(part, block_size=512, blocks=2, accumulation=2, kept=min(part.kept, 1))
    ways = {"ours": part}
    if part.kept:  # as many blocks a step
        accumulation = part.blocks * part.accumulation // part.kept
        ways[KEPT] = replace(part, blocks=part.kept, accumulation=accumulation, recomputed=False)
    measures = {name: partial(measure_ours, settings, way) for name, way in ways.items()}
    return measures | {"published": partial(measure_published, settings, part)}


def measure_ours(settings: GpuBenchSettings, part: Pretraining) -> dict[str, Any]:
    """`train.py` on packed blocks; the median of its own lines of metrics after the second step."""
    model, blocks = make_model(settings, part.shape), make_blocks(settings, part.block_size, 0)
    output = settings.output_dir / f"run-{settings.part}"
    shutil.rmtree(output, ignore_errors=True)  # a run that was ended is measured anew
    deepspeed = part.deepspeed if importlib.util.find_spec("deepspeed") else None
    words = ["--data", blocks, "--model_name_or_path", model, "--output_dir", output, "--optim", part.optim]
    words += ["--block_size", part.block_size, "--activation_checkpointing", part.recomputed]
    words += ["--per_device_train_batch_size", part.blocks, "--gradient_accumulation_steps", part.accumulation]
    words += ["--max_steps", settings.num_steps, "--logging_steps", 1, "--save_strategy", "no", "--report_to", "none"]
    command("pretrain/train.py", *words, "--deepspeed", deepspeed or "null")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "target_tokens_per_second" in row][2:]
    speed = statistics.median(row["target_tokens_per_second"] for row in rows)
    shutil.rmtree(output, ignore_errors=True)  # weights of no use
    return {
        "way": asdict(replace(part, deepspeed=deepspeed)),
        "useful_tokens_per_second": speed,
        "memory_gib": max(row["memory_gib"] for row in rows),
        **arithmetic(speed, model, part.block_size, blocks),
    }


def measure_published(settings: GpuBenchSettings, part: Pretraining) -> dict[str, Any]:
    """transformers' Trainer with the published settings, in this process.

    Rows are single windows padded to the block size, a quarter of it (512 of 2,048) shared with the one before. Useful
    are tokens that are neither padding nor repeated; the loss here bears on repeated ones too, as it did there.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    from pretrain.token_blocks.blocks import IGNORED, TokenBlocks
    from pretrain.training.train_settings import native_bf16

    model, folder = make_model(settings, part.shape), make_blocks(settings, part.block_size, part.block_size // 4)
    blocks = TokenBlocks(folder).split("train")
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
        per_device_train_batch_size=min(8, part.blocks),
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
        disable_tqdm=True,
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
    speed = round((after - before) / (end - start), 1)
    found: dict[str, Any] = {"useful_tokens_per_second": speed}
    if torch.cuda.is_available():
        found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found | arithmetic(speed, model, part.block_size, folder)


def arithmetic(speed: float, model: Path, block_size: int, blocks: Path) -> dict[str, float]:
    """TFLOP/s of a speed in useful tokens a second, and its share of the card's peak by three counts of attention.

    `mfu` reckons with causal attention over the whole block, as MFU is published; `mfu_non_causal` with attention in
    full, as llm-foundry does; `mfu_documents` with what is computed here, causal within each document.
    """
    import torch
    from transformers import AutoConfig

    from pretrain.models import empty_model
    from pretrain.throughput import flops_per_token, peak_tflops
    from pretrain.token_blocks.blocks import TokenBlocks

    split = TokenBlocks(blocks).split("train")
    own = attended_length([len(ids) for index in range(len(split)) for ids, _ in split[index]])
    network = empty_model(AutoConfig.from_pretrained(model))
    counts = {"": block_size, "_non_causal": 2 * block_size, "_documents": own}
    tflops = {name: speed * flops_per_token(network, length) / 1e12 for name, length in counts.items()}
    found = {"tflops": round(tflops[""], 3), "attended_length": round(own, 1)}
    peak = peak_tflops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return found | ({f"mfu{name}": round(value / peak, 4) for name, value in tflops.items()} if peak else {})


def attended_length(lengths: list[int]) -> float:
    """The one sequence length at which causal attention costs a token as much as in documents of these lengths.

    A token attends to half its document on average, and most tokens are in long documents: sum of squares by sum.
    """
    return sum(length * length for length in lengths) / sum(lengths)
