"""Show packed blocks as the model will see them: text, boundaries, positions, what is seen from where, what bears loss.

    python pretrain/preview.py --data runs/blocks [--split validation.fr] [--block 7] [--number 3] [--tokens]

A block is shown document by document. Tokens without loss stand in [[ ]]: the first of a document, which nothing
predicts, and those that an overlapping window repeats. --tokens prints a line a token instead.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n"
        "  what to do: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError, SettingsError
from configs.progress import printable
from configs.records import RUNS, newest_finished
from configs.settings import parse, setting


@dataclass
class PreviewSettings:
    """Settings of pretrain/preview.py."""

    data: Path | None = setting(None, "folder of token blocks; the newest finished one under runs/ by default")
    split: str = setting("train", "train or validation.LANG")
    block: int | None = setting(None, "number of the first block shown; one of every source and language by default")
    number: int = setting(1, "blocks shown, where a first one is given")
    tokens: bool = setting(False, "a line a token: place, position, id, seen from, loss, text")

    def problems(self) -> list[str]:
        return [f"number {self.number}: wanted 1 or more"] if self.number < 1 else []


def starts_of(position_ids: list[int]) -> list[int]:
    """For each place of a block, the first place that it sees: where its position was 0."""
    first, starts = 0, []
    for place, position in enumerate(position_ids):
        first = place if position == 0 else first
        starts.append(first)
    return starts


def shown_block(batch: dict[str, Any], num_filled: int, tokenizer: Any, token_by_token: bool) -> Iterator[str]:
    """The lines that show a block.

    Args:
        batch: what the collator made of it, tensors of (1, T).
        num_filled: tokens that are not padding.
        tokenizer: of `tokenizers`, for the text.
        token_by_token: a line a token, rather than a text a segment.
    """
    ids, labels, positions = (batch[name][0].tolist() for name in ("input_ids", "labels", "position_ids"))
    starts = starts_of(positions)
    has_loss = [label >= 0 for label in labels]

    def text(first: int, end: int) -> str:
        return printable(tokenizer.decode(ids[first:end], skip_special_tokens=False))

    if token_by_token:
        yield "place  position       id  sees        loss  text"
        for place in range(len(ids)):
            seen = f"{starts[place]}-{place}"
            shown = repr(text(place, place + 1)) if place < num_filled else "(padding)"
            loss = "yes" if has_loss[place] else "no"
            yield f"{place:5d}  {positions[place]:8d} {ids[place]:8d}  {seen:11s} {loss:4s}  {shown}"
        return
    boundaries = [*sorted(set(starts[:num_filled])), num_filled]
    for number, (first, end) in enumerate(pairwise(boundaries), 1):
        with_loss = has_loss[first:end].index(True) + first if any(has_loss[first:end]) else end
        yield (
            f"--- segment {number}: places {first}-{end - 1}, positions {positions[first]}-{positions[end - 1]}, "
            f"{end - first} tokens, {sum(has_loss[first:end])} with loss; sees places {first}-{end - 1} only"
        )
        yield f"[[{text(first, with_loss)}]]{text(with_loss, end)}"
    if num_filled < len(ids):
        yield f"--- padding: places {num_filled}-{len(ids) - 1}, {len(ids) - num_filled} tokens, none with loss"


def main() -> int:
    (settings,) = parse(__doc__, PreviewSettings)
    data = settings.data or newest_finished("prepare")
    if data is None:
        raise MissingInputError(
            "there are no token blocks to show", where=RUNS, wanted="a folder of token blocks", todo="--data FOLDER"
        )
    from tokenizers import Tokenizer

    from pretrain.token_blocks.blocks import Collator, TokenBlocks

    blocks = TokenBlocks(data, verify=False)
    splits = blocks.index["splits"]
    if settings.split not in splits or not 0 <= (settings.block or 0) < splits[settings.split]["num_blocks"]:
        there = ", ".join(f"{name} of {split['num_blocks']} blocks" for name, split in splits.items())
        found = f"split {settings.split}, block {settings.block}"
        raise SettingsError("there is no such block", where=data, found=found, wanted=there, todo="--split, --block")
    dataset = blocks.split(settings.split)
    if settings.block is None:
        numbers = dataset.one_of_each_source() or [0]
    else:
        numbers = range(settings.block, min(len(dataset), settings.block + settings.number))
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    collator = Collator(blocks.block_size, pad_token_id=blocks.index["tokenizer"]["eos_token_id"])
    for number in numbers:
        pieces = dataset.pieces(number)
        files = ", ".join(blocks.index["shards"][shard] for shard in dict.fromkeys(pieces["item"].tolist()))
        print(f"=== {settings.split}, block {number} of {len(dataset)}: {len(pieces)} segments from {files}")
        batch = collator([dataset[number]])
        for line in shown_block(batch, int(pieces["length"].sum()), tokenizer, settings.tokens):
            print(line)
    return 0


if __name__ == "__main__":
    run(main)
