"""Rows of question files in the formats that the source sets come in: JSON, JSON lines, CSV, Excel, token lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import FailedItems

_MAX_FIELD = 1 << 20  # characters; the package's own limit is one of the whole process, which others set too
Row = tuple[str, Any]  # where it stands (file:line, or file and key), and what is there


def plain_text(value: Any) -> str:
    """Stripped text; nothing for null. Lone surrogates, which no file can hold, become replacement characters."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode().strip()


def read_text(path: Path) -> str:
    """A file as text: UTF-8 with or without a byte order mark, else GB18030, in which many Chinese sets come.

    Raises:
        ValueError: it is neither.
    """
    data = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError("the text is neither UTF-8 nor GB18030")


def json_rows(path: Path, failed: FailedItems) -> Iterator[Row]:
    """Rows of a JSON file: a list, an object of keyed rows, or one object a line.

    Keyed rows get their key as the field `key`. A line that is not JSON is a failed item; a file that is neither form
    raises ValueError.
    """
    text = read_text(path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        lines = [
            (number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()
        ]  # and not at the line ends within strings
        if len(lines) < 2 or not lines[0][1].lstrip().startswith("{") or not lines[0][1].rstrip().endswith("}"):
            raise ValueError(f"broken JSON: {error.msg} at line {error.lineno}") from None
        for number, line in lines:
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as broken:
                failed.add(f"{path}:{number}", f"broken JSON: {broken.msg} at column {broken.colno}")
            except RecursionError:
                failed.add(f"{path}:{number}", "JSON nested too deeply")
        return
    if isinstance(whole, list):
        yield from ((f"{path}#{number}", row) for number, row in enumerate(whole, 1))
    elif isinstance(whole, dict) and whole and all(isinstance(row, dict) for row in whole.values()):
        yield from ((f"{path}#{key}", {"key": key, **row}) for key, row in whole.items())
    else:
        yield f"{path}:1", whole


def csv_rows(path: Path, names: tuple[str, ...] = ()) -> Iterator[Row]:
    """Rows of a CSV file as objects; `names` are the columns of a file without a header."""
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header: list[str] = list(names)
    for cells in reader:
        if not header:
            header = [cell.strip() for cell in cells]
        elif any(cell.strip() for cell in cells):
            yield f"{path}:{reader.line_num}", _named(header, cells)


def table_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV or Excel file with a header; an empty cell is "" in both."""
    if path.suffix.lower() != ".xlsx":
        yield from csv_rows(path)
        return
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = ["" if cell is None else str(cell).strip() for cell in next(rows, ())]
        for number, cells in enumerate(rows, 2):
            if any(cell is not None for cell in cells):
                yield f"{path}:{number}", _named(header, ["" if cell is None else str(cell) for cell in cells])
    finally:
        book.close()


def _named(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        return {"": f"{len(cells)} cells, wanted {len(header)} ({', '.join(header)})"}
    return dict(zip(header, cells, strict=True))


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Sentences of a file with one token a line, labels after it and empty lines between: (first line, text)."""
    words: list[str] = []
    start = 0
    for number, line in enumerate([*read_text(path).split("\n"), ""], 1):
        if line.strip():
            start = start if words else number
            words.append(re.split(r"[\t ]", line.strip(), maxsplit=1)[0])
        elif words:
            yield start, " ".join(words)
            words = []
