"""The files of token blocks: arrays without headers, each with its size and SHA-256 in index.json, written last.

    tokens/SHARD.bin         the tokens of one shard's documents, start and end tokens included, uint16 or uint32
    documents/SHARD.bin      one `DOCUMENT` a document of it
    tokenizer.json           what made the tokens
    SPLIT.pieces.bin         one `packing.PIECE` a piece; `item` is the number of its shard, `start` its place there
    SPLIT.offsets.bin        int64; block i holds pieces offsets[i] to offsets[i + 1]
    index.json               counts, and the files with their checksums

Splits are "train" and one "validation.LANG" a language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import MissingInputError
from configs.files import atomic_open, fingerprint, read_json, sha256_file, write_json

FORMAT = 2
INDEX = "index.json"
DOCUMENT = np.dtype([("start", "<i8"), ("length", "<i4"), ("lang", "u1"), ("source", "<u2"), ("hash", "<u8")])
_MAX_MAPPED = 512  # of thousands of shards, few can be open at once
_READERS = 8


class ArrayFile:
    """Writes arrays one after the other to a file that appears when the block ends without an error.

    Attributes:
        entry: size and SHA-256 of what was written, for the index; known when the block has ended.
    """

    def __init__(self, path: Path):
        self.path = path
        self.entry: dict[str, Any] = {}
        self._num_bytes, self._hash, self._stack = 0, hashlib.sha256(), ExitStack()

    def __enter__(self) -> ArrayFile:
        self._file = self._stack.enter_context(atomic_open(self.path, "wb"))
        return self

    def write(self, array: np.ndarray) -> None:
        """Append the array's bytes."""
        data = np.ascontiguousarray(array).view(np.uint8).data if array.size else b""
        self._file.write(data)
        self._hash.update(data)
        self._num_bytes += len(data)

    def __exit__(self, *error: Any) -> bool | None:
        self.entry = {"num_bytes": self._num_bytes, "sha256": self._hash.hexdigest()}
        return self._stack.__exit__(*error)


def file_entry(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file that is there, for the index."""
    return {"num_bytes": path.stat().st_size, "sha256": sha256_file(path)}


class MappedFiles:
    """The arrays of a folder, mapped when they are first used; the oldest are let go when there are many.

    Pickles without what is mapped, so that a data loader's workers may be started in any way.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._mapped: dict[str, np.ndarray] = {}

    def array(self, name: str, dtype: np.dtype) -> np.ndarray:
        """The file `name` as (n,) array of `dtype`, read-only."""
        if name not in self._mapped:
            if len(self._mapped) >= _MAX_MAPPED:
                del self._mapped[next(iter(self._mapped))]
            path = self.folder / name  # an empty file, of a shard without one usable document, cannot be mapped
            mapped = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
            self._mapped[name] = mapped
        return self._mapped[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_mapped": {}}


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write index.json, with a fingerprint of itself."""
    write_json(folder / INDEX, {**index, "fingerprint": fingerprint(index)})


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a finished folder.

    Raises:
        MissingInputError: the folder is not finished, of another format, or the index is not as it was written.
    """
    path = folder / INDEX
    if not path.is_file():
        raise MissingInputError(
            "there are no finished token blocks",
            where=folder,
            wanted="a folder with index.json, which is written last",
            todo=f"python pretrain/prepare.py --input DIR... --output_dir {folder}",
        )
    index = read_json(path)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise MissingInputError(
            "token blocks of another format",
            where=path,
            found=index.get("format") if isinstance(index, dict) else type(index).__name__,
            wanted=FORMAT,
            todo="remove the folder and run pretrain/prepare.py again",
        )
    stated = index.pop("fingerprint", None)
    if stated != fingerprint(index):
        raise _damaged(path, fingerprint(index), stated)
    return index


def check_files(folder: Path, files: dict[str, dict[str, Any]], contents: bool) -> None:
    """Compare the files with the index: all sizes first, then, with `contents`, all checksums, several at a time.

    Raises:
        MissingInputError: a file is missing or not the one that was written; it is named.
    """
    _compare(folder, files, "num_bytes", lambda path: path.stat().st_size if path.is_file() else "nothing")
    if contents:
        _compare(folder, files, "sha256", sha256_file)


def _compare(folder: Path, files: dict[str, dict[str, Any]], what: str, look: Callable[[Path], object]) -> None:
    paths = [folder / name for name in files]
    with ThreadPoolExecutor(_READERS) as pool:  # hashing and waiting for the disk let other threads work
        try:
            for path, entry, found in zip(paths, files.values(), pool.map(look, paths), strict=True):
                if found != entry[what]:
                    raise _damaged(path, found, entry[what])
        finally:
            pool.shutdown(cancel_futures=True)


def _damaged(path: Path, found: object, wanted: object) -> MissingInputError:
    return MissingInputError(
        "a file of the token blocks is missing or damaged",
        where=path,
        found=found,
        wanted=wanted,
        todo="remove the folder and run pretrain/prepare.py again",
    )
