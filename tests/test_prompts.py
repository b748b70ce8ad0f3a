"""Prompts: worked texts of every style, each tokenizer's own chat template, and the record that travels with weights."""

import json
from pathlib import Path

import pytest

from configs.errors import FailedItems, SettingsError
from configs.files import write_json
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import LETTERS, Question
from finetune import prompts
from finetune.prompts import (
    KINDS,
    check_prompt,
    prompt_record,
    render_completion,
    render_prompt,
    render_question,
    save_prompt,
    taught_style,
)
from finetune.styles import PLAIN, PUBLISHED, STYLES, apply_template, chat_style, find_style, without_start
from pretrain.models import load_tokenizer

ROOT = Path(__file__).parents[1]
SAMPLE, SHARED = ROOT / "assets" / "sample", ROOT.parent / "shared" / "data"
REAL = ["smollm2-135m", "tokenizers/gemma3", "tokenizers/llama3", "tokenizers/qwen3"]
QUESTION = Question("q", "es", "¿Cuál {0}?", {"A": "uno", "B": "dos", "C": "tres"}, ("A", "C"), "Porque sí.")


@pytest.fixture(scope="module", params=REAL)
def tokenizer(request):
    folder = ROOT / "models" / request.param
    if not folder.is_dir():
        pytest.skip(f"models/{request.param} is missing: python scripts/download.py {request.param.split('/')[0]}")
    return load_tokenizer(str(folder))


def sample(split="Train", languages=None, count=3, data=SAMPLE):
    files = find_files(data, split, languages).values()
    return [question for path in files for question in list(read_questions(path, split, FailedItems()))[:count]]


def test_the_published_layout_by_hand():
    asked = render_prompt(QUESTION, "with_rationale", PUBLISHED)
    assert asked.startswith("### Instruction:\nResponda")
    assert asked.endswith(
        "\n\n### Input:\n###Question: ¿Cuál {0}? ###Options: A. uno B. dos C. tres\n\n### Response:###Rationale:"
    )
    assert render_completion(QUESTION, "with_rationale", PUBLISHED) == (
        " Porque sí.\n###Answer: OPTION A,C IS CORRECT."
    )
    assert render_prompt(QUESTION, "answer_only", PUBLISHED).endswith("\n\n### Response:###Answer:")
    assert render_completion(QUESTION, "answer_only", PUBLISHED) == " OPTION A,C IS CORRECT."


def test_the_chat_template_is_the_tokenizers_own(tokenizer):
    style = chat_style(tokenizer)
    for question in sample():
        for kind in KINDS:
            asked, said = render_prompt(question, kind, style), render_completion(question, kind, style)
            user = {"role": "user", "content": render_question(question, kind, style)}
            template = {"tokenize": False, "enable_thinking": False}
            assert tokenizer.apply_chat_template([user], add_generation_prompt=True, **template) in (
                asked,
                (tokenizer.bos_token or "") + asked,  # which this tokenizer puts before every text itself
            )
            answered = tokenizer.apply_chat_template([user, {"role": "assistant", "content": said}], **template)
            assert asked + said + style.end in answered
            start = tokenizer.bos_token_id
            assert start is None or tokenizer(asked)["input_ids"].count(start) == answered.count(tokenizer.bos_token)
            assert style.end_token_id(tokenizer) in tokenizer(style.end, add_special_tokens=False)["input_ids"]


def test_examples_are_turns_as_the_template_renders_them(tokenizer):
    *examples, question = sample(languages=["en"])
    style = chat_style(tokenizer)
    for kind in KINDS:
        turns = [
            {"role": role, "content": render(example, kind, style)}
            for example in examples
            for role, render in (("user", render_question), ("assistant", render_completion))
        ]
        turns.append({"role": "user", "content": render_question(question, kind, style)})
        wanted = apply_template(tokenizer, turns, asking=True)
        assert render_prompt(question, kind, style, examples) == without_start(wanted, tokenizer)


def test_turns_of_real_templates(tokenizer):
    style, name = chat_style(tokenizer), Path(tokenizer.name_or_path).name
    assert (style.after, style.end) == {
        "smollm2-135m": ("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        "gemma3": ("<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
        "llama3": ("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        "qwen3": ("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    }[name]
    assert style.lead == ""


def with_template(tokenizer, template):
    tokenizer.chat_template = template
    return tokenizer


TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def test_templates_with_dates_blanks_and_traps(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    assert tokenizer.chat_template is None
    with pytest.raises(SettingsError, match="no chat template") as refused:
        chat_style(tokenizer)
    assert "--prompt_style plain" in refused.value.todo
    style = chat_style(with_template(tokenizer, TURNS))
    assert (style.before, style.after, style.lead, style.end) == ("user: ", "<end>assistant: ", "", "<end>")
    # The tokenizer puts <start> before every text: the template's is taken off.
    assert chat_style(with_template(tokenizer, "<start>" + TURNS)) == style
    # As Llama 2 and Mistral write it: the blank before the answer is taught, as the template has it.
    blank = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% else %} {{ m.content }} <end>{% endif %}{% endfor %}"
    style = chat_style(with_template(tokenizer, blank))
    assert (style.before, style.after, style.lead, style.end) == ("[", "]", " ", "<end>")
    assert render_completion(QUESTION, "answer_only", style) == " A, C"
    # As DeepSeek R1 writes it, which thinks whatever it is told.
    style = chat_style(with_template(tokenizer, TURNS.replace("assistant: {%", "assistant: <think>\n{%")))
    assert (style.after, style.answered) == ("<end>assistant: <think>\n\n</think>\n\n", "<end>assistant: ")
    # A template that prints today's date makes the same prompt every day.
    dated = chat_style(with_template(tokenizer, "{{ strftime_now('%d %b %Y') }} {{ date_string }} " + TURNS))
    assert dated.before == "26 Jul 2024 26 Jul 2024 user: "
    # One without an end token ends with the tokenizer's own.
    style = chat_style(with_template(tokenizer, TURNS.replace("<end>", ";")))
    assert style.end == "" and style.end_token_id(tokenizer) == tokenizer.eos_token_id
    for template, found in (("nothing", "leaves out"), ("{{ raise_exception('no users') }}", "refuses")):
        with pytest.raises(SettingsError, match=found):
            chat_style(with_template(tokenizer, template))


@pytest.mark.parametrize("name", STYLES)
def test_what_is_taught_is_read_back_as_the_answer(name, tiny_model):
    style = find_style(name, with_template(load_tokenizer(str(tiny_model)), TURNS))
    assert style.name == name
    for question in sample(count=6):
        for kind in KINDS:
            text = render_completion(question, kind, style)
            assert parse_answer(text, question.options) == question.answers
            if kind == "with_rationale":
                assert split_answer(text)[0].strip() == question.rationale
    for count in range(2, 9):
        options = {letter: f"option {letter}" for letter in LETTERS[:count]}
        for answers in {tuple(options)[-1:], tuple(options)[:-1], tuple(options)[::2]}:
            question = Question("q", "fr", "Q", options, answers, "R")
            assert "option " + LETTERS[count - 1] in render_prompt(question, "answer_only", style)
            for kind in KINDS:
                assert parse_answer(render_completion(question, kind, style), options) == answers


def test_headings_that_rationales_bring_along_are_not_taught():
    for rationale in ("### Рационал:Потому.", "###Rationale: Потому.", "B. нет### Обоснование:Потому."):
        question = Question("q", "ru", "Q", {"A": "да", "B": "нет"}, ("A",), rationale)
        assert render_completion(question, "with_rationale") == " Потому.\n\n### Answer: A"
    for rationale in ("Число # 5: да.", "Потому что в тексте далеко отсюда ### так: да."):
        question = Question("q", "ru", "Q", {"A": "да", "B": "нет"}, ("A",), rationale)
        assert render_completion(question, "with_rationale") == f" {rationale}\n\n### Answer: A"
    with pytest.raises(ValueError, match="no rationale"):
        render_completion(Question("q", "ru", "Q", {"A": "да", "B": "нет"}, ("A",), "### Ответ: "), "with_rationale")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there (real MMedBench rows)")
@pytest.mark.parametrize("style", [PLAIN, PUBLISHED], ids=lambda style: style.name)
def test_every_real_question_is_taught_and_its_answer_read_back(style):
    questions = sample("Train", count=None, data=SHARED) + sample("Test", count=None, data=SHARED)
    assert len(questions) > 8000
    for question in questions:
        for kind in KINDS:
            text = render_completion(question, kind, style)
            if kind == "answer_only" or "#" not in question.rationale:
                assert parse_answer(text, question.options) == question.answers, question.id
            assert text.count("#Answer") + text.count("# Answer") == (kind == "with_rationale")


def test_the_record_knows_style_languages_and_wording(tmp_path, tiny_model, monkeypatch):
    tokenizer = with_template(load_tokenizer(str(tiny_model)), TURNS)
    chat = chat_style(tokenizer)
    assert taught_style(tmp_path) is None
    check_prompt(tmp_path, chat)  # a base model has no record
    records = [prompt_record(style, ["ru", "en"]) for style in (PLAIN, PUBLISHED, chat)]
    assert [record["style"] for record in records] == list(
        find_style(n, tokenizer).name for n in ("plain", "published", "chat")
    )
    assert len({record["hash"] for record in records}) == 3
    assert records[0] == prompt_record(PLAIN, ["en", "ru"]) != prompt_record(PLAIN, ["en"])

    save_prompt(tmp_path, chat, ["ru", "en"])
    assert taught_style(tmp_path) == "chat"
    check_prompt(tmp_path, chat)
    with pytest.raises(SettingsError, match="another prompt") as refused:
        check_prompt(tmp_path, PLAIN)
    assert "ask in the style it was taught (chat)" in refused.value.todo
    with pytest.raises(SettingsError, match="another prompt"):  # the same style's id, another template's turns
        check_prompt(
            tmp_path, chat_style(with_template(tokenizer, TURNS.replace("user", "human").replace("m.role", "'x'")))
        )
    with pytest.raises(SettingsError, match="another prompt"):  # the same text, another end token
        check_prompt(tmp_path, chat_style(with_template(tokenizer, TURNS.replace("<end>", "<start>"))))

    # A language more, or another wording in one that was not taught, refuses nothing; one that was taught does.
    monkeypatch.setitem(prompts._INSTRUCTIONS, "pt", ("Responda.", "Responda só."))
    monkeypatch.setitem(prompts._INSTRUCTIONS, "fr", ("Répondez.", "Répondez."))
    check_prompt(tmp_path, chat)
    monkeypatch.setitem(prompts._INSTRUCTIONS, "ru", ("Ответьте.", "Ответьте."))
    with pytest.raises(SettingsError, match="another prompt"):
        check_prompt(tmp_path, chat)
    monkeypatch.delitem(prompts._INSTRUCTIONS, "ru")
    with pytest.raises(SettingsError, match="another prompt"):
        check_prompt(tmp_path, chat)
    write_json(tmp_path / "prompt.json", json.loads('{"style": "plain", "hash": "0123456789abcdef"}'))
    with pytest.raises(SettingsError, match="another prompt"):  # a record of before the languages were kept
        check_prompt(tmp_path, PLAIN)
