"""The lines of a book's pages as a text: running heads dropped, words and paragraphs put together again."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

NUM_EDGE_LINES = 3  # headers and footers have up to three lines
NUM_NEAR_PAGES = 10
_CJK = "\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
BETWEEN_CJK = re.compile(f"(?<=[{_CJK}]) +(?=[{_CJK}])")
IS_CJK = re.compile(f"[{_CJK}]")
_ROMAN = r"(?=[ivxl])(?:xl|l?x{0,3})(?:ix|iv|v?i{0,3})"  # of front matter; "ill." may be the end of a sentence
_PAGE_NUMBER = re.compile(
    rf"\W*(?:page|seite|p\.|стр\.?|página|第)?\s*(?:\d{{1,4}}|{_ROMAN})\s*(?:(?:/|of|de|sur|из|共)\s*\d{{1,4}})?"
    r"\s*[页頁]?\W*",
    re.IGNORECASE,
)


@dataclass
class Line:
    """A line of a page. `starts` says that it begins a paragraph; `hyphen` that it ends in a hyphenated word."""

    text: str
    starts: bool
    hyphen: bool = False


def drop_running_lines(pages: list[list[Line]]) -> list[list[Line]]:
    """Drop page numbers and running heads and feet.

    A line is dropped when it stands among the first or last three of its page and the same line, digits aside, does so
    on two others of the ten pages before it and the ten after it (heads change with the chapter); or when it is the
    first or last and nothing but a page number.
    """
    shapes = [{_shape(lines[place].text) for place in _edges(lines)} for lines in pages]
    near: Counter[str] = Counter()
    for page_shapes in shapes[: NUM_NEAR_PAGES + 1]:
        near.update(page_shapes)
    kept = []
    for number, lines in enumerate(pages):
        dropped = {place for place in _edges(lines) if near[_shape(lines[place].text)] >= 3}
        ends = {0, len(lines) - 1} if lines else set()
        dropped |= {place for place in ends if _is_page_number(lines[place].text)}
        kept.append(_without(lines, dropped))
        if number >= NUM_NEAR_PAGES:
            near.subtract(shapes[number - NUM_NEAR_PAGES])
        if number + NUM_NEAR_PAGES + 1 < len(pages):
            near.update(shapes[number + NUM_NEAR_PAGES + 1])
    return kept


def _edges(lines: list[Line]) -> set[int]:
    count = min(NUM_EDGE_LINES, len(lines))
    return {*range(count), *range(len(lines) - count, len(lines))}


def _is_page_number(text: str) -> bool:
    return len(text) <= 30 and _PAGE_NUMBER.fullmatch(text) is not None


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", text).strip().lower()


def _without(lines: list[Line], dropped: set[int]) -> list[Line]:
    kept, starts = [], False
    for place, line in enumerate(lines):
        starts = starts or line.starts
        if place not in dropped:
            kept.append(Line(line.text, starts, line.hyphen))
            starts = False
    return kept


def join_lines(lines: list[Line], compounds: set[str]) -> str:
    """The lines of a page as paragraphs parted by line breaks.

    A word hyphenated at the end of a line is joined, keeping its hyphen where the book writes it with one elsewhere
    (`compounds`); there is no space between CJK characters.
    """
    paragraphs: list[str] = []
    hyphen = False
    for line in lines:
        if line.starts or not paragraphs:
            paragraphs.append(line.text)
        else:
            paragraphs[-1] = _join(paragraphs[-1], line.text, hyphen, compounds)
        hyphen = line.hyphen
    return "\n".join(paragraphs)


def _join(before: str, text: str, hyphen: bool, compounds: set[str]) -> str:
    if not hyphen and before[-1:] in ("-", "\u00ad", "\u2010") and before[-2:-1].isalpha() and text[:1].islower():
        before, hyphen = before[:-1], True
    if hyphen:
        first, second = re.search(r"\w*$", before), re.match(r"\w*", text)
        compound = f"{first[0]}-{second[0]}".lower() if first and second else ""
        return f"{before}-{text}" if compound in compounds or text[:1].isupper() else before + text
    if IS_CJK.match(before[-1:]) and IS_CJK.match(text[:1]):
        return before + text
    return f"{before} {text}"


def page_texts(pages: list[list[Line]]) -> list[str]:
    """The text of each page, when running lines are dropped."""
    compounds = {word.lower() for lines in pages for line in lines for word in re.findall(r"\b\w+-\w+", line.text)}
    return [join_lines(lines, compounds) for lines in pages]
