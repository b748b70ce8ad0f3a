"""A PDF book as one document, read in a process of its own that cannot take the others down."""

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
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from configs.files import file_identity, fingerprint, read_json, sha256_file, write_json
from configs.progress import log
from configs.records import check_identity
from data_collection.documents import Document, DocumentWriter
from data_collection.pages import FAILURES, Page, read_page
from data_collection.paragraphs import book_text
from data_collection.work import remove_half_written

PROGRESS_SECONDS = 60


@dataclass(frozen=True)
class Book:
    """A PDF and the name of its output."""

    name: str
    path: Path


@dataclass(frozen=True)
class ReadingRules:
    """How books are read. The first five decide what comes out; the limits only whether it does.

    Attributes:
        lang: code of the documents' language.
        model: Tesseract's model.
        method: auto, text or ocr.
        dpi: dots an inch for Tesseract.
        source: the documents' source.
        licence: the documents' licence.
        max_seconds: time limit of a book.
        max_gib: limit of a book's address space, GiB.
    """

    lang: str
    model: str
    method: str
    dpi: int
    source: str
    licence: str
    max_seconds: float
    max_gib: float

    def identity(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("lang", "model", "method", "dpi", "source", "licence")}


# --- one book, in its own process


def read_book(book: Book, rules: ReadingRules) -> tuple[Document | None, dict[str, Any]]:
    """Read a book.

    Returns:
        (the document, or None when the book has no text; what its record says)
    """
    from pypdfium2 import PdfDocument, PdfiumError

    record: dict[str, Any] = {"status": "failed", "reason": "", "failed_pages": []}
    try:
        pdf = PdfDocument(book.path)
    except PdfiumError as error:
        encrypted = "password" in str(error).lower()
        return None, {**record, "reason": "encrypted: it wants a password" if encrypted else f"not a PDF: {error}"}
    pages: list[Page] = []
    last_said = time.monotonic()
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            pages.append(read_page(page, rules.method, rules.model, rules.dpi))
            page.close()  # PDFium keeps a page's pictures until then
        except PdfiumError as error:
            pages.append(Page("broken"))
            record["failed_pages"].append([number + 1, str(error)])
        if time.monotonic() - last_said > PROGRESS_SECONDS:
            last_said = time.monotonic()
            log.info(f"{book.name}: page {number + 1} of {len(pdf)}")
    record["failed_pages"] += [[n, FAILURES[page.method]] for n, page in enumerate(pages, 1) if page.method in FAILURES]
    text = book_text([page.lines for page in pages])
    record["meta"] = _meta(book, pages)
    if not any(map(str.isalnum, text)):
        first = "".join(f"; page {number}: {reason}" for number, reason in record["failed_pages"][:1])
        return None, {**record, "reason": f"no text on {len(pages)} page{'s' * (len(pages) != 1)}{first}"}
    record.update(status="kept", num_characters=len(text))
    return Document(book.name, text, rules.lang, rules.source, rules.licence, record["meta"]), record


def _meta(book: Book, pages: list[Page]) -> dict[str, Any]:
    confidences = [pair for page in pages for pair in page.confidences]
    num_characters = sum(length for length, _ in confidences)
    mean = sum(length * value for length, value in confidences) / num_characters if num_characters else None
    return {
        "file": book.path.name,
        "sha256": sha256_file(book.path),
        "num_pages": len(pages),
        "pages_by_method": dict(sorted(Counter(page.method for page in pages).items())),
        "mean_ocr_confidence": None if mean is None else round(mean, 1),
    }


def _work(book: Book, rules: ReadingRules, output_dir: Path, scratch: str) -> None:
    """The life of a book's process: limits first, then reading, the Parquet file, and last the record."""
    os.setsid()  # a group of its own, so that Tesseract ends with it
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    num_bytes = int(rules.max_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["OMP_THREAD_LIMIT"] = "1"  # as many books as CPUs are read at once; more threads only wait
    tempfile.tempdir = scratch
    identity = {**rules.identity(), **file_identity(book.path)}
    try:
        document, record = read_book(book, rules)
    except MemoryError:
        document, record = None, {"status": "failed", "reason": f"it needs more than {rules.max_gib:g} GiB"}
    if document:
        with DocumentWriter(
            kept_path(book, output_dir), {"stage": "ocr", "fingerprint": fingerprint(identity)}
        ) as kept:
            kept.write(document)
    write_record(book, rules, output_dir, record)


# --- many books


def kept_path(book: Book, output_dir: Path) -> Path:
    return output_dir / "kept" / f"{book.name}.parquet"


def record_path(book: Book, output_dir: Path) -> Path:
    return output_dir / "books" / f"{book.name}.json"


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


def read_books(books: list[Book], rules: ReadingRules, output_dir: Path, num_processes: int) -> Iterator[Book]:
    """Read books, `num_processes` at once, and give each when its record is written.

    A book that crashes its process, takes too long or too much memory is a failed one; the others go on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_collection.textbooks", "pypdfium2", "pytesseract"])
    waiting = list(reversed(books))
    running: dict[int, tuple[Any, Book, float]] = {}  # sentinel: process, book, deadline
    with tempfile.TemporaryDirectory(prefix="ocr-") as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < num_processes:
                    book = waiting.pop()
                    record_path(book, output_dir).unlink(missing_ok=True)  # of a book whose Parquet file was removed
                    kept_path(book, output_dir).unlink(missing_ok=True)
                    process = context.Process(target=_work, args=(book, rules, output_dir, scratch))
                    process.start()
                    running[process.sentinel] = (process, book, time.monotonic() + rules.max_seconds)
                nearest = min(deadline for _, _, deadline in running.values())
                wait(list(running), timeout=max(0.0, nearest - time.monotonic()))
                for sentinel, (process, book, deadline) in list(running.items()):
                    late = time.monotonic() > deadline
                    if process.exitcode is None and not late:
                        continue
                    reason = f"it took more than {rules.max_seconds:g} s" if process.exitcode is None else ""
                    del running[sentinel]
                    _end(process)
                    if not record_path(book, output_dir).exists():
                        kept_path(book, output_dir).unlink(missing_ok=True)
                        reason = reason or _why(process.exitcode, rules)
                        write_record(book, rules, output_dir, {"status": "failed", "reason": reason})
                    remove_half_written(kept_path(book, output_dir))
                    remove_half_written(record_path(book, output_dir))
                    yield book
        finally:
            for process, _, _ in running.values():
                _end(process)


def _end(process: Any) -> None:
    """End a book's process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended, or has no group yet
        process.kill()
    process.join()


def _why(exit_code: int, rules: ReadingRules) -> str:
    if exit_code >= 0:
        return f"the reader ended with an error of its own (exit code {exit_code}, see the log)"
    name = signal.Signals(-exit_code).name
    return f"the reader crashed ({name}): a broken file, or one that needs more than {rules.max_gib:g} GiB"
