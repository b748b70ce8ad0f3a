"""How often each document is seen in training: passes over sources, shares of sources, a temperature over languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.errors import SettingsError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: multiplied by it, near numbers go far apart


def read_pairs(words: Sequence[str], name: str) -> tuple[dict[str, float], list[str]]:
    """Settings such as `textbooks=2 general=0.5` as a dictionary, and what is wrong with them."""
    values: dict[str, float] = {}
    problems = []
    for word in words:
        label, equals, text = word.rpartition("=")
        try:
            number = float(text) if equals else -1.0
        except ValueError:
            number = -1.0
        if 0 <= number < float("inf"):
            values[label] = number
        else:
            problems.append(f"{name} wants SOURCE=NUMBER with a number of 0 or more, found {word!r}")
    return values, problems


@dataclass(frozen=True)
class Mixture:
    """What a user asks of the mixture of training documents; the validation documents are left as they are.

    Attributes:
        epochs: source to passes over it; 1 where not named.
        shares: source to its share of the training tokens, reached by repeating or thinning it.
        language_temperature: T; languages get shares in proportion to (their tokens) ^ (1 / T).
    """

    epochs: dict[str, float]
    shares: dict[str, float]
    language_temperature: float = 1.0

    def problems(self) -> list[str]:
        """What is wrong with the values, before any document is known."""
        found = [f"both epochs and shares name {name!r}" for name in self.epochs if name in self.shares]
        if sum(self.shares.values()) >= 1:
            found.append(
                f"shares sum to {sum(self.shares.values()):g}: wanted less than 1, the rest is what is not named"
            )
        if not 0 < self.language_temperature < float("inf"):
            found.append(f"language_temperature {self.language_temperature:g}: wanted a number above 0")
        return found

    def passes(self, tokens: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        """How often each source's documents of each language are seen.

        Sources with a share stand apart. Among the others each language's tokens, n_l after `epochs`, become
        N n_l^(1/T) / sum of n_k^(1/T), where N is the sum of all n_l: the total stays, small languages grow
        (temperature sampling; Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the
        Wild"). Then the sources with shares are repeated or thinned until they have them.

        Args:
            tokens: (S, L) training tokens of each source and language, each document once.
            sources: the S names.

        Returns:
            (S, L) passes; 1.5 means all documents once and every second one again.

        Raises:
            SettingsError: a named source is not there, or there is nothing that a share could be a part of.
        """
        unknown = [name for name in (*self.epochs, *self.shares) if name not in sources]
        if unknown:
            raise SettingsError(
                "no document comes from a source that the settings name",
                where="epochs and shares",
                found=", ".join(map(repr, unknown)),
                wanted="one of " + ", ".join(map(repr, sorted(sources)[:50])),
                todo="correct the name, or name a folder by --input NAME=FOLDER; without OUTPUT_DIR/run.json the "
                "command goes on with the shards that are tokenized",
            )
        passes = np.repeat([[self.epochs.get(name, 1.0)] for name in sources], tokens.shape[1], axis=1)
        shared = np.array([name in self.shares for name in sources])
        by_language = (tokens * passes)[~shared].sum(0)
        if total := by_language.sum():
            wanted = (by_language / by_language.max()) ** (1 / self.language_temperature)
            growth = np.divide(wanted * total / wanted.sum(), by_language, out=np.ones_like(wanted), where=wanted > 0)
            passes[~shared] *= growth
        elif self.shares:
            raise SettingsError(
                "there is nothing beside the sources that have shares",
                where="shares",
                found=", ".join(map(repr, self.shares)),
                todo="leave the largest source out of shares: the others' are reckoned from it",
            )
        for number, name in enumerate(sources):
            if shared[number]:
                part = self.shares[name] / (1 - sum(self.shares.values()))
                passes[number] = part * total / max(1, tokens[number].sum())
        return np.round(passes, 6)  # of 1.0000000000000002 passes no document should come twice


def copies(hashes: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """How often each document is packed: the whole passes, and one more for a share of documents chosen by hash.

    Args:
        hashes: (n,) uint64, the documents' hashes.
        passes: (n,) passes asked for.

    Returns:
        (n,) int64.
    """
    # Not the hash itself: the smallest ones are held out for validation, and are not here.
    scattered = (hashes * _GOLDEN >> np.uint64(11)).astype(np.float64) / 2.0**53
    whole = np.floor(passes)
    return (whole + (scattered < passes - whole)).astype(np.int64)
