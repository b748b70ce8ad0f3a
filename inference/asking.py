"""Asking every question in every kind, and the journal that each answer goes into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import EnvironmentFailure, SettingsError
from configs.files import Journal
from configs.locks import hold
from configs.progress import Progress, log
from data_collection.questions.answers import parse_answer
from data_collection.questions.question import Question
from data_collection.questions.source_sets import source_set
from finetune.generation import Generation
from finetune.prompts import prompt_record
from inference.engines import Asking, Engine, Examples, LocalEngine
from inference.kinds import ANSWERS_OF, LIKELIHOOD_KINDS, MMEDBENCH, PROMPT_OF
from inference.likelihood import OptionScores
from inference.orders import original_answer, shuffle_options


@dataclass(frozen=True)
class Item:
    """A question as it is shown: in the order of its file, or shuffled."""

    question: Question
    order: int | None = None
    original_letters: str = ""


def ask(
    engine: Engine, questions: list[Question], settings: Any, path: Path, setting: dict[str, Any], examples: Examples
) -> None:
    """Answer every question in every kind; answers that the journal at `path` has are not asked again.

    Args:
        setting: what every row says of how it was asked (`kinds.setting_name`).
        examples: language code to the examples of a few-shot prompt.

    Raises:
        EnvironmentFailure: a server left questions unanswered; all others were asked first, in all kinds.
        SettingsError: another command is writing this journal, or every question is too long for the model.
    """
    with hold(path), closing(engine), closing(Journal(path)) as journal:
        _ask_into(journal, engine, questions, settings, setting, examples)


def _ask_into(
    journal: Journal,
    engine: Engine,
    questions: list[Question],
    settings: Any,
    setting: dict[str, Any],
    examples: Examples,
) -> None:
    engine.spent += sum(row.get("cost", 0.0) for row in journal.rows)  # the budget outlives kills
    answered = {(row["kind"], row["id"], row.get("order")) for row in journal.rows}
    several_possible = None if settings.benchmark == MMEDBENCH else source_set(settings.benchmark).several_possible
    unanswered: EnvironmentFailure | None = None
    shown = {kind: _readable(engine, shown_items(questions, settings, kind), kind, examples) for kind in settings.kinds}

    def write(kind: str, answers: Iterable[tuple[Item, Generation | OptionScores]]) -> None:
        rows = [
            {**row, "several_possible": several_possible}
            for item, answer in answers
            for row in predictions(item, kind, engine, answer, setting)
        ]
        journal.append([row for row in rows if (row["kind"], row["id"], row.get("order")) not in answered])

    for kind, (items, of_unreadable) in shown.items():
        write(kind, of_unreadable)
        keys = [[(answer, item.question.id, item.order) for answer in ANSWERS_OF[kind]] for item in items]
        skip = frozenset(i for i, of_item in enumerate(keys) if answered.issuperset(of_item))
        if len(skip) == len(items):
            continue
        progress = Progress(f"ask ({kind.replace('_', ' ')})", len(items), "questions", done=len(skip))

        def on_answers(
            answers: Sequence[Generation | OptionScores],
            kind: str = kind,
            items: list[Item] = items,
            progress: Progress = progress,
        ) -> None:
            write(kind, ((items[answer.index], answer) for answer in answers))
            progress.advance(len(answers))

        try:
            _ask_kind(engine, [item.question for item in items], kind, settings, examples, skip, on_answers, progress)
        except EnvironmentFailure as error:
            unanswered = error
        progress.close()
    if unanswered:
        raise unanswered


def _readable(
    engine: Engine, items: list[Item], kind: str, examples: Examples
) -> tuple[list[Item], list[tuple[Item, Generation]]]:
    """What the model can read in a kind, and the rest with the answers that stand for theirs.

    Raises:
        SettingsError: it can read none.
    """
    answers = engine.unreadable([item.question for item in items], kind, examples)
    if answers and len(answers) == len(items):
        raise SettingsError(
            "all prompts are longer than the model can read",
            where=f"{engine.name}, {kind}",
            found=answers[0].error,
            todo="fewer --num_fewshot, or a model that reads more",
        )
    if answers:
        log.warning(
            f"{len(answers):,} of {len(items):,} prompts ({kind}) are longer than the model can read, the first of "
            f"{answers[0].error}: they count as not answered and are listed in failures.jsonl"
        )
    indices = {answer.index for answer in answers}
    rest = [item for index, item in enumerate(items) if index not in indices]
    return rest, [(items[answer.index], answer) for answer in answers]


def shown_items(questions: Sequence[Question], settings: Any, kind: str) -> list[Item]:
    """The questions as a kind shows them; where the options are not shown, their order says nothing."""
    if not settings.shuffle_options or kind == "text_likelihood":
        return [Item(question) for question in questions]
    orders = range(settings.shuffle_options)
    shown = [(order, *shuffle_options(q, settings.shuffle_seed, order)) for order in orders for q in questions]
    return [Item(question, order, letters) for order, question, letters in shown]


def _ask_kind(
    engine: Engine,
    questions: list[Question],
    kind: str,
    settings: Any,
    examples: Examples,
    skip: frozenset[int],
    on_answers: Callable[[Sequence[Any]], None],
    progress: Progress,
) -> None:
    if kind in LIKELIHOOD_KINDS:
        assert isinstance(engine, LocalEngine)  # the settings' own check
        engine.score_options(questions, PROMPT_OF[kind], examples, skip, on_answers)
        return
    with_rationale = kind == "with_rationale"
    limit = settings.max_new_tokens if with_rationale else settings.max_new_tokens_answer_only
    penalty = settings.repetition_penalty if with_rationale else 1.0

    def on_token(num_new_tokens: int) -> None:
        progress.advance(0, f"batch at token {num_new_tokens} of at most {limit}")

    engine.ask(questions, Asking(kind, limit, penalty, examples), skip, on_answers, on_token)


def predictions(
    item: Item, kind: str, engine: Engine, answer: Generation | OptionScores, setting: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl of one question: all that scoring needs, and what a person wants to see."""
    question = item.question
    common = {
        "id": question.id,
        "lang": question.lang,
        "prompt": prompt_record(engine.style, [question.lang]),
        "setting": {**setting, "shuffled": item.order is not None},
        "question": question.question,
        "options": question.options,
        "gold": list(question.answers),
        "rationale": question.rationale,
        "human_checked": question.human_checked,
        "human_check_passed": question.human_check_passed,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "seconds": round(answer.seconds, 4),
    }
    if item.order is not None:
        common |= {"order": item.order, "original_letters": item.original_letters}
    if isinstance(answer, OptionScores):
        outputs = {name: answer.choose(question.options if "normalised" in name else None) for name in ANSWERS_OF[kind]}
        own = {"log_likelihoods": answer.log_likelihoods, "num_option_tokens": answer.num_option_tokens}
    else:
        outputs = dict.fromkeys(ANSWERS_OF[kind], answer.text)
        own = {"num_new_tokens": answer.num_new_tokens, "hit_limit": answer.hit_limit, "error": answer.error}
        own |= {"cost": answer.cost} if answer.cost else {}
    rows = []
    for name, output in outputs.items():
        parsed = parse_answer(output, question.options)
        row = {**common, "kind": name, "output": output, "parsed": list(parsed) if parsed else None, **own}
        if item.order is not None:
            row["parsed_original"] = original_answer(row, parsed)
        rows.append(row)
    return rows
