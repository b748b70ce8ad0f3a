"""Pages of a book that are no text to learn from: cover, contents, index, appendix, and what was read as nonsense."""

from __future__ import annotations

import re
from itertools import pairwise

from data_collection.books.paragraphs import Line

MIN_PAGES = 10  # of a book that may have front and back matter; shorter PDFs are articles and chapters
FRONT, BACK = 0.1, 0.7  # shares of the pages: where front matter ends, where back matter may begin
MAX_ENTRY = 200  # characters of a line of contents or of an index
NUM_COVER_PAGES = 4  # both sides of the cover, half title, title
_PAGE = r"(?:\d{1,4}|(?<![^\W\d_])[ivxlc]{1,7})"  # "vii", but not the end of "will"
_LEADER = re.compile(rf"(?:[.…·・‧]\s*+){{3,}}+{_PAGE}?+\W*+$", re.IGNORECASE)
_ENDS_IN_PAGE = re.compile(
    rf"(?P<entry>[\W\d]*+[^\W\d].*?)[\s.…·・‧,，、;:()（）-]*(?<![\d,.])(?P<page>{_PAGE})[)）]?$", re.IGNORECASE
)
_INDEX_ENTRY = re.compile(
    r"^[^\d\W].{1,70}?[\s,，、;:.…·・]+\d{1,4}[a-z]{0,2}(?:\s?[-–—‒~]\s?\d{1,4})?"
    r"(?:\s?[,，、;]\s?\d{1,4}[a-z]{0,2}(?:\s?[-–—‒~]\s?\d{1,4})?)*[.,;]?$"
)
_CONTENTS = re.compile(
    r"(?:table of |brief |detailed )?contents|table des mati[eè]res|sommaire|[ií]ndice(?: general| de contenidos?)?"
    r"|contenidos?|tabla de contenidos?|inhalt(?:sverzeichnis)?|оглавление|содержание|目\s*录|目\s*錄|目\s*次"
    r"|もくじ|المحتويات|الفهرس|विषय[\s-]?सूची|अनुक्रमणिका",
    re.IGNORECASE,
)
_INDEX = re.compile(
    r"(?:subject |general |author )?index|index (?:des .*|g[eé]n[eé]ral)|[ií]ndice (?:anal[ií]tico|alfab[eé]tico|de .*)"
    r"|(?:sach|stichwort)(?:register|verzeichnis)|register|(?:предметный|алфавитный|именной) указатель|索\s*引"
    r"|(?:中文|英文|和文|欧文|人名|事項)\s*索\s*引",
    re.IGNORECASE,
)
_APPENDIX = re.compile(
    r"(?:appendix|appendices|annexes?|anhang|ap[eé]ndices?|anexos?|приложени[ея])"
    r"(?:\s+(?:[a-zа-я]|\d{1,2}|[ivx]{1,5})(?:\s+[^\W\d].{0,80})?)?(?:\s*[.:–—-]\s*.{0,80})?"
    r"|(?:附\s*[录錄]|付\s*[录録])\s*[a-z\d一二三四五六七八九十]{0,3}(?:[\s:：、.].{0,40})?",
    re.IGNORECASE,
)
_IMPRINT = re.compile(
    r"\bISBN\b|\bISSN\b|all rights reserved|library of congress|cataloging.in.publication|d[eé]p[oô]t l[eé]gal"
    r"|tous droits r[eé]serv[eé]s|todos los derechos reservados|dep[oó]sito legal|alle rechte vorbehalten"
    r"|все права защищены|\bУДК\b|\bББК\b|图书在版编目|版权所有|責任印制|责任编辑"
    r"|版權所有|出版品預行編目|発行所|印刷所|無断転載|落丁|乱丁",
    re.IGNORECASE,
)


def front_and_back(pages: list[list[Line]]) -> dict[int, str]:
    """What pages (from 0) are of the front or back matter: cover, contents, index or appendix.

    By what stands on them, in books of `MIN_PAGES` and more. Contents are lines that end in page numbers that rise, or
    in dotted leaders; an index is lines that end in lists of page numbers, in the last part; a cover is a page of few
    letters among the first four, or the last, and a page with the imprint near either; an appendix begins, in the last
    part, at a page headed so, and goes on to the end of the book.

    Args:
        pages: the lines of each page, running heads and page numbers dropped.
    """
    count = len(pages)
    if count < MIN_PAGES:
        return {}
    found: dict[int, str] = {}
    front, back = max(NUM_COVER_PAGES, round(FRONT * count)), int(BACK * count)
    full = sorted(map(_num_letters, pages))[count // 2]
    for number, lines in enumerate(pages):
        text = " ".join(line.text for line in lines)
        at_cover = number < NUM_COVER_PAGES or number == count - 1
        if number >= back and _is_index(lines, _follows(found, number, "index")):
            found[number] = "index"
        elif (number < 2 * front or number >= back) and _is_contents(lines, _follows(found, number, "contents")):
            found[number] = "contents"
        elif (at_cover and _num_letters(lines) < 0.25 * full) or (
            (number < front or number >= count - 3)
            and _num_letters(lines) < 0.75 * full  # a full page may cite a book by its ISBN
            and _IMPRINT.search(text)
        ):
            found[number] = "cover"
    headed = (number for number in range(back, count) if _heads(_not_begun_small(pages[number]), _APPENDIX))
    for number in range(next(headed, count), count):
        found.setdefault(number, "appendix")
    return found


def _not_begun_small(lines: list[Line]) -> list[Line]:
    """The page's first lines without those that go on with a sentence: the appendix is an organ as well."""
    return [line for line in lines[:3] if not line.text[:1].islower()]


def _follows(found: dict[int, str], number: int, kind: str) -> bool:
    return found.get(number - 1) == kind


def _num_letters(lines: list[Line]) -> int:
    return sum(map(str.isalnum, "".join(line.text for line in lines)))


def _heads(lines: list[Line], pattern: re.Pattern[str]) -> bool:
    return any(len(line.text) <= MAX_ENTRY and pattern.fullmatch(line.text.strip(" *·-—")) for line in lines[:3])


def _is_contents(lines: list[Line], goes_on: bool) -> bool:
    """Most lines are entries: they end in page numbers, which do not fall, or in a leader; fewer under a heading."""
    if len(lines) < 4:
        return False
    texts = [line.text for line in lines if len(line.text) <= MAX_ENTRY]
    entries = [match for text in texts if (match := _ENDS_IN_PAGE.match(text)) and not _is_sentence(match["entry"])]
    leaders = sum(_LEADER.search(text) is not None for text in texts)
    numbers = [int(match["page"]) for match in entries if match["page"].isdigit()]
    rising = sum(a <= b for a, b in pairwise(numbers))
    least = (0.25 if _heads(lines, _CONTENTS) or goes_on else 0.5) * len(lines)
    return leaders >= least or (len(entries) >= least and len(numbers) > 3 and rising >= 0.9 * (len(numbers) - 1))


def _is_sentence(text: str) -> bool:
    return text.rstrip().endswith((".", "。", "．", "!", "?")) and len(text) > 60


def _is_index(lines: list[Line], goes_on: bool) -> bool:
    """Most lines end in lists of page numbers and begin in alphabetical order; fewer do under a heading, in any order.

    Chinese and Japanese indexes, in the order of sounds, need the heading.
    """
    entries = [line.text for line in lines if len(line.text) <= MAX_ENTRY and _INDEX_ENTRY.match(line.text)]
    certain = goes_on or _heads(lines, _INDEX)
    if len(entries) < (max(3, 0.25 * len(lines)) if certain else max(10, 0.5 * len(lines))):
        return False
    first = [text[0].casefold() for text in entries]
    return certain or sum(a <= b for a, b in pairwise(first)) >= 0.8 * (len(first) - 1)


def is_repeated(text: str, width: int = 8) -> bool:
    """Whether most of a text is a few strings over and over, as OCR reads patterns and rules: under a fifth of its
    pieces of `width` characters are different ones."""
    visible = "".join(text.split())
    pieces = len(visible) - width + 1
    if pieces < 200:
        return False
    return len({visible[start : start + width] for start in range(pieces)}) < 0.2 * pieces
