"""PDF books: text layers, OCR, hostile files, limits, resume."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_collection.books.pages import clean
from data_collection.books.paragraphs import Line, drop_running_lines, join_lines, page_texts

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "pdf"
HOSTILE = ROOT.parent / "shared" / "data" / "pdf" / "hostile"
needs_hostile = pytest.mark.skipif(not HOSTILE.is_dir(), reason="the hostile PDFs (../shared/data/pdf) are not here")


def models():
    if not shutil.which("tesseract"):
        return ""
    return subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True).stdout


needs_tesseract = pytest.mark.skipif(
    "chi_sim" not in models(), reason="Tesseract with eng and chi_sim is not installed"
)


def command(*arguments):
    return [sys.executable, str(ROOT / "data_collection" / "ocr.py"), *map(str, arguments)]


def run_ocr(*arguments, env=None):
    return subprocess.run(command(*arguments), capture_output=True, text=True, env={**os.environ, **(env or {})})


def documents(folder):
    return {path.stem: row for path in sorted(folder.glob("kept/*.parquet")) for row in pq.read_table(path).to_pylist()}


def records(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("shards/*.json"))}


def distance(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (a != b)))
    return row[-1]


# --- lines to text


def lines(*texts, hyphens=()):
    return [Line(text, number == 0, number in hyphens) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lines("the heart beats", "all the time"), "the heart beats all the time"),
        (lines("the cardio-", "vascular system"), "the cardiovascular system"),
        (lines("the cardio", "vascular system", hyphens=[0]), "the cardiovascular system"),  # PDFium took the hyphen
        (lines("a semi\u00ad", "lunar valve"), "a semilunar valve"),
        (lines("a well-", "known sign"), "a well-known sign"),  # a compound of this book
        (lines("an X", "Ray", hyphens=[0]), "an X-Ray"),
        (lines("from 3-", "4 mm"), "from 3- 4 mm"),
        (lines("肾脏的基本", "单位叫肾单位。"), "肾脏的基本单位叫肾单位。"),
        (lines("维生素", "D 缺乏"), "维生素 D 缺乏"),
        ([Line("one", True), Line("two", True)], "one\ntwo"),
    ],
)
def test_joining_lines(given, wanted):
    assert join_lines(given, {"well-known"}) == wanted


def test_page_numbers_and_running_heads_go_and_nothing_else():
    pages = [
        [
            Line("Chapter 3 The Heart", True),
            Line(f"Text {word} of the page goes", True),
            Line(f"on {word}.", False),
            Line(f"- {n} -", True),
        ]
        for n, word in enumerate(["one", "two", "three", "four"], 11)
    ]
    assert page_texts(drop_running_lines(pages)) == [
        f"Text {w} of the page goes on {w}." for w in ["one", "two", "three", "four"]
    ]
    short = [[Line("Ischaemia", True), Line("of the heart", False), Line("Page 4 of 5", True)], [Line("Second", True)]]
    assert [[line.text for line in page] for page in drop_running_lines(short)] == [
        ["Ischaemia", "of the heart"],
        ["Second"],
    ]


def test_drawn_signs_become_letters():
    assert clean("e\u0301ﬁne ⽇\uf0b7\x07 \ud83d\ude00") == "éfine 日 😀"


# --- books


def test_the_sample_with_a_text_layer_is_read_exactly(tmp_path):
    done = run_ocr(
        "--input",
        SAMPLE / "pages" / "en",
        "--output_dir",
        tmp_path,
        "--lang",
        "en",
        "--method",
        "text",
        "--licence",
        "Apache-2.0",
    )
    assert done.returncode == 0, done.stderr
    book = documents(tmp_path)["heart"]
    chapter = (SAMPLE / "chapters" / "en.txt").read_text(encoding="utf-8").replace("## ", "")
    assert book["text"].split() == chapter.split()
    paragraphs = [line for line in book["text"].split("\n") if line]
    assert paragraphs == [" ".join(block.split()) for block in chapter.split("\n\n")]
    meta = json.loads(book["meta"])
    assert (meta["num_pages"], meta["pages_by_method"], meta["file"]) == (3, {"text": 3}, "heart.pdf")
    assert (book["lang"], book["source"], book["licence"]) == ("en", "textbooks", "Apache-2.0")
    again = run_ocr(
        "--input",
        SAMPLE / "pages" / "en",
        "--output_dir",
        tmp_path,
        "--lang",
        "en",
        "--method",
        "text",
        "--licence",
        "Apache-2.0",
    )
    assert again.returncode == 0 and "already done" in again.stderr
    other = run_ocr("--input", SAMPLE / "pages" / "en", "--output_dir", tmp_path, "--lang", "fr", "--method", "text")
    assert other.returncode == 2 and "lang was en" in other.stderr and "licence was Apache-2.0" in other.stderr


@needs_tesseract
def test_the_scanned_sample_is_read_well(tmp_path):
    done = run_ocr("--input", SAMPLE / "pages" / "zh", "--output_dir", tmp_path, "--lang", "zh")
    assert done.returncode == 0, done.stderr
    book = documents(tmp_path)["kidney"]

    def plain(text):
        return unicodedata.normalize("NFKC", re.sub(r"\s|## ", "", text))

    chapter = plain((SAMPLE / "chapters" / "zh.txt").read_text(encoding="utf-8"))
    assert distance(plain(book["text"]), chapter) / len(chapter) < 0.04
    assert not re.search(r"[\u4e00-\u9fff] [\u4e00-\u9fff]", book["text"])
    meta = json.loads(book["meta"])
    assert meta["pages_by_method"] == {"ocr": 3} and meta["mean_ocr_confidence"] > 80


def test_sample_pdfs_are_drawn_the_same_again(tmp_path):
    if (
        not shutil.which("fc-match")
        or "CJK" not in subprocess.run(["fc-match", "Noto Sans CJK SC"], capture_output=True, text=True).stdout
    ):
        pytest.skip("fonts-noto-cjk is not installed")
    shutil.copytree(SAMPLE / "chapters", tmp_path / "chapters")
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "sample_pdfs.py", "--folder", tmp_path], check=True, capture_output=True
    )
    for path in ("pages/en/heart.pdf", "pages/zh/kidney.pdf"):
        assert (tmp_path / path).stat().st_size < 500_000
    assert (tmp_path / "pages/en/heart.pdf").read_bytes() == (SAMPLE / "pages/en/heart.pdf").read_bytes()


@needs_hostile
@needs_tesseract
def test_every_hostile_pdf_ends_as_document_or_failure(tmp_path):
    out = tmp_path / "out"
    arguments = ("--input", HOSTILE, "--output_dir", out, "--lang", "en", "--dpi", 100, "--max_seconds_per_book", 20)
    started = time.monotonic()
    done = run_ocr(*arguments)
    assert done.returncode == 5, done.stderr
    assert time.monotonic() - started < 120
    found = records(out)
    assert set(found) == {path.stem for path in HOSTILE.glob("*.pdf")}
    assert set(documents(out)) == {name for name, record in found.items() if record["status"] == "kept"}
    assert "wants a password" in found["encrypted"]["reason"]
    assert all(found[name]["reason"].startswith("not a PDF") for name in ("invalid", "corrupted"))
    assert all(found[name]["reason"].startswith("no text") for name in ("blank", "no_contents"))
    assert documents(out)["not_encrypted"]["text"] == "Not encrypted pdf"
    assert "LinnSequencer" in documents(out)["linn"]["text"]
    failures = [json.loads(line)["where"] for line in (out / "failures.jsonl").read_text().splitlines()]
    assert {Path(where).stem for where in failures} >= {"encrypted", "invalid", "corrupted", "blank", "no_contents"}
    assert run_ocr(*arguments).returncode == 5


@needs_hostile
@needs_tesseract
def test_limits_of_time_and_memory_fail_the_book_alone(tmp_path):
    pdfs = tmp_path / "pdfs"
    pdfs.mkdir()
    shutil.copy(HOSTILE / "enormous.pdf", pdfs)
    shutil.copy(HOSTILE / "not_encrypted.pdf", pdfs)
    small = run_ocr("--input", pdfs, "--output_dir", tmp_path / "a", "--lang", "en", "--max_gib_per_process", 0.6)
    assert small.returncode == 5 and set(documents(tmp_path / "a")) == {"not_encrypted"}, small.stderr
    assert re.search("memory|GiB", records(tmp_path / "a")["enormous"]["reason"])
    late = run_ocr("--input", pdfs, "--output_dir", tmp_path / "b", "--lang", "en", "--max_seconds_per_book", 0.01)
    assert late.returncode == 5 and "took more than" in records(tmp_path / "b")["enormous"]["reason"]
    retried = run_ocr("--input", pdfs, "--output_dir", tmp_path / "b", "--lang", "en", "--retry_failed")
    assert retried.returncode == 0, retried.stderr
    assert set(documents(tmp_path / "b")) == {"enormous", "not_encrypted"}
    assert not (tmp_path / "b" / "failures.jsonl").exists()


@needs_tesseract
def test_text_that_the_machine_has_no_font_for_is_not_taken_for_read(tmp_path):
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    hide_fonts = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /usr/share/fonts && exec "$@"', "sh"]
    if subprocess.run([*hide_fonts, "true"], capture_output=True).returncode:
        pytest.skip("fonts can be hidden by root only")
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))  # named in the PDF, not embedded
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(400, 200))
    canvas.setFont("STSong-Light", 12)
    canvas.drawString(20, 150, "患者因发热咳嗽入院，诊断为肺炎，给予抗生素治疗后好转出院。")
    canvas.setFont("Helvetica", 12)
    canvas.drawString(20, 100, "Page 12345")
    canvas.save()
    arguments = ("--input", tmp_path / "x.pdf", "--lang", "zh", "--output_dir")
    hidden = subprocess.run(
        [*hide_fonts, *command(*arguments, tmp_path / "a", "--method", "ocr")], capture_output=True, text=True
    )
    assert hidden.returncode == 5 and "apt-get install fonts-noto-cjk" in hidden.stderr
    assert run_ocr(*arguments, tmp_path / "b").returncode == 0  # its text layer needs no font
    assert "诊断为肺炎" in documents(tmp_path / "b")["x"]["text"]


def test_a_full_disk_ends_the_run_and_fails_no_book(tmp_path):
    out = tmp_path / "out"
    (out / "pages").mkdir(parents=True)
    small_disk = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4k none "$0" && exec "$@"', out / "pages"]
    if subprocess.run([*small_disk, "true"], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    arguments = ("--input", SAMPLE / "pages" / "en", "--output_dir", out, "--lang", "en", "--method", "text")
    full = subprocess.run([*small_disk, *command(*arguments)], capture_output=True, text=True)
    assert full.returncode == 4 and "No space left on device" in full.stderr and str(out) in full.stderr
    assert not records(out) and not documents(out)
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert run_ocr(*arguments).returncode == 0  # where there is room again
    assert len(documents(out)["heart"]["text"]) > 1000


def test_two_commands_at_once_on_one_folder_do_no_harm(tmp_path):
    arguments = ("--input", SAMPLE / "pages" / "en", "--lang", "en", "--method", "text", "--output_dir")
    both = [subprocess.Popen(command(*arguments, tmp_path / "out"), stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(100) for process in both] == [0, 0]
    assert run_ocr(*arguments, tmp_path / "alone").returncode == 0
    assert documents(tmp_path / "out") == documents(tmp_path / "alone")


def tesseracts_of(mark):
    """Ids of living Tesseracts in whose environment the mark is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"tesseract" in (path / "cmdline").read_bytes() and mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@needs_hostile
@needs_tesseract
def test_killed_it_leaves_no_process_and_goes_on(tmp_path):
    pdfs = tmp_path / "pdfs"
    pdfs.mkdir()
    for name in ("multipage", "not_encrypted", "3small"):
        shutil.copy(HOSTILE / f"{name}.pdf", pdfs / f"{name}.pdf")
    env = {**os.environ, "MARK": str(tmp_path)}
    arguments = ("--input", pdfs, "--lang", "en", "--num_processes", 2, "--dpi", 100)
    process = subprocess.Popen(
        command(*arguments, "--output_dir", tmp_path / "out"), env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not records(tmp_path / "out") or len(tesseracts_of(env["MARK"])) == 0:  # a Tesseract is at work
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while tesseracts_of(env["MARK"]):
        assert time.monotonic() < deadline, "a Tesseract outlives the command"
        time.sleep(0.05)
    finished = set(records(tmp_path / "out"))
    assert finished != {"multipage", "not_encrypted", "3small"}
    before = {name: (tmp_path / "out" / "kept" / f"{name}.parquet").stat().st_mtime_ns for name in finished}
    assert run_ocr(*arguments, "--output_dir", tmp_path / "out", env=env).returncode == 0
    assert {name: (tmp_path / "out" / "kept" / f"{name}.parquet").stat().st_mtime_ns for name in finished} == before
    assert run_ocr(*arguments, "--output_dir", tmp_path / "whole").returncode == 0
    assert documents(tmp_path / "out") == documents(tmp_path / "whole")
    results = [json.loads((tmp_path / name / "run.json").read_text())["result"] for name in ("out", "whole")]
    assert results[0] == results[1]


@needs_tesseract
def test_killed_in_a_book_it_goes_on_at_the_page(tmp_path):
    arguments = ("--input", SAMPLE / "pages" / "zh", "--lang", "zh", "--output_dir")
    process = subprocess.Popen(command(*arguments, tmp_path / "out"), stderr=subprocess.DEVNULL)
    journal = tmp_path / "out" / "pages" / "kidney.jsonl"
    deadline = time.monotonic() + 200
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the book's process sees that it is alone, and ends
    rows = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    assert 2 <= len(rows) < 4 and not records(tmp_path / "out")
    # The first page gets a mark, by which to see that it is not read again; a last row is cut.
    journal.write_text(rows[0] + rows[1].replace("\u80be", "\u9f98") + "".join(rows[2:]) + '{"page"', encoding="utf-8")
    assert run_ocr(*arguments, tmp_path / "out").returncode == 0
    assert run_ocr(*arguments, tmp_path / "whole").returncode == 0
    (marked,), (whole,) = documents(tmp_path / "out").values(), documents(tmp_path / "whole").values()
    assert "\u9f98" in marked["text"]
    assert marked["text"].replace("\u9f98", "\u80be") == whole["text"] and marked["meta"] == whole["meta"]
    assert not journal.exists()


FAKE_TESSERACT = r"""#!/bin/sh
case "$*" in *--version*|*--list-langs*) exec REAL "$@";; esac
echo call >> CALLS
n=$(wc -l < CALLS)
case "$n" in
  2) sleep 1000;;
  3) kill -9 $PPID; sleep 1000;;
  4) echo no >&2; exit 3;;
esac
cat > /dev/null
printf 'level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n'
word=$(echo zero one two three four five six seven eight | cut -d ' ' -f $((n + 1)))
printf '5\t1\t1\t1\t1\t1\t10\t10\t90\t20\t91\t%s\n' "$word"
"""


@needs_tesseract
def test_a_page_that_hangs_or_crashes_fails_alone_and_is_read_again_when_asked(tmp_path):
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(200, 200))
    for _ in range(5):
        canvas.rect(20, 20, 50, 50, fill=1)
        canvas.showPage()
    canvas.save()
    (tmp_path / "bin").mkdir()
    calls, fake = tmp_path / "calls", tmp_path / "bin" / "tesseract"
    fake.write_text(FAKE_TESSERACT.replace("REAL", shutil.which("tesseract")).replace("CALLS", str(calls)))
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    arguments = ("--input", tmp_path / "x.pdf", "--output_dir", tmp_path / "out", "--lang", "en", "--method", "ocr")
    done = run_ocr(*arguments, "--max_seconds_per_page", 4, env=env)
    assert done.returncode == 5, done.stderr
    assert documents(tmp_path / "out")["x"]["text"] == "one\n\nfive"
    failed = dict(records(tmp_path / "out")["x"]["failed_pages"])
    assert set(failed) == {2, 3, 4}
    assert "more than 4 s" in failed[2] and "SIGKILL" in failed[3] and "error: no" in failed[4]
    listed = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"].rpartition(":")[2] for line in listed] == ["page 2", "page 3", "page 4"]
    again = run_ocr(*arguments, "--retry_failed", env=env)
    assert again.returncode == 0, again.stderr
    book = documents(tmp_path / "out")["x"]
    assert book["text"] == "one\n\nsix\n\nseven\n\neight\n\nfive"  # only the three were read
    pages = json.loads(book["meta"])["pages"]
    assert [book["text"][page["start"] : page["end"]] for page in pages] == book["text"].split("\n\n")
    assert [(page["page"], page["confidence"]) for page in pages] == [(number, 91) for number in range(1, 6)]
    assert not (tmp_path / "out" / "pages").exists()


def test_each_page_that_is_looked_at_for_the_language_has_the_time_of_a_page(tmp_path):
    from data_collection.books.textbooks import Book, ReadingRules, open_journal, read_pages

    book = Book("heart", SAMPLE / "pages" / "en" / "heart.pdf")
    rules = ReadingRules("auto", "text", 300, 40.0, (), "", "", 120, 10_800, 4.0)
    said = []
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "heart.jsonl").write_bytes(b'{"page": 1}\n\0\0\n{"page": 2}\n')  # of two commands at once
    assert read_pages(book, rules, open_journal(book, rules, tmp_path), said.append)
    assert said == [None, None, None, 1, 2, 3]


def test_a_long_book_passes_through_several_processes_and_leaves_its_contents_out(tmp_path):
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(300, 300))
    for number in range(1, 231):
        if number == 3:
            for line in range(12):
                canvas.drawString(20, 280 - 20 * line, f"Chapter {line} of the book .......... {line * 18 + 4}")
        else:
            name = "".join("abcdefghij"[int(digit)] for digit in str(number))
            for line in range(8):
                canvas.drawString(20, 280 - 20 * line, f"This line number {line} is on the page {name}.")
            if number > 5:
                canvas.drawString(20, 10, "The running foot of the book")
        canvas.showPage()
    canvas.save()
    arguments = ("--input", tmp_path / "x.pdf", "--output_dir", tmp_path / "out", "--lang", "auto", "--method", "text")
    done = run_ocr(*arguments)
    assert done.returncode == 0, done.stderr
    book, record = documents(tmp_path / "out")["x"], records(tmp_path / "out")["x"]
    assert book["lang"] == "en" and record["left_out"] == [[3, "contents"]]
    assert record["meta"]["pages_left_out"] == {"contents": 1}
    pages = json.loads(book["meta"])["pages"]
    assert [page["page"] for page in pages] == [number for number in range(1, 231) if number != 3]
    for page in pages:
        text = book["text"][page["start"] : page["end"]]
        name = "".join("abcdefghij"[int(digit)] for digit in str(page["page"]))
        assert text.count("This line number") == text.count(f"the page {name}.") == 8 and "running foot" not in text


def test_an_array_does_what_one_task_does(tmp_path):
    pdfs = tmp_path / "pdfs"
    for name in ("a.pdf", "b/a.pdf", "b/c.PDF"):
        (pdfs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE / "pages" / "en" / "heart.pdf", pdfs / name)
    arguments = ("--input", pdfs, "--lang", "en", "--method", "text", "--output_dir")
    assert run_ocr(*arguments, tmp_path / "one").returncode == 0
    for task in ("1", "0"):
        assert not (tmp_path / "two" / "run.json").exists()
        env = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        assert run_ocr(*arguments, tmp_path / "two", env=env).returncode == 0
    assert documents(tmp_path / "two") == documents(tmp_path / "one")
    assert set(documents(tmp_path / "one")) == {"a", "b-a", "b-c"}


def test_what_is_missing_is_said_before_anything_is_read(tmp_path):
    here = ("--input", SAMPLE / "pages" / "zh", "--output_dir", tmp_path / "out", "--lang", "zh")
    missing = run_ocr(*here, env={"PATH": "/nonexistent"})
    assert missing.returncode == 4 and "apt-get install tesseract-ocr tesseract-ocr-chi-sim" in missing.stderr
    (tmp_path / "empty").mkdir()
    empty = run_ocr("--input", tmp_path / "empty", "--output_dir", tmp_path / "out", "--lang", "zh")
    assert empty.returncode == 3 and "*.pdf" in empty.stderr
    layerless = run_ocr(*here, "--method", "text")
    assert layerless.returncode == 5 and "no text on 3 pages" in records(tmp_path / "out")["kidney"]["reason"]
