"""Documents: their schema, the readers of every accepted layout, and the writer of Parquet shards."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_path, file_identity, fingerprint
from configs.languages import LANGUAGES
from data_collection.json_lines import flat_rows
from data_collection.work import unique_names, walk

COLUMNS = ("id", "text", "lang", "source", "licence", "meta")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])  # meta holds a JSON object
SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".jsonl.zst": "jsonl", ".txt": "txt"}
NUM_TEXTS_PER_SHARD = 1000
MAX_DOCUMENT_BYTES = 256 * 2**20  # a longer line or .txt file is no document; reading it would fill the memory
MAX_GROUP_ROWS, MAX_GROUP_CHARACTERS = 10_000, 2**24
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 4096, 2**22
MAX_PART_BYTES = 256 * 2**20  # a larger Parquet file is several shards, so that processes can share it
NO_TEXT = "no text"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CODE_BY_NAME = {row.name.lower(): code for code, row in LANGUAGES.items()}


@dataclass
class Document:
    """One text. `licence` and `source` are as the input states them, empty when it states none."""

    id: str
    text: str
    lang: str = ""
    source: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


class RowGroups(NamedTuple):
    """A part of a Parquet file: row groups `first` to `end` (exclusive), the rows before them, their size on disk."""

    first: int
    end: int
    num_rows_before: int
    num_bytes: int


@dataclass(frozen=True)
class Shard:
    """The unit of work: one file, a part of a large Parquet file, up to 1,000 .txt files, or a folder of `datasets`.

    Attributes:
        name: unique among the shards found together; names the outputs.
        paths: the files, or the one folder of kind "dataset".
        kind: parquet, jsonl, txt or dataset.
        root: the input folder it was found in; ids of .txt documents are paths below it.
        row_groups: the part of the file, None for all of it.
    """

    name: str
    paths: tuple[Path, ...]
    kind: str
    root: Path
    row_groups: RowGroups | None = None

    def identity(self) -> dict[str, Any]:
        """What tells whether the shard's input changed: sizes and times of its files."""
        paths = sorted(self.paths[0].iterdir()) if self.kind == "dataset" else self.paths
        files = [file_identity(path) for path in paths]
        num_bytes = sum(file["num_bytes"] for file in files)
        identity = {"name": self.name, "num_files": len(files), "num_bytes": num_bytes, "files": fingerprint(files)}
        if self.row_groups:
            part = f"{self.row_groups.first} to {self.row_groups.end}"
            identity |= {"num_bytes": self.row_groups.num_bytes, "row_groups": part}
        return identity


def find_shards(inputs: Sequence[str | Path]) -> list[Shard]:
    """The shards of files and folders, in an order that depends on their names only.

    Raises:
        MissingInputError: an input does not exist, is no readable layout, or nothing readable was found.
    """
    found: list[tuple[tuple[Path, ...], str, Path]] = []  # paths, kind, root
    texts: dict[Path, list[Path]] = {}
    for path, root in walk(inputs, tuple(SUFFIXES)):
        kind = "dataset" if path.is_dir() else _kind(path)
        if kind == "txt":
            texts.setdefault(root, []).append(path)
        else:
            found.append(((path,), kind, root))
    for root, paths in texts.items():
        for start in range(0, len(paths), NUM_TEXTS_PER_SHARD):
            found.append((tuple(paths[start : start + NUM_TEXTS_PER_SHARD]), "txt", root))
    if not found:
        raise MissingInputError(
            "no documents were found",
            where=", ".join(map(str, inputs)),
            wanted=f"{', '.join(SUFFIXES)}, or a folder saved by datasets.save_to_disk",
            todo="give a folder that holds documents to --input",
        )
    shards: list[Shard] = []
    named: list[tuple[Path, Path]] = []
    for paths, kind, root in found:
        path = root / f"{root.resolve().name}-txt" if kind == "txt" else paths[0]  # texts are named by their folder
        parts = _parts(path) if kind == "parquet" else [None]
        for number, part in enumerate(parts, 1):
            label = path.with_name(f"{path.stem}.part-{number}-of-{len(parts)}{path.suffix}") if part else path
            named.append((label, root))
            shards.append(Shard("", paths, kind, root, part))
    names = unique_names(named, tuple(SUFFIXES))
    return [replace(shard, name=name) for shard, name in zip(shards, names, strict=True)]


def _parts(path: Path) -> list[RowGroups] | list[None]:
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


def _kind(path: Path) -> str:
    for suffix, kind in SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return kind
    raise MissingInputError(
        "a file is in no layout that can be read", where=path, wanted=", ".join(SUFFIXES), todo="convert it"
    )


def read_shard(shard: Shard, failed: FailedItems, lang: str | None = None) -> Iterator[Document]:
    """The documents of a shard, one at a time.

    A row that cannot be used (broken JSON, wrong encoding, no text) is added to `failed` as file:row with its reason;
    a file that cannot be read (further) is added as a whole. NUL characters are dropped and lone surrogates become
    U+FFFD, since neither can be stored as UTF-8 text. Columns outside the schema go into `meta`.

    Args:
        shard: one of `find_shards`.
        failed: takes what could not be read.
        lang: language of the documents that state none.
    """
    reader = {"parquet": _parquet_rows, "jsonl": _json_rows, "txt": _text_rows, "dataset": _dataset_rows}[shard.kind]
    return _documents(reader(shard, failed), failed, lang)


def _documents(rows: Iterable[tuple[str, str, Any]], failed: FailedItems, lang: str | None) -> Iterator[Document]:
    for where, default_id, row in rows:
        try:
            yield to_document(row, default_id, lang)
        except ValueError as error:
            failed.add(where, str(error))


def _file_name(shard: Shard) -> str:
    """The shard's name without the part of the file, so that ids do not depend on how a file is cut."""
    return re.sub(r"\.part-\d+-of-\d+", "", shard.name) if shard.row_groups else shard.name


def read_batches(shard: Shard, failed: FailedItems, lang: str | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of `read_shard` as Arrow batches of `SCHEMA`, without nulls.

    The texts of Parquet files and of flat JSON lines stay in Arrow; other columns become Python objects only where they
    are no plain strings.
    """
    if shard.kind == "parquet":
        for number, batch in _parquet_batches(shard, failed):
            numbers = np.arange(number + 1, number + 1 + batch.num_rows)
            columns = _columns_of_batch(shard, numbers, batch, failed, lang)
            if columns is None:  # not UTF-8, or no strings: row by row, to tell the good from the bad
                rows = _rows_of_batch(shard, number, batch)
                yield from _gather(_documents(rows, failed, lang))
            elif columns.num_rows:
                yield columns
    elif shard.kind == "jsonl":
        for lines in _blocks_of_lines(shard, failed):
            batch = flat_rows([line for _, line in lines])
            numbers = np.array([number for number, _ in lines])
            columns = None if batch is None else _columns_of_batch(shard, numbers, batch, failed, lang)
            if columns is None:
                yield from _gather(_documents(_rows_of_lines(shard, lines, failed), failed, lang))
            elif columns.num_rows:
                yield columns
    else:
        yield from _gather(read_shard(shard, failed, lang))


def _gather(found: Iterable[Document]) -> Iterator[pa.RecordBatch]:
    rows: list[tuple[str, ...]] = []
    size = 0
    for document in found:
        rows.append(tuple(_stored(document).values()))
        size += len(document.text)
        if len(rows) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
            yield _batch(rows)
            rows, size = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[tuple[str, ...]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=SCHEMA
    )


def _stored(document: Document) -> dict[str, str]:
    return {
        "id": document.id,
        "text": document.text,
        "lang": document.lang,
        "source": document.source,
        "licence": document.licence,
        "meta": _stored_meta(document.meta),
    }


def _stored_meta(meta: dict[str, Any]) -> str:
    return _clean(json.dumps(meta, ensure_ascii=False, default=str)) if meta else "{}"


def _columns_of_batch(
    shard: Shard, numbers: np.ndarray, batch: pa.RecordBatch, failed: FailedItems, lang: str | None
) -> pa.RecordBatch | None:
    """What `to_document` does, for all rows of a batch at once; None where it takes a look at each.

    `numbers` are the rows' numbers, or those of their lines, in the file.
    """
    names = batch.schema.names
    texts = batch.column("text")
    if len(set(names)) < len(names) or not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return None
    try:
        batch.validate(full=True)  # Arrow's readers do not check that strings are UTF-8
        texts = texts.cast(pa.string())
    except pa.ArrowInvalid:
        return None
    if texts.null_count:
        missing = pc.is_null(texts).to_numpy(zero_copy_only=False)
        for row_number in numbers[missing]:
            failed.add(f"{shard.paths[0]}:{row_number}", NO_TEXT)
        batch, texts, numbers = batch.filter(pa.array(~missing)), texts.drop_null(), numbers[~missing]
    size = batch.num_rows
    columns = {name: batch.column(name) for name in names}
    columns.pop("text")

    def first(*wanted: str, default: str = "") -> pa.Array:
        found = pa.repeat(pa.scalar(default), size)
        for name in reversed(wanted):
            if name in columns:
                values = _strings(columns.pop(name))
                found = pc.if_else(pc.fill_null(pc.not_equal(values, ""), False), values, found)
        return _without_nul(found)

    made = {
        "id": first("id"),
        "text": _without_nul(texts),
        "lang": _each_distinct(_code, first("lang", "language", default=lang or "")),
        "source": first("source"),
        "licence": first("licence", "license"),
    }
    if pc.any(pc.equal(made["id"], "")).as_py():
        numbered = pa.array(np.strings.add(f"{_file_name(shard)}-", numbers.astype("U")), pa.string())
        made["id"] = pc.if_else(pc.equal(made["id"], ""), numbered, made["id"])
    made["meta"] = _metas(columns, size)
    return pa.RecordBatch.from_arrays([made[name] for name in COLUMNS], schema=SCHEMA)


def _metas(columns: dict[str, pa.Array], size: int) -> pa.Array:
    """What is stored of the columns that are left, `meta` and the others, made once for rows that are alike in them."""
    if not columns:
        return pa.repeat(pa.scalar("{}"), size)

    def stored(*values: Any) -> str:
        rest = dict(zip(columns, values, strict=True))
        return _stored_meta(_meta(rest.pop("meta", None), rest))

    if any(_is_opaque(column.type) for column in columns.values()):
        return pa.array(map(stored, *(column.to_pylist() for column in columns.values())), pa.string())
    return _each_distinct(stored, *columns.values())


def _is_opaque(kind: pa.DataType) -> bool:
    """Whether Arrow cannot tell which values of the type are alike, or not with the functions used here."""
    types = pa.types
    if types.is_nested(kind) or types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return types.is_string_view(kind) or types.is_binary_view(kind)


def _strings(values: pa.Array) -> pa.Array:
    """A column as strings, as `str` writes its values."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_integer(values.type):
        return values.cast(pa.string())
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())


def _without_nul(values: pa.Array) -> pa.Array:
    _, offsets, data = values.buffers()
    used = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1] if len(values) else [0, 0]
    if data is None or np.frombuffer(data, np.uint8)[used[0] : used[-1]].all():
        return values
    return pc.replace_substring(values, "\0", "")


def _each_distinct(function: Callable[..., str], *columns: pa.Array) -> pa.Array:
    """What the function makes of each row's values, called once for rows that are alike."""
    groups = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = pc.dictionary_encode(column, null_encoding="encode")
        codes = groups * (len(encoded.dictionary) + 1) + encoded.indices.to_numpy()
        _, rows, groups = np.unique(codes, return_index=True, return_inverse=True)
    distinct = (column.take(pa.array(rows)).to_pylist() for column in columns)
    return pa.array(map(function, *distinct), pa.string()).take(pa.array(groups))


def to_document(row: Any, default_id: str, lang: str | None = None) -> Document:
    """One row of any accepted layout as a document.

    Raises:
        ValueError: the row is no JSON object or has no text.
    """
    if not isinstance(row, dict):
        raise ValueError(f"not an object but {type(row).__name__} {str(row)[:40]!r}")
    rest = dict(row)
    text = rest.pop("text", None)
    if not isinstance(text, str):
        raise ValueError(NO_TEXT if text is None else f"text is a {type(text).__name__}, not a string")
    values = {name: rest.pop(name, None) for name in ("id", "source")}
    languages = [rest.pop(name, None) for name in ("lang", "language")]
    licences = [rest.pop(name, None) for name in ("licence", "license")]
    meta = rest.pop("meta", None)
    return Document(
        id=_clean(_first(values["id"], default_id)),
        text=_clean(text),
        lang=_code(_first(*languages, lang)),
        source=_clean(_first(values["source"])),
        licence=_clean(_first(*licences)),
        meta=_meta(meta, rest),
    )


def _meta(meta: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """A row's `meta`, an object or the JSON text of one, and the columns that are in no other place."""
    if isinstance(meta, str) and meta.startswith("{"):
        try:
            meta = json.loads(meta)
        except (json.JSONDecodeError, RecursionError):
            meta = {"meta": meta}
    if meta is not None and not isinstance(meta, dict):
        meta = {"meta": meta}
    return {**(meta or {}), **{name: value for name, value in rest.items() if value is not None}}


def _first(*values: Any) -> str:
    return next((str(value) for value in values if value not in (None, "")), "")


def _clean(text: str) -> str:
    text = text.replace("\0", "") if "\0" in text else text
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _code(stated: str) -> str:
    """A stated language as a code: "French", "fr-FR" and "FR" are "fr"."""
    stated = _clean(stated).strip().lower()
    return _CODE_BY_NAME.get(stated) or re.split(r"[-_]", stated)[0]


def read_lines(path: Path, failed: FailedItems) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, .gz and .zst unpacked, that are not blank, with their numbers from 1.

    A line of more than `MAX_DOCUMENT_BYTES` is added to `failed` and never held in memory; so is the file when it
    cannot be read (further).
    """
    number = 0
    packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower(), "detect")  # Arrow knows lower case only
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


def _blocks_of_lines(shard: Shard, failed: FailedItems) -> Iterator[list[tuple[int, bytes]]]:
    """The numbered lines of a file, as many together as make a batch."""
    lines: list[tuple[int, bytes]] = []
    size = 0
    for number, line in read_lines(shard.paths[0], failed):
        lines.append((number, line))
        size += len(line)
        if len(lines) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _json_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    return _rows_of_lines(shard, read_lines(shard.paths[0], failed), failed)


def _rows_of_lines(
    shard: Shard, lines: Iterable[tuple[int, bytes]], failed: FailedItems
) -> Iterator[tuple[str, str, Any]]:
    for number, line in lines:
        where = f"{shard.paths[0]}:{number}"
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            failed.add(where, f"not UTF-8: {error.reason} at byte {error.start}")
        except (ValueError, RecursionError) as error:
            failed.add(where, f"not JSON: {error}")
        else:
            yield where, f"{shard.name}-{number}", row


def _parquet_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    for number, batch in _parquet_batches(shard, failed):
        yield from _rows_of_batch(shard, number, batch)


def _parquet_batches(shard: Shard, failed: FailedItems) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a Parquet file as they are, each with the number of rows before it."""
    path, part = shard.paths[0], shard.row_groups
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


def _rows_of_batch(shard: Shard, number: int, batch: pa.RecordBatch) -> Iterator[tuple[str, str, Any]]:
    for row_number, row in enumerate(_batch_rows(batch), number + 1):
        yield f"{shard.paths[0]}:{row_number}", f"{_file_name(shard)}-{row_number}", row


def _batch_rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not check the text that another program wrote
        if batch.num_rows > 1:
            return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]
        return ["not UTF-8"]


def _text_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    for path in shard.paths:
        below = path.relative_to(shard.root).as_posix()
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


def _dataset_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    import datasets

    path = shard.paths[0]
    number = 0
    try:
        dataset = datasets.load_from_disk(str(path))
        for number, row in enumerate(dataset, 1):
            yield f"{path}:{number}", f"{shard.name}-{number}", row
    except (OSError, pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")


class DocumentWriter:
    """Writes documents to one zstd Parquet file that appears under its name only when the block ends without an error.

    Args:
        path: the file.
        metadata: stored in the file's schema (what made it).
        extra_columns: Arrow fields beside `SCHEMA`; `write` takes their values by name.
    """

    def __init__(self, path: Path, metadata: dict[str, str], extra_columns: Sequence[pa.Field] = ()):
        self.path = path
        self.schema = pa.schema([*SCHEMA, *extra_columns], metadata=metadata)
        self.num_documents = self.num_characters = 0
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_characters = 0
        self._stack = ExitStack()

    def __enter__(self) -> DocumentWriter:
        # Texts and ids hardly occur twice: looking for that, and statistics of them, would be a third of the time.
        options = {"compression": "zstd", "use_dictionary": ["lang", "source", "licence"], "write_statistics": False}
        with ExitStack() as stack:  # which closes the file when the disk is full at its first bytes
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(pq.ParquetWriter(temporary, self.schema, **options))
            self._stack = stack.pop_all()
        return self

    def write(self, document: Document, **extra: Any) -> None:
        """Add one document; a row group is written when 10,000 rows or 16 Mi characters have gathered."""
        row = _stored(document)
        self._rows.append({**row, **extra})
        self._count(1, len(document.text), len(row["meta"]))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add documents that are in Arrow already, with the extra columns."""
        self._move_rows()
        self._batches.append(batch.select(self.schema.names).cast(self.schema))
        self._count(batch.num_rows, pc.sum(pc.utf8_length(batch["text"])).as_py() or 0, 0)

    def _count(self, num_documents: int, num_characters: int, others: int) -> None:
        self.num_documents += num_documents
        self.num_characters += num_characters
        self._pending_rows += num_documents
        self._pending_characters += num_characters + others
        if self._pending_rows >= MAX_GROUP_ROWS or self._pending_characters >= MAX_GROUP_CHARACTERS:
            self.flush()

    def _move_rows(self) -> None:
        if self._rows:
            self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self.schema))
            self._rows = []

    def flush(self) -> None:
        """Write the rows that have gathered as a row group now, where memory counts more than large groups."""
        if not self._pending_rows:
            return
        self._move_rows()
        self._file.write_table(pa.Table.from_batches(self._batches, schema=self.schema))
        self._batches, self._pending_rows, self._pending_characters = [], 0, 0

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self.flush()
        return self._stack.__exit__(*error)
