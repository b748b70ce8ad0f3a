"""Errors for users, exit codes, and the list of items that failed while the run went on."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

from configs.progress import rank


class ExitCode(IntEnum):
    """The exit codes of every command in this repository (table in the README)."""

    DONE = 0
    BUG = 1
    SETTINGS = 2
    MISSING_INPUT = 3
    ENVIRONMENT = 4
    FAILED_ITEMS = 5
    STOPPED = 143  # as after SIGTERM: not done, the same command goes on


_OWN_PACKAGES = ("configs", "data_collection", "pretrain", "finetune", "inference", "scripts")
EXIT_CODE_FILE = "EXIT_CODE_FILE"  # environment variable: where processes under torchrun leave their exit code


class UserError(ValueError):
    """Something a user can put right. Carries the four parts that every message has.

    Args:
        what: what went wrong, one sentence.
        where: the file, line or setting it went wrong at.
        found: what was there (and, in the same part, what was wanted).
        wanted: what should have been there.
        todo: what to do about it.
    """

    exit_code = ExitCode.SETTINGS

    def __init__(self, what: str, *, where: str | Path = "", found: object = "", wanted: object = "", todo: str):
        self.what, self.where, self.found, self.wanted, self.todo = what, str(where), str(found), str(wanted), todo
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        """How it passes from a worker process to its parent, whose exit code it decides."""
        parts = {"where": self.where, "found": self.found, "wanted": self.wanted, "todo": self.todo}
        return functools.partial(type(self), self.what, **parts), ()

    def render(self) -> str:
        """The message as printed: one part a line, empty parts left out."""
        lines = [f"error: {self.what}"]
        for label, text in (
            ("where", self.where),
            ("found", self.found),
            ("wanted", self.wanted),
            ("what to do", self.todo),
        ):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class SettingsError(UserError):
    """Wrong arguments or settings."""

    exit_code = ExitCode.SETTINGS


class MissingInputError(UserError):
    """Input that is not there, empty or unreadable as a whole."""

    exit_code = ExitCode.MISSING_INPUT


class EnvironmentFailure(UserError):
    """A program, package, device or disk that is missing or full."""

    exit_code = ExitCode.ENVIRONMENT


MAX_FAILED_ITEMS = 100_000


class FailedItems:
    """Items that could not be used. Each is recorded with its reason; the run goes on and ends with exit code 5.

    The file is rewritten as a whole by `write`, so that a repeated run does not list an item twice. Of more than
    `MAX_FAILED_ITEMS` added (a huge binary file, of which each line fails) the last entry says how many there are.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, str]] = []
        self._num_more = 0

    def add(self, where: str | Path, reason: str) -> None:
        """Record that the item at `where` (file, or file:line) failed for `reason`, and say it on stderr.

        Of a training's processes, which all read the same rows, only the first says it.
        """
        if len(self.items) < MAX_FAILED_ITEMS:
            self.items.append({"where": str(where), "reason": reason})
        else:
            self._num_more += 1
            more = f"{self._num_more:,} more failed from the entry above to here; the last: {reason}"
            self.items[MAX_FAILED_ITEMS:] = [{"where": str(where), "reason": more}]
        if len(self.items) <= 20 and rank() == 0:  # the file has them all; a terminal full of them helps nobody
            print(f"failed: {where}: {reason}", file=sys.stderr)

    def __len__(self) -> int:
        return len(self.items)

    def write(self, path: Path) -> None:
        """Write one JSON line an item, or remove an older list when nothing failed."""
        from configs.files import atomic_open

        if not self.items:
            path.unlink(missing_ok=True)
            return
        with atomic_open(path) as file:
            for item in self.items:
                file.write(json.dumps(item, ensure_ascii=False) + "\n")

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.FAILED_ITEMS if self.items else ExitCode.DONE


def _setup_hint() -> str:
    return "activate the environment: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command"


def run(main: Callable[[], int | None]) -> None:
    """Call an entry script's `main`, turn what it raises into the right exit code, and exit.

    UserError gives its own code and its four parts; a missing package or program, a full disk and too little memory
    give 4; Ctrl-C gives 130; anything else is a bug (1) with its traceback.
    """
    code: int | None = ExitCode.DONE
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(error.render(), file=sys.stderr)
        code = error.exit_code
    except SystemExit as error:  # of one rank among several, whose launcher reads the code below
        if not isinstance(error.code, int):
            raise
        code = error.code
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _OWN_PACKAGES:
            raise
        problem = EnvironmentFailure(
            f"the package {error.name} is not installed", where=sys.executable, todo=_setup_hint()
        )
        print(problem.render(), file=sys.stderr)
        code = problem.exit_code
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE):
            traceback.print_exc()
            code = ExitCode.BUG
        else:
            problem = EnvironmentFailure(
                "a file could not be written or read",
                where=error.filename or os.getcwd(),
                found=error.strerror,
                todo="make room or change the permissions, then the same command: it goes on from where it was",
            )
            print(problem.render(), file=sys.stderr)
            code = problem.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except Exception as error:
        traceback.print_exc()
        code = ExitCode.BUG
        # torch has a class of its own for a GPU's memory; this package imports no torch.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            problem = EnvironmentFailure(
                "the memory of this machine or of its GPU is full", todo="smaller batches or lengths, or more memory"
            )
            print(problem.render(), file=sys.stderr)
            code = problem.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    code = int(code or 0)
    if code and EXIT_CODE_FILE in os.environ:
        with contextlib.suppress(FileExistsError), open(os.environ[EXIT_CODE_FILE], "x") as file:
            file.write(str(code))  # the first error is the cause; the others follow from it
        # torchrun would take it for a crash and kill the other processes.
        if code in (ExitCode.FAILED_ITEMS, ExitCode.STOPPED):
            code = 0
    sys.exit(code)
