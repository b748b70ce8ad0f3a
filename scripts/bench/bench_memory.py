"""Memory of the steps of data collection as their input grows: the peak of the largest process at each size.

    python scripts/bench/bench_memory.py --output_dir runs/bench-memory [--steps web] [--megabytes 1000 4000]

Documents are put together from real sentences, a tenth of them exact and a tenth edited copies of others; some hold a
test question, and their sources are many, most of them small. filter (which keeps English), dedup and merge read them,
merge once as files of documents and once as one file of JSON lines by a mapping; decontaminate reads what dedup wrote,
report what decontaminate wrote; web reads real documents with navigation around them, as pages of a WARC archive. One
process each.
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

import gzip
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import FailedItems, MissingInputError
from configs.files import REPOSITORY, read_json, write_json
from configs.languages import LANGUAGES
from configs.progress import log
from configs.settings import parse, setting
from scripts.bench.bench_dedup import edited

STEPS = ("filter", "dedup", "decontaminate", "report", "merge", "mapping", "web")
SHARD_BYTES = 32_000_000
NUM_EARLIER = 5000  # documents that copies are made of
NAVIGATION = "".join(f'<li><a href="/{n}">Section {n}</a></li>' for n in range(40))
MAPPING = """format: jsonl
text: ["{text}"]
lang: "{lang}"
source: "{source}"
id: "{id}"
"""
POLL_SECONDS = 0.05


@dataclass
class BenchMemorySettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated input, of what is made of it, and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/LANG.medical.jsonl and mmedbench/Test")
    steps: list[str] = setting(list(STEPS), help=f"what to measure: {', '.join(STEPS)}")
    megabytes: list[int] = setting([1000, 4000], help="sizes of the generated text, in MB of UTF-8")
    pages: list[int] = setting([1000, 4000], help="sizes of the web archives, in pages")
    tokenizer: Path | None = setting(None, help="folder of a tokenizer, with which the report counts tokens")

    def problems(self) -> list[str]:
        return [f"steps wants {', '.join(STEPS)}, found {step}" for step in self.steps if step not in STEPS]


def read_documents(data: Path) -> dict[str, list[str]]:
    """The real texts of each language."""
    found = {}
    for lang in LANGUAGES:
        paths = [data / "documents" / f"{lang}.{kind}.jsonl" for kind in ("medical", "general")]
        lines = [line for path in paths if path.exists() for line in path.read_bytes().splitlines()]
        if lines:
            found[lang] = [json.loads(line)["text"] for line in lines]
    if not found:
        raise MissingInputError("no documents were found", where=data / "documents", todo="give their folder to --data")
    return found


def new_documents(data: Path, draw: random.Random) -> Iterator[tuple[str, str]]:
    """(language, text) of documents without end."""
    from data_collection.overlaps.contamination import question_text, read_test_questions

    sentences = {
        lang: [s for text in texts for s in re.findall(r".{20,400}?[.!?。！？]+\s*", text, re.DOTALL)]
        for lang, texts in read_documents(data).items()
    }
    questions = [(question.lang, question_text(question)) for question in read_test_questions([data], FailedItems())]
    earlier: list[tuple[str, str]] = []
    while True:
        kind = draw.random()
        if kind < 0.2 and earlier:
            lang, text = draw.choice(earlier)
            yield lang, text if kind < 0.1 else edited(text, lang, 0.02, draw)
            continue
        lang = draw.choice(list(sentences))
        parts = draw.choices(sentences[lang], k=draw.randint(5, 30))
        if kind > 0.99:
            lang, question = draw.choice(questions)
            parts.insert(len(parts) // 2, f"\n{question}\n")
        if len(earlier) < NUM_EARLIER:
            earlier.append((lang, "".join(parts)))
        else:
            earlier[draw.randrange(NUM_EARLIER)] = (lang, "".join(parts))
        yield lang, "".join(parts)


def write_corpus(folder: Path, data: Path, megabytes: int) -> dict[str, int]:
    """Parquet shards of documents."""
    from data_collection.corpus.documents import Document, DocumentWriter

    draw = random.Random(2)  # noqa: S311 - no secrets here
    documents = new_documents(data, draw)
    written = number = 0
    for shard_number in itertools.count():
        if written >= megabytes * 1e6:
            return {"documents": number, "bytes": written}
        size = 0
        with DocumentWriter(folder / f"{shard_number:04d}.parquet", {}) as writer:
            while size < SHARD_BYTES and written + size < megabytes * 1e6:
                lang, text = next(documents)
                source = f"site-{int(draw.paretovariate(0.5)) % 10**9}.example"
                writer.write(Document(id=str(number), text=text, lang=lang, source=source))
                number += 1
                size += len(text.encode())
        written += size


def write_lines(path: Path, corpus: Path) -> None:
    """The documents of a corpus as one file of JSON lines, with its mapping beside it."""
    from data_collection.corpus.documents import find_shards, read_shard

    path.with_suffix(".yaml").write_text(MAPPING, encoding="utf-8")
    with open(path, "w", encoding="utf-8") as file:
        for shard in find_shards([corpus]):
            for document in read_shard(shard, FailedItems()):
                row = {name: getattr(document, name) for name in ("id", "text", "lang", "source")}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_archive(path: Path, data: Path, num_pages: int) -> None:
    """A WARC archive of real documents as pages, those of all languages in turn, again and again."""
    texts = list(read_documents(data).items())
    with open(path, "wb") as file:
        for number in range(num_pages):
            lang, some = texts[number % len(texts)]
            paragraphs = "".join(f"<p>{line}</p>" for line in some[number // len(texts) % len(some)].split("\n"))
            page = (
                f'<html lang="{lang}"><head><title>Page {number}</title></head><body><nav><ul>{NAVIGATION}</ul>'
                f"</nav><article>{paragraphs}</article><footer><ul>{NAVIGATION}</ul></footer></body></html>"
            ).encode()
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://site-{number % 997}.example/{number}\r\n"
                f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + block + b"\r\n\r\n", 1))


def measured(step: str, *words: object) -> dict[str, Any]:
    """Run a step with one process; its wall and processor seconds, and the peak of its largest process, in MiB.

    The processes are looked at while they live: what the system counts for children begins with the memory of the
    process that started them, and leaves out those that nobody waited for, as those that parse pages.
    """
    start = time.monotonic()
    command = [sys.executable, str(REPOSITORY / "data_collection" / f"{step}.py"), *map(str, words)]
    process = subprocess.Popen(
        [*command, "--num_processes", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    peak, waited = 0, 0
    while not waited:
        time.sleep(POLL_SECONDS)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    found = re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())
                    peak = max(peak, int(found[1]) if found else 0)
            except (OSError, ValueError):
                continue  # it has ended
        waited, status, usage = os.wait4(process.pid, os.WNOHANG)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(peak / 1024),
    }


def measure_documents(settings: BenchMemorySettings, megabytes: int) -> dict[str, dict[str, Any]]:
    """What each step takes on a corpus of a size."""
    folder = settings.output_dir / f"{megabytes}"
    if not (folder / "made.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "made.json", write_corpus(folder / "in", settings.data, megabytes))
    log.info(f"{megabytes} MB: {read_json(folder / 'made.json')}")
    tokenizer = ["--tokenizer", settings.tokenizer] if settings.tokenizer else []
    lines = folder / "lines.jsonl"
    steps = {
        "filter": ("filter", "--input", folder / "in", "--lang", "en"),
        "dedup": ("dedup", "--input", folder / "in"),
        "decontaminate": ("decontaminate", "--input", folder / "dedup", "--test", settings.data),
        "report": ("report", "--input", folder / "decontaminate", *tokenizer),
        "merge": ("merge", "--input", folder / "in"),
        "mapping": ("merge", "--mapping", f"{lines.with_suffix('.yaml')}={lines}"),
    }
    found: dict[str, dict[str, Any]] = {}
    for name in filter(settings.steps.__contains__, steps):
        if name == "mapping":
            write_lines(lines, folder / "in")
        shutil.rmtree(folder / name, ignore_errors=True)
        found[name] = measured(*steps[name], "--output_dir", folder / name)
        found[name]["result"] = read_json(folder / name / "run.json")["result"]
        log.info(f"{megabytes} MB, {name}: {found[name]}")
        shutil.rmtree(folder / "dedup" / "work", ignore_errors=True)
    return found


def measure_pages(settings: BenchMemorySettings, num_pages: int) -> dict[str, Any]:
    """What web.py takes on an archive of a size."""
    archive, output = settings.output_dir / f"{num_pages}.warc.gz", settings.output_dir / f"web-{num_pages}"
    write_archive(archive, settings.data, num_pages)
    shutil.rmtree(output, ignore_errors=True)
    found = measured("web", "--input", archive, "--output_dir", output)
    found["result"] = read_json(output / "run.json")["result"]
    log.info(f"{num_pages} pages, web: {found}")
    return found


def main() -> int:
    settings = parse(__doc__, BenchMemorySettings)[0]
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    path = settings.output_dir / "results.json"
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    if "web" in settings.steps:
        results["web"] = {num_pages: measure_pages(settings, num_pages) for num_pages in settings.pages}
    if set(settings.steps) - {"web"}:
        for megabytes in settings.megabytes:
            for step, found in measure_documents(settings, megabytes).items():
                results.setdefault(step, {})[str(megabytes)] = found
                write_json(path, results)
    write_json(path, results)
    print(json.dumps(results, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    run(main)
