"""The union of sources: the shards of all of them, and the work on one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint
from data_collection.corpus.documents import DocumentWriter, Shard, find_shards, read_shard
from data_collection.corpus.jobs import shard_files
from data_collection.corpus.totals import Tally
from data_collection.sources.mappings import MAPPINGS, read_mapping
from data_collection.sources.small_corpora import DatasetShard, FileShard, find_mapped_shards

REJECTED_COLUMNS = (pa.field("reason", pa.string()),)
MergeShard = FileShard | DatasetShard | Shard


def find_merge_shards(
    mappings: Sequence[str], inputs: Sequence[str], output_dir: Path | None = None
) -> list[MergeShard]:
    """The shards of all sources, in the order in which they are given, each with a name of its own.

    Args:
        mappings: NAME or NAME=PATH; NAME is a file of `MAPPINGS` without its suffix, or a YAML file.
        inputs: files and folders of documents.
        output_dir: where the corpus will be written.

    Raises:
        MissingInputError: there is no such mapping, or nothing at a path.
        SettingsError: a mapping is wrong, or the corpus would be among the inputs.
    """
    shards: list[MergeShard] = []
    numbers: Counter[str] = Counter()
    for given in mappings:
        name, _, path = given.partition("=")
        file = Path(name) if name.endswith((".yaml", ".yml")) else MAPPINGS / f"{name}.yaml"
        if not file.is_file():
            raise MissingInputError(
                f"there is no mapping {name}",
                where=file,
                wanted=f"a YAML file, or one of {', '.join(sorted(known.stem for known in MAPPINGS.glob('*.yaml')))}",
                todo="correct the name, or write a mapping (data_collection/README.md)",
            )
        numbers[file.stem] += 1  # the same mapping again, for another folder: its documents have ids of their own
        label = file.stem if numbers[file.stem] == 1 else f"{file.stem}-{numbers[file.stem]}"
        shards += find_mapped_shards(label, read_mapping(file), path)
    if inputs:
        shards += find_shards(inputs, output_dir)
    taken: set[str] = set()
    for index, shard in enumerate(shards):
        name, count = shard.name, 1
        while name.lower() in taken:
            count += 1
            name = f"{shard.name}-{count}"
        taken.add(name.lower())
        if name != shard.name:
            shards[index] = dataclasses.replace(shard, name=name)
    return shards


def merge_shard(shard: MergeShard, failed: FailedItems, output_dir: Path) -> dict[str, Any]:
    """Write a shard's documents; return the numbers for its marker."""
    passed_over: Counter[str] = Counter()
    tally = Tally()
    made_by = {"stage": "merge", "fingerprint": fingerprint(shard.identity())}
    kept_path, rejected_path = shard_files(output_dir, shard)
    documents = read_shard(shard, failed) if isinstance(shard, Shard) else shard.documents(failed, passed_over)
    with (
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for document in documents:
            reason = "" if any(map(str.isalnum, document.text)) else "no_text"
            tally.add(document, reason)
            if reason:
                rejected.write(document, reason=reason)
            else:
                kept.write(document)
    return {**tally.numbers(), "passed_over": dict(passed_over)}
