"""Output that one command at a time may write."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from configs.errors import SettingsError
from configs.files import make_folder_of
from configs.progress import log

SECONDS_TO_LOCK = 10.0  # a killed command's worker process ends a moment after it


def hold(path: Path) -> IO[str]:
    """Keep other commands from a journal until what is returned is closed or this process ends: two writers double
    rows, and cut each other's.

    Raises:
        SettingsError: another command has it, or where its folder should be is a file.
    """
    make_folder_of(path)
    file = open(path.with_name(f".{path.name}.lock"), "w")  # noqa: SIM115 - the caller's to close
    if not _lock(file, path):
        file.close()
        raise SettingsError(
            "another command is asking for the same output",
            where=path,
            todo="wait for it or end it; then the same command goes on from where it was",
        )
    return file


def _lock(file: IO[str], path: Path) -> bool:
    """Whether the file is ours alone; true also where the file system has no locks."""
    end = time.monotonic() + SECONDS_TO_LOCK
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        except OSError as error:
            log.info(f"{path} cannot be locked ({error.strerror}): give no second command the same output")
            return True
