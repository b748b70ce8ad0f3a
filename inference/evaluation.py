"""The work of eval.py: a model and questions to predictions, and predictions to scores, table and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint, read_json
from configs.languages import language
from configs.progress import log
from data_collection.llm.server_settings import ServerSettings
from data_collection.questions.answers import without_thoughts
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from data_collection.questions.source_sets import read_source_set
from finetune.examples import find_benchmark
from finetune.prompts import KINDS, beside, prompt_record, render_prompt, taught_style
from finetune.styles import Style
from inference import scoring
from inference.asking import ask
from inference.engines import Engine, Examples, LocalEngine
from inference.fewshot import draw_examples
from inference.kinds import MMEDBENCH, PROMPT_OF, adaptation
from inference.scores.score_files import write_all
from inference.vllm_engine import VllmEngine
from pretrain.models import find_model, is_adapter


def evaluate(settings: Any, server_settings: ServerSettings) -> int:
    """Ask, parse, score; returns the exit code (5 when some questions could not be read)."""
    engine: Engine
    run: dict[str, Any] = {}
    extra_body = server_settings.extra_body
    if settings.engine == "server":
        from inference.server_engine import ServerEngine  # whose client a model of one's own does not need

        engine = ServerEngine(server_settings)
    else:
        server_settings.refuse_unused("--engine server")
        model_path, run = _model_and_its_run(settings.model_name_or_path)
        if settings.engine == "vllm":
            engine = VllmEngine(model_path, settings.prompt_style, settings.precision)
        else:
            how = settings.batch_size, settings.prompt_style, settings.precision, settings.num_processes
            engine = LocalEngine(model_path, *how)
    setting = {
        "adaptation": adaptation(run.get("method", ""), settings.num_fewshot),
        "num_fewshot": settings.num_fewshot,
        "prompt_style": engine.style.name,
        "shuffled": False,
    }
    label = settings.label or setting["adaptation"].replace("few-shot", f"{settings.num_fewshot}-shot")
    data = settings.data
    if settings.benchmark == MMEDBENCH:
        data = find_benchmark(data or (Path(run["data"]) if run.get("data") else None))
    failed = FailedItems()
    test = read_test(data, settings, failed)
    questions = limit_questions(test, settings.max_questions_per_language)
    examples = read_examples(data, settings, test) if settings.num_fewshot else {}
    identity = {
        "model": engine.identity,
        "questions": fingerprint([[q.id, q.question, q.options, q.answers, q.rationale] for q in questions]),
        "prompt": prompt_record(engine.style, {question.lang for question in questions}),
        "label": label,
        **{n: getattr(settings, n) for n in ("max_new_tokens", "max_new_tokens_answer_only", "repetition_penalty")},
        **_beyond_defaults(settings, questions, examples, engine.style),
        **({"extra_body": extra_body} if extra_body else {}),
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
        ask(engine, questions, settings, output_dir / "predictions.jsonl", setting, examples)
        scores = write_scores(output_dir, label, settings, failed, extra_body)
        failed.write(output_dir / "failures.jsonl")
        shown: dict[str, Any] = {}
        if examples:
            shown["fewshot_examples"] = {lang: [q.id for q in of] for lang, of in examples.items()}
        if settings.engine == "server":
            shown["cost"] = round(engine.spent, 6)
            log.info(f"{engine.spent:.4f} spent")
        record.finish(
            "finished", len(failed), label=label, num_questions=len(questions), average=scores.get("average"), **shown
        )
    print((output_dir / "table.md").read_text(encoding="utf-8"))
    return failed.exit_code


def _beyond_defaults(settings: Any, questions: Sequence[Question], examples: Examples, style: Style) -> dict[str, Any]:
    """What answers depend on beyond the defaults of the settings: runs that were made before a setting came up are
    those of its default."""
    changed: dict[str, Any] = {}
    if settings.kinds != list(KINDS):
        changed["kinds"] = settings.kinds
    if settings.precision != "auto":
        changed["precision"] = settings.precision
    if settings.engine == "vllm":
        changed["engine"] = settings.engine
    if settings.num_fewshot:
        changed["fewshot"] = [settings.num_fewshot, settings.fewshot_seed]
    if settings.shuffle_options:
        changed["shuffle"] = [settings.shuffle_options, settings.shuffle_seed]
    if "kinds" in changed or examples:  # prompts that `prompt_record` does not know
        firsts = {question.lang: question for question in questions}
        kinds = dict.fromkeys(PROMPT_OF[kind] for kind in settings.kinds)
        rendered = [
            render_prompt(question, kind, style, examples.get(question.lang, ()))
            for question in firsts.values()
            for kind in kinds
        ]
        changed["rendered"] = fingerprint(rendered)
    return changed


def _model_and_its_run(name_or_path: str | None) -> tuple[str, dict[str, Any]]:
    """The model to ask and the `result` of the fine-tuning run that made it, with `method` where that shows only in the
    weights' folder: adapters of others, checkpoints of a run at work ({} for any other model)."""
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
    run = record.get("result", {}) if record.get("stage") in ("finetune", "merge") else {}
    if "method" not in run and is_adapter(model_path):
        is_lora = read_json(Path(model_path) / "adapter_config.json").get("peft_type") == "LORA"
        run = {**run, "method": "LoRA" if is_lora else "full"}
    elif "method" not in run and taught_style(Path(model_path)):
        run = {**run, "method": "full"}
    return model_path, run


def read_test(data: Path, settings: Any, failed: FailedItems) -> list[Question]:
    """The questions of MMedBench's test split, or those of another published set, in the languages asked for."""
    if settings.benchmark == MMEDBENCH:
        files = find_files(data, "Test", settings.languages).values()
        questions = [question for path in files for question in read_questions(path, "Test", failed)]
    else:
        questions = list(read_source_set(settings.benchmark, data, failed, settings.split))
        if settings.languages:
            codes = {language(name).code for name in settings.languages}
            questions = [question for question in questions if question.lang in codes]
    if not questions:
        raise MissingInputError("there is no usable test question", where=data, todo="see the failures listed above")
    return questions


def limit_questions(questions: list[Question], limit: int | None) -> list[Question]:
    """Of each language so many questions, those with the smallest content hashes, in the files' order."""
    chosen: set[str] = set()
    for lang in {question.lang for question in questions}:
        of_language = [question for question in questions if question.lang == lang]
        chosen |= {q.id for q in sorted(of_language, key=lambda q: (q.content_hash, q.id))[:limit]}
    return [question for question in questions if question.id in chosen]


def read_examples(data: Path, settings: Any, test: Sequence[Question]) -> Examples:
    """The examples that a few-shot prompt shows, of the training split that goes with the test questions."""
    unusable = FailedItems()  # rows that nobody asks fail no evaluation
    if settings.benchmark == MMEDBENCH:
        codes = list(dict.fromkeys(question.lang for question in test))
        files = find_files(data, "Train", codes).values()
        train = [question for path in files for question in read_questions(path, "Train", unusable)]
    else:
        train = list(read_source_set(settings.benchmark, data, unusable, settings.fewshot_split))
    return draw_examples(train, test, settings.num_fewshot, settings.fewshot_seed)


def caption(settings: Any, num_questions: int, extra_body: dict[str, Any]) -> str:
    """The conditions of a table in one line; `extra_body` are the further fields of requests to a server."""
    penalty = settings.repetition_penalty
    of_set = "" if settings.benchmark == MMEDBENCH else f" of {settings.benchmark}"
    parts = [f"{num_questions} test questions{of_set}"]
    if set(KINDS) & set(settings.kinds):
        how = "sampled" if extra_body.get("temperature") else "greedy"
        parts.append(
            f"{how}, at most {settings.max_new_tokens} new tokens with rationale "
            f"and {settings.max_new_tokens_answer_only} without, no answer forced"
        )
        parts += [f"repetition penalty {penalty:g} in rationales"] if penalty != 1 else []
    if extra_body:
        parts.append(f"asked with {json.dumps(extra_body, ensure_ascii=False)}")
    if settings.num_fewshot:
        parts.append(f"{settings.num_fewshot} examples from training, seed {settings.fewshot_seed}")
    if settings.shuffle_options and set(settings.kinds) != {"text_likelihood"}:
        parts.append(f"options shown in {settings.shuffle_options} orders, seed {settings.shuffle_seed}")
    return "; ".join(parts)


def write_scores(
    output_dir: Path, label: str, settings: Any, failed: FailedItems, extra_body: dict[str, Any]
) -> dict[str, Any]:
    """Score predictions.jsonl of a folder and write scores.json, tables and plots beside it.

    Questions that a server refused to answer, which count as unparsed, are added to `failed`.
    """
    rows = scoring.read_predictions(output_dir / "predictions.jsonl", failed)
    for row in rows:
        if row.get("error"):
            failed.add(row["id"], f"{row['kind']}: {row['error']}")
    num_thoughts = sum(bool(row["output"].strip()) and not without_thoughts(row["output"]).strip() for row in rows)
    if num_thoughts:
        log.info(
            f"{num_thoughts:,} of {len(rows):,} answers are thoughts alone: larger limits of new tokens, or a server "
            "that is told not to think (--extra_body)"
        )
    labelled = [(label, scoring.score(rows))]
    num_questions = len({row["id"] for row in rows})
    is_mmedbench = settings.benchmark == MMEDBENCH
    write_all(labelled, output_dir, caption(settings, num_questions, extra_body), is_mmedbench=is_mmedbench)
    return labelled[0][1]
