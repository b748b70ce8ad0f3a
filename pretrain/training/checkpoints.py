"""Checkpoints that count only when they are complete: the marker is written last and looked for on resume."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import EnvironmentFailure
from configs.files import read_json, write_json
from configs.progress import log

_MARKER = "complete.json"
# torch and safetensors say it in classes of their own; torch without the system's words when a buffer is written late.
_FULL_DISK = re.compile(r"No space left|quota exceeded|os error (28|122)|PytorchStreamWriter|file write failed", re.I)


def flush_to_disk(folder: Path) -> None:
    """Wait until all files below a folder, as far as this node wrote them, are on the disk.

    The marker is flushed when it is written; a node that loses its power must not leave it beside weights that were in
    the system's memory only.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def mark_complete(checkpoint: Path, step: int, seconds: float = 0.0) -> None:
    """Write the marker that makes a checkpoint count; call when every rank has written and flushed its part.

    Args:
        checkpoint: its folder.
        step: after which it was made.
        seconds: that it took.
    """
    write_json(checkpoint / _MARKER, {"step": step, "seconds": seconds})


def seconds_to_save(output_dir: Path) -> float:
    """Seconds that the newest complete checkpoint took; 0 without one."""
    newest = newest_checkpoint(output_dir)
    return read_json(newest / _MARKER).get("seconds", 0.0) if newest else 0.0


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return max(_complete(output_dir), key=_step, default=None)


def num_complete(output_dir: Path) -> int:
    """How many complete checkpoints there are."""
    return len(_complete(output_dir))


def remove_incomplete(output_dir: Path) -> None:
    """Remove what a run that was killed, or found the disk full, left half written."""
    for path in _checkpoints(output_dir):
        if not (path / _MARKER).is_file():
            log.info(f"removing {path.name}: it was not finished when the run ended")
            shutil.rmtree(path, ignore_errors=True)  # another rank may still be writing there


def remove_all(output_dir: Path) -> None:
    """Remove the checkpoints of a finished run; the marker goes first, so that none is taken for complete."""
    for path in _checkpoints(output_dir):
        (path / _MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)


@contextmanager
def full_disk_is_named(output_dir: Path) -> Iterator[None]:
    """Turn what torch and safetensors raise while they write to a full disk into an error for users.

    Raises:
        EnvironmentFailure: the disk is full, or the quota; the newest complete checkpoint is named.
    """
    try:
        yield
    except Exception as error:  # safetensors' class is a plain Exception, torch's a RuntimeError
        if not _FULL_DISK.search(str(error)):
            raise
        remove_incomplete(output_dir)  # which leaves room for the run's record
        newest = newest_checkpoint(output_dir)
        raise EnvironmentFailure(
            "the disk is full: weights or a checkpoint could not be written",
            where=output_dir,
            found=f"{shutil.disk_usage(output_dir).free / 2**20:,.1f} MiB free; {str(error).splitlines()[0]}",
            todo=f"make room, then the same command: it goes on from {newest.name if newest else 'the start'}",
        ) from error


def _complete(output_dir: Path) -> list[Path]:
    return [path for path in _checkpoints(output_dir) if (path / _MARKER).is_file()]


def _checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
