"""Web pages and merging: speed, and memory as the input grows.

    python scripts/bench/bench_web.py --output_dir runs/bench-web [--pages 1000 4000] [--megabytes 1000 4000]

Real documents of DATA/documents are wrapped as web pages with navigation around them and put into one WARC archive
for web.py, and written as one file of JSON lines for merge.py (by a mapping). One process each; the memory is the
highest of any process of the command.
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
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError
from configs.files import REPOSITORY, read_json, write_json
from configs.progress import log
from configs.settings import parse, setting

NAVIGATION = "".join(f'<li><a href="/{n}">Section {n}</a></li>' for n in range(40))
POLL_SECONDS = 0.2
MAPPING = """format: jsonl
text: ["{text}"]
lang: "{lang}"
source: "{source}"
licence: "{licence}"
id: "{number}-{id}"
"""


@dataclass
class BenchWebSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated input, of what is made of it, and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/*.jsonl")
    pages: list[int] = setting([1000, 4000], help="pages of the archives; 0: none")
    megabytes: list[int] = setting([1000, 4000], help="sizes of the files to merge, 10**6 bytes; 0: none")


def rows_for_ever(data: Path) -> Iterator[dict[str, Any]]:
    """The real documents of all languages in turn, again and again."""
    paths = sorted((data / "documents").glob("*.medical.jsonl"))
    if not paths:
        raise MissingInputError("no documents were found", where=data / "documents", todo="give --data")
    rows = [[json.loads(line) for line in path.open(encoding="utf-8")] for path in paths]
    for number in itertools.count():
        for language in rows:
            yield language[number % len(language)]


def write_archive(path: Path, data: Path, num_pages: int) -> None:
    with open(path, "wb") as file:
        for number, row in enumerate(itertools.islice(rows_for_ever(data), num_pages)):
            paragraphs = "".join(f"<p>{line}</p>" for line in row["text"].split("\n"))
            page = (
                f'<html lang="{row["lang"]}"><head><title>Page {number}</title></head><body><nav><ul>{NAVIGATION}</ul>'
                f"</nav><article>{paragraphs}</article><footer><ul>{NAVIGATION}</ul></footer></body></html>"
            ).encode()
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/{number}\r\n"
                f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + block + b"\r\n\r\n", 1))


def write_lines(path: Path, data: Path, megabytes: int) -> None:
    size = 0
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(rows_for_ever(data)):
            size += file.write(json.dumps({**row, "number": number}) + "\n")
            if size >= megabytes * 10**6:
                return


def measure(*words: str) -> dict[str, Any]:
    """Run a command of data_collection with one process; its seconds and the highest memory of any of its processes."""
    start = time.monotonic()
    command = [sys.executable, *words, "--num_processes", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    peaks: dict[str, int] = {}
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    status = (folder / "status").read_text()
                    found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
                    peaks[folder.name] = max(found, default=0)
            except (OSError, ValueError):
                continue  # it has ended
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - start
    return {"code": process.returncode, "seconds": round(seconds, 1), "peak_mib": round(max(peaks.values()) / 1024)}


def main() -> int:
    settings = parse(__doc__, BenchWebSettings)[0]
    folder = settings.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"web": [], "merge": []}
    for num_pages in filter(None, settings.pages):
        write_archive(folder / "pages.warc.gz", settings.data, num_pages)
        shutil.rmtree(folder / "web", ignore_errors=True)
        script = str(REPOSITORY / "data_collection" / "web.py")
        found = measure(script, "--input", str(folder / "pages.warc.gz"), "--output_dir", str(folder / "web"))
        kept = read_json(folder / "web" / "run.json")["result"]["kept"]
        results["web"].append({"pages": num_pages, "kept": kept, **found})
        log.info(f"web: {results['web'][-1]}")
    for megabytes in filter(None, settings.megabytes):
        write_lines(folder / "rows.jsonl", settings.data, megabytes)
        (folder / "rows.yaml").write_text(MAPPING, encoding="utf-8")
        shutil.rmtree(folder / "merge", ignore_errors=True)
        script = str(REPOSITORY / "data_collection" / "merge.py")
        found = measure(
            script,
            "--mapping",
            f"{folder / 'rows.yaml'}={folder / 'rows.jsonl'}",
            "--output_dir",
            str(folder / "merge"),
        )
        kept = read_json(folder / "merge" / "run.json")["result"]["kept"]
        results["merge"].append({"megabytes": megabytes, "kept": kept, **found})
        log.info(f"merge: {results['merge'][-1]}")
    write_json(folder / "results.json", results)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run(main)
