"""Existing sets of medical texts as shards of documents: files, or datasets of the Hugging Face hub read as streams."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.errors import EnvironmentFailure, FailedItems, MissingInputError
from configs.files import file_identity, fingerprint
from configs.records import plain
from data_collection.corpus.documents import Document
from data_collection.sources.corpus_files import READERS, Object
from data_collection.sources.mappings import CorpusMapping, Row, make_documents

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
        """The documents of all files; rows of other languages are counted in `passed_over`."""
        for path in self.paths:
            below = path.relative_to(self.root).as_posix()
            rows = READERS[self.mapping.format](path, below, self.mapping, failed)
            yield from make_documents(rows, self.mapping, f"{self.name.rpartition('.')[0]}/{below}", passed_over)


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
        """The documents of the part; rows of other languages are counted in `passed_over`.

        Raises:
            EnvironmentFailure: the hub cannot be reached (any more).
        """
        from huggingface_hub.utils import httpx  # whose errors, the hub's own among them, are no ConnectionError

        part = _stream(self.path, self.subset, self.mapping.split, self.mapping.revision).shard(
            num_shards=self.count, index=self.index
        )
        more = {"file": self.name, "subset": self.subset}

        def rows() -> Iterator[tuple[str, Row]]:
            number = 0
            try:
                for number, row in enumerate(part, 1):
                    yield f"{self.name}:{number}", Object(row, more)
            except (ConnectionError, httpx.HTTPError) as error:
                raise EnvironmentFailure(
                    "the connection to the Hugging Face hub broke",
                    where=f"{self.name}, after row {number}",
                    found=f"{type(error).__name__}: {str(error)[:300]}",
                    todo="the same command goes on with the shards that are left",
                ) from None
            except (pa.ArrowException, ValueError) as error:
                failed.add(self.name, f"cannot be read after row {number}: {error}")

        yield from make_documents(rows(), self.mapping, self.name, passed_over)


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
        shown = [found for found in matches if not any(p.startswith(".") for p in found.relative_to(start).parts)]
        paths = sorted(found for found in shown if found.is_file())  # hidden folders hold copies: .cache, .git
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
