"""Tokenized shards to blocks: hold out validation documents, mix the others, pack them, write the index last.

Document tables are read one shard at a time and packed a quarter of a million documents at a time, so that memory does
not grow with the corpus, but for 13 bytes a document while the validation documents are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import MissingInputError
from configs.progress import log
from pretrain.token_blocks.block_files import DOCUMENT, FORMAT, ArrayFile, file_entry, write_index
from pretrain.token_blocks.mixing import copies
from pretrain.token_blocks.packing import pack
from pretrain.token_blocks.tokenizing import LANGUAGE_CODES, TextEncoder, shard_outputs

_PACKED_TOGETHER = 2**18  # documents, or blocks full of tokens
_MOST_PADDING = 0.01
_MANY_PASSES = 4  # to about here repeated text is nearly as good as new: Muennighoff et al. 2023, arXiv 2305.16264
_KEY = np.dtype([("hash", "<u8"), ("length", "<i4"), ("lang", "u1")])
Chosen = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (documents, their sources) to a mask


class Counts(NamedTuple):
    """Documents and tokens of each source and language, (S, L) each; float64, exact to 2^53."""

    documents: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """The document tables of all shards.

    Attributes:
        folder: of the token blocks.
        markers: shard's name to what `tokenize_shard` returned.
    """

    folder: Path
    markers: dict[str, dict[str, Any]]

    @property
    def sources(self) -> list[str]:
        """All sources, in the order in which they first occur."""
        return list(dict.fromkeys(label for marker in self.markers.values() for label in marker["sources"]))

    def tables(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(number of the shard, its documents, the numbers of their sources in `sources`), one shard at a time."""
        numbers = {label: number for number, label in enumerate(self.sources)}
        for number, (name, marker) in enumerate(self.markers.items()):
            table = np.fromfile(self.folder / shard_outputs(name)[1], dtype=DOCUMENT)
            own = np.array([numbers[label] for label in marker["sources"]], dtype=np.int64)
            yield number, table, own[table["source"]]

    def keys(self) -> np.ndarray:
        """(n,) hash, length and language of all documents."""
        keys = np.empty(sum(marker["num_documents"] for marker in self.markers.values()), dtype=_KEY)
        end = 0
        for _, table, _ in self.tables():
            start, end = end, end + len(table)
            for name in _KEY.names:
                keys[name][start:end] = table[name]
        return keys


def last_held_out(documents: np.ndarray, validation_share: float, max_validation_tokens: int) -> dict[int, int]:
    """Where the validation documents of each language end, in the order of their hashes.

    In each language the documents with the smallest hashes are held out: at least one where there are five or more,
    at most `validation_share` of the documents and `max_validation_tokens` tokens (so that validation stays cheap).
    Equal texts have equal hashes and stand on the same side.

    Args:
        documents: (n,) array with fields hash, length and lang.

    Returns:
        Number of a language to the greatest hash that is held out; languages without validation are not in it.
    """
    last: dict[int, int] = {}
    for code in np.unique(documents["lang"]).tolist():
        of_language = documents[documents["lang"] == code]
        wanted = max(1, int(len(of_language) * validation_share))
        if len(of_language) < 5 or validation_share == 0:
            continue
        smallest = np.argsort(of_language["hash"], kind="stable")[:wanted]
        within = np.cumsum(of_language["length"][smallest], dtype=np.int64) <= max_validation_tokens
        last[code] = int(of_language["hash"][smallest[max(1, int(within.sum())) - 1]])
    return last


def is_held_out(documents: np.ndarray, last: dict[int, int]) -> np.ndarray:
    """(n,) mask of the documents that `last_held_out` holds out."""
    held_out = np.zeros(len(documents), dtype=bool)
    for code, last_hash in last.items():
        held_out |= (documents["lang"] == code) & (documents["hash"] <= np.uint64(last_hash))
    return held_out


def write_blocks(corpus: Corpus, encoder: TextEncoder, model: str, settings: Any) -> dict[str, Any]:
    """Pack all splits of tokenized shards and write the index; returns it.

    Args:
        corpus: all shards.
        encoder: what made the tokens.
        model: where the tokenizer came from, for the reader.
        settings: has block_size, overlap, validation_share, max_validation_tokens and `mixture`.

    Raises:
        MissingInputError: there is no document, or none is left for training.
        SettingsError: the mixture names a source that is not there.
    """
    folder, sources, mixture = corpus.folder, corpus.sources, settings.mixture
    if not sources:
        raise MissingInputError(
            "there is no usable document",
            where=", ".join(list(corpus.markers)[:20]),
            todo="give folders that hold documents to --input; failures.jsonl says why these could not be used",
        )
    last = last_held_out(corpus.keys(), settings.validation_share, settings.max_validation_tokens)
    every = _counts(corpus, lambda table, _: np.ones(len(table), np.int64))
    once = _counts(corpus, lambda table, _: ~is_held_out(table, last))
    passes = mixture.passes(once.tokens, sources)

    def times(table: np.ndarray, source: np.ndarray) -> np.ndarray:
        return copies(table["hash"], passes[source, table["lang"]]) * ~is_held_out(table, last)

    mixed = _counts(corpus, times)
    if not mixed.documents.any():
        raise MissingInputError(
            "no document is left for training",
            where=folder,
            found=f"{int(once.documents.sum())} documents that are not held out, all of them passed over",
            todo="raise epochs, or give more documents",
        )
    selections: dict[str, tuple[Chosen, int]] = {"train": (times, _most_copies(corpus, times))}
    for code in last:
        held_out = {code: last[code]}
        selections[f"validation.{LANGUAGE_CODES[code]}"] = (lambda t, _, held=held_out: is_held_out(t, held), 1)
    splits, files, examples = {}, {}, np.full(passes.shape, -1, dtype=np.int64)
    for name, (chosen, num_passes) in selections.items():
        splits[name], own = _write_split(corpus, name, chosen, num_passes, settings, examples)
        files |= own
    for marker in corpus.markers.values():
        files |= marker["files"]
    files[encoder.definition.name] = file_entry(encoder.definition)
    index = {
        "format": FORMAT,
        "block_size": settings.block_size,
        "overlap": settings.overlap,
        "dtype": encoder.dtype.str,
        "tokenizer": {
            "name": model,
            "hash": encoder.hash,
            "start_token_ids": list(encoder.start),
            "eos_token_id": encoder.end,
            "vocab_size": encoder.num_ids,
        },
        "shards": [shard_outputs(name)[0] for name in corpus.markers],
        "num_documents": int(every.documents.sum()),
        "num_tokens": int(every.tokens.sum()),
        "num_tokens_by_language": {LANGUAGE_CODES[c]: int(n) for c, n in enumerate(every.tokens.sum(0)) if n},
        "num_tokens_by_source": dict(zip(sources, every.tokens.sum(1).astype(int).tolist(), strict=True)),
        "mixture": _mixture_rows(sources, every, once, mixed, passes, examples),
        "splits": splits,
        "files": files,
    }
    write_index(folder, index)
    _say(index)
    return index


def _mixture_rows(
    sources: list[str], every: Counts, once: Counts, mixed: Counts, passes: np.ndarray, examples: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each source and language that there is: what it holds, and what of it is trained on."""
    return [
        {
            "source": sources[cell[0]],
            "language": LANGUAGE_CODES[cell[1]],
            "num_documents": int(every.documents[cell]),
            "num_tokens": int(every.tokens[cell]),
            "num_validation_tokens": int(every.tokens[cell] - once.tokens[cell]),
            "passes": float(passes[cell]),
            "num_training_documents": int(mixed.documents[cell]),
            "num_training_tokens": int(mixed.tokens[cell]),
            "example_block": int(examples[cell]) if examples[cell] >= 0 else None,
        }
        for cell in map(tuple, np.argwhere(every.documents).tolist())
    ]


def _counts(corpus: Corpus, times: Chosen) -> Counts:
    """What there is, each document counted as often as `times` says."""
    shape = len(corpus.sources), len(LANGUAGE_CODES)
    counts = Counts(np.zeros(shape), np.zeros(shape))
    for _, table, source in corpus.tables():
        cell = source * shape[1] + table["lang"]
        often = times(table, source)
        for total, weights in zip(counts, (often, often * table["length"]), strict=True):
            total += np.bincount(cell, weights=weights, minlength=total.size).reshape(shape)
    return counts


def _most_copies(corpus: Corpus, times: Chosen) -> int:
    return max(int(times(table, source).max(initial=0)) for _, table, source in corpus.tables())


def _write_split(
    corpus: Corpus, name: str, chosen: Chosen, num_passes: int, settings: Any, examples: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pack a split's documents, `_PACKED_TOGETHER` at a time; returns its counts and the files' entries.

    Every pass over the documents is packed on its own, so that no block holds a document twice. Of the training split
    the first block of each source and language is noted in `examples`, (S, L), where that is -1.
    """
    counts = dict.fromkeys(("num_documents", "num_tokens", "num_targets", "num_blocks"), 0)
    num_pieces, filled = 0, 0
    names = {kind: f"{name}.{kind}.bin" for kind in ("pieces", "offsets")}
    pieces_file, offsets_file = (ArrayFile(corpus.folder / file) for file in names.values())
    with pieces_file, offsets_file:
        offsets_file.write(np.zeros(1, dtype="<i8"))
        for documents, shards, sources in _groups(corpus, chosen, num_passes, settings.block_size):
            pieces, offsets = pack(documents["length"], settings.block_size, settings.overlap)
            items = pieces["item"].copy()
            if name == "train":
                cells, first = np.unique(
                    np.stack([sources[items], documents["lang"][items].astype(np.int64)]), axis=1, return_index=True
                )
                blocks = counts["num_blocks"] + np.searchsorted(offsets, first, side="right") - 1
                new = examples[tuple(cells)] < 0
                examples[tuple(cells[:, new])] = blocks[new]
            pieces["item"] = shards[items]
            pieces["start"] += documents["start"][items]
            pieces_file.write(pieces)
            offsets_file.write(offsets[1:] + num_pieces)
            num_pieces += len(pieces)
            filled += int(pieces["length"].sum(dtype=np.int64))
            counts["num_documents"] += len(documents)
            counts["num_tokens"] += int(documents["length"].sum(dtype=np.int64))
            counts["num_targets"] += int((pieces["length"] - np.maximum(1, pieces["context"])).sum(dtype=np.int64))
            counts["num_blocks"] += len(offsets) - 1
    num_padding = counts["num_blocks"] * settings.block_size - filled
    counts |= {"num_repeated_tokens": filled - counts["num_tokens"], "num_padding_tokens": num_padding}
    counts["padding_share"] = round(num_padding / max(1, num_padding + filled), 6)
    return counts, {names["pieces"]: pieces_file.entry, names["offsets"]: offsets_file.entry}


def _groups(
    corpus: Corpus, chosen: Chosen, num_passes: int, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chosen documents with their shards and sources, as many at a time as are packed together."""
    for number_of_pass in range(num_passes):
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        size = num_tokens = 0
        for number, table, source in corpus.tables():
            for start in range(0, len(table), _PACKED_TOGETHER):
                part = slice(start, start + _PACKED_TOGETHER)
                taken = chosen(table[part], source[part]) > number_of_pass
                documents = table[part][taken]
                parts.append((documents, np.full(len(documents), number, dtype=np.int64), source[part][taken]))
                size += len(documents)
                num_tokens += int(documents["length"].sum(dtype=np.int64))
                if size >= _PACKED_TOGETHER or num_tokens >= _PACKED_TOGETHER * block_size:
                    yield _joined(parts)
                    parts, size, num_tokens = [], 0, 0
        if size:
            yield _joined(parts)


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    documents, shards, sources = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return documents, shards, sources


def _say(index: dict[str, Any]) -> None:
    for name, split in index["splits"].items():
        log.info(
            f"{name}: {split['num_documents']:,} documents, {split['num_tokens']:,} tokens in {split['num_blocks']:,} "
            f"blocks, {split['padding_share']:.2%} of them padding"
        )
    if index["splits"]["train"]["padding_share"] > _MOST_PADDING:
        log.info(
            f"more than {_MOST_PADDING:.0%} of the training blocks is padding (masked: it costs time, it teaches "
            "nothing): there are too few short documents to fill what the long ones leave; another block_size may fit"
        )
    for row in index["mixture"]:
        if row["passes"] > _MANY_PASSES:
            log.info(f"{row['source']!r}, {row['language']}: {row['passes']:g} passes; expect little beyond the 4th")
