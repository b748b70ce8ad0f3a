"""What the report shows of stages and data, as plain values that its template draws."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from configs.files import read_json
from configs.progress import duration
from inference.scores.score_tables import percent
from inference.scoring import PREDICTIONS_FILE
from scripts.report_reading import READ_ERRORS, Stage, items, json_rows, language_name, number, numbers

STAGES = {
    "ocr": "books to text",
    "filter": "medical documents",
    "dedup": "duplicates removed",
    "decontaminate": "test questions removed",
    "prepare": "token blocks",
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "eval": "evaluation",
}
MAX_FAILURES, MAX_REASONS = 50, 500
_LOOKS = {"finished": "good", "running": "busy", "stopped": "busy"}
Values = dict[str, Any]


def chain(stages: list[Stage]) -> list[Values]:
    """The stages in their order: status, time, lives, failed items, command, error."""
    rows = []
    for stage in stages:
        seconds = number(stage.get("wall_seconds"))
        ended = stage.status in ("finished", "stopped", "failed")
        rows.append(
            {
                "place": stage.place,
                "stage": stage.name,
                "status": stage.status,
                "look": "busy" if stage.status == "finished" and stage.num_failed else _LOOKS.get(stage.status, "bad"),
                "duration": duration(seconds) if ended and seconds is not None else "–",
                "started": stage.get("started"),
                "lives": stage.get("lives"),
                "num_failed": stage.num_failed,
                "command": stage.get("command"),
                "settings": settings_of(stage),
                "slurm": ", ".join(f"{name} {value}" for name, value in items(stage.get("slurm")).items()),
                "progress": "" if stage.status == "finished" else progress(stage),
                "error": stage.problem or stage.get("error") or "",
            }
        )
    return rows


def settings_of(stage: Stage) -> list[tuple[str, str]]:
    """Name and value of all that was set, as JSON writes values; what was left unset is left out."""
    unset = (None, "", [], {})
    pairs = items(stage.get("settings")).items()
    return [(name, json.dumps(value, ensure_ascii=False)) for name, value in pairs if value not in unset]


def progress(stage: Stage) -> str:
    """How far a stage that has not finished came, by the files it keeps."""
    if stage.name == "eval":
        return f"{sum(1 for _ in json_rows(stage.folder / PREDICTIONS_FILE)):,} answers so far"
    last = next((row for row in reversed(stage.metrics) if number(row.get("num_steps"))), None)
    if not last:
        return ""
    left = number(last.get("seconds_left"))
    return f"step {last.get('step')} of {last['num_steps']}" + (f", {duration(left)} left then" if left else "")


def books(stages: list[Stage]) -> list[Values]:
    """Books read and failed, and pages by the way they were read, by language."""
    return [
        {
            "language": language_name(stage.lang),
            "status": stage.status,
            **{name: number(stage.get("result", name)) for name in ("books", "kept", "failed", "characters")},
            "pages": _list(numbers(stage.get("result", "pages_by_method")), None),
        }
        for stage in stages
        if stage.name == "ocr"
    ]


def documents(stages: list[Stage]) -> list[Values]:
    """Documents and characters kept and dropped, and why: by language in the filter, then of all languages."""
    rows = []
    for stage in stages:
        if stage.name not in ("filter", "dedup", "decontaminate"):
            continue
        content = _content(stage, "stats.json")
        read, kept = number(content.get("read")), number(content.get("kept"))
        characters = numbers(content.get("characters"))
        rows.append(
            {
                "step": STAGES[stage.name],
                "language": language_name(stage.lang) if stage.name == "filter" else "all",
                "status": stage.status,
                "read": read,
                "kept": kept,
                "share": min(1.0, max(0.0, kept / read)) if read and kept is not None else None,
                "rejected": number(content.get("rejected")),
                "reasons": _list(numbers(content.get("rejected_by_reason")), read),
                "characters": characters.get("kept"),
            }
        )
    return rows


def _list(counts: dict[str, int | float], whole: int | float | None) -> str:
    """Counts as words, largest first: "few keywords 976 (44.0 %), ..."."""
    largest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(
        f"{name.replace('_', ' ')} {count:,}" + (f" ({percent(count / whole)} %)" if whole else "")
        for name, count in largest
    )


def tokens(stages: list[Stage]) -> list[Values]:
    """Of each folder of token blocks: tokens by language, and its splits with their padding."""
    found = []
    for stage in stages:
        if stage.name != "prepare":
            continue
        content = _content(stage, "index.json")
        by_language = numbers(content.get("num_tokens_by_language"))
        total = sum(by_language.values())
        splits = [(str(name), numbers(split)) for name, split in items(content.get("splits")).items()]
        found.append(
            {
                "place": stage.place,
                "status": stage.status,
                "block_size": number(content.get("block_size")),
                "total": total,
                "languages": [
                    {"language": language_name(code), "tokens": count, "share": count / total if total else 0}
                    for code, count in sorted(by_language.items(), key=lambda pair: -pair[1])
                ],
                "splits": [
                    {"name": name, **{k: split.get(k) for k in ("num_documents", "num_tokens", "num_blocks")}}
                    | {"padding": percent(split.get("padding_share"))}
                    for name, split in splits
                ],
            }
        )
    return found


def _content(stage: Stage, name: str) -> Values:
    """A JSON file of the stage's folder over the result in its record."""
    try:
        return items(stage.get("result")) | items(read_json(stage.folder / name))
    except READ_ERRORS:
        return items(stage.get("result"))


def failures(stages: list[Stage]) -> Values:
    """All reasons with their counts (numbers in them left open), the first items, and what is not listed in a file."""
    reasons: Counter[tuple[str, str]] = Counter()
    first: list[Values] = []
    unlisted: list[Values] = []
    for stage in stages:
        listed = 0
        for row in json_rows(stage.folder / "failures.jsonl") if stage.num_failed else ():
            listed += 1
            reasons[stage.place, re.sub(r"\d[\d,.]*", "#", str(row.get("reason"))[:300])] += 1
            if len(first) < MAX_FAILURES:
                first.append({"place": stage.place, "where": row.get("where"), "reason": row.get("reason")})
        if listed != stage.num_failed:
            unlisted.append({"place": stage.place, "num_failed": stage.num_failed, "listed": listed})
    return {
        "total": sum(stage.num_failed for stage in stages),
        "reasons": [(*key, count) for key, count in reasons.most_common(MAX_REASONS)],
        "more_reasons": max(0, len(reasons) - MAX_REASONS),
        "items": first,
        "unlisted": unlisted,
    }


def environments(stages: list[Stage]) -> list[Values]:
    """Machine, commit, uncommitted changes and versions, once for all stages that share them."""
    found: dict[tuple, Values] = {}
    for stage in stages:
        if stage.problem:
            continue
        environment = {
            "machine": ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in items(stage.get("machine")).items()),
            "commit": str(stage.get("commit") or "unknown"),
            "changed": (stage.folder / "uncommitted.diff").is_file(),
            "versions": ", ".join(f"{name} {version}" for name, version in items(stage.get("versions")).items()),
        }
        found.setdefault(tuple(environment.values()), {**environment, "places": []})["places"].append(stage.place)
    return list(found.values())
