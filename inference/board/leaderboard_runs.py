"""Rows of the leaderboard from scores.json files.

Files of others are not trusted: what is no share between 0 and 1 is no score, and every text is made fit to be shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import FailedItems, MissingInputError, UserError
from configs.files import read_json
from configs.languages import LANGUAGES
from finetune.prompts import beside
from inference.board.leaderboard_rows import (
    ACCURACY,
    AVERAGE,
    ENGLISH,
    ENGLISH_SETS,
    MMEDBENCH,
    NUM_TEST,
    OTHER,
    OTHER_SETS,
    PASSED,
    Row,
    Score,
    billions,
)
from inference.scoring import RATIONALE_SCORES, SCORES_FILE
from inference.visible_text import clean_line

# What was done to the model, as evaluations record it, to how the page groups it.
_GROUPS = {"fine-tuned (LoRA)": "PEFT", "fine-tuned": "full fine-tuning"}
_GROUPS |= {name: name for name in ("zero-shot", "few-shot")}
_WORDS = {"lora": "PEFT", "peft": "PEFT", **{name: name for name in ("fine-tuned", "few-shot", "zero-shot")}}
_MAX_NAME, _MAX_TEXT = 120, 300


def run_rows(inputs: Iterable[Path], failed: FailedItems) -> list[Row]:
    """The rows of all scores.json files given or below the folders given; what cannot be used goes to `failed`.

    Raises:
        MissingInputError: a folder holds no scores.json, or an input is not there.
    """
    rows: list[Row] = []
    for path in dict.fromkeys(path for given in inputs for path in _score_files(given)):
        try:
            content = read_json(path)
            runs = content.get("runs") if isinstance(content, dict) else None
            if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
                raise ValueError("wanted an object with a list `runs`, as inference/eval.py writes it")
            for number, run in enumerate(runs):
                found = list(_rows_of_run(run, _evaluation_record(path, number), path))
                if not found:
                    raise ValueError(f"run {number + 1} holds no scores between 0 and 1")
                rows += found
        except (UserError, ValueError, RecursionError, OSError) as error:
            failed.add(path, clean_line(getattr(error, "found", "") or error, _MAX_TEXT))
    return rows


def _score_files(given: Path) -> list[Path]:
    if given.is_file():
        return [given.resolve()]
    if found := sorted(given.rglob(SCORES_FILE)):
        return [path.resolve() for path in found]
    raise MissingInputError(
        "there are no scores",
        where=given,
        found=f"no {SCORES_FILE} in or below it" if given.is_dir() else "no such file or folder",
        wanted=f"a {SCORES_FILE}, or a folder that holds some",
        todo="python inference/eval.py writes it",
    )


def _evaluation_record(path: Path, number: int) -> dict[str, Any]:
    """The run.json of the evaluation that a run's answers come from; {} where there is none.

    A scores.json of inference/score.py names in its own record the folders that it scored.
    """
    record = _record(path.parent / "run.json")
    if record.get("stage") == "score":
        inputs = _of(record, "settings").get("input")
        if isinstance(inputs, list) and number < len(inputs):
            scored = Path(str(record.get("folder") or "."), str(inputs[number]))
            return _record((scored if scored.is_dir() else scored.parent) / "run.json")
    return record if record.get("stage") == "eval" else {}


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path) if path.is_file() else {}
    except (UserError, RecursionError, OSError):
        return {}
    return record if isinstance(record, dict) else {}


def _of(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _rows_of_run(run: dict[str, Any], record: dict[str, Any], path: Path) -> Iterator[Row]:
    """A row for each way in which the questions were asked."""
    settings, label = _of(record, "settings"), clean_line(run.get("label") or path.parent.name, _MAX_NAME)
    served = _of(record, "identity").get("model")  # a server's: its name there, and no path of ours
    model_path = str(served if isinstance(served, str) else settings.get("model_name_or_path") or "")
    benchmark = str(settings.get("benchmark") or MMEDBENCH)
    for kind, languages in _of(run, "languages").items():
        if not isinstance(languages, dict):
            continue
        recorded = _of(_of(run, "settings"), kind)
        group = _GROUPS.get(str(recorded.get("adaptation"))) or _group(model_path, label)
        row = Row(_name(model_path, label), ours=True, group=group)
        row.billions = _parameters(model_path) or billions(label)
        row.size = "" if row.billions is None else _size_text(row.billions)
        row.setting = ", ".join([*([] if label == row.model else [label]), *_asked(kind, recorded)])
        counts = {code: _count(of) for code, of in languages.items() if code in LANGUAGES and isinstance(of, dict)}
        row.data = _data(benchmark, settings, record, sum(counts.values()))
        average = _of(_of(run, "average"), kind)
        if extra_body := _of(_of(record, "identity"), "extra_body"):
            row.notes.append(clean_line(f"asked with {json.dumps(extra_body, ensure_ascii=False)}", _MAX_TEXT))
        if benchmark == MMEDBENCH:
            _add_mmedbench(row, {code: languages[code] for code in LANGUAGES if code in counts}, average)
            _note_languages(row, counts)
        else:
            column = ENGLISH_SETS.get(benchmark) or OTHER_SETS.get(benchmark, clean_line(benchmark, 40))
            if score := _score(average, ACCURACY):
                row.add(ENGLISH if benchmark in ENGLISH_SETS else OTHER, ACCURACY, column, score)
        if row.scores:
            yield row


def _add_mmedbench(row: Row, languages: dict[str, dict[str, Any]], average: dict[str, Any]) -> None:
    names = (ACCURACY, *RATIONALE_SCORES, *(f"{PASSED}{name}" for name in RATIONALE_SCORES))
    columns = {AVERAGE: average} | {LANGUAGES[code].name: scores for code, scores in languages.items()}
    for name in names:
        for column, scores in columns.items():
            if score := _score(scores, name):
                row.add(MMEDBENCH, name, column, score)


def _note_languages(row: Row, counts: dict[str, int]) -> None:
    """Say which part of the published test set a row is about, where it is not all of it."""
    missing = [LANGUAGES[code].name for code in NUM_TEST if code not in counts]
    beyond = [LANGUAGES[code].name for code in counts if code not in NUM_TEST]
    if missing or beyond:
        row.notes.append(f"average over {', '.join(LANGUAGES[code].name for code in counts)}")
    if counts and sum(counts.values()) < sum(NUM_TEST[code] for code in counts if code in NUM_TEST):
        row.notes.append(f"{sum(counts.values()):,} of the published {sum(NUM_TEST.values()):,} test questions")


def _score(scores: dict[str, Any], name: str) -> Score | None:
    """A share and its interval in per cent; None where it is no share."""
    shares = [scores.get(f"{name}{end}") for end in ("", "_low", "_high")]
    found = [
        100 * share if isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share <= 1 else None
        for share in shares
    ]
    return None if found[0] is None else found


def _count(scores: dict[str, Any]) -> int:
    count = scores.get("num_questions")
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 10**9 else 0


def _name(model_path: str, label: str) -> str:
    """What a run's model is called: its folder or hub id without the folders that every model is under."""
    if not model_path:
        return label
    parts = [part for part in Path(model_path).parts[-2:] if part not in ("/", "models", "runs", "..", ".", "~")]
    return clean_line("/".join(parts) or label, _MAX_NAME)


def _parameters(model_path: str) -> float | None:
    """Billions of parameters by the model's name, or by that of the model it was trained from."""
    for _ in range(10):
        if found := billions(model_path):
            return found
        earlier = _of(_record_of_model(model_path), "settings").get("model_name_or_path")
        if not isinstance(earlier, str) or earlier == model_path:
            return None
        model_path = earlier
    return None


def _record_of_model(model_path: str) -> dict[str, Any]:
    """The run.json beside a model, where the model is still there."""
    try:
        path = beside(Path(model_path), "run.json") if model_path else None
    except (OSError, ValueError):  # a name too long for a path, or with a NUL
        return {}
    return _record(path) if path else {}


def _size_text(parameters: float) -> str:
    return f"{parameters:g}B" if parameters >= 1 else f"{1000 * parameters:g}M"


def _group(model_path: str, label: str) -> str:
    """The kind of setting where the scores do not record it: by the model's record if that is there, or the label."""
    record = _record_of_model(model_path)
    if record.get("stage") in ("finetune", "merge"):
        method = str(_of(record, "result").get("method"))
        return {"LoRA": "PEFT", "full": "full fine-tuning"}.get(method, "fine-tuned")
    return next((group for word, group in _WORDS.items() if word in label.lower()), "not stated")


def _asked(kind: str, recorded: dict[str, Any]) -> Iterator[str]:
    """In which way the questions were asked, in words."""
    yield clean_line(kind, 40).replace("_", " ")
    shots = recorded.get("num_fewshot")
    if isinstance(shots, int) and shots > 0:
        yield f"{shots}-shot"
    if recorded.get("prompt_style") not in (None, "plain"):
        yield f"{clean_line(recorded['prompt_style'], 40)} prompt"
    if recorded.get("shuffled") is True:
        yield "options shuffled"


def _data(benchmark: str, settings: dict[str, Any], record: dict[str, Any], num_questions: int) -> str:
    """Set, number of questions, and the fingerprint of their content, which tells two versions apart."""
    name = "MMedBench Test" if benchmark == MMEDBENCH else clean_line(benchmark, 40)
    folder = clean_line(Path(str(settings.get("data") or "")).name, 40)
    version = clean_line(_of(record, "identity").get("questions") or "not recorded", 16)
    name += f" ({folder})" if folder not in ("", MMEDBENCH) else ""
    return f"{name}, {num_questions:,} questions, version {version}"
