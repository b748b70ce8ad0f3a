"""Log-likelihoods of options: equal to a plain computation, one option at a time without cache or padding."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from configs.errors import FailedItems, SettingsError
from data_collection.llm.server_settings import ServerSettings
from data_collection.questions.mmedbench import find_files, read_questions
from finetune.encoding import continued, encode_prompts
from finetune.prompts import render_options, render_prompt, render_question
from finetune.styles import PLAIN, PUBLISHED
from inference.eval import EvalSettings
from inference.evaluation import evaluate
from inference.likelihood import OptionScores, score_options
from pretrain.models import load_model, load_tokenizer

SAMPLE = Path(__file__).parents[1] / "assets" / "sample"


def sample_questions(split="Test"):
    files = find_files(SAMPLE, split, ["en", "fr", "ja"]).values()
    return [question for path in files for question in list(read_questions(path, split, FailedItems()))[:3]]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(str(tiny_model))


def encoded(tokenizer, questions, *, as_text, style=PLAIN):
    prompts = encode_prompts(questions, "cloze" if as_text else "answer_only", style, tokenizer)
    options = [render_options(question, style, as_text=as_text) for question in questions]
    return prompts, [
        dict(zip(of, continued(tokenizer, list(of.values()), as_text=True), strict=True)) for of in options
    ]


def plain(model, prompt, option):
    """The sum of log P(token | all before it), with no cache, batch or padding."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + option]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(logits[len(prompt) + place - 1, token].item() for place, token in enumerate(option))


@pytest.mark.parametrize(("as_text", "style"), [(False, PLAIN), (True, PLAIN), (False, PUBLISHED)])
def test_scores_equal_a_plain_computation_whatever_the_batch(model, tokenizer, as_text, style):
    questions = sample_questions()
    prompts, options = encoded(tokenizer, questions, as_text=as_text, style=style)
    if as_text:  # questions of unequal numbers of options in one batch, one option of a single token
        options[0] = dict(list(options[0].items())[:2])
        options[1]["A"] = options[1]["A"][:1]
    wanted = [
        {letter: plain(model, p, ids) for letter, ids in of.items()} for p, of in zip(prompts, options, strict=True)
    ]
    for batch_size in (1, 4, len(prompts)):
        found = [scores for batch in score_options(model, prompts, options, batch_size) for scores in batch]
        assert sorted(scores.index for scores in found) == list(range(len(prompts)))
        for scores in found:
            assert scores.log_likelihoods == pytest.approx(wanted[scores.index], abs=2e-4)
            assert sum(scores.probabilities().values()) == pytest.approx(1)


def test_models_that_know_no_position_ids_are_scored_alike(tokenizer):
    torch.manual_seed(1)
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "n_layer": 2, "n_head": 4}
    bloom = BloomForCausalLM(BloomConfig(**size, initializer_range=0.2)).eval()
    prompts, options = encoded(tokenizer, sample_questions()[:4], as_text=True)
    for scores in next(score_options(bloom, prompts, options, 4)):
        wanted = {letter: plain(bloom, prompts[scores.index], ids) for letter, ids in options[scores.index].items()}
        assert scores.log_likelihoods == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_model_that_gives_no_numbers_chooses_nothing(tiny_model, tokenizer, as_text):
    broken = load_model(str(tiny_model), torch.float32).eval()
    broken.model.norm.weight.data[0] = float("nan")
    prompts, options = encoded(tokenizer, sample_questions()[:2], as_text=as_text)
    with pytest.raises(SettingsError, match="not numbers"):
        list(score_options(broken, prompts, options, 2))


def test_half_precision_does_not_make_letters_equal(tiny_model, tokenizer):
    model = load_model(str(tiny_model), torch.bfloat16).eval()
    model.lm_head.weight.data *= 8  # logits as large as a real model's, whose last bit in bfloat16 is 1/16 and more
    prompts, options = encoded(tokenizer, sample_questions(), as_text=False)
    letters = [{letter: ids[-1:] for letter, ids in of.items()} for of in options]
    for scores in (scores for batch in score_options(model, prompts, letters, 1) for scores in batch):
        with torch.no_grad():
            hidden = model.model(torch.tensor([prompts[scores.index]])).last_hidden_state[0, -1].float()
            wanted = (model.lm_head.weight.float() @ hidden).log_softmax(-1)
            coarse = model(torch.tensor([prompts[scores.index]])).logits
        found = scores.log_likelihoods
        assert found == pytest.approx(
            {letter: wanted[ids[0]].item() for letter, ids in letters[scores.index].items()}, abs=1e-3
        )
        assert len(set(found.values())) == len(found)
        assert coarse.dtype == torch.bfloat16  # the model is left as it was


def test_the_choice_is_the_likeliest_or_the_likeliest_a_character():
    scores = OptionScores(0, {"A": -4.0, "B": -9.0, "C": -4.0}, 10, 9, 0.0)
    assert scores.choose() == "A"  # the first of equal ones, as the harness has it
    assert scores.choose({"A": "no", "B": "tuberculosis", "C": "yes"}) == "B"  # -2, -0.75, -1.33
    assert scores.probabilities() == pytest.approx({"A": 0.49832, "B": 0.00336, "C": 0.49832}, abs=1e-5)


def run(tmp_path, tiny_model, name, **changes):
    common = {"model_name_or_path": str(tiny_model), "data": SAMPLE, "languages": ["en", "fr"], "precision": "float32"}
    common |= {"max_questions_per_language": 5, "max_new_tokens": 4, "max_new_tokens_answer_only": 2, "batch_size": 4}
    settings = EvalSettings(output_dir=tmp_path / name, **{**common, **changes})
    assert not settings.problems()
    assert evaluate(settings, ServerSettings()) == 0
    rows = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
    return rows, json.loads((tmp_path / name / "scores.json").read_text())["runs"][0]


def test_likelihoods_through_the_command_and_a_run_that_was_cut(tmp_path, tiny_model, model, tokenizer):
    kinds = ["letter_likelihood", "text_likelihood"]
    rows, scores = run(tmp_path, tiny_model, "whole", kinds=kinds, max_questions_per_language=None)
    named = ["letter_likelihood", "text_likelihood", "text_likelihood_normalised"]
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(named, 42)
    for row in rows:
        per = {letter: len(text) if "normalised" in row["kind"] else 1 for letter, text in row["options"].items()}
        likeliest = max(row["log_likelihoods"], key=lambda letter: row["log_likelihoods"][letter] / per[letter])
        assert row["parsed"] == [row["output"]] == [likeliest]
    # A question with several right answers is never right so, stays in the denominator, and chance knows it.
    several = [row for row in rows if len(row["gold"]) > 1 and row["kind"] == "letter_likelihood"]
    assert several and {row["lang"] for row in several} == {"fr"}
    french = scores["languages"]["letter_likelihood"]["fr"]
    assert french["num_questions"] == 21 and french["accuracy_several_answers"] == 0
    singles = [row for row in rows if (row["lang"], row["kind"]) == ("fr", "letter_likelihood") and row not in several]
    assert french["chance_level"] == pytest.approx(sum(1 / len(row["options"]) for row in singles) / 21)
    assert french["accuracy_single_answer"] == sum(row["parsed"] == row["gold"] for row in singles) / len(singles)
    table = (tmp_path / "whole" / "table.md").read_text()
    assert "| zero-shot, letter likelihood |" in table and "never right so" in table
    assert "greedy" not in table  # nothing was generated
    # Cut in the middle of a row: the second of a question's two answers is missing too.
    cut = tmp_path / "cut"
    cut.mkdir()
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**record, "status": "running"}))
    text = (tmp_path / "whole" / "predictions.jsonl").read_text()
    first_normalised = next(i for i, row in enumerate(rows) if row["kind"] == named[2])
    (cut / "predictions.jsonl").write_text("\n".join(text.splitlines()[:first_normalised]) + '\n{"kind": "text_l')
    again, scores_again = run(tmp_path, tiny_model, "cut", kinds=kinds, max_questions_per_language=None)
    assert len({(row["id"], row["kind"]) for row in again}) == len(again) == len(rows)
    accuracies = [
        {k: {c: v["accuracy"] for c, v in of.items()} for k, of in s["languages"].items()}
        for s in (scores, scores_again)
    ]
    assert accuracies[0] == accuracies[1]


def test_examples_are_training_questions_of_the_same_language_and_are_recorded(tmp_path, tiny_model):
    rows, scores = run(tmp_path, tiny_model, "shots", kinds=["letter_likelihood", "answer_only"], num_fewshot=2)
    record = json.loads((tmp_path / "shots" / "run.json").read_text())
    shown = record["result"]["fewshot_examples"]
    assert {lang: [name.split("/")[:2] for name in ids] for lang, ids in shown.items()} == {
        "en": [["Train", "English"]] * 2,
        "fr": [["Train", "French"]] * 2,
    }
    assert scores["settings"]["letter_likelihood"] == {
        "adaptation": "few-shot", "num_fewshot": 2, "prompt_style": "plain", "shuffled": False,
    }  # fmt: skip
    assert "| 2-shot, letter likelihood |" in (tmp_path / "shots" / "table.md").read_text()
    zero, _ = run(tmp_path, tiny_model, "none", kinds=["letter_likelihood"])
    longer = {row["id"]: row["num_prompt_tokens"] for row in rows if row["kind"] == "letter_likelihood"}
    assert all(longer[row["id"]] > row["num_prompt_tokens"] for row in zero)
    with pytest.raises(SettingsError, match="fewshot"):
        run(tmp_path, tiny_model, "shots", kinds=["letter_likelihood", "answer_only"], num_fewshot=2, fewshot_seed=1)


def test_a_server_is_shown_the_examples_as_turns(tmp_path, http):
    http.reply, http.finish_reason = (lambda request: "A"), "stop"
    server = ServerSettings(server_url=f"http://127.0.0.1:{http.server_address[1]}/v1", api_key_variable="A_KEY")
    common = {"data": SAMPLE, "languages": ["ja"], "max_questions_per_language": 2, "output_dir": tmp_path}
    settings = EvalSettings(engine="server", kinds=["answer_only"], num_fewshot=2, **common)
    assert evaluate(settings, server) == 0
    ids = json.loads((tmp_path / "run.json").read_text())["result"]["fewshot_examples"]["ja"]
    path = find_files(SAMPLE, "Train", ["ja"])["ja"]
    train = {question.id: question for question in read_questions(path, "Train", FailedItems())}
    for request in http.requests:
        roles = [message["role"] for message in request["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        for place, name in enumerate(ids):
            asked, answered = request["messages"][2 * place : 2 * place + 2]
            assert asked["content"] == render_question(train[name], "answer_only")
            assert answered["content"] == ", ".join(train[name].answers)


def test_a_few_shot_prompt_shows_what_training_would_teach():
    first, second = sample_questions("Train")[:2]
    asked = sample_questions()[0]
    prompt = render_prompt(asked, "answer_only", PLAIN, [first, second])
    one, two, last = prompt.split("\n\n### Answer:")[0:3]
    assert prompt.endswith("\n\n### Answer:") and prompt.count("### Answer:") == 3
    assert one == render_prompt(first, "answer_only").removesuffix("\n\n### Answer:")
    assert two == f" {', '.join(first.answers)}\n\n" + render_prompt(second, "answer_only").removesuffix(
        "\n\n### Answer:"
    )
    assert last == f" {', '.join(second.answers)}\n\n" + render_prompt(asked, "answer_only").removesuffix(
        "\n\n### Answer:"
    )
    assert render_prompt(asked, "cloze", PLAIN, [first]) == (
        f"{first.question}\n\n### Answer: {first.options[first.answers[0]]}\n\n{asked.question}\n\n### Answer:"
    )


def test_shuffled_options_through_the_command(tmp_path, tiny_model):
    rows, scores = run(
        tmp_path, tiny_model, "shuffled", kinds=["letter_likelihood", "with_rationale"], shuffle_options=3
    )
    plain_rows, _ = run(tmp_path, tiny_model, "plain", kinds=["letter_likelihood"])
    originals = {row["id"]: row for row in plain_rows}
    assert Counter((row["kind"], row["order"]) for row in rows) == {
        (kind, order): 10 for kind in ("letter_likelihood", "with_rationale") for order in range(3)
    }
    for row in rows:
        back = dict(zip(row["options"], row["original_letters"], strict=True))
        original = originals[row["id"]]
        assert {back[letter]: text for letter, text in row["options"].items()} == original["options"]
        assert sorted(back[letter] for letter in row["gold"]) == original["gold"]
        assert row["parsed_original"] == (row["parsed"] and sorted(back[letter] for letter in row["parsed"]))
    english = scores["languages"]["letter_likelihood"]["en"]
    by_order = [
        sum(
            r["parsed"] == r["gold"]
            for r in rows
            if (r["lang"], r["kind"], r["order"]) == ("en", "letter_likelihood", order)
        )
        / 5
        for order in range(3)
    ]
    assert english["num_questions"] == 5 and english["accuracy_by_order"] == pytest.approx(by_order)
    assert english["accuracy"] == pytest.approx(sum(by_order) / 3)
    assert "options shuffled" in (tmp_path / "shuffled" / "table.md").read_text()
    assert "Options in other orders" in (tmp_path / "shuffled" / "details.md").read_text()


def test_settings_that_cannot_be_are_named():
    def problems(**changes):
        return " ".join(EvalSettings(**changes).problems())

    assert "kinds" in problems(kinds=[]) and "kinds" in problems(kinds=["answer_only", "answer_only"])
    assert "likelihoods" in problems(engine="server", kinds=["letter_likelihood"])
    assert "fewshot_split" in problems(benchmark="medmcqa", data=SAMPLE, split="train", num_fewshot=1)
    assert "shuffle_options -1" in problems(shuffle_options=-1)
