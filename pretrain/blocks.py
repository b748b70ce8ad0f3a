"""Token blocks: documents' tokens stored once, and blocks that are views on them.

A folder holds `tokens/NAME.bin` (the tokens of one shard's documents, end token included, uint16 or uint32),
`tokens/NAME.npy` (one row a document, `DOCUMENT`), `SPLIT.pieces.npy` and `SPLIT.offsets.npy` (the blocks of a split)
and, written last, `index.json` with counts and checksums. Splits are "train" and one "validation.LANG" a language.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import MissingInputError, SettingsError
from configs.files import read_json, sha256_file
from pretrain.packing import PIECE

DOCUMENT = np.dtype([("start", "<i8"), ("length", "<i4"), ("lang", "u1"), ("source", "<u2"), ("hash", "<u8")])
IGNORED = -100
FORMAT = 1


class TokenBlocks:
    """A finished folder of token blocks, memory-mapped.

    Args:
        folder: what prepare.py wrote.
        verify: compare every file with its checksum first (about 1 GB a second).

    Raises:
        MissingInputError: the folder is not finished, a file is missing or not the one that was written.
    """

    def __init__(self, folder: Path | str, verify: bool = True):
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise MissingInputError(
                "there are no finished token blocks",
                where=self.folder,
                wanted="a folder with index.json, which is written last",
                todo="python pretrain/prepare.py --input DIR... --output_dir " + str(self.folder),
            )
        self.index: dict[str, Any] = read_json(self.folder / "index.json")
        if self.index.get("format") != FORMAT:
            raise MissingInputError(
                "token blocks of another format",
                where=self.folder / "index.json",
                found=self.index.get("format"),
                wanted=FORMAT,
                todo="run pretrain/prepare.py again",
            )
        for name, checksum in self.index["checksums"].items():
            self._check(name, checksum if verify else None)
        self.block_size: int = self.index["block_size"]
        dtype = np.dtype(self.index["dtype"])
        self._tokens = [  # an empty file, of a shard without one usable document, cannot be mapped
            np.memmap(self.folder / shard["file"], dtype=dtype, mode="r") if shard["num_tokens"] else np.empty(0, dtype)
            for shard in self.index["shards"]
        ]

    def _check(self, name: str, checksum: str | None) -> None:
        path = self.folder / name
        found = "nothing" if not path.is_file() else sha256_file(path) if checksum else None
        if found is not None and found != checksum:
            raise MissingInputError(
                "a file of the token blocks is missing or damaged",
                where=path,
                found=found,
                wanted=checksum or "the file",
                todo=f"remove {self.folder} and run pretrain/prepare.py again",
            )

    def check_tokenizer(self, tokenizer_hash: str, where: object) -> None:
        """Refuse a model whose tokenizer is not the one that made the blocks.

        Raises:
            SettingsError: showing both hashes.
        """
        if tokenizer_hash != self.index["tokenizer"]["hash"]:
            raise SettingsError(
                "the model's tokenizer is not the one that made the token blocks",
                where=f"{where} and {self.folder}",
                found=tokenizer_hash,
                wanted=f"{self.index['tokenizer']['hash']} ({self.index['tokenizer']['name']})",
                todo="prepare the blocks again with --model_name_or_path of this model",
            )

    @property
    def validation_languages(self) -> list[str]:
        return sorted(name.split(".", 1)[1] for name in self.index["splits"] if name.startswith("validation."))

    def split(self, name: str) -> BlockDataset:
        """The blocks of one split."""
        pieces = np.load(self.folder / f"{name}.pieces.npy", mmap_mode="r")
        offsets = np.load(self.folder / f"{name}.offsets.npy", mmap_mode="r")
        return BlockDataset(self._tokens, pieces, offsets)


class BlockDataset(torch.utils.data.Dataset):
    """Blocks as lists of segments; a segment is (input_ids, labels), one document or a part of one."""

    def __init__(self, tokens: list[np.ndarray], pieces: np.ndarray, offsets: np.ndarray):
        self._tokens, self._pieces, self._offsets = tokens, pieces, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
        segments = []
        for piece in self._pieces[self._offsets[index] : self._offsets[index + 1]]:
            start, length = int(piece["start"]), int(piece["length"])
            ids = self._tokens[int(piece["item"])][start : start + length].astype(np.int64)
            segments.append((ids, ids))
        return segments


class Collator:
    """Blocks to tensors that no attention or loss crosses between segments.

    Positions restart at 0 in each segment, from which transformers builds the block-diagonal mask; the first token of
    a segment has no label, as nothing before it predicts it; the rest of a block is padding without labels, a segment
    of its own.
    """

    def __init__(self, block_size: int, pad_token_id: int):
        self.block_size, self.pad_token_id = block_size, pad_token_id

    def __call__(self, blocks: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, torch.Tensor]:
        """Returns input_ids, labels and position_ids, each (B, T) with T = block_size."""
        shape = (len(blocks), self.block_size)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        position_ids = np.zeros(shape, dtype=np.int64)
        for row, segments in enumerate(blocks):
            end = 0
            for ids, targets in segments:
                start, end = end, end + len(ids)
                input_ids[row, start:end] = ids
                labels[row, start + 1 : end] = targets[1:]
                position_ids[row, start:end] = np.arange(len(ids))
            position_ids[row, end:] = np.arange(self.block_size - end)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(position_ids),
        }


__all__ = ["DOCUMENT", "FORMAT", "IGNORED", "PIECE", "BlockDataset", "Collator", "TokenBlocks"]
