"""How a question can be asked, and how the setting of a score is named. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from finetune.prompts import KINDS, PromptKind

AskedKind = Literal["with_rationale", "answer_only", "letter_likelihood", "text_likelihood"]
MMEDBENCH = "mmedbench"  # its name among the published sets
LIKELIHOOD_KINDS: tuple[AskedKind, ...] = ("letter_likelihood", "text_likelihood")
# The prompt that each is asked with.
PROMPT_OF: dict[str, PromptKind] = {
    "with_rationale": "with_rationale",
    "answer_only": "answer_only",
    "letter_likelihood": "answer_only",
    "text_likelihood": "cloze",
}
# Of one pass over the options' texts come two answers: by log-likelihood, and by log-likelihood a character.
ANSWERS_OF: dict[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in (*KINDS, "letter_likelihood")},
    "text_likelihood": ("text_likelihood", "text_likelihood_normalised"),
}
SCORED_KINDS: tuple[str, ...] = tuple(kind for kinds in ANSWERS_OF.values() for kind in kinds)
CHOOSES_ONE = frozenset(kind for asked in LIKELIHOOD_KINDS for kind in ANSWERS_OF[asked])
DEFINITIONS = {
    "letter_likelihood": "the option whose letter has the highest log-likelihood after the prompt of answer_only",
    "text_likelihood": "the option whose text has the highest log-likelihood after the question alone, options not "
    "shown; _normalised: the highest log-likelihood divided by the text's number of characters",
    "likelihood and several right answers": "one option is chosen, so a question with several right answers is never "
    "right; it stays in the denominator, and accuracy_single_answer is over the others. The chance level is then "
    "1/options for a question with one right answer and 0 for the others",
}


def adaptation(method: str, num_fewshot: int) -> str:
    """What was done to the model before it was asked.

    Args:
        method: of the run that fine-tuned it: LoRA, full, or "".
        num_fewshot: examples in the prompt.
    """
    tuned = {"LoRA": "fine-tuned (LoRA)", "full": "fine-tuned"}.get(method)
    return tuned or ("few-shot" if num_fewshot else "zero-shot")


def setting_name(label: str, kind: str, setting: Mapping[str, Any] | None = None) -> str:
    """How a run and a setting are named together: "base, answer only, 3-shot, chat template"."""
    return f"{label}, {describe(kind, setting, label)}"


def describe(kind: str, setting: Mapping[str, Any] | None, label: str) -> str:
    """The setting in words.

    Args:
        setting: as predictions hold it (`adaptation`, `num_fewshot`, `prompt_style`, `shuffled`); None in files that
            say nothing of it.
        label: of the run; what it says is not said again.
    """
    parts = [kind.replace("_", " ")]
    if setting:
        shots, style = f"{setting['num_fewshot']}-shot", setting["prompt_style"]
        named = [] if setting["adaptation"] == "few-shot" else [setting["adaptation"]]
        named += [shots] if setting["num_fewshot"] else []
        named += [] if style == "plain" else ["chat template" if style == "chat" else f"{style} prompt"]
        named += ["options shuffled"] if setting["shuffled"] else []
        parts += [name for name in named if name not in label]
    return ", ".join(parts)
