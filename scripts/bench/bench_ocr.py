"""Reading PDFs: page tests, pages a second against OCRmyPDF, two processes against two runs, memory.

    python scripts/bench/bench_ocr.py --output_dir runs/bench-ocr [--parts tests speed processes memory] [--langs en zh]

tests: the page tests of DATA/pdf/pages by our text path, our image path (--method ocr), bare pypdfium2, and bare
Tesseract on the pages drawn at 300 dpi. speed, processes: the pages of DATA/pdf/pages/en drawn at 200 dpi, as books of
pictures; one thread each; OCRmyPDF takes part where it is installed (pip install ocrmypdf). memory: the highest of any
process for books of 50 and 200 pages.
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
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import EnvironmentFailure, MissingInputError
from configs.files import REPOSITORY, read_json, write_json
from configs.languages import language
from configs.progress import track
from configs.settings import parse, setting

PARTS = ("tests", "speed", "processes", "memory")
SCAN_DPI = 200
ONE_THREAD = {**os.environ, "OMP_THREAD_LIMIT": "1"}
OCR = REPOSITORY / "data_collection" / "ocr.py"


@dataclass
class BenchOcrSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated books, of what is read, and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with pdf/pages/LANG.jsonl and pdf/pages/LANG/*.pdf")
    langs: list[str] = setting(["en", "fr", "zh", "ja"], help="languages of the page tests")
    parts: list[str] = setting(list(PARTS), help="what is measured: tests, speed, processes, memory")

    def problems(self) -> list[str]:
        unknown = sorted(set(self.parts) - set(PARTS))
        return [f"parts wants some of {', '.join(PARTS)}, found {', '.join(unknown)}"] if unknown else []


def read_books(inputs: Path, output_dir: Path, lang: str, *more: str) -> float:
    """Run our command; return its seconds.

    Raises:
        EnvironmentFailure: it ended otherwise than with 0 or, for pages that failed, 5: nothing was measured.
    """
    shutil.rmtree(output_dir, ignore_errors=True)
    words = ["--input", inputs, "--output_dir", output_dir, "--lang", lang, *more]
    started = time.monotonic()
    done = subprocess.run([sys.executable, OCR, *words], check=False, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode not in (0, 5):
        raise EnvironmentFailure(
            f"ocr.py ended with exit code {done.returncode}",
            where=inputs,
            found=done.stderr[-500:],
            todo="put right what it says; until then nothing is measured",
        )
    return seconds


def texts_of(output_dir: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    paths = (output_dir / "kept").glob("*.parquet")
    return {path.stem: text for path in paths for text in pq.read_table(path)["text"].to_pylist()}


def bare_pdfium(pdf: Path) -> str:
    from pypdfium2 import PdfDocument

    return PdfDocument(pdf)[0].get_textpage().get_text_range()


def bare_tesseract(pdf: Path, model: str, folder: Path) -> str:
    from pypdfium2 import PdfDocument

    picture = folder / f"{pdf.stem}.ppm"
    if not picture.exists():
        folder.mkdir(parents=True, exist_ok=True)
        PdfDocument(pdf)[0].render(scale=300 / 72).to_pil().save(picture)
    words = ["tesseract", picture, "-", "-l", model]
    return subprocess.run(words, env=ONE_THREAD, capture_output=True, text=True, check=True).stdout


def measure_tests(settings: BenchOcrSettings) -> dict[str, Any]:
    """Tests passed by language, way and kind."""
    from scripts.bench.page_tests import KINDS, passes, read_tests

    results: dict[str, Any] = {}
    for lang in settings.langs:
        tests, folder = read_tests(settings.data, lang), settings.output_dir / "tests" / lang
        pdfs = sorted((settings.data / "pdf" / "pages" / lang).glob("*.pdf"))
        ways: dict[str, dict[str, str]] = {}
        for way, method in (("our text path", "text"), ("our image path", "ocr")):
            read_books(settings.data / "pdf" / "pages" / lang, folder / method, lang, "--method", method)
            ways[way] = texts_of(folder / method)
        ways["bare pypdfium2"] = {pdf.stem: bare_pdfium(pdf) for pdf in pdfs}
        model = language(lang).tesseract
        ways["bare Tesseract"] = {
            pdf.stem: bare_tesseract(pdf, model, folder / "pictures") for pdf in track(pdfs, f"bare Tesseract, {lang}")
        }
        for way, texts in ways.items():
            passed = Counter(test.kind for test in tests if passes(test, texts.get(test.pdf, "")))
            total = Counter(test.kind for test in tests)
            failed = [t for t in tests if t.kind == "present" and not passes(t, texts.get(t.pdf, ""))]
            verified = [t for t in tests if t.kind == "present" and t.verified]
            results.setdefault(lang, {})[way] = found = {
                **{kind: [passed[kind], total[kind]] for kind in KINDS},
                "verified present": [len(verified) - sum(t.verified for t in failed), len(verified)],
                "failed": [[test.pdf, test.texts[0]] for test in failed],
            }
            print(f"{lang}  {way:16}" + "".join(f"  {k} {v[0]}/{v[1]}" for k, v in found.items() if k != "failed"))
    return results


def draw_books(settings: BenchOcrSettings, folder: Path, num_books: int) -> int:
    """Write books of pictures, pages dealt out to them; return the number of pages."""
    from pypdfium2 import PdfDocument
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    pdfs = sorted((settings.data / "pdf" / "pages" / "en").glob("*.pdf"))
    if not pdfs:
        raise MissingInputError(
            "there are no pages", where=settings.data / "pdf" / "pages" / "en", todo="give --data their folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(num_books):
        canvas = Canvas(str(folder / f"book-{number}.pdf"), invariant=1)
        for pdf in pdfs[number::num_books]:
            page = PdfDocument(pdf)[0]
            canvas.setPageSize(page.get_size())
            picture = page.render(scale=SCAN_DPI / 72).to_pil().convert("L")
            canvas.drawImage(ImageReader(picture), 0, 0, *page.get_size())
            canvas.showPage()
        canvas.save()
    return len(pdfs)


def measure_speed(settings: BenchOcrSettings) -> dict[str, Any]:
    """Pages a second of two books with one worker and with two, ours and OCRmyPDF's, in turn, the better of two runs.

    We read books at once, OCRmyPDF (`--jobs`) the pages of one book; each worker has one thread.
    """
    folder = settings.output_dir / "speed"
    num_pages = draw_books(settings, folder / "books", 2)
    books = sorted((folder / "books").glob("*.pdf"))
    words = ["ocrmypdf", "-l", "eng", "--output-type", "pdf", "--optimize", "0", "--sidecar", folder / "x.txt"]

    def seconds_of_ocrmypdf(num_workers: int) -> float:
        started = time.monotonic()
        for book in books:
            command = [*words, "--jobs", str(num_workers), book, folder / "x.pdf"]
            subprocess.run(command, env=ONE_THREAD, check=True, capture_output=True)
        return time.monotonic() - started

    result: dict[str, Any] = {"pages": num_pages}
    if rival := shutil.which("ocrmypdf"):
        version = subprocess.run([rival, "--version"], check=True, capture_output=True, text=True)
        result["OCRmyPDF"] = version.stdout.strip()
    print(f"OCRmyPDF: {result.get('OCRmyPDF', 'not installed (pip install ocrmypdf)')}", flush=True)
    for num_workers in (1, 2):
        ours, theirs = [], []
        for _ in range(2):
            ours.append(read_books(folder / "books", folder / "out", "en", "--num_processes", str(num_workers)))
            if rival:
                theirs.append(seconds_of_ocrmypdf(num_workers))
        found = {"ours": num_pages / min(ours)}
        if theirs:
            found |= {"ocrmypdf": num_pages / min(theirs), "ratio": min(theirs) / min(ours)}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"pages a second, {num_workers} workers: {shown}", flush=True)
        result[f"{num_workers} workers"] = found
    return result


def measure_processes(settings: BenchOcrSettings) -> dict[str, Any]:
    """One run of two processes against two runs of one process at the same time, over the same books."""
    folder = settings.output_dir / "processes"
    num_pages = draw_books(settings, folder / "books", 4)
    one = read_books(folder / "books", folder / "out", "en", "--num_processes", "2")
    halves = []
    for half in range(2):
        (folder / f"half-{half}").mkdir(exist_ok=True)
        for number in (half, half + 2):
            shutil.copy(folder / "books" / f"book-{number}.pdf", folder / f"half-{half}")
        words = ["--input", folder / f"half-{half}", "--output_dir", folder / f"out-{half}", "--lang", "en"]
        halves.append([sys.executable, OCR, *words, "--num_processes", "1"])
        shutil.rmtree(folder / f"out-{half}", ignore_errors=True)
    started = time.monotonic()
    running = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for words in halves]
    codes = [process.wait() for process in running]
    two = time.monotonic() - started
    assert codes == [0, 0], codes
    result = {"two_processes": num_pages / one, "two_runs": num_pages / two, "ratio": two / one}
    print("pages a second: " + ", ".join(f"{name} {value:.2f}" for name, value in result.items()))
    return result


def peak_of_tree(running: subprocess.Popen[bytes]) -> float:
    """The highest memory of any one process among a command and what it starts, until it ends, in MiB (Linux)."""
    highest = 0
    while running.poll() is None:
        parents, peaks = {}, {}
        for path in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, ValueError):  # it ended
                fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
                number = int(path.parent.name)
                parents[number], peaks[number] = int(fields["PPid"]), int(fields.get("VmHWM", "0 kB").split()[0])
        for number, peak in peaks.items():
            ancestor = number
            while ancestor not in (0, running.pid):
                ancestor = parents.get(ancestor, 0)
            highest = max(highest, peak if ancestor else 0)
        time.sleep(0.05)
    return highest / 1024


def measure_memory(settings: BenchOcrSettings) -> dict[str, Any]:
    """Peaks of books of 50 and 200 pages, of text layers and of pictures with a few words, MiB."""
    from pypdfium2 import PdfDocument
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    folder = settings.output_dir / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    pdfs = sorted((settings.data / "pdf" / "pages" / "en").glob("*.pdf"))

    def with_layers(path: Path, num_pages: int) -> None:
        book = PdfDocument.new()
        for number in range(num_pages):
            book.import_pages(PdfDocument(pdfs[number % len(pdfs)]), pages=[0])
        book.save(path)

    def of_pictures(path: Path, num_pages: int) -> None:
        from PIL import Image, ImageDraw

        canvas = Canvas(str(path), pagesize=(420, 595))
        for number in range(num_pages):
            picture = Image.new("L", (1167, 1653), 255)
            name = "".join("abcdefghij"[int(digit)] for digit in str(number))  # lines that differ in digits are heads
            ImageDraw.Draw(picture).text((200, 200), f"The heart of patient {name} beats.", 0, font_size=40)
            canvas.drawImage(ImageReader(picture), 0, 0, 420, 595)
            canvas.showPage()
        canvas.save()

    results: dict[str, Any] = {}
    makers: dict[str, Callable[[Path, int], None]] = {"text": with_layers, "ocr": of_pictures}
    for method, make in makers.items():
        for num_pages in (50, 200):
            book = folder / f"{method}-{num_pages}.pdf"
            make(book, num_pages)
            words = ["--input", book, "--output_dir", folder / "out", "--lang", "en", "--method", method]
            shutil.rmtree(folder / "out", ignore_errors=True)
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running = subprocess.Popen([sys.executable, OCR, *words], **quiet)
            results.setdefault(method, {})[str(num_pages)] = peak_of_tree(running)
            assert running.returncode == 0
        small, large = results[method].values()
        print(f"memory, {method}: {small:.0f} MiB for 50 pages, {large:.0f} MiB for 200: {large / small:.2f}")
    return results


def main() -> int:
    settings = parse(__doc__, BenchOcrSettings)[0]
    measures = {
        "tests": measure_tests,
        "speed": measure_speed,
        "processes": measure_processes,
        "memory": measure_memory,
    }
    path = settings.output_dir / "results.json"
    results = read_json(path) if path.exists() else {}
    for part in settings.parts:
        found = measures[part](settings)
        results[part] = {**results.get(part, {}), **found}
        write_json(path, results)
    return 0


if __name__ == "__main__":
    run(main)
