"""Pages of books: columns, vertical lines, front and back matter, nonsense, page tests."""

import math
import random
from pathlib import Path

import pytest
from PIL import Image
from pypdfium2 import PdfDocument
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from data_collection.books import book_language
from data_collection.books.layout import Box, rows_of_picture
from data_collection.books.matter import front_and_back, is_repeated
from data_collection.books.pages import dpi_of_scan, page_of_words, text_layer
from data_collection.books.paragraphs import Line, drop_running_lines, join_lines
from scripts.bench.page_tests import PageTest, ends_of_matches, passes

ROOT = Path(__file__).parents[1]
WORDS = (ROOT / "assets" / "sample" / "pdf" / "chapters" / "en.txt").read_text(encoding="utf-8").split()


def wrapped(words, width):
    """Words in lines of at most `width` points of 10-point Times, as a typesetter breaks them."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if pdfmetrics.stringWidth(longer, "Times-Roman", 10) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def text_of(path):
    return join_lines(text_layer(PdfDocument(path)[0]), set())


# --- reading order


def test_columns_drawn_across_are_read_one_after_the_other(tmp_path):
    before, columns, after = WORDS[:40], WORDS[40:340], WORDS[340:380]
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(420, 595))
    canvas.setFont("Times-Roman", 10)
    y = 560
    for line in wrapped(before, 340):
        canvas.drawString(40, y, line)
        y -= 13
    y -= 13
    lines = wrapped(columns, 155)
    half = len(lines) // 2
    for left, right in zip(lines[:half], lines[half:], strict=False):  # row by row, as some programs draw
        canvas.drawString(40, y, left)
        canvas.drawString(220, y, right)
        y -= 13
    y -= 13
    for line in wrapped(after, 340):
        canvas.drawString(40, y, line)
        y -= 13
    canvas.save()
    wanted = [*before, *" ".join(lines[: 2 * half]).split(), *after]
    assert text_of(tmp_path / "x.pdf").split() == wanted


def test_rows_of_a_table_stay_rows(tmp_path):
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(420, 595))
    canvas.setFont("Times-Roman", 10)
    rows = [("Systolic pressure in the left ventricle", "120", "140"), ("Heart rate at rest", "70", "64")] * 4
    for number, row in enumerate(rows):
        for x, cell in zip((40, 260, 330), row, strict=True):
            canvas.drawString(x, 500 - 14 * number, cell)
    canvas.save()
    assert text_of(tmp_path / "x.pdf").split("\n") == [" ".join(row) for row in rows]


def test_lines_written_downwards_are_read_from_the_right(tmp_path):
    font = UnicodeCIDFont("HeiseiMin-W3", isVertical=True)
    pdfmetrics.registerFont(font)
    text = "心臓は全身に血液を送り出す器官である。右心房と右心室は肺へ、左心房と左心室は全身へ血液を送る。" * 2
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(420, 595))
    canvas.setFont(font.fontName, 14)
    for number in range(0, len(text), 20):
        canvas.drawString(370 - 1.2 * number, 540, text[number : number + 20])
    canvas.save()
    assert text_of(tmp_path / "x.pdf") == text


def test_a_short_line_ends_a_paragraph_when_the_next_word_had_room(tmp_path):
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(420, 595))
    canvas.setFont("Times-Roman", 10)
    paragraphs, rest = [], WORDS[:400]
    while len(paragraphs) < 4:  # of four lines, the last of them short
        lines = wrapped(rest, 300)
        ending = " ".join(lines[3].split()[:4])
        paragraphs.append(" ".join([*lines[:3], ending]))
        rest = rest[len(paragraphs[-1].split()) :]
    y = 560
    for paragraph in paragraphs:  # ragged, not indented, no wider gap between them
        for line in wrapped(paragraph.split(), 300):
            canvas.drawString(40, y, line)
            y -= 13
    canvas.save()
    assert text_of(tmp_path / "x.pdf").split("\n") == paragraphs


def boxes(*rows):
    return [Box(text, left, left + 10 * len(text), top, top + 20) for text, left, top in rows]


def test_rows_of_a_pictured_table_are_joined_and_columns_of_prose_are_not():
    # Tesseract gives a table's columns one after the other.
    table = boxes(
        ("Heart rate", 0, 0), ("Output", 0, 30), ("Volume", 0, 60), ("70", 300, 2), ("5.1", 300, 28), ("70", 300, 62)
    )
    assert [line.text for line in rows_of_picture(table, [True] * 6)] == ["Heart rate 70", "Output 5.1", "Volume 70"]
    left = [("the heart beats all the time and", 0, 30 * n) for n in range(5)]
    right = [("it pumps the blood to the lungs,", 400, 30 * n) for n in range(5)]
    found = rows_of_picture(boxes(*left, *right), [True, *[False] * 9])
    assert [line.text for line in found] == [text for text, _, _ in (*left, *right)]
    assert [line.starts for line in found] == [True, *[False] * 9]


def test_words_of_tesseract_become_lines_with_their_confidence():
    names = ["text", "block_num", "par_num", "line_num", "left", "top", "width", "height", "conf"]
    rows = [
        "The 1 1 1 0 0 30 20 90",
        "heart 1 1 1 40 0 30 20 80",
        "\x07 1 1 1 80 0 30 20 95",
        "心 1 1 2 0 30 30 20 50",
        "脏 1 1 2 40 30 30 20 50",
    ]
    page = page_of_words([dict(zip(names, row.split(" "), strict=True)) for row in rows])
    assert [(line.text, line.starts) for line in page.lines] == [("The heart", True), ("心脏", False)]
    assert page.confidence == pytest.approx((3 * 90 + 5 * 80 + 2 * 50) / 10)


def test_scans_are_drawn_at_their_own_resolution_from_200_dots_an_inch_on(tmp_path):
    canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(144, 72))  # points: 2 x 1 inches
    for dpi in (240, 100, 600):
        canvas.drawImage(ImageReader(Image.new("L", (2 * dpi, dpi))), 0, 0, 144, 72)
        canvas.showPage()
    canvas.drawImage(ImageReader(Image.new("L", (200, 200))), 0, 0, 72, 72)  # half of the page
    canvas.showPage()
    canvas.save()
    pages = list(PdfDocument(tmp_path / "x.pdf"))
    assert [dpi_of_scan(page) for page in pages] == pytest.approx([240, math.inf, 600, math.inf])
    pages[0].set_rotation(90)
    assert dpi_of_scan(pages[0]) == pytest.approx(240)


# --- running lines, front and back matter


def prose(seed, count=12):
    random.seed(seed)
    return [Line(" ".join(random.choices(WORDS, k=12)), number % 4 == 0) for number in range(count)]


def test_heads_that_change_with_the_chapter_are_dropped_where_they_run():
    pages = []
    for number in range(300):
        head = f"Chapter {'ABCDEFGHIJ'[number // 5 % 10]}{number // 50} of the heart" if number % 5 else "Chapter opens"
        pages.append([Line(f"{head}", True), *prose(number)])
    kept = drop_running_lines(pages)
    assert all(len(lines) == 12 for number, lines in enumerate(kept) if number % 5)


def test_page_numbers_are_dropped_and_words_of_the_same_letters_kept():
    for last in ("12", "xii", "- XLIV -", "Page 3 of 9", "第 12 頁", "I"):
        assert drop_running_lines([[*prose(1), Line(last, True)]])[0] == prose(1), last
    for last in ("ill.", "Civil", "C"):
        assert drop_running_lines([[*prose(1), Line(last, False)]])[0][-1].text == last


def book():
    """A book of 60 pages by what each page is: (kind or None, lines)."""
    pages = [("cover", [Line("Diseases of the Heart", True), Line("A. Author", True)])]
    imprint = [
        "First published 2009. All rights reserved.",
        "ISBN 978-0-00-000000-2",
        *[line.text for line in prose(1, 3)],
    ]
    pages.append(("cover", [Line(text, True) for text in imprint]))
    entries = [
        f"{n}.{m} {WORDS[7 * n + m]} {WORDS[9 * n + m]} {'.' * (n % 3 * 9)} {9 * n + m}"
        for n in range(1, 6)
        for m in range(5)
    ]
    pages.append(("contents", [Line("Contents", True), *(Line(entry, True) for entry in entries)]))
    pages.append(("contents", [Line(f"{word} and more, {40 + n}", True) for n, word in enumerate(WORDS[30:50])]))
    for number in range(46):
        lines = prose(100 + number)
        if number % 6 == 0:  # a table, which ends in numbers that do not rise
            lines[4:10] = [
                Line(f"Patient {letter} {n}", True)
                for letter, n in zip("ABCDEF", (72, 61, 80, 74, 66, 70), strict=True)
            ]
        pages.append((None, lines))
    pages.append(("appendix", [Line("Appendix B: Normal values", True), *prose(7)]))
    pages += [("appendix", prose(8 + number)) for number in range(5)]
    terms = sorted({word.strip(".,;:").lower() for word in WORDS if word.strip(".,;:").isalpha() and len(word) > 6})
    for start in (0, 30, 60):
        lines = [Line(f"{term}, {n + 3}, {n + 9}–{n + 12}", True) for n, term in enumerate(terms[start : start + 30])]
        pages.append(("index", [Line("Index", True), *lines] if start == 0 else lines))
    pages.append(("cover", [Line("A. Author teaches cardiology.", True)]))
    return pages


def test_cover_contents_index_and_appendix_are_recognised():
    pages = book()
    found = front_and_back([lines for _, lines in pages])
    assert [found.get(number) for number in range(len(pages))] == [kind for kind, _ in pages]


def test_an_organ_is_no_appendix_and_a_full_page_that_cites_a_book_no_cover():
    pages = [lines for _, lines in book()]
    for number, text in enumerate(
        ("appendix was found inflamed and was removed", "Appendix vermiformis is a blind tube")
    ):
        pages[45 + number] = [Line(text, number == 1), *prose(number)]
    pages[5] = [*prose(5), Line("See Smith, Surgery, ISBN 978-0-00-000000-2.", False)]
    found = front_and_back(pages)
    assert 5 not in found and found.get(50) == "appendix" and not {44, 45, 46, 47, 48} & set(found)


def test_ocr_that_reads_leaders_badly_still_gives_contents():
    texts = [
        "目录",
        "第一章 心脏的结构 …………… 1",
        "第二章 心律失常 ..... 。 23",
        "第三章 心力衰竭 ………: 57",
        "第四章 高血压 81",
    ]
    pages = [[Line(text, True) for text in texts], *([Line(f"正文{'心脏' * 60}{n}。", True)] for n in range(20))]
    assert front_and_back(pages)[0] == "contents"


def test_the_first_page_of_text_is_no_contents_for_words_that_end_like_numbers():
    pages = [lines for _, lines in book()]
    ends = ["in 1952", "patients will", "in 1967", "and mitral", "in 1977", "is clinical", "in 1986", *["and so"] * 13]
    pages[4] = [Line(f"{line.text} {end}", False) for line, end in zip(prose(4, 20), ends, strict=True)]
    assert 4 not in front_and_back(pages)


def test_articles_and_numbered_questions_are_kept():
    assert front_and_back([lines for _, lines in book()[:9]]) == {}  # too short to be a book
    questions = [[Line(f"{n}. Which drug lowers the rate of patient {n}?", True) for n in range(20)] for _ in range(20)]
    assert front_and_back([prose(1), *questions]) == {}


ENGLISH = "The heart pumps blood through the body of each of us."
FRENCH = "Le coeur pompe le sang dans le corps de chacun de nous."


@pytest.mark.parametrize(
    ("models", "texts", "lang"),
    [
        (("eng", "fra", "osd"), ["12 34 56", "", "1.5 %", ENGLISH, ENGLISH], "en"),  # numbers are of no language
        (("eng", "osd"), [FRENCH] * 5, None),  # for which there is no model here
        (("eng", "osd"), [ENGLISH] * 5, "en"),
    ],
)
def test_the_language_of_a_scanned_book_is_that_of_its_words(monkeypatch, models, texts, lang):
    pdf, read = PdfDocument.new(), iter(texts)
    for _ in range(5):
        pdf.new_page(100, 100)
    monkeypatch.setattr(
        book_language, "recognise", lambda image, *words: "Script: Latin" if "osd" in words else next(read)
    )
    assert book_language.detect_language(pdf, models, 70, lambda: None) == lang


def test_text_that_repeats_itself_is_found():
    assert is_repeated("|||||| ----- " * 60)
    assert not is_repeated(" ".join(WORDS))
    assert not is_repeated("no no no")  # too short to judge


# --- the page tests' own arithmetic


def least_differences(wanted, text):
    """Least edits from `wanted` to a piece of `text` that ends at each place, by the whole matrix."""
    column = list(range(len(wanted) + 1))
    found = []
    for character in text:
        before, column = column, [0]
        for place, other in enumerate(wanted, 1):
            column.append(min(column[-1] + 1, before[place] + 1, before[place - 1] + (character != other)))
        found.append(column[-1])
    return found


def test_approximate_matches_are_those_of_the_whole_matrix():
    random.seed(3)
    for _ in range(300):
        wanted = "".join(random.choices("abc", k=random.randint(1, 9)))
        text = "".join(random.choices("abc", k=30))
        for limit in (0, 1, 2):
            right = [end for end, least in enumerate(least_differences(wanted, text), 1) if least <= limit]
            assert ends_of_matches(wanted, text, limit) == right


def test_page_tests_pass_and_fail():
    text = "Ｔｈｅ heart  beats\nall the time."
    assert passes(PageTest("x", "present", ("The heart beat",), 1, True), text)
    assert not passes(PageTest("x", "present", ("The brain",), 2, True), text)
    assert passes(PageTest("x", "order", ("heart beats", "the time"), 0, True), text)
    assert not passes(PageTest("x", "order", ("the time", "heart beats"), 0, True), text)
    assert not passes(PageTest("x", "absent", ("ALL THE",), 0, False), text)
    assert passes(PageTest("x", "absent", ("ALL THE",), 0, True), text)


@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "data" / "pdf" / "pages").is_dir(),
    reason="the page tests (../shared/data) are not here",
)
def test_real_pages_lose_nothing_to_the_bare_library(tmp_path):
    from scripts.bench.bench_ocr import bare_pdfium
    from scripts.bench.page_tests import read_tests

    data = ROOT.parent / "shared" / "data"
    for lang in ("en", "fr", "zh", "ja"):
        for test in read_tests(data, lang):
            path = data / "pdf" / "pages" / lang / f"{test.pdf}.pdf"
            if test.kind == "present" and passes(test, bare_pdfium(path)):
                assert passes(test, text_of(path)), test
