"""Documents: the shards they are found in, the readers of every accepted layout, and the writer of Parquet shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import atomic_path, file_identity, fingerprint
from data_collection.corpus.document_files import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    RowGroups,
    blocks_of_lines,
    dataset_rows,
    json_rows,
    numbered_rows,
    parquet_batches,
    read_lines,
    row_group_parts,
    text_rows,
)
from data_collection.corpus.document_rows import SCHEMA, batch_values, row_values, stored_meta
from data_collection.corpus.json_lines import flat_rows
from data_collection.corpus.work import unique_names, walk

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".jsonl.zst": "jsonl", ".txt": "txt"}
NUM_TEXTS_PER_SHARD = 1000
MAX_GROUP_ROWS, MAX_GROUP_CHARACTERS = 10_000, 2**24


@dataclass
class Document:
    """One text. `licence` and `source` are as the input states them, empty when it states none."""

    id: str
    text: str
    lang: str = ""
    source: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def to_document(row: Any, default_id: str, lang: str | None = None) -> Document:
    """One row of any accepted layout as a document.

    Args:
        row: an object with `text`; see `document_rows`.
        default_id: where it states none.
        lang: its language where it states none.

    Raises:
        ValueError: the row is no JSON object or has no text.
    """
    return Document(**row_values(row, default_id, lang))


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

    @property
    def row_name(self) -> str:
        """What the ids of rows begin with that state none: the name without the part, however a file is cut."""
        return re.sub(r"\.part-\d+-of-\d+", "", self.name) if self.row_groups else self.name


def find_shards(inputs: Sequence[str | Path], output_dir: Path | None = None) -> list[Shard]:
    """The shards of files and folders, in an order that depends on their names only.

    Args:
        inputs: files and folders.
        output_dir: where documents made of them will be written.

    Raises:
        MissingInputError: an input does not exist, is no readable layout, or nothing readable was found.
        SettingsError: what is written to `output_dir` would be among the inputs.
    """
    if output_dir is not None:
        _check_apart(inputs, output_dir.resolve())
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
        parts = row_group_parts(path) if kind == "parquet" else [None]
        for number, part in enumerate(parts, 1):
            label = path.with_name(f"{path.stem}.part-{number}-of-{len(parts)}{path.suffix}") if part else path
            named.append((label, root))
            shards.append(Shard("", paths, kind, root, part))
    names = unique_names(named, tuple(SUFFIXES))
    return [replace(shard, name=name) for shard, name in zip(shards, names, strict=True)]


def _check_apart(inputs: Sequence[str | Path], output_dir: Path) -> None:
    """The same command, and each later task of an array, would take its own output for input, or write over it."""
    for given in map(Path, inputs):
        read = (given / "kept" if (given / "kept").is_dir() else given).resolve()
        inside = output_dir.is_relative_to(read)
        is_hidden = inside and any(part.startswith(".") for part in output_dir.relative_to(read).parts)
        written = (output_dir / "kept", output_dir / "rejected")
        if (inside and not is_hidden) or any(map(read.is_relative_to, written)):
            raise SettingsError(
                "the output would be a part of the input",
                where=f"--output_dir {output_dir}",
                found=f"--input {read}",
                todo="give an --output_dir beside the input",
            )


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
    return _documents(_rows(shard, failed), failed, lang)


def _rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    """Where a row is, the id that it gets where it states none, and the row."""
    path = shard.paths[0]
    if shard.kind == "txt":
        yield from text_rows(shard.paths, shard.root, failed)
    elif shard.kind == "parquet":
        for number, batch in parquet_batches(path, shard.row_groups, failed):
            yield from _named(shard, numbered_rows(number, batch))
    elif shard.kind == "jsonl":
        yield from _named(shard, json_rows(path, read_lines(path, failed), failed))
    else:
        yield from _named(shard, dataset_rows(path, failed))


def _named(shard: Shard, rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, str, Any]]:
    for number, row in rows:
        yield f"{shard.paths[0]}:{number}", f"{shard.row_name}-{number}", row


def _documents(rows: Iterable[tuple[str, str, Any]], failed: FailedItems, lang: str | None) -> Iterator[Document]:
    for where, default_id, row in rows:
        try:
            yield to_document(row, default_id, lang)
        except ValueError as error:
            failed.add(where, str(error))


def read_batches(shard: Shard, failed: FailedItems, lang: str | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of `read_shard` as Arrow batches of `SCHEMA`, without nulls.

    The texts of Parquet files and of flat JSON lines stay in Arrow; other columns become Python objects only where they
    are no plain strings.
    """
    path = shard.paths[0]

    def in_columns(batch: pa.RecordBatch, numbers: np.ndarray) -> pa.RecordBatch | None:
        return batch_values(batch, numbers, shard.row_name, lang, lambda n, why: failed.add(f"{path}:{n}", why))

    def one_by_one(rows: Iterable[tuple[int, Any]]) -> Iterator[pa.RecordBatch]:
        return _gather(_documents(_named(shard, rows), failed, lang))

    if shard.kind == "parquet":
        for number, batch in parquet_batches(path, shard.row_groups, failed):
            columns = in_columns(batch, np.arange(number + 1, number + 1 + batch.num_rows))
            if columns is None:  # not UTF-8, or no strings: row by row, to tell the good from the bad
                yield from one_by_one(numbered_rows(number, batch))
            elif columns.num_rows:
                yield columns
    elif shard.kind == "jsonl":
        for lines in blocks_of_lines(path, failed):
            batch = flat_rows([line for _, line in lines])
            columns = None if batch is None else in_columns(batch, np.array([number for number, _ in lines]))
            if columns is None:
                yield from one_by_one(json_rows(path, lines, failed))
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
        "meta": stored_meta(document.meta),
    }


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
