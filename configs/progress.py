"""Progress and logs: a live line on a terminal, one line an interval in a log; what may be shown on one."""

from __future__ import annotations

import logging
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LOG_INTERVAL_SECONDS = 30.0
_SHOWN = "\n\t\u200c\u200d"


def printable(text: str) -> str:
    """The text without control characters, which could make a terminal do things.

    Spaces of all widths stay (Python calls French's and Japanese's not printable), and the joiners of Hindi and Arabic.
    """

    def is_shown(character: str) -> bool:
        return character.isprintable() or character in _SHOWN or unicodedata.category(character) == "Zs"

    return "".join(character if is_shown(character) else "\ufffd" for character in text)


def rank() -> int:
    """The process's rank in a torchrun job, 0 outside one."""
    return int(os.environ.get("RANK", "0"))


def set_up_logging() -> logging.Logger:
    """Logger of the whole repository on stderr: rank 0 says INFO, the others WARNING with their rank."""
    logger = logging.getLogger("mmedlm")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        prefix = "" if rank() == 0 else f"[rank {rank()}] "
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    return logger


log = set_up_logging()


def duration(seconds: float) -> str:
    """Seconds as people read them: 42s, 3m05s, 2h07m, 3d04h."""
    seconds = int(max(0, seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


class Progress:
    """Counts work done out of a total and says the speed and the time left.

    On a terminal one line is redrawn twice a second; elsewhere a line is logged every `LOG_INTERVAL_SECONDS`.
    Work that an earlier, interrupted run did is given as `done` and does not count in the speed.
    """

    def __init__(self, label: str, total: int | None, unit: str = "items", done: int = 0):
        self.label, self.total, self.unit, self.done, self._first = label, total, unit, done, done
        self._start = self._last = time.monotonic()
        self._live = sys.stderr.isatty() and rank() == 0
        self._interval = 0.5 if self._live else LOG_INTERVAL_SECONDS

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more, and show it when the interval has passed."""
        self.done += amount
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self._show(self.line(note))

    def line(self, note: str = "") -> str:
        """The progress as one line of text."""
        elapsed = time.monotonic() - self._start
        speed = (self.done - self._first) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.label}: {self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}"]
        if speed:
            parts.append(f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:,.1f} s each")
            if self.total:
                parts.append(f"{duration((self.total - self.done) / speed)} left")
        return ", ".join(parts) + (f", {note}" if note else "")

    def _show(self, text: str) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K" + text[:200])
            sys.stderr.flush()
        else:
            log.info(text)

    def close(self) -> None:
        """Print the last line."""
        elapsed = time.monotonic() - self._start
        if self._live:
            sys.stderr.write("\r\x1b[K")
        log.info(f"{self.label}: {self.done:,} {self.unit} in {duration(elapsed)}")


def track(items: Iterable[Item], label: str, total: int | None = None, unit: str = "items") -> Iterator[Item]:
    """Iterate over `items` showing progress."""
    progress = Progress(label, total if total is not None else getattr(items, "__len__", lambda: None)(), unit)
    for item in items:
        yield item
        progress.advance()
    progress.close()
