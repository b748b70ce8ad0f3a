"""A folder of questions in MMedBench's layout as a stream: read as often as needed, never held as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import atomic_open, fingerprint
from configs.languages import language
from data_collection.questions.mmedbench import Split, find_files, read_questions, to_row
from data_collection.questions.question import Question
from data_collection.questions.question_figures import Figures, write_figures

SPLITS: tuple[Split, ...] = ("Train", "Test")


class Heard(FailedItems):
    """Takes what was listed when it was read the first time."""

    def add(self, where: str | Path, reason: str) -> None:
        pass


class QuestionFiles:
    """The questions of a folder's Train and Test, in some languages or all.

    Attributes:
        numbers: questions by language.
        identity: a hash of everything that they say.

    Args:
        output_dir: where questions will be written; None where none are.

    Raises:
        MissingInputError: there are none, or none in one of the languages.
        SettingsError: they would be written over themselves.
    """

    def __init__(self, folder: Path, languages: list[str] | None, failed: FailedItems, output_dir: Path | None = None):
        if output_dir and output_dir.resolve() == folder.resolve():
            raise SettingsError(
                "the questions would be written over themselves",
                where=output_dir,
                wanted="another folder",
                todo="give another --output_dir",
            )
        wanted = {language(name).code for name in languages or ()}
        self._files: list[tuple[Split, Path]] = []
        for split in SPLITS:
            try:
                found = find_files(folder, split)
            except MissingInputError:
                continue
            self._files += [(split, path) for code, path in found.items() if not wanted or code in wanted]
        self.numbers: Counter[str] = Counter()
        hashes = []
        for _, question in self.read(failed):
            self.numbers[question.lang] += 1
            hashes.append(fingerprint({**to_row(question), "id": question.id}))
        self.identity = fingerprint(hashes)
        missing = wanted - set(self.numbers)
        if missing or not self.numbers:
            raise MissingInputError(
                "there are no questions" + (f" in {', '.join(sorted(missing))}" if missing else ""),
                where=folder,
                wanted="Train/LANGUAGE.jsonl or Test/LANGUAGE.jsonl",
                todo="give a folder of questions in MMedBench's layout to --input",
            )

    def read(self, failed: FailedItems | None = None) -> Iterator[tuple[Split, Question]]:
        """Each question with its split; rows that cannot be used go to `failed`."""
        for split, path in self._files:
            for question in read_questions(path, split, failed if failed is not None else Heard()):
                yield split, question


def write_questions(questions: Iterable[tuple[Split, Question]], output_dir: Path) -> None:
    """Write questions to Train/ and Test/LANGUAGE.jsonl as they come; the files appear together at the end.

    What they hold is counted on the way: statistics.json, .md and .csv.
    """
    figures = Figures()
    with ExitStack() as stack:
        files = {}
        for split, question in questions:
            figures.add(split, question)
            path = output_dir / split / f"{language(question.lang).name}.jsonl"
            if path not in files:
                files[path] = stack.enter_context(atomic_open(path))
            files[path].write(json.dumps(to_row(question), ensure_ascii=False) + "\n")
    write_figures(figures.record(), output_dir)
