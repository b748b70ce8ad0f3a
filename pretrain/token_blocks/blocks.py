"""Token blocks as a trainer reads them: views on the documents' tokens, which are stored once (block_files.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import SettingsError
from pretrain.token_blocks.block_files import MappedFiles, check_files, read_index
from pretrain.token_blocks.packing import PIECE

IGNORED = -100


class TokenBlocks:
    """A finished folder of token blocks, memory-mapped.

    Args:
        folder: what prepare.py wrote.
        verify: compare every file with its checksum first, several at a time; else only their sizes.

    Raises:
        MissingInputError: the folder is not finished, a file is missing or not the one that was written.
    """

    def __init__(self, folder: Path | str, verify: bool = True):
        self.folder = Path(folder)
        self.index: dict[str, Any] = read_index(self.folder)
        check_files(self.folder, self.index["files"], contents=verify)
        self.block_size: int = self.index["block_size"]
        self._files = MappedFiles(self.folder)

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
        examples = [row["example_block"] for row in self.index["mixture"]] if name == "train" else []
        return BlockDataset(
            self._files, name, self.index["shards"], np.dtype(self.index["dtype"]), self.index["splits"][name], examples
        )


class BlockDataset(torch.utils.data.Dataset):
    """Blocks as lists of segments; a segment is (input_ids, labels), one document or a part of one.

    The tokens that a window repeats of the one before it have no labels.
    """

    def __init__(
        self,
        files: MappedFiles,
        name: str,
        shards: list[str],
        dtype: np.dtype,
        counts: dict[str, Any],
        examples: list[int | None],
    ):
        self._files, self._name, self._shards, self._dtype = files, name, shards, dtype
        self._num_blocks, self._examples = counts["num_blocks"], examples

    def __len__(self) -> int:
        return self._num_blocks

    def pieces(self, index: int) -> np.ndarray:
        """The pieces of a block, (p,) of `packing.PIECE`; `item` is the number of the shard."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, end = self._files.array(f"{self._name}.offsets.bin", np.dtype("<i8"))[index : index + 2]
        return self._files.array(f"{self._name}.pieces.bin", PIECE)[first:end]

    def __getitem__(self, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
        segments = []
        for shard, start, length, context in self.pieces(index).tolist():
            tokens = self._files.array(self._shards[shard], self._dtype)
            ids = tokens[start : start + length].astype(np.int64)
            labels = ids
            if context:
                labels = ids.copy()
                labels[:context] = IGNORED
            segments.append((ids, labels))
        return segments

    def one_of_each_source(self) -> list[int]:
        """Numbers of blocks among which every source and language of the training split occurs."""
        return sorted({block for block in self._examples if block is not None})


class Collator:
    """Blocks to tensors that no attention or loss crosses between segments.

    Positions restart at 0 in each segment, from which transformers builds the block-diagonal mask; the first token of
    a segment has no label, as nothing before it predicts it; the rest of a block is padding without labels, a segment
    of its own.
    """

    def __init__(self, block_size: int, pad_token_id: int):
        self.block_size, self.pad_token_id = block_size, pad_token_id

    def __call__(self, blocks: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, torch.Tensor]:
        """Returns input_ids, labels and position_ids, each (B, T).

        T is block_size; where every block holds one segment (examples that cannot be packed) that of the longest.
        """
        alone = all(len(segments) == 1 for segments in blocks)
        width = max(len(segments[0][0]) for segments in blocks) if alone else self.block_size
        shape = (len(blocks), width)
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
            position_ids[row, end:] = np.arange(width - end)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(position_ids),
        }
