"""The work of take_share.py: a deterministic share of a set of everything."""

from __future__ import annotations

import hashlib
import heapq
import math
import shutil
from pathlib import Path

from configs.errors import MissingInputError
from configs.files import atomic_open


def take_share(data: Path, share: float, output_dir: Path) -> dict[str, int]:
    """Copy the share; returns how many documents, questions and PDFs it holds.

    Raises:
        MissingInputError: the folder has nothing of the layout.
    """
    counts = {"documents": 0, "questions": 0, "PDFs": 0}
    for what, pattern in (("documents", "documents/*.jsonl"), ("questions", "mmedbench/*/*.jsonl")):
        for path in sorted(data.glob(pattern)):
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
            wanted="documents/LANG.*.jsonl, mmedbench/{Train,Test}/LANGUAGE.jsonl or pdf/pages/LANG/*.pdf",
            todo="give --data a folder of this layout, such as assets/sample",
        )
    return counts


def _take_lines(path: Path, share: float, target: Path) -> int:
    """The lines with the smallest hashes, in the file's order; an existing target with the same content is left."""
    with open(path, "rb") as file:
        hashes = [hashlib.sha256(line).digest() for line in file]
    wanted = math.ceil(share * len(hashes))
    chosen = {number for _, number in heapq.nsmallest(wanted, ((h, number) for number, h in enumerate(hashes)))}
    with open(path, "rb") as file:
        content = b"".join(line for number, line in enumerate(file) if number in chosen)
    if not target.exists() or target.read_bytes() != content:
        with atomic_open(target, "wb") as file:
            file.write(content)
    return wanted
