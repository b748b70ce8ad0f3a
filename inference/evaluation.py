"""The work of eval.py: a model and questions to predictions, and predictions to scores, table and plots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import EnvironmentFailure, FailedItems, MissingInputError
from configs.files import Journal, fingerprint, read_json
from configs.languages import language
from configs.progress import Progress, log
from data_collection.questions.answers import parse_answer
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from data_collection.questions.source_sets import read_source_set, source_set
from data_collection.server_settings import ServerSettings
from finetune.examples import find_benchmark
from finetune.generation import Generation
from finetune.prompts import KINDS, Kind, beside, prompt_record
from inference import scoring
from inference.engines import Asking, Engine, LocalEngine, ServerEngine
from inference.score_files import write_all
from pretrain.models import find_model

MMEDBENCH = "mmedbench"


def evaluate(settings: Any, server_settings: ServerSettings) -> int:
    """Ask, parse, score; returns the exit code (5 when some questions could not be read)."""
    engine: Engine
    run: dict[str, Any] = {}
    if settings.engine == "server":
        engine = ServerEngine(server_settings)
    else:
        model_path, run = _model_and_its_run(settings.model_name_or_path)
        engine = LocalEngine(model_path, settings.batch_size, settings.prompt_style)
    label = settings.label or {"LoRA": "fine-tuned (LoRA)", "full": "fine-tuned"}.get(
        run.get("method", ""), "zero-shot"
    )
    data = settings.data
    if settings.benchmark == MMEDBENCH:
        data = find_benchmark(data or (Path(run["data"]) if run.get("data") else None))
    failed = FailedItems()
    questions = read_test(data, settings, failed)
    identity = {
        "model": engine.identity,
        "questions": fingerprint([[q.id, q.question, q.options, q.answers, q.rationale] for q in questions]),
        "prompt": prompt_record(engine.style, {question.lang for question in questions}),
        "label": label,
        **{n: getattr(settings, n) for n in ("max_new_tokens", "max_new_tokens_answer_only", "repetition_penalty")},
    }
    name = f"{engine.short_name}-{fingerprint(identity)[:8]}"
    output_dir = settings.output_dir or records.RUNS / "eval" / name
    log.info(f"model {engine.name} ({label}), {len(questions):,} questions of {data}, output {output_dir}")
    done = records.already_done(output_dir, identity)
    if done:
        log.info(f"already done: {output_dir}")
        print(output_dir / "table.md")
        return records.exit_code(done)
    described = {**asdict(settings), "data": str(data), "model_name_or_path": engine.name, "label": label}
    if settings.engine == "server":
        described |= asdict(server_settings)
    with records.run_record(output_dir, "eval", described, identity) as record:
        ask(engine, questions, settings, output_dir / "predictions.jsonl")
        scores = write_scores(output_dir, label, settings, failed)
        failed.write(output_dir / "failures.jsonl")
        record.finish("finished", len(failed), label=label, num_questions=len(questions), average=scores.get("average"))
    print((output_dir / "table.md").read_text(encoding="utf-8"))
    return failed.exit_code


def _model_and_its_run(name_or_path: str | None) -> tuple[str, dict[str, Any]]:
    """The model to ask and the `result` of the fine-tuning run that made it ({} for any other model)."""
    newest = None if name_or_path else records.newest_finished("finetune")
    if not name_or_path and newest is None:
        raise MissingInputError(
            "there is no fine-tuned model to evaluate",
            where=records.RUNS,
            found="no finished run of finetune/train.py",
            wanted="a model or adapter",
            todo="python finetune/train.py --lora, or --model_name_or_path MODEL for any other model",
        )
    model_path = find_model(name_or_path or str(newest))
    path = beside(Path(model_path), "run.json")
    record = read_json(path) if path else {}
    return model_path, record.get("result", {}) if record.get("stage") in ("finetune", "merge") else {}


def read_test(data: Path, settings: Any, failed: FailedItems) -> list[Question]:
    """The questions to ask: MMedBench's test split, or those of another published set.

    Of each language `max_questions_per_language`, those with the smallest content hashes, in the files' order.
    """
    if settings.benchmark == MMEDBENCH:
        files = find_files(data, "Test", settings.languages).values()
        questions = [question for path in files for question in read_questions(path, "Test", failed)]
    else:
        questions = list(read_source_set(settings.benchmark, data, failed, settings.split))
        if settings.languages:
            codes = {language(name).code for name in settings.languages}
            questions = [question for question in questions if question.lang in codes]
    limit = settings.max_questions_per_language
    chosen: set[str] = set()
    for lang in {question.lang for question in questions}:
        of_language = [question for question in questions if question.lang == lang]
        chosen |= {q.id for q in sorted(of_language, key=lambda q: (q.content_hash, q.id))[:limit]}
    if not chosen:
        raise MissingInputError("there is no usable test question", where=data, todo="see the failures listed above")
    return [question for question in questions if question.id in chosen]


def ask(engine: Engine, questions: list[Question], settings: Any, path: Path) -> None:
    """Answer every question in every kind; answers that the journal at `path` has are not asked again.

    Raises:
        EnvironmentFailure: a server left questions unanswered; all others were asked first, in both kinds.
    """
    journal = Journal(path)
    answered = {(row["kind"], row["id"]) for row in journal.rows}
    limits = {"with_rationale": settings.max_new_tokens, "answer_only": settings.max_new_tokens_answer_only}
    several_possible = None if settings.benchmark == MMEDBENCH else source_set(settings.benchmark).several_possible
    unanswered: EnvironmentFailure | None = None
    for kind in KINDS:
        skip = frozenset(i for i, question in enumerate(questions) if (kind, question.id) in answered)
        if len(skip) == len(questions):
            continue
        progress = Progress(f"ask ({kind.replace('_', ' ')})", len(questions), "questions", done=len(skip))
        penalty = settings.repetition_penalty if kind == "with_rationale" else 1.0
        asking = Asking(kind, limits[kind], penalty)

        def on_answers(answers: list[Generation], asking: Asking = asking, progress: Progress = progress) -> None:
            rows = [prediction(questions[answer.index], asking.kind, engine, answer) for answer in answers]
            journal.append([{**row, "several_possible": several_possible} for row in rows])
            progress.advance(len(rows))

        def on_token(num_new_tokens: int, asking: Asking = asking, progress: Progress = progress) -> None:
            progress.advance(0, f"batch at token {num_new_tokens} of at most {asking.max_new_tokens}")

        try:
            engine.ask(questions, asking, skip, on_answers, on_token)
        except EnvironmentFailure as error:
            unanswered = error
        progress.close()
    journal.close()
    if unanswered:
        raise unanswered


def prediction(question: Question, kind: Kind, engine: Engine, answer: Generation) -> dict[str, Any]:
    """One row of predictions.jsonl: all that scoring needs, and what a person wants to see."""
    parsed = parse_answer(answer.text, question.options)
    return {
        "id": question.id,
        "lang": question.lang,
        "kind": kind,
        "prompt": prompt_record(engine.style, [question.lang]),
        "question": question.question,
        "options": question.options,
        "output": answer.text,
        "parsed": list(parsed) if parsed else None,
        "gold": list(question.answers),
        "rationale": question.rationale,
        "human_checked": question.human_checked,
        "human_check_passed": question.human_check_passed,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_new_tokens": answer.num_new_tokens,
        "hit_limit": answer.hit_limit,
        "seconds": round(answer.seconds, 4),
        "error": answer.error,
    }


def caption(settings: Any, num_questions: int) -> str:
    """The conditions of a table in one line."""
    penalty = settings.repetition_penalty
    of_set = "" if settings.benchmark == MMEDBENCH else f" of {settings.benchmark}"
    return (
        f"{num_questions} test questions{of_set}; greedy, at most {settings.max_new_tokens} new tokens with rationale "
        f"and {settings.max_new_tokens_answer_only} without, no answer forced"
        + (f"; repetition penalty {penalty:g} in rationales" if penalty != 1 else "")
    )


def write_scores(output_dir: Path, label: str, settings: Any, failed: FailedItems) -> dict[str, Any]:
    """Score predictions.jsonl of a folder and write scores.json, tables and plots beside it.

    Questions that a server refused to answer, which count as unparsed, are added to `failed`.
    """
    rows = scoring.read_predictions(output_dir / "predictions.jsonl", failed)
    for row in rows:
        if row.get("error"):
            failed.add(row["id"], f"{row['kind']}: {row['error']}")
    labelled = [(label, scoring.score(rows))]
    num_questions = len({row["id"] for row in rows})
    is_mmedbench = settings.benchmark == MMEDBENCH
    write_all(labelled, output_dir, caption(settings, num_questions), is_mmedbench=is_mmedbench)
    return labelled[0][1]
