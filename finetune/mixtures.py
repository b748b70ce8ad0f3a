"""Mixtures: several data sets in one training, how often each row is taught and in what order.

A setting `mixture` maps the path of each data set to its options:

    mixture:
      data/mmedbench: {weight: 2, priority: 2}
      data/rewritten/books.jsonl: {priority: 16}

`weight` is how often each row is taught in a pass over the mixture (1 by default; a fraction takes that share of the
rows). `priority` orders them: rows are drawn without replacement, each with a chance proportional to its priority among
those that are left, as for Medbase and Apollo (16 for rewritten corpora, code and mathematics, 2 for exams, dialogues
and general instructions). Equal priorities are a plain shuffle.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import FailedItems, SettingsError
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.conversations import Conversation, find_conversation_files, read_conversations


@dataclass(frozen=True)
class Source:
    """One data set of a mixture.

    Attributes:
        path: folder of questions (Train/LANGUAGE.jsonl), or file or folder of conversations (.jsonl).
        weight: how often each row is taught in one pass.
        priority: chance to come next, against the others' rows.
    """

    path: Path
    weight: float = 1.0
    priority: float = 1.0


def parse_mixture(mixture: Mapping[str, Any]) -> list[Source]:
    """The data sets of a setting `mixture`, in its order.

    Raises:
        SettingsError: naming every wrong option, with near names.
    """
    names = [field.name for field in fields(Source) if field.name != "path"]
    sources, problems = [], []
    for path, options in mixture.items():
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            problems.append(f"{path}: wants {{weight: ..., priority: ...}}, found {options!r}")
            continue
        for name, value in options.items():
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                problems.append(f"{path}: unknown option {name!r}" + (f"; near: {near[0]}" if near else ""))
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                problems.append(f"{path}: {name} wants a number above 0, found {value!r}")
        sources.append(Source(Path(path), **{name: options[name] for name in names if name in options}))
    if problems or not sources:
        raise SettingsError(
            "the mixture cannot be used",
            where="mixture",
            found="\n    ".join(["", *problems]) if problems else "no data set",
            wanted=f"PATH: {{{', '.join(f'{name}: NUMBER' for name in names)}}} for each data set",
            todo="correct them",
        )
    return sources


def read_source(
    source: Source, languages: list[str] | None, failed: FailedItems
) -> list[Question] | list[Conversation]:
    """All usable rows of a data set: training questions, or conversations where there is no folder of questions.

    Raises:
        MissingInputError: there are neither.
    """
    if any((source.path / part).is_dir() for part in ("mmedbench", "Train")):
        files = find_files(source.path, "Train", languages).values()
        return [question for path in files for question in read_questions(path, "Train", failed)]
    return [row for path in find_conversation_files(source.path) for row in read_conversations(path, failed)]


def mixing_order(counts: Sequence[int], sources: Sequence[Source], seed: int) -> np.ndarray:
    """One pass over a mixture, (n, 2): (source, row), n = sum of round(count * weight). Deterministic.

    A row of weight 2.5 comes twice, and half of the rows, drawn by the seed, a third time. The order is a weighted draw
    without replacement: sorting by Exp(1) / priority gives exactly that (Efraimidis and Spirakis 2006, Weighted random
    sampling with a reservoir, section 2, in logarithms).

    Args:
        counts: (number of sources,) rows of each source.
    """
    draw = np.random.default_rng(seed)
    chosen, keys = [], []
    for number, (count, source) in enumerate(zip(counts, sources, strict=True)):
        whole = int(source.weight)
        extra = round(count * source.weight) - count * whole
        rows = np.concatenate([np.tile(np.arange(count), whole), draw.permutation(count)[:extra]]).astype(np.int64)
        chosen.append(np.stack([np.full(len(rows), number), rows], axis=1))
        keys.append(draw.exponential(1 / source.priority, size=len(rows)))
    return np.concatenate(chosen)[np.argsort(np.concatenate(keys), kind="stable")]
