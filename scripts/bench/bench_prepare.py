"""How fast documents become token blocks, against bare tokenizers.encode_batch, and how much memory that takes.

    python scripts/bench/bench_prepare.py --output_dir runs/bench-prepare [--data ../shared/data] [--model MODEL]
    python scripts/bench/bench_prepare.py --output_dir runs/bench-prepare --megabytes 1000 4000 --bare false \
        --repeats 1 --whole_words true

The documents of DATA/documents, shuffled and repeated to `--megabytes` of UTF-8, are written to
`--num_files` Parquet files. Bare: a process that has the texts in memory already and calls encode_batch on all cores,
timed without its start. Ours: the whole of prepare.py, from Parquet files to the index, timed with and without the
start of Python and its imports (the time of the same command on one document), and by processor time, which other work
on the machine changes less (without start as well). --model may be a folder that holds a
tokenizer alone (scripts/download.py tokenizers). With --whole_words a tokenizer that splits at white space only stands
in for the model's, so that the memory of sizes that would take an hour can be seen: documents, tables, packing.
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
import os
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from configs.errors import MissingInputError
from configs.files import REPOSITORY, read_json, write_json
from configs.settings import parse, setting

BATCH = 1000  # documents a call of encode_batch


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated files and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/LANG.medical.jsonl and LANG.general.jsonl")
    model: Path = setting(REPOSITORY / "models" / "smollm2-135m", help="folder with tokenizer.json")
    megabytes: list[int] = setting([60], help="sizes of the text, in MB of UTF-8")
    whole_words: bool = setting(False, help="split at white space instead of --model's tokenizer: for memory only")
    num_files: int = setting(8, help="Parquet files that the text is in")
    bare: bool = setting(True, help="also time encode_batch, on the same text")
    repeats: int = setting(2, help="runs of each; the fastest counts")
    bare_on: Path | None = setting(None, help="for the benchmark's own process: files to time encode_batch on")

    def problems(self) -> list[str]:
        return [f"megabytes wants sizes of 1 or more, found {self.megabytes}"] if min(self.megabytes) < 1 else []


def write_texts(data: Path, folder: Path, num_bytes: int, num_files: int) -> int:
    """Write documents of all languages, repeated, to Parquet files of about equal size; return the texts' bytes."""
    from configs.errors import FailedItems
    from data_collection.corpus.documents import DocumentWriter, find_shards, read_shard

    if not (data / "documents").is_dir():
        raise MissingInputError("no documents", where=data, wanted="documents/LANG.medical.jsonl", todo="--data")
    documents = [
        document
        for shard in find_shards([data / "documents"])
        for document in read_shard(shard, FailedItems(), shard.name.split(".")[0])
    ]
    random.Random(0).shuffle(documents)  # noqa: S311 - no secret
    written = place = 0
    for number in range(num_files):
        with DocumentWriter(folder / f"{number}.parquet", {}) as writer:
            while written < num_bytes * (number + 1) / num_files:
                document = documents[place % len(documents)]
                document.id = str(place)
                writer.write(document)
                written += len(document.text.encode())
                place += 1
    return written


def with_configuration(model: Path, folder: Path) -> Path:
    """The folder of a model: itself, or for a tokenizer alone a copy with the configuration that prepare.py reads."""
    if (model / "config.json").is_file():
        return model
    shutil.copytree(model, folder, dirs_exist_ok=True)
    vocabulary = read_json(model / "tokenizer.json")
    num_ids = 1 + max([*vocabulary["model"]["vocab"].values(), *(token["id"] for token in vocabulary["added_tokens"])])
    write_json(folder / "config.json", {"model_type": "llama", "vocab_size": num_ids})
    return folder


def whole_words(folder: Path) -> Path:
    """The folder of a tokenizer that splits at white space, with a configuration."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unknown>": 0, "<end>": 1}, unk_token="<unknown>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")  # noqa: S106
    fast.save_pretrained(folder)
    write_json(folder / "config.json", {"model_type": "llama", "vocab_size": 2})
    return folder


def time_bare(model: Path, folder: Path) -> None:
    """Print seconds and tokens of encode_batch over the files' texts."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    texts = [text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    start, cpu = time.perf_counter(), time.process_time()
    num_tokens = 0
    for first in range(0, len(texts), BATCH):
        encoded = tokenizer.encode_batch(texts[first : first + BATCH], add_special_tokens=False)
        num_tokens += sum(len(encoding.ids) for encoding in encoded)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "num_tokens": num_tokens}))


def time_ours(model: Path, folder: Path, output_dir: Path) -> dict:
    """Seconds of prepare.py by the clock and of processors, its largest process in MiB, and what it counted."""
    shutil.rmtree(output_dir, ignore_errors=True)
    words = ["--input", folder, "--output_dir", output_dir, "--model_name_or_path", model, "--lang", "en"]
    script = str(REPOSITORY / "pretrain" / "prepare.py")
    # A process of its own, whose children's largest peak is that of the command's processes.
    measured = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_maxrss // 1024, used.ru_utime + used.ru_stime)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measured, sys.executable, script, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - start
    peak_mib, cpu_seconds = done.stdout.split()
    index = read_json(output_dir / "index.json")
    split = index["splits"]["train"]
    return {
        "seconds": seconds,
        "cpu_seconds": float(cpu_seconds),
        "peak_mib": int(peak_mib),
        "num_tokens": index["num_tokens"],
        "documents": index["num_documents"],
        "blocks": split["num_blocks"],
        "padding": split["padding_share"],
    }


def main() -> int:
    settings = parse(__doc__, BenchSettings)[0]
    if settings.bare_on:
        time_bare(settings.model, settings.bare_on)
        return 0
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    if settings.whole_words:
        model = whole_words(settings.output_dir / "whole-words")
    else:
        model = with_configuration(settings.model, settings.output_dir / settings.model.name)
    one = settings.output_dir / "one"
    write_texts(settings.data, one, 1, 1)
    starts = [time_ours(model, one, settings.output_dir / "blocks") for _ in range(settings.repeats)]
    start, cpu_start = (min(run[name] for run in starts) for name in ("seconds", "cpu_seconds"))
    print(f"{model.name}, {len(os.sched_getaffinity(0))} cores; prepare.py on one document: {start:.1f} s")
    print("| MB | tokens | bare, tokens/s | ours, of bare | without start | by processor time | padding | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    results = {}
    for size in settings.megabytes:
        folder = settings.output_dir / f"{size}"
        shutil.rmtree(folder, ignore_errors=True)
        write_texts(settings.data, folder, size * 10**6, settings.num_files)
        bare, ours = [], []
        for _ in range(settings.repeats):  # by turns, so that both see the same machine
            if settings.bare:
                command = [sys.executable, __file__, "--model", str(model), "--bare_on", str(folder)]
                command += ["--output_dir", str(settings.output_dir)]
                bare.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
            ours.append(time_ours(model, folder, settings.output_dir / "blocks"))
        num_tokens = ours[0]["num_tokens"] - ours[0]["documents"]  # less the end tokens, which bare has not
        seconds, cpu_seconds = (min(run[name] for run in ours) for name in ("seconds", "cpu_seconds"))
        cells = [f"{size}", f"{num_tokens:,}", "-", f"{num_tokens / seconds:,.0f} tokens/s", "-", "-"]
        if bare:
            bare_seconds, bare_cpu = (min(run[name] for run in bare) for name in ("seconds", "cpu_seconds"))
            ratios = bare_seconds / seconds, bare_seconds / (seconds - start), bare_cpu / (cpu_seconds - cpu_start)
            cells[2:] = [f"{num_tokens / bare_seconds:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        cells += [f"{ours[0]['padding']:.2%}", str(max(run["peak_mib"] for run in ours))]
        print("| " + " | ".join(cells) + " |", flush=True)
        results[size] = {"bare": bare, "ours": ours}
        shutil.rmtree(settings.output_dir / "blocks")
    write_json(settings.output_dir / "results.json", {"start": starts, "sizes": results})
    return 0


if __name__ == "__main__":
    run(main)
