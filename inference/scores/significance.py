"""How far a score may be trusted: bootstrap intervals, and the paired difference of two models."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

NUM_RESAMPLES, SEED, CONFIDENCE = 1000, 20240927, 0.95
DEFINITION = (
    f"percentile bootstrap over questions, {CONFIDENCE:.0%}, {NUM_RESAMPLES:,} resamples, seed {SEED}; of an average, "
    "each language resampled by itself"
)


def resampled_means(values: np.ndarray, name: str) -> np.ndarray:
    """Means of bootstrap resamples (Efron 1979).

    Args:
        values: (questions, scores); rows in an order of their own, for a draw names rows by place.
        name: what is resampled: draws differ between groups and agree between runs.

    Returns:
        (NUM_RESAMPLES, scores)
    """
    draw = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    size = len(values)
    means = np.empty((NUM_RESAMPLES, values.shape[1]))
    for resample in range(NUM_RESAMPLES):
        times = np.bincount(draw.integers(size, size=size), minlength=size)
        means[resample] = times @ values / size
    return means


def interval(means: np.ndarray) -> tuple[float, float]:
    """The middle CONFIDENCE of resampled means, (NUM_RESAMPLES,): low and high end."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar_exact(num_first_only: int, num_second_only: int) -> float:
    """Two-sided exact p value of McNemar's test (1947): of the questions that one model alone answered right, as
    uneven a split between the two as this one or more, were each a fair coin."""
    num, fewer = num_first_only + num_second_only, min(num_first_only, num_second_only)
    ways = term = 1
    for k in range(fewer):
        term = term * (num - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / 2**num)


def paired_bootstrap(groups: Sequence[tuple[str, np.ndarray]]) -> tuple[float, float, float]:
    """The mean difference of two models on the same questions, and its interval.

    Args:
        groups: name and differences (questions,) of each language, none empty; every language counts the same.

    Returns:
        Difference, low end, high end.
    """
    resampled = [resampled_means(differences[:, None], name)[:, 0] for name, differences in groups]
    means = [float(differences.mean()) for _, differences in groups]
    return sum(means) / len(means), *interval(np.mean(resampled, axis=0))
