"""Asking a server until each answer is good: every attempt with its reason in a journal, and none made twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from configs.errors import EnvironmentFailure
from configs.files import Journal, read_json
from configs.locks import hold
from configs.progress import Progress
from data_collection.llm.servers import Answer, Request, Server
from data_collection.questions.answers import without_thoughts

LATER_TEMPERATURE = 0.7  # the first attempt is greedy; the same again would be the same
SECONDS_TO_DISK = 1.0  # a flush for each answer would hold the others up: 6 ms on a busy disk
_BLANK_LINES = re.compile(r"\n\s*\n")


class Item(Protocol):
    """What a server is asked about, in one step or in several, each of which builds on the results before it."""

    @property
    def id(self) -> str: ...

    def request(self, attempt: int, earlier: list[Any]) -> Request:
        """What to ask in the step after those with the results `earlier`; `attempt` counts from 0."""

    def check(self, text: str, hit_limit: bool, earlier: list[Any]) -> tuple[Any, str]:
        """The result in the server's text without its thoughts, with one blank line for several (JSON-able), and what
        is wrong with it ("" for nothing)."""


def sampling(attempt: int) -> dict[str, Any]:
    """A request's options: the first attempt is greedy, each later one is sampled with a seed of its own."""
    return {"temperature": LATER_TEMPERATURE, "seed": attempt} if attempt else {}


class _State:
    """How far an item has come."""

    __slots__ = ("attempt", "places", "problem")

    def __init__(self) -> None:
        self.attempt = 0  # those that failed
        self.places: list[int] = []  # in the journal, of the good answers of the attempt in progress, a step each
        self.problem = ""  # of the last failed one


class Attempts:
    """The journal of all that a server answered, and from it how far each item has come.

    Results stay on the disk, so that memory grows by some hundred bytes an item.

    Args:
        path: the journal.
        num_steps: good answers that make an item good. Where one fails, the next attempt begins with the first step.

    Raises:
        SettingsError: another command is writing this journal.
    """

    def __init__(self, path: Path, num_steps: int = 1):
        self.num_steps, self.num_rows, self.cost = num_steps, 0, 0.0
        self.problems: Counter[str] = Counter()
        self._states: dict[str, _State] = {}
        self._hold = hold(path)
        self._journal = Journal(path, self._take, SECONDS_TO_DISK)

    def _take(self, row: dict[str, Any], place: int) -> None:
        state = self._states.setdefault(row["id"], _State())
        if row["problem"]:
            state.attempt, state.places, state.problem = row["attempt"] + 1, [], row["problem"]
        else:
            state.places.append(place)
        self.num_rows += 1
        self.cost += row["cost"]
        self.problems[re.sub(r"[:;(].*| [A-H](?:,| instead).*", "", row["problem"]).strip()] += 1

    def append(self, row: dict[str, Any]) -> None:
        self._journal.append([row])

    def tried(self, item_id: str) -> int:
        """How many attempts failed."""
        return self._states[item_id].attempt if item_id in self._states else 0

    def earlier(self, item_id: str) -> list[Any]:
        """The results of the steps that the attempt in progress has behind it."""
        state = self._states.get(item_id)
        return [self._journal.read(place)["result"] for place in state.places] if state else []

    def is_good(self, item_id: str) -> bool:
        """Whether the item has all its results."""
        return item_id in self._states and len(self._states[item_id].places) == self.num_steps

    def results(self, item_id: str) -> list[Any] | None:
        """The result of each step where the item is good, else None."""
        return self.earlier(item_id) if self.is_good(item_id) else None

    def last_problem(self, item_id: str) -> str:
        """What was wrong with the last attempt that failed."""
        return self._states[item_id].problem if item_id in self._states else "not asked"

    def close(self) -> None:
        self._journal.close()
        self._hold.close()


def ask_until_good(
    server: Server, items: Callable[[], Iterable[Item]], attempts: Attempts, max_attempts: int, progress: Progress
) -> None:
    """Ask until each item is good or had its attempts; those that the journal has are not made again.

    In rounds: all items their next step once, then those that are not done their next, and so on. A request that the
    server did not answer at all is no attempt. What the journal's attempts cost counts against the server's budget.

    Args:
        server: whom to ask.
        items: makes the items anew for each round, so that they need not be held in memory.
        attempts: the journal; the results are there.
        max_attempts: those of one item that may fail.
        progress: counts the items as they become good or are given up.

    Raises:
        EnvironmentFailure: the server did not answer for some items; all others had their attempts.
        SettingsError: see `Server.ask`; where it refuses all requests none of these counts as an attempt.
    """
    server.spent += attempts.cost
    rounds = _Rounds(server, attempts, max_attempts, progress)
    while rounds.num_asked:
        rounds.num_asked = 0
        server.ask(rounds.requests(items()), rounds.on_answer)
    rounds.finish()


class _Rounds:
    def __init__(self, server: Server, attempts: Attempts, max_attempts: int, progress: Progress):
        self.server, self.attempts, self.max_attempts, self.progress = server, attempts, max_attempts, progress
        self.num_asked = 1  # in this round
        self._in_flight: dict[str, tuple[Item, list[Any]]] = {}
        self._unanswered: dict[str, str] = {}

    def requests(self, items: Iterable[Item]) -> Iterator[Request]:
        for item in items:
            tried = self.attempts.tried(item.id)
            if item.id in self._in_flight or item.id in self._unanswered or self.attempts.is_good(item.id):
                continue
            if tried < self.max_attempts:
                earlier = self.attempts.earlier(item.id)
                self._in_flight[item.id] = item, earlier
                self.num_asked += 1
                yield item.request(tried, earlier)

    def on_answer(self, answer: Answer) -> None:
        item, earlier = self._in_flight.pop(answer.key)
        if answer.text is None and not answer.is_final:
            self._unanswered[answer.key] = answer.error or ""
            return
        result, problem = None, answer.error or ""
        if answer.text is not None:
            # A model that loops writes blank lines by the thousand, and patterns look for a line's end from each.
            text = _BLANK_LINES.sub("\n\n", without_thoughts(answer.text))
            result, problem = item.check(text, answer.hit_limit, earlier)
        row = {
            "id": answer.key,
            "attempt": self.attempts.tried(item.id),
            "step": len(earlier),
            "problem": problem,
            "result": result,
            "output": answer.text,
            "model": answer.model,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": answer.num_new_tokens,
            "num_tries": answer.num_tries,
            "cost": self.server.cost(answer.num_prompt_tokens, answer.num_new_tokens),
            "seconds": round(answer.seconds, 3),
        }
        self.attempts.append(row)
        if self.attempts.is_good(item.id) or self.attempts.tried(item.id) == self.max_attempts:
            self.progress.advance(1)

    def finish(self) -> None:
        self.progress.close()
        if self._unanswered:
            key, error = next(iter(self._unanswered.items()))
            raise EnvironmentFailure(
                f"{len(self._unanswered):,} {self.progress.unit} were not answered",
                where=self.server.settings.server_url,
                found=f"{key}: {error}",
                wanted="an answer to each",
                todo="the same command asks these again, and only these",
            )


def model_of_finished(output_dir: Path, asked: str | None) -> str | None:
    """The model of a finished run in the folder, where it may be the one asked for: its server need not answer."""
    path = output_dir / "run.json"
    old = read_json(path) if path.is_file() else {}
    model = (old.get("identity") or {}).get("model")
    return model if old.get("status") == "finished" and asked in (None, model) else None
