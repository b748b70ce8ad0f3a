"""The filter's thresholds: worked bounds, monotony, the table's and the published ones."""

import numpy as np
import pytest

from configs.errors import SettingsError
from configs.languages import LANGUAGES
from data_collection.selection.thresholds import Thresholds


def test_the_least_share_falls_with_the_square_root_of_the_length_between_500_and_4000():
    lengths = [1, 500, 2000, 4000, 1_000_000]
    assert Thresholds(3, 0.1).least_density(lengths) == pytest.approx([0.1, 0.1, 0.05, 0.1 / 8**0.5, 0.1 / 8**0.5])
    assert Thresholds(3, 0.1, falls_with_length=False).least_density(lengths) == pytest.approx([0.1] * 5)


def test_worked_decisions():
    thresholds = Thresholds(3, 0.1)
    kept = thresholds.keep([3, 2, 3, 3, 9], [0.1, 0.9, 0.0999, 0.05, 0.05], [100, 100, 100, 2000, 1900])
    assert kept.tolist() == [True, False, False, True, False]
    assert thresholds.enough_keywords([2, 3]).tolist() == [False, True]
    assert thresholds.dense_enough([0.05, 0.05], [1000, 2000]).tolist() == [False, True]
    assert Thresholds(0, 0.0).keep(0, 0.0, 0)


def test_more_keywords_a_larger_share_or_a_longer_text_turns_no_kept_document_away():
    draw = np.random.default_rng(0)
    keywords, share, length = draw.integers(0, 8, 5000), draw.random(5000) / 4, draw.integers(1, 9000, 5000)
    thresholds = Thresholds(3, 0.1)
    kept = thresholds.keep(keywords, share, length)
    assert 0 < kept.sum() < 5000
    for more in ((keywords + 1, share, length), (keywords, share + 0.01, length), (keywords, share, length + 100)):
        assert (thresholds.keep(*more) >= kept).all()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_has_thresholds_and_the_published_six_keep_theirs(lang):
    own = Thresholds.of(lang)
    assert own.min_keywords >= 1 and 0 < own.min_density < 1 and own.falls_with_length
    published = {"en": (5, 0.04), "zh": (5, 0.05), "ja": (5, 0.05), "fr": (4, 0.04), "ru": (4, 0.02), "es": (4, 0.04)}
    if lang in published:
        assert Thresholds.of(lang, "paper") == Thresholds(*published[lang], falls_with_length=False)
    else:
        with pytest.raises(SettingsError, match="no thresholds"):
            Thresholds.of(lang, "paper")
