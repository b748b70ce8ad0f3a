"""Two runs question by question: counts, filters, a case in full, and that no text of others breaks the page."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.errors import FailedItems, SettingsError
from configs.settings import parse
from inference.compare import CompareSettings
from inference.judges.comparing import OUTCOMES, compare_runs
from inference.scores.runs import labels_of, shared_questions
from inference.scores.significance import mcnemar_exact

ROOT = Path(__file__).parents[1]
HOSTILE = "</div><script>alert(1)</script> | **A** [x](javascript:1)\n# heading\n&amp; \u202egnp"


def row(name, lang, kind, output, gold=("A",), **more):
    options = {"A": "Iron", "B": "Zinc", "C": "Lead"}
    common = {"id": name, "lang": lang, "kind": kind, "question": f"Which metal ({name})?", "options": options}
    rationale = "Iron is the metal of blood." if kind == "with_rationale" else ""
    return {**common, "output": output, "gold": list(gold), "rationale": rationale, **more}


def write(folder, rows):
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(of) + "\n" for of in rows))
    return folder


@pytest.fixture
def two(tmp_path):
    """Five English and two French questions, answer only, one with rationale; letters say who is right."""
    said = {"e1": "AA", "e2": "AB", "e3": "BA", "e4": "AC", "e5": "BC", "f1": "BA", "f2": "?A"}
    runs = []
    for side in (0, 1):
        rows = [row(name, "fr" if name[0] == "f" else "en", "answer_only", of[side]) for name, of in said.items()]
        text = ["Iron is the metal of blood.", HOSTILE][side]
        rows.append(row("e1", "en", "with_rationale", f"### Rationale: {text}\n\n### Answer: {'AB'[side]}"))
        rows.append(row(f"only {side}", "en", "answer_only", "A"))
        runs.append(write(tmp_path / f"run{side}", rows))
    return runs


def settings(two, folder, *words):
    (made,) = parse("", CompareSettings, argv=[*map(str, two), "--output_dir", str(folder), *words])
    return made


def cases(folder):
    return [json.loads(line) for line in (folder / "differences.jsonl").read_text().splitlines()]


def test_counts_by_language_and_together(two, tmp_path, capsys):
    assert compare_runs(settings(two, tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    names = ["num_questions", *(f"num_{name}" for name in OUTCOMES)]
    counts = {code: [of[name] for name in names] for code, of in found["counts"]["answer_only"].items()}
    assert counts == {"en": [5, 1, 2, 1, 1], "fr": [2, 0, 0, 2, 0], "all": [7, 1, 2, 3, 1]}
    of_all = found["counts"]["answer_only"]["all"]
    assert of_all["mcnemar_p"] == mcnemar_exact(2, 3)
    assert of_all["accuracy_difference"] == pytest.approx((-1 / 5 + 2 / 2) / 2)  # every language counts the same
    assert of_all["num_unparsed_first"] == 1 and of_all["num_unparsed_second"] == 0
    assert (found["only_in_first"], found["only_in_second"]) == (1, 1)
    by_id = {(case["id"], case["kind"]): case for case in cases(tmp_path / "out")}
    assert len(by_id) == 8 and by_id["f2", "answer_only"]["first"]["parsed"] is None
    assert by_id["e1", "with_rationale"]["first"]["bleu_1_sentence"] == 1
    assert "only 0" not in {name for name, _ in by_id}
    printed = capsys.readouterr().out
    assert "| French | answer only | 2 | 0 | 0 | 2 | 0 | 1 | 0 | +100.0 |" in printed and "McNemar" in printed
    assert compare_runs(settings(two, tmp_path / "out")) == 0  # already done
    with pytest.raises(SettingsError, match="other settings"):
        compare_runs(settings(two, tmp_path / "out", "--languages", "fr"))


def test_filters_choose_questions_and_leave_the_counts_whole(two, tmp_path):
    compare_runs(settings(two, tmp_path / "fr", "--languages", "French"))
    assert {case["id"] for case in cases(tmp_path / "fr")} == {"f1", "f2"}
    compare_runs(settings(two, tmp_path / "lost", "--outcomes", "first_only", "--kind", "answer_only"))
    assert {case["id"] for case in cases(tmp_path / "lost")} == {"e2", "e4"}
    found = json.loads((tmp_path / "lost" / "comparison.json").read_text())
    assert list(found["counts"]) == ["answer_only"] and found["counts"]["answer_only"]["all"]["num_questions"] == 7


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_one_question_in_full_with_hostile_text_shown_as_it_is(two, tmp_path):
    out = tmp_path / "case"
    compare_runs(settings(two, out, "--question", "e1", "--labels", "base", "<b>tuned</b>"))
    text = (out / "case_study.md").read_text()
    assert "> \\" not in text.replace("> \\#", "") and "Right: A; only the first right." in text
    assert "- **A. Iron**\n- B. Zinc" in text and "> Iron is the metal of blood." in text
    assert "### base: A (right; BLEU-1 100.0; ROUGE-1 100.0)" in text and ": B (wrong; " in text
    assert "<script" not in text and "\\*\\*A\\*\\*" in text and "\u202e" not in text
    assert not re.search(r"^(> )?# heading", text, re.MULTILINE)
    page = (out / "comparison.html").read_text()
    read = Tags()
    read.feed(page)
    assert not {"script", "b", "a", "img"} & {tag for tag, _ in read.tags}
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert "alert(1)" in read.text and "<b>tuned</b>" in read.text
    # The filters are style rules: each value that a question has can be chosen.
    for tag, attrs in read.tags:
        if tag == "article":
            assert all(f"#{name}-{attrs[f'data-{name}']}:checked" in page for name in ("lang", "kind", "outcome"))
    assert "script" not in re.search(r'content="(default-src[^"]*)"', page)[1]


def test_what_cannot_be_compared_is_said(two, tmp_path):
    with pytest.raises(SettingsError, match="not in both runs"):
        compare_runs(settings(two, tmp_path / "a", "--question", "only 0"))
    with pytest.raises(SettingsError, match="no question in common"):
        compare_runs(settings(two, tmp_path / "b", "--languages", "ru"))
    other = write(
        tmp_path / "other", [row("e1", "en", "answer_only", "A", gold="B"), row("e2", "en", "answer_only", "A")]
    )
    assert compare_runs(settings([two[0], other], tmp_path / "c")) == 5
    (failure,) = [json.loads(line) for line in (tmp_path / "c" / "failures.jsonl").read_text().splitlines()]
    assert failure["where"] == "e1 (answer_only)" and "gold differs" in failure["reason"]
    with pytest.raises(SettingsError, match="wanted two"):
        settings([*two, other], tmp_path / "d")
    with pytest.raises(SettingsError, match="given twice"):
        settings([two[0], two[0]], tmp_path / "d")


def test_three_runs_share_what_all_have(tmp_path):
    runs = {
        name: [row(i, "en", "answer_only", "A") for i in ids] for name, ids in (("a", "12"), ("b", "23"), ("c", "2"))
    }
    found, lone = shared_questions(runs, FailedItems())
    assert [list(of) for of in found] == [["a", "b", "c"]] and lone == {"a": 1, "b": 1, "c": 0}
    paths = [Path("/r/x/eval/p.jsonl"), Path("/r/y/eval/p.jsonl")]
    assert labels_of(paths) == ["x/eval", "y/eval"] and labels_of(paths[:1]) == ["eval"]


def test_shuffled_options_make_a_case_an_order_and_a_question_one_count(tmp_path):
    """Right in both orders against right in one: the first is right more often, once."""
    runs = []
    for name, said in (("a", "AB"), ("b", "AA")):
        rows = [
            {
                **row("q", "en", "answer_only", said[order], gold="AB"[order]),
                "order": order,
                "original_letters": letters,
            }
            for order, letters in enumerate(("ABC", "BAC"))
        ]
        runs.append(write(tmp_path / name, rows))
    assert compare_runs(settings(runs, tmp_path / "out")) == 0
    assert [(case["order"], case["outcome"]) for case in cases(tmp_path / "out")] == [
        (0, "both_right"),
        (1, "first_only"),
    ]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["counts"]["answer_only"]["all"]
    assert (found["num_questions"], found["num_first_only"], found["num_first_only_right"]) == (1, 1, 1)
    assert found["accuracy_difference"] == -0.5


def test_the_page_shows_so_many_of_each_group_and_the_command_runs(tmp_path, script_env):
    runs = [
        write(tmp_path / name, [row(f"q{i}", "en", "answer_only", answer) for i in range(30)])
        for name, answer in (("a", "A"), ("b", "B"))
    ]
    command = [sys.executable, ROOT / "inference" / "compare.py", *runs, "--output_dir", tmp_path / "out"]
    done = subprocess.run(
        [*command, "--page_cases", "7"], env=script_env, capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("comparison.html") and "1.86e-09" in done.stdout  # 2 / 2 ** 30
    assert (tmp_path / "out" / "comparison.html").read_text().count("<article") == 7
    assert len(cases(tmp_path / "out")) == 30
