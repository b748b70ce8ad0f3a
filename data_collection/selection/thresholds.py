"""Thresholds of the medical filter: how many keywords, and what share of the text in them, a kept document has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from configs.errors import SettingsError
from configs.languages import language

# Between these lengths the least share falls with the square root of the length, as the scatter of a share does: two
# keywords in 100 characters are chance, the same share of 4,000 characters is not. Longer texts do not differ by
# chance any more, and a book on another subject must not come in for a few medical pages.
SHORT_TEXT, LONG_TEXT = 500, 4000


@dataclass(frozen=True)
class Thresholds:
    """When a document is medical.

    Attributes:
        min_keywords: MKC, the least number of different keywords.
        min_density: DENS, the least share of the characters that lie in keywords, of a text of up to 500 characters.
        falls_with_length: the least share of a longer text is smaller, `min_density * sqrt(500 / length)`, down to
            that of 4,000 characters. False for the published thresholds, which are the same for every length.
    """

    min_keywords: int
    min_density: float
    falls_with_length: bool = True

    @classmethod
    def of(cls, lang: str, choice: Literal["default", "paper"] = "default") -> Thresholds:
        """The thresholds of a language: our own ("default") or those published with MMedC ("paper").

        Raises:
            SettingsError: no such language, or no published thresholds for it.
        """
        row = language(lang)
        if choice == "paper":
            if row.paper_min_keywords is None or row.paper_min_density is None:
                raise SettingsError(
                    f"MMedC published no thresholds for {row.name}",
                    where="configs/languages.py",
                    todo="leave --thresholds at its default, or give --min_keywords and --min_density",
                )
            return cls(row.paper_min_keywords, row.paper_min_density, falls_with_length=False)
        return cls(row.min_keywords, row.min_density)

    def least_density(self, num_characters: Any) -> np.ndarray:
        """The least share of keyword characters, 0 to 1, for texts of these lengths in characters (any shape)."""
        lengths = np.asarray(num_characters, dtype=np.float64)
        return (
            np.full(lengths.shape, self.min_density) if not self.falls_with_length else self.min_density / gain(lengths)
        )

    def enough_keywords(self, num_keywords: Any) -> np.ndarray:
        """Which of these numbers of different keywords reach MKC (bool, same shape)."""
        return np.asarray(num_keywords) >= self.min_keywords

    def dense_enough(self, density: Any, num_characters: Any) -> np.ndarray:
        """Which of these shares reach DENS at these lengths (bool, same shape)."""
        return np.asarray(density) >= self.least_density(num_characters)

    def keep(self, num_keywords: Any, density: Any, num_characters: Any) -> np.ndarray:
        """Which documents are kept (bool, same shape): more keywords or a larger share never turn a kept one away."""
        return self.enough_keywords(num_keywords) & self.dense_enough(density, num_characters)


def gain(num_characters: Any) -> np.ndarray:
    """By what the share of a text of this length is multiplied to compare it with one of 500 characters, 1 to 2.83."""
    return np.sqrt(np.clip(np.asarray(num_characters, dtype=np.float64), SHORT_TEXT, LONG_TEXT) / SHORT_TEXT)
