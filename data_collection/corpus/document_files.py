"""The files that documents are read from: Parquet, JSON lines, text, and folders of `datasets`.

What is no row (a line that is not JSON, a file that cannot be read any further) goes to `failed` with its reason.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import FailedItems

PACKED = {".gz": "gzip", ".zst": "zstd"}  # Arrow's names of what packs files with these suffixes
MAX_DOCUMENT_BYTES = 256 * 2**20  # a longer line or .txt file is no document; reading it would fill the memory
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 4096, 2**22
MAX_PART_BYTES = 256 * 2**20  # a larger Parquet file is several shards, so that processes can share it


class RowGroups(NamedTuple):
    """A part of a Parquet file: row groups `first` to `end` (exclusive), the rows before them, their size on disk."""

    first: int
    end: int
    num_rows_before: int
    num_bytes: int


def row_group_parts(path: Path) -> list[RowGroups] | list[None]:
    """The parts of a Parquet file; [None] for one that is not cut."""
    if path.stat().st_size <= MAX_PART_BYTES:
        return [None]
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return [None]  # reading it will say what is wrong
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    sizes = [sum(group.column(index).total_compressed_size for index in range(group.num_columns)) for group in groups]
    parts: list[RowGroups] = []
    first = num_rows = num_rows_before = num_bytes = 0
    for index, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        if index > first and num_bytes + size > MAX_PART_BYTES:
            parts.append(RowGroups(first, index, num_rows_before, num_bytes))
            first, num_rows_before, num_bytes = index, num_rows, 0
        num_bytes += size
        num_rows += group.num_rows
    if not parts:
        return [None]
    return [*parts, RowGroups(first, len(groups), num_rows_before, num_bytes)]


def read_lines(path: Path, failed: FailedItems) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, .gz and .zst unpacked, that are not blank, with their numbers from 1.

    A line of more than `MAX_DOCUMENT_BYTES` is added to `failed` and never held in memory; so is the file when it
    cannot be read (further).
    """
    number = 0
    packed = PACKED.get(path.suffix.lower(), "detect")  # Arrow knows lower case only
    try:
        # Arrow's stream, unlike zstandard's, tells a truncated file from a finished one; it reads gzip as well.
        with pa.input_stream(str(path), compression=packed) as raw, io.BufferedReader(raw, 2**20) as file:
            while line := file.readline(MAX_DOCUMENT_BYTES):
                number += 1
                if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
                    failed.add(f"{path}:{number}", f"the line is longer than {MAX_DOCUMENT_BYTES:,} bytes")
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_DOCUMENT_BYTES)
                elif line.strip():
                    yield number, line
    except (OSError, pa.ArrowException) as error:
        failed.add(path, f"cannot be read after line {number}: {error}")


def blocks_of_lines(path: Path, failed: FailedItems) -> Iterator[list[tuple[int, bytes]]]:
    """The numbered lines of a file, as many together as make a batch."""
    lines: list[tuple[int, bytes]] = []
    size = 0
    for number, line in read_lines(path, failed):
        lines.append((number, line))
        size += len(line)
        if len(lines) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def json_rows(path: Path, lines: Iterable[tuple[int, bytes]], failed: FailedItems) -> Iterator[tuple[int, Any]]:
    """The numbered lines of a file as what `json.loads` makes of them."""
    for number, line in lines:
        try:
            yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            failed.add(f"{path}:{number}", f"not UTF-8: {error.reason} at byte {error.start}")
        except (ValueError, RecursionError) as error:
            failed.add(f"{path}:{number}", f"not JSON: {error}")


def parquet_batches(path: Path, part: RowGroups | None, failed: FailedItems) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a Parquet file, or of a part of it, as they are, each with the number of rows before it."""
    number = part.num_rows_before if part else 0
    try:
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            if "text" not in file.schema_arrow.names:
                failed.add(path, f"no column named text among {', '.join(file.schema_arrow.names)}")
                return
            if file.schema_arrow.names.count("text") > 1:
                failed.add(path, "several columns are named text")
                return
            for index in range(part.first, part.end) if part else range(file.num_row_groups):
                group = file.metadata.row_group(index)
                bytes_per_row = group.total_byte_size // max(1, group.num_rows) + 1
                num_rows = min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // bytes_per_row + 1)
                for batch in file.iter_batches(num_rows, row_groups=[index], use_threads=False):
                    yield number, batch
                    number += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")


def numbered_rows(number: int, batch: pa.RecordBatch) -> Iterator[tuple[int, Any]]:
    """The rows of a batch that has `number` rows before it in its file; "not UTF-8" for one that is not."""
    return enumerate(_rows(batch), number + 1)


def _rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not check the text that another program wrote
        if batch.num_rows > 1:
            return [row for index in range(batch.num_rows) for row in _rows(batch.slice(index, 1))]
        return ["not UTF-8"]


def text_rows(paths: Iterable[Path], root: Path, failed: FailedItems) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each file as (where, its path below `root` without the suffix, row)."""
    for path in paths:
        below = path.relative_to(root).as_posix()
        try:
            if os.path.getsize(path) > MAX_DOCUMENT_BYTES:
                failed.add(path, f"the file is larger than {MAX_DOCUMENT_BYTES:,} bytes")
                continue
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            failed.add(path, f"not UTF-8: {error.reason} at byte {error.start}")
        except OSError as error:
            failed.add(path, f"cannot be read: {error}")
        else:
            text = text.replace("\r\n", "\n")
            yield str(path), below.removesuffix(path.suffix), {"text": text, "file": below}


def dataset_rows(path: Path, failed: FailedItems) -> Iterator[tuple[int, Any]]:
    """The numbered rows of a folder saved by `datasets`."""
    import datasets

    number = 0
    try:
        dataset = datasets.load_from_disk(str(path))
        for number, row in enumerate(dataset, 1):
            yield number, row
    except (OSError, pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")
