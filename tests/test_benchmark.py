"""A benchmark out of source sets: published splits, nothing twice, no training question that holds a test question."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError
from data_collection.benchmarks.benchmark import find_sets, read_splits, remove_repeated
from data_collection.questions.mmedbench import read_questions, to_row
from data_collection.questions.question import Question

ROOT = Path(__file__).parents[1]
SOURCES = ROOT.parent / "shared" / "data" / "sources"
LONG = (
    "A farmer of 54 years has had a dry cough, night sweats and a loss of eight kilograms since the spring; the picture "
    "of his chest shows a cavity in the right upper lobe. Which examination of the sputum"
)


def medmcqa(number, question, options=("one", "two", "three", "four"), right=1):
    return {
        "id": str(number),
        "question": question,
        "cop": right,
        **dict(zip(("opa", "opb", "opc", "opd"), options, strict=True)),
    }


def write_set(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(folder, output_dir, env, *words):
    command = [sys.executable, ROOT / "data_collection" / "build_benchmark.py", "--input", folder]
    command += ["--output_dir", output_dir, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_from_source_files_to_both_splits(tmp_path, script_env):
    sources = tmp_path / "sources"
    train = [medmcqa(i, f"Which of these is the drug number {i}?") for i in range(5)]
    train += [medmcqa(10, f"{LONG} is the first?", right=2), train[0], medmcqa(11, " ")]
    write_set(sources / "Med-MCQA", "train.json", train)
    write_set(sources / "Med-MCQA", "test.json", [medmcqa(20, f"{LONG} is done first?"), medmcqa(21, "Alone?")])
    write_set(sources / "Med-MCQA", "dev.json", [medmcqa(30, "Never read?")])
    done = build(sources, tmp_path / "out", script_env, "--sets", "medmcqa")
    assert done.returncode == 5, done.stderr  # one row has no question
    assert [row["question"] for row in rows(tmp_path / "out" / "Train" / "English.jsonl")] == [
        row["question"] for row in train[:5]
    ]
    test = rows(tmp_path / "out" / "Test" / "English.jsonl")
    assert [row["source_id"] for row in test] == ["medmcqa/test/20", "medmcqa/test/21"]
    assert test[0]["source"] == "medmcqa" and test[0]["licence"] == "MIT" and test[0]["answer_idx"] == "A"
    removed = {item["id"]: item for item in rows(tmp_path / "out" / "removed.jsonl")}
    assert removed["medmcqa/train/10"]["repeats"] == "medmcqa/test/20"
    assert removed["medmcqa/train/0-2"] == {
        "id": "medmcqa/train/0-2",
        "reason": "occurs twice",
        "repeats": "medmcqa/train/0",
    }
    assert len(removed) == 2
    (failure,) = rows(tmp_path / "out" / "failures.jsonl")
    assert "empty" in failure["reason"] and failure["where"].endswith("train.json:8")
    assert [q.question for q in read_questions(tmp_path / "out" / "Test" / "English.jsonl", "Test", FailedItems())]
    again = build(sources, tmp_path / "out", script_env, "--sets", "medmcqa")
    assert again.returncode == 5 and "already done" in again.stderr
    changed = build(sources, tmp_path / "out", script_env, "--sets", "medmcqa", "--test_share", "0.5")
    assert changed.returncode == 2 and "test_share" in changed.stderr


def test_a_set_without_published_splits_is_split_by_content(tmp_path):
    many = [medmcqa(i, f"What is the use of the remedy {i}?") for i in range(200)]
    write_set(tmp_path / "a", "all.json", many)
    write_set(tmp_path / "b", "all.json", list(reversed([*many, many[3]])))
    splits = [read_splits("medmcqa", tmp_path / name, 0.11, FailedItems()) for name in "ab"]
    texts = [{split: {q.question for q in found[split]} for split in found} for found in splits]
    assert texts[0] == texts[1] and len(texts[0]["Test"]) == 22 and len(texts[0]["Train"]) == 178


def test_sets_are_found_by_name(tmp_path):
    for name in ("HEAD-QA", "IgakuQA", "other"):
        (tmp_path / name).mkdir()
    assert list(find_sets(tmp_path, [])) == ["igakuqa", "headqa"]
    assert find_sets(tmp_path, ["headqa"]) == {"headqa": tmp_path / "HEAD-QA"}
    with pytest.raises(MissingInputError, match="medqa"):
        find_sets(tmp_path, ["headqa", "medqa"])
    with pytest.raises(MissingInputError, match="source sets"):
        find_sets(tmp_path / "other", [])


def test_of_equal_questions_the_first_stays_whatever_the_order_of_their_options():
    one = Question("1", "en", "Which?", {"A": "x", "B": "y"}, ("A",))
    two = Question("2", "en", "Which? ", {"A": "y", "B": "x"}, ("B",))
    removed = []
    assert remove_repeated([one, two], [], removed)["Train"] == [one]
    assert removed == [{"id": "2", "reason": "occurs twice", "repeats": "1"}]
    assert remove_repeated([one], [two], removed := []) == {"Train": [], "Test": [two]}
    assert removed == [{"id": "1", "reason": "occurs twice", "repeats": "2"}]


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("answers", [("A",), ("A", "B"), ()])
def test_a_row_written_is_the_question_read(tmp_path, lang, answers):
    question = Question("x", lang, "Q?", {"A": "u", "B": "v"}, answers, "why", True, False, {"source": "s"})
    path = tmp_path / {"en": "English.jsonl", "ja": "Japanese.jsonl"}[lang]
    path.write_text(json.dumps(to_row(question)) + "\n")
    failed = FailedItems()
    back = list(read_questions(path, "Test", failed))
    if not answers:
        assert len(failed) == 1
        return
    assert [(q.question, q.options, q.answers, q.rationale, q.human_checked, q.meta) for q in back] == [
        (question.question, question.options, answers, "why", True, {"source": "s"})
    ]


@pytest.mark.skipif(not SOURCES.is_dir(), reason="../shared/data is absent (original question sets)")
def test_real_sets(tmp_path, script_env):
    done = build(SOURCES, tmp_path / "out", script_env)
    assert done.returncode == 5, done.stderr
    kept = {path.stem: len(rows(path)) for path in (tmp_path / "out" / "Train").glob("*.jsonl")}
    removed = Counter(item["id"].split("/")[0] for item in rows(tmp_path / "out" / "removed.jsonl"))
    assert kept["French"] + removed["frenchmedmcqa"] == 2171 and kept["Russian"] + removed["rumeddanet"] == 1052
    assert kept["Spanish"] + removed["headqa"] == 2657
    theirs = read_questions(SOURCES.parent / "mmedbench" / "Train" / "French.jsonl", "Train", FailedItems())
    different = {q.content_hash for q in theirs}
    ours = list(read_questions(tmp_path / "out" / "Train" / "French.jsonl", "Train", FailedItems()))
    assert {q.content_hash for q in ours} == different and len(ours) == len(different)
