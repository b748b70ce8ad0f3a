"""Mixtures: worked numbers of weights and priorities, and what is wrong with a setting."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.errors import FailedItems, MissingInputError, SettingsError
from data_collection.questions.question import Question
from finetune.conversations import Conversation
from finetune.mixtures import Source, mixing_order, parse_mixture, read_source

SAMPLE = Path(__file__).parents[1] / "assets" / "sample"


def mixed(counts, weights, priorities, seed=0):
    sources = [Source(Path(str(i)), *pair) for i, pair in enumerate(zip(weights, priorities, strict=True))]
    return mixing_order(counts, sources, seed)


def test_a_setting_is_read_with_its_defaults():
    mixture = {"a": {"weight": 2, "priority": 16}, "b": None, "c": {"priority": 0.5}}
    assert parse_mixture(mixture) == [Source(Path("a"), 2, 16), Source(Path("b"), 1, 1), Source(Path("c"), 1, 0.5)]


def test_all_that_is_wrong_with_a_setting_is_said_at_once():
    wrong = {
        "a": {"wieght": 1},
        "b": {"weight": 0},
        "c": {"weight": "much"},
        "d": {"priority": float("inf")},
        "e": 3,
        "f": {"priority": True},
        "g": {"weight": float("nan")},
    }
    with pytest.raises(SettingsError, match="unknown option 'wieght'; near: weight") as refused:
        parse_mixture(wrong)
    found = refused.value.found.split()
    assert [name for name in wrong if f"{name}:" in found] == list(wrong)
    with pytest.raises(SettingsError, match="no data set"):
        parse_mixture({})


def test_each_row_is_taught_as_often_as_its_weight_says():
    order = mixed([4, 10, 3], [2, 0.3, 2.5], [1, 1, 1])
    times = Counter(map(tuple, order.tolist()))
    assert [times[0, row] for row in range(4)] == [2, 2, 2, 2]
    taught = [times[1, row] for row in range(10)]
    assert sorted(taught) == [0] * 7 + [1] * 3 and taught != sorted(taught)
    assert sorted(times[2, row] for row in range(3)) in ([2, 2, 3], [2, 3, 3]) and len(order) == 8 + 3 + round(7.5)
    assert order.shape == (len(order), 2)
    assert (order == mixed([4, 10, 3], [2, 0.3, 2.5], [1, 1, 1])).all()
    assert not np.array_equal(order, mixed([4, 10, 3], [2, 0.3, 2.5], [1, 1, 1], seed=1))


def test_priorities_are_chances_among_the_rows_that_are_left():
    """Worked by hand: rows of priority 16, 2 and 2. The first is the 16 with chance 16/20; given a 2 came first, the
    second is the 16 with 16/18, so it stands in places 1, 2, 3 with 0.8, 0.2 * 16/18 and 0.2 * 2/18."""
    places = Counter()
    for seed in range(6_000):
        order = mixed([1, 2], [1, 1], [16, 2], seed)
        places[int(np.flatnonzero(order[:, 0] == 0)[0])] += 1
    wanted = [0.8, 0.2 * 16 / 18, 0.2 * 2 / 18]
    found = [places[place] / 6_000 for place in range(3)]
    assert found == pytest.approx(wanted, abs=4 * 0.5 / 6_000**0.5)


def test_apollos_mixture_begins_with_the_rewritten_corpora_and_ends_with_exams():
    """Each of n rows of priority 16 and n of 2: after a share of the pass, x of the first and x^(1/8) of the second are
    left (rates 16 and 2), so when half of all has been drawn x + x^(1/8) = 1: x = 0.188."""
    order = mixed([20_000, 20_000], [1, 1], [16, 2])
    left = (order[20_000:, 0] == 0).mean()
    assert left == pytest.approx(0.188, abs=0.01)
    equal = mixed([20_000, 20_000], [1, 1], [5, 5])
    assert (equal[20_000:, 0] == 0).mean() == pytest.approx(0.5, abs=0.015)


def test_sources_are_questions_or_conversations(tmp_path):
    failed = FailedItems()
    questions = read_source(Source(SAMPLE), ["fr", "ru"], failed)
    assert all(isinstance(row, Question) for row in questions) and {row.lang for row in questions} == {"fr", "ru"}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"messages": messages}) + "\n[]\n")
    rows = read_source(Source(tmp_path), None, failed)
    assert all(isinstance(row, Conversation) for row in rows)
    assert [row.id for row in rows] == [f"{tmp_path / name}:1" for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl")]
    assert len(failed) == 3
    assert read_source(Source(tmp_path / "a.jsonl"), None, failed)[0] == rows[0]
    with pytest.raises(MissingInputError, match="no conversations"):
        read_source(Source(tmp_path / "none"), None, failed)
