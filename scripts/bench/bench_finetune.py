"""Fine-tuning measured on real training questions: speed and memory against padding and trl, start-up, learning rates.

    python scripts/bench/bench_finetune.py --output_dir runs/bench-finetune                       # --part speed
    python scripts/bench/bench_finetune.py --output_dir runs/bench-finetune --lora true
    python scripts/bench/bench_finetune.py --output_dir runs/bench-start --part start
    python scripts/bench/bench_finetune.py --output_dir runs/bench-sweep --part sweep --max_steps 40

speed: the same examples, model, optimizer and precision in each way, and each way in a process of its own, in turn,
`num_runs` times. Useful tokens are those of examples, not of padding: tokens processed a second times their real share
in all examples (the few batches drawn have a share of their own).

leak: the largest difference between an example's mean loss in a batch of each way and its loss alone, in float32.

start: `num_rows` rows made of the real ones, a small model with the real tokenizer, to the end of the first step.

sweep: LoRA at several learning rates, dev loss after `max_steps` steps.
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
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from configs.errors import FailedItems
from configs.files import REPOSITORY, read_json, write_json
from configs.progress import log
from configs.settings import parse, setting
from data_collection.questions.mmedbench import find_files
from finetune import adapters
from finetune.examples import PackedExamples, Segment, to_segments
from finetune.rows import read_train
from pretrain.models import attention_of, find_model, load_model, load_tokenizer
from pretrain.token_blocks.blocks import IGNORED
from pretrain.training.attention import VARLEN, choose_attention
from scripts.bench.gpu.measures import in_own_process

# Name: (whose, batch size, further settings). "ours" takes blocks, the others examples; trl packs into blocks too.
WAYS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ours": ("ours", 1, {}),
    "padded, batches of 4": ("padded", 4, {}),
    "padded, batches of 8": ("padded", 8, {}),
    "trl, packed": ("trl", 1, {"packing": True, "packing_strategy": "bfd"}),
    "trl, padding-free, batches of 8": ("trl", 8, {"padding_free": True, "max_length": None}),
    "trl, by length, batches of 8": ("trl", 8, {"train_sampling_strategy": "group_by_length"}),
}


@dataclass
class BenchFinetuneSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of results.json and of what is made on the way")
    part: Literal["speed", "leak", "start", "sweep"] = setting("speed", "what is measured")
    data: Path = setting(Path("../shared/data"), help="folder with mmedbench/Train/LANGUAGE.jsonl")
    model_name_or_path: str | None = setting(None, "model and tokenizer; the demo model by default")
    lora: bool = setting(False, "speed: an adapter of rank 16 and not all weights")
    ways: list[str] = setting(list(WAYS), "speed: names of the ways")
    block_size: int = setting(2048, "tokens a block")
    num_steps: int = setting(3, "speed: steps measured of each way and run, after one that is not")
    num_runs: int = setting(5, "speed: runs of each way")
    clock: Literal["wall", "process"] = setting(
        "wall", "speed: process counts the processors' seconds, for machines with other work, with OMP_NUM_THREADS=1"
    )
    num_rows: int = setting(90_000, "start: training rows")
    learning_rates: list[float] = setting([1e-6, 2e-5, 2e-4, 1e-3], "sweep: the rates")
    max_steps: int = setting(40, "sweep: steps at each rate")
    seed: int = setting(0, "of the order of the examples")


def measure_way(
    name: str,
    settings: BenchFinetuneSettings,
    model_path: str,
    segments: list[Segment],
    batch_scale: int = 1,
    num_warmup: int = 1,
) -> dict[str, Any]:
    """One way for some steps, in this process: seconds, tokens and peak memory.

    Args:
        name: of the way.
        settings: of the benchmark.
        model_path: folder of the model.
        segments: all examples.
        batch_scale: times the batch size of the way.
        num_warmup: steps before those that are measured.
    """
    whose, batch_size, more = WAYS[name]
    torch.manual_seed(settings.seed)
    on_gpu = torch.cuda.is_available()
    attention = attention_of(model_path, choose_attention(None, not on_gpu, half_precision=True))
    if whose == "ours":
        more = {**more, "attn_implementation": attention}
    elif whose == "padded" or not attention.startswith(VARLEN):  # trl's makers advise variable-length kernels
        attention = "sdpa"
    model = load_model(model_path, torch.bfloat16 if settings.lora else torch.float32, attention)
    if settings.lora:
        config = adapters.lora_config(model, rank=16, alpha=32, dropout=0.05, targets=[adapters.ALL_LINEAR])
        model = adapters.add_adapter(model, config, seed=settings.seed, activation_checkpointing=False)
    words = {
        "output_dir": str(settings.output_dir / "trainer"),
        "max_steps": settings.num_steps + num_warmup,
        "per_device_train_batch_size": batch_size * batch_scale,
        "learning_rate": 1e-5,
        "bf16": True,
        "use_cpu": not on_gpu,
        "report_to": "none",
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": settings.seed,
        **more,
    }
    trainer = {"ours": _ours, "padded": _padded, "trl": _trl}[whose](model, words, segments, model_path, settings)
    batches: list[tuple[int, int]] = []  # real tokens, all tokens
    collate = trainer.data_collator

    def counted(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(items)
        real = sum(len(ids) for block in items for ids, _ in block) if whose == "ours" else sum(map(_length, items))
        batches.append((real, batch["input_ids"].numel()))
        return batch

    trainer.data_collator = counted
    clock = time.perf_counter if settings.clock == "wall" else time.process_time
    ends: list[float] = []

    def end_step() -> None:
        if on_gpu:
            torch.cuda.synchronize()
        ends.append(clock())

    _after_each_step(trainer, end_step)
    trainer.train()
    seconds = ends[-1] - ends[num_warmup - 1]
    real, processed = np.array(batches[num_warmup : settings.num_steps + num_warmup]).sum(axis=0).tolist()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": seconds, "real": real, "processed": processed, "peak_gib": peak}


def _length(item: dict[str, Any]) -> int:
    return len(item["input_ids"])


def _after_each_step(trainer: Any, function: Callable[[], None]) -> None:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            function()

    trainer.add_callback(Clock())


def _ours(model: Any, words: dict[str, Any], segments: list[Segment], model_path: str, settings: Any) -> Any:
    from finetune.development import FinetuneTrainer
    from finetune.styles import PLAIN
    from finetune.tuning import FinetuneArguments

    tokenizer = load_tokenizer(model_path)
    own = {**words, "activation_checkpointing": words.get("gradient_checkpointing")}  # by transformers' later name too
    return FinetuneTrainer(
        dev_questions=[],
        style=PLAIN,
        model=model,
        args=FinetuneArguments(**own),
        train_dataset=PackedExamples(segments, settings.block_size),
        evaluation={},
        block_size=settings.block_size,
        pad_token_id=tokenizer.pad_token_id,
        processing_class=tokenizer,
        label="bench",
    )


def _padded(model: Any, words: dict[str, Any], segments: list[Segment], model_path: str, settings: Any) -> Any:
    """The published way: random batches, each padded to its longest example."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in segments]
    collator = DataCollatorForSeq2Seq(load_tokenizer(model_path), label_pad_token_id=IGNORED)
    return Trainer(model=model, args=TrainingArguments(**words), train_dataset=rows, data_collator=collator)


def _trl(model: Any, words: dict[str, Any], segments: list[Segment], model_path: str, settings: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    columns = {"input_ids": [ids for ids, _ in segments], "labels": [labels for _, labels in segments]}
    args = SFTConfig(**{"max_length": settings.block_size, "shuffle_dataset": True, **words})
    tokenizer = load_tokenizer(model_path)
    return SFTTrainer(model=model, args=args, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer)


def measure_leak(
    name: str, settings: BenchFinetuneSettings, model_path: str, segments: list[Segment]
) -> dict[str, Any]:
    """Largest difference between an example's mean loss in a batch of this way and its loss alone, float32."""
    whose, batch_size, more = WAYS[name]
    if whose == "ours":
        more = {**more, "attn_implementation": attention_of(model_path, choose_attention(None, True, False))}
    model = load_model(model_path, torch.float32, more.get("attn_implementation", "sdpa")).eval()
    words = {"output_dir": str(settings.output_dir / "trainer"), "report_to": "none", "use_cpu": True, **more}
    words |= {"per_device_train_batch_size": batch_size, "seed": settings.seed, "disable_tqdm": True, "bf16": False}
    trainer = {"ours": _ours, "padded": _padded, "trl": _trl}[whose](model, words, segments, model_path, settings)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    labels = batch.pop("labels")
    positions = batch.get("position_ids")
    known = {tuple(ids.tolist()) for ids, _ in segments}
    differences = []
    with torch.no_grad():
        losses = _losses(model(**batch, use_cache=False).logits, labels)
        model.set_attn_implementation("sdpa")  # which examples alone can take
        for row in range(len(labels)):
            starts = [0] if positions is None else (positions[row] == 0).nonzero().flatten().tolist()
            for start, end in zip(starts, [*starts[1:], labels.shape[1]], strict=True):
                ids = batch["input_ids"][row, start:end]
                if "attention_mask" in batch:
                    ids = ids[batch["attention_mask"][row, start:end].bool()]
                if tuple(ids.tolist()) not in known:
                    continue  # the rest of a block
                own = labels[row : row + 1, start : start + len(ids)].clone()
                own[:, 0] = IGNORED
                count = int((own != IGNORED).sum())
                wanted = _losses(model(input_ids=ids[None]).logits, own).sum() / count
                found = losses[row, start : start + len(ids) - 1].sum() / count
                differences.append(abs(float(found - wanted)))
    return {"largest_difference": max(differences), "num_examples": len(differences)}


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of each token but the first of a row, (B, T - 1), by what stands before it."""
    targets = labels[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )


def useful_speed(name: str, row: dict[str, Any], share: float) -> float:
    """Useful tokens a second of what `measure_way` gave for a way whose `real_share` is `share`."""
    if WAYS[name][2].get("train_sampling_strategy"):
        return row["real"] / row["seconds"]
    return float(row["processed"] / row["seconds"] * share)


def real_share(name: str, segments: list[Segment], block_size: int, batch_scale: int = 1) -> float:
    """Share of a way's tokens that are no padding, over all examples (random batches: the mean of many orders)."""
    whose, batch_size, _ = WAYS[name]
    batch_size = min(batch_size * batch_scale, len(segments))
    lengths = np.array([len(ids) for ids, _ in segments])
    if whose == "ours":
        return float(lengths.sum() / (len(PackedExamples(segments, block_size)) * block_size))
    if whose == "trl":  # packed and padding-free: none; by length: nearly none, as in the batches drawn
        return 1.0
    draw = np.random.default_rng(0)
    padded = 0
    for _ in range(20):
        order = draw.permutation(lengths)[: len(lengths) // batch_size * batch_size].reshape(-1, batch_size)
        padded += order.max(axis=1).sum() * batch_size / order.sum()
    return float(20 / padded)


def all_segments(settings: BenchFinetuneSettings, model_path: str) -> list[Segment]:
    """The examples of all training questions."""
    questions = read_train(settings.data, None, FailedItems())
    return to_segments(questions, load_tokenizer(model_path), settings.block_size, FailedItems())


def leak(settings: BenchFinetuneSettings, model_path: str) -> dict[str, Any]:
    """The largest leak between the examples of the first batch of each way."""
    segments = all_segments(settings, model_path)[:2000]
    return {name: in_own_process(partial(measure_leak, name, settings, model_path, segments)) for name in settings.ways}


def speed(settings: BenchFinetuneSettings, model_path: str) -> dict[str, Any]:
    """All ways in turn, each in a process of its own; tokens a second, peak memory and ratios to ours."""
    segments = all_segments(settings, model_path)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.ways}
    shares = {name: real_share(name, segments, settings.block_size) for name in settings.ways}
    for number in range(settings.num_runs):
        for name in settings.ways:
            row = in_own_process(partial(measure_way, name, settings, model_path, segments))
            row["useful_tokens_per_second"] = useful_speed(name, row, shares[name])
            found[name].append(row)
            log.info(f"run {number + 1}, {name}: {row['useful_tokens_per_second']:.1f} useful tokens/s, {row}")
        write_json(settings.output_dir / "results.json", _summary(found, shares))
    return _summary(found, shares)


def _summary(found: dict[str, list[dict[str, Any]]], shares: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "useful_tokens_per_second": round(statistics.median(r["useful_tokens_per_second"] for r in rows), 1),
            "ours_over_it_by_run": [
                round(mine["useful_tokens_per_second"] / row["useful_tokens_per_second"], 3)
                for mine, row in zip(found["ours"], rows, strict=True)
            ],
            "peak_gib": round(max(row["peak_gib"] for row in rows), 2),
            "real_share": round(shares[name], 3),
            "runs": rows,
        }
        for name, rows in found.items()
    }


def make_rows(settings: BenchFinetuneSettings) -> Path:
    """A folder of `num_rows` training rows: the real ones again and again, each with a number of its own."""
    folder = settings.output_dir / f"rows-{settings.num_rows}"
    files = find_files(settings.data, "Train")
    (folder / "Train").mkdir(parents=True, exist_ok=True)
    for path in files.values():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        with open(folder / "Train" / path.name, "w", encoding="utf-8") as file:
            for number, row in enumerate(islice(cycle(rows), settings.num_rows // len(files))):
                row = {**row, "question": f"{row['question']} ({number})"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "Test").unlink(missing_ok=True)
    (folder / "Test").symlink_to(next(iter(find_files(settings.data, "Test").values())).resolve().parent)
    return folder


def start(settings: BenchFinetuneSettings, model_path: str) -> dict[str, Any]:
    """Seconds from the start to each line of the log, and the peak memory, of a training of one step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(model_path)
    model = settings.output_dir / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes)).save_pretrained(
        model
    )
    tokenizer.save_pretrained(model)
    words = ["--data", make_rows(settings), "--model_name_or_path", model, "--block_size", settings.block_size]
    words += ["--output_dir", settings.output_dir / f"run-{int(time.time())}", "--max_steps", 1, "--logging_steps", 1]
    words += ["--report_to", "none", "--dev_share", 0.001, "--per_device_train_batch_size", 1]
    lines, begin = [], time.monotonic()
    command = [sys.executable, str(REPOSITORY / "finetune" / "train.py"), *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as training:
        for line in training.stderr or ():
            lines.append([round(time.monotonic() - begin, 1), line.strip()[:200]])
            log.info(f"{lines[-1][0]} s: {lines[-1][1]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"lines": [line for line in lines if not line[1].startswith("failed")], "peak_gib": round(peak, 2)}


def sweep(settings: BenchFinetuneSettings, model_path: str) -> dict[str, Any]:
    """Dev loss by language before training and after it at each rate."""
    found: dict[str, Any] = {}
    for rate in settings.learning_rates:
        folder = settings.output_dir / f"lora-{rate:g}"
        words = ["--lora", "true", "--data", settings.data, "--model_name_or_path", model_path, "--output_dir", folder]
        words += ["--learning_rate", rate, "--max_steps", settings.max_steps, "--block_size", settings.block_size]
        words += ["--per_device_train_batch_size", 1, "--per_device_eval_batch_size", 1, "--report_to", "none"]
        words += ["--dev_share", 0.002]
        code = subprocess.run([sys.executable, str(REPOSITORY / "finetune" / "train.py"), *map(str, words)]).returncode
        if code not in (0, 5):
            sys.exit(code)
        result = read_json(folder / "run.json")["result"]
        found["before"] = result["before"]["loss"]
        found[f"{rate:g}"] = result["after"]["loss"]
    for name, losses in found.items():
        losses["mean"] = statistics.fmean(losses.values())
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in losses.values()) + " |")
    return found


def main() -> int:
    (settings,) = parse(__doc__, BenchFinetuneSettings)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    model_path = find_model(settings.model_name_or_path)
    result = {"speed": speed, "leak": leak, "start": start, "sweep": sweep}[settings.part](settings, model_path)
    write_json(settings.output_dir / "results.json", {**result, "settings": asdict(settings)})
    print(
        json.dumps({k: {n: v for n, v in r.items() if n != "runs"} for k, r in result.items() if isinstance(r, dict)})
    )
    return 0


if __name__ == "__main__":
    run(main)
