"""What the report shows of models: scores, conditions of training, losses and perplexities, sample answers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from configs.files import fingerprint
from configs.languages import LANGUAGES
from data_collection.questions.answers import parse_answer
from data_collection.questions.question import is_correct
from finetune.prompts import KINDS
from inference.kinds import SCORED_KINDS
from inference.scores.score_tables import AVERAGE, percent
from inference.visible_text import clean
from scripts.report_reading import Evaluation, Stage, number, numbers, pick

TRAINING = {"pretrain": "pretrained", "finetune": "fine-tuned"}
SAMPLES_PER_LANGUAGE = 3
_SHOWN = (("accuracy", "Accuracy, %"), ("bleu_1_sentence", "BLEU-1, %"), ("rouge_1_f", "ROUGE-1, %"))
Values = dict[str, Any]


def scores_table(evaluations: list[Evaluation]) -> Values:
    """The headline table: languages as rows; groups of columns by score and kind, in each the models side by side."""
    scored = [e for e in evaluations if e.scores]
    groups: list[tuple[str, str, str, list[Evaluation]]] = []
    for name, heading in _SHOWN:
        for kind in (*reversed(KINDS), *(kind for kind in SCORED_KINDS if kind not in KINDS)):
            having = [e for e in scored if pick(e.scores, "average", kind, name) is not None]
            if having:
                groups.append((f"{heading}, {kind.replace('_', ' ')}", kind, name, having))
    codes = [code for code in LANGUAGES if any(code in of for e in scored for of in e.scores["languages"].values())]
    rows = []
    for code in [*codes, None]:
        of = [
            [e.scores["average"][kind] if code is None else pick(e.scores, "languages", kind, code) for e in having]
            for _, kind, _, having in groups
        ]
        rows.append(
            {
                "language": LANGUAGES[code].name if code else AVERAGE,
                "questions": _distinct(f"{s['num_questions']:,}" for group in of for s in group if s),
                "chance": _distinct(percent(s["chance_level"]) for group in of for s in group if s),
                "cells": [_cell(s, group[2]) for group, found in zip(groups, of, strict=True) for s in found],
            }
        )
    return {"groups": [(heading, [e.label for e in having]) for heading, _, _, having in groups], "rows": rows}


def _distinct(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))


def _cell(scores: Values | None, name: str) -> Values:
    value = scores and scores[name]
    if value is None:
        return {"value": "–", "notes": []}
    if name != "accuracy":
        return {"value": percent(value), "notes": []}
    unparsed = [f"{scores['num_unparsed']:,} unparsed"] if scores["num_unparsed"] else []
    return {"value": percent(value), "notes": [f"± {percent(scores['accuracy_standard_error'])}", *unparsed]}


def conditions(stages: list[Stage]) -> str:
    """Steps and lengths of training, machine and precision in one line; "" when nothing was trained."""
    parts, machines, precisions = [], [], []
    for stage in stages:
        if stage.name not in TRAINING or stage.problem:
            continue
        steps, planned = _steps(stage)
        size = number(stage.get("result", "block_size")) or number(stage.get("settings", "block_size"))
        size = size or next((number(s.get("settings", "block_size")) for s in stages if s.name == "prepare"), None)
        batch = number(stage.get("identity", "global_batch_size"))
        text = f"{TRAINING[stage.name]} {steps or 0:,} " + (f"of {planned:,} " if planned and planned != steps else "")
        text += "steps" + (f" of {f'{batch} x ' if batch and batch > 1 else ''}{size:,} tokens" if size else "")
        if stage.name == "finetune":
            rank = stage.get("settings", "lora_rank")
            method = next((name for name in ("lora", "qlora") if stage.get("settings", name)), "")
            shown = {"lora": f"LoRA rank {rank}", "qlora": f"QLoRA rank {rank}", "": "all weights"}[method]
            text += f" ({shown})"
        parts.append(text + ("" if stage.status == "finished" else f" ({stage.status})"))
        machines.append(_devices(stage, batch))
        half = [name for name, key in (("bfloat16", "bf16"), ("float16", "fp16")) if stage.get("settings", key)]
        precisions.append(half[0] if half else "float32")
    if not parts:
        return ""
    line = f"{', '.join(parts)}, machine: {_distinct(machines)}, {_distinct(precisions)}"
    return line[:1].upper() + line[1:]


def _steps(stage: Stage) -> tuple[int | float | None, int | float | None]:
    """(steps done, steps planned)"""
    last = next((row for row in reversed(stage.metrics) if number(row.get("num_steps"))), {})
    done = number(stage.get("result", "num_steps"))
    return (number(last.get("step")) if done is None else done), number(last.get("num_steps"))


def _devices(stage: Stage, batch: int | float | None) -> str:
    if stage.get("settings", "use_cpu") is not False:
        return f"{stage.get('machine', 'num_cpus') or '?'} CPUs"
    batch = batch or 1
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        batch = max(1, batch / max(1, number(stage.get("settings", name)) or 1))
    return f"{batch:.0f} GPU{'s' * (batch > 1)}"


def trainings(stages: list[Stage]) -> list[Values]:
    """Of each training: its points (step, loss), speed, and perplexity by language before and after."""
    found = []
    for stage in stages:
        if stage.name not in TRAINING:
            continue
        rows = [row for row in stage.metrics if number(row.get("step")) is not None]
        evaluated = [row for row in rows if any(name.startswith("eval_perplexity_") for name in row)]
        before = numbers(stage.get("result", "before", "perplexity")) or _perplexity(evaluated[:1])
        after = numbers(stage.get("result", "after", "perplexity")) or _perplexity(evaluated[1:][-1:])
        speeds = [number(row.get("target_tokens_per_second", row.get("tokens_per_second"))) for row in rows]
        speeds = [speed for speed in speeds if speed is not None]
        logged = [row for row in rows if number(row.get("loss")) is not None]
        measured = [row for row in rows if number(row.get("eval_loss")) is not None]
        found.append(
            {
                "place": stage.place,
                "stage": stage.name,
                "status": stage.status,
                "loss": [(row["step"], row["loss"]) for row in logged],
                "dev_loss": [(row["step"], row["eval_loss"]) for row in measured],
                "last": logged[-1] if logged else None,
                "tokens_per_second": statistics.median(speeds) if speeds else None,
                "perplexity": [
                    {"language": LANGUAGES[code].name, "before": before.get(code), "after": after.get(code)}
                    for code in LANGUAGES
                    if code in before or code in after
                ],
            }
        )
    return found


def _perplexity(rows: list[Values]) -> dict[str, int | float]:
    prefix = "eval_perplexity_"
    return {name[len(prefix) :]: x for row in rows for name, x in numbers(row).items() if name.startswith(prefix)}


def samples(evaluations: list[Evaluation]) -> list[Values]:
    """A few questions a language, those that come first by a hash of their id, with every model's answers."""
    answers = {(e.label, row["kind"], row["id"]): row for e in evaluations for row in e.rows}
    asked = {row["id"]: row for e in evaluations for row in e.rows}
    answered = Counter(name for _, _, name in answers)
    found = []
    for code, language in LANGUAGES.items():
        # Questions that every model answered come first; the hash, not the result, chooses among them.
        names = [name for name, row in asked.items() if row["lang"] == code]
        names = sorted(names, key=lambda name: (-answered[name], fingerprint(clean(name))))[:SAMPLES_PER_LANGUAGE]
        questions = []
        for row in (asked[name] for name in names):
            given = [
                (e.label, kind, answers[e.label, kind, row["id"]])
                for kind in reversed(KINDS)
                for e in evaluations
                if (e.label, kind, row["id"]) in answers
            ]
            questions.append(
                {
                    "id": row["id"],
                    "question": row.get("question"),
                    "options": [(letter, text, letter in row["gold"]) for letter, text in row["options"].items()],
                    "rationale": row["rationale"],
                    "answers": [_answer(label, kind, answer) for label, kind, answer in given],
                }
            )
        if questions:
            found.append({"code": code, "language": language.name, "questions": questions})
    return found


def _answer(label: str, kind: str, row: Values) -> Values:
    parsed = parse_answer(row["output"], row["options"])
    mark = "unparsed" if parsed is None else "right" if is_correct(parsed, row["gold"]) else "wrong"
    return {
        "label": label,
        "kind": kind.replace("_", " "),
        "output": row["output"],
        "mark": mark,
        "parsed": ", ".join(parsed or ()),
    }
