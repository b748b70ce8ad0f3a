"""The work of compare.py: two runs' answers to the same questions, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, SettingsError
from configs.files import REPOSITORY, atomic_open, fingerprint, write_json
from configs.languages import LANGUAGES, language
from data_collection.overlaps.decontamination import markdown_cell
from data_collection.questions.answers import parse_answer
from data_collection.questions.question import is_correct
from inference import scoring
from inference.scores import comparison
from inference.scores.runs import Shared, read_runs, require_shared, scoring_identity, shared_questions
from inference.scores.score_tables import NOTICE, percent
from inference.scores.table_formats import bold, markdown
from inference.scoring import RATIONALE_SCORES, Row, extract_rationale
from inference.visible_text import clean

OUTCOMES = {
    "both_right": "both right",
    "first_only": "only the first right",
    "second_only": "only the second right",
    "none_right": "neither right",
}
MOST_CHARACTERS = 100_000  # of a text in a case study
ALL = "all"  # of the languages together, in the counts
Case = dict[str, Any]


def compare_runs(settings: Any) -> int:
    """Read, pair, count, write; returns the exit code (5 when rows could not be used)."""
    failed = FailedItems()
    runs, hashes = read_runs(settings.runs, settings.labels, failed)
    chosen = {name: getattr(settings, name) for name in ("question", "languages", "kind", "outcomes", "page_cases")}
    identity = {
        "runs": hashes,
        "chosen": chosen,
        "scoring": scoring_identity(),
    }
    if done := records.already_done(settings.output_dir, identity):
        print(settings.output_dir / "comparison.html")
        return records.exit_code(done)
    pairs, lone = shared_questions({label: choose(rows, settings) for label, rows in runs.items()}, failed)
    _require_asked(pairs, settings.question or [])
    require_shared(pairs, runs)
    with records.run_record(settings.output_dir, "compare", asdict(settings), identity) as record:
        first, second = runs
        marks = [scoring.mark([pair[label] for pair in pairs]) for label in runs]
        cases = [case for case in cases_of(pairs, *marks) if case["outcome"] in (settings.outcomes or OUTCOMES)]
        counts = count(comparison.compare(*marks), *marks)
        about = {"first": first, "second": second, "only_in_first": lone[first], "only_in_second": lone[second]}
        _write(settings, about, counts, cases)
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), num_pairs=len(pairs), **about)
    shown = "case_study.md" if settings.question else "comparison.md"
    print((settings.output_dir / shown).read_text(encoding="utf-8"))
    print(settings.output_dir / "comparison.html")
    return failed.exit_code


def choose(rows: list[Row], settings: Any) -> list[Row]:
    """The rows of the languages, the kind and the questions asked for."""
    codes = {language(name).code for name in settings.languages or LANGUAGES}
    return [
        row
        for row in rows
        if row["lang"] in codes
        and settings.kind in (None, row["kind"])
        and (settings.question is None or row["id"] in settings.question)
    ]


def _require_asked(pairs: list[Shared], wanted: list[str]) -> None:
    missing = sorted(set(wanted) - {row["id"] for pair in pairs for row in pair.values()})
    if missing:
        raise SettingsError(
            f"{len(missing)} of the questions asked for are not in both runs",
            where="--question",
            found=", ".join(missing[:5]),
            wanted="ids that both files have",
            todo="the field id of predictions.jsonl and of differences.jsonl names them",
        )


def cases_of(pairs: list[Shared], first: list[Row], second: list[Row]) -> list[Case]:
    """One entry a question and kind, both answers in it, in the order of the pairs.

    Args:
        first, second: `scoring.mark` of each side of the pairs.
    """
    marks = [{(mark["kind"], mark["id"]): mark for mark in of} for of in (first, second)]
    cases = []
    for pair in pairs:
        row = next(iter(pair.values()))
        sides = [_side(of, by_id[row["kind"], row["id"]]) for of, by_id in zip(pair.values(), marks, strict=True)]
        cases.append(
            {
                **{name: row.get(name) for name in ("id", "lang", "kind", "order")},
                "outcome": _outcome(*(side["right"] for side in sides)),
                "question": row.get("question", ""),
                "options": row["options"],
                "gold": row["gold"],
                "reference": row["rationale"],
                "first": sides[0],
                "second": sides[1],
            }
        )
    return cases


def _outcome(first: float, second: float) -> str:
    """Of two correctnesses; where options were shuffled these are shares of the orders: half of them is right, and
    "only" means more often."""
    if first == second:
        return "both_right" if first >= 0.5 else "none_right"
    return "first_only" if first > second else "second_only"


def _side(row: Row, mark: Row) -> dict[str, Any]:
    parsed = parse_answer(row["output"], row["options"])
    # Of shuffled options the mark is a mean over the orders, which is no score of this output.
    names = RATIONALE_SCORES if row.get("order") is None else ()
    scores = {name: mark[name] for name in names if mark.get(name) is not None}
    return {
        "parsed": list(parsed) if parsed else None,
        "right": is_correct(parsed, row["gold"]),
        "rationale": extract_rationale(row["output"]) if row["kind"] == "with_rationale" else "",
        "output": row["output"],
        "hit_limit": row["hit_limit"],
        **scores,
    }


def count(compared: dict[str, dict[str, Any]], first: list[Row], second: list[Row]) -> dict[str, dict[str, Any]]:
    """Kind to language code, and to "all", to how many questions had each outcome, and `comparison.compare`'s values.

    Args:
        compared: what `comparison.compare` gives of the two.
        first, second: marks of both runs on the same questions, in the same order.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, by_language in compared.items():
        found[kind] = {}
        for code, values in by_language.items():
            of = [
                (a, b)
                for a, b in zip(first, second, strict=True)
                if a["kind"] == kind and (code not in LANGUAGES or a["lang"] == code)
            ]
            outcomes = [_outcome(a["accuracy"], b["accuracy"]) for a, b in of]
            found[kind][code if code in LANGUAGES else ALL] = {
                "num_questions": len(of),
                **{f"num_{name}": outcomes.count(name) for name in OUTCOMES},
                "num_unparsed_first": sum(a["unparsed"] for a, _ in of),
                "num_unparsed_second": sum(b["unparsed"] for _, b in of),
                **values,
            }
    return found


def _write(settings: Any, about: dict[str, Any], counts: dict[str, dict[str, Any]], cases: list[Case]) -> None:
    folder = settings.output_dir
    definitions = comparison.DEFINITIONS | {"all": "all languages together; accuracy difference and scores are means"}
    write_json(folder / "comparison.json", {**about, "definitions": definitions, "counts": counts})
    with atomic_open(folder / "differences.jsonl") as file:
        for case in cases:
            file.write(json.dumps(case, ensure_ascii=False) + "\n")
    with atomic_open(folder / "comparison.md") as file:
        file.write(render_markdown(about, counts))
    if settings.question:
        with atomic_open(folder / "case_study.md") as file:
            file.write(case_study(about, cases))
    with atomic_open(folder / "comparison.html") as file:
        file.write(render_page(about, counts, cases, len(cases) if settings.question else settings.page_cases))


def _count_rows(counts: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = []
    for kind, by_language in counts.items():
        for code, values in by_language.items():
            row = [LANGUAGES[code].name if code in LANGUAGES else "All", kind.replace("_", " ")]
            row += [f"{values[f'num_{name}']:,}" for name in ("questions", *OUTCOMES)]
            row += [f"{values['num_unparsed_first']:,}", f"{values['num_unparsed_second']:,}"]
            row.append(f"{100 * values['accuracy_difference']:+.1f}")
            ends = [values[f"accuracy_difference_{end}"] for end in ("low", "high")]
            row += [" to ".join(map(percent, ends)), f"{values['mcnemar_p']:.3g}"]
            for name in ("bleu_1_sentence", "rouge_1_f"):
                difference = values.get(f"{name}_difference")
                row.append("–" if difference is None else f"{100 * difference:+.1f}")
            rows.append(row)
    return rows


_HEADINGS = [
    "Language", "Asked", "Questions", "Both right", "Only first", "Only second", "Neither", "First unparsed",
    "Second unparsed", "Accuracy, points", "Interval", "p", "BLEU-1, points", "ROUGE-1, points",
]  # fmt: skip


def _notes(about: dict[str, Any]) -> str:
    lone = [
        f"{about[f'only_in_{which}']:,} answers of the {which} alone are left out. "
        for which in ("first", "second")
        if about[f"only_in_{which}"]
    ]
    return (
        f"{''.join(lone)}Differences are second minus first, of all languages their mean. Intervals: 95 %, paired "
        f"bootstrap over questions. p: exact McNemar test. {NOTICE}"
    )


def render_markdown(about: dict[str, Any], counts: dict[str, dict[str, Any]]) -> str:
    """The counts as a Markdown page."""
    first, second = (markdown_cell(clean(about[name])) for name in ("first", "second"))
    rows = [bold(row) if row[0] == "All" else row for row in _count_rows(counts)]
    return f"First: {first}. Second: {second}.\n\n{markdown(_HEADINGS, rows, 2)}\n{_notes(about)}\n"


def case_study(about: dict[str, Any], cases: list[Case]) -> str:
    """Questions in full, in Markdown: question, options with the right ones marked, both answers and rationales.

    Models' and questions' texts are quoted line by line, with what would be Markdown or HTML shown as it is.
    """
    parts = []
    for case in cases:
        gold = ", ".join(case["gold"])
        title = f"## {markdown_cell(clean(case['id']))} ({LANGUAGES[case['lang']].name}, {_kind(case)})"
        options = [
            f"- {'**' if letter in case['gold'] else ''}{letter}. {markdown_cell(clean(text))}"
            f"{'**' if letter in case['gold'] else ''}"
            for letter, text in case["options"].items()
        ]
        parts += [title, _quoted(case["question"]), "\n".join(options), f"Right: {gold}; {OUTCOMES[case['outcome']]}."]
        if case["reference"].strip():
            parts += ["### Reference rationale", _quoted(case["reference"])]
        for name in ("first", "second"):
            side = case[name]
            said = ", ".join(side["parsed"]) if side["parsed"] else "no answer read"
            verdict = "right" if side["right"] else "wrong"
            scores = [
                f"{label} {percent(side[score])}"
                for label, score in (("BLEU-1", "bleu_1_sentence"), ("ROUGE-1", "rouge_1_f"))
                if score in side
            ]
            parts += [f"### {markdown_cell(clean(about[name]))}: {said} ({'; '.join([verdict, *scores])})"]
            parts.append(_quoted(side["output"]))
    return "\n\n".join([*parts, NOTICE]) + "\n"


def _kind(case: Case) -> str:
    return case["kind"].replace("_", " ")


def _quoted(text: str) -> str:
    lines = clean(text, MOST_CHARACTERS).strip().splitlines() or ["(empty)"]
    return "\n".join(f"> {_plain(line)}  " for line in lines)  # two blanks: a line of its own


def _plain(line: str) -> str:
    line = markdown_cell(line)
    return "\\" + line if line.startswith(tuple("#+-=~>")) else line


def on_page(cases: list[Case], most: int) -> list[Case]:
    """At most so many cases of each kind, language and outcome, those with the smallest hashes of their ids."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault((case["kind"], case["lang"], case["outcome"]), []).append(case)
    order = {name: place for place, name in enumerate([*OUTCOMES, *LANGUAGES])}
    keys = sorted(groups, key=lambda key: (key[0], order[key[1]], order[key[2]]))
    return [case for key in keys for case in sorted(groups[key], key=lambda case: fingerprint(case["id"]))[:most]]


def render_page(about: dict[str, Any], counts: dict[str, dict[str, Any]], cases: list[Case], most: int) -> str:
    """The page: counts, and questions with both answers, to be narrowed down by language, kind and outcome.

    Nothing of it is marked safe, and its own policy forbids scripts: the narrowing down is CSS.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, REPOSITORY / "configs"]),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = on_page(cases, most)
    kinds, codes = (list(dict.fromkeys(case[name] for case in shown)) for name in ("kind", "lang"))
    return environment.get_template("comparison_page.html").render(
        about=about,
        notes=_notes(about),
        headings=_HEADINGS,
        rows=_count_rows(counts),
        cases=shown,
        num_cases=len(cases),
        filters=[
            ("lang", "Language", [(code, LANGUAGES[code].name) for code in LANGUAGES if code in codes]),
            ("kind", "Asked", [(kind, kind.replace("_", " ")) for kind in kinds]),
            ("outcome", "Outcome", [(n, text) for n, text in OUTCOMES.items() if n in {c["outcome"] for c in shown}]),
        ],
        outcomes=OUTCOMES,
        languages=LANGUAGES,
    )
