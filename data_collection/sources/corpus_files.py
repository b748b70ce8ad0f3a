"""The rows of files in the layouts of existing sets: JSON, JSON lines, tables, XML, TMX, text, Parquet.

A reader takes (file, its path below the input folder, mapping, failed items) and gives (where, row) one by one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import FailedItems
from data_collection.corpus.document_files import MAX_DOCUMENT_BYTES, read_lines
from data_collection.sources.mappings import CorpusMapping, Row

MAX_TABLE_CHARACTERS = 2**24  # of a line and of a field of csv and tsv files, which Python holds at four bytes each
MAX_RECORD_BYTES = 2**24  # of XML from one record to the next: a parsed file takes many times its size


class Object:
    """A row of named values, such as a JSON object; names inside it are reached by paths."""

    def __init__(self, values: Mapping[str, Any], more: Mapping[str, Any]):
        self._values, self._more = values, more

    def field(self, name: str) -> Any:
        for values in (self._values, self._more):
            if name in values:
                return values[name]
        first, dot, rest = name.partition(".")
        inner = self._values.get(first) if dot else None
        return Object(inner, {}).field(rest) if isinstance(inner, Mapping) else None


class Element:
    """A record of an XML file."""

    def __init__(self, element: Any, more: Mapping[str, Any]):
        self._element, self._more = element, more

    def field(self, name: str) -> Any:
        if name in self._more:
            return self._more[name]
        tag, _, attribute = name.partition("@")
        wildcard = f"{{*}}{tag}"
        node = next(self._element.iter(wildcard), None) if tag else self._element
        node = next(self._element.iterancestors(wildcard), None) if node is None else node
        if node is None:  # a child of what is around, such as the subject that all pairs of a document share
            around = self._element.iterancestors()
            node = next((child for outer in around for child in outer.iterchildren(wildcard)), None)
        if node is None:
            return None
        return node.get(attribute) if attribute else "".join(node.itertext())


def _json_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES:,} bytes: convert it to JSON lines")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        failed.add(path, f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error))
        return
    found = _records(content, [part for part in mapping.records.split(".") if part], {})
    for number, (row, outer) in enumerate(found, 1):
        where = f"{path}:{number}"
        if isinstance(row, dict):
            yield where, Object(row, {**outer, "file": below})
        else:
            failed.add(where, f"not an object but {type(row).__name__}")


def _records(value: Any, names: list[str], outer: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The rows at a path; a row has the plain values of the objects around it as well."""
    if isinstance(value, list):
        for item in value:
            yield from _records(item, names, outer)
    elif not names:
        yield value, outer
    elif isinstance(value, dict) and names[0] in value:
        around = {name: inner for name, inner in value.items() if not isinstance(inner, (dict, list))}
        yield from _records(value[names[0]], names[1:], {**outer, **around})


def _json_lines(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    for number, line in read_lines(path, failed):
        where = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
            if not isinstance(row, dict):
                raise ValueError(f"not an object but {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            failed.add(where, f"not a JSON object: {error}")
        else:
            yield where, Object(row, {"file": below})


def _table_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MAX_TABLE_CHARACTERS)
    reader = None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(
                _bounded_lines(file),
                fieldnames=mapping.columns or None,
                delimiter="\t" if mapping.format == "tsv" else ",",
                quoting=csv.QUOTE_MINIMAL if mapping.quoted else csv.QUOTE_NONE,
            )
            for row in reader:
                yield f"{path}:{reader.line_num}", Object(row, {"file": below})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        failed.add(path, f"cannot be read after line {reader.line_num if reader else 0}: {error}")


def _bounded_lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_TABLE_CHARACTERS):
        if len(line) == MAX_TABLE_CHARACTERS:
            raise csv.Error(f"the next one is longer than {MAX_TABLE_CHARACTERS:,} characters")
        yield line


def _xml_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    for number, element in _elements(path, mapping.records, failed):
        yield f"{path}:{number}", Element(element, {"file": below})


def _tmx_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    """A row for each language of each translation unit."""
    lang = "{http://www.w3.org/XML/1998/namespace}lang"
    for number, unit in _elements(path, "tu", failed):
        for variant in unit.iter("{*}tuv"):
            segments = ["".join(segment.itertext()) for segment in variant.iter("{*}seg")]
            row = {**unit.attrib, "lang": variant.get(lang) or variant.get("lang") or "", "seg": segments}
            yield f"{path}:{number}", Object(row, {"file": below})


class _BoundedReader:
    """A file that ends with an error when `MAX_RECORD_BYTES` were read since `num_bytes` was set to 0."""

    def __init__(self, file: BinaryIO):
        self._file, self.num_bytes = file, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.num_bytes += len(data)
        if self.num_bytes > MAX_RECORD_BYTES:
            raise ValueError(f"the next one is more than {MAX_RECORD_BYTES:,} bytes away")
        return data


def _elements(path: Path, name: str, failed: FailedItems) -> Iterator[tuple[int, Any]]:
    """The elements of a name, one in memory at a time. Nothing is fetched and no entity is expanded.

    What stands around them before the first one stays, since they may share it.
    """
    from lxml import etree

    number, before = 0, None
    options = {"events": ("end",), "resolve_entities": False, "no_network": True, "load_dtd": False}
    try:
        with open(path, "rb") as file:
            reader = _BoundedReader(file)
            for number, (_, element) in enumerate(etree.iterparse(reader, tag=f"{{*}}{name}", **options), 1):
                yield number, element
                reader.num_bytes = 0
                element.clear(keep_tail=False)
                if before is not None:
                    _forget(before, element)
                before = element
    except (OSError, ValueError, etree.LxmlError) as error:
        failed.add(path, f"cannot be read after record {number}: {error}")


def _forget(before: Any, element: Any) -> None:
    """Remove what stands from one element on to a later one: it, or what is around it, and all that follows."""
    around = [before, *before.iterancestors()]
    for branch in (element, *element.iterancestors()):
        parent = branch.getparent()
        if parent in around:
            last = around[around.index(parent) - 1]
            while last is not branch and (sibling := branch.getprevious()) is not None:
                parent.remove(sibling)
                if sibling is last:
                    return
            return


def _text_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES:,} bytes")
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        failed.add(path, f"cannot be read: {error}")
    else:
        yield str(path), Object({"text": text, "file": below}, {})


def _parquet_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", Object(row, {"file": below})
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")


READERS = {
    "json": _json_rows,
    "jsonl": _json_lines,
    "csv": _table_rows,
    "tsv": _table_rows,
    "xml": _xml_rows,
    "tmx": _tmx_rows,
    "text": _text_rows,
    "parquet": _parquet_rows,
}
