"""Documents to tokens, shard by shard, in worker processes that load neither torch nor transformers."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from configs.errors import FailedItems, SettingsError
from configs.languages import LANGUAGES
from data_collection.corpus.document_rows import NO_TEXT
from data_collection.corpus.documents import Shard, read_batches
from data_collection.corpus.jobs import ShardJob
from pretrain.token_blocks.block_files import DOCUMENT, ArrayFile

_BATCH_CHARACTERS = 2**20  # of a thread at a time; at about 100 bytes a token while it is made, some 100 MB
_PART_CHARACTERS = 2**20  # a longer text, over 400 pages of a book, is tokenized in parts cut at the end of a line
MAX_THREADS = 8
_MAX_SOURCES = 2**16
LANGUAGE_CODES = list(LANGUAGES)
Item, Result = TypeVar("Item"), TypeVar("Result")


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of what turns text into ids: the fast tokenizer's whole definition."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TextEncoder:
    """How documents become tokens: as the model's tokenizer does it, but special tokens in a text stay text.

    Attributes:
        definition: file with the tokenizer as `tokenizers` writes it.
        hash: `tokenizer_hash` of it.
        start: ids that the tokenizer itself puts before a text.
        end: id that ends every document.
        num_ids: ids the model knows, from 0.
    """

    definition: Path
    hash: str
    start: tuple[int, ...]
    end: int
    num_ids: int

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens stored."""
        return np.dtype("<u2" if self.num_ids <= 1 << 16 else "<u4")

    def identity(self) -> dict[str, Any]:
        """What tells these tokens from others'."""
        return {**asdict(self), "definition": None, "special_tokens": "as text"}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of texts one after the other, start and end tokens included, and how many each has.

        Raises:
            SettingsError: an id that the model does not know.
        """
        tokenizer = _load(self.definition)
        short = [text for text in texts if len(text) <= _PART_CHARACTERS]
        encoded = iter(tokenizer.encode_batch(short, add_special_tokens=False))
        ids, ends = array("I"), []
        for text in texts:
            begin = len(ids)
            ids.extend(self.start)
            if len(text) <= _PART_CHARACTERS:
                ids.extend(next(encoded).ids)
            else:
                for part in _parts(text):
                    ids.extend(tokenizer.encode(part, add_special_tokens=False).ids)
            if len(ids) == begin or ids[-1] != self.end:  # some normalizers leave nothing of a text
                ids.append(self.end)
            ends.append(len(ids))
        tokens = np.frombuffer(ids, dtype=np.uintc)
        if len(tokens) and tokens.max() >= self.num_ids:
            raise SettingsError(
                "the tokenizer makes an id that the model does not know",
                where=self.definition,
                found=int(tokens.max()),
                wanted=f"less than {self.num_ids}, the vocab_size of the model",
                todo="take the tokenizer that belongs to the model, or a model with more embeddings",
            )
        return tokens.astype(self.dtype), np.diff(ends, prepend=0)


def text_encoder(tokenizer: Any, model: str, definition: Path) -> tuple[TextEncoder, str]:
    """The encoder of a transformers tokenizer, and what is to be written to `definition` before it is used.

    Args:
        tokenizer: as loaded, before its first use (which changes what it remembers of truncation and padding).
        model: folder or hub id it belongs to.
        definition: path of the file.

    Raises:
        SettingsError: the tokenizer is not a fast one, or has no end token that the model knows.
    """
    content = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
    num_ids = _num_ids(model) or max(tokenizer.get_vocab().values(), default=-1) + 1
    end = tokenizer.eos_token_id
    set_end = "set eos_token in the model's tokenizer_config.json"
    for is_wrong, what, found, wanted, todo in (
        (not content, "is not a fast one", type(tokenizer).__name__, "tokenizer.json", "convert it with transformers"),
        (end is None, "has no end token", None, "an end token: documents are parted by it", set_end),
        (end is not None and end >= num_ids, "ends texts with an id the model lacks", end, f"below {num_ids}", set_end),
    ):
        if is_wrong:
            raise SettingsError(f"the tokenizer {what}", where=model, found=found, wanted=wanted, todo=todo)
    hash_ = tokenizer_hash(tokenizer)
    with_start, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    first = next(i for i in range(len(with_start)) if with_start[i : i + len(bare)] == bare)
    return TextEncoder(definition, hash_, tuple(with_start[:first]), end, num_ids), content


def _num_ids(model: str) -> int | None:
    """The number of embeddings of a model, None where its configuration says nothing."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    return getattr(config, "vocab_size", None)


@cache
def _load(definition: Path) -> Tokenizer:
    # Threads of ours share the batches out, so that reading, converting and writing overlap with tokenizing.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(definition))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "<|im_end|>" in a text is these characters, not the end of anything
    return tokenizer


def _parts(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PART_CHARACTERS:
        end = text.rfind("\n", start, start + _PART_CHARACTERS) + 1 or start + _PART_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def tokenize_job(
    output_dir: Path, encoder: TextEncoder, lang: str | None, named: Sequence[tuple[str, str]], num_threads: int
) -> ShardJob:
    """The job that writes tokens and document table of each shard.

    Args:
        output_dir: folder of the token blocks.
        encoder: texts to tokens.
        lang: language of documents that state none.
        named: (folder or file, source) of inputs whose documents have that source whatever they state.
        num_threads: threads of a process.
    """
    work = partial(tokenize_shard, output_dir=output_dir, encoder=encoder, lang=lang, named=named, threads=num_threads)
    rules = {"tokenizer": encoder.identity(), "lang": lang, "named": [list(pair) for pair in named]}
    return ShardJob("prepare", output_dir, rules, work, lambda shard: _outputs(output_dir, shard), "shards")


def shard_outputs(name: str) -> tuple[str, str]:
    """The names of a shard's tokens and document table below the folder of the blocks."""
    return f"tokens/{name}.bin", f"documents/{name}.bin"


def _outputs(folder: Path, shard: Shard) -> list[Path]:
    return [folder / name for name in shard_outputs(shard.name)]


def tokenize_shard(
    shard: Shard,
    failed: FailedItems,
    *,
    output_dir: Path,
    encoder: TextEncoder,
    lang: str | None,
    named: Sequence[tuple[str, str]],
    threads: int,
) -> dict[str, Any]:
    """Write one shard's tokens and document table.

    Returns:
        What the marker says: documents, tokens, the sources' names (`DOCUMENT`'s `source` counts them), the files.
    """
    source_of_all = _named_source(shard, named)
    sources: dict[str, int] = {}
    num_documents = num_tokens = 0
    names = shard_outputs(shard.name)
    tokens_file, table_file = (ArrayFile(output_dir / name) for name in names)
    with tokens_file, table_file, ThreadPoolExecutor(threads) as pool:
        batches = _batches(_usable(shard, failed, lang))
        for rows, (tokens, lengths) in _in_order(pool, partial(_encode, encoder), batches, threads):
            table = np.empty(len(rows), dtype=DOCUMENT)
            table["start"] = num_tokens + np.cumsum(lengths) - lengths
            table["length"] = lengths
            table["lang"] = [LANGUAGE_CODES.index(row["lang"]) for row in rows]
            labels = [row["source"] if source_of_all is None else source_of_all for row in rows]
            table["source"] = [sources.setdefault(label, len(sources)) for label in _checked(labels, sources, shard)]
            table["hash"] = [_hash(row["text"]) for row in rows]
            tokens_file.write(tokens)
            table_file.write(table)
            num_documents += len(rows)
            num_tokens += len(tokens)
    files = dict(zip(names, (tokens_file.entry, table_file.entry), strict=True))
    return {"num_documents": num_documents, "num_tokens": num_tokens, "sources": list(sources), "files": files}


def _named_source(shard: Shard, named: Sequence[tuple[str, str]]) -> str | None:
    path = shard.paths[0]
    return next((name for where, name in named if Path(where) in (path, *path.parents)), None)


def _usable(shard: Shard, failed: FailedItems, lang: str | None) -> Iterator[dict[str, str]]:
    for batch in read_batches(shard, failed, lang):
        for row in batch.select(["id", "text", "lang", "source"]).to_pylist():
            if row["lang"] not in LANGUAGES:
                failed.add(f"{shard.name}: {row['id']}", f"language {row['lang']!r} is not in the table")
            elif not row["text"].strip():
                failed.add(f"{shard.name}: {row['id']}", NO_TEXT)
            else:
                yield row


def _batches(rows: Iterable[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    batch: list[dict[str, str]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["text"])
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(encoder: TextEncoder, rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    return encoder.encode([row["text"] for row in rows])


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Items with their results, in order; no more than `ahead` items wait or are worked on meanwhile."""
    waiting: deque[tuple[Item, Any]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            item, future = waiting.popleft()
            yield item, future.result()
    for item, future in waiting:
        yield item, future.result()


def _checked(labels: list[str], sources: dict[str, int], shard: Shard) -> list[str]:
    if len(sources.keys() | set(labels)) > _MAX_SOURCES:
        raise SettingsError(
            "the documents state too many different sources to count each",
            where=shard.paths[0],
            wanted=f"at most {_MAX_SOURCES:,}",
            todo="name the folder instead, which goes over what its documents state: --input NAME=FOLDER",
        )
    return labels


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
