"""The work of report.py: what a corpus holds, what each step dropped and why, and documents for a person to look at.

The folders of a chain (filter, duplicates, contamination, merge) record what they were made from, so one is enough:
the steps before it are found by their run.json.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import SettingsError
from configs.files import REPOSITORY, atomic_open, write_json
from configs.languages import LANGUAGES, language
from data_collection.corpus.corpus_counts import NOT_STATED, SHOWN_CHARACTERS, STEPS_PER_OCTAVE, Part, Totals, tokens_of
from data_collection.corpus.corpus_steps import Step
from data_collection.overlaps.decontamination import markdown_cell

PUBLISHED = REPOSITORY / "assets" / "published" / "mmedc_tokens_billion.csv"
MAX_SOURCE_COLUMNS, MAX_LISTED_SOURCES = 7, 200
_PLOT_WIDTH, _PLOT_HEIGHT = 320, 110
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _unit(largest: float) -> tuple[float, str]:
    """(divisor, name) with which the largest value of a table is 0.1 or more and short."""
    for divisor, name in ((1e9, "billion"), (1e6, "million")):
        if largest >= divisor / 10:
            return divisor, name
    return 1.0, ""


def _cell(value: float, divisor: float) -> str:
    return f"{value / divisor:,.2f}" if divisor > 1 and value else f"{value:,.0f}"


def _table(
    cells: dict[tuple[str, str], float], what: str, errors: dict[str, float | None] | None = None
) -> dict[str, Any]:
    """A table by language and source: the largest sources have columns, the others one together."""
    by_source: Counter[str] = Counter()
    by_lang: Counter[str] = Counter()
    for (lang, source), value in cells.items():
        by_source[source] += value
        by_lang[lang] += value
    ordered = sorted(by_source, key=lambda source: (-by_source[source], source))
    shown = ordered if len(ordered) <= MAX_SOURCE_COLUMNS + 1 else ordered[:MAX_SOURCE_COLUMNS]
    others = [source for source in ordered if source not in shown]
    divisor, unit = _unit(0 if what == "documents" else max(by_lang.values(), default=0))
    rows = []
    for lang in sorted(by_lang, key=lambda lang: (-by_lang[lang], lang)):
        values = [cells.get((lang, source), 0) for source in shown]
        values += [sum(cells.get((lang, source), 0) for source in others)] if others else []
        error = (errors or {}).get(lang, 0)
        note = (
            ""
            if errors is None or error == 0
            else "error unknown"
            if error is None
            else f"± {_cell(1.96 * error, divisor)}"
        )
        rows.append(
            [_language_name(lang), *(_cell(value, divisor) for value in values), _cell(by_lang[lang], divisor), note]
        )
    totals = [sum(cells.get((lang, source), 0) for lang in by_lang) for source in shown]
    totals += [sum(by_source[source] for source in others)] if others else []
    rows.append(["All", *(_cell(value, divisor) for value in totals), _cell(sum(by_lang.values()), divisor), ""])
    names = [source or NOT_STATED for source in shown] + ([f"{len(others)} others"] if others else [])
    return {"title": f"{what[0].upper()}{what[1:]}" + (f", {unit}s" if unit else ""), "columns": names, "rows": rows}


def _language_name(lang: str) -> str:
    return LANGUAGES[lang].name if lang in LANGUAGES else lang or NOT_STATED


def _dropped(steps: Sequence[Step], totals: Totals) -> tuple[list[dict[str, Any]], list[str]]:
    """Read, kept and dropped by reason of each step, in the order of the work, and what does not add up."""
    rows, notices = [], []
    for step in reversed(steps):
        reasons: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for (reason, *_), numbers in totals.groups.get(step.label, {}).items():
            reasons[reason] += int(numbers[0])
            characters[reason] += int(numbers[1])
        dropped = reasons.total()
        read, kept, rejected = (step.statistics.get(name) for name in ("read", "kept", "rejected"))
        if isinstance(rejected, int) and rejected != dropped:
            notices.append(f"{step.label}: stats.json says {rejected:,} rejected, rejected/ holds {dropped:,}")
        if all(isinstance(value, int) for value in (read, kept, rejected)) and read != kept + rejected:
            notices.append(f"{step.label}: stats.json says {read:,} read, {kept:,} kept and {rejected:,} rejected")
        if step.record and step.record.get("status") != "finished":
            notices.append(f"{step.label}: its run is not finished but {step.record.get('status')}")
        if step.record or dropped:
            rows.append(
                {
                    "step": step.label,
                    "read": read if isinstance(read, int) else None,
                    "kept": kept if isinstance(kept, int) else None,
                    "dropped": dropped,
                    "reasons": [
                        {"reason": reason, "documents": number, "characters": characters[reason]}
                        for reason, number in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
                    ],
                }
            )
    return rows, notices


def corpus_record(steps: Sequence[Step], totals: Totals, tokenizer: str | None, share: float) -> dict[str, Any]:
    """corpus.json: the facts from which a dataset card is written."""
    tokens, errors = tokens_of(totals, share) if tokenizer else ({}, {})
    languages: dict[str, dict[str, Any]] = {}
    sources: dict[tuple[str, str], dict[str, Any]] = {}
    for (_, lang, source, licence), numbers in sorted(totals.groups[""].items()):
        documents, characters, num_bytes, words = numbers.tolist()
        of_language = languages.setdefault(lang, dict.fromkeys(("documents", "characters", "bytes", "words"), 0))
        of_source = sources.setdefault(
            (lang, source), {"lang": lang, "source": source, "licences": {}, "documents": 0, "characters": 0}
        )
        for name, value in (
            ("documents", documents),
            ("characters", characters),
            ("bytes", num_bytes),
            ("words", words),
        ):
            of_language[name] += value
        of_source["documents"] += documents
        of_source["characters"] += characters
        of_source["licences"][licence or NOT_STATED] = of_source["licences"].get(licence or NOT_STATED, 0) + documents
    for lang, row in languages.items():
        if lang in LANGUAGES and not language(lang).spaced:
            row["words"] = None  # no spaces, no words to count
        if tokenizer:
            known = lang in errors  # else none of its documents fell into the sample
            row["tokens"] = round(sum(value for (of, _), value in tokens.items() if of == lang)) if known else None
            row["tokens_standard_error"] = errors.get(lang)
    for key, row in sources.items():
        if tokenizer:
            row["tokens"] = round(tokens.get(key, 0))
    dropped, notices = _dropped(steps, totals)
    if tokenizer:
        unknown = [lang or NOT_STATED for lang in languages if lang not in errors]
        notices += [f"{lang}: no document was sampled, so its tokens are not in the total" for lang in unknown]
    return {
        "documents": sum(row["documents"] for row in languages.values()),
        "characters": sum(row["characters"] for row in languages.values()),
        "bytes": sum(row["bytes"] for row in languages.values()),
        "tokens": {
            "tokenizer": tokenizer,
            "method": None
            if not tokenizer
            else "exact"
            if share >= 1
            else f"estimated from {share:.2%} of the documents",
            "sampled_share": share,
            "total": round(sum(tokens.values())) if tokenizer else None,
        },
        "languages": languages,
        "sources": list(sources.values()),
        "dropped": dropped,
        "notices": notices,
        "steps": [
            {
                "label": step.label,
                "folder": str(step.folder),
                "is_corpus": step.is_corpus,
                **{
                    name: step.record.get(name)
                    for name in (
                        "stage",
                        "status",
                        "command",
                        "settings",
                        "identity",
                        "fingerprint",
                        "started",
                        "finished",
                    )
                },
                **{name: step.record.get(name) for name in ("failed_items", "versions", "commit", "result")},
            }
            for step in reversed(steps)
        ],
    }


def _plots(kept: dict[str, Counter[int]], dropped: dict[str, Counter[int]]) -> list[dict[str, Any]]:
    """A histogram a language: the share of documents in each bin, kept and dropped, as outlines of SVG paths."""
    plots = []
    for lang in sorted({*kept, *dropped}, key=lambda lang: (-kept.get(lang, Counter()).total(), lang)):
        counters = {"kept": kept.get(lang, Counter()), "dropped": dropped.get(lang, Counter())}
        bins = [number for counter in counters.values() for number in counter]
        if not bins:
            continue
        first, last = min(bins), max(bins) + 1
        top = max(counter[b] / counter.total() for counter in counters.values() for b in counter)
        width = _PLOT_WIDTH / (last - first)
        paths = []
        for name, counter in counters.items():
            if total := counter.total():
                path = f"M0,{_PLOT_HEIGHT}"
                for number in range(first, last):
                    height = _PLOT_HEIGHT * (1 - counter[number] / total / top)
                    left = (number - first) * width
                    path += f"L{left:.1f},{height:.1f}L{left + width:.1f},{height:.1f}"
                paths.append({"name": name, "documents": total, "path": f"{path}L{_PLOT_WIDTH},{_PLOT_HEIGHT}Z"})
        ticks, power = [], 0
        while (place := STEPS_PER_OCTAVE * math.log2(10**power + 1)) < last:
            if place >= first:
                ticks.append({"x": round((place - first) * width, 1), "label": f"{10**power:,}"})
            power += 1
        plots.append({"language": _language_name(lang), "top": f"{top:.0%}", "paths": paths, "ticks": ticks})
    return plots


def _samples(totals: Totals, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Documents to show: kept ones by language, then dropped ones by step, reason and language."""
    shown = []
    for step in ["", *(step.label for step in reversed(steps))]:
        if step not in totals.samples:
            continue
        for reason, lang, _, document in totals.samples[step].rows():
            title = f"{step}: {reason}" if step else "kept"
            title += f", {_language_name(lang)}"
            if not shown or shown[-1]["title"] != title:
                shown.append({"title": title, "lang": lang, "documents": []})
            shown[-1]["documents"].append(document)
    return shown


def _published() -> dict[str, Any]:
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    return {"columns": columns[1:], "rows": rows}


def write_report(
    marked: Iterable[tuple[Part, dict[str, Any]]],
    *,
    steps: Sequence[Step],
    output_dir: Path,
    tokenizer: str | None,
    share: float,
    num_samples: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write report.html, report.md and corpus.json.

    Returns:
        (statistics, the totals for the run record)

    Raises:
        SettingsError: a file was counted otherwise than its step says.
    """
    totals = Totals(num_samples)
    for part, marker in marked:
        totals.add(part, marker)
    record = corpus_record(steps, totals, tokenizer, share)
    expected = [step.statistics.get("kept") for step in steps if step.is_corpus]
    if all(isinstance(number, int) for number in expected) and sum(expected) != record["documents"] + totals.num_unread:
        raise SettingsError(
            "the corpus does not hold the documents that its steps kept",
            where=", ".join(str(step.folder) for step in steps if step.is_corpus),
            found=f"{record['documents']:,} documents and {totals.num_unread:,} that cannot be read",
            wanted=f"{sum(expected):,}, as stats.json says",
            todo="run the step again in a new folder",
        )
    write_json(output_dir / "corpus.json", record)
    values = _page_values(record, steps, totals, tokenizer, share)
    for name, text in (("report.html", _render(values)), ("report.md", _markdown(values))):
        with atomic_open(output_dir / name) as file:
            file.write(text)
    numbers = {name: record[name] for name in ("documents", "characters", "bytes")}
    numbers["tokens"] = record["tokens"]["total"]
    return {**numbers, "notices": record["notices"]}, numbers


def _page_values(
    record: dict[str, Any], steps: Sequence[Step], totals: Totals, tokenizer: str | None, share: float
) -> dict[str, Any]:
    cells: dict[str, Counter[tuple[str, str]]] = {"characters": Counter(), "words": Counter(), "documents": Counter()}
    for (_, lang, source, _), (documents, characters, _, words) in totals.groups[""].items():
        cells["documents"][lang, source] += int(documents)
        cells["characters"][lang, source] += int(characters)
        if lang not in LANGUAGES or language(lang).spaced:
            cells["words"][lang, source] += int(words)
    tables = []
    if tokenizer:
        tokens, errors = tokens_of(totals, share)
        tables.append(_table(tokens, "tokens", None if share >= 1 else errors))
    tables += [_table(dict(counter), what) for what, counter in cells.items() if counter]
    listed = sorted(record["sources"], key=lambda row: (-row["characters"], row["lang"], row["source"]))
    return {
        "title": " + ".join(step.folder.name for step in steps if step.is_corpus),
        "record": record,
        "tables": tables,
        "sources": [
            {**row, "language": _language_name(row["lang"]), "source": row["source"] or NOT_STATED}
            for row in listed[:MAX_LISTED_SOURCES]
        ],
        "num_more_sources": max(0, len(listed) - MAX_LISTED_SOURCES),
        "published": _published(),
        "lengths": _plots(totals.lengths[False], totals.lengths[True]),
        "keywords": _plots(totals.keywords[False], totals.keywords[True]),
        "samples": _samples(totals, steps),
        "shown_characters": SHOWN_CHARACTERS,
        "num_failed": totals.num_failed,
    }


def clean(value: object) -> str:
    """Any value as text that can be shown: no control characters, nothing that turns the direction of what follows."""
    return "–" if value is None else _UNSEEN.sub("�", str(value))


def _render(values: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, REPOSITORY / "configs"]),
        autoescape=True,
        # What has __html__ is what a macro of the template made, its values cleaned and escaped.
        finalize=lambda value: value if hasattr(value, "__html__") else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("corpus_page.html").render(values)


def _markdown(values: dict[str, Any]) -> str:
    record = values["record"]
    lines = [f"# Corpus {markdown_cell(clean(values['title']))}", ""]
    lines += [f"{record['documents']:,} documents, {record['characters']:,} characters, {record['bytes']:,} bytes.", ""]
    if record["tokens"]["tokenizer"]:
        tokens = record["tokens"]
        lines += [f"{tokens['total']:,} tokens of {markdown_cell(tokens['tokenizer'])}, {tokens['method']}.", ""]
    lines += [f"**{markdown_cell(clean(notice))}**\n" for notice in record["notices"]]
    for table in values["tables"]:
        columns = ["language", *table["columns"], "all"]
        lines += [f"## {table['title']}", "", *_rows(columns, table["rows"]), ""]
    lines += ["## Dropped", ""]
    for step in record["dropped"]:
        read, kept = ("–" if step[name] is None else f"{step[name]:,}" for name in ("read", "kept"))
        lines += [f"{markdown_cell(step['step'])}: {read} read, {kept} kept, {step['dropped']:,} dropped.", ""]
        rows = [[row["reason"], f"{row['documents']:,}", f"{row['characters']:,}"] for row in step["reasons"]]
        lines += [*_rows(["reason", "documents", "characters"], rows), ""] if rows else []
    rows = [
        [row["language"], row["source"], ", ".join(row["licences"]), f"{row['documents']:,}", f"{row['characters']:,}"]
        for row in values["sources"]
    ]
    lines += ["## Sources", "", *_rows(["language", "source", "licence", "documents", "characters"], rows), ""]
    if values["num_more_sources"]:
        lines += [f"And {values['num_more_sources']:,} smaller sources, in corpus.json.", ""]
    return "\n".join(lines)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    width = max([len(columns), *map(len, rows)])
    yield "| " + " | ".join(markdown_cell(clean(cell)) for cell in [*columns, *[""] * (width - len(columns))]) + " |"
    yield "|---" * width + "|"
    for row in rows:
        yield "| " + " | ".join(markdown_cell(clean(cell)) for cell in row) + " |"
