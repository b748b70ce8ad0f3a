"""Calibration: worked thresholds, folds that hold whole sources out, intervals, and the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.languages import LANGUAGES
from data_collection.selection.calibration import (
    LabelledNumbers,
    allowed_false_positives,
    choose,
    cross_validate,
    fold_of,
    rates,
    rates_by_source,
    wilson,
)
from data_collection.selection.keywords import read_keywords

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "documents"


def numbers(rows):
    """Rows of (medical, MKC, DENS, length, source)."""
    medical, num_keywords, density, num_characters, source = map(np.array, zip(*rows, strict=True))
    digest = np.arange(len(rows), dtype=np.uint64)
    return LabelledNumbers(num_keywords, density, num_characters, medical, source, digest)


def made_up(seed=0, num_medical=400, num_general=200):
    draw = np.random.default_rng(seed)
    rows = [(True, 9, share, 500, f"m{i % 7}") for i, share in enumerate(draw.beta(8, 40, num_medical))]
    return numbers(
        rows + [(False, 5, share, 500, f"g{i % 3}") for i, share in enumerate(draw.beta(1, 60, num_general))]
    )


def test_allowed_false_positives_are_two_or_the_share():
    assert [allowed_false_positives(n, 0.02) for n in (10, 94, 139, 150, 250, 275)] == [2, 2, 2, 3, 5, 5]
    assert allowed_false_positives(1000, 0.001) == 2


def test_the_middle_between_what_must_stay_out_and_what_must_stay_in():
    general = [(False, 9, share, 500, "g") for share in (0.5, 0.4, 0.04, 0.01)]
    medical = [(True, 9, share, 500, "m") for share in (0.3,) * 8 + (0.16,) + (0.02,)]
    thresholds = choose(numbers(general + medical), 0.02, 0.9, 3)  # between 0.04 (the third) and 0.16 (nine of ten)
    assert (thresholds.min_keywords, thresholds.min_density) == (3, pytest.approx(0.081))
    # four times as long: the shares count for twice as much
    longer = [(label, found, share, 2000, source) for label, found, share, _, source in general + medical]
    assert choose(numbers(longer), 0.02, 0.9, 3).min_density == pytest.approx(0.161)
    # documents with fewer keywords than MKC do not come in anyway
    assert choose(numbers([(False, 2, 0.9, 500, "g")] * 5 + general + medical), 0.02, 0.9, 3) == thresholds


def test_where_the_wanted_recall_cannot_be_had_the_false_positives_are_bounded():
    general = [(False, 9, share, 500, "g") for share in (0.5, 0.4, 0.2, 0.01)]
    medical = [(True, 9, share, 500, "m") for share in (0.3, 0.1, 0.1, 0.1)]
    data = numbers(general + medical)
    found = rates(data, data.kept(choose(data, 0.02, 0.9, 3)))
    assert (found["false_positives"]["kept"], found["recall"]["kept"]) == (2, 1)


def test_chosen_thresholds_keep_to_the_rate_whatever_the_documents():
    for seed in range(20):
        data = made_up(seed)
        for rate in (0.01, 0.02, 0.1):
            kept = data.kept(choose(data, rate, 0.95, 3))
            assert kept[~data.medical].sum() <= allowed_false_positives(200, rate)


def test_sources_are_held_out_whole_and_every_document_once():
    data = made_up()
    folds = fold_of(data, 5)
    for source in np.unique(data.source):
        assert len(set(folds[data.source == source].tolist())) == 1
    assert set(folds[data.medical].tolist()) == set(range(5)) and set(folds[~data.medical].tolist()) == {0, 1, 2}
    one = numbers([(label, 5, 0.1, 500, "same") for label in (True, False) for _ in range(50)])
    assert set(fold_of(one, 5).tolist()) == set(range(5))
    journal = numbers([(True, 5, 0.1, 500, name) for name in ("Medical Journal", "Medical journal", "other")] * 9)
    held = [set(fold_of(journal, 5)[journal.source == name].tolist()) for name in np.unique(journal.source)]
    assert held[0] == held[1] != held[2]


def test_cross_validation_decides_by_the_thresholds_of_the_other_folds():
    data = made_up()
    tested, kept, records = cross_validate(data, 0.02, 0.92, 3, 5)
    assert len(tested) == len(data)
    folds = fold_of(data, 5)
    for fold, record in enumerate(records):
        thresholds = choose(data.rows(folds != fold), 0.02, 0.92, 3)
        assert record["thresholds"] == vars(thresholds)
        assert (kept[folds == fold] == data.rows(folds == fold).kept(thresholds)).all()
    assert sum(record["recall"]["of"] for record in records) == 400
    # a document says nothing about the thresholds that decide about it
    changed = made_up()
    changed.density[folds == 1] = 0.9
    assert cross_validate(changed, 0.02, 0.92, 3, 5)[2][1]["thresholds"] == records[1]["thresholds"]


def test_documents_that_no_fold_can_decide_about_are_not_counted_as_missed():
    data = numbers([(False, 5, 0.01, 500, "g"), *((True, 5, 0.3, 500, "m") for _ in range(20))])
    tested, kept, records = cross_validate(data, 0.02, 0.9, 3, 5)
    found = rates(tested, kept)
    assert len(records) == 4 and found["recall"]["share"] == 1 and 0 < found["recall"]["of"] < 20
    assert found["false_positives"] == {"kept": 0, "of": 0, "share": None, "low": 0.0, "high": 1.0}


def test_intervals():
    z = 1.959964
    for count, total in ((5, 275), (2, 94), (3772, 4000)):
        for bound in wilson(count, total):  # where the score test of the bound just gives 5 %
            assert (count / total - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / total)
    for total in range(1, 200):  # rounding must not put the share outside its interval
        assert wilson(0, total)[0] == 0 and wilson(total, total)[1] == 1
    assert wilson(0, 94)[0] == 0 and wilson(94, 94)[1] == pytest.approx(1) and wilson(0, 0) == (0, 1)


def test_rates():
    data = numbers([(True, 3, 0.1, 9, "a"), (True, 3, 0.1, 9, "b"), (False, 3, 0.1, 9, "a"), (True, 3, 0.1, 9, "b")])
    kept = np.array([True, False, False, True])
    found = rates(data, kept)
    assert (found["recall"]["kept"], found["recall"]["of"], found["false_positives"]["kept"]) == (2, 3, 0)
    assert rates_by_source(data, kept)["medical"] == {"b": {"kept": 1, "of": 2}, "a": {"kept": 1, "of": 1}}


@pytest.mark.parametrize(
    ("lang", "least"), [(code, 1000 if code not in ("ar", "hi", "de") else 400) for code in LANGUAGES]
)
def test_lists_are_long_enough(lang, least):
    keywords = read_keywords(LANGUAGES[lang].keywords_file)
    assert len(set(keywords)) >= least
    assert all(keyword.strip() == keyword and keyword for keyword in keywords)


def run_calibrate(*arguments):
    command = [sys.executable, str(ROOT / "data_collection" / "calibrate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def test_the_command(tmp_path):
    unlabelled = tmp_path / "rows.jsonl"
    rows = [
        {"text": "no label"},
        {"text": "wrong", "label": "sport"},
        {"text": "texte", "label": "general", "lang": "fr"},
    ]
    unlabelled.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    inputs = [SAMPLE / "es.medical.jsonl", SAMPLE / "es.general.jsonl", unlabelled]
    out = tmp_path / "out"
    done = run_calibrate("--input", *inputs, "--lang", "es", "--output_dir", out)
    assert done.returncode == 5, done.stderr
    assert "cross-validated" in done.stderr and "published with MMedC" in done.stderr
    found = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    assert set(found["thresholds"]) == {"chosen", "in the language table", "published with MMedC"}
    assert found["cross_validated"]["recall"]["of"] + found["cross_validated"]["false_positives"]["of"] == 52
    assert len((out / "failures.jsonl").read_text().splitlines()) == 3
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    again = run_calibrate("--input", *inputs, "--lang", "es", "--output_dir", out)
    assert again.returncode == 5 and "already done" in again.stderr
    changed = run_calibrate("--input", *inputs, "--lang", "es", "--output_dir", out, "--wanted_recall", 0.5)
    assert changed.returncode == 2 and "wanted_recall" in changed.stderr


def test_wrong_settings_and_missing_labels(tmp_path):
    wrong = run_calibrate(
        "--input", SAMPLE, "--output_dir", tmp_path, "--lang", "tlh", "--folds", 1, "--wanted_recall", 2
    )
    assert wrong.returncode == 2 and all(name in wrong.stderr for name in ("tlh", "folds", "wanted_recall"))
    alone = run_calibrate("--input", SAMPLE / "es.medical.jsonl", "--output_dir", tmp_path / "o", "--lang", "es")
    assert alone.returncode == 3 and "labelled general" in alone.stderr
