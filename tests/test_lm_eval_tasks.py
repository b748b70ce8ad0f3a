"""The harness's task files: the same questions, prompts and choices as inference/eval.py."""

import json
import sys
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError
from configs.languages import LANGUAGES
from data_collection.llm.server_settings import ServerSettings
from data_collection.questions.mmedbench import find_files, read_questions
from finetune.prompts import render_prompt
from inference.eval import EvalSettings
from inference.evaluation import evaluate

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is missing: pip install lm_eval")
ROOT = Path(__file__).parents[1]
TASKS = ROOT / "inference" / "lm_eval_tasks"
SAMPLE = ROOT / "assets" / "sample"
REAL = ROOT.parent / "shared" / "data"


@pytest.fixture
def tasks(monkeypatch):
    """Gives the harness's tasks on a folder of questions, by name."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def load(data, names):
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data": str(data)})
        return manager.load(names)["tasks"]

    yield load
    sys.modules.pop("mmedbench", None)


@pytest.mark.parametrize("data", [SAMPLE, REAL], ids=["sample", "real"])
def test_the_harness_asks_the_same_questions_in_the_same_words(tasks, data):
    if not (data / "mmedbench").is_dir():
        pytest.skip(f"{data} is not there")
    seen = 0
    for name, task in tasks(data, ["mmedbench"]).items():
        code = next(code for code, row in LANGUAGES.items() if name.endswith(row.name.lower()))
        for split, documents in (("Train", task.training_docs()), ("Test", task.test_docs())):
            if split == "Train" and len(documents) > 100 and code != "ja":  # odd rows are Japanese
                continue
            try:
                path = find_files(data, split, [code])[code]
            except MissingInputError:  # the real data has no English or Chinese training rows
                assert not len(documents)
                continue
            questions = list(read_questions(path, split, FailedItems()))
            assert [render_prompt(q, "answer_only") for q in questions] == [task.doc_to_text(doc) for doc in documents]
            assert [list(q.options) for q in questions] == [task.doc_to_choice(doc) for doc in documents]
            assert [list(q.answers) for q in questions] == [doc["answers"] for doc in documents]
            seen += len(documents)
    assert seen == (378 if data == SAMPLE else 600 + 1588)  # two real training rows of 1,590 cannot be used


def test_the_harness_makes_the_same_choices(tasks, tiny_model, tmp_path):
    from lm_eval import simple_evaluate

    settings = EvalSettings(
        model_name_or_path=str(tiny_model),
        data=SAMPLE,
        output_dir=tmp_path,
        kinds=["letter_likelihood"],
        languages=["en", "fr"],
        precision="float32",
    )
    assert evaluate(settings, ServerSettings()) == 0
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())}
    scores = json.loads((tmp_path / "scores.json").read_text())["runs"][0]["languages"]["letter_likelihood"]
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_model), "dtype": "float32", "device": "cpu"},
        tasks=["mmedbench_english", "mmedbench_french"],
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data": str(SAMPLE)}),
        batch_size=4,
        bootstrap_iters=0,
    )
    for code, name in (("en", "English"), ("fr", "French")):
        for sample in found["samples"][f"mmedbench_{name.lower()}"]:
            row = rows[f"Test/{name}/{sample['doc']['row']:05d}"]
            theirs = [float(response[0][0]) for response in sample["resps"]]
            assert list(row["log_likelihoods"].values()) == pytest.approx(theirs, abs=2e-4)
            assert row["output"] == sample["doc"]["letters"][theirs.index(max(theirs))]
        results = found["results"][f"mmedbench_{name.lower()}"]
        assert results["acc,none"] == pytest.approx(scores[code]["accuracy"])
        assert results["acc_single_answer,none"] == pytest.approx(scores[code]["accuracy_single_answer"])
        assert scores[code]["accuracy_several_answers"] in (None, 0)
