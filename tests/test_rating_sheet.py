"""Rating sheets for people, there and back, and Kendall's tau between metrics and ratings."""

import csv
import json
import random
import re

import openpyxl
import pytest

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.settings import parse
from inference.correlate import CorrelateSettings
from inference.judges.correlating import correlate
from inference.judges.rank_correlation import correlation, kendall_tau_b
from inference.judges.rating_sheets import RANK_HEADING, make_sheets, ratings_of_sheet, read_sheets
from inference.judges.ratings import RATINGS_FILE
from inference.rating_sheet import SheetSettings

# How much of the reference each model's rationale has, so that BLEU and ROUGE rank them so too.
WORDS = {"all": 12, "half": 6, "some": 3}
REFERENCE = "iron carries oxygen through the blood and zinc mends the wounded skin"


def row(label, number, lang="en"):
    words = " ".join(REFERENCE.split()[: WORDS[label]])
    return {
        "id": f"{lang}{number}",
        "lang": lang,
        "kind": "with_rationale",
        "question": '=HYPERLINK("http://x")' if number == 0 else f"Question {number}?",
        "options": {"A": "Iron", "B": "Zinc"},
        "output": f"{'=1+1 ' if number == 0 else ''}{words}\x0b\n\n### Answer: {'A' if label == 'all' else 'B'}",
        "gold": ["A"],
        "rationale": REFERENCE,
    }


@pytest.fixture
def runs(tmp_path):
    made = []
    for name in WORDS:
        (tmp_path / name).mkdir()
        rows = [row(name, i) for i in range(5)] + [row(name, i, "ru") for i in range(4)]
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(of) + "\n" for of in rows))
        made.append(tmp_path / name)
    return made


def sheets(runs, folder, **more):
    settings = SheetSettings(input=runs, output_dir=folder, questions_per_language=3, **more)
    assert not settings.problems() and make_sheets(settings) == 0
    return json.loads((folder / "key.json").read_text())["rows"]


def read_csv(path, delimiter=","):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def fill(path, key, rank_of):
    """Write a rank into every row of a sheet, .xlsx or .csv, by the label that the key has for it."""
    if path.suffix == ".csv":
        rows = read_csv(path)
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=";")  # as Excel saves it in half of Europe
            writer.writeheader()
            writer.writerows({**of, RANK_HEADING: rank_of(key[of["row"]]["label"])} for of in rows)
        return path
    book = openpyxl.load_workbook(path)
    sheet = book.active
    for number in range(2, sheet.max_row + 1):
        sheet.cell(number, 7).value = rank_of(key[sheet.cell(number, 1).value]["label"])
    book.save(path)
    return path


BEST_FIRST = {"all": 1, "half": 2, "some": 3}


def test_sheets_are_blind_shuffled_and_hold_every_rationale_once(runs, tmp_path):
    key = sheets(runs, tmp_path / "sheets", num_raters=2)
    first, second = (read_csv(tmp_path / "sheets" / f"rater_{n}.csv") for n in (1, 2))
    assert len(first) == len(second) == 6 * 3 and len(key) == 36
    assert {of["row"] for of in first} | {of["row"] for of in second} == set(key)
    whose = [[(key[of["row"]]["id"], key[of["row"]]["label"]) for of in sheet] for sheet in (first, second)]
    assert sorted(whose[0]) == sorted(whose[1]) and whose[0] != whose[1]
    text = (tmp_path / "sheets" / "rater_1.csv").read_text()
    assert not any(str(run) in text for run in runs) and "label" not in text
    assert not any(re.fullmatch(r"[\d.]+(e\d+)?", name) for name in key)  # Excel would take it for a number
    orders = {tuple(key[of["row"]]["label"] for of in first[i : i + 3]) for i in range(0, 18, 3)}
    assert all(sorted(order) == sorted(WORDS) for order in orders) and len(orders) > 1
    book = openpyxl.load_workbook(tmp_path / "sheets" / "rater_1.xlsx").active
    in_xlsx = [[cell.value or "" for cell in cells][:6] for cells in book.iter_rows(min_row=2)]
    in_csv = [[value.removeprefix("'") for value in of.values()][:6] for of in first]
    assert in_xlsx == in_csv
    assert not any(cell.data_type == "f" for cells in book.iter_rows() for cell in cells)
    assert not any(value.startswith(("=", "+", "-", "@")) for of in first for value in of.values())
    again = sheets(runs[::-1], tmp_path / "again", num_raters=2)
    assert again == key and read_csv(tmp_path / "again" / "rater_2.csv") == second


def test_filled_in_sheets_become_ratings(runs, tmp_path):
    key = sheets(runs, tmp_path / "sheets", num_raters=2)
    paths = [
        fill(tmp_path / "sheets" / "rater_1.xlsx", key, BEST_FIRST.get),
        fill(tmp_path / "sheets" / "rater_2.csv", key, {"all": 1, "half": 1, "some": 2}.get),
    ]
    settings = SheetSettings(sheets=paths, key=tmp_path / "sheets" / "key.json", output_dir=tmp_path / "out")
    assert not settings.problems() and read_sheets(settings) == 0
    found = json.loads((tmp_path / "out" / "ratings.json").read_text())
    points = {label: of["average"]["points"] for label, of in found["models"].items()}
    assert points == {"all": (3 + 2.5) / 2, "half": (2 + 2.5) / 2, "some": 1}
    assert found["raters"] == {"rater_1": 6, "rater_2": 6}
    assert found["agreement"]["pair_agreement"] == pytest.approx(2 / 3)
    assert read_sheets(settings) == 0
    fill(paths[0], key, {"all": 2, "half": 1, "some": 3}.get)
    with pytest.raises(SettingsError, match="other input"):
        read_sheets(settings)


def test_a_sheet_that_was_sorted_says_the_same(runs, tmp_path):
    key = sheets(runs, tmp_path / "sheets", num_raters=2)
    path = fill(tmp_path / "sheets" / "rater_2.csv", key, {"all": 1, "half": 2, "some": 2}.get)
    as_sent = ratings_of_sheet(path, key, FailedItems())
    order = {(key[of["row"]]["id"], key[of["row"]]["label"]): n for n, of in enumerate(read_csv(path, ";"))}
    for of in as_sent:
        assert of["shown"] == sorted(WORDS, key=lambda label: order[of["id"], label])
    rows = sorted(read_csv(path, ";"), key=lambda of: (of[RANK_HEADING], of["rationale"]))
    renamed = tmp_path / "sheets" / "a_person.csv"
    with open(renamed, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert ratings_of_sheet(renamed, key, FailedItems()) == [{**of, "rater": "a_person"} for of in as_sent]
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"rows": {"r1": {"id": "en1"}}}))
    with pytest.raises(MissingInputError, match="no key"):
        read_sheets(SheetSettings(sheets=[renamed], key=path, output_dir=tmp_path / "out"))


def test_what_raters_leave_out_or_mistype_is_listed_and_counts_for_nothing(runs, tmp_path):
    key = sheets(runs, tmp_path / "sheets")
    path = fill(tmp_path / "sheets" / "rater_1.csv", key, BEST_FIRST.get)
    lines = path.read_text(encoding="utf-8-sig")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    by_question = {}
    for of in rows:
        by_question.setdefault(key[of["row"]]["id"], []).append(of)
    blank, typed, twice, whole = list(by_question.values())[:4]
    blank[0][RANK_HEADING] = ""
    typed[1][RANK_HEADING] = "best"
    whole[0][RANK_HEADING] = whole[0][RANK_HEADING] + ".0"  # a table program's idea of a whole number
    rows += [dict(twice[0]), {**rows[0], "row": "r00000000000"}]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    failed = FailedItems()
    ratings = ratings_of_sheet(path, key, failed)
    left = {key[of[0]["row"]]["id"] for of in (blank, typed, twice)}
    assert {of["id"] for of in ratings} == by_question.keys() - left and len(ratings) == 3
    reasons = " ".join(of["reason"] for of in failed.items)
    assert all(part in reasons for part in ("no rank", "'best'", "second time", "not in the key")) and len(failed) == 4
    path.write_text(lines.replace("rank", "note"), encoding="utf-8")
    with pytest.raises(MissingInputError, match="lacks a column"):
        ratings_of_sheet(path, key, failed)
    broken = tmp_path / "broken.xlsx"
    broken.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(MissingInputError, match="cannot be read"):
        ratings_of_sheet(broken, key, failed)
    empty = sheets(runs, tmp_path / "empty")
    settings = SheetSettings(
        sheets=[tmp_path / "empty" / "rater_1.csv"], key=tmp_path / "empty" / "key.json", output_dir=tmp_path / "none"
    )
    assert empty == key
    with pytest.raises(MissingInputError, match="ranked in full"):
        read_sheets(settings)


def test_settings_name_both_ways_and_no_mixture():
    def problems(*words):
        with pytest.raises(SettingsError) as refused:
            parse("", SheetSettings, argv=["--output_dir", "x", *words])
        return str(refused.value)

    assert "wanted either" in problems() and "wanted either" in problems("--input", "a", "b", "--sheets", "c")
    assert "go together" in problems("--sheets", "a.csv") and "one run" in problems("--input", "a")
    assert "two of the same name" in problems("--sheets", "a.csv", "a.xlsx", "--key", "k")


@pytest.mark.parametrize("num", [2, 3, 6, 40, 600])
def test_kendalls_tau_is_scipys(num):
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn")
    draw = random.Random(num)
    for _ in range(30):
        first = [draw.randrange(max(2, num // 3)) for _ in range(num)]
        second = [of if draw.random() < 0.5 else draw.random() for of in first]
        ours, theirs = kendall_tau_b(first, second), stats.kendalltau(first, second).statistic
        assert (ours is None and theirs != theirs) or ours == pytest.approx(theirs, abs=1e-12)
        assert ours is None or kendall_tau_b(second, first) == pytest.approx(ours, abs=1e-12)


def test_kendalls_tau_worked_by_hand():
    assert kendall_tau_b([1, 2, 3], [1, 2, 3]) == 1 and kendall_tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert kendall_tau_b([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau_b([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / (2 * 3) ** 0.5)
    assert kendall_tau_b([1, 1], [1, 2]) is None and kendall_tau_b([1], [1]) is None and kendall_tau_b([], []) is None


def test_correlation_by_question_pooled_and_by_model():
    points = {"1": {"a": 2, "b": 1}, "2": {"a": 2, "b": 1}, "3": {"a": 1, "b": 2}, "4": {"a": 1.5, "b": 1.5}}
    metric = {
        "1": {"a": 0.9, "b": 0.5},
        "2": {"a": 0.4, "b": 0.1},
        "3": {"a": 0.7, "b": 0.6},
        "4": {"a": 0.2, "b": 0.1},
    }
    found = correlation(metric, points)
    assert found["num_questions"] == 4 and found["num_undefined"] == 1
    assert found["tau_question"] == pytest.approx((1 + 1 - 1) / 3)
    assert found["tau_question_low"] <= found["tau_question"] <= found["tau_question_high"]
    assert found["tau_model"] == 1
    flat = [[of[q][m] for q in points for m in "ab"] for of in (metric, points)]
    assert found["tau_pooled"] == kendall_tau_b(*flat)
    assert correlation({"9": {"a": 1, "b": 2}}, points) == {"num_questions": 0, "num_undefined": 0}


def test_metrics_are_correlated_with_people_and_with_each_other(runs, tmp_path):
    key = sheets(runs, tmp_path / "sheets", num_raters=2)
    for number, ranks in ((1, BEST_FIRST), (2, {"all": 3, "half": 2, "some": 1})):
        path = fill(tmp_path / "sheets" / f"rater_{number}.xlsx", key, ranks.get)
        settings = SheetSettings(
            sheets=[path], key=tmp_path / "sheets" / "key.json", output_dir=tmp_path / f"p{number}"
        )
        assert read_sheets(settings) == 0
    folders = [tmp_path / "p1", tmp_path / "p2" / RATINGS_FILE]
    settings = CorrelateSettings(input=runs, ratings=folders, output_dir=tmp_path / "out")
    assert correlate(settings) == 0
    rows = json.loads((tmp_path / "out" / "correlation.json").read_text())["correlations"]
    found = {(of["ratings"], of["metric"], of["language"]): of for of in rows}
    for metric in ("bleu_1_sentence", "rouge_l_f"):
        for lang in ("all", "en", "ru"):
            assert found["p1", metric, lang]["tau_question"] == 1 and found["p2", metric, lang]["tau_question"] == -1
    # Only the best model answers right: two pairs of three are told apart.
    assert found["p1", "accuracy", "all"]["tau_question"] == pytest.approx(2 / 6**0.5)
    assert found["p1", "ratings p2", "all"]["tau_question"] == -1
    with open(tmp_path / "out" / "correlation.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (
        "| p1 | bleu\\_1\\_sentence" in (text := (tmp_path / "out" / "correlation.md").read_text()) or "bleu_1" in text
    )
    with pytest.raises(SettingsError, match="other models were rated"):
        correlate(CorrelateSettings(input=runs[:2], ratings=folders, output_dir=tmp_path / "two"))
    lines = folders[1].read_text().splitlines()
    points = {"all": 1, "half": 2, "some": 3}
    for given, message in (({"all": 1}, "other models were rated"), (points, "no run has a rationale")):
        folders[1].write_text(json.dumps({**json.loads(lines[0]), "id": "other", "points": given}) + "\n")
        with pytest.raises((SettingsError, MissingInputError), match=message):
            correlate(CorrelateSettings(input=runs, ratings=folders[1:], output_dir=tmp_path / message))
    folders[1].write_text("\n".join([*lines, json.dumps({**json.loads(lines[0]), "points": {**points, "all": "1"}})]))
    assert correlate(CorrelateSettings(input=runs, ratings=folders[1:], output_dir=tmp_path / "broken row")) == 5
