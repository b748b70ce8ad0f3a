"""Documents: their schema, the readers of every accepted layout, and the writer of Parquet shards."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_path, file_identity, fingerprint
from configs.languages import LANGUAGES
from data_collection.work import unique_names, walk

COLUMNS = ("id", "text", "lang", "source", "licence", "meta")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])  # meta holds a JSON object
SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".jsonl.zst": "jsonl", ".txt": "txt"}
NUM_TEXTS_PER_SHARD = 1000
MAX_DOCUMENT_BYTES = 256 * 2**20  # a longer line or .txt file is no document; reading it would fill the memory
MAX_GROUP_ROWS, MAX_GROUP_CHARACTERS = 10_000, 2**24
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


@dataclass(frozen=True)
class Shard:
    """The unit of work: one file, up to 1,000 .txt files, or one folder saved by `datasets`.

    Attributes:
        name: unique among the shards found together; names the outputs.
        paths: the files, or the one folder of kind "dataset".
        kind: parquet, jsonl, txt or dataset.
        root: the input folder it was found in; ids of .txt documents are paths below it.
    """

    name: str
    paths: tuple[Path, ...]
    kind: str
    root: Path

    def identity(self) -> dict[str, Any]:
        """What tells whether the shard's input changed: sizes and times of its files."""
        paths = sorted(self.paths[0].iterdir()) if self.kind == "dataset" else self.paths
        files = [file_identity(path) for path in paths]
        num_bytes = sum(file["num_bytes"] for file in files)
        return {"name": self.name, "num_files": len(files), "num_bytes": num_bytes, "files": fingerprint(files)}


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
    names = [  # texts are named by their folder
        (root / f"{root.resolve().name}-txt" if kind == "txt" else paths[0], root) for paths, kind, root in found
    ]
    return [Shard(name, *rest) for name, rest in zip(unique_names(names, tuple(SUFFIXES)), found, strict=True)]


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
    for where, default_id, row in reader(shard, failed):
        try:
            yield to_document(row, default_id, lang)
        except ValueError as error:
            failed.add(where, str(error))


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
        raise ValueError("no text" if text is None else f"text is a {type(text).__name__}, not a string")
    values = {name: rest.pop(name, None) for name in ("id", "source")}
    languages = [rest.pop(name, None) for name in ("lang", "language")]
    licences = [rest.pop(name, None) for name in ("licence", "license")]
    meta = rest.pop("meta", None)
    if isinstance(meta, str) and meta.startswith("{"):
        try:
            meta = json.loads(meta)
        except (json.JSONDecodeError, RecursionError):
            meta = {"meta": meta}
    if meta is not None and not isinstance(meta, dict):
        meta = {"meta": meta}
    return Document(
        id=_clean(_first(values["id"], default_id)),
        text=_clean(text),
        lang=_code(_first(*languages, lang)),
        source=_clean(_first(values["source"])),
        licence=_clean(_first(*licences)),
        meta={**(meta or {}), **{name: value for name, value in rest.items() if value is not None}},
    )


def _first(*values: Any) -> str:
    return next((str(value) for value in values if value not in (None, "")), "")


def _clean(text: str) -> str:
    text = text.replace("\0", "") if "\0" in text else text
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _code(stated: str) -> str:
    """A stated language as a code: "French", "fr-FR" and "FR" are "fr"."""
    stated = _clean(stated).strip().lower()
    return _CODE_BY_NAME.get(stated) or re.split(r"[-_]", stated)[0]


def _json_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    path = shard.paths[0]
    number = 0
    try:
        # Arrow's stream, unlike zstandard's, tells a truncated file from a finished one; it reads gzip as well.
        with pa.input_stream(str(path), compression="detect") as raw, io.BufferedReader(raw, 2**20) as file:
            while line := file.readline(MAX_DOCUMENT_BYTES):
                number += 1
                where = f"{path}:{number}"
                if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
                    failed.add(where, f"the line is longer than {MAX_DOCUMENT_BYTES:,} bytes")
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_DOCUMENT_BYTES)
                    continue
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    failed.add(where, f"not UTF-8: {error.reason} at byte {error.start}")
                except (ValueError, RecursionError) as error:
                    failed.add(where, f"not JSON: {error}")
                else:
                    yield where, f"{shard.name}-{number}", row
    except (OSError, pa.ArrowException) as error:
        failed.add(path, f"cannot be read after line {number}: {error}")


def _parquet_rows(shard: Shard, failed: FailedItems) -> Iterator[tuple[str, str, Any]]:
    path = shard.paths[0]
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if "text" not in file.schema_arrow.names:
                failed.add(path, f"no column named text among {', '.join(file.schema_arrow.names)}")
                return
            for batch in file.iter_batches(batch_size=256):
                for row in _batch_rows(batch):
                    number += 1
                    yield f"{path}:{number}", f"{shard.name}-{number}", row
    except (OSError, pa.ArrowException) as error:
        failed.add(path, f"cannot be read after row {number}: {error}")


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
        self._pending_characters = 0
        self._stack = ExitStack()

    def __enter__(self) -> DocumentWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = self._stack.enter_context(pq.ParquetWriter(temporary, self.schema, compression="zstd"))
        return self

    def write(self, document: Document, **extra: Any) -> None:
        """Add one document; a row group is written when 10,000 rows or 16 Mi characters have gathered."""
        meta = _clean(json.dumps(document.meta, ensure_ascii=False, default=str))
        row = {name: getattr(document, name) for name in COLUMNS[:-1]}
        self._rows.append({**row, "meta": meta, **extra})
        self.num_documents += 1
        self.num_characters += len(document.text)
        self._pending_characters += len(document.text) + len(meta)
        if len(self._rows) >= MAX_GROUP_ROWS or self._pending_characters >= MAX_GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows, self._pending_characters = [], 0

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None and self._rows:
            self._flush()
        return self._stack.__exit__(*error)
