"""Documents to token blocks: tokenize shard by shard, split off validation documents, pack, write the index last."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import atomic_open, atomic_path, fingerprint, read_json, sha256_file, write_json
from configs.languages import LANGUAGES
from configs.progress import Progress, log
from data_collection.documents import Document, Shard, read_shard
from pretrain.blocks import DOCUMENT, FORMAT
from pretrain.packing import PIECE, pack

_BATCH_DOCUMENTS = 512
_LANGUAGE_CODES = list(LANGUAGES)


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of what turns text into ids: the fast tokenizer's whole definition."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def check_tokenizer(tokenizer: Any, where: str) -> None:
    """Raises SettingsError for a tokenizer without an end token or without a fast implementation."""
    for found, wanted in ((tokenizer.eos_token_id, "an end token"), (tokenizer.is_fast or None, "a fast tokenizer")):
        if found is None:
            raise SettingsError(
                f"the tokenizer has no {wanted.split(' ', 1)[1]}",
                where=where,
                wanted=f"{wanted}: documents are parted by it" if "end" in wanted else wanted,
                todo="set eos_token in tokenizer_config.json" if "end" in wanted else "convert it with transformers",
            )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        yield batch


def tokenize_shard(shard: Shard, folder: Path, tokenizer: Any, identity: dict[str, Any], failed: FailedItems) -> None:
    """Write one shard's tokens and document table; nothing to do when they are there with the same fingerprint."""
    marker = folder / f"{shard.name}.json"
    mark = fingerprint([identity, shard.identity()])
    if marker.exists() and read_json(marker)["fingerprint"] == mark:
        for item in read_json(marker)["failed"]:
            failed.add(item["where"], item["reason"])
        return
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
    shard_failed = FailedItems()
    rows: list[tuple[int, int, int, int, int]] = []
    sources: dict[str, int] = {}
    start = 0
    with atomic_open(folder / f"{shard.name}.bin", "wb") as file:
        for batch in _batches(read_shard(shard, shard_failed, identity["lang"])):
            encoded = tokenizer([document.text for document in batch], return_attention_mask=False)["input_ids"]
            for document, ids in zip(batch, encoded, strict=True):
                if document.lang not in LANGUAGES:
                    shard_failed.add(f"{shard.name}: {document.id}", f"language {document.lang!r} is not in the table")
                    continue
                if ids[-1:] != [tokenizer.eos_token_id]:
                    ids.append(tokenizer.eos_token_id)
                np.asarray(ids, dtype=dtype).tofile(file)
                digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
                source = sources.setdefault(document.source, len(sources))
                language_code = _LANGUAGE_CODES.index(document.lang)
                rows.append((start, len(ids), language_code, source, int.from_bytes(digest, "little")))
                start += len(ids)
    with atomic_path(folder / f"{shard.name}.npy") as path, open(path, "wb") as file:
        np.save(file, np.array(rows, dtype=DOCUMENT))
    write_json(
        marker,
        {
            "fingerprint": mark,
            "dtype": dtype.str,
            "num_tokens": start,
            "sources": list(sources),
            "failed": shard_failed.items,
        },
    )
    failed.items.extend(shard_failed.items)


def split_documents(documents: np.ndarray, validation_share: float, max_validation_tokens: int) -> np.ndarray:
    """Which documents are held out for validation, decided by each document's own hash.

    In each language the documents with the smallest hashes are taken: at least one where there are five or more,
    at most `validation_share` of the documents and `max_validation_tokens` tokens (so that validation stays cheap).
    Equal texts have equal hashes and stand on the same side.

    Returns:
        (n,) boolean mask.
    """
    held_out = np.zeros(len(documents), dtype=bool)
    for code in np.unique(documents["lang"]):
        of_language = np.flatnonzero(documents["lang"] == code)
        order = of_language[np.argsort(documents["hash"][of_language], kind="stable")]
        if len(order) < 5 or validation_share == 0:
            continue
        wanted = max(1, int(len(order) * validation_share))
        within = np.cumsum(documents["length"][order[:wanted]]) <= max_validation_tokens
        last_hash = documents["hash"][order[max(1, int(within.sum())) - 1]]
        held_out[of_language[documents["hash"][of_language] <= last_hash]] = True
    return held_out


def prepare_blocks(shards: list[Shard], output_dir: Path, tokenizer: Any, settings: Any, failed: FailedItems) -> dict:
    """Tokenize all shards, pack them and write the index; returns the index.

    Args:
        settings: has lang, block_size, validation_share, max_validation_tokens.

    Raises:
        MissingInputError: the input has no usable document.
    """
    tokens_dir = output_dir / "tokens"
    tokens_dir.mkdir(parents=True, exist_ok=True)
    identity = {"tokenizer": tokenizer_hash(tokenizer), "eos": tokenizer.eos_token_id, "lang": settings.lang}
    progress = Progress("tokenize", len(shards), "shards")
    for shard in shards:
        tokenize_shard(shard, tokens_dir, tokenizer, identity, failed)
        progress.advance()
    progress.close()
    tables = [np.load(tokens_dir / f"{shard.name}.npy") for shard in shards]
    documents = np.concatenate(tables)
    if not len(documents):
        raise MissingInputError(
            "there is no usable document",
            where=", ".join(s.name for s in shards),
            todo="give folders that hold documents",
        )
    shard_of = np.repeat(np.arange(len(shards)), [len(table) for table in tables])
    held_out = split_documents(documents, settings.validation_share, settings.max_validation_tokens)
    groups = {"train": ~held_out}
    for code in np.unique(documents["lang"][held_out]):
        groups[f"validation.{_LANGUAGE_CODES[code]}"] = held_out & (documents["lang"] == code)
    splits = {}
    for name, mask in groups.items():
        splits[name] = _write_split(output_dir, name, documents[mask], shard_of[mask], settings.block_size)
        log.info(f"{name}: {splits[name]['num_documents']:,} documents, {splits[name]['num_tokens']:,} tokens")
    return _write_index(output_dir, shards, tokenizer, settings.block_size, splits, documents, shard_of)


def _write_split(folder: Path, name: str, documents: np.ndarray, shard_of: np.ndarray, block_size: int) -> dict:
    pieces, offsets = pack(documents["length"], block_size)
    views = np.empty(len(pieces), dtype=PIECE)
    views["item"] = shard_of[pieces["item"]]
    views["start"] = documents["start"][pieces["item"]] + pieces["start"]
    views["length"] = pieces["length"]
    for suffix, array in (("pieces", views), ("offsets", offsets)):
        with atomic_path(folder / f"{name}.{suffix}.npy") as path, open(path, "wb") as file:
            np.save(file, array)
    num_tokens, num_blocks = int(documents["length"].sum()), len(offsets) - 1
    return {
        "num_documents": len(documents),
        "num_tokens": num_tokens,
        "num_blocks": num_blocks,
        "padding_share": round(1 - num_tokens / max(1, num_blocks * block_size), 6),
    }


def _write_index(
    folder: Path,
    shards: list[Shard],
    tokenizer: Any,
    block_size: int,
    splits: dict,
    documents: np.ndarray,
    shard_of: np.ndarray,
) -> dict:
    markers = [read_json(folder / "tokens" / f"{shard.name}.json") for shard in shards]
    by_language: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    for code in np.unique(documents["lang"]):
        by_language[_LANGUAGE_CODES[code]] = int(documents["length"][documents["lang"] == code].sum())
    for number, marker in enumerate(markers):
        table = documents[shard_of == number]
        for source, label in enumerate(marker["sources"]):
            by_source[label] += int(table["length"][table["source"] == source].sum())
    files = [f"tokens/{shard.name}.bin" for shard in shards]
    files += [f"{name}.{suffix}.npy" for name in splits for suffix in ("pieces", "offsets")]
    index = {
        "format": FORMAT,
        "block_size": block_size,
        "dtype": markers[0]["dtype"],
        "tokenizer": {
            "name": tokenizer.name_or_path,
            "hash": tokenizer_hash(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "vocab_size": len(tokenizer),
        },
        "shards": [
            {"file": f"tokens/{s.name}.bin", "num_tokens": m["num_tokens"]}
            for s, m in zip(shards, markers, strict=True)
        ],
        "num_tokens": int(documents["length"].sum()),
        "num_tokens_by_language": dict(by_language),
        "num_tokens_by_source": dict(by_source),
        "splits": splits,
        "checksums": {name: sha256_file(folder / name) for name in files},
    }
    write_json(folder / "index.json", index)
    return index
