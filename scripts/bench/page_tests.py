"""Unit tests of pages: a text that must stand on a page, must not, or must stand before another."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from configs.errors import MissingInputError

KINDS = ("present", "order", "absent")


@dataclass(frozen=True)
class PageTest:
    """One test of DATA/pdf/pages/LANG.jsonl.

    Attributes:
        texts: one text, or those before and after.
        verified: the set marks it as checked against its page.
    """

    pdf: str
    kind: str
    texts: tuple[str, ...]
    max_diffs: int
    case_sensitive: bool
    verified: bool = False


def read_tests(data: Path, lang: str) -> list[PageTest]:
    """The tests of a language but those of table cells, which ask for marked-up tables.

    Raises:
        MissingInputError: there are none.
    """
    path = data / "pdf" / "pages" / f"{lang}.jsonl"
    if not path.exists():
        raise MissingInputError("there are no page tests", where=path, todo="give --data a folder with pdf/pages/")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        PageTest(
            Path(row["pdf"]).stem,
            row["type"],
            (row["before"], row["after"]) if row["type"] == "order" else (row["text"],),
            row["max_diffs"],
            row.get("case_sensitive", True),
            row.get("checked") == "verified",
        )
        for row in rows
        if row["type"] in KINDS
    ]


def plain(text: str) -> str:
    """Without white space and differences of width (NFKC)."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


def ends_of_matches(wanted: str, text: str, max_diffs: int) -> list[int]:
    """Where in `text` pieces end that differ from `wanted` by at most `max_diffs` insertions, deletions, replacements.

    Myers, "A fast bit-vector algorithm for approximate string matching" (1999), a column of the matrix in one integer.
    """
    places: dict[str, int] = {}
    for place, character in enumerate(wanted):
        places[character] = places.get(character, 0) | 1 << place
    every, last = (1 << len(wanted)) - 1, 1 << (len(wanted) - 1)
    up, down, differences = every, 0, len(wanted)  # bits: the cell is one more, or one less, than that above it
    ends = []
    for end, character in enumerate(text, 1):
        same = places.get(character, 0)
        vertical = same | down
        horizontal = (((same & up) + up) ^ up) | same
        more, less = down | ~(horizontal | up) & every, up & horizontal
        differences += bool(more & last) - bool(less & last)
        more, less = more << 1 & every, less << 1 & every
        up, down = less | ~(vertical | more) & every, more & vertical
        if differences <= max_diffs:
            ends.append(end)
    return ends


def passes(test: PageTest, text: str) -> bool:
    """Whether a page's text passes a test. Order: some piece like the first ends before one like the second does."""
    page, wanted = plain(text), [plain(part) for part in test.texts]
    if not test.case_sensitive:
        page, wanted = page.casefold(), [part.casefold() for part in wanted]
    ends = [ends_of_matches(part, page, test.max_diffs) for part in wanted]
    if test.kind == "absent":
        return not ends[0]
    if test.kind == "present":
        return bool(ends[0])
    return bool(ends[0] and ends[1]) and ends[0][0] < ends[1][-1]
