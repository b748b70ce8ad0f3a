"""The work of rating_sheet.py: rationales to sheets that do not say whose they are, and filled-in sheets to ratings."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, fingerprint, read_json, sha256_file, write_json
from configs.languages import LANGUAGES, language
from configs.progress import log
from inference.judges.ratings import (
    Rating,
    points_of_ranks,
    question_text,
    rated_text,
    sample_questions,
    shuffled,
    write_ratings,
)
from inference.scores.runs import Shared, read_runs, require_shared, shared_questions
from inference.visible_text import clean

RANK_HEADING = "rank (1 = best; equal ranks are ties)"
HEADINGS = ["row", "item", "language", "question", "reference", "rationale", RANK_HEADING, "comment"]
MOST_CHARACTERS = 32_000  # of a cell; Excel's limit is 32,767
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a table program would compute


def make_sheets(settings: Any) -> int:
    """Draw questions and write the sheets; returns the exit code (5: some rows of the runs could not be used)."""
    failed = FailedItems()
    runs, hashes = read_runs(settings.input, settings.labels, failed)
    names = ("languages", "questions_per_language", "seed", "num_raters", "show_reference")
    identity = {"runs": hashes, **{name: getattr(settings, name) for name in names}}
    if done := records.already_done(settings.output_dir, identity):
        print(settings.output_dir)
        return records.exit_code(done)
    codes = {language(name).code for name in settings.languages or LANGUAGES}
    shared, _ = shared_questions({k: [r for r in of if r["lang"] in codes] for k, of in runs.items()}, failed)
    require_shared(shared, runs)
    chosen = sample_questions(shared, settings.questions_per_language, settings.seed)
    with records.run_record(settings.output_dir, "rating_sheets", asdict(settings), identity) as record:
        raters = range(1, settings.num_raters + 1)
        rows_of_key = {name: row for rater in raters for name, row in _key_rows(chosen, settings.seed, rater)}
        write_json(settings.output_dir / "key.json", {"seed": settings.seed, "rows": rows_of_key})
        for rater in raters:
            rows = sheet_rows(chosen, settings, rater)
            _write_csv(rows, settings.output_dir / f"rater_{rater}.csv")
            _write_xlsx(rows, settings.output_dir / f"rater_{rater}.xlsx")
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), num_questions=len(chosen), num_rows=len(chosen) * len(runs))
    log.info(f"{len(chosen):,} questions, {len(chosen) * len(runs):,} rationales, {settings.num_raters} sheets")
    print(settings.output_dir)
    return failed.exit_code


def _places(chosen: list[Shared], seed: int, rater: int) -> Iterator[tuple[int, Shared, str, int]]:
    """What stands in a rater's sheet, row by row: the question's number there, the question, whose rationale, and its
    place among those of the question. Questions are in an order of the rater's, each question's rationales in another.
    """
    by_id = {next(iter(shared.values()))["id"]: shared for shared in chosen}
    for number, name in enumerate(shuffled(by_id, seed, rater), 1):
        for place, label in enumerate(shuffled(by_id[name], seed, rater, name), 1):
            yield number, by_id[name], label, place


def _row_id(seed: int, rater: int, question: str, label: str) -> str:
    """Of a row of one rater's sheet, so that it tells the row's place there wherever a table program has moved it."""
    # A letter first: a table program takes 12e34 for a number.
    return "r" + fingerprint([seed, rater, question, label])[:11]


def _key_rows(chosen: list[Shared], seed: int, rater: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, shared, label, place in _places(chosen, seed, rater):
        row = shared[label]
        about = {"id": row["id"], "lang": row["lang"], "label": label, "place": place}
        yield _row_id(seed, rater, row["id"], label), about


def sheet_rows(chosen: list[Shared], settings: Any, rater: int) -> list[dict[str, str]]:
    """The rows of one rater's sheet, in their order."""
    rows = []
    for number, shared, label, _ in _places(chosen, settings.seed, rater):
        row = next(iter(shared.values()))
        values = {
            "row": _row_id(settings.seed, rater, row["id"], label),
            "item": str(number),
            "language": LANGUAGES[row["lang"]].name,
            "question": question_text(row),
            "reference": row["rationale"] if settings.show_reference else "",
            "rationale": rated_text(shared[label]),
            RANK_HEADING: "",
            "comment": "",
        }
        rows.append({column: clean(text, MOST_CHARACTERS) for column, text in values.items()})
    return rows


def _write_csv(rows: list[dict[str, str]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for row in rows:  # an apostrophe keeps a table program from computing others' text
        writer.writerow([f"'{value}" if value.startswith(_FORMULA) else value for value in row.values()])
    with atomic_open(path, "wb") as file:
        file.write(text.getvalue().encode("utf-8-sig"))  # by its mark Excel knows UTF-8


def _write_xlsx(rows: list[dict[str, str]], path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.styles import Alignment, Font
    from openpyxl.worksheet.datavalidation import DataValidation

    book = Workbook()
    sheet = book.active
    sheet.title = "ratings"
    for number, values in enumerate([HEADINGS, *(list(row.values()) for row in rows)], 1):
        for column, value in enumerate(values, 1):
            cell = sheet.cell(number, column)
            if value:
                cell.value = value
                cell.data_type = "s"  # text, also where it begins with =
            cell.alignment = Alignment(wrap_text=True, vertical="top")
            cell.font = Font(bold=number == 1)
    for letter, width in zip("ABCDEFGH", (14, 6, 10, 50, 50, 60, 12, 30), strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A2"
    allowed = DataValidation("whole", operator="between", formula1="1", formula2=str(len(rows)), allow_blank=True)
    allowed.error, allowed.showErrorMessage = "a whole number, 1 for the best", True
    sheet.add_data_validation(allowed)
    allowed.add(f"G2:G{len(rows) + 1}")
    with atomic_open(path, "wb") as file:
        book.save(file)


def read_sheets(settings: Any) -> int:
    """Filled-in sheets to ratings; returns the exit code (5: some questions are not ranked in full)."""
    failed = FailedItems()
    key = _read_key(settings.key)
    identity = {"sheets": {p.stem: sha256_file(p) for p in settings.sheets if p.is_file()}, "key": fingerprint(key)}
    if done := records.already_done(settings.output_dir, identity):
        print((settings.output_dir / "ratings.md").read_text(encoding="utf-8"))
        return records.exit_code(done)
    ratings = [rating for path in settings.sheets for rating in ratings_of_sheet(path, key, failed)]
    if not ratings:
        raise MissingInputError(
            "no question of the sheets is ranked in full",
            where=", ".join(map(str, settings.sheets)),
            found=failed.items[-1:],
            wanted="a rank, 1 or more, in every row of a question",
            todo="fill in the column rank",
        )
    with records.run_record(settings.output_dir, "ratings", asdict(settings), identity) as record:
        failed.write(settings.output_dir / "failures.jsonl")
        write_ratings(ratings, settings.output_dir, {"raters": len(settings.sheets), "method": "ranking by people"})
        record.finish("finished", len(failed), num_ratings=len(ratings))
    print((settings.output_dir / "ratings.md").read_text(encoding="utf-8"))
    return failed.exit_code


def _read_key(path: Path) -> dict[str, dict[str, Any]]:
    content = read_json(path)
    key = content.get("rows") if isinstance(content, dict) else None
    wanted = {"id", "lang", "label", "place"}
    if not isinstance(key, dict) or not all(isinstance(row, dict) and wanted <= row.keys() for row in key.values()):
        raise MissingInputError(
            "this is no key of rating sheets",
            where=path,
            wanted="the key.json that was written together with the sheets",
            todo="give that file to --key",
        )
    return key


def ratings_of_sheet(path: Path, key: dict[str, dict[str, Any]], failed: FailedItems) -> list[Rating]:
    """The ratings of one filled-in sheet; the rater's name is the file's.

    A question counts when each of its rows has a whole number from 1 on. One ranked in part, an unknown row, a
    rationale twice or another word than a number goes to `failed`; a question without any rank was not rated, and is
    listed too. The order of the rows is nothing: the key has that in which they were shown.
    """
    ranks: dict[str, dict[str, int]] = defaultdict(dict)  # question id to label to rank
    places: dict[str, dict[str, int]] = defaultdict(dict)  # to its place among the question's rationales
    broken: set[str] = set()
    for number, (name, rank) in enumerate(_rows_of(path), 2):
        if name not in key:
            failed.add(f"{path}:{number}", f"row {name!r:.40} is not in the key")
            continue
        question, label = key[name]["id"], key[name]["label"]
        if label in places[question]:
            failed.add(f"{path}:{number}", f"row {name}: a rationale a second time")
            broken.add(question)
        elif rank and not (rank.isascii() and rank.isdigit() and int(rank) > 0):
            failed.add(f"{path}:{number}", f"rank {rank!r:.40}, wanted a whole number from 1 on")
            broken.add(question)
        elif rank:
            ranks[question][label] = int(rank)
        places[question][label] = key[name]["place"]
    labels: dict[str, set[str]] = defaultdict(set)
    langs = {}
    for of in key.values():
        labels[of["id"]].add(of["label"])
        langs[of["id"]] = of["lang"]
    ratings = []
    for question, wanted in labels.items():
        missing = wanted - ranks[question].keys()
        if question in broken:
            continue
        if missing:
            failed.add(f"{path}: {question}", f"{len(missing)} of {len(wanted)} rationales have no rank")
            continue
        shown = sorted(wanted, key=lambda label: (places[question][label], label))
        points = points_of_ranks(ranks[question])
        ratings.append({"id": question, "lang": langs[question], "rater": path.stem, "shown": shown, "points": points})
    return ratings


def _rows_of(path: Path) -> list[tuple[str, str]]:
    """(row id, rank) of each row of a sheet, .xlsx or .csv (comma or semicolon), found by their headings.

    Raises:
        MissingInputError: there is no such file, or no such columns in it.
    """
    if not path.is_file():
        raise MissingInputError("a sheet is missing", where=path, wanted="a filled-in sheet", todo="see its path")
    try:
        table = _xlsx(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    except Exception as error:  # whatever a broken archive makes its reader raise
        raise MissingInputError(
            "a sheet cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}",
            todo="save it as .xlsx or .csv",
        ) from None
    headings = [str(cell or "").strip().lower() for cell in table[0]] if table else []
    places = [next((i for i, text in enumerate(headings) if text.startswith(name)), None) for name in ("row", "rank")]
    if None in places:
        raise MissingInputError(
            "a sheet lacks a column", where=path, found=headings, wanted="row and rank", todo="keep the first line"
        )
    found = []
    for cells in table[1:]:
        name, rank = (str(cells[i] if i < len(cells) and cells[i] is not None else "").strip() for i in places)
        if name or rank:
            found.append((name, rank.removesuffix(".0")))
    return found


def _csv(path: Path) -> list[list[Any]]:
    text = path.read_bytes().decode("utf-8-sig")
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def _xlsx(path: Path) -> list[list[Any]]:
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True, data_only=True)
    try:
        return [list(values) for values in book.worksheets[0].iter_rows(values_only=True)]
    finally:
        book.close()
