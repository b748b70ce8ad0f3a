"""Best-fit packing: every token once and in order, nothing cut that fits, few blocks."""

import bisect
import itertools

import numpy as np
import pytest

from pretrain.token_blocks.packing import cut, pack


def blocks_of(pieces, offsets):
    """The blocks as lists of (item, start, length)."""
    return [[tuple(piece)[:3] for piece in pieces[a:b].tolist()] for a, b in itertools.pairwise(offsets)]


def num_blocks_by_hand(lengths, block_size):
    """Best fit decreasing as the textbook has it: from the longest down, each into the least room it fits in."""
    wholes, rests = sum(n // block_size for n in lengths), sorted((n % block_size for n in lengths), reverse=True)
    rooms = []
    for rest in filter(None, rests):
        place = bisect.bisect_left(rooms, rest)
        room = rooms.pop(place) if place < len(rooms) else block_size
        bisect.insort(rooms, room - rest)
    return wholes + len(rooms)


def test_a_worked_example():
    # 7 opens a block and 5 another; 4 goes to 5, 3 to 7 (full), 1 to 5 + 4 (full); 23 is two whole blocks and a rest.
    pieces, offsets = pack(np.array([3, 7, 1, 5, 4]), 10)
    assert blocks_of(pieces, offsets) == [[(0, 0, 3), (1, 0, 7)], [(2, 0, 1), (3, 0, 5), (4, 0, 4)]]
    pieces, offsets = pack(np.array([23, 10, 7]), 10)
    assert blocks_of(pieces, offsets) == [[(0, 0, 10)], [(0, 10, 10)], [(1, 0, 10)], [(0, 20, 3), (2, 0, 7)]]


@pytest.mark.parametrize("seed", range(150))
def test_every_token_once_and_in_order_in_blocks_that_are_not_overfull(seed):
    draw = np.random.default_rng(seed)
    block_size = int(draw.integers(1, 40))
    lengths = draw.integers(1, 3 * block_size + 2, size=draw.integers(1, 60))
    if seed % 2:
        lengths = np.minimum(lengths, block_size)
    pieces, offsets = pack(lengths, block_size)
    blocks = blocks_of(pieces, offsets)
    assert offsets[0] == 0 and offsets[-1] == len(pieces) and all(blocks)
    assert all(sum(length for _, _, length in block) <= block_size for block in blocks)
    assert all(block == sorted(block) for block in blocks)
    for item, length in enumerate(lengths.tolist()):
        own = sorted((start, n) for block in blocks for i, start, n in block if i == item)
        assert [start for start, _ in own] == [sum(n for _, n in own[:k]) for k in range(len(own))]
        assert sum(n for _, n in own) == length
        assert len(own) == -(-length // block_size), "cut more often than it must be"
    assert len(blocks) == num_blocks_by_hand(lengths.tolist(), block_size)
    again = pack(lengths, block_size)
    assert np.array_equal(again[0], pieces) and np.array_equal(again[1], offsets)


@pytest.mark.parametrize("seed", range(50))
def test_blocks_are_within_the_bound_of_the_fewest_possible(seed):
    """Whole blocks cut at random fit in as many blocks; best fit decreasing needs at most 11/9 of them and 6/9."""
    draw = np.random.default_rng(seed)
    block_size, fewest = 1000, int(draw.integers(1, 40))
    lengths = []
    for _ in range(fewest):
        cuts = np.unique(draw.integers(1, block_size, size=draw.integers(0, 8)))
        lengths += np.diff([0, *cuts, block_size]).tolist()
    _, offsets = pack(draw.permutation(lengths), block_size)
    assert fewest <= len(offsets) - 1 <= 11 / 9 * fewest + 6 / 9


def test_nothing_to_pack_and_wrong_lengths():
    pieces, offsets = pack(np.array([], dtype=np.int64), 8)
    assert len(pieces) == 0 and offsets.tolist() == [0]
    for lengths, block_size in (([3, 0], 8), ([-1], 8), ([3], 0), ([3], -8)):
        with pytest.raises(ValueError, match="positive"):
            pack(np.array(lengths), block_size)
    for overlap in (8, 9, -1):
        with pytest.raises(ValueError, match="overlap"):
            pack(np.array([3]), 8, overlap)


def test_windows_of_a_worked_example():
    # Stride 6: 0-10, 6-16 and 12-17 of 17 tokens; 16 tokens end with the second window; 10 are one.
    pieces = cut(np.array([17, 16, 10, 11]), 10, overlap=4)
    assert pieces.tolist() == [
        *[(0, 0, 10, 0), (0, 6, 10, 4), (0, 12, 5, 4)],
        *[(1, 0, 10, 0), (1, 6, 10, 4)],
        (2, 0, 10, 0),
        *[(3, 0, 10, 0), (3, 6, 5, 4)],
    ]


@pytest.mark.parametrize("seed", range(60))
def test_windows_hold_every_token_once_outside_their_context(seed):
    draw = np.random.default_rng(seed)
    block_size = int(draw.integers(2, 40))
    overlap = int(draw.integers(0, block_size))
    lengths = draw.integers(1, 5 * block_size, size=draw.integers(1, 40))
    pieces, offsets = pack(lengths, block_size, overlap)
    assert all(sum(n for _, _, n in block) <= block_size for block in blocks_of(pieces, offsets))
    new = [list(range(piece["start"] + piece["context"], piece["start"] + piece["length"])) for piece in pieces]
    for item, length in enumerate(lengths.tolist()):
        own = [token for i in np.flatnonzero(pieces["item"] == item) for token in new[i]]
        assert sorted(own) == list(range(length))
    assert all(new), "a window that brings no new token"
    assert (pieces["length"][pieces["context"] > 0] > overlap).all()
    assert np.array_equal(pieces["context"], np.where(pieces["start"] > 0, overlap, 0))
