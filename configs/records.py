"""The run record, run.json: what made a folder, from what, with which settings, and how it ended."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from configs.errors import ExitCode, MissingInputError, SettingsError, UserError
from configs.files import REPOSITORY, atomic_open, fingerprint, read_json, write_json
from configs.progress import log

RUNS = REPOSITORY / "runs"
_BEGUN = time.time()  # of this process
_PACKAGES = (
    "torch transformers accelerate deepspeed peft datasets tokenizers pyarrow pypdfium2 pytesseract nltk sacrebleu"
)
_SLURM_ID = re.compile(r"SLURM_(ARRAY_)?(JOB|TASK)\w*ID|SLURM_NNODES|SLURM_RESTART_COUNT")
_SECRET = re.compile(r"key(?!word)|token$|secret|password|credential", re.IGNORECASE)


def _git(*words: str) -> str:
    try:
        answer = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """Settings as JSON-able values; whatever is named like a secret is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {name: plain(part) for name, part in pairs.items() if not _SECRET.search(name)}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items() if not _SECRET.search(str(name))}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "value") and not isinstance(value, type):
        return plain(value.value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _safe_command() -> str:
    words, hide = [], False
    for word in sys.argv:
        words.append("***" if hide else word)
        hide = word.startswith("--") and "=" not in word and bool(_SECRET.search(word))
        if word.startswith("--") and "=" in word and _SECRET.search(word.partition("=")[0]):
            words[-1] = word.partition("=")[0] + "=***"
    return shlex.join(["python", *words])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunRecord:
    """run.json of one output folder.

    `status` is running, finished, stopped (by a STOP file, a time limit or preemption; the same command goes on) or
    failed. `result` holds what later stages and the report read: counts, paths, figures.
    """

    def __init__(self, output_dir: Path, stage: str, settings: dict[str, Any], identity: Any):
        self.path = Path(output_dir) / "run.json"
        self.data: dict[str, Any] = {
            "stage": stage,
            "status": "running",
            "fingerprint": fingerprint(identity),
            "identity": plain(identity),
            "command": _safe_command(),
            "folder": os.getcwd(),
            "settings": plain(settings),
            "started": _now(),
            "finished": None,
            "wall_seconds": 0.0,
            "lives": 1,
            "failed_items": 0,
            "versions": _versions(),
            "machine": {"node": platform.node(), "system": platform.platform(), "num_cpus": os.cpu_count()},
            "commit": _git("rev-parse", "HEAD"),
            "slurm": {name: value for name, value in os.environ.items() if _SLURM_ID.fullmatch(name)},
            "result": {},
        }
        self._start = time.monotonic()
        self._earlier_seconds = 0.0

    def write(self) -> None:
        self.data["wall_seconds"] = round(self._earlier_seconds + time.monotonic() - self._start, 1)
        write_json(self.path, self.data)

    def finish(self, status: str, failed_items: int = 0, **result: Any) -> None:
        """Write the record with its last status; `result` values go over those there."""
        self.data["result"].update(plain(result))
        self.data.update(status=status, failed_items=failed_items, finished=_now())
        self.write()


def _worked_seconds(record: dict[str, Any], path: Path) -> float:
    """Seconds of the lives so far; of one that SIGKILL ended, up to the last change that it made in its folder."""
    seconds = record.get("wall_seconds", 0.0)
    if record.get("status") == "running":
        changes = [path.stat().st_mtime]  # when the record was written, to which its seconds go
        for entry in path.parent.iterdir():
            with suppress(FileNotFoundError):  # of another command, which works here too
                changes.append(entry.lstat().st_mtime)
        seconds += max(change for change in changes if change <= max(_BEGUN, changes[0])) - changes[0]
    return seconds


def _shown(value: Any) -> str:
    return str(value) if len(str(value)) < 200 else str(value)[:200] + "..."


def check_identity(path: Path, old: dict[str, Any], identity: Any) -> None:
    """Compare the record `old`, read from `path`, with what would be made now.

    Raises:
        SettingsError: its output was made by other settings or from other input; both are shown.
    """
    if old.get("fingerprint") == fingerprint(identity):
        return
    before, now = old.get("identity"), plain(identity)
    before = before if isinstance(before, dict) else {"": before}
    changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k)) or ["(format of the record)"]
    raise SettingsError(
        "the output folder holds the output of other settings or other input",
        where=path,
        found="; ".join(f"{name} was {_shown(before.get(name))}" for name in changed),
        wanted="; ".join(f"{name} {_shown(now.get(name))}" for name in changed),
        todo="give another --output_dir, or remove this folder",
    )


def already_done(output_dir: Path, identity: Any) -> dict[str, Any] | None:
    """The finished record of `output_dir` when it was made from the same `identity`, else None.

    Raises:
        SettingsError: the folder holds the output of other settings or other input; both are shown.
    """
    path = Path(output_dir) / "run.json"
    if not path.exists():
        return None
    old = read_json(path)
    check_identity(path, old, identity)
    return old if old["status"] == "finished" else None


@contextmanager
def run_record(output_dir: Path, stage: str, settings: dict[str, Any], identity: Any) -> Iterator[RunRecord]:
    """Keep run.json of `output_dir` while the block works: running, then what the block set, or failed.

    Args:
        output_dir: folder of the run; made if absent.
        stage: name of the stage, which `newest_finished` looks for.
        settings: everything that was set, for the reader.
        identity: what the output depends on; a changed identity over old output is refused (`already_done`).

    Raises:
        SettingsError: the folder is another stage's.
    """
    record = RunRecord(output_dir, stage, settings, identity)
    if record.path.exists():
        old = read_json(record.path)
        if old.get("stage", stage) != stage:
            raise SettingsError(
                "the output folder holds the output of another command",
                where=record.path,
                found=old["stage"],
                wanted=f"a folder of its own for {stage}",
                todo="give another --output_dir",
            )
        record._earlier_seconds = _worked_seconds(old, record.path)
        record.data.update(lives=old.get("lives", 1) + 1, started=old.get("started"), result=old.get("result", {}))
    record.write()
    diff = _git("diff", "HEAD")
    if diff:
        with atomic_open(record.path.parent / "uncommitted.diff") as file:
            file.write(diff[:1_000_000])
    try:
        yield record
    except BaseException as error:
        record.data["error"] = error.render() if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        record.finish("failed")
        raise
    if record.data["status"] == "running":
        record.finish("finished")


def newest_finished(stage: str, root: Path = RUNS) -> Path | None:
    """The folder under `root` whose run of `stage` finished last, or None."""
    newest: tuple[str, Path] | None = None
    for path in root.rglob("run.json") if root.is_dir() else ():
        try:
            record = read_json(path)
        except MissingInputError as error:  # another run's broken record says nothing about this stage
            log.info(f"passed over: {error.what} ({path})")
            continue
        if record.get("stage") == stage and record.get("status") == "finished":
            newest = max(newest or ("", path.parent), (record.get("finished") or "", path.parent))
    return newest[1] if newest else None


def exit_code(record: dict[str, Any]) -> ExitCode:
    """5 for a run with failed items, else 0."""
    return ExitCode.FAILED_ITEMS if record.get("failed_items") else ExitCode.DONE
