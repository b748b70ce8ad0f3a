"""One multiple-choice question, held strictly whatever file it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.files import fingerprint

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Question:
    """A medical question with two to eight options and one or several right answers.

    Attributes:
        id: unique in its set.
        lang: language code.
        question: the text asked, without the options.
        options: letter to text, letters from A on without a gap.
        answers: letters of the right options, sorted; empty where the answer is withheld.
        rationale: the explanation, or "".
        human_checked, human_check_passed: whether people checked the rationale, and whether it passed.
        meta: all other fields of the source row.

    Raises:
        ValueError: a field breaks these rules; the message says which.
    """

    id: str
    lang: str
    question: str
    options: dict[str, str]
    answers: tuple[str, ...]
    rationale: str = ""
    human_checked: bool = False
    human_check_passed: bool = False
    meta: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        letters = tuple(self.options)
        if not 2 <= len(letters) <= len(LETTERS):
            raise ValueError(f"{len(letters)} options, wanted 2 to {len(LETTERS)}")
        if letters != tuple(LETTERS[: len(letters)]):
            raise ValueError(f"option letters {', '.join(letters)}, wanted {', '.join(LETTERS[: len(letters)])}")
        empty = [letter for letter, text in self.options.items() if not text.strip()]
        if empty:
            raise ValueError(f"option {', '.join(empty)} is empty")
        wrong = [letter for letter in self.answers if letter not in self.options]
        if wrong:
            raise ValueError(f"answer {', '.join(wrong)} is not among the options {', '.join(letters)}")
        if self.answers != tuple(sorted(set(self.answers))):
            raise ValueError(f"answers {self.answers} are not sorted or occur twice")

    @property
    def content_hash(self) -> str:
        """A hash of question and options: the same question has the same hash wherever it stands."""
        return fingerprint([self.lang, self.question.strip(), sorted(text.strip() for text in self.options.values())])


def is_correct(parsed: tuple[str, ...] | list[str] | None, gold: tuple[str, ...] | list[str]) -> bool:
    """Exact-set match: every right letter and no other (MMedBench, section "Evaluation Settings")."""
    return parsed is not None and len(gold) > 0 and set(parsed) == set(gold)


def chance_level(num_options: int, *, several_possible: bool) -> float:
    """Accuracy of drawing an answer blindly.

    Args:
        num_options: number of options.
        several_possible: the set asks for any non-empty subset (2^n - 1 of them), not for one letter.
    """
    return 1 / (2**num_options - 1) if several_possible else 1 / num_options
