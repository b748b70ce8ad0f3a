"""The marks of checkers in SQLite: each mark is a transaction of its own, nothing is overwritten, the last one counts.

A question that is not shared by all belongs to the checker who was shown it first, until an hour has passed without a
complete set of marks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from configs.languages import LANGUAGES
from data_collection.checking.agreement import CRITERIA, VALUES

CLAIM_SECONDS = 3600.0
COMMENT = "comment"
MAX_COMMENT = 5000  # characters
_TABLES = """
create table if not exists checkers (name text primary key, languages text not null, joined real not null);
create table if not exists claims (question text primary key, checker text not null, time real not null);
create table if not exists marks (number integer primary key, question text not null, checker text not null,
  field text not null, value text not null, time real not null);
create index if not exists marks_of on marks (checker, question);
"""


@dataclass(frozen=True)
class Asked:
    """A question of the check: its id, its language, and whether every checker of the language gets it."""

    id: str
    lang: str
    shared: bool


class MarkStore:
    """The marks of one folder; may be used by many threads and by several programs at once."""

    def __init__(self, path: Path):
        self.path = path
        path.touch(mode=0o600)  # it holds the names of people
        with self._connection() as connection:
            connection.executescript(_TABLES)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            # Where shared memory is impossible (some network file systems) SQLite stays with its older journal.
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")  # a mark survives a power cut once its writer has returned
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    def languages(self, checker: str) -> list[str] | None:
        """Codes of the languages that a checker reads; None for an unknown one."""
        with self._connection() as connection:
            row = connection.execute("select languages from checkers where name = ?", (checker,)).fetchone()
        return None if row is None else row[0].split()

    def join(self, checker: str, languages: Sequence[str]) -> None:
        """Add a checker, or change the languages of one."""
        with self._writing() as connection:
            connection.execute(
                "insert into checkers values (?, ?, ?) on conflict (name) do update set languages = excluded.languages",
                (checker, " ".join(code for code in LANGUAGES if code in languages), time.time()),
            )

    def mark(self, question: str, checker: str, fields: dict[str, str]) -> None:
        """Add marks in one transaction; those that are there already are not repeated.

        Raises:
            ValueError: a field or value that there is not.
        """
        for field, value in fields.items():
            if not (len(value) <= MAX_COMMENT if field == COMMENT else field in CRITERIA and value in VALUES):
                raise ValueError(f"no such mark: {field[:50]!r}, {value[:50]!r}")
        with self._writing() as connection:
            before = _fields(connection, question, checker)
            rows = [(question, checker, f, v, time.time()) for f, v in fields.items() if v != before.get(f, "")]
            connection.executemany(
                "insert into marks (question, checker, field, value, time) values (?, ?, ?, ?, ?)", rows
            )

    def fields(self, question: str, checker: str) -> dict[str, str]:
        """What a checker last said of a question: criterion or "comment" to value."""
        with self._connection() as connection:
            return _fields(connection, question, checker)

    def next_of(self, checker: str, questions: Sequence[Asked]) -> int | None:
        """The place in `questions` of the first one left for a checker, now theirs; None when all is done."""
        with self._writing() as connection:
            done_of, claims = _done_of(connection), _claims(connection)
            for place, question in enumerate(questions):
                claim = claims.get(question.id)
                if question.id not in done_of(checker) and _claim(connection, question, checker, claim, done_of):
                    return place
        return None

    def claim(self, checker: str, question: Asked) -> bool:
        """Whether a checker may mark this question: it is shared, or was marked by them, or nobody else has it."""
        with self._writing() as connection:
            if _fields(connection, question.id, checker):
                return True
            row = connection.execute("select checker, time from claims where question = ?", (question.id,)).fetchone()
            return _claim(connection, question, checker, row, _done_of(connection))

    def marked(self, checker: str) -> dict[str, bool]:
        """Questions that a checker has marked, the latest last, and whether every criterion was."""
        with self._connection() as connection:
            done = _done(connection, checker)
            rows = connection.execute(
                "select question from marks where checker = ? group by question order by max(number)", (checker,)
            )
            return {question: question in done for (question,) in rows}

    def num_left(self, checker: str, questions: Sequence[Asked]) -> int:
        """Questions that a checker could still be given."""
        with self._connection() as connection:
            done_of, claims = _done_of(connection), _claims(connection)
            return sum(
                question.id not in done_of(checker) and _is_free(question, checker, claims.get(question.id), done_of)
                for question in questions
            )

    def all_marks(self) -> dict[str, dict[str, dict[str, str]]]:
        """Question to checker to what they last said, questions and checkers in the order of their first mark."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        with self._connection() as connection:
            for question, checker, field, value in connection.execute(
                "select question, checker, field, value from marks order by number"
            ):
                found.setdefault(question, {}).setdefault(checker, {})[field] = value
        return found

    def checkers(self) -> list[str]:
        """Names in the order in which they joined."""
        with self._connection() as connection:
            return [name for (name,) in connection.execute("select name from checkers order by joined, name")]


_Claim = tuple[str, float]  # whose, since when


def _fields(connection: sqlite3.Connection, question: str, checker: str) -> dict[str, str]:
    return dict(
        connection.execute(
            "select field, value from marks where checker = ? and question = ? order by number", (checker, question)
        ).fetchall()
    )


def _done(connection: sqlite3.Connection, checker: str) -> set[str]:
    """Questions with a mark by the checker for every criterion: none can be taken back, only changed."""
    rows = connection.execute(
        "select question from marks where checker = ? and field != ? "
        "group by question having count(distinct field) = ?",
        (checker, COMMENT, len(CRITERIA)),
    )
    return {question for (question,) in rows}


def _claims(connection: sqlite3.Connection) -> dict[str, _Claim]:
    return {
        question: (owner, since)
        for question, owner, since in connection.execute("select question, checker, time from claims")
    }


def _done_of(connection: sqlite3.Connection) -> Callable[[str], set[str]]:
    """`_done` by checker, each looked up once: thousands of claims are of a few."""
    return cache(lambda checker: _done(connection, checker))


def _is_free(question: Asked, checker: str, claim: _Claim | None, done_of: Callable[[str], set[str]]) -> bool:
    if question.shared or claim is None or claim[0] == checker:
        return True
    return time.time() - claim[1] > CLAIM_SECONDS and question.id not in done_of(claim[0])


def _claim(
    connection: sqlite3.Connection,
    question: Asked,
    checker: str,
    claim: _Claim | None,
    done_of: Callable[[str], set[str]],
) -> bool:
    if not _is_free(question, checker, claim, done_of):
        return False
    if not question.shared:
        connection.execute("insert or replace into claims values (?, ?, ?)", (question.id, checker, time.time()))
    return True
