"""Who is answered next: a line of bounded length, and a limit on how often one visitor may ask."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 60.0


class MustWait(Exception):
    """A question is not taken now.

    Attributes:
        seconds: until the visitor may ask again; None when too many others are waiting.
    """

    def __init__(self, seconds: int | None = None):
        self.seconds = seconds
        super().__init__(f"ask again in {seconds} s" if seconds else "the line is full")


@dataclass(eq=False)
class Turn:
    """One question in the line.

    Attributes:
        session: the page that it was asked on.
        stopped: the visitor wants no further answer.
    """

    session: str
    _line: Line = field(repr=False)
    stopped: bool = False

    @property
    def num_ahead(self) -> int:
        """Questions that have to end before this one begins; 0 when it is its turn."""
        return max(0, self._line._turns.index(self) - self._line.num_at_once + 1)

    def leave(self) -> None:
        """Make room for the next."""
        self._line._turns.remove(self)


class Line:
    """The questions at work and those that wait, in the order in which they came. For one thread.

    Args:
        num_at_once: questions at work together.
        max_waiting: questions that may wait beside these.
        max_per_minute: questions that one address may ask within any minute.
        clock: seconds that only grow.
    """

    def __init__(
        self, num_at_once: int, max_waiting: int, max_per_minute: int, clock: Callable[[], float] = time.monotonic
    ):
        self.num_at_once, self.max_waiting, self.max_per_minute = num_at_once, max_waiting, max_per_minute
        self._turns: list[Turn] = []
        self._asked: dict[str, deque[float]] = {}
        self._clock = clock

    def __len__(self) -> int:
        return len(self._turns)

    def join(self, address: str, session: str) -> Turn:
        """Stand in the line; whoever does has to `leave` it.

        Raises:
            MustWait: the line is full, or the address has asked too often. Neither counts as a question.
        """
        now = self._clock()
        self._forget(now)
        asked = self._asked.get(address, ())
        if len(asked) >= self.max_per_minute:
            raise MustWait(math.ceil(asked[0] + WINDOW_SECONDS - now))
        if len(self._turns) >= self.num_at_once + self.max_waiting:
            raise MustWait
        self._asked.setdefault(address, deque()).append(now)
        self._turns.append(Turn(session, self))
        return self._turns[-1]

    def stop(self, session: str) -> None:
        """Say to every question of a page that its answer is not wanted any more."""
        for turn in self._turns:
            turn.stopped = turn.stopped or turn.session == session

    def _forget(self, now: float) -> None:
        """Drop what is older than the window: nothing is known of a visitor a minute later."""
        for address, asked in list(self._asked.items()):
            while asked and asked[0] <= now - WINDOW_SECONDS:
                asked.popleft()
            if not asked:
                del self._asked[address]
