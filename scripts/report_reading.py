"""What a report reads: the stages of a run folder and their files, in whatever state a run or a kill left them.

Nothing here trusts what it reads: a value of another type than its stage writes counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import read_json
from configs.languages import LANGUAGES, language
from inference.kinds import SCORED_KINDS
from inference.scoring import PREDICTIONS_FILE, SCORES_FILE, read_predictions
from inference.visible_text import clean, clean_line

# What reading a broken file may raise; UserError is a ValueError, and a number may be too large for a float.
READ_ERRORS = (OSError, ValueError, RecursionError, OverflowError)
MAX_LABEL_CHARACTERS = 60
_NEEDED = ("num_questions", "num_unparsed", "accuracy", "accuracy_standard_error", "chance_level", "unparsed_share")
_OPTIONAL = ("bleu_1_sentence", "rouge_1_f")
_OPTIONAL += tuple(f"{name}_{end}" for name in ("accuracy", *_OPTIONAL) for end in ("low", "high"))


def pick(value: Any, *names: str) -> Any:
    """The value under a path of names in nested objects; None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def items(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> int | float | None:
    """The value if it is a finite number that a plot and a table can bear, else None."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15 else None


def numbers(value: Any) -> dict[str, int | float]:
    """Those entries of an object that are numbers."""
    return {name: found for name, part in items(value).items() if (found := number(part)) is not None}


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; nothing for an absent file, and lines that are no object are passed over."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # the last line of a running stage, most often
                if isinstance(row, dict):
                    yield row
    except OSError:
        return


@dataclass(frozen=True)
class Stage:
    """One run.json and the folder it is in.

    Attributes:
        folder: the folder.
        place: the same, seen from the run's folder.
        record: content of run.json, {} where it cannot be read.
        problem: why it cannot be read, or "".
    """

    folder: Path
    place: str
    record: dict[str, Any]
    problem: str = ""

    def get(self, *names: str) -> Any:
        """What the record says under a path of names."""
        return pick(self.record, *names)

    @property
    def name(self) -> str:
        """Which stage it is, as the record says it."""
        return str(self.get("stage") or "unknown")

    @property
    def status(self) -> str:
        """running, finished, stopped, failed, or unreadable."""
        return "unreadable" if self.problem else str(self.get("status") or "unknown")

    @property
    def num_failed(self) -> int:
        """Number of failed items."""
        return int(number(self.get("failed_items")) or 0)

    @property
    def lang(self) -> str:
        """The language that a stage of one language works on, as a code where the table has it."""
        stated = self.get("identity", "lang") or self.get("settings", "lang") or self.folder.name
        try:
            return language(str(stated)).code
        except SettingsError:
            return str(stated)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of its metrics.jsonl."""
        return list(json_rows(self.folder / "metrics.jsonl"))


def find_stages(run_dir: Path) -> list[Stage]:
    """All stages under a folder, in the order of their start; those whose run.json cannot be read come last.

    Raises:
        MissingInputError: there is no run.json.
    """
    stages = []
    for path in sorted(run_dir.rglob("run.json")):
        place = path.parent.relative_to(run_dir).as_posix()
        try:
            record = read_json(path)
            if not isinstance(record, dict):
                raise ValueError(f"run.json holds a {type(record).__name__}, wanted an object")
            stages.append(Stage(path.parent, place, record))
        except READ_ERRORS as error:
            stages.append(Stage(path.parent, place, {}, clean(error)))
    if not stages:
        raise MissingInputError(
            "there is no run to report on",
            where=run_dir,
            found="no run.json under it" if run_dir.is_dir() else "no such folder",
            wanted="a folder with one sub-folder a stage, as scripts/chain.sh writes it",
            todo="bash scripts/demo.sh, or give the folder of another run",
        )
    return sorted(stages, key=lambda stage: (bool(stage.problem), str(stage.get("started") or "~"), stage.place))


def language_name(code: str) -> str:
    """The English name of a language's code; what is not in the table stays as it is."""
    return LANGUAGES[code].name if code in LANGUAGES else code


@dataclass(frozen=True)
class Evaluation:
    """One model's answers.

    Attributes:
        stage: the stage that asked.
        label: the model's name in tables, different for each evaluation of a run.
        scores: `languages` and `average` as `inference.scoring.score` gives them, None where there are none.
        caption: the conditions, as scores.json says them.
        rows: the answers, as `inference.scoring.read_predictions` gives them.
        problems: what could not be read, in words.
    """

    stage: Stage
    label: str
    scores: dict[str, Any] | None
    caption: str
    rows: list[dict[str, Any]]
    problems: list[str]


def read_evaluations(stages: list[Stage]) -> list[Evaluation]:
    """The evaluations among the stages, those of fine-tuned models after the others."""
    tuned = {stage.folder.name for stage in stages if stage.name == "finetune"}
    found: list[tuple[bool, Evaluation]] = []
    labels: set[str] = set()
    for stage in stages:
        if stage.name != "eval":
            continue
        problems: list[str] = []
        scores, run, caption = None, {}, ""
        try:
            content = items(read_json(stage.folder / SCORES_FILE))
            caption, runs = clean(content.get("caption") or ""), content.get("runs")
            run = items(runs[0]) if isinstance(runs, list) and runs else {}  # an evaluation is of one model
            scores = _usable(run)
        except READ_ERRORS as error:
            problems.append(f"no scores: {_first_line(error)}")
        label = run.get("label") or stage.get("result", "label") or stage.get("settings", "label") or stage.place
        label = clean_line(label, MAX_LABEL_CHARACTERS)
        label = clean(f"{label} ({stage.place})") if label in labels else label
        labels.add(label)
        rows = _read_answers(stage, problems)
        model = Path(str(stage.get("settings", "model_name_or_path"))).name
        is_tuned = model in tuned or label.startswith("fine-tuned")
        found.append((is_tuned, Evaluation(stage, label, scores, caption, rows, problems)))
    return [evaluation for _, evaluation in sorted(found, key=lambda pair: pair[0])]


def _first_line(error: BaseException) -> str:
    return getattr(error, "what", "") or (str(error).splitlines() or [type(error).__name__])[0]


class _Quietly(FailedItems):
    """Lines that the page speaks of; on stderr they would look like failed items of the run."""

    def add(self, where: str | Path, reason: str) -> None:
        self.items.append({"where": str(where), "reason": reason})


def _read_answers(stage: Stage, problems: list[str]) -> list[dict[str, Any]]:
    failed = _Quietly()
    try:
        rows = read_predictions(stage.folder / PREDICTIONS_FILE, failed)
    except READ_ERRORS as error:
        problems.append(f"no answers: {_first_line(error)}")
        return []
    if failed:
        problems.append(f"{len(failed)} lines of {PREDICTIONS_FILE} cannot be used, first: {failed.items[0]['reason']}")
    return rows


def _usable(content: dict[str, Any]) -> dict[str, Any]:
    """Those of the scores that tables and plots are drawn from, in the order of kinds and languages.

    Raises:
        ValueError: one of them is missing.
    """
    languages: dict[str, dict[str, Any]] = {}
    average: dict[str, Any] = {}
    for kind in SCORED_KINDS:
        of_kind = items(pick(content, "languages", kind))
        found = {code: _numbers_of(of_kind[code], f"{kind}, {code}") for code in LANGUAGES if code in of_kind}
        if found:
            languages[kind] = found
            average[kind] = _numbers_of(pick(content, "average", kind), f"{kind}, average")
    if not languages:
        raise ValueError(f"{SCORES_FILE} holds no scores")
    recorded = items(content.get("settings"))
    settings = {kind: recorded[kind] for kind in languages if _is_setting(recorded.get(kind))}
    return {"languages": languages, "average": average, "words": items(content.get("words")), "settings": settings}


def _is_setting(value: Any) -> bool:
    types = {"adaptation": str, "num_fewshot": int, "prompt_style": str, "shuffled": bool}
    return isinstance(value, dict) and all(isinstance(value.get(name), wanted) for name, wanted in types.items())


def _numbers_of(scores: Any, what: str) -> dict[str, Any]:
    found = numbers(scores)
    free = ("num_references", "_seconds", "_per_second")  # counts and times; all other scores are shares
    good = {
        name: value
        for name, value in found.items()
        if value >= 0 and (name.startswith("num_") or name.endswith(free) or value <= 1)
    }
    if missing := [name for name in _NEEDED if name not in good]:
        raise ValueError(f"{SCORES_FILE} has no usable {', '.join(missing)} of {what}")
    return good | {name: good.get(name) for name in (*_NEEDED, *_OPTIONAL)}
