"""Useful tokens a second of packed blocks against the published way, one document a row padded to the block size.

    python scripts/bench/bench_pretrain.py --output_dir runs/bench-pretrain
    python scripts/bench/bench_pretrain.py --output_dir runs/bench-gpu --num_steps 20 --batch_size 8 \\
        --architecture configs/pretrain/qwen3_1.7b.yaml       # on a GPU: random weights of that shape, with MFU

Documents of DATA/documents are made into blocks by prepare.py, once packed and once in the published windows (of
MMedLM's repository: cut at the block size, 512 tokens shared with the window before), each in a row of its own. Both
ways train the same model with the same optimizer in this process, a step of one and a step of the other in turn, on
batches of the same shape drawn at random from all documents. Useful tokens are those that bear loss and are no
repetition: neither padding nor what windows share.
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
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.files import REPOSITORY, write_json
from configs.progress import log
from configs.settings import parse, setting
from pretrain.models import find_model, load_model, load_tokenizer
from pretrain.throughput import flops_per_token, peak_tflops
from pretrain.token_blocks.blocks import IGNORED, Collator, TokenBlocks
from pretrain.training.attention import BY_SEGMENT, as_one_row, choose_attention, wants_one_row

OVERLAP = 512
# Beside the segment of a row: a batch of lone segments would be padded to the longest of them only, and not to a block.
NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass
class BenchPretrainSettings:
    """Settings of the benchmark; `architecture` comes out of a file of configs/pretrain."""

    output_dir: Path = setting(help="folder of the token blocks and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/*.jsonl")
    model_name_or_path: str | None = setting(None, "model and tokenizer; the demo model by default")
    architecture: str | None = setting(None, "a file of configs/pretrain: random weights of its model's shape instead")
    block_size: int = setting(2048, "tokens a block")
    batch_size: int = setting(1, "blocks or rows a step")
    num_steps: int = setting(8, "steps measured of each way, after one that is not")
    seed: int = setting(0, "of the choice of blocks and rows")


def prepare(settings: BenchPretrainSettings, model: str, name: str, *words: str) -> Any:
    """The training blocks that prepare.py makes of the documents."""
    folder = settings.output_dir / f"{name}-{settings.block_size}"
    words = ("--input", str(settings.data / "documents"), "--output_dir", str(folder), *words)
    words += ("--model_name_or_path", model, "--block_size", str(settings.block_size), "--validation_share", "0")
    subprocess.run([sys.executable, str(REPOSITORY / "pretrain" / "prepare.py"), *words], check=True)
    return TokenBlocks(folder).split("train")


def train_step(model: Any, optimizer: Any, batch: dict[str, torch.Tensor], device: torch.device) -> tuple[int, float]:
    """One step of training; target tokens and seconds."""
    start = time.perf_counter()
    num_targets = int((batch["labels"] != IGNORED).sum())
    inputs = {name: value.to(device) for name, value in batch.items()}
    if wants_one_row(model.config._attn_implementation):
        inputs = as_one_row(inputs)
    with torch.autocast(device.type, torch.bfloat16):
        loss = model(**inputs, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
    return num_targets, time.perf_counter() - start


def measure(settings: BenchPretrainSettings, ways: dict[str, list], model: Any, pad_token_id: int) -> dict[str, Any]:
    """Both ways in turn; tokens a second of each, their ratio, and MFU where the card's peak is known."""
    device, attention = model.device, model.config._attn_implementation
    model.train()
    if device.type == "cuda":
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    collate = Collator(settings.block_size, pad_token_id)
    draw = np.random.default_rng(settings.seed)
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in ways}
    for step in range(settings.num_steps + 1):
        for name, rows in ways.items():
            if attention == BY_SEGMENT:  # which the published way has not
                model.set_attn_implementation(BY_SEGMENT if name == "packed" else "sdpa")
            chosen = draw.choice(len(rows), settings.batch_size, replace=False)
            measured = train_step(model, optimizer, collate([rows[index] for index in chosen]), device)
            if step:  # the first warms up
                found[name].append(measured)
            log.info(f"{name}: {measured[0]} target tokens in {measured[1]:.2f} s")
    result: dict[str, Any] = {}
    peak = peak_tflops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    for name, steps in found.items():
        seconds, targets = sum(s for _, s in steps), sum(n for n, _ in steps)
        all_targets = sum(int((collate([row])["labels"] != IGNORED).sum()) for row in ways[name])
        # The tokens of a row vary, its cost does not: the mean over all rows, not over those that were drawn.
        a_row = all_targets / len(ways[name])
        speed = a_row * settings.batch_size / statistics.median(s for _, s in steps)
        result[name] = {
            "rows": len(ways[name]),
            "useful_tokens_a_row": round(a_row, 1),
            "seconds_a_step": [round(s, 3) for _, s in steps],
            "useful_tokens_per_second": round(speed, 1),
            "useful_tokens_per_second_of_the_rows_drawn": round(targets / seconds, 1),
        }
        if peak:
            flops = flops_per_token(model, settings.block_size)
            result[name]["mfu"] = round(speed * flops / (peak * 1e12), 4)
    result["ratio"] = round(
        result["packed"]["useful_tokens_per_second"] / result["one document a row"]["useful_tokens_per_second"], 2
    )
    return result


def main() -> int:
    (settings,) = parse(__doc__, BenchPretrainSettings)
    path = find_model(settings.model_name_or_path)
    tokenizer = load_tokenizer(path)
    packed = prepare(settings, path, "packed")
    windows = prepare(settings, path, "windows", "--overlap", str(OVERLAP))
    ways = {
        "packed": packed,
        "one document a row": [[segment, NOTHING] for index in range(len(windows)) for segment in windows[index]],
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention = choose_attention(None, device.type == "cpu", half_precision=True)
    torch.manual_seed(settings.seed)
    if settings.architecture:
        import yaml
        from transformers import AutoConfig, AutoModelForCausalLM

        shape = yaml.safe_load(Path(settings.architecture).read_text(encoding="utf-8"))["architecture"]
        config = AutoConfig.for_model(**shape)
        with device:
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    else:
        model = load_model(path, torch.float32, attention).to(device)
    result = {**measure(settings, ways, model, tokenizer.pad_token_id), "attention": attention}
    result |= {"settings": asdict(settings), "device": str(device)}
    write_json(settings.output_dir / "results.json", result)
    print(json.dumps({name: result[name] for name in ("packed", "one document a row", "ratio", "attention")}))
    return 0


if __name__ == "__main__":
    run(main)
