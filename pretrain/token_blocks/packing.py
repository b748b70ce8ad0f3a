"""Documents cut into pieces of at most a block, and pieces packed into blocks; nothing that fits is ever cut."""

from __future__ import annotations

import bisect

import numpy as np

PIECE = np.dtype([("item", "<i8"), ("start", "<i8"), ("length", "<i4"), ("context", "<i4")])


def cut(lengths: np.ndarray, block_size: int, overlap: int = 0) -> np.ndarray:
    """Cut items into windows of `block_size` tokens, each beginning with the last `overlap` tokens of the one before.

    The last window holds what is left, at least one token that no window before it has. An item of up to a block is
    one window. With an overlap of 512 and blocks of 2,048 these are the windows that MMedLM was pretrained on.

    Args:
        lengths: (n,) tokens of each item, positive.
        block_size: tokens a window holds.
        overlap: tokens that two neighbouring windows share, less than `block_size`.

    Returns:
        (p,) array of `PIECE`, in the order of the items; `context` is how many of a piece's first tokens are repeated.
    """
    stride = block_size - overlap
    lengths = lengths.astype(np.int64)
    counts = 1 + np.maximum(0, -((block_size - lengths) // stride))
    pieces = np.empty(int(counts.sum()), dtype=PIECE)
    pieces["item"] = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces["start"] = number * stride
    pieces["length"] = np.minimum(block_size, lengths[pieces["item"]] - pieces["start"])
    pieces["context"] = np.where(number > 0, overlap, 0)
    return pieces


def pack(lengths: np.ndarray, block_size: int, overlap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pack items into blocks of at most `block_size` tokens.

    Items are cut as `cut` says; whole windows are blocks, and the rests are placed from the longest down, each in the
    fullest block that still has room (best fit decreasing, within 22 % of the fewest blocks possible and in practice
    within 1 % for text). Deterministic.

    Args:
        lengths: (n,) tokens of each item.
        block_size: tokens a block holds.
        overlap: tokens that neighbouring windows of an item share.

    Returns:
        pieces: (p,) array of `PIECE`, those of one block side by side, in the order of their items;
        offsets: (b + 1,) block i holds pieces offsets[i] to offsets[i + 1].

    Raises:
        ValueError: a length or the block size is not positive, or the overlap is not less than a block.
    """
    if block_size <= 0 or (len(lengths) and lengths.min() <= 0):
        raise ValueError("block_size and all lengths must be positive")
    if not 0 <= overlap < block_size:
        raise ValueError("the overlap must be less than a block")
    pieces = cut(lengths, block_size, overlap)
    is_rest = pieces["length"] < block_size
    rests = np.flatnonzero(is_rest)
    rests = rests[np.argsort(-pieces["length"][rests], kind="stable")]
    num_whole = len(pieces) - len(rests)
    block_of = np.empty(len(pieces), dtype=np.int64)
    block_of[~is_rest] = np.arange(num_whole)
    block_of[rests] = num_whole + _best_fit(pieces["length"][rests], block_size)
    offsets = np.zeros(int(block_of.max(initial=-1)) + 2, dtype=np.int64)
    np.cumsum(np.bincount(block_of, minlength=len(offsets) - 1), out=offsets[1:])
    return pieces[np.argsort(block_of, kind="stable")], offsets


def _best_fit(lengths: np.ndarray, block_size: int) -> np.ndarray:
    """The number of the block that each piece goes to; pieces are given from the longest down."""
    block_of = np.empty(len(lengths), dtype=np.int64)
    num_blocks = 0
    # Blocks with room, by the room they have: at most block_size different rooms, kept sorted.
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for piece, length in enumerate(lengths.tolist()):
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            block, room = num_blocks, block_size
            num_blocks += 1
        else:
            room = rooms[place]
            block = by_room[room].pop()
            if not by_room[room]:
                del by_room[room]
                rooms.pop(place)
        block_of[piece] = block
        room -= length
        if room:
            if room not in by_room:
                bisect.insort(rooms, room)
            by_room.setdefault(room, []).append(block)
    return block_of
