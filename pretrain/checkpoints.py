"""Checkpoints that count only when they are complete: the marker is written last and looked for on resume."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from configs.files import write_json
from configs.progress import log

_MARKER = "complete.json"


def mark_complete(checkpoint: Path, step: int) -> None:
    """Write the marker that makes a checkpoint count; call when every rank has written its part."""
    write_json(checkpoint / _MARKER, {"step": step})


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    complete = [path for path in _checkpoints(output_dir) if (path / _MARKER).is_file()]
    return max(complete, key=_step, default=None)


def remove_incomplete(output_dir: Path) -> None:
    """Remove what a killed run left half written."""
    for path in _checkpoints(output_dir):
        if not (path / _MARKER).is_file():
            log.info(f"removing {path.name}: it was not finished when the run was killed")
            shutil.rmtree(path)


def remove_all(output_dir: Path) -> None:
    """Remove the checkpoints of a finished run; the marker goes first, so that none is taken for complete."""
    for path in _checkpoints(output_dir):
        (path / _MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)


def _checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
