"""Choosing the thresholds of the medical filter from labelled documents, and saying how sure they are.

A document is matched once; everything after works on its three numbers. Thresholds are cross-validated with whole
sources held out, because documents of one source are alike: held out at random, they would test what they had taught.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_path
from configs.progress import Progress
from data_collection.corpus.documents import Document, Shard, read_shard
from data_collection.selection.keywords import KeywordMatcher
from data_collection.selection.thresholds import Thresholds, gain

LABELS = ("medical", "general")
BACKGROUND_DENSITY = 0.01  # what general texts have in the mean; no threshold is lower
MIN_FALSE_POSITIVES = 2  # one document more or less says nothing about a rate
BATCH_DOCUMENTS = 500


@dataclass(frozen=True)
class LabelledNumbers:
    """What decides about labelled documents, one row a document.

    Attributes:
        num_keywords: MKC, integers.
        density: DENS, 0 to 1.
        num_characters: lengths.
        medical: bool, the label.
        source: strings.
        digest: 64-bit hash of the text, which parts documents of one source into folds.
    """

    num_keywords: np.ndarray
    density: np.ndarray
    num_characters: np.ndarray
    medical: np.ndarray
    source: np.ndarray
    digest: np.ndarray

    def __len__(self) -> int:
        return len(self.medical)

    def rows(self, chosen: np.ndarray) -> LabelledNumbers:
        """The rows of a bool mask."""
        return LabelledNumbers(**{name: column[chosen] for name, column in vars(self).items()})

    def score(self) -> np.ndarray:
        """DENS as it compares with the threshold of a text of 500 characters, float64."""
        return self.density * gain(self.num_characters)

    def kept(self, thresholds: Thresholds) -> np.ndarray:
        """Which documents these thresholds keep, bool."""
        return thresholds.keep(self.num_keywords, self.density, self.num_characters)


def label_of(document: Document) -> str:
    """The label of a document, "medical" or "general".

    Raises:
        ValueError: it has none, or another one.
    """
    label = document.meta.get("label")
    if label not in LABELS:
        raise ValueError("no label" if label is None else f"label {label!r}, wanted medical or general")
    return label


def read_labelled(shards: Sequence[Shard], matcher: KeywordMatcher, failed: FailedItems) -> LabelledNumbers:
    """Match all labelled documents once. Those without a label, or in another language, are added to `failed`.

    Raises:
        MissingInputError: there is no document of one of the labels.
    """
    columns: dict[str, list[Any]] = {name: [] for name in LabelledNumbers.__dataclass_fields__}
    texts: list[str] = []

    def flush() -> None:
        found = matcher.match_array(pa.array(texts, pa.large_string()))
        for name in ("num_keywords", "density", "num_characters"):
            columns[name].extend(getattr(found, name).tolist())
        texts.clear()

    progress = Progress("match", len(shards), "files")
    for shard in shards:
        for document in read_shard(shard, failed, matcher.lang):
            try:
                label = label_of(document)
                if document.lang != matcher.lang:
                    raise ValueError(f"language {document.lang!r}, wanted {matcher.lang}")
            except ValueError as error:
                failed.add(f"{shard.name}: {document.id}", str(error))
                continue
            columns["medical"].append(label == "medical")
            columns["source"].append(document.source)
            columns["digest"].append(
                int.from_bytes(hashlib.blake2b(document.text.encode(), digest_size=8).digest(), "big")
            )
            texts.append(document.text)
            if len(texts) == BATCH_DOCUMENTS:
                flush()
        progress.advance()
    progress.close()
    flush()
    types = {"medical": np.bool_, "source": np.str_, "digest": np.uint64}
    numbers = LabelledNumbers(**{name: np.array(values, types.get(name)) for name, values in columns.items()})
    for label, count in zip(LABELS, (numbers.medical.sum(), (~numbers.medical).sum()), strict=True):
        if not count:
            raise MissingInputError(
                f"there is no document labelled {label}",
                where=", ".join(str(shard.paths[0]) for shard in shards),
                found=f"{len(numbers)} labelled documents in {matcher.lang}, {len(failed)} that could not be used",
                todo="give files whose rows have the field label, medical or general",
            )
    return numbers


def allowed_false_positives(num_general: int, max_rate: float) -> int:
    """How many general documents may be kept: the rate's share, or two where that is more."""
    return max(MIN_FALSE_POSITIVES, math.floor(max_rate * num_general + 1e-9))


def choose(numbers: LabelledNumbers, max_rate: float, wanted_recall: float, min_keywords: int) -> Thresholds:
    """The thresholds for these documents, with a given MKC.

    Two values bound DENS: below the one, more general documents are kept than allowed; above the other, less than
    `wanted_recall` of the medical. Taken is the middle between them (geometric mean), which is far from both, since
    both move with every sample of documents. Where nothing lies between them it is the first: false positives are
    bounded, recall is what comes of it.

    Args:
        max_rate: share of general documents that may be kept (`allowed_false_positives`).
        wanted_recall: share of medical documents to be kept, 0 to 1.
        min_keywords: MKC.
    """
    score = np.where(numbers.num_keywords >= min_keywords, numbers.score(), 0.0)
    general, medical = np.sort(score[~numbers.medical]), np.sort(score[numbers.medical])
    allowed = allowed_false_positives(len(general), max_rate)
    # DENS has to be above it
    bound = max(BACKGROUND_DENSITY, float(general[-1 - allowed]) if len(general) > allowed else 0.0)
    num_wanted = max(1, math.ceil(wanted_recall * len(medical) - 1e-9))
    middle = math.sqrt(bound * max(bound, float(medical[-num_wanted])))
    return Thresholds(min_keywords, _rounded_up(middle))


def _rounded_up(density: float) -> float:
    """The next larger number of three decimals: what was kept out stays out."""
    return (math.floor(density * 1000) + 1) / 1000


def fold_of(numbers: LabelledNumbers, num_folds: int) -> np.ndarray:
    """The fold that holds each document out, 0 to `num_folds` - 1.

    For each label apart: whole sources, the largest first into the smallest fold, where there are several sources
    (fewer sources than folds leave folds without that label); else by the hash of the text. Names that differ in
    capitals only are one source.
    """
    folds = np.zeros(len(numbers), np.int64)
    for label in (True, False):
        of_label = numbers.medical == label
        sources = np.strings.lower(numbers.source[of_label])
        names, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
        if len(names) < 2:
            folds[of_label] = (numbers.digest[of_label] % np.uint64(num_folds)).astype(np.int64)
            continue
        sizes = [0] * num_folds
        fold_of_source = np.zeros(len(names), np.int64)
        for source in np.argsort(-counts, kind="stable"):
            fold_of_source[source] = sizes.index(min(sizes))
            sizes[fold_of_source[source]] += counts[source]
        folds[of_label] = fold_of_source[inverse]
    return folds


def cross_validate(
    numbers: LabelledNumbers, max_rate: float, wanted_recall: float, min_keywords: int, num_folds: int
) -> tuple[LabelledNumbers, np.ndarray, list[dict[str, Any]]]:
    """Decide about every document by thresholds chosen without its fold.

    A fold without which a label has no document cannot be decided about.

    Returns:
        (the documents decided about; which of them were kept, bool; a record a fold: its thresholds, its sources, what
        was kept)
    """
    folds = fold_of(numbers, num_folds)
    kept, decided = np.zeros((2, len(numbers)), np.bool_)
    records = []
    for fold in range(num_folds):
        test = folds == fold
        train = numbers.rows(~test)
        if not test.any() or train.medical.all() or not train.medical.any():
            continue
        thresholds = choose(train, max_rate, wanted_recall, min_keywords)
        held_out = numbers.rows(test)
        decided |= test
        kept[test] = held_out.kept(thresholds)
        sources = {
            label: sorted(set(held_out.source[held_out.medical == (label == "medical")].tolist())) for label in LABELS
        }
        records.append({"thresholds": vars(thresholds), "sources": sources, **rates(held_out, kept[test])})
    return numbers.rows(decided), kept[decided], records


def wilson(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share, at 95 % by default (Wilson 1927, "Probable inference", J. Am. Stat. Assoc. 22).

    Args:
        count: how many of `total` are counted.
        total: 1 or more; of 0 the interval is (0, 1).
        z: quantile of the normal distribution.
    """
    if not total:
        return 0.0, 1.0
    share, denominator = count / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / denominator
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / denominator
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))  # rounding must not part them


def rates(numbers: LabelledNumbers, kept: np.ndarray) -> dict[str, dict[str, Any]]:
    """Recall and false positives of a decision: kept, of how many, the share and its 95 % interval."""
    found = {}
    for name, of_label in (("recall", numbers.medical), ("false_positives", ~numbers.medical)):
        count, total = int(kept[of_label].sum()), int(of_label.sum())
        low, high = wilson(count, total)
        share = count / total if total else None
        found[name] = {"kept": count, "of": total, "share": share, "low": low, "high": high}
    return found


def rates_by_source(numbers: LabelledNumbers, kept: np.ndarray) -> dict[str, dict[str, dict[str, int]]]:
    """For each label and source, how many documents were kept of how many, the largest source first."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for label in LABELS:
        of_label = numbers.medical == (label == "medical")
        names, inverse, counts = np.unique(numbers.source[of_label], return_inverse=True, return_counts=True)
        num_kept = np.bincount(inverse, weights=kept[of_label], minlength=len(names)).astype(int)
        order = np.argsort(-counts, kind="stable")
        table[label] = {str(names[i]): {"kept": int(num_kept[i]), "of": int(counts[i])} for i in order}
    return table


def draw(path: Path, numbers: LabelledNumbers, decided: dict[str, Thresholds], max_rate: float) -> None:
    """Draw the curves to a PNG file: what is kept as DENS rises, and recall against false positives.

    Args:
        path: the file.
        numbers: the labelled documents.
        decided: thresholds by the name under which they are marked; the first one's MKC is that of the curves.
        max_rate: the wanted share of false positives, drawn as a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(decided.values()))
    score = np.where(numbers.num_keywords >= first.min_keywords, numbers.score(), -1.0)
    steps = np.concatenate(([0.0], np.unique(score[score > 0])))
    shares = [
        1 - np.searchsorted(np.sort(score[of_label]), steps) / of_label.sum()
        for of_label in (numbers.medical, ~numbers.medical)
    ]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for label, share in zip(LABELS, shares, strict=True):
        left.step(steps, share, where="pre", label=label)
    left.axvline(first.min_density, color="grey", linestyle=":", label=f"chosen, {first.min_density:.3g}")
    left.set(
        xlabel=f"least DENS at 500 characters (MKC {first.min_keywords})",
        ylabel="share of documents kept",
        xlim=(0, min(0.5, float(steps[-1]) or 0.5)),
    )
    left.legend()
    right.step(shares[1], shares[0], where="pre")
    right.axvline(max_rate, color="grey", linestyle=":")
    for name, thresholds in decided.items():
        found = rates(numbers, numbers.kept(thresholds))
        x, y = found["false_positives"], found["recall"]
        errors = [[[share["share"] - share["low"]], [share["high"] - share["share"]]] for share in (x, y)]
        right.errorbar(x["share"], y["share"], xerr=errors[0], yerr=errors[1], fmt="o", capsize=3, label=name)
    right.set(xlabel="false positives", ylabel="recall", xlim=(-0.005, max(0.12, 4 * max_rate)), ylim=(0, 1.02))
    right.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
