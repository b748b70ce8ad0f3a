"""Files that are never half written: atomic replacement, journals, fingerprints, checksums."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from configs.errors import MissingInputError, SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent
# File names that are not UTF-8 (from archives of other systems) hold half surrogates: written as JSON writes them.
_ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}


def make_folder_of(path: Path) -> None:
    """Make the folder that a file is to be in.

    Raises:
        SettingsError: where it should be is a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SettingsError("the output folder is a file", where=path.parent, todo="give another folder") from None


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success flush it to disk and rename it to `path`, else remove it.

    Two processes that write the same path do no harm: each has a name of its own and the last rename wins.

    Raises:
        SettingsError: where its folder should be is a file.
    """
    path = Path(path)
    make_folder_of(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private to the user
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:  # a full disk is met by writes, which name no file
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_open(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under `path` only when the block ends without an error."""
    with (
        atomic_path(path) as temporary,
        open(temporary, mode) if "b" in mode else open(temporary, mode, newline="\n", **_ENCODING) as file,
    ):
        yield file


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_open(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1, default=str)
        file.write("\n")


def read_json(path: Path | str) -> Any:
    """Read one JSON file.

    Raises:
        MissingInputError: the file is absent or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError("a file is missing", where=path, todo="run the command that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MissingInputError(
            "a file is not JSON", where=path, found=error, todo="remove the file and run the command that writes it"
        ) from None


class Journal:
    """An append-only JSON-lines file that survives SIGKILL: a cut last line is dropped when it is opened again.

    Args:
        path: the file; made if absent.
        on_row: called with each row, those already there included, and the row's place for `read`. Without it the rows
            are kept in `rows`.
        seconds_to_disk: a row is with the system at once, so that no kill loses it; when the next one is appended so
            many seconds after the last flush to the disk, all are flushed (a flush takes milliseconds, and a power cut
            costs the rows since the last one).

    Raises:
        MissingInputError: another line than the last is broken, which no kill does. Nothing of the file is changed.
    """

    def __init__(
        self,
        path: Path | str,
        on_row: Callable[[dict[str, Any], int], None] | None = None,
        seconds_to_disk: float = 0.0,
    ):
        self.path = Path(path)
        make_folder_of(self.path)
        self.rows: list[dict[str, Any]] = []
        self._on_row = on_row or (lambda row, _: self.rows.append(row))
        self._seconds_to_disk, self._flushed = seconds_to_disk, time.monotonic()
        self._num_bytes = 0
        self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                self._refuse_unless_last(number, getattr(error, "msg", "not UTF-8"))
                break
            if not line.endswith(b"\n"):
                break
            self._take(row, line)
        self._file.truncate(self._num_bytes)

    def _refuse_unless_last(self, number: int, found: str) -> None:
        if self._file.read(1):
            self._file.close()
            raise MissingInputError(
                "a line of a journal is broken, and lines follow it",
                where=f"{self.path}:{number}",
                found=found,
                wanted="one JSON object a line; a kill breaks none but the last",
                todo=f"put the file back from a copy, or cut it off there (sed -i '{number},$d' FILE); then the same "
                "command, which makes again what was cut off",
            )

    def _take(self, row: dict[str, Any], line: bytes) -> None:
        self._on_row(row, self._num_bytes)
        self._num_bytes += len(line)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows; they are with the system, and by `seconds_to_disk` on the disk, before it returns."""
        lines = [(json.dumps(row, ensure_ascii=False) + "\n").encode(**_ENCODING) for row in rows]
        self._file.write(b"".join(lines))
        self._file.flush()
        if time.monotonic() - self._flushed >= self._seconds_to_disk:
            os.fsync(self._file.fileno())
            self._flushed = time.monotonic()
        for row, line in zip(rows, lines, strict=True):
            self._take(row, line)

    def read(self, place: int) -> dict[str, Any]:
        """The row at a place that `on_row` was given."""
        self._file.seek(place)
        return json.loads(self._file.readline())

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def fingerprint(value: Any) -> str:
    """A short hash of any JSON-able value; equal values give equal hashes whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(**_ENCODING)).hexdigest()[:16]


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_identity(path: Path | str) -> dict[str, Any]:
    """What identifies an input file cheaply (name, bytes, time of change): enough to see that it was replaced.

    Raises:
        MissingInputError: it is not there (any more), as when it was removed during a run; or it is a pipe or device.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise MissingInputError(
            "an input file is gone", where=path, todo="put it back, or give input without it and a new --output_dir"
        ) from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise MissingInputError("an input is no file but a pipe or device", where=path, todo="give files or folders")
    return {"name": Path(path).name, "num_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
