"""The stages of an ablation: one fine-tuning and evaluation a row, one pretraining for rows of the same corpus."""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError
from configs.files import fingerprint
from scripts.stage_settings import check_settings

STAGES = ("prepare", "pretrain", "finetune", "eval")
_ROW_KEYS = ("corpus", *STAGES)
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Stage:
    """One command of the ablation.

    Attributes:
        name: of its job and log.
        needs: names of the stages whose output it reads.
        options: for sbatch.
        words: the command, a script and its arguments.
        folder: its output.
    """

    name: str
    needs: tuple[str, ...]
    options: str
    words: tuple[str, ...]
    folder: Path

    def line(self) -> str:
        """As ablation.sh reads it: fields parted by a character that no path has, the command quoted for the shell."""
        return _SEPARATOR.join([self.name, " ".join(self.needs), self.options, shlex.join(self.words)])


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: as the table shows it.
        parts: parts of the corpus that it is pretrained on; none for a model that is fine-tuned as it is.
        stages: its commands, those that it shares with other rows included, in order.
    """

    name: str
    parts: tuple[str, ...]
    stages: tuple[Stage, ...]

    @property
    def evaluation(self) -> Path:
        return self.stages[-1].folder


def problems_of(settings: Any) -> list[str]:
    """What is wrong with the rows and parts of an ablation's settings."""
    found = [] if settings.rows else ["rows: none"]
    found += [] if settings.nodes >= 1 else [f"nodes {settings.nodes}: wanted 1 or more"]
    for part, folders in settings.corpus.items():
        if not _PART.fullmatch(str(part)):
            found.append(f"corpus: part {part!r}, wanted a name of letters, digits and _")
        if not isinstance(folders, list) or not folders or not all(isinstance(folder, str) for folder in folders):
            found.append(f"corpus: {part}: {folders!r}, wanted a list of folders")
    for name, row in settings.rows.items():
        if not isinstance(name, str):
            found.append(f"rows: {name!r}: wanted a text as name")
            continue
        if not isinstance(row, dict):
            found.append(f"rows: {name}: {row!r}, wanted names and values, or {{}}")
            continue
        for key, value in row.items():
            if key not in _ROW_KEYS:
                near = difflib.get_close_matches(str(key), _ROW_KEYS, 1)
                found.append(f"rows: {name}: unknown {key}" + (f"; near: {near[0]}" if near else ""))
            elif key == "corpus":
                unknown = (
                    [part for part in value if part not in settings.corpus] if isinstance(value, list) else [value]
                )
                found += [f"rows: {name}: corpus part {part!r} is not under corpus" for part in unknown]
            elif not isinstance(value, dict) or any(isinstance(of, dict) for of in value.values()):
                found.append(f"rows: {name}: {key}: {value!r}, wanted settings and their values")
            elif key in ("prepare", "pretrain") and value and not row.get("corpus"):
                found.append(f"rows: {name}: {key}: wanted a corpus, without which nothing is pretrained")
    return found


def require_input(settings: Any) -> None:
    """Refuse before anything runs where a settings file, the questions or a used part of the corpus is missing, or a
    stage of a row would refuse its settings.

    Raises:
        MissingInputError: naming all of them.
        SystemExit: wrong settings, each said on stderr.
    """
    used = {part for row in settings.rows.values() for part in row.get("corpus", [])}
    paths = [path for name in STAGES if (path := getattr(settings, name))] + ([settings.data] if settings.data else [])
    paths += [Path(folder) for part, folders in settings.corpus.items() if part in used for folder in folders]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise MissingInputError(
            f"{len(missing)} inputs of the ablation are missing",
            where="--config",
            found=", ".join(missing),
            wanted="files and folders that are there, from the repository's root",
            todo="correct the paths, or make what is missing (the READMEs of the stages say how)",
        )
    rows = settings.rows.values()
    pretrained = [row for row in rows if row.get("corpus")]
    of_stage = {"prepare": pretrained, "pretrain": pretrained, "finetune": rows, "eval": rows}
    check_settings((stage, _words(settings, row, stage)) for stage, of in of_stage.items() for row in of)


def rows_of(settings: Any) -> list[Row]:
    """The rows of the table with their stages, in their order."""
    found = []
    for name, row in settings.rows.items():
        parts = tuple(row.get("corpus", []))
        found.append(_row(settings, name, row, _pretraining(settings, row, parts) if parts else ()))
    return found


def plan(settings: Any) -> list[Stage]:
    """The stages in an order in which each comes after those it needs, none twice."""
    return list(dict.fromkeys(stage for row in rows_of(settings) for stage in row.stages))


def _pretraining(settings: Any, row: dict[str, Any], parts: tuple[str, ...]) -> tuple[Stage, ...]:
    """Equal stages for rows of the same corpus and settings; their folder's name says both."""
    own = {stage: row[stage] for stage in ("prepare", "pretrain") if row.get(stage)}
    name = "-".join([*parts, fingerprint(own)[:6]] if own else parts)
    blocks, model = settings.output_dir / "blocks" / name, settings.output_dir / "pretrain" / name
    inputs = [f"{part}={folder}" for part in parts for folder in settings.corpus[part]]
    begin = ("--model_name_or_path", settings.model_name_or_path)
    prepare = ("pretrain/run.sh", "prepare", *_words(settings, row, "prepare"), "--input", *inputs, *begin)
    train = ("pretrain/run.sh", *_words(settings, row, "pretrain"), "--data", str(blocks), *begin)
    first = Stage(f"prepare-{name}", (), "--gpus-per-node=0", (*prepare, "--output_dir", str(blocks)), blocks)
    options = f"--nodes={settings.nodes}"
    second = Stage(f"pretrain-{name}", (first.name,), options, (*train, "--output_dir", str(model)), model)
    return first, second


def _row(settings: Any, name: str, row: dict[str, Any], made: tuple[Stage, ...]) -> Row:
    # By its name and not its place: a row put before others leaves theirs where it was.
    slug = "-".join([*re.findall(r"[a-z0-9]+", name.lower())[:8], fingerprint(name)[:6]])
    tuned, scores = settings.output_dir / "finetune" / slug, settings.output_dir / "eval" / slug
    model = str(made[-1].folder) if made else settings.model_name_or_path
    data = ("--data", str(settings.data)) if settings.data else ()
    needs = (made[-1].name,) if made else ()
    train = ("finetune/run.sh", *_words(settings, row, "finetune"), *data, "--model_name_or_path", model)
    first = Stage(f"finetune-{slug}", needs, "", (*train, "--output_dir", str(tuned)), tuned)
    ask = ("inference/run.sh", *_words(settings, row, "eval"), *data, "--model_name_or_path", str(tuned))
    ask = (*ask, f"--label={name}", "--output_dir", str(scores))
    second = Stage(f"eval-{slug}", (first.name,), "", ask, scores)
    return Row(name, tuple(row.get("corpus", [])), (*made, first, second))


def _words(settings: Any, row: dict[str, Any], stage: str) -> tuple[str, ...]:
    """The settings of a stage: the file for all rows, and what the row has of its own."""
    path = getattr(settings, stage)
    words = ["--config", str(path)] if path else []
    for name, value in (row.get(stage) or {}).items():
        words += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    return tuple(words)


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
