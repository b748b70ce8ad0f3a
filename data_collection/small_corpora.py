"""Existing sets of medical texts as documents: a mapping (YAML) says where a set has its texts and what they are."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import EnvironmentFailure, FailedItems, MissingInputError
from configs.files import REPOSITORY, file_identity, fingerprint
from configs.records import plain
from configs.settings import parse, setting
from data_collection.documents import MAX_DOCUMENT_BYTES, Document, read_lines, to_document

MAPPINGS = REPOSITORY / "configs" / "mappings"
SUFFIX_OF_FORMAT = {
    "json": "*.json",
    "jsonl": "*.jsonl",
    "csv": "*.csv",
    "tsv": "*.tsv",
    "xml": "*.xml",
    "tmx": "*.tmx",
    "text": "*.txt",
    "parquet": "*.parquet",
}
MAX_FILES_PER_SHARD, MAX_BYTES_PER_SHARD = 500, 256 * 2**20


@dataclass
class CorpusMapping:
    """What a set's files are, and which of their fields make a document.

    A value is a template: text in which {FIELD} stands for a field, {A|B} for the first of two that is not empty.
    Instead of a template it may be {from: TEMPLATE, pattern: REGEX, values: {FOUND: VALUE}}: the pattern's first group
    is taken, then what `values` has for it. Fields are columns; in JSON also paths (answer.text); in XML the first
    element of that name in the record or around it (Answer), or its attribute (Question@qid); in TMX lang, seg and the
    attributes of tu (tuid); {file} is the file's path below the input folder. A value with an empty field is empty.
    """

    format: Literal["json", "jsonl", "csv", "tsv", "xml", "tmx", "text", "parquet", "dataset"] = setting(
        help="layout of the files, or dataset for one of the Hugging Face hub"
    )
    text: list[Any] = setting(help="values that are joined by line breaks, the empty ones left out")
    lang: Any = setting(help="code or name of the language")
    source: Any = setting(help="the documents' source")
    licence: Any = setting("", help="the documents' licence")
    id: Any = setting("", help="the documents' id; empty: file and number of the row")
    meta: list[str] = setting([], help="fields that are kept in meta")
    files: list[str] = setting([], help="patterns of the file names below the folder given; empty: the format's suffix")
    records: str = setting("", help="json: path of the rows, such as data.paragraphs; xml: name of a record's element")
    columns: list[str] = setting(
        [], help="names of the columns of csv and tsv files without a first line that has them"
    )
    quoted: bool = setting(True, help="whether csv and tsv fields may stand in quotation marks")
    group: Any = setting("", help="value that rows of one document share; they must follow each other in the file")
    joined_by: str = setting("\n", help="what stands between the rows of a document")
    languages: list[str] = setting([], help="languages to take, others are passed over; empty: all")
    dataset: str = setting("", help="id on the Hugging Face hub, or a local folder")
    subsets: list[str] = setting([], help="configurations of the dataset; empty: the default one")
    split: str = setting("train", help="split of the dataset")
    revision: str = setting("", help="commit of the dataset, so that a later run reads the same")

    def problems(self) -> list[str]:
        found = []
        if self.format == "dataset" and not self.dataset:
            found.append("format dataset wants `dataset`, an id or a folder")
        if self.format == "xml" and not self.records:
            found.append("format xml wants `records`, the name of a record's element")
        for name in ("text", "lang", "source", "licence", "id", "group"):
            specs = getattr(self, name)
            for spec in specs if isinstance(specs, list) else [specs]:
                try:
                    _Value(spec)
                except (ValueError, re.error) as error:
                    found.append(f"{name}: {error}")
        return found


def read_mapping(path: Path) -> CorpusMapping:
    """Read a mapping.

    Raises:
        SettingsError: naming everything that is wrong in it.
    """
    return parse("A mapping.", CorpusMapping, argv=["--config", str(path)])[0]


# --- values


class Row(Protocol):
    """A record of a file: `field` gives a field's value, None where there is none."""

    def field(self, name: str) -> Any: ...


class _Value:
    def __init__(self, spec: Any):
        spec = {"from": spec} if isinstance(spec, str) else spec
        if not isinstance(spec, dict) or not isinstance(spec.get("from"), str):
            raise ValueError(f"wants a template, or from, pattern and values, found {spec!r}")
        if unknown := set(spec) - {"from", "pattern", "values"}:
            raise ValueError(f"unknown {', '.join(sorted(unknown))} beside from, pattern and values")
        pieces = re.split(r"\{([^{}]+)\}", spec["from"])
        self._texts, self._fields = pieces[::2], [field.split("|") for field in pieces[1::2]]
        self._pattern = re.compile(spec["pattern"], re.DOTALL) if "pattern" in spec else None
        self._values = {str(key): str(value) for key, value in spec.get("values", {}).items()}

    def of(self, row: Row) -> str:
        parts = [self._texts[0]]
        for names, text in zip(self._fields, self._texts[1:], strict=True):
            found = next(filter(None, (_as_text(row.field(name)) for name in names)), "")
            if not found:
                return ""
            parts += [found, text]
        value = "".join(parts)
        if self._pattern:
            match = self._pattern.search(value)
            value = (match[1] if match and match.re.groups else match[0] if match else "") or ""
        return self._values.get(value, value)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        return "\n".join(filter(None, map(_as_text, value)))
    return "" if value is None or isinstance(value, (dict, bool)) or value != value else str(value)


class _Object:
    """A row of named values, such as a JSON object; names inside it are reached by paths."""

    def __init__(self, values: Mapping[str, Any], more: Mapping[str, Any]):
        self._values, self._more = values, more

    def field(self, name: str) -> Any:
        for values in (self._values, self._more):
            if name in values:
                return values[name]
        first, dot, rest = name.partition(".")
        inner = self._values.get(first) if dot else None
        return _Object(inner, {}).field(rest) if isinstance(inner, Mapping) else None


class _Element:
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


# --- shards


@dataclass(frozen=True)
class FileShard:
    """Files of one set that are worked on together."""

    name: str
    mapping: CorpusMapping
    paths: tuple[Path, ...]
    root: Path

    def identity(self) -> dict[str, Any]:
        files = [file_identity(path) for path in self.paths]
        num_bytes = sum(file["num_bytes"] for file in files)
        shown = {"name": self.name, "mapping": fingerprint(plain(self.mapping)), "num_files": len(files)}
        return {**shown, "num_bytes": num_bytes, "files": fingerprint(files)}

    def documents(self, failed: FailedItems, passed_over: Counter[str]) -> Iterator[Document]:
        for path in self.paths:
            below = path.relative_to(self.root).as_posix()
            rows = _READERS[self.mapping.format](path, below, self.mapping, failed)
            yield from _documents(rows, self.mapping, f"{self.name.rpartition('.')[0]}/{below}", passed_over)


@dataclass(frozen=True)
class DatasetShard:
    """One part of a dataset of the Hugging Face hub, read as a stream."""

    name: str
    mapping: CorpusMapping
    path: str
    subset: str
    index: int
    count: int

    def identity(self) -> dict[str, Any]:
        part = f"{self.subset or 'default'}, {self.index + 1} of {self.count}"
        return {"name": self.name, "mapping": fingerprint(plain(self.mapping)), "dataset": self.path, "part": part}

    def documents(self, failed: FailedItems, passed_over: Counter[str]) -> Iterator[Document]:
        part = _stream(self.path, self.subset, self.mapping.split, self.mapping.revision).shard(
            num_shards=self.count, index=self.index
        )
        more = {"file": self.name, "subset": self.subset}

        def rows() -> Iterator[tuple[str, Row]]:
            number = 0
            try:
                for number, row in enumerate(part, 1):
                    yield f"{self.name}:{number}", _Object(row, more)
            except (pa.ArrowException, ValueError) as error:
                failed.add(self.name, f"cannot be read after row {number}: {error}")

        yield from _documents(rows(), self.mapping, self.name, passed_over)


def find_mapped_shards(name: str, mapping: CorpusMapping, path: str) -> list[FileShard | DatasetShard]:
    """The shards of one set.

    Args:
        name: of the mapping; names the shards.
        mapping: what the files are.
        path: a file or folder; for datasets an id or folder that goes over the mapping's, or empty.

    Raises:
        MissingInputError: there are no such files.
        EnvironmentFailure: the dataset cannot be reached.
    """
    if mapping.format == "dataset":
        path = path or mapping.dataset
        shards: list[FileShard | DatasetShard] = []
        for subset in mapping.subsets or [""]:
            count = max(1, _stream(path, subset, mapping.split, mapping.revision).num_shards)
            label = f"{name}.{subset}" if subset else name
            shards += [
                DatasetShard(f"{label}.{index:05d}", mapping, path, subset, index, count) for index in range(count)
            ]
        return shards
    start = Path(path)
    patterns = mapping.files or [SUFFIX_OF_FORMAT[mapping.format]]
    paths = [start] if start.is_file() else []
    if path and start.is_dir():
        matches = {found for pattern in patterns for found in start.rglob(pattern)}
        paths = sorted(found for found in matches if found.is_file() and not found.name.startswith("."))
    if not paths:
        raise MissingInputError(
            f"no files of the set {name} were found",
            where=path or "(no path)",
            wanted=f"a file, or a folder that has {' or '.join(patterns)}",
            todo=f"give --mapping {name}=PATH",
        )
    root = start.parent if start.is_file() else start
    groups: list[list[Path]] = [[]]
    size = 0
    for found in paths:
        num_bytes = found.stat().st_size
        if groups[-1] and (len(groups[-1]) >= MAX_FILES_PER_SHARD or size + num_bytes > MAX_BYTES_PER_SHARD):
            groups.append([])
            size = 0
        groups[-1].append(found)
        size += num_bytes
    return [FileShard(f"{name}.{number:05d}", mapping, tuple(group), root) for number, group in enumerate(groups)]


@functools.lru_cache(maxsize=16)  # the list of its files is fetched once a process
def _stream(path: str, subset: str, split: str, revision: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, subset or None, split=split, streaming=True, revision=revision or None)
    except (OSError, ValueError) as error:  # no connection, no such dataset, no permission; no such subset or split
        raise EnvironmentFailure(
            f"the dataset {path} cannot be read",
            where=f"subset {subset or '(default)'}, split {split}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}",
            wanted="a dataset of the Hugging Face hub that this machine can reach, or a local folder of its files",
            todo="check the network, HF_HUB_OFFLINE and, for sets behind an agreement, HF_TOKEN; or download the files "
            "elsewhere and give --mapping NAME=FOLDER",
        ) from None


# --- readers: each gives (where, row)


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
            yield where, _Object(row, {**outer, "file": below})
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
            yield where, _Object(row, {"file": below})


def _table_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    reader = None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(
                file,
                fieldnames=mapping.columns or None,
                delimiter="\t" if mapping.format == "tsv" else ",",
                quoting=csv.QUOTE_MINIMAL if mapping.quoted else csv.QUOTE_NONE,
            )
            for row in reader:
                yield f"{path}:{reader.line_num}", _Object(row, {"file": below})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        failed.add(path, f"cannot be read after line {reader.line_num if reader else 0}: {error}")


def _xml_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    for number, element in _elements(path, mapping.records, failed):
        yield f"{path}:{number}", _Element(element, {"file": below})


def _tmx_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    """A row for each language of each translation unit."""
    lang = "{http://www.w3.org/XML/1998/namespace}lang"
    for number, unit in _elements(path, "tu", failed):
        for variant in unit.iter("{*}tuv"):
            segments = ["".join(segment.itertext()) for segment in variant.iter("{*}seg")]
            row = {**unit.attrib, "lang": variant.get(lang) or variant.get("lang") or "", "seg": segments}
            yield f"{path}:{number}", _Object(row, {"file": below})


def _elements(path: Path, name: str, failed: FailedItems) -> Iterator[tuple[int, Any]]:
    """The elements of a name, one in memory at a time. Nothing is fetched and no entity is expanded."""
    from lxml import etree

    number = 0
    try:
        events = etree.iterparse(
            str(path), events=("end",), tag=f"{{*}}{name}", resolve_entities=False, no_network=True, load_dtd=False
        )
        for number, (_, element) in enumerate(events, 1):
            yield number, element
            element.clear(keep_tail=False)
            parent = element.getparent()
            while parent is not None and element.getprevious() is not None:
                del parent[0]
    except (OSError, etree.LxmlError) as error:
        failed.add(path, f"cannot be read after record {number}: {error}")


def _text_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES:,} bytes")
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        failed.add(path, f"cannot be read: {error}")
    else:
        yield str(path), _Object({"text": text, "file": below}, {})


def _parquet_rows(path: Path, below: str, mapping: CorpusMapping, failed: FailedItems) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", _Object(row, {"file": below})
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")


_READERS = {
    "json": _json_rows,
    "jsonl": _json_lines,
    "csv": _table_rows,
    "tsv": _table_rows,
    "xml": _xml_rows,
    "tmx": _tmx_rows,
    "text": _text_rows,
    "parquet": _parquet_rows,
}


# --- documents


def _documents(
    rows: Iterable[tuple[str, Row]], mapping: CorpusMapping, default_id: str, passed_over: Counter[str]
) -> Iterator[Document]:
    """The documents of one file's rows. One without text has an empty text: the step rejects it."""
    texts = [_Value(spec) for spec in mapping.text]
    values = {name: _Value(getattr(mapping, name)) for name in ("id", "lang", "source", "licence", "group")}
    open_groups: dict[str, tuple[str, Document, list[str]]] = {}  # language: (group, document, its rows' texts)
    for where, row in rows:
        number = where.rpartition(":")[2]
        made = {name: value.of(row) for name, value in values.items()}
        meta = {name: value for name in mapping.meta if (value := row.field(name)) not in (None, "", [])}
        text = "\n".join(filter(None, (value.of(row) for value in texts)))
        fields = {name: made[name] for name in ("id", "lang", "source", "licence")}
        document = to_document(
            {**fields, "text": text, "meta": meta}, f"{default_id}:{number}" if number.isdigit() else default_id
        )
        if mapping.languages and document.lang not in mapping.languages:
            passed_over["other language"] += 1
            continue
        if not made["group"]:
            yield document
            continue
        before = open_groups.get(document.lang)
        if before and before[0] == made["group"]:
            before[2].append(document.text)
            continue
        if before:
            yield _closed(before, mapping)
        open_groups[document.lang] = (made["group"], document, [document.text])
    for group in open_groups.values():
        yield _closed(group, mapping)


def _closed(group: tuple[str, Document, list[str]], mapping: CorpusMapping) -> Document:
    _, document, texts = group
    document.text = mapping.joined_by.join(filter(None, texts))
    return document
