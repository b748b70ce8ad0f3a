"""The work of one command: which input files, under which output names, how many at once, which share in an array."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from configs.errors import MissingInputError, SettingsError

_STARTED = time.time()  # of this process, about
MAX_NAME_BYTES = 180  # file systems allow 255; temporary names and suffixes need the rest


def walk(inputs: Sequence[str | Path], suffixes: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Files under `inputs` with one of `suffixes` (lower case), as (path, input folder), sorted, each once.

    Hidden files and folders are passed over (half-written output is hidden); a folder that has `kept/` is read there
    only; a folder saved by `datasets` is given as a whole. A file named as an input is given whatever its suffix. A
    folder is entered once, so that links to folders around them end.

    Raises:
        MissingInputError: an input does not exist.
    """
    seen: set[Path] = set()
    entered: set[Path] = set()
    for given in inputs:
        start = Path(given)
        if not start.exists():
            raise MissingInputError("no such input", where=start, todo="give files or folders that exist to --input")
        root = start.parent if start.is_file() else start / "kept" if (start / "kept").is_dir() else start
        for path in _below(start, tuple(suffixes), entered) if start.is_dir() else (start,):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path, root


def _below(folder: Path, suffixes: tuple[str, ...], entered: set[Path]) -> Iterator[Path]:
    if (folder / "kept").is_dir():
        folder = folder / "kept"
    if folder.resolve() in entered:
        return
    entered.add(folder.resolve())
    if _is_dataset(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, suffixes, entered)
        elif path.name.lower().endswith(suffixes):
            yield path


def _is_dataset(folder: Path) -> bool:
    described = (folder / "state.json").exists() or (folder / "dataset_info.json").exists()
    return described and any(folder.glob("*.arrow"))


def unique_names(paths: Sequence[tuple[Path, Path]], suffixes: Sequence[str]) -> list[str]:
    """A name for the output of each (path, root): the path below its root without suffix, "-2" added where taken."""
    names: list[str] = []
    taken: set[str] = set()
    numbers: Counter[str] = Counter()  # the last one given to a name: text files by the thousand have their folder's
    for path, root in paths:
        below = path.relative_to(root).as_posix() if path != root else path.name
        suffix = max((s for s in suffixes if below.lower().endswith(s)), key=len, default="")
        stem = re.sub(r"[^\w.+-]+", "-", below[: len(below) - len(suffix)]).strip(".-") or "unnamed"
        stem = stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        name, key = stem, stem.lower()  # some file systems do not tell upper from lower case
        numbers[key] = max(1, numbers[key])
        while name.lower() in taken:
            numbers[key] += 1
            name = f"{stem}-{numbers[key]}"
        taken.add(name.lower())
        names.append(name)
    return names


def num_allocated_cpus() -> int:
    """CPUs this process may use: those Slurm allocated to the task, else those the system lets it run on."""
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(allocated) if allocated.isdigit() and int(allocated) else len(os.sched_getaffinity(0))


def array_task() -> tuple[int, int]:
    """(index, count) of this task in its Slurm array, (0, 1) outside one. The task does items index, index + count, ...

    Raises:
        SettingsError: the array's ids have gaps, so that shares would be left undone.
    """
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return 0, 1
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    count = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
    last = int(os.environ.get("SLURM_ARRAY_TASK_MAX", str(first + count - 1)))
    step = max(1, (last - first) // max(1, count - 1))
    if last - first != step * (count - 1):
        raise SettingsError(
            "the ids of the Slurm array have gaps, so some of the work would belong to no task",
            where="sbatch --array",
            found=f"{count} tasks from {first} to {last}",
            wanted="a range such as 0-7",
            todo="submit a whole range; what is done already is passed over",
        )
    return ((task - first) // step) % count, count


def remove_half_written(paths: Iterable[Path], *, of_earlier_commands: bool = False) -> None:
    """Remove what killed processes left of files (`configs.files.atomic_path` names it .NAME.RANDOM.tmp).

    Each folder is listed once: looking there for each file would take the square of their number.

    Args:
        paths: the files, under the names that they get when they are whole.
        of_earlier_commands: only what is older than this process, for files that another command may be writing now.
    """
    names: defaultdict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder, of_folder in names.items():
        for left in folder.glob(".*.tmp"):
            if left.stem[1:].rpartition(".")[0] in of_folder:
                with contextlib.suppress(FileNotFoundError):  # two commands may clean up at once
                    if not of_earlier_commands or left.stat().st_mtime < _STARTED:
                        left.unlink()
