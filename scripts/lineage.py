"""What a folder was made from: the stages before it, as far as their records are still on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.errors import MissingInputError, SettingsError
from configs.files import REPOSITORY, read_json
from scripts.report_reading import READ_ERRORS, Stage, items

# Settings of the stages that name what they read.
_SOURCES = ("model_name_or_path", "input", "data", "base")


def stage_of(folder: Path) -> Stage | None:
    """The stage that wrote a folder; None where it has no readable run.json."""
    try:
        record = read_json(folder / "run.json")
    except READ_ERRORS:
        return None
    return Stage(folder, folder.name, record) if isinstance(record, dict) else None


def lineage(folder: Path) -> list[Stage]:
    """The stage that wrote `folder` and all before it, each once, the first ones first.

    Raises:
        MissingInputError: the folder has no run.json.
        SettingsError: its run has not finished.
    """
    stage = stage_of(folder.resolve())
    if stage is None:
        raise MissingInputError(
            "the folder has no record of how it was made",
            where=folder / "run.json",
            wanted="the output folder of one of the commands here",
            todo="give the folder that finetune/train.py, pretrain/train.py, decontaminate.py, ... wrote",
        )
    if stage.status != "finished":
        raise SettingsError(
            "what is published must be finished",
            where=folder,
            found=stage.status,
            wanted="finished",
            todo=f"let its command end first: {stage.get('command')}",
        )
    found: dict[Path, Stage] = {}
    _follow(stage, found)
    return list(found.values())


def _follow(stage: Stage, found: dict[Path, Stage], below: frozenset[Path] = frozenset()) -> None:
    """Add the stages that this one read from, then itself; a record that names itself ends there."""
    for name in _SOURCES:
        values = items(stage.get("settings")).get(name)
        for value in values if isinstance(values, list) else [values]:
            source = source_folder(stage, value)
            earlier = stage_of(source) if source and source not in found and source not in below else None
            if earlier:
                _follow(earlier, found, below | {stage.folder})
    found[stage.folder] = stage


def source_folder(stage: Stage, value: Any) -> Path | None:
    """The folder that a path in a stage's settings names, seen from where its command ran; None where it is gone."""
    if not isinstance(value, str):
        return None
    for base in (Path(str(stage.get("folder") or ".")), REPOSITORY):
        path = (base / value).resolve()
        path = path.parent if path.name == "kept" or path.is_file() else path
        if path.is_dir():
            return path
    return None
