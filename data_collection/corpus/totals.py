"""The totals of a step over all its shards, from their markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from data_collection.corpus.documents import Document, Shard

MAX_SHOWN = 200
MAX_GROUPS = 20_000  # counted by name, of a shard and of all: a crawl may name each address as a source
OTHERS = "(others)"
Key = TypeVar("Key")


def capped(known: Collection[Key], key: Key, others: Key, limit: int) -> Key:
    """`key` where it is known or `known` holds less than `limit`, else `others`: no count grows with the corpus."""
    return key if key in known or len(known) < limit else others


class Tally:
    """What a shard's marker says of its documents."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._characters: Counter[str] = Counter()

    def add(self, document: Document, reason: str) -> None:
        """Count a document that was read, and rejected for `reason` where that is not empty."""
        key = (reason, document.lang, document.source, document.licence)
        self._counts[capped(self._counts, key, (reason, document.lang, OTHERS, OTHERS), MAX_GROUPS)] += 1
        self._characters["read"] += len(document.text)
        self._characters["kept"] += 0 if reason else len(document.text)

    def numbers(self) -> dict[str, Any]:
        kept = sum(number for (reason, *_), number in self._counts.items() if not reason)
        return {
            "read": self._counts.total(),
            "kept": kept,
            "rejected": self._counts.total() - kept,
            "characters": {name: self._characters[name] for name in ("read", "kept")},
            "counts": [[*key, number] for key, number in sorted(self._counts.items())],
        }


def summarise(marked: Iterable[tuple[Shard, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals of all shards.

    Returns:
        (statistics, the totals for the run record)
    """
    total: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {"language": Counter(), "source": Counter(), "licence": Counter()}
    for _, marker in marked:
        total.update(kept=marker["kept"], rejected=marker["rejected"])
        total.update(read=marker["read"], failed=len(marker["failed"]))
        characters.update(marker["characters"])
        passed_over.update(marker.get("passed_over", {}))
        for reason, *values, number in marker["counts"]:
            if reason:
                reasons[reason] += number
            else:
                for group, value in zip(groups.values(), values, strict=True):
                    group[capped(group, value or "(not stated)", OTHERS, MAX_GROUPS)] += number
    result = {
        **{name: total[name] for name in ("read", "kept", "rejected", "failed")},
        "rejected_by_reason": dict(sorted(reasons.items())),
        "characters": {name: characters[name] for name in ("read", "kept")},
    }
    statistics = dict(result)
    if passed_over:
        statistics["passed_over"] = dict(sorted(passed_over.items()))
    for name, group in groups.items():
        total_of_group, _ = group.total(), group.pop(OTHERS, 0)
        shown = dict(sorted(group.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_SHOWN])
        rest = total_of_group - sum(shown.values())
        statistics[f"kept_by_{name}"] = shown | ({OTHERS: rest} if rest else {})
    return statistics, result


def summarise_groups(
    markers: Iterable[tuple[Shard, dict[str, Any]]], names: Sequence[str], hide_unstated: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals of a step that keeps and rejects documents, with the reasons in each group of them.

    Args:
        markers: the shards with their markers, whose `counts` are rows of reason (empty for kept), one value for each
            of `names`, and number.
        names: what documents are grouped by.
        hide_unstated: leave a grouping out in which no document states a value.

    Returns:
        (statistics, the totals for the run record)
    """
    total: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    groups: dict[str, dict[str, Counter[str]]] = {name: {} for name in names}
    for _, marker in markers:
        total.update({name: marker[name] for name in ("read", "kept", "rejected")}, failed=len(marker["failed"]))
        characters.update(marker["characters"])
        for reason, *values, number in marker["counts"]:
            for name, value in zip(names, values, strict=True):
                group = groups[name]
                group.setdefault(capped(group, value, OTHERS, MAX_GROUPS), Counter())[reason or "kept"] += number
            if reason:
                reasons[reason] += number
    result = {
        **{name: total[name] for name in ("read", "kept", "rejected", "failed")},
        "rejected_by_reason": dict(sorted(reasons.items())),
        "characters": {name: characters[name] for name in ("read", "kept")},
    }
    shown = {name: group for name, group in groups.items() if not (hide_unstated and set(group) <= {""})}
    return {**result, **{f"by_{name}": _largest(group) for name, group in shown.items()}}, result


def _largest(groups: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    named = [pair for pair in groups.items() if pair[0] != OTHERS]
    largest = sorted(named, key=lambda pair: (-pair[1].total(), pair[0]))
    shown = [(name or "(not stated)", count) for name, count in largest[:MAX_SHOWN]]
    rest = Counter(groups.get(OTHERS, {}))
    for _, count in largest[MAX_SHOWN:]:
        rest.update(count)
    if rest:
        shown.append((OTHERS, rest))
    return {name: {"read": count.total(), **dict(sorted(count.items()))} for name, count in shown}
