"""Scores: worked numbers, files read and written, tables, plots, published rows, the command."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError
from data_collection.questions.question import chance_level, is_correct
from inference import scoring
from inference.scores import score_plots, score_tables
from inference.scores.comparison import compare
from inference.scores.published import beside_ours, read_published, write_beside
from inference.scores.table_formats import latex

ROOT = Path(__file__).parents[1]
OPTIONS = {"A": "fever", "B": "cough", "C": "rash", "D": "pain"}


def row(number=0, **changes):
    return {
        "id": f"Test/English/{number:05d}",
        "lang": "en",
        "kind": "answer_only",
        "prompt": {"style": "plain", "hash": "0"},
        "output": " A",
        "options": OPTIONS,
        "parsed": ["A"],
        "gold": ["A"],
        "rationale": "",
        "human_checked": False,
        "human_check_passed": False,
        "num_prompt_tokens": 10,
        "num_new_tokens": 2,
        "hit_limit": False,
        "seconds": 0.5,
    } | changes


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def test_extract_rationale():
    for output, rationale in (
        (" Because of the fever.\n\n### Answer: A", "Because of the fever."),
        ("### Rationale: Because.\n\n### Answer: A\n\n### Answer: B", "Because."),
        ("###Rationale: Because. ###Answer: OPTION A IS CORRECT.", "Because."),
        ("The answer is A, as the answer: fits.\nAnswer: B", "The answer is A, as the answer: fits."),
        ("因为发热。\n答案：A", "因为发热。"),
        ("Porque hay fiebre.\n**Respuesta:** A", "Porque hay fiebre."),
        ("Cut at the limit, so no mark", "Cut at the limit, so no mark"),
        ("### Answer: A", ""),
        ("", ""),
    ):
        assert scoring.extract_rationale(output) == rationale


def test_accuracy_is_exact_set_and_unparsed_counts():
    rows = [
        row(0),
        row(1, output=" A, B", parsed=["A", "B"], gold=["A", "B"]),
        row(2, output=" A", gold=["A", "B"]),  # half of it is not right
        row(3, output=" A, B, C", parsed=["A", "B", "C"], gold=["A", "B"]),
        row(4, output=" I do not know", parsed=None, gold=["C"]),
        row(5, output="The answer is B.", parsed=None, gold=["B"], hit_limit=True),  # an older parser gave up
    ]
    result = scoring.score(rows)
    scores = result["languages"]["answer_only"]["en"]
    assert (scores["num_questions"], scores["num_correct"], scores["num_unparsed"]) == (6, 3, 1)
    assert scores["accuracy"] == 0.5
    assert scores["accuracy_standard_error"] == pytest.approx(math.sqrt(0.25 / 6), rel=1e-12)
    assert scores["unparsed_share"] == scores["hit_limit_share"] == pytest.approx(1 / 6)
    assert scores["chance_level"] == pytest.approx(1 / 15)  # several right answers in the file: any subset of four
    assert scores["generation_seconds"] == 3.0 and scores["questions_per_second"] == 2.0
    assert result["num_parsed_otherwise_than_recorded"] == 1
    assert "bleu_1_sentence" not in scores
    assert is_correct(("B", "A"), ["A", "B"]) and not is_correct(None, ["A"]) and not is_correct((), [])


def test_chance_is_a_mean_over_questions_of_one_language():
    two = {"A": "да", "B": "нет"}
    rows = [row(0), row(1, options=two), row(2, lang="ru", options=two, gold=["B"])]
    languages = scoring.score(rows)["languages"]["answer_only"]
    assert languages["en"]["chance_level"] == (1 / 4 + 1 / 2) / 2
    assert languages["ru"]["chance_level"] == 1 / 2
    assert chance_level(5, several_possible=True) == 1 / 31


def test_every_share_and_mean_has_an_interval_around_it():
    rows = [row(i, output=f" {'AB'[i % 3 == 0]}") for i in range(60)]
    rows += [row(i, lang="fr", output=" A") for i in range(60, 70)]
    result = scoring.score(rows)
    english, french = (result["languages"]["answer_only"][code] for code in ("en", "fr"))
    assert 0.5 < english["accuracy_low"] < english["accuracy"] < english["accuracy_high"] < 0.8
    assert french["accuracy_low"] == french["accuracy_high"] == 1.0
    average = result["average"]["answer_only"]
    # French does not vary: the average moves half as far as English does.
    half = (english["accuracy_high"] - english["accuracy_low"]) / 2
    assert average["accuracy_high"] - average["accuracy_low"] == pytest.approx(half, rel=1e-9)


def test_the_language_of_a_rationale_is_found():
    german = "Der Patient hat Fieber und Husten, deshalb ist eine Lungenentzündung wahrscheinlich."
    english = "The patient has fever and a cough, so pneumonia is likely."
    rows = [
        row(i, kind="with_rationale", output=f"{text}\n\n### Answer: A")
        for i, text in enumerate((german, english + "\ud800", ""))
    ]
    assert scoring.score(rows)["languages"]["with_rationale"]["en"]["own_language_share"] == 0.5  # of those there are


def test_the_average_counts_every_language_the_same():
    rows = [row(i) for i in range(9)] + [row(9, output=" B")] + [row(i, lang="fr", output=" C") for i in range(10, 12)]
    result = scoring.score(rows)
    average, languages = result["average"]["answer_only"], result["languages"]["answer_only"]
    assert average["accuracy"] == (0.9 + 0.0) / 2
    assert average["num_questions"] == 12 and average["num_languages"] == 2
    assert average["accuracy_standard_error"] == languages["en"]["accuracy_standard_error"] / 2
    assert average["questions_per_second"] == 2.0


def test_rationales_are_scored_over_the_questions_that_have_a_reference():
    reference = "the cat sat on the mat"
    rows = [
        row(0, kind="with_rationale", rationale=reference, output=f" {reference}\n\n### Answer: A"),
        row(
            1,
            kind="with_rationale",
            rationale=reference,
            output="the the the cat\n\n### Answer: A",
            human_check_passed=1,
        ),
        row(2, kind="with_rationale", rationale=reference, output="### Answer: A"),
        row(3, kind="with_rationale", rationale=" ", output="something\n\n### Answer: A"),
        row(0),
    ]
    result = scoring.score(rows)
    scores = result["languages"]["with_rationale"]["en"]
    bleu = 0.75 * math.exp(-0.5)
    assert (scores["num_references"], scores["num_empty_rationales"], scores["accuracy"]) == (3, 1, 1.0)
    assert scores["bleu_1_sentence"] == pytest.approx((1 + bleu + 0) / 3, rel=1e-12)
    assert scores["rouge_1_f"] == pytest.approx((1 + 0.6 + 0) / 3, rel=1e-12)
    assert scores["human_check_passed_num_references"] == 1
    assert scores["human_check_passed_bleu_1_sentence"] == pytest.approx(bleu, rel=1e-12)
    assert set(result["languages"]) == {"with_rationale", "answer_only"}
    assert "nltk" in result["words"]["en"]


def test_scores_are_a_function_of_the_rows_alone():
    rows = [row(i, output=f" {'ABCD'[i % 4]}", seconds=0.1 * i) for i in range(30)]
    first = scoring.score(rows)
    assert scoring.score(json.loads(json.dumps(rows))) == first == json.loads(json.dumps(first))
    assert scoring.score(rows[::-1])["average"] == first["average"]


# Reading predictions


def test_broken_rows_are_failed_items(tmp_path):
    broken = [
        b'{"id": "cut',
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        *(
            json.dumps(r).encode()
            for r in (
                row(),  # the same question again
                row(1, lang="xx"),
                row(2, kind="guess"),
                row(3, gold=[]),
                row(4, gold=["E"]),
                row(5, gold="A"),
                row(6, options={"A": "x", "C": "y"}),
                row(7, options={"A": "x"}),
                row(8, output=None),
                row(9, seconds=float("nan")),
                row(10, parsed="A"),
                {k: v for k, v in row(11).items() if k != "output"},
            )
        ),
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([json.dumps(row()).encode(), b"", *broken]))
    failed = FailedItems()
    assert scoring.read_predictions(path, failed) == [row()]
    assert [item["where"] for item in failed.items] == [f"{path}:{line}" for line in range(3, 3 + len(broken))]
    assert all(item["reason"] for item in failed.items)


def test_a_file_without_a_usable_row_is_missing_input(tmp_path):
    for name, content in (("absent", None), ("empty", ""), ("broken", "{}\n")):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(MissingInputError) as caught:
            scoring.read_predictions(path, FailedItems())
        assert str(path) in str(caught.value)


# Tables, plots, the command


def scores_of(lang_to_outputs, kind="answer_only", rationale=""):
    rows = [
        row(i, lang=lang, output=output, kind=kind, rationale=rationale)
        for lang, outputs in lang_to_outputs.items()
        for i, output in enumerate(outputs)
    ]
    return scoring.score(rows)


def test_tables_say_what_the_scores_say(tmp_path):
    base = scores_of({"en": [" A", " B", "?"], "zh": [" A", " A", " B"]})
    tuned = scores_of({"en": ["fever\n\n### Answer: A"], "zh": ["×\n\n### Answer: A"]}, "with_rationale", "fever")
    labelled = [("base | x", base), ("tuned", tuned)]
    markdown, table, latex = score_tables.write_tables(labelled, tmp_path, "10 steps,\nlength 5")
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["language"], r["setting"]) for r in rows] == [
        (language, setting)
        for setting in ("base | x, answer only", "tuned, with rationale")
        for language in ("English", "Chinese", "Average")
    ]
    assert float(rows[0]["accuracy_percent"]) == 100 * base["languages"]["answer_only"]["en"]["accuracy"]
    assert float(rows[2]["accuracy_percent"]) == 100 * base["average"]["answer_only"]["accuracy"] == 50.0
    assert rows[0]["bleu_1_sentence_percent"] == "" and float(rows[5]["bleu_1_sentence_percent"]) == 50.0
    text = markdown.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}  # the bar in the label is escaped
    assert "| English | base \\| x, answer only | 3 | 33.3 ± 27.2 | 25.0 | 1 (33.3 %) | – | – |" in lines
    assert "10 steps, length 5" in text and "not for clinical use" in text
    assert "jieba.lcut (jieba" in text and "(en)" in text  # whose words the scores of rationales are of
    assert float(rows[5]["rouge_2_f_percent"]) == 50.0 and rows[4]["words"].startswith("jieba")
    lines = latex.read_text(encoding="utf-8").splitlines()
    assert lines[0] == r"\begin{tabular}{llrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert r"  English & base | x, answer only & 3 & 33.3 $\pm$ 27.2 & 25.0 & 1 (33.3 \%) & -- & -- \\" in lines
    assert r"  \textbf{Average} & \textbf{tuned, with rationale} & \textbf{2} &" in "\n".join(lines)


def test_what_tex_would_take_for_its_own_is_escaped():
    text = latex(["a_b", "50 %"], [["{x} & y\\z", "**$1 #2**"]], 1)
    assert r"a\_b & 50 \%" in text
    assert r"\{x\} \& y\textbackslash{}z & \textbf{\$1 \#2}" in text


def test_details_say_what_the_table_has_no_room_for(tmp_path):
    outputs = {"en": [" A", " B", " A, B", " A, B"]}
    rows = [row(i, output=output, gold=["A", "B"] if i > 1 else ["A"]) for i, output in enumerate(outputs["en"])]
    first, second = scoring.mark(rows), scoring.mark([r | {"output": " A"} for r in rows])
    scores = scoring.summarise(rows, first)
    assert scores["languages"]["answer_only"]["en"]["accuracy_single_answer"] == 0.5
    assert scores["languages"]["answer_only"]["en"]["accuracy_several_answers"] == 1.0
    entry = {"first": "base", "second": "tuned", "kinds": compare(first, second)}
    text = score_tables.write_details([("base", scores)], [entry], tmp_path).read_text(encoding="utf-8")
    low, high = (100 * scores["languages"]["answer_only"]["en"][f"accuracy_{end}"] for end in ("low", "high"))
    assert (
        f"| English | base, answer only | 4 | 75.0 | {low:.1f} to {high:.1f} | 50.0 of 2 | 100.0 of 2 | 0.0 |" in text
    )
    # One question is right in the second alone, two are in the first alone: p = 2 (1 + 3) / 8.
    assert "# tuned minus base" in text and "| English | answer only | 4 | -25.0 |" in text and "| 2 | 1 | 1 |" in text
    assert "Rationales" not in text


def test_published_rows_stand_beside_ours(tmp_path):
    rows = beside_ours([("ours", scores_of({"en": ["fever\n\n### Answer: A"]}, "with_rationale", "fever"))])
    accuracy = {(r["model"], r["size"]): r for r in rows if r["metric"] == "accuracy"}
    assert accuracy["MMedLM 2", "7B"]["average"] == "67.30"
    assert "mean of the columns 75.31" in accuracy["GPT-4", ""]["caveats"]
    ours = accuracy["ours", ""]
    assert ours["English"] == ours["average"] == "100.00" and ours["Chinese"] == ""
    assert ours["caveats"] == "1 questions, exact set; average over English"
    # No reference passed a human check here: the row of all references is the only one of ours.
    assert [r["caveats"] for r in rows if r["metric"] == "BLEU-1" and r["ours"]] == [
        "all 1 references; average over English"
    ]
    labelled = [("ours", scores_of({"en": [" A"]}))]
    paths = write_beside(labelled, tmp_path)
    assert [path.name for path in paths] == ["published.md", "published.tex", "published.csv"]
    assert "| **ours** | **answer only** | **100.00** |" in paths[0].read_text(encoding="utf-8")
    with open(paths[2], encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(beside_ours(labelled))


def test_published_averages_are_the_columns_means_or_say_that_they_are_not():
    languages = ("English", "Chinese", "Japanese", "French", "Russian", "Spanish")
    off = set()
    for published in read_published("mmedbench"):
        mean = sum(float(published[name]) for name in languages) / 6
        if abs(mean - float(published["average"])) > 0.0101:
            off.add(published["model"])
            assert f"mean of the columns {mean:.2f}" in published["caveats"]
    assert off == {"GPT-3.5", "GPT-4"}
    for name in ("mmedbench_ablation", "english_benchmarks", "medbase", "apollo_average_of_nine"):
        assert all(row["model"] and row["setting"] and "caveats" in row for row in read_published(name)), name


@pytest.mark.filterwarnings("error")
def test_plots_are_drawn_and_the_same_each_time(tmp_path):
    base = scores_of({"en": [" A", " B"], "zh": [" A"]})
    tuned = scores_of({"en": ["fever\n\n### Answer: A"], "ru": ["×"]}, "with_rationale", "fever")
    assert {path.name for path in score_plots.write_plots([("base", base)], tmp_path / "base")} == {
        "accuracy.svg",
        "accuracy.png",
    }
    labelled = [("base", base), ("tuned $b_{ $", tuned)]  # no formula
    first, second = (score_plots.write_plots(labelled, tmp_path / name) for name in ("1", "2"))
    assert [path.name for path in first] == ["accuracy.svg", "accuracy.png", "rationale.svg", "rationale.png"]
    assert all(a.read_bytes() == b.read_bytes() and a.stat().st_size > 5000 for a, b in zip(first, second, strict=True))


def run_score(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "inference" / "score.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )


def test_the_command_scores_says_already_done_and_gives_the_codes(tmp_path):
    good = write_rows(tmp_path / "good" / "predictions.jsonl", [row(), row(1, output=" B")])
    bad = write_rows(tmp_path / "bad" / "predictions.jsonl", [row(), row(1, gold=["B"]), {"id": "broken"}])
    first = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert first.returncode == 5, first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["good"]["answer_only"]["accuracy"] == 0.5
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [run["label"] for run in saved["runs"]] == ["good", "bad"] and saved["caption"] == "60 steps"
    broken, other = (json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert "is missing" in broken["reason"] and other["reason"] == "gold differs between good and bad"
    assert [(c["first"], c["second"]) for c in saved["comparisons"]] == [("good", "bad")]
    assert saved["comparisons"][0]["kinds"]["answer_only"]["en"]["num_common"] == 1
    names = (
        "table.md",
        "table.csv",
        "table.tex",
        "details.md",
        "published.md",
        "accuracy.svg",
        "accuracy.png",
        "run.json",
    )
    for name in names:
        assert (tmp_path / "out" / name).stat().st_size

    before = (tmp_path / "out" / "scores.json").stat().st_mtime_ns
    again = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert again.returncode == 5 and "already done" in again.stderr
    assert (tmp_path / "out" / "scores.json").stat().st_mtime_ns == before

    write_rows(good, [row()])
    changed = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert changed.returncode == 2 and "other input" in changed.stderr


def test_the_command_refuses_what_is_not_there(tmp_path):
    empty = tmp_path / "predictions.jsonl"
    empty.touch()
    assert run_score("--input", empty, "--output_dir", tmp_path / "out").returncode == 3
    assert run_score("--input", tmp_path / "none", "--output_dir", tmp_path / "out").returncode == 3
    both = run_score("--input", "a", "b", "--labels", "x", "--output_dirs", "out")
    assert both.returncode == 2 and "near: output_dir" in both.stderr
    twice = run_score("--input", "a", "a", "--labels", "x", "--output_dir", tmp_path / "out")
    assert twice.returncode == 2 and "given twice" in twice.stderr and "1 for 2 inputs" in twice.stderr
    assert not (tmp_path / "out").exists()


def test_scoring_imports_no_torch():
    code = "import sys, inference.scoring, inference.scores.words; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
