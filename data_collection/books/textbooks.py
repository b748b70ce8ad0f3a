"""A PDF book as one document: its pages read one by one into a journal, then put together."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import MissingInputError
from configs.files import Journal, atomic_open, file_identity, fingerprint, sha256_file
from configs.languages import LANGUAGES
from configs.progress import log
from data_collection.books.book_language import detect_language
from data_collection.books.matter import front_and_back, is_repeated
from data_collection.books.pages import Page, PageRules, is_garbage, read_page
from data_collection.books.paragraphs import drop_running_lines, page_texts
from data_collection.corpus.documents import Document

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

PROGRESS_SECONDS = 60
PAGES_PER_PROCESS = 25  # then a new process goes on with the book, so that nothing PDFium keeps can add up
MIN_CONFIDENCE = 30.0  # %; pages of which Tesseract is less sure are pictures, or in another script
LIMITS = ("max_seconds_per_page", "max_seconds_per_book", "max_gib_per_process")
PAGE_BREAK = "\n\n"


@dataclass(frozen=True)
class Book:
    """A PDF and the name of its output."""

    name: str
    path: Path

    def identity(self) -> dict[str, Any]:
        """What tells whether the file was replaced."""
        return {"book": self.name, **file_identity(self.path)}


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


class Unreadable(Exception):
    """A file that is no PDF, one that wants a password, or one whose language cannot be told."""


def read_pages(book: Book, rules: ReadingRules, journal: Journal, at_page: Callable[[int | None], None]) -> bool:
    """Read the pages that the journal lacks, at most `PAGES_PER_PROCESS`, and write each into it.

    The journal's first row has the book's identity, its language and its number of pages. `at_page` is called with the
    number of each page before it is read, and with None before a page is looked at for the book's language.

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
    except FileNotFoundError:
        raise Unreadable("it is not there any more") from None
    if not journal.rows:
        lang = _language(pdf, rules, functools.partial(at_page, None))
        journal.append([{"fingerprint": made_by(book, rules)["fingerprint"], "lang": lang, "num_pages": len(pdf)}])
    page_rules = rules.of_pages(journal.rows[0]["lang"])
    done = {row["page"] for row in journal.rows[1:]}
    todo = [number for number in range(1, len(pdf) + 1) if number not in done]
    last_logged = time.monotonic()
    for number in todo[:PAGES_PER_PROCESS]:
        at_page(number)
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


def _language(pdf: PdfDocument, rules: ReadingRules, at_page: Callable[[], None]) -> str:
    if rules.lang != "auto":
        return rules.lang
    lang = detect_language(pdf, rules.models, rules.dpi, at_page)
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


def made_by(book: Book, rules: ReadingRules) -> dict[str, str]:
    """What the book's document and journal are made by, as metadata."""
    return {"stage": "ocr", "fingerprint": fingerprint({**rules.identity(), **book.identity()})}


def journal_path(book: Book, output_dir: Path) -> Path:
    """The pages read so far. It stays where pages failed, for `forget_failures`."""
    return output_dir / "pages" / f"{book.name}.jsonl"


def open_journal(book: Book, rules: ReadingRules, output_dir: Path) -> Journal:
    """The book's journal; one of other rules or of another file is thrown away, and one that two commands broke, which
    read the book at once: its pages can be read again."""
    path = journal_path(book, output_dir)
    try:
        journal = Journal(path)
    except MissingInputError:
        path.unlink()
        journal = Journal(path)
    if journal.rows and journal.rows[0].get("fingerprint") != made_by(book, rules)["fingerprint"]:
        journal.close()
        path.unlink()
        journal = Journal(path)
    return journal


def drop_failed_pages(book: Book, output_dir: Path) -> None:
    """Have the pages that failed read again; those that were read stay so."""
    path = journal_path(book, output_dir)
    if path.exists():
        old = Journal(path)
        old.close()
        with atomic_open(path) as file:
            file.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in old.rows if row.get("method") != "failed"
            )
