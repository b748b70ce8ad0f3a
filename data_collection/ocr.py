"""Turn PDF books into documents, by their text layer or by OCR.

    python data_collection/ocr.py --input FILES_OR_FOLDERS --output_dir DIR --lang zh

Writes kept/NAME.parquet and books/NAME.json for each book, failures.jsonl and run.json; while a book is read its pages
are in pages/NAME.jsonl, from which the same command goes on. In a Slurm array each task takes its share of the books,
and the task that ends last writes run.json.
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

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from configs.errors import EnvironmentFailure, ExitCode, FailedItems, MissingInputError, SettingsError
from configs.files import file_identity, fingerprint, read_json
from configs.languages import LANGUAGES, language
from configs.progress import Progress, log
from configs.records import already_done, exit_code, run_record
from configs.settings import parse, setting
from data_collection.work import array_task, num_allocated_cpus, unique_names, walk


@dataclass
class OcrSettings:
    """Settings of OCR."""

    input: list[str] = setting(help="PDF files, or folders of them")
    output_dir: Path = setting(help="folder of the output")
    lang: str = setting(help="language of the books: a code or name of configs/languages.py; auto: by each book")
    method: Literal["auto", "text", "ocr"] = setting(
        "auto", help="auto: a page's text layer, Tesseract where there is none or it is garbage; or always one of both"
    )
    dpi: int = setting(300, help="resolution at which pages are drawn for Tesseract")
    num_processes: int | None = setting(None, help="books read at once; none: the CPUs allocated")
    max_seconds_per_page: float = setting(120, help="a page that takes longer is a failed one")
    max_seconds_per_book: float = setting(10_800, help="a book that takes longer is a failed one")
    max_gib_per_process: float = setting(4.0, help="a page whose process needs more memory is a failed one")
    max_megapixels: float = setting(40.0, help="a page that would have more at --dpi is drawn smaller")
    retry_failed: bool = setting(False, help="read those books and pages again that failed, as after raising a limit")
    source: str = setting("textbooks", help="what the documents' column source says")
    licence: str = setting("", help="what the documents' column licence says")

    def problems(self) -> list[str]:
        found = []
        if not 70 <= self.dpi <= 1200:
            found.append(f"dpi wants 70 to 1200, found {self.dpi}")
        for name in ("max_seconds_per_page", "max_seconds_per_book", "max_gib_per_process", "max_megapixels"):
            if not getattr(self, name) > 0:
                found.append(f"{name} wants more than 0, found {getattr(self, name)}")
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        try:
            self.lang = self.lang if self.lang == "auto" else language(self.lang).code
        except SettingsError as error:
            found.append(f"lang: {error.what}; there are auto, {error.wanted}")
        return found


def tesseract_models(lang: str) -> tuple[str, ...]:
    """The installed models of Tesseract that may be used; looked at first, not on the first scanned page.

    Raises:
        EnvironmentFailure: Tesseract or the language's model is not there.
    """
    import pytesseract

    # By "auto" the script is detected first, with the model osd.
    wanted = ["osd"] if lang == "auto" else [language(lang).tesseract]
    package = f"tesseract-ocr-{wanted[0].replace('_', '-')}"
    try:
        installed = pytesseract.get_languages()
    except pytesseract.TesseractNotFoundError:
        raise EnvironmentFailure(
            "Tesseract is not installed",
            where="PATH",
            todo=f"apt-get install tesseract-ocr {package}; or --method text, which needs none",
        ) from None
    if wanted[0] not in installed:
        raise EnvironmentFailure(
            f"Tesseract has no model {wanted[0]}",
            found=", ".join(installed) or "no models",
            todo=f"apt-get install {package}; or --method text, which needs none",
        )
    rows = LANGUAGES.values() if lang == "auto" else [language(lang)]
    if "jpn" in (row.tesseract for row in rows) and "jpn_vert" not in installed:
        log.info("pages drawn with lines written downwards will be misread: apt-get install tesseract-ocr-jpn-vert")
    return tuple(model for row in rows for model in (row.tesseract, f"{row.tesseract}_vert") if model in installed)


def find_books(inputs: list[str]) -> list[Any]:
    """The PDFs among files and folders, sorted, with unique names."""
    from data_collection.textbooks import Book

    found = list(walk(inputs, [".pdf"]))
    if not found:
        raise MissingInputError(
            "no PDFs were found",
            where=", ".join(inputs),
            wanted="*.pdf",
            todo="give a folder of PDFs to --input",
        )
    return [Book(name, path) for name, (path, _) in zip(unique_names(found, [".pdf"]), found, strict=True)]


def merge(books: list[Any], output_dir: Path) -> tuple[dict[str, Any], FailedItems]:
    """Totals over the books' records, and the failed books and pages. Every page read is accounted for."""
    from data_collection.textbooks import record_path

    failed = FailedItems()
    status: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    num_characters = 0
    for book in books:
        record = read_json(record_path(book, output_dir))
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
        if record["status"] == "failed":
            failed.add(book.path, record["reason"])
        else:
            for number, reason in record["failed_pages"]:
                failed.add(f"{book.path}:page {number}", reason)
    assert len(books) == status["kept"] + status["failed"]
    result = {"books": len(books), "kept": status["kept"], "failed": status["failed"], "characters": num_characters}
    by = {"pages_by_method": methods, "pages_left_out": left_out}
    return {
        **result,
        "pages": dict(pages),
        **{name: dict(sorted(counts.items())) for name, counts in by.items()},
    }, failed


def read_all(books: list[Any], rules: Any, output_dir: Path, num_processes: int) -> None:
    """Read the books that are not done yet."""
    from data_collection.textbooks import book_is_done, read_books

    todo = [book for book in books if not book_is_done(book, rules, output_dir)]
    progress = Progress("ocr", len(books), "books", done=len(books) - len(todo))
    for book in read_books(todo, rules, output_dir, num_processes):
        progress.advance(note=book.name)
    if todo:
        progress.close()


def main() -> int:
    settings = parse(__doc__, OcrSettings)[0]
    index, count = array_task()
    books = find_books(settings.input)
    models = () if settings.method == "text" else tesseract_models(settings.lang)

    from data_collection.textbooks import ReadingRules, book_is_done, forget_failures

    names = {field.name for field in fields(ReadingRules)} - {"models"}
    rules = ReadingRules(models=models, **{name: getattr(settings, name) for name in names})
    inputs = [{"book": book.name, **file_identity(book.path)} for book in books]
    num_bytes = sum(file["num_bytes"] for file in inputs)
    identity = {**rules.identity(), "inputs": f"{len(books)} PDFs, {num_bytes:,} bytes, {fingerprint(inputs)}"}
    output_dir = settings.output_dir
    done = already_done(output_dir, identity)
    if done and not settings.retry_failed:
        log.info(f"already done: {output_dir}")
        print(json.dumps(done["result"], ensure_ascii=False))
        return exit_code(done)
    mine = books[index::count]
    if settings.retry_failed:
        for book in mine:
            forget_failures(book, output_dir)
    num_processes = settings.num_processes or num_allocated_cpus()
    log.info(f"ocr: {len(mine)} books, language {rules.lang}, {num_processes} at once")
    if count > 1:
        read_all(mine, rules, output_dir, num_processes)
        if not all(book_is_done(book, rules, output_dir) for book in books):
            log.info("this task's share is done; the task that ends last writes run.json")
            return merge(mine, output_dir)[1].exit_code
    with run_record(output_dir, "ocr", vars(settings), identity) as record:
        read_all(books, rules, output_dir, num_processes)
        result, failed = merge(books, output_dir)
        failed.write(output_dir / "failures.jsonl")
        with contextlib.suppress(OSError):
            (output_dir / "pages").rmdir()  # where no page failed, no journal is left
        record.finish("finished", failed_items=len(failed), **result)
    log.info(f"ocr: {result['kept']:,} of {result['books']:,} books became documents")
    print(json.dumps(record.data["result"], ensure_ascii=False))
    return failed.exit_code if failed else ExitCode.DONE


if __name__ == "__main__":
    run(main)
