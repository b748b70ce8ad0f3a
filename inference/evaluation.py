"""The work of eval.py: a model and questions to predictions, and predictions to scores, table and plots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import Journal, fingerprint, read_json
from configs.progress import Progress, log
from data_collection.questions.answers import parse_answer
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.examples import find_benchmark
from finetune.generation import Generation, generate
from finetune.prompts import KINDS, Kind, check_prompt, prompt_record, render_prompt
from inference import scoring
from inference.score_files import write_all
from pretrain.models import base_of, find_model, is_adapter, load_model, load_tokenizer, model_identity
from pretrain.training import native_bf16


def evaluate(settings: Any) -> int:
    """Ask, parse, score; returns the exit code (5 when some questions could not be read)."""
    model_path, run = _model_and_its_run(settings.model_name_or_path)
    data = find_benchmark(settings.data or (Path(run["data"]) if run.get("data") else None))
    label = settings.label or {"LoRA": "fine-tuned (LoRA)", "full": "fine-tuned"}.get(
        run.get("method", ""), "zero-shot"
    )
    check_prompt(Path(model_path))
    failed = FailedItems()
    questions = read_test(data, settings.languages, settings.max_questions_per_language, failed)
    identity = {
        "model": [model_identity(model_path), model_identity(base_of(model_path))],
        "questions": fingerprint([[q.id, q.question, q.options, q.answers, q.rationale] for q in questions]),
        "prompt": prompt_record(),
        "label": label,
        **{n: getattr(settings, n) for n in ("max_new_tokens", "max_new_tokens_answer_only", "repetition_penalty")},
    }
    name = f"{Path(model_path).name}-{fingerprint(identity)[:8]}"
    output_dir = settings.output_dir or records.RUNS / "eval" / name
    log.info(f"model {model_path} ({label}), {len(questions):,} questions of {data}, output {output_dir}")
    done = records.already_done(output_dir, identity)
    if done:
        log.info(f"already done: {output_dir}")
        print(output_dir / "table.md")
        return records.exit_code(done)
    described = {**asdict(settings), "data": str(data), "model_name_or_path": model_path, "label": label}
    with records.run_record(output_dir, "eval", described, identity) as record:
        ask(model_path, questions, settings, output_dir / "predictions.jsonl")
        scores = write_scores(output_dir, label, caption(settings, len(questions)), failed)
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
    path = Path(model_path) / "run.json"
    record = read_json(path) if path.is_file() else {}
    return model_path, record.get("result", {}) if record.get("stage") == "finetune" else {}


def read_test(data: Path, languages: list[str] | None, limit: int | None, failed: FailedItems) -> list[Question]:
    """The test questions; of each language the `limit` with the smallest content hashes, in the file's order."""
    questions: list[Question] = []
    for path in find_files(data, "Test", languages).values():
        of_language = list(read_questions(path, "Test", failed))
        chosen = {q.id for q in sorted(of_language, key=lambda q: (q.content_hash, q.id))[:limit]}
        questions += [question for question in of_language if question.id in chosen]
    if not questions:
        raise MissingInputError("there is no usable test question", where=data, todo="see the failures listed above")
    return questions


def ask(model_path: str, questions: list[Question], settings: Any, path: Path) -> None:
    """Answer every question in every kind; answers that the journal at `path` has are not asked again."""
    journal = Journal(path)
    answered = {(row["kind"], row["id"]) for row in journal.rows}
    tokenizer = load_tokenizer(model_path)
    model = None
    for kind in KINDS:
        skip = frozenset(i for i, question in enumerate(questions) if (kind, question.id) in answered)
        if len(skip) == len(questions):
            continue
        model = model or model_to_ask(model_path)
        limits = {"with_rationale": settings.max_new_tokens, "answer_only": settings.max_new_tokens_answer_only}
        progress = Progress(f"ask ({kind.replace('_', ' ')})", len(questions), "questions", done=len(skip))
        prompts = [render_prompt(question, kind) for question in questions]
        penalty = settings.repetition_penalty if kind == "with_rationale" else 1.0
        limit = limits[kind]

        def on_token(num_new_tokens: int, progress: Progress = progress, limit: int = limit) -> None:
            progress.advance(0, f"batch at token {num_new_tokens} of at most {limit}")

        for batch in generate(model, tokenizer, prompts, limit, settings.batch_size, skip, penalty, on_token):
            rows = [prediction(questions[answer.index], kind, answer) for answer in batch if answer.index not in skip]
            journal.append(rows)
            progress.advance(len(rows))
        progress.close()
    journal.close()


def model_to_ask(model_path: str) -> Any:
    """The model ready to generate, in bfloat16 where the device has it; an adapter is merged into its base."""
    model = load_model(model_path, torch.bfloat16 if native_bf16() else torch.float32)
    if is_adapter(model_path):
        model = model.merge_and_unload()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def prediction(question: Question, kind: Kind, answer: Generation) -> dict[str, Any]:
    """One row of predictions.jsonl: all that scoring needs, and what a person wants to see."""
    parsed = parse_answer(answer.text, question.options)
    return {
        "id": question.id,
        "lang": question.lang,
        "kind": kind,
        "prompt": prompt_record(),
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
    }


def caption(settings: Any, num_questions: int) -> str:
    """The conditions of a table in one line."""
    penalty = settings.repetition_penalty
    return (
        f"{num_questions} test questions; greedy, at most {settings.max_new_tokens} new tokens with rationale and "
        f"{settings.max_new_tokens_answer_only} without, no answer forced"
        + (f"; repetition penalty {penalty:g} in rationales" if penalty != 1 else "")
    )


def write_scores(output_dir: Path, label: str, text: str, failed: FailedItems) -> dict[str, Any]:
    """Score predictions.jsonl of a folder and write scores.json, tables and plots beside it."""
    rows = scoring.read_predictions(output_dir / "predictions.jsonl", failed)
    labelled = [(label, scoring.score(rows))]
    write_all(labelled, output_dir, text)
    return labelled[0][1]
