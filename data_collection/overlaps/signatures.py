"""Signatures of documents, the first stage of dedup: their files, written shard by shard, and who reads them.

A shard has five files: a table of its documents (the places of their shingles and ids), the ids, the shingles, and two
of hashes, of whole texts and of bands. Hashes are in runs, each sorted, so that those of a range ("partition"), which
fit in memory, are found by bisection in the files of all shards.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, read_json, write_json
from configs.languages import LANGUAGES
from data_collection.corpus.documents import Document, Shard, read_shard
from data_collection.corpus.jobs import ShardJob

DOCUMENT = np.dtype([("shingles", "<u8"), ("id", "<u8"), ("num_shingles", "<u4"), ("num_id_bytes", "<u4")])
EXACT = np.dtype([("hash", "<u8"), ("check", "<u8"), ("priority", "<u8"), ("row", "<u4")])
BAND = np.dtype([("hash", "<u8"), ("priority", "<u8"), ("row", "<u4")])
NUM_ROWS_PER_RUN = 1 << 14
NUM_RECORDS_PER_PARTITION = 1 << 20
NUM_OPEN_FILES = 128
HASH_RANGE = 1 << 64


@dataclass(frozen=True)
class Folders:
    """Where the stages keep their files below OUTPUT; `work` can be removed when the output is there."""

    output_dir: Path

    @property
    def signatures(self) -> Path:
        return self.output_dir / "work" / "signatures"

    @property
    def copies(self) -> Path:
        return self.output_dir / "work" / "copies"

    @property
    def pairs(self) -> Path:
        return self.output_dir / "work" / "pairs"

    @property
    def clusters(self) -> Path:
        return self.output_dir / "work" / "clusters"

    def signature_files(self, name: str) -> dict[str, Path]:
        kinds = ("documents", "ids", "shingles", "exact", "bands")
        return {kind: self.signatures / f"{name}.{kind}" for kind in kinds}


def priority(document: Document, length: int) -> int:
    """What orders documents from the best to the worst: the longer first, then the lesser hash of source and id."""
    order = hashlib.blake2b(f"{document.source}\0{document.id}".encode(), digest_size=4).digest()
    return (0xFFFFFFFF - min(length, 0xFFFFFFFF)) << 32 | int.from_bytes(order, "big")


def sign_shard(shard: Shard, failed: FailedItems, folders: Folders, lang: str | None, rows: int) -> dict[str, Any]:
    """Write a shard's signature files: a table of its documents, their ids, shingles, text hashes and band hashes.

    Hashes are in runs, each sorted, so that a range of them is found by bisection.
    """
    from data_collection.overlaps.minhash import NUM_BANDS, band_hashes, read_shingles

    table: list[tuple[int, int, int, int]] = []
    exact: list[tuple[int, int, int, int]] = []
    signed: list[tuple[int, int]] = []  # priority, row
    bands: list[np.ndarray] = []
    runs: dict[str, list[int]] = {"exact": [], "bands": []}
    num_read = num_shingles = num_id_bytes = 0
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context(atomic_open(path, "wb"))
            for kind, path in folders.signature_files(shard.name).items()
        }

        def flush() -> None:
            # Not by NumPy's tofile, which loses the system's error number, by which a full disk is known.
            files["documents"].write(np.array(table, DOCUMENT).data)
            texts = np.sort(np.array(exact, EXACT), order=("hash", "check", "priority", "row"))
            records = np.empty(len(signed) * NUM_BANDS, BAND)
            if signed:
                records["hash"] = np.concatenate(bands)
                pair = np.repeat(np.array(signed, np.uint64), NUM_BANDS, axis=0)
                records["priority"], records["row"] = pair[:, 0], pair[:, 1]
                records = records[np.argsort(records["hash"], kind="stable")]
            for kind, run in (("exact", texts), ("bands", records)):
                files[kind].write(run.data)
                runs[kind].append(len(run))
            for pending in (table, exact, signed, bands):
                pending.clear()

        for document in read_shard(shard, failed, lang):
            row = LANGUAGES.get(document.lang)
            shingles = read_shingles(document.text, row is None or row.spaced)
            identifier = document.id.encode()
            order = priority(document, shingles.length)
            table.append((num_shingles, num_id_bytes, len(shingles.hashes), len(identifier)))
            exact.append((*shingles.digest, order, num_read))
            if len(shingles.hashes):
                signed.append((order, num_read))
                bands.append(band_hashes(shingles.hashes, rows))
            files["ids"].write(identifier)
            files["shingles"].write(shingles.hashes.data)
            num_read += 1
            num_shingles += len(shingles.hashes)
            num_id_bytes += len(identifier)
            if len(table) == NUM_ROWS_PER_RUN:
                flush()
        if table:
            flush()
    return {"read": num_read, "shingles": num_shingles, "runs": runs}


def _signature_outputs(folders: Folders, shard: Shard) -> tuple[Path, ...]:
    return tuple(folders.signature_files(shard.name).values())


def signature_job(output_dir: Path, rules: dict[str, Any], lang: str | None, rows: int) -> ShardJob:
    """The first stage, for `jobs.run_shard_job`."""
    folders = Folders(output_dir)
    return ShardJob(
        stage="dedup-signatures",
        output_dir=folders.signatures,
        rules=rules,
        work=functools.partial(sign_shard, folders=folders, lang=lang, rows=rows),
        outputs=functools.partial(_signature_outputs, folders),
    )


def summarise_signatures(markers: Iterator[tuple[Shard, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Totals of the first stage."""
    total: Counter[str] = Counter()
    for _, marker in markers:
        total.update(read=marker["read"], shingles=marker["shingles"], failed=len(marker["failed"]))
    return dict(total), dict(total)


# --- what reads them


class Layout(NamedTuple):
    """All signature files together.

    Attributes:
        names: the shards.
        starts: the number of each shard's first document, and, last, the number of documents; the order of the
            shards gives the documents their numbers.
        runs: for "exact" and "bands", the lengths of each shard's sorted runs.
    """

    names: list[str]
    starts: list[int]
    runs: dict[str, list[list[int]]]

    def place(self, document: int) -> tuple[int, int]:
        """(number of the shard, row in it)"""
        shard = bisect.bisect_right(self.starts, document) - 1
        return shard, document - self.starts[shard]


def read_layout(job: ShardJob, shards: Sequence[Shard]) -> Layout:
    """The layout of finished signatures.

    Raises:
        MissingInputError: signatures are missing.
    """
    missing = [shard.name for shard in shards if not job.is_done(shard)]
    if missing:
        raise MissingInputError(
            f"{len(missing)} of {len(shards)} files have no signatures yet",
            where=job.output_dir,
            found=f"none of {', '.join(missing[:3])}" + (", ..." if len(missing) > 3 else ""),
            todo="run the same command with --step signatures (in a Slurm array: wait for all its tasks)",
        )
    names, starts, runs = [], [0], {"exact": [], "bands": []}
    for shard in shards:
        marker = read_json(job.marker_path(shard))
        names.append(shard.name)
        starts.append(starts[-1] + marker["read"])
        for kind, lengths in runs.items():
            lengths.append(marker["runs"][kind])
    return Layout(names, starts, runs)


def load_layout(folders: Folders) -> Layout:
    """The layout that `save_layout` left for the worker processes and the last stage."""
    return Layout(**read_json(folders.clusters / "layout.json"))


def save_layout(folders: Folders, layout: Layout) -> None:
    """Write the layout for `load_layout`."""
    write_json(folders.clusters / "layout.json", layout._asdict())


@dataclass(frozen=True)
class Partition:
    """A range of hashes whose records fit in memory; an item of a `ShardJob`."""

    name: str
    start: int
    stop: int

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "start": self.start, "stop": self.stop}


def partitions(layout: Layout, kind: str) -> list[Partition]:
    """Ranges of hashes of about `NUM_RECORDS_PER_PARTITION` records each; hashes are spread evenly."""
    num_records = sum(map(sum, layout.runs[kind]))
    count = max(1, -(-num_records // NUM_RECORDS_PER_PARTITION))
    bounds = [number * HASH_RANGE // count for number in range(count + 1)]
    return [Partition(f"{number:05d}", *bounds[number : number + 2]) for number in range(count)]


def read_partition(folders: Folders, kind: str, item: Partition) -> tuple[np.ndarray, np.ndarray]:
    """The records of all shards whose hash is in a range, and the numbers of their documents."""
    dtype, layout = {"exact": EXACT, "bands": BAND}[kind], load_layout(folders)
    records, documents = [np.empty(0, dtype)], [np.empty(0, np.uint64)]
    for name, start, lengths in zip(layout.names, layout.starts, layout.runs[kind], strict=False):
        path, offset = folders.signature_files(name)[kind], 0
        with open(path, "rb") as file:
            for length in lengths:
                hash_at = functools.partial(_hash_at, file.fileno(), dtype, offset)
                first = bisect.bisect_left(range(length), item.start, key=hash_at)
                last = bisect.bisect_left(range(length), item.stop, lo=first, key=hash_at)
                file.seek((offset + first) * dtype.itemsize)
                found = np.fromfile(file, dtype, last - first)
                records.append(found)
                documents.append(found["row"].astype(np.uint64) + np.uint64(start))
                offset += length
    return np.concatenate(records), np.concatenate(documents)


def _hash_at(handle: int, dtype: np.dtype, offset: int, index: int) -> int:
    return int.from_bytes(os.pread(handle, 8, (offset + index) * dtype.itemsize), "little")


class SignatureReader:
    """Single documents' shingles and ids out of the signature files."""

    def __init__(self, folders: Folders, layout: Layout):
        self.folders, self.layout = folders, layout
        self._open = functools.lru_cache(NUM_OPEN_FILES)(functools.partial(open, mode="rb", buffering=0))

    def _read(self, document: int, kind: str) -> bytes:
        shard, row = self.layout.place(document)
        files = self.folders.signature_files(self.layout.names[shard])
        size = DOCUMENT.itemsize
        data = os.pread(self._open(files["documents"]).fileno(), size, row * size)
        shingles, identifier, num_shingles, num_id_bytes = np.frombuffer(data, DOCUMENT)[0].tolist()
        start, size = (shingles * 4, num_shingles * 4) if kind == "shingles" else (identifier, num_id_bytes)
        return os.pread(self._open(files[kind]).fileno(), size, start)

    def shingles(self, document: int) -> np.ndarray:
        return np.frombuffer(self._read(document, "shingles"), np.uint32)

    def id(self, document: int) -> str:
        return self._read(document, "ids").decode()
