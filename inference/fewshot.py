"""Examples of a few-shot prompt: drawn from the training split, none of them a test question."""

from __future__ import annotations

import random
from collections.abc import Sequence

from configs.errors import MissingInputError
from data_collection.overlaps.contamination import TestQuestions, question_text
from data_collection.questions.question import Question


def draw_examples(
    train: Sequence[Question], test: Sequence[Question], num_fewshot: int, seed: int
) -> dict[str, list[Question]]:
    """Language code to its examples, the same for all of its questions, in the order in which they are shown.

    Only questions with an answer and a rationale are drawn, so that every kind of prompt shows the same ones. Those
    that hold a test question (`contamination`'s rules) or share one's content are passed over.

    Args:
        train: questions to draw from.
        test: all questions of the test split, asked or not; examples are drawn for their languages.
        num_fewshot: examples a language.
        seed: of the draw, with the language.

    Raises:
        MissingInputError: a language has fewer usable training questions.
    """
    hashes = {question.content_hash for question in test}  # of questions that are not to be shown
    held = TestQuestions(test)
    examples: dict[str, list[Question]] = {}
    for lang in dict.fromkeys(question.lang for question in test):
        usable = [q for q in train if q.lang == lang and q.answers and q.rationale]
        random.Random(f"{seed} {lang}").shuffle(usable)  # noqa: S311 - no secret
        chosen: list[Question] = []
        while usable and len(chosen) < num_fewshot:
            question = usable.pop()
            if question.content_hash not in hashes and not held.find([question_text(question)])[0]:
                chosen.append(question)
                hashes.add(question.content_hash)  # no question twice in one prompt
        if len(chosen) < num_fewshot:
            raise MissingInputError(
                "there are not enough training questions to show as examples",
                where=f"language {lang}",
                found=f"{len(chosen)} with an answer and a rationale that are no test question",
                wanted=f"{num_fewshot} (--num_fewshot)",
                todo="a training split of this language in --data, --languages without it, or fewer examples",
            )
        examples[lang] = chosen
    return examples
