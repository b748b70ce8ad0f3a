"""A PDF book as one document, read page by page in processes of its own that cannot take the others down."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.files import Journal, file_identity, fingerprint, read_json, sha256_file, write_json
from configs.languages import LANGUAGES
from configs.progress import log
from configs.records import check_identity
from data_collection.book_language import detect_language
from data_collection.documents import Document, DocumentWriter
from data_collection.matter import front_and_back, is_repeated
from data_collection.pages import Page, PageRules, is_garbage, read_page
from data_collection.paragraphs import drop_running_lines, page_texts
from data_collection.work import remove_half_written

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

PROGRESS_SECONDS = 60
PAGES_PER_PROCESS = 100  # then a new process goes on with the book, so that nothing PDFium keeps can add up
MIN_CONFIDENCE = 30.0  # %; pages of which Tesseract is less sure are pictures, or in another script
LIMITS = ("max_seconds_per_page", "max_seconds_per_book", "max_gib_per_process")
PAGE_BREAK = "\n\n"
_MORE = 75  # exit code of a process that leaves pages to the next one


@dataclass(frozen=True)
class Book:
    """A PDF and the name of its output."""

    name: str
    path: Path


@dataclass(frozen=True)
class ReadingRules:
    """How books are read. All but the limits, which decide whether pages are read, decide what comes out.

    Attributes:
        lang: code of the books' language, or "auto".
        method: as in `PageRules`.
        dpi: as in `PageRules`.
        max_megapixels: as in `PageRules`.
        models: Tesseract's models that may be used; none for the method "text".
        source: the documents' source.
        licence: the documents' licence.
        max_seconds_per_page: time limit of a page.
        max_seconds_per_book: time limit of a book.
        max_gib_per_process: limit of the address space of a process, which holds one page at a time, GiB.
    """

    lang: str
    method: str
    dpi: int
    max_megapixels: float
    models: tuple[str, ...]
    source: str
    licence: str
    max_seconds_per_page: float
    max_seconds_per_book: float
    max_gib_per_process: float

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in LIMITS}

    def of_pages(self, lang: str) -> PageRules:
        """How pages of a language are read."""
        model = LANGUAGES[lang].tesseract
        vertical = f"{model}_vert" if f"{model}_vert" in self.models else ""
        return PageRules(self.method, model, vertical, self.dpi, self.max_megapixels)


# --- one book, in its own process


class Unreadable(Exception):
    """A file that is no PDF, one that wants a password, or one whose language cannot be told."""


def read_pages(book: Book, rules: ReadingRules, journal: Journal, said: Connection | None = None) -> bool:
    """Read the pages that the journal lacks, at most `PAGES_PER_PROCESS`, and write each into it.

    The journal's first row has the book's identity, its language and its number of pages. `said` is told the number of
    each page before it is read.

    Returns:
        whether the book is read to its end.

    Raises:
        Unreadable: the file cannot be opened.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        pdf = PdfDocument(book.path)
    except PdfiumError as error:
        encrypted = "password" in str(error).lower()
        raise Unreadable("encrypted: it wants a password" if encrypted else f"not a PDF: {error}") from None
    if not journal.rows:
        lang = _language(pdf, rules)
        journal.append([{"fingerprint": _fingerprint(book, rules), "lang": lang, "num_pages": len(pdf)}])
    page_rules = rules.of_pages(journal.rows[0]["lang"])
    done = {row["page"] for row in journal.rows[1:]}
    todo = [number for number in range(1, len(pdf) + 1) if number not in done]
    last_logged = time.monotonic()
    for number in todo[:PAGES_PER_PROCESS]:
        if said:
            said.send_bytes(str(number).encode())
        try:
            page = pdf[number - 1]
            read = read_page(page, page_rules)
            page.close()  # PDFium keeps a page's pictures until then
        except PdfiumError as error:
            read = Page("failed", reason=str(error))
        except MemoryError:
            read = Page("failed", reason=f"it needs more than {rules.max_gib_per_process:g} GiB")
        journal.append([{"page": number, **read.row()}])
        if time.monotonic() - last_logged > PROGRESS_SECONDS:
            last_logged = time.monotonic()
            log.info(f"{book.name}: page {number} of {len(pdf)}")
    return len(todo) <= PAGES_PER_PROCESS


def _language(pdf: PdfDocument, rules: ReadingRules) -> str:
    if rules.lang != "auto":
        return rules.lang
    lang = detect_language(pdf, rules.models, rules.dpi)
    if lang is None:
        raise Unreadable("its language cannot be told: give it with --lang")
    if rules.method != "text" and LANGUAGES[lang].tesseract not in rules.models:
        raise Unreadable(f"it is in {LANGUAGES[lang].name}, and Tesseract has no model {LANGUAGES[lang].tesseract}")
    return lang


def assemble(book: Book, rules: ReadingRules, journal: Journal) -> tuple[Document | None, dict[str, Any]]:
    """The document of a book whose pages are read, None when it has no text, and what its record says."""
    rows = {row["page"]: row for row in journal.rows[1:]}
    pages = [Page.from_row(rows[number]) for number in range(1, journal.rows[0]["num_pages"] + 1)]
    kept_lines = drop_running_lines([page.lines for page in pages])
    left_out = {index: why for index, why in front_and_back(kept_lines).items() if kept_lines[index]}
    for index, page in enumerate(pages):
        if kept_lines[index] and index not in left_out and (nonsense := _nonsense(page)):
            left_out[index] = nonsense
    texts = page_texts([[] if index in left_out else lines for index, lines in enumerate(kept_lines)])
    parts: list[dict[str, Any]] = []
    start = 0
    for index, (page, text) in enumerate(zip(pages, texts, strict=True)):
        if text:
            part = {"page": index + 1, "start": start, "end": start + len(text)}
            parts.append(part if page.confidence is None else {**part, "confidence": page.confidence})
            start += len(text) + len(PAGE_BREAK)
    text = PAGE_BREAK.join(filter(None, texts))
    failed_pages = [[number, page.reason] for number, page in enumerate(pages, 1) if page.method == "failed"]
    without_text = sum(not lines and page.method != "failed" for page, lines in zip(pages, kept_lines, strict=True))
    meta = {
        "file": book.path.name,
        "lang": journal.rows[0]["lang"],
        "sha256": sha256_file(book.path),
        "num_pages": len(pages),
        "pages_by_method": dict(sorted(Counter(page.method for page in pages).items())),
        "pages_left_out": dict(sorted(Counter(left_out.values()).items())),
        "pages_without_text": without_text,
        "mean_ocr_confidence": _mean_confidence(pages),
        "pages": parts,
    }
    record: dict[str, Any] = {
        "status": "failed",
        "reason": "",
        "failed_pages": failed_pages,
        "left_out": [[index + 1, why] for index, why in sorted(left_out.items())],
        "meta": meta,
    }
    if not any(map(str.isalnum, text)):
        first = "".join(f"; page {number}: {reason}" for number, reason in failed_pages[:1])
        first = first or "".join(f"; page {number}: {why}" for number, why in record["left_out"][:1])
        return None, {**record, "reason": f"no text on {len(pages)} page{'s' * (len(pages) != 1)}{first}"}
    record.update(status="kept", num_characters=len(text))
    return Document(book.name, text, journal.rows[0]["lang"], rules.source, rules.licence, meta), record


def _nonsense(page: Page) -> str:
    """Why a page's text is not worth keeping, or ""."""
    if page.confidence is not None and page.confidence < MIN_CONFIDENCE:
        return "unreadable"
    if page.method == "ocr" and is_garbage(page):
        return "garbage"
    return "repeated" if is_repeated(" ".join(line.text for line in page.lines)) else ""


def _mean_confidence(pages: list[Page]) -> float | None:
    """Tesseract's confidence over the characters of all pages it read, %."""
    lengths = [(page.num_letters, page.confidence) for page in pages if page.confidence is not None]
    total = sum(length for length, _ in lengths)
    return round(sum(length * value for length, value in lengths) / total, 1) if total else None


def _fingerprint(book: Book, rules: ReadingRules) -> str:
    return fingerprint({**rules.identity(), **file_identity(book.path)})


def open_journal(book: Book, rules: ReadingRules, output_dir: Path) -> Journal:
    """The book's journal; one of other rules or of another file is thrown away."""
    journal = Journal(journal_path(book, output_dir))
    if journal.rows and journal.rows[0].get("fingerprint") != _fingerprint(book, rules):
        journal.close()
        journal.path.unlink()
        journal = Journal(journal.path)
    return journal


def _work(book: Book, rules: ReadingRules, output_dir: Path, scratch: str, said: Connection) -> None:
    """The life of a book's process: limits first, then the pages, and after the last the Parquet file and the record.

    Ends with exit code `_MORE` when pages are left for the next process.
    """
    os.setsid()  # a group of its own, so that Tesseract ends with it
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    num_bytes = int(rules.max_gib_per_process * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["OMP_THREAD_LIMIT"] = "1"  # as many books as CPUs are read at once; more threads only wait
    tempfile.tempdir = scratch
    journal = open_journal(book, rules, output_dir)
    try:
        if not read_pages(book, rules, journal, said):
            os._exit(_MORE)
        said.send_bytes(b"0")  # all pages are read
        document, record = assemble(book, rules, journal)
    except Unreadable as error:
        document, record = None, {"status": "failed", "reason": str(error), "failed_pages": []}
    except MemoryError:
        reason = f"it needs more than {rules.max_gib_per_process:g} GiB"
        document, record = None, {"status": "failed", "reason": reason, "failed_pages": []}
    if document:
        made_by = {"stage": "ocr", "fingerprint": _fingerprint(book, rules)}
        with DocumentWriter(kept_path(book, output_dir), made_by) as kept:
            kept.write(document)
    write_record(book, rules, output_dir, record)


# --- many books


def kept_path(book: Book, output_dir: Path) -> Path:
    return output_dir / "kept" / f"{book.name}.parquet"


def record_path(book: Book, output_dir: Path) -> Path:
    return output_dir / "books" / f"{book.name}.json"


def journal_path(book: Book, output_dir: Path) -> Path:
    """The pages read so far. It stays where pages failed, for `forget_failures`."""
    return output_dir / "pages" / f"{book.name}.jsonl"


def write_record(book: Book, rules: ReadingRules, output_dir: Path, record: dict[str, Any]) -> None:
    """Write books/NAME.json, whose presence says that the book is done, read or failed."""
    identity = {**rules.identity(), **file_identity(book.path)}
    write_json(
        record_path(book, output_dir),
        {"fingerprint": fingerprint(identity), "identity": identity, "path": str(book.path), **record},
    )


def book_is_done(book: Book, rules: ReadingRules, output_dir: Path) -> bool:
    """Whether the book was read, or failed, by the same rules.

    Raises:
        SettingsError: its output was made by other rules or from another file; both are shown.
    """
    path = record_path(book, output_dir)
    if not path.exists():
        return False
    record = read_json(path)
    check_identity(path, record, {**rules.identity(), **file_identity(book.path)})
    return record["status"] == "failed" or kept_path(book, output_dir).exists()


def forget_failures(book: Book, output_dir: Path) -> None:
    """Have a book that failed, or its pages that did, read again; the pages that were read stay so."""
    path = record_path(book, output_dir)
    if not path.exists():
        return
    record = read_json(path)
    if record["status"] == "failed" or record["failed_pages"]:
        if journal_path(book, output_dir).exists():
            old = Journal(journal_path(book, output_dir))
            old.close()
            old.path.unlink()
            new = Journal(old.path)
            new.append([row for row in old.rows if row.get("method") != "failed"])
            new.close()
        path.unlink()  # last: without the record nobody would look for failed pages again


@dataclass
class _Running:
    """A book's process at work."""

    book: Book
    process: Any
    said: Connection
    book_deadline: float
    page_deadline: float
    page: int | None = None  # being read; 0 when all are, None before the file is open


def read_books(books: list[Book], rules: ReadingRules, output_dir: Path, num_processes: int) -> Iterator[Book]:
    """Read books, `num_processes` at once, and give each when its record is written.

    A page that crashes its process, takes too long or too much memory is a failed one, and another process goes on
    behind it. A book that cannot be opened, or takes too long, is a failed one. The others go on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_collection.textbooks", "pypdfium2", "pytesseract"])
    waiting = list(reversed(books))
    running: list[_Running] = []

    def start(book: Book, deadline: float) -> None:
        said, tells = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(book, rules, output_dir, scratch, tells))
        process.start()
        tells.close()
        running.append(_Running(book, process, said, deadline, time.monotonic() + rules.max_seconds_per_page))

    with tempfile.TemporaryDirectory(prefix="ocr-") as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < num_processes:
                    book = waiting.pop()
                    record_path(book, output_dir).unlink(missing_ok=True)  # of a book whose Parquet file was removed
                    kept_path(book, output_dir).unlink(missing_ok=True)
                    start(book, time.monotonic() + rules.max_seconds_per_book)
                nearest = min(min(one.book_deadline, one.page_deadline) for one in running)
                said = [one.said for one in running if not one.said.closed]
                wait([*said, *(one.process.sentinel for one in running)], max(0.0, nearest - time.monotonic()))
                for one in list(running):
                    _listen(one, rules)
                    now = time.monotonic()
                    if one.process.exitcode is None and now < min(one.book_deadline, one.page_deadline):
                        continue
                    running.remove(one)
                    exit_code = one.process.exitcode
                    _end(one)
                    if record_path(one.book, output_dir).exists():
                        _tidy(one.book, output_dir)
                        yield one.book
                    elif now < one.book_deadline and (exit_code == _MORE or (one.page and exit_code != 0)):
                        if exit_code != _MORE:
                            _fail_page(one, rules, output_dir, _why(exit_code, rules))
                        start(one.book, one.book_deadline)
                    else:
                        reason = f"it took more than {rules.max_seconds_per_book:g} s"
                        if now < one.book_deadline:
                            reason = _why(exit_code, rules)
                        kept_path(one.book, output_dir).unlink(missing_ok=True)
                        record = {"status": "failed", "reason": reason, "failed_pages": []}
                        write_record(one.book, rules, output_dir, record)
                        _tidy(one.book, output_dir)
                        yield one.book
        finally:
            for one in running:
                _end(one)


def _listen(one: _Running, rules: ReadingRules) -> None:
    """Hear which page a process is at, and give that page its time."""
    try:
        while not one.said.closed and one.said.poll():
            one.page = int(one.said.recv_bytes(20))
            one.page_deadline = time.monotonic() + rules.max_seconds_per_page
    except (EOFError, OSError):  # the process is ending
        one.said.close()


def _end(one: _Running) -> None:
    """End a book's process and what it started."""
    try:
        os.killpg(one.process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended, or has no group yet
        one.process.kill()
    one.process.join()
    one.said.close()


def _fail_page(one: _Running, rules: ReadingRules, output_dir: Path, reason: str) -> None:
    """Write into the journal that the page at which a process ended cannot be read."""
    journal = open_journal(one.book, rules, output_dir)
    if one.page not in {row.get("page") for row in journal.rows}:
        journal.append([{"page": one.page, **Page("failed", reason=reason).row()}])
    journal.close()


def _tidy(book: Book, output_dir: Path) -> None:
    """Remove what a finished book needs no more."""
    remove_half_written(kept_path(book, output_dir))
    remove_half_written(record_path(book, output_dir))
    record = read_json(record_path(book, output_dir))
    if record["status"] == "kept" and not record["failed_pages"]:
        journal_path(book, output_dir).unlink(missing_ok=True)


def _why(exit_code: int | None, rules: ReadingRules) -> str:
    if exit_code is None:
        return f"it took more than {rules.max_seconds_per_page:g} s"
    if exit_code >= 0:
        return f"the reader ended with an error of its own (exit code {exit_code}, see the log)"
    name = signal.Signals(-exit_code).name
    return f"the reader crashed ({name}): a broken file, or one that needs more than {rules.max_gib_per_process:g} GiB"
