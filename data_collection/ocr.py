"""Turn PDF books into documents, by their text layer or by OCR.

    python data_collection/ocr.py --input FILES_OR_FOLDERS --output_dir DIR --lang zh

Writes for each book kept/NAME.parquet and its record shards/NAME.json, and stats.json, failures.jsonl and run.json.
While a book is read its pages are in pages/NAME.jsonl, from which the same command goes on.
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
import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from configs.errors import EnvironmentFailure, MissingInputError, SettingsError
from configs.languages import LANGUAGES, language
from configs.progress import log
from configs.settings import parse, setting
from data_collection.corpus.work import unique_names, walk


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
    from data_collection.books.recognition import installed_models

    # By "auto" the script is detected first, with the model osd.
    wanted = ["osd"] if lang == "auto" else [language(lang).tesseract]
    package = f"tesseract-ocr-{wanted[0].replace('_', '-')}"
    installed = installed_models()
    if installed is None:
        raise EnvironmentFailure(
            "Tesseract is not installed",
            where="PATH",
            todo=f"apt-get install tesseract-ocr {package}; or --method text, which needs none",
        )
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
    from data_collection.books.textbooks import Book

    found = list(walk(inputs, [".pdf"]))
    if not found:
        raise MissingInputError(
            "no PDFs were found",
            where=", ".join(inputs),
            wanted="*.pdf",
            todo="give a folder of PDFs to --input",
        )
    return [Book(name, path) for name, (path, _) in zip(unique_names(found, [".pdf"]), found, strict=True)]


def main() -> int:
    settings = parse(__doc__, OcrSettings)[0]
    books = find_books(settings.input)
    models = () if settings.method == "text" else tesseract_models(settings.lang)

    from data_collection.books.book_reader import forget_failures, kept_path, read_book, summarise, tidy
    from data_collection.books.textbooks import ReadingRules
    from data_collection.corpus.jobs import ShardJob, run_shard_job

    names = {field.name for field in fields(ReadingRules)} - {"models"}
    rules = ReadingRules(models=models, **{name: getattr(settings, name) for name in names})
    output_dir = settings.output_dir
    job = ShardJob(
        stage="ocr",
        output_dir=output_dir,
        rules=rules.identity(),
        work=functools.partial(read_book, output_dir=output_dir, rules=rules),
        outputs=lambda book: [kept_path(book, output_dir)],
        unit="books",
        tidy=functools.partial(tidy, output_dir=output_dir),
    )

    def forget(book: Any) -> None:
        forget_failures(book, output_dir, job.marker_path(book))

    code = run_shard_job(
        job, books, settings, summarise, settings.num_processes, forget if settings.retry_failed else None
    )
    with contextlib.suppress(OSError):
        (output_dir / "pages").rmdir()  # where no page failed, no journal is left
    return code


if __name__ == "__main__":
    run(main)
