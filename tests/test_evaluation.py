"""eval.py from end to end: a model in this process, a server, another published set, an interrupted run."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from configs import locks
from configs.errors import EnvironmentFailure, FailedItems, MissingInputError, SettingsError
from data_collection.llm.server_settings import ServerSettings
from data_collection.questions.mmedbench import read_questions
from finetune.encoding import encode_prompts
from finetune.prompts import KINDS, render_question, save_prompt
from finetune.styles import PLAIN
from inference.eval import EvalSettings
from inference.evaluation import _model_and_its_run, evaluate
from pretrain.models import load_tokenizer

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"


def rows(output_dir):
    return [json.loads(line) for line in (output_dir / "predictions.jsonl").read_text().splitlines()]


def scores(output_dir):
    return json.loads((output_dir / "scores.json").read_text())["runs"][0]


@pytest.fixture
def served(http):
    """A server that gives the first option of every question, and says why."""
    http.finish_reason = "stop"
    http.reply = lambda request: "Because of what is known about it.\n\n### Answer: A"
    address = f"http://127.0.0.1:{http.server_address[1]}/v1"
    return ServerSettings(server_url=address, api_key_variable="A_KEY", max_retries=2)


def test_a_server_is_asked_and_scored(tmp_path, http, served):
    settings = EvalSettings(data=SAMPLE, languages=["en", "ru"], engine="server", output_dir=tmp_path)
    assert evaluate(settings, served) == 0
    answers = rows(tmp_path)
    assert Counter((row["lang"], row["kind"]) for row in answers) == {
        (lang, kind): 21 for lang in ("en", "ru") for kind in KINDS
    }
    average = scores(tmp_path)["languages"]["answer_only"]
    for lang in ("en", "ru"):
        right = sum(row["gold"] == ["A"] for row in answers if (row["lang"], row["kind"]) == (lang, "answer_only"))
        assert average[lang]["accuracy"] == pytest.approx(right / 21)
    assert {row["prompt"]["style"] for row in answers} == {"chat"}
    sent = {request["messages"][0]["content"] for request in http.requests}
    questions = read_questions(SAMPLE / "mmedbench" / "Test" / "English.jsonl", "Test", FailedItems())
    assert {render_question(question, kind) for question in questions for kind in KINDS} <= sent
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["model_name_or_path"].startswith("tiny at http") and "the-key" not in json.dumps(record)
    num_requests = len(http.requests)
    assert evaluate(settings, served) == 0 and len(http.requests) == num_requests  # already done


def test_two_commands_do_not_write_the_same_predictions(tmp_path, served, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_TO_LOCK", 0.2)
    settings = EvalSettings(data=SAMPLE, languages=["ru"], kinds=["answer_only"], engine="server", output_dir=tmp_path)
    with locks.hold(tmp_path / "predictions.jsonl"), pytest.raises(SettingsError, match="another command"):
        evaluate(settings, served)
    assert evaluate(settings, served) == 0 and len(rows(tmp_path)) == 21


def test_what_the_server_did_not_answer_is_asked_again_and_nothing_else(tmp_path, http, served):
    settings = EvalSettings(data=SAMPLE, languages=["fr"], engine="server", output_dir=tmp_path)
    # Where it divides by zero the server breaks the connection, at every try.
    http.reply = lambda request: "### Answer: A" if len(request["messages"][0]["content"]) % 4 else 1 // 0
    with pytest.raises(EnvironmentFailure, match="not answered") as raised:
        evaluate(settings, served)
    assert "of 21 questions" in str(raised.value) and not (tmp_path / "scores.json").exists()
    first = rows(tmp_path)
    http.reply = lambda request: "### Answer: A"
    http.requests.clear()
    assert evaluate(settings, served) == 0
    assert len(http.requests) == 42 - len(first)
    assert len({(row["id"], row["kind"]) for row in rows(tmp_path)}) == len(rows(tmp_path)) == 42


def test_a_question_that_the_server_refuses_for_good_is_an_answer_that_cannot_be_read(tmp_path, http, served):
    settings = EvalSettings(data=SAMPLE, languages=["fr"], engine="server", output_dir=tmp_path)
    questions = read_questions(SAMPLE / "mmedbench" / "Test" / "French.jsonl", "Test", FailedItems())
    http.faults = {render_question(next(questions), "with_rationale"): [400] * 9}
    assert evaluate(settings, served) == 5
    refused = [row for row in rows(tmp_path) if row["error"]]
    assert len(refused) == 1 and refused[0]["parsed"] is None and "fault 400" in refused[0]["error"]
    assert scores(tmp_path)["languages"]["with_rationale"]["fr"]["num_unparsed"] == 1
    (failure,) = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert failure["where"] == refused[0]["id"]


def test_what_the_server_refuses_of_every_question_is_nobodys_answer(tmp_path, http, served):
    settings = EvalSettings(data=SAMPLE, languages=["fr"], kinds=["answer_only"], engine="server", output_dir=tmp_path)
    http.refused_fields = ["messages"]
    with pytest.raises(SettingsError, match="refuses all requests"):
        evaluate(settings, served)
    assert not rows(tmp_path)
    http.refused_fields = []
    assert evaluate(settings, served) == 0 and not any(row["error"] for row in rows(tmp_path))


def test_the_budget_of_a_server_is_of_the_whole_run_and_its_fields_are_part_of_it(tmp_path, http, served, caplog):
    settings = EvalSettings(data=SAMPLE, languages=["fr"], kinds=["answer_only"], engine="server", output_dir=tmp_path)
    # An answer costs 15, and might cost more than 100.
    paid = replace(served, input_price=1e6, output_price=1e6, budget=300.0, max_concurrent_requests=1)
    for _ in range(2):
        with pytest.raises(SettingsError, match="of which"):
            evaluate(settings, paid)
        assert 15 * len(rows(tmp_path)) == sum(row["cost"] for row in rows(tmp_path)) == 15 * sum(http.seen.values())
    with pytest.raises(SettingsError, match="extra_body"):
        evaluate(settings, replace(paid, extra_body={"reasoning_effort": "low"}))
    assert evaluate(settings, replace(paid, budget=None)) == 0
    assert json.loads((tmp_path / "run.json").read_text())["result"]["cost"] == 15 * 21
    other = replace(settings, output_dir=tmp_path / "low")
    http.reply = lambda request: "<think>The answer is A. Or B?"  # and no more
    assert evaluate(other, replace(served, extra_body={"reasoning_effort": "low"})) == 0
    assert http.requests[-1]["reasoning_effort"] == "low"
    assert "21 of 21 answers are thoughts alone" in caplog.text and not any(
        row["parsed"] for row in rows(other.output_dir)
    )
    assert 'asked with {"reasoning_effort": "low"}' in (tmp_path / "low" / "table.md").read_text()


def test_a_server_has_no_repetition_penalty(tmp_path, served):
    settings = EvalSettings(data=SAMPLE, engine="server", output_dir=tmp_path, repetition_penalty=1.2)
    with pytest.raises(SettingsError, match="repetition penalty"):
        evaluate(settings, served)


def test_the_address_of_a_server_that_would_not_be_asked_is_refused(tmp_path, served):
    with pytest.raises(SettingsError, match="none would be asked") as raised:
        evaluate(EvalSettings(data=SAMPLE, output_dir=tmp_path), served)
    assert "--server_url, --api_key_variable, --max_retries" in str(raised.value)


MEDMCQA = {"question": "Which vitamin prevents scurvy?", "cop": 3, "exp": "Vitamin C.", "id": "x"}
MEDMCQA |= {"opa": "A", "opb": "B", "opc": "C", "opd": "D"}


def test_another_published_set_and_a_run_that_was_cut(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("inference.engines.native_bf16", lambda: False)
    folder = tmp_path / "MedMCQA"
    folder.mkdir()
    questions = [{**MEDMCQA, "id": str(i), "question": f"Which vitamin prevents disease {i}?"} for i in range(10, 22)]
    (folder / "dev.json").write_text("".join(json.dumps(row) + "\n" for row in [*questions, {"id": "no question"}]))
    (folder / "train.json").write_text(json.dumps({**MEDMCQA, "id": "from train"}) + "\n")
    common = {
        "model_name_or_path": str(tiny_model),
        "benchmark": "medmcqa",
        "data": folder,
        "split": "dev",
        "max_new_tokens": 8,
        "max_new_tokens_answer_only": 4,
    }
    settings = EvalSettings(output_dir=tmp_path / "whole", batch_size=4, **common)
    assert evaluate(settings, ServerSettings()) == 5  # one row has no question
    whole = rows(tmp_path / "whole")
    assert Counter(row["kind"] for row in whole) == dict.fromkeys(KINDS, 12)
    assert {row["id"] for row in whole} == {f"medmcqa/dev/{i}" for i in range(10, 22)}
    assert all(row["gold"] == ["C"] and row["rationale"] == "Vitamin C." for row in whole)
    assert scores(tmp_path / "whole")["languages"]["answer_only"]["en"]["chance_level"] == 0.25
    assert not (tmp_path / "whole" / "published.md").exists()  # whose rows are MMedBench's
    assert "of medmcqa" in (tmp_path / "whole" / "table.md").read_text()

    cut = tmp_path / "cut"
    cut.mkdir()
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**record, "status": "running"}))
    text = (tmp_path / "whole" / "predictions.jsonl").read_text()
    (cut / "predictions.jsonl").write_text(text[: len(text) // 3])
    settings = EvalSettings(output_dir=cut, batch_size=5, **common)
    assert evaluate(settings, ServerSettings()) == 5
    keys = [(row["id"], row["kind"]) for row in rows(cut)]
    assert len(keys) == len(set(keys)) == 24
    outputs = [{(row["id"], row["kind"]): row["output"] for row in answers} for answers in (whole, rows(cut))]
    assert outputs[0] == outputs[1]  # equal lengths, so batches of other sizes give the same in float32

    few = EvalSettings(output_dir=tmp_path / "few", batch_size=4, max_questions_per_language=3, **common)
    assert evaluate(few, ServerSettings()) == 5
    chosen = {row["id"] for row in rows(tmp_path / "few")}
    assert len(chosen) == 3 and chosen < {row["id"] for row in whole}
    with pytest.raises(SettingsError, match="question set"):
        evaluate(EvalSettings(output_dir=tmp_path / "x", **{**common, "benchmark": "medmcq"}), ServerSettings())
    with pytest.raises(MissingInputError, match="test"):
        evaluate(EvalSettings(output_dir=tmp_path / "x", **{**common, "split": "test"}), ServerSettings())
    assert (
        EvalSettings(benchmark="medmcqa").problems() and not EvalSettings(benchmark="medmcqa", data=folder).problems()
    )


def test_what_was_done_to_a_model_shows_in_its_folder_where_no_finished_run_says_it(tmp_path):
    def method(folder):
        return _model_and_its_run(str(folder))[1].get("method")

    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"stage": "finetune", "status": "running", "result": {}}))
    (tmp_path / "run" / "checkpoint-3" / "config.json").write_text("{}")
    assert method(tmp_path / "run" / "checkpoint-3") is None
    save_prompt(tmp_path / "run")
    assert method(tmp_path / "run" / "checkpoint-3") == "full"
    for kind, wanted in (("LORA", "LoRA"), ("IA3", "full")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        assert method(tmp_path / kind) == wanted


def test_questions_that_the_model_cannot_read_are_listed_and_the_others_asked(tmp_path, tiny_model):
    model, questions = (
        tmp_path / "short",
        read_questions(SAMPLE / "mmedbench/Test/English.jsonl", "Test", FailedItems()),
    )
    shutil.copytree(tiny_model, model)
    prompts = encode_prompts(list(questions), "answer_only", PLAIN, load_tokenizer(str(model)))
    lengths = sorted(map(len, prompts))
    config = json.loads((model / "config.json").read_text())

    def asked(folder, max_position_embeddings, *kinds):
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": max_position_embeddings}))
        common = {
            "model_name_or_path": str(model),
            "data": SAMPLE,
            "languages": ["en"],
            "max_new_tokens_answer_only": 1,
        }
        return evaluate(EvalSettings(kinds=list(kinds), output_dir=tmp_path / folder, **common), ServerSettings())

    kinds = ["answer_only", "letter_likelihood", "text_likelihood"]
    most = lengths[-3] + 1  # an option's letter has two tokens here, of which the first is read
    assert asked("run", most, *kinds) == 5
    found = rows(tmp_path / "run")
    assert Counter(row["kind"] for row in found) == dict.fromkeys([*kinds, "text_likelihood_normalised"], len(lengths))
    unread = [row for row in found if row.get("error")]
    assert Counter(row["kind"] for row in unread) == {"answer_only": 2, "letter_likelihood": 2}
    assert all(row["output"] == "" and row["parsed"] is None for row in unread)
    assert [row["num_prompt_tokens"] for row in unread if row["kind"] == "answer_only"] in (
        lengths[-2:],
        lengths[:-3:-1],
    )
    failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 4 and f"and the model reads {most:,}" in failures[0]["reason"]
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    (tmp_path / "run" / "run.json").unlink()  # as a kill leaves it
    assert asked("run", most, *kinds) == 5
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before
    with pytest.raises(SettingsError, match="all prompts are longer than the model can read"):
        asked("none", lengths[0] - 1, "answer_only")
