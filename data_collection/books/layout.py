"""Where the lines of a page stand: reading order, columns, vertical writing, paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from data_collection.books.paragraphs import IS_CJK, Line

WIDE_GAP = 1.0  # heights of a line; a gap inside a line that may be a gutter between columns
GUTTER = 0.8  # least width of a gutter, in heights of a line
MIN_COLUMN_LINES = 3
MIN_COLUMN_WIDTH = 8.0  # heights of a line; narrower columns are those of tables
_LIST_ITEM = re.compile(r"[•·▪◦–—*-]|\(?\w{1,3}[.)．）]\s")


@dataclass
class Box:
    """Where a line stands, in points or any unit, y growing downwards.

    Attributes:
        hyphen: the line ends in a hyphenated word whose hyphen is not in `text`.
        cells: the parts of the line that wide gaps leave, when there are several.
        drawn: the number of its line in the order in which the page draws them.
    """

    text: str
    left: float
    right: float
    top: float
    bottom: float
    hyphen: bool = False
    cells: list[Box] = field(default_factory=list)
    drawn: int = 0

    @property
    def height(self) -> float:
        return max(self.bottom - self.top, 0.1)

    @property
    def width(self) -> float:
        return max(self.right - self.left, 0.1)


def is_vertical(boxes: Sequence[Box]) -> bool:
    """Whether most characters stand in lines that are written downwards, as in Japanese books."""
    tall = sum(len(box.text) for box in boxes if len(box.text) > 2 and box.height > 2 * box.width)
    return 2 * tall > sum(len(box.text) for box in boxes)


def turned(boxes: Sequence[Box]) -> list[Box]:
    """Vertical lines as if they were horizontal ones: the page turned by a quarter to the left, in reading order."""
    flat = [replace(box, left=box.top, right=box.bottom, top=-box.right, bottom=-box.left, cells=[]) for box in boxes]
    return sorted(flat, key=lambda box: (box.top, box.left))


def reading_order(boxes: list[Box]) -> list[list[Box]]:
    """The lines of a page in reading order, in groups: the columns, and what stands between them.

    The given order, in which a PDF draws them, is mostly right and is kept, but for places where columns of prose are
    drawn across: there the rows are cut at the gutters, and each column is given from top to bottom. Cells of tables
    stay in their rows: their columns are narrow, of few letters, or not filled. (Cuts at white bands, as in Nagy and
    Seth's recursive X-Y cut, 1984, from rows to columns only.)
    """
    order: list[list[Box]] = []
    waiting: list[Box] = []  # since the last columns that were put in order
    for rows, columns in _zones(boxes):
        if columns and not _are_drawn_so(columns):
            order += [sorted(waiting, key=lambda box: box.drawn), *columns]
            waiting = []
        else:
            waiting += [boxes[number] for row in rows for number in row]
    order.append(sorted(waiting, key=lambda box: box.drawn))
    return [group for group in order if group]


def rows_of_picture(boxes: list[Box], starts: list[bool]) -> list[Line]:
    """Tesseract's lines in reading order, those joined that are a table's row: side by side, and not columns of prose.

    Args:
        boxes: its lines, in its order, which takes the columns of many a table for columns of text.
        starts: whether each begins a paragraph, by Tesseract, whose paragraphs are better than ours on pictures.
    """
    order: list[list[Box]] = []
    doubtful = False  # pieces of prose stand side by side, and yet we see no columns: then Tesseract may
    for rows, columns in _zones(boxes):
        if columns:
            order += [[box] for column in columns for box in column]
            continue
        for row in ([boxes[number] for number in row] for row in rows):
            is_table = _is_table_row(row)
            order += [row] if is_table else [[box] for box in row]
            doubtful = doubtful or (len(row) > 1 and not is_table)
    if doubtful:
        order.sort(key=_first_drawn)
    lines: list[Line] = []
    before = -2  # the line before, by its place in Tesseract's order
    for part in order:
        place = _first_drawn(part)
        follows = len(part) == 1 and place == before + 1 and not starts[place]
        text = " ".join(box.text for box in sorted(part, key=lambda box: box.left))
        lines.append(Line(text, starts=not follows))
        before = place if len(part) == 1 else -2
    return lines


def _first_drawn(part: list[Box]) -> int:
    return min(box.drawn for box in part)


def _is_table_row(row: list[Box]) -> bool:
    """Whether the boxes stand side by side without two pieces of prose that a wide gap parts."""
    cells = sorted(row, key=lambda box: box.left)
    for left, right in pairwise(cells):
        height = min(left.height, right.height)
        if right.left < left.right - height:  # lines of a crooked page
            return False
        if right.left - left.right > 1.5 * height and all(
            box.width > MIN_COLUMN_WIDTH * box.height and share_of_letters(box.text) >= 0.6 for box in (left, right)
        ):
            return False
    return len(cells) > 1


def _zones(boxes: list[Box]) -> Iterator[tuple[list[list[int]], list[list[Box]]]]:
    """The page from top to bottom: runs of rows, each with its columns of prose, or with none."""
    for number, line in enumerate(boxes):
        for box in (line, *line.cells):
            box.drawn = number
    rows = _rows(boxes)
    waiting: list[list[int]] = []
    start = 0
    while start < len(rows):
        end, columns = _columns_from(rows, start, boxes)
        if not columns:  # try again further down, but not from every row of a long table
            end = start + max(1, (end - start) // 4)
            waiting += rows[start:end]
            start = end
            continue
        if waiting:
            yield waiting, []
        yield rows[start:end], columns
        waiting, start = [], end
    if waiting:
        yield waiting, []


def _rows(boxes: Sequence[Box]) -> list[list[int]]:
    """Numbers of the lines that stand side by side, from top to bottom: those that overlap by half their height."""
    rows: list[list[int]] = []
    top = bottom = 0.0
    for number in sorted(range(len(boxes)), key=lambda number: (boxes[number].top, boxes[number].left)):
        box = boxes[number]
        overlap = min(bottom, box.bottom) - max(top, box.top)
        if rows and overlap >= 0.5 * min(box.height, bottom - top):
            rows[-1].append(number)
            bottom = max(bottom, box.bottom)
        else:
            rows.append([number])
            top, bottom = box.top, box.bottom
    return rows


def _columns_from(rows: list[list[int]], start: int, boxes: list[Box]) -> tuple[int, list[list[Box]]]:
    """Of the longest run of rows from `start` that a gutter parts: (the row after its last, its columns of prose)."""
    left, right = min(box.left for box in boxes), max(box.right for box in boxes)
    margin = 0.15 * (right - left)
    free = [(left + margin, right - margin)]
    end = start
    cells: list[list[Box]] = []
    while end < len(rows):
        row = [cell for number in rows[end] for cell in boxes[number].cells or [boxes[number]]]
        height = median(box.height for box in row)
        left_over = _without(free, [(cell.left, cell.right) for cell in row])
        left_over = [(a, b) for a, b in left_over if b - a >= GUTTER * height]
        if not left_over:
            break
        free = left_over
        cells.append(row)
        end += 1
    first, last = _without_far_edges(cells)
    if first > 0 or last < MIN_COLUMN_LINES:
        return start, []
    cells = cells[:last]
    gutters = [gutter for gutter in free if _is_between(gutter, cells)]
    for chosen in [gutters, *([gutter] for gutter in sorted(gutters, key=lambda pair: pair[0] - pair[1]))]:
        columns = _cut(cells, chosen)
        if len(columns) > 1 and all(map(_is_prose, columns)):
            return start + last, columns
    return end, []


def _without(free: list[tuple[float, float]], taken: list[tuple[float, float]]) -> list[tuple[float, float]]:
    for left, right in taken:
        free = [
            piece
            for a, b in free
            for piece in ((a, min(b, left)), (max(a, right), b))
            if piece[0] < piece[1] and (piece[1] <= left or piece[0] >= right)
        ]
    return free


def _without_far_edges(rows: list[list[Box]]) -> tuple[int, int]:
    """The rows without heads and feet that stand apart from them: (first, last + 1)."""
    tops = [min(cell.top for cell in row) for row in rows]
    steps = [b - a for a, b in pairwise(tops)]
    if not steps:
        return 0, len(rows)
    usual = median(steps)
    first, last = 0, len(rows)
    if steps[0] > 1.7 * usual:
        first = 1
    for number in range(len(steps) - 1, max(len(steps) - 4, 0), -1):
        if steps[number] > 1.7 * usual and _one_sided(rows[number + 1 :]):
            last = number + 1
    return first, last


def _one_sided(rows: list[list[Box]]) -> bool:
    return all(len(row) == 1 for row in rows)


def _is_between(gutter: tuple[float, float], rows: list[list[Box]]) -> bool:
    """Whether there are rows with cells on both sides of the gutter."""
    both = sum(
        any(cell.right <= gutter[0] for cell in row) and any(cell.left >= gutter[1] for cell in row) for row in rows
    )
    return both >= MIN_COLUMN_LINES


def _cut(rows: list[list[Box]], gutters: list[tuple[float, float]]) -> list[list[Box]]:
    columns: dict[int, list[Box]] = {}
    for row in rows:
        for cell in row:
            columns.setdefault(sum(cell.left >= right for _, right in gutters), []).append(cell)
    return [sorted(columns[number], key=lambda box: (box.top, box.left)) for number in sorted(columns)]


def _is_prose(column: list[Box]) -> bool:
    """Whether a column is written text: enough lines, wide, most of them filled, most characters letters."""
    if len(column) < MIN_COLUMN_LINES:
        return False
    width = max(box.right for box in column) - min(box.left for box in column)
    if width < MIN_COLUMN_WIDTH * median(box.height for box in column):
        return False
    filled = sum(box.width > 0.7 * width for box in column)
    return 2 * filled >= len(column) and share_of_letters("".join(box.text for box in column)) >= 0.6


def _are_drawn_so(columns: list[list[Box]]) -> bool:
    """Whether the page draws the columns one after the other: its own order is then the better one."""
    return all(
        max(box.drawn for box in before) < min(box.drawn for box in column) for before, column in pairwise(columns)
    )


def lines_of(groups: list[list[Box]]) -> list[Line]:
    """Lines in reading order, each with whether it begins a paragraph."""
    boxes = [box for group in groups for box in group]
    column_of = {id(box): group for group in groups for box in group}
    pairs = list(pairwise(boxes))
    # From line to line inside a paragraph: the page's most common distance, in heights of a line.
    leadings = sorted(ratio for before, line in pairs if 0.5 < (ratio := (line.top - before.top) / before.height) < 3)
    leading = leadings[len(leadings) // 2] if leadings else 1.2
    joined = [_continues(before, line, column_of[id(before)], leading) for before, line in pairs]
    return [Line(box.text, not joins, box.hyphen) for box, joins in zip(boxes, [False, *joined], strict=False)]


def _continues(before: Box, line: Box, column: list[Box], leading: float) -> bool:
    """Whether `line` goes on with the paragraph of `before`: by their places and the right edge of their column."""
    if before.hyphen:
        return True
    height = min(before.height, line.height)
    if max(before.height, line.height) > 1.25 * height:  # a heading
        return False
    ends = before.text.rstrip("\"'”’»)）」』")[-1:] in ".!?:;。！？：；…"
    if line.top < before.top - height:  # the next column
        return not ends and line.text[:1].islower()
    if not 0.3 * height < line.top - before.top < 1.25 * leading * before.height:  # beside it, or after a gap
        return False
    in_cells = bool(before.cells and line.cells)
    if in_cells or min(share_of_letters(before.text), share_of_letters(line.text)) < 0.6:  # rows of a table
        return False
    rights = sorted(box.right for box in column if abs(box.left - before.left) < 3 * height)
    edge = rights[int(0.9 * (len(rights) - 1))]
    if edge - before.right > _width_of_first_word(line) + 0.3 * height:  # it would have stood there
        return False
    indented = line.left > before.left + 0.8 * height
    return not (ends and (indented or _LIST_ITEM.match(line.text)))


def _width_of_first_word(line: Box) -> float:
    """In scripts without spaces, of two characters: no line begins with a full stop."""
    word = line.text.split(maxsplit=1)[0]
    length = min(2, len(word)) if IS_CJK.match(word[:1]) else len(word)
    return line.width * length / len(line.text)


def share_of_letters(text: str) -> float:
    """Letters among the visible characters, 0 to 1; 0 of a text without any."""
    visible = [character for character in text if not character.isspace()]
    return sum(character.isalpha() for character in visible) / max(1, len(visible))
