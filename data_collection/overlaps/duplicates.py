"""Duplicates: the stages that find equal and nearly equal documents and remove all but one.

1. signatures, shard by shard: a text's shingles, the hash of its normalised form, and the hashes of its bands
   (signatures.py).
2. clusters: equal hashes of texts are exact duplicates; equal hashes of bands are candidate pairs, whose exact Jaccard
   similarity decides. Hashes are read in ranges that fit in memory ("partitions"), pairs are merged from sorted runs.
3. remove, shard by shard: documents with a better duplicate go to rejected/.

The better of two documents is the longer one (normalised characters), of equally long ones that with the lesser hash
of source and id: nothing of it depends on the shards. From the best document to the worst, each is removed when a
document that was kept is at least `min_similarity` similar. So every removed document has a kept twin, which joining
whole chains of similar documents would not promise.

What grows with the number of documents and lies in memory: one bit a document, and 20 bytes a near duplicate.
"""

from __future__ import annotations

import bisect
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import FailedItems
from configs.files import atomic_open, fingerprint, read_json
from configs.progress import Progress
from data_collection.corpus.documents import DocumentWriter, Shard, read_shard
from data_collection.corpus.jobs import ShardJob, shard_files
from data_collection.corpus.totals import MAX_GROUPS, OTHERS, capped, summarise_groups
from data_collection.overlaps.signatures import Folders, Layout, Partition, SignatureReader, load_layout, read_partition

# A candidate pair: documents are numbered through all shards, and `kept` is the better one.
PAIR = np.dtype([("priority", "<u8"), ("document", "<u8"), ("kept_priority", "<u8"), ("kept", "<u8")])
NUM_RECORDS_PER_SLICE = 1 << 15  # of a partition, of which pairs are made at once
# A band that very many documents share (a licence text, a menu) says little, and all its pairs would be millions.
MAX_PAIRS_PER_MEMBER = 16
NUM_MERGED_RECORDS = 1 << 18
NUM_FOUND_PER_CHUNK = NUM_ROWS_PER_WINDOW = 1 << 14
REJECTED_COLUMNS = (
    pa.field("reason", pa.string()),
    pa.field("duplicate_of", pa.string()),
    pa.field("duplicate_of_shard", pa.string()),
    pa.field("similarity", pa.float32()),
)


# --- clusters


def _group_starts(*columns: np.ndarray) -> np.ndarray:
    """For each record of sorted columns, the index at which the group of records equal to it starts."""
    new = np.zeros(len(columns[0]), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))


def _save(path: Path, array: np.ndarray) -> None:
    """Write a .npy file. NumPy's own writing loses the system's error number, by which a full disk is known."""
    with atomic_open(path, "wb") as file:
        array = np.ascontiguousarray(array)
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def find_copies(item: Partition, failed: FailedItems, folders: Folders) -> dict[str, Any]:
    """Write the exact duplicates in a partition: row 0 the documents, sorted, row 1 the best one of each's group."""
    records, documents = read_partition(folders, "exact", item)
    order = np.lexsort((documents, records["priority"], records["check"], records["hash"]))
    records, documents = records[order], documents[order]
    best = documents[_group_starts(records["hash"], records["check"])]
    is_copy = best != documents
    copies = np.stack([documents[is_copy], best[is_copy]])
    _save(folders.copies / f"{item.name}.npy", copies[:, np.argsort(copies[0])])
    return {"copies": int(is_copy.sum())}


def find_pairs(item: Partition, failed: FailedItems, folders: Folders) -> dict[str, Any]:
    """Write the pairs of documents that share a band of a partition, in sorted runs; exact duplicates are left out."""
    records, documents = read_partition(folders, "bands", item)
    bits = np.fromfile(folders.clusters / "copies.bits", np.uint8)
    chosen = np.flatnonzero(bits[documents >> np.uint64(3)] >> (documents & np.uint64(7)).astype(np.uint8) & 1 == 0)
    chosen = chosen[np.argsort(records["hash"][chosen], kind="stable")]
    hashes = records["hash"][chosen]
    alone = np.ones(len(hashes), bool)
    alone[1:] &= hashes[1:] != hashes[:-1]
    alone[:-1] &= hashes[1:] != hashes[:-1]
    chosen = chosen[~alone]
    hashes, priorities, documents = records["hash"][chosen], records["priority"][chosen], documents[chosen]
    order = np.lexsort((documents, priorities, hashes))
    hashes, priorities, documents = hashes[order], priorities[order], documents[order]
    starts = _group_starts(hashes)
    places = np.arange(len(starts)) - starts  # 0 for the best of its group
    runs = []
    with atomic_open(folders.pairs / f"{item.name}.pairs", "wb") as file:
        for begin in range(0, len(hashes), NUM_RECORDS_PER_SLICE):
            members = np.arange(begin, min(begin + NUM_RECORDS_PER_SLICE, len(hashes)))
            counts = np.minimum(places[members], MAX_PAIRS_PER_MEMBER)
            worse = np.repeat(members, counts)
            better = starts[worse] + np.arange(len(worse)) - np.repeat(np.cumsum(counts) - counts, counts)
            pairs = np.empty(len(worse), PAIR)
            pairs["priority"], pairs["document"] = priorities[worse], documents[worse]
            pairs["kept_priority"], pairs["kept"] = priorities[better], documents[better]
            pairs = _sorted_different(pairs)
            file.write(pairs.data)
            runs.append(len(pairs))
    return {"runs": runs}


def _sorted_different(pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[np.lexsort([pairs[name] for name in reversed(PAIR.names)])]
    starts = _group_starts(*(pairs[name] for name in PAIR.names))
    return pairs[starts == np.arange(len(pairs))]


def merge_runs(runs: Sequence[tuple[Path, int, int]]) -> Iterator[np.ndarray]:
    """The different pairs of sorted runs, sorted, in chunks; of each run only a piece is in memory.

    Args:
        runs: (file, first record, number of records) of each.
    """
    waiting = [[path, first, count, np.empty(0, PAIR)] for path, first, count in runs if count]
    piece = max(64, NUM_MERGED_RECORDS // max(1, len(waiting)))
    while waiting:
        for run in waiting:
            path, first, count, buffer = run
            if not len(buffer):
                take = min(piece, count)
                buffer = np.fromfile(path, PAIR, take, offset=first * PAIR.itemsize)
                run[1:] = first + take, count - take, buffer
        # Nothing that is still in a file comes before the least of the buffers' last pairs.
        limit = min(run[3][-1].tolist() for run in waiting)
        ready = []
        for run in waiting:
            buffer = run[3]
            cut = bisect.bisect_right(range(len(buffer)), limit, key=functools.partial(_pair_at, buffer))
            ready.append(buffer[:cut])
            run[3] = buffer[cut:]
        yield _sorted_different(np.concatenate(ready))
        waiting = [run for run in waiting if len(run[3]) or run[2]]


def _pair_at(pairs: np.ndarray, index: int) -> tuple[int, int, int, int]:
    return pairs[index].tolist()


def decide(
    pairs: Iterator[np.ndarray],
    num_documents: int,
    shingles_of: Callable[[int], np.ndarray],
    min_similarity: float,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which documents are near duplicates, of which kept document, and how similar the two are.

    Pairs come from the best document to the worst, so that each document is judged when those better than it have
    been: a greedy choice, the first maximal independent set in that order.

    Returns:
        documents (uint64, sorted), the kept document of each (uint64), similarities (float32)
    """
    from data_collection.overlaps.minhash import jaccard

    removed = bytearray(num_documents // 8 + 1)
    found: list[tuple[int, int, float]] = []
    chunks = [(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.float32))]
    current, own, best = -1, None, (0.0, -1)

    def settle() -> None:
        if best[0] >= min_similarity:
            removed[current >> 3] |= 1 << (current & 7)
            found.append((current, best[1], best[0]))

    for chunk in pairs:
        for _, document, _, kept in chunk.tolist():
            if document != current:
                settle()
                current, own, best = document, None, (0.0, -1)
            if removed[kept >> 3] >> (kept & 7) & 1:
                continue
            own = shingles_of(document) if own is None else own
            similarity = jaccard(own, shingles_of(kept))
            if similarity > best[0]:
                best = (similarity, kept)
        progress.advance(len(chunk))
        if len(found) > NUM_FOUND_PER_CHUNK:
            chunks.append(_columns(found))
            found.clear()
    settle()
    chunks.append(_columns(found))
    documents, kept, similarities = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    order = np.argsort(documents)
    return documents[order], kept[order], similarities[order]


def _columns(found: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    types = (np.uint64, np.uint64, np.float32)
    columns = zip(*found, strict=True) if found else ((), (), ())
    return tuple(np.array(column, dtype) for column, dtype in zip(columns, types, strict=True))


def write_copy_bits(folders: Folders, layout: Layout, items: Sequence[Partition]) -> int:
    """Write one bit a document: whether a better one has the same text. Returns how many have."""
    bits = np.zeros(layout.starts[-1] // 8 + 1, np.uint8)
    num_copies = 0
    for item in items:
        documents = np.load(folders.copies / f"{item.name}.npy", mmap_mode="r")[0]
        num_copies += len(documents)
        np.bitwise_or.at(bits, documents >> np.uint64(3), (1 << (documents & np.uint64(7))).astype(np.uint8))
    with atomic_open(folders.clusters / "copies.bits", "wb") as file:
        file.write(bits.data)
    return num_copies


def partition_job(folders: Folders, kind: str, rules: dict[str, Any]) -> ShardJob:
    """The search of one kind ("exact", "bands") of hashes, partition by partition, for `jobs.do_shards`."""
    output_dir, work, suffix = {
        "exact": (folders.copies, find_copies, "npy"),
        "bands": (folders.pairs, find_pairs, "pairs"),
    }[kind]
    return ShardJob(
        stage=f"dedup-{output_dir.name}",
        output_dir=output_dir,
        rules=rules,
        work=functools.partial(work, folders=folders),
        outputs=functools.partial(_partition_outputs, output_dir, suffix),
        unit="partitions",
    )


def _partition_outputs(output_dir: Path, suffix: str, item: Partition) -> tuple[Path]:
    return (output_dir / f"{item.name}.{suffix}",)


def write_decisions(folders: Folders, layout: Layout, job: ShardJob, items: Sequence[Partition], rules: dict) -> dict:
    """Verify the candidate pairs and write which documents are near duplicates of which; return the counts."""
    runs = []
    for item in items:
        first = 0
        for count in read_json(job.marker_path(item))["runs"]:
            runs.append((job.outputs(item)[0], first, count))
            first += count
    progress = Progress("dedup-verify", None, "pairs")
    reader = SignatureReader(folders, layout)
    decided = decide(merge_runs(runs), layout.starts[-1], reader.shingles, rules["min_similarity"], progress)
    progress.close()
    for name, column in zip(("documents", "kept", "similarities"), decided, strict=True):
        _save(folders.clusters / f"{name}.npy", column)
    return {"documents": layout.starts[-1], "candidate_pairs": progress.done, "near_duplicates": len(decided[0])}


# --- remove


class Decisions:
    """The decisions about one shard's documents, as `write_decisions` and `find_copies` left them."""

    def __init__(self, folders: Folders, name: str):
        self.layout = load_layout(folders)
        shard = self.layout.names.index(name)
        self.start, self.stop = self.layout.starts[shard : shard + 2]
        self._near = tuple(
            np.load(folders.clusters / f"{part}.npy", mmap_mode="r") for part in ("documents", "kept", "similarities")
        )
        self._copies = [np.load(path, mmap_mode="r") for path in sorted(folders.copies.glob("*.npy"))]
        self._ids = SignatureReader(folders, self.layout)

    def of(self, first_row: int, num_rows: int) -> dict[int, dict[str, Any]]:
        """Row: what goes into the columns of its rejection, for those of the rows that are duplicates."""
        begin, end = self.start + first_row, min(self.start + first_row + num_rows, self.stop)
        near, kept, similarities = self._near
        low, high = np.searchsorted(near, np.array([begin, end], np.uint64))
        found = {
            document: ("near_duplicate", twin, similarity)
            for document, twin, similarity in zip(
                near[low:high].tolist(), kept[low:high].tolist(), similarities[low:high].tolist(), strict=True
            )
        }
        for copies, originals in self._copies:
            low, high = np.searchsorted(copies, np.array([begin, end], np.uint64))
            for document, original in zip(copies[low:high].tolist(), originals[low:high].tolist(), strict=True):
                # When the best of equal texts is itself a near duplicate, what was kept is its kept twin.
                at = int(np.searchsorted(near, np.uint64(original)))
                is_near = at < len(near) and near[at] == original
                twin, similarity = (int(kept[at]), float(similarities[at])) if is_near else (original, 1.0)
                found[document] = ("exact_duplicate", twin, similarity)
        return {document - self.start: self._columns(*decision) for document, decision in found.items()}

    def _columns(self, reason: str, twin: int, similarity: float) -> dict[str, Any]:
        return {
            "reason": reason,
            "duplicate_of": self._ids.id(twin),
            "duplicate_of_shard": self.layout.names[self.layout.place(twin)[0]],
            "similarity": similarity,
        }


def remove_duplicates(
    shard: Shard, failed: FailedItems, output_dir: Path, lang: str | None, made_by: dict[str, str]
) -> dict[str, Any]:
    """Write kept/NAME.parquet and rejected/NAME.parquet of one shard."""
    decisions = Decisions(Folders(output_dir), shard.name)
    counts: Counter[tuple[str, str, str]] = Counter()  # (reason, source, lang): documents
    kept_path, rejected_path = shard_files(output_dir, shard)
    num_read, num_characters, window = 0, 0, {}
    with (
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for document in read_shard(shard, failed, lang):
            if num_read % NUM_ROWS_PER_WINDOW == 0:
                window = decisions.of(num_read, NUM_ROWS_PER_WINDOW)
            decision = window.get(num_read)
            num_read += 1
            reason = decision["reason"] if decision else ""
            key = (reason, document.source, document.lang)
            counts[capped(counts, key, (reason, OTHERS, document.lang), MAX_GROUPS)] += 1
            num_characters += len(document.text)
            if decision:
                rejected.write(document, **decision)
            else:
                kept.write(document)
    assert num_read == decisions.stop - decisions.start, f"{shard.name} holds other documents than when it was signed"
    return {
        "read": num_read,
        "kept": kept.num_documents,
        "rejected": rejected.num_documents,
        "characters": {"read": num_characters, "kept": kept.num_characters},
        "counts": [[*key, number] for key, number in sorted(counts.items())],
    }


def removal_job(output_dir: Path, rules: dict[str, Any], lang: str | None) -> ShardJob:
    """The last stage, for `jobs.run_shard_job`."""
    made_by = {"stage": "dedup", "fingerprint": fingerprint(rules)}
    return ShardJob(
        stage="dedup",
        output_dir=output_dir,
        rules=rules,
        work=functools.partial(remove_duplicates, output_dir=output_dir, lang=lang, made_by=made_by),
        outputs=functools.partial(shard_files, output_dir),
    )


def summarise(markers: Iterator[tuple[Shard, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """stats.json and the result of the whole."""
    return summarise_groups(markers, ("source", "lang"))
