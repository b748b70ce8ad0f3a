"""Saved web pages (HTML files, WARC archives) as documents; each page is parsed in a process that may die of it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import multiprocessing
import re
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint
from configs.progress import log
from data_collection.corpus.documents import Document, DocumentWriter, Shard, to_document
from data_collection.corpus.jobs import shard_files
from data_collection.corpus.totals import Tally
from data_collection.corpus.work import unique_names, walk
from data_collection.selection.detection import detect
from data_collection.sources.html_text import extract_page

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
WARC_SUFFIXES = (".warc", ".warc.gz")
NUM_FILES_PER_SHARD = 500
NUM_PAGES_PER_PROCESS = 200  # parsers keep some of what they read; a fresh one costs a twentieth of a second
NUM_PAGES_PER_GROUP = 200  # of Parquet: with the writer's own groups memory would grow up to some 10,000 pages
PROGRESS_SECONDS = 60
MAX_CLOCK_FACTOR = 30  # a page may take this many times its CPU time by the clock
REJECTED_COLUMNS = (pa.field("reason", pa.string()),)


@dataclass(frozen=True)
class WebRules:
    """How pages are read.

    Attributes:
        lang: code of the documents' language, empty to have it detected.
        source: the documents' source, empty for the host of each page's address.
        licence: the licence of pages that state none.
        max_mib: size of a page, as stored and as decompressed, MiB.
        max_seconds: CPU time for a page.
        max_gib: address space of the process that parses it, GiB.
    """

    lang: str
    source: str
    licence: str
    max_mib: float
    max_seconds: float
    max_gib: float

    def identity(self) -> dict[str, Any]:
        """All that decides what comes out."""
        return {**vars(self), "trafilatura": importlib.metadata.version("trafilatura")}

    @property
    def max_bytes(self) -> int:
        return int(self.max_mib * 2**20)


@dataclass(frozen=True)
class Page:
    """One saved page.

    Attributes:
        where: file, or WARC file:record.
        id: id of its document.
        html: the bytes, of which `max_bytes + 1` at most were read.
        url: its address, empty where only the page can tell.
        headers: of HTTP, lower-case names: content-type, content-encoding, transfer-encoding.
    """

    where: str
    id: str
    html: bytes
    url: str
    headers: dict[str, str]


# --- input


def find_web_shards(inputs: Sequence[str | Path]) -> list[Shard]:
    """The shards of files and folders: each WARC file, and up to `NUM_FILES_PER_SHARD` HTML files of a folder.

    Raises:
        MissingInputError: an input does not exist, or holds no such files.
    """
    warcs: list[tuple[Path, Path]] = []
    pages: dict[Path, list[Path]] = {}
    for path, root in walk(inputs, HTML_SUFFIXES + WARC_SUFFIXES):
        if path.name.lower().endswith(WARC_SUFFIXES):
            warcs.append((path, root))
        else:
            pages.setdefault(root, []).append(path)
    found = [((path,), "warc", root, path) for path, root in warcs]
    for root, paths in pages.items():
        for start in range(0, len(paths), NUM_FILES_PER_SHARD):
            label = root / f"{root.resolve().name}-html"
            found.append((tuple(paths[start : start + NUM_FILES_PER_SHARD]), "html", root, label))
    if not found:
        raise MissingInputError(
            "no web pages were found",
            where=", ".join(map(str, inputs)),
            wanted=", ".join(HTML_SUFFIXES + WARC_SUFFIXES),
            todo="give a folder that holds saved pages or WARC files to --input",
        )
    names = unique_names([(label, root) for _, _, root, label in found], WARC_SUFFIXES)
    return [Shard(name, *rest) for name, (*rest, _) in zip(names, found, strict=True)]


def read_pages(shard: Shard, max_bytes: int, failed: FailedItems, passed_over: Counter[str]) -> Iterator[Page]:
    """The pages of a shard; WARC records that are no pages are counted in `passed_over` by what they are."""
    if shard.kind == "warc":
        yield from _warc_pages(shard, max_bytes, failed, passed_over)
        return
    for path in shard.paths:
        try:
            with open(path, "rb") as file:
                html = file.read(max_bytes + 1)
        except OSError as error:
            failed.add(path, f"cannot be read: {error}")
        else:
            yield Page(str(path), path.relative_to(shard.root).as_posix(), html, "", {})


def _warc_pages(shard: Shard, max_bytes: int, failed: FailedItems, passed_over: Counter[str]) -> Iterator[Page]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    path, number = shard.paths[0], 0
    wanted = WarcRecordType.response | WarcRecordType.resource
    try:
        with open(path, "rb") as file:
            # Nothing is decoded here: a decompression bomb is for the process that may die of it.
            for number, record in enumerate(ArchiveIterator(file, record_types=wanted, auto_decode="none"), 1):
                is_response = record.record_type == WarcRecordType.response
                headers = record.http_headers if is_response else record.headers
                if not len(record.headers):
                    failed.add(path, f"cut off in record {number}")
                    continue
                if headers is None:
                    passed_over["not HTTP"] += 1
                    continue
                kept = {name.lower(): value for name, value in headers.items()}
                kind = kept.get("content-type", "text/html").lower()
                if is_response and record.http_headers.status_code not in (200, 203):
                    passed_over[f"HTTP status {record.http_headers.status_code}"] += 1
                elif "html" not in kind:
                    passed_over["not HTML"] += 1
                else:
                    names = ("content-type", "content-encoding", "transfer-encoding")
                    html = record.reader.read(max_bytes + 1)
                    if len(html) < min(record.content_length, max_bytes + 1):
                        failed.add(path, f"cut off in record {number}")
                        continue
                    yield Page(
                        f"{path}:{number}",
                        f"{shard.name}-{number}",
                        html,
                        record.headers.get("WARC-Target-URI") or "",
                        {name: kept[name] for name in names if name in kept},
                    )
    except (OSError, EOFError, ValueError) as error:
        failed.add(path, f"cannot be read after record {number}: {error}")


# --- parsing, in a process that may die of it


def _parse_pages(connection: Any, rules: WebRules) -> None:
    """The life of a parsing process: limits first, then pages until there are no more."""
    num_bytes = int(rules.max_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)  # the libraries' words on broken pages
    while True:
        try:
            head, html = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except EOFError:
            return
        # The system ends the process when the time is over, whatever C code it is in, also when nobody waits for it.
        # CPU time, so that a busy machine loses no pages; the clock is for a process that waits for ever.
        signal.setitimer(signal.ITIMER_PROF, rules.max_seconds)
        signal.setitimer(signal.ITIMER_REAL, MAX_CLOCK_FACTOR * rules.max_seconds)
        try:
            answer = extract_page(html, head["url"], head["headers"], rules.max_bytes)
        except MemoryError:
            answer = {"failure": f"it needs more than {rules.max_gib:g} GiB"}
        except Exception as error:  # hostile pages make the parsers raise whatever there is
            answer = {"failure": f"the parser failed: {type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(answer).encode())


class PageParser:
    """Parses pages in a process of its own, which is replaced when it dies and after `NUM_PAGES_PER_PROCESS` pages."""

    def __init__(self, rules: WebRules):
        self._rules = rules
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["trafilatura", "charset_normalizer", "data_collection.sources.web_pages"])
        self._process: Any = None
        self._num_pages = 0

    def parse(self, page: Page) -> dict[str, Any]:
        """What `extract_page` gives, or {"failure": reason}."""
        if len(page.html) > self._rules.max_bytes:
            return {"failure": f"larger than {self._rules.max_mib:g} MiB"}
        if self._num_pages >= NUM_PAGES_PER_PROCESS:
            self.close()
        if self._process is None:
            self._connection, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_parse_pages, args=(theirs, self._rules), daemon=True)
            self._process.start()
            theirs.close()
            self._num_pages = 0
        self._num_pages += 1
        try:
            self._connection.send_bytes(json.dumps({"url": page.url, "headers": page.headers}).encode())
            self._connection.send_bytes(page.html)
            return json.loads(self._connection.recv_bytes())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self.close()
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return {"failure": f"it took more than {self._rules.max_seconds:g} s"}
        name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return {"failure": f"the parser crashed ({name})"}

    def close(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.join()
            self._process = None


# --- a shard


def read_web_shard(shard: Shard, failed: FailedItems, output_dir: Path, rules: WebRules) -> dict[str, Any]:
    """Write a shard's documents; return the numbers for its marker."""
    passed_over: Counter[str] = Counter()
    tally = Tally()
    num_pages = 0
    kept_path, rejected_path = shard_files(output_dir, shard)
    made_by = {"stage": "web", "fingerprint": fingerprint({**rules.identity(), **shard.identity()})}
    last_said = time.monotonic()
    with (
        closing(PageParser(rules)) as parser,
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for page in read_pages(shard, rules.max_bytes, failed, passed_over):
            num_pages += 1
            if time.monotonic() - last_said > PROGRESS_SECONDS:
                last_said = time.monotonic()
                log.info(f"{shard.name}: {num_pages:,} pages")
            found = parser.parse(page)
            if "failure" in found:
                failed.add(page.where, found["failure"])
                continue
            document = _document(page, found, rules)
            reason = "" if any(map(str.isalnum, document.text)) else "no_text"
            tally.add(document, reason)
            if reason:
                rejected.write(document, reason=reason)
            else:
                kept.write(document)
                if kept.num_documents % NUM_PAGES_PER_GROUP == 0:
                    kept.flush()
    return {**tally.numbers(), "passed_over": dict(passed_over)}


def _document(page: Page, found: dict[str, Any], rules: WebRules) -> Document:
    text, url = found["text"], found["url"]
    host = re.match(r"https?://(?:www\.)?([^/:?#]+)", url)
    row = {
        "text": text,
        "lang": rules.lang or detect(text),
        "source": rules.source or (host[1].lower() if host else ""),
        "licence": found["licence"] or rules.licence,
        "meta": {"url": url, **found["meta"]},
    }
    return to_document(row, page.id)
