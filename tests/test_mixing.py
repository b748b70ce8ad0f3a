"""The mixture of training documents: worked numbers, properties, and a choice of documents that is even and fixed."""

import numpy as np
import pytest

from configs.errors import SettingsError
from pretrain.token_blocks.mixing import Mixture, copies, read_pairs

SOURCES = ["medical", "books", "general"]
TOKENS = np.array([[800.0, 100.0], [100.0, 0.0], [50.0, 450.0]])  # sources by languages


def test_without_wishes_every_document_is_seen_once():
    assert Mixture({}, {}).passes(TOKENS, SOURCES).tolist() == [[1, 1], [1, 1], [1, 1]]


def test_epochs_and_shares_of_a_worked_example():
    passes = Mixture({"books": 3}, {"general": 0.2}).passes(TOKENS, SOURCES)
    assert passes[:2].tolist() == [[1, 1], [3, 3]]
    # 900 + 300 tokens are four fifths, so general text gives 300 of its 500.
    assert passes[2] == pytest.approx([0.6, 0.6])
    seen = (TOKENS * passes).sum(1)
    assert seen[2] / seen.sum() == pytest.approx(0.2)


def test_temperature_of_a_worked_example():
    # 900 and 100 tokens: at T = 2 in proportion 3 to 1, and 1,000 as before.
    tokens = np.array([[900.0, 100.0, 0.0]])
    passes = Mixture({}, {}, language_temperature=2).passes(tokens, ["all"])
    assert (tokens * passes)[0] == pytest.approx([750, 250, 0], abs=0.01)


@pytest.mark.parametrize("seed", range(30))
def test_shares_and_temperature_hold_together(seed):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 10**9, size=(4, 5)).astype(float)
    temperature = float(draw.uniform(0.5, 20))
    passes = Mixture({"a": 2}, {"c": 0.3, "d": 0.1}, temperature).passes(tokens, list("abcd"))
    seen = tokens * passes
    assert seen.sum(1)[2:] / seen.sum() == pytest.approx([0.3, 0.1], rel=1e-4)
    before = tokens[:2] * [[2], [1]]
    assert seen[:2].sum() == pytest.approx(before.sum(), rel=1e-4)
    by_language = seen[:2].sum(0)
    flattened = before.sum(0) ** (1 / temperature)
    assert by_language / by_language.sum() == pytest.approx(flattened / flattened.sum(), rel=1e-4)
    assert passes[0] == pytest.approx(2 * passes[1], abs=1e-5)


def test_a_share_of_nothing_and_unknown_sources_are_refused():
    with pytest.raises(SettingsError, match="beside the sources that have shares"):
        Mixture({"medical": 0, "books": 0}, {"general": 0.5}).passes(TOKENS, SOURCES)
    with pytest.raises(SettingsError) as refused:
        Mixture({"book": 2}, {"web": 0.5}).passes(TOKENS, SOURCES)
    assert refused.value.found == "'book', 'web'" and "'books'" in refused.value.wanted


def test_pairs_of_settings():
    assert read_pairs(["a=2", "b c=0.5", "d=e=1"], "x") == ({"a": 2, "b c": 0.5, "d=e": 1}, [])
    assert len(read_pairs(["a", "b=", "c=x", "d=-1", "e=nan", "f=inf"], "x")[1]) == 6


@pytest.mark.parametrize("passes", [0.0, 0.25, 1.0, 2.75])
def test_copies_are_even_whatever_documents_are_held_out(passes):
    hashes = np.random.default_rng(0).integers(0, 2**64, size=20_000, dtype=np.uint64)
    hashes = hashes[hashes > np.uint64(2**64 // 5)]  # the smallest are validation's
    found = copies(hashes, np.full(len(hashes), passes))
    assert set(found.tolist()) <= {int(passes), int(passes) + (passes % 1 > 0)}
    assert found.mean() == pytest.approx(passes, abs=0.02)
    assert np.array_equal(copies(hashes[::-1], np.full(len(hashes), passes)), found[::-1]), "by the hash alone"
