"""The work of take_share.py: a deterministic share of a set of everything."""

from __future__ import annotations

import hashlib
import heapq
import math
import shutil
from pathlib import Path

import pyarrow as pa

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open
from data_collection.corpus.document_files import PACKED, read_lines


def take_share(data: Path, share: float, output_dir: Path) -> dict[str, int]:
    """Copy the share; returns how many documents, questions and PDFs it holds.

    Raises:
        MissingInputError: the folder has nothing of the layout, or a file cannot be read to its end.
    """
    counts = {"documents": 0, "questions": 0, "PDFs": 0}
    documents = ("documents/*.jsonl", *(f"documents/*.jsonl{suffix}" for suffix in PACKED))
    for what, patterns in (("documents", documents), ("questions", ("mmedbench/*/*.jsonl",))):
        for path in sorted(path for pattern in patterns for path in data.glob(pattern)):
            counts[what] += _take_lines(path, share, output_dir / path.relative_to(data))
    for folder in sorted(path for path in data.glob("pdf/pages/*") if path.is_dir()):
        files = sorted(folder.glob("*.pdf"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
        for path in files[: math.ceil(share * len(files))]:
            target = output_dir / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.stat().st_size != path.stat().st_size:
                shutil.copy2(path, target)
            counts["PDFs"] += 1
    if not any(counts.values()):
        raise MissingInputError(
            "the folder holds no data",
            where=data,
            wanted="documents/LANG.*.jsonl (.gz, .zst), mmedbench/{Train,Test}/LANGUAGE.jsonl or pdf/pages/LANG/*.pdf",
            todo="give --data a folder of this layout, such as assets/sample",
        )
    return counts


def _take_lines(path: Path, share: float, target: Path) -> int:
    """The lines with the smallest hashes, in the file's order; an existing target with the same content is left."""
    failed = FailedItems()
    hashes = [hashlib.sha256(line).digest() for _, line in read_lines(path, failed)]
    if failed:
        raise MissingInputError(
            "a file of the set cannot be read to its end",
            where=failed.items[0]["where"],
            found=failed.items[0]["reason"],
            todo="get the file again, or take it out of the folder",
        )
    wanted = math.ceil(share * len(hashes))
    chosen = {number for _, number in heapq.nsmallest(wanted, ((h, number) for number, h in enumerate(hashes)))}
    content = b"".join(line for number, (_, line) in enumerate(read_lines(path, failed)) if number in chosen)
    if path.suffix in PACKED:
        content = pa.Codec(PACKED[path.suffix]).compress(content, asbytes=True)
    if not target.exists() or target.read_bytes() != content:
        with atomic_open(target, "wb") as file:
            file.write(content)
    return wanted
