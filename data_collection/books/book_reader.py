"""Books read in processes of their own, which cannot take the others down: the work that ocr.py gives to `jobs.py`."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from configs.errors import FailedItems
from configs.files import read_json
from configs.processes import end_with_parent
from data_collection.books.pages import Page
from data_collection.books.textbooks import (
    Book,
    ReadingRules,
    Unreadable,
    assemble,
    drop_failed_pages,
    journal_path,
    made_by,
    open_journal,
    read_pages,
)
from data_collection.corpus.documents import Document, DocumentWriter

_MORE = 75  # exit code of a process that leaves pages to the next one
# Errors that no page and no book is to blame for: a disk that takes no more, and a half-written file that another
# command, which was given the same book and ended first, has removed.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT)


def kept_path(book: Book, output_dir: Path) -> Path:
    """The Parquet file of a book: of its one document, or of none when it failed."""
    return output_dir / "kept" / f"{book.name}.parquet"


# --- the process that reads


def _work(book: Book, rules: ReadingRules, output_dir: Path, said: Connection) -> None:
    """The life of a book's process: limits first, then the pages, and after the last one the Parquet file.

    It says what page it is at (None where it looks for the language, 0 after the last), at the end the book's record,
    or what is wrong with the disk. It ends with exit code `_MORE` when pages are left for the next process.
    """
    os.setsid()  # a group of its own, so that Tesseract ends with it
    end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    num_bytes = int(rules.max_gib_per_process * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["OMP_THREAD_LIMIT"] = "1"  # as many books as CPUs are read at once; more threads only wait

    def say(**message: Any) -> None:
        said.send_bytes(json.dumps(message).encode())

    try:
        journal = open_journal(book, rules, output_dir)
        try:
            if not read_pages(book, rules, journal, lambda number: say(page=number)):
                os._exit(_MORE)
            say(page=0)
            document, record = assemble(book, rules, journal)
        except Unreadable as error:
            document, record = None, _failed(str(error))
        except MemoryError:
            document, record = None, _failed(f"it needs more than {rules.max_gib_per_process:g} GiB")
        if document:
            _write(book, rules, output_dir, document)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        say(error=[error.errno, error.strerror, error.filename or str(output_dir)])
    else:
        say(record=record)


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "failed_pages": []}


def _write(book: Book, rules: ReadingRules, output_dir: Path, document: Document | None) -> None:
    """Write the book's file of one document; of none, when the book failed."""
    with DocumentWriter(kept_path(book, output_dir), made_by(book, rules)) as kept:
        if document:
            kept.write(document)


# --- the process that watches it


@dataclass
class _Ended:
    """How a book's process ended.

    Attributes:
        exit_code: None when its time was over.
        page: at which page: None before the file was open, 0 after the last.
        record: the book's record, when it is done.
    """

    exit_code: int | None
    page: int | None
    record: dict[str, Any] | None


def read_book(book: Book, failed: FailedItems, output_dir: Path, rules: ReadingRules) -> dict[str, Any]:
    """Read a book, or the pages that an earlier run left, and write its document; return its record.

    A page that crashes its process, takes too long or too much memory is a failed one, and another process goes on
    behind it. A book that cannot be opened, or takes too long, is a failed one.

    Raises:
        OSError: the disk is full or cannot be written, or another command has removed what this one was writing.
    """
    deadline = time.monotonic() + rules.max_seconds_per_book
    record = None
    while record is None:
        ended = _read_on(book, rules, output_dir, deadline)
        record = ended.record
        if record or ended.exit_code == _MORE:
            continue
        if time.monotonic() >= deadline:
            record = _failed(f"it took more than {rules.max_seconds_per_book:g} s")
        elif ended.page:
            journal = open_journal(book, rules, output_dir)
            if all(row.get("page") != ended.page for row in journal.rows):
                page = Page("failed", reason=_why(ended.exit_code, rules))
                journal.append([{"page": ended.page, **page.row()}])
            journal.close()
        else:
            record = _failed(_why(ended.exit_code, rules))
    if record["status"] == "failed":
        _write(book, rules, output_dir, None)
        failed.add(book.path, record["reason"])
    else:
        for number, reason in record["failed_pages"]:
            failed.add(f"{book.path}:page {number}", reason)
    return record


def _read_on(book: Book, rules: ReadingRules, output_dir: Path, deadline: float) -> _Ended:
    """Start a process that goes on with the book, and wait until it ends or its time is over."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_collection.books.book_reader", "pypdfium2", "PIL.Image"])
    said, tells = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(book, rules, output_dir, tells))
    process.start()
    tells.close()
    ended = _Ended(None, None, None)
    page_deadline = time.monotonic() + rules.max_seconds_per_page
    try:
        while (left := min(deadline, page_deadline) - time.monotonic()) > 0:
            if not said.poll(left):
                continue
            try:
                message = json.loads(said.recv_bytes())
            except (EOFError, OSError):  # it is ending, perhaps in the middle of a message
                process.join(left)
                ended.exit_code = process.exitcode
                break
            if "error" in message:
                raise OSError(*message["error"])
            ended.page = message.get("page", ended.page)
            ended.record = message.get("record")
            page_deadline = time.monotonic() + rules.max_seconds_per_page
        return ended
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended, or has no group yet
            process.kill()
        process.join()
        said.close()


def _why(exit_code: int | None, rules: ReadingRules) -> str:
    if exit_code is None:
        return f"it took more than {rules.max_seconds_per_page:g} s"
    if exit_code >= 0:
        return f"the reader ended with an error of its own (exit code {exit_code}, see the log)"
    name = signal.Signals(-exit_code).name
    return f"the reader crashed ({name}): a broken file, or one that needs more than {rules.max_gib_per_process:g} GiB"


# --- before and after


def forget_failures(book: Book, output_dir: Path, marker_path: Path) -> None:
    """Have a book that failed, or its pages that did, read again; the pages that were read stay so."""
    if marker_path.exists() and read_json(marker_path)["failed"]:
        drop_failed_pages(book, output_dir)
        marker_path.unlink()  # last: without the marker nobody would look for failed pages again


def tidy(book: Book, record: dict[str, Any], output_dir: Path) -> None:
    """Remove the journal of a book that is done, unless `forget_failures` may want it."""
    if not record["failed"]:
        journal_path(book, output_dir).unlink(missing_ok=True)


def summarise(marked: Iterable[tuple[Book, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals over the books' records, twice: for stats.json and run.json. Every page is accounted for."""
    status: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    num_characters = 0
    for book, record in marked:
        status[record["status"]] += 1
        num_characters += record.get("num_characters", 0)
        if meta := record.get("meta"):
            methods.update(meta["pages_by_method"])
            left_out.update(meta["pages_left_out"])
            counts = {
                "kept": len(meta["pages"]),
                "left_out": len(record["left_out"]),
                "failed": len(record["failed_pages"]),
                "without_text": meta["pages_without_text"],
            }
            assert meta["num_pages"] == sum(counts.values()), f"{book.path}: {meta['num_pages']} pages, {counts}"
            pages.update({"read": meta["num_pages"], **counts})
    result = {
        "books": status.total(),
        "kept": status["kept"],
        "failed": status["failed"],
        "characters": num_characters,
        "pages": dict(pages),
        "pages_by_method": dict(sorted(methods.items())),
        "pages_left_out": dict(sorted(left_out.items())),
    }
    return result, result
