"""Examples: exact labels in every style with real tokenizers, conversations, and no leak between packed examples."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import FailedItems, MissingInputError
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.conversations import Conversation, find_conversation_files, read_conversations, render_conversation
from finetune.encoding import encode_prompts
from finetune.examples import PackedExamples, conversation_segments, to_segments
from finetune.prompts import KINDS, render_completion, render_prompt
from finetune.rows import read_rows
from finetune.styles import PLAIN, PUBLISHED, STYLES, find_style
from pretrain.models import load_model, load_tokenizer
from pretrain.token_blocks.blocks import IGNORED, Collator

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
TOKENIZERS = ["tiny", "smollm2-135m", "tokenizers/gemma3", "tokenizers/llama3", "tokenizers/qwen3"]
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tiny_model):
    folder = tiny_model if request.param == "tiny" else ROOT / "models" / request.param
    if not folder.is_dir():
        pytest.skip(f"models/{request.param} is missing: python scripts/download.py {request.param.split('/')[0]}")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = tokenizer.chat_template or TURNS
    return tokenizer


def sample_questions(count):
    """So many training questions of each of the six languages."""
    files = find_files(SAMPLE, "Train").values()
    return [question for path in files for question in list(read_questions(path, "Train", FailedItems()))[:count]]


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", STYLES)
def test_labels_are_the_completion_and_its_end_token(name, tokenizer):
    style, failed = find_style(name, tokenizer), FailedItems()
    questions = sample_questions(4)
    assert {question.lang for question in questions} == {"en", "zh", "ja", "fr", "ru", "es"}
    # One rationale holds the names of end tokens: text, which ends nothing.
    end = style.end_token_id(tokenizer)
    named = f"It ends {tokenizer.eos_token} here {tokenizer.decode([end])} or there."
    questions.append(Question("named", "en", "Which?", {"A": "a", "B": "b"}, ("B",), named))
    segments = to_segments(questions, tokenizer, 4096, failed, style)
    rows = [(question, kind) for question in questions for kind in KINDS]
    assert len(segments) == len(rows) and not failed
    for (ids, labels), (question, kind) in zip(segments, rows, strict=True):
        prompt_ids = tokenizer(render_prompt(question, kind, style))["input_ids"]
        assert ids[: len(prompt_ids)].tolist() == prompt_ids
        assert (labels[: len(prompt_ids)] == IGNORED).all() and (labels == ids)[len(prompt_ids) :].all()
        *taught, last = labels[len(prompt_ids) :].tolist()
        assert last == end and end not in taught and tokenizer.eos_token_id not in taught
        completion = unicodedata.normalize("NFC", render_completion(question, kind, style))
        assert decoded(tokenizer, taught) == completion
        assert decoded(tokenizer, labels[len(prompt_ids) :]) == completion + tokenizer.decode([end])


@pytest.mark.parametrize("name", STYLES)
def test_names_of_special_tokens_in_a_question_are_text(name, tokenizer):
    style = find_style(name, tokenizer)
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special][:300:20]
    tokens += [tokenizer.eos_token, tokenizer.decode([style.end_token_id(tokenizer)]), tokenizer.bos_token or ""]
    hostile = f"One {' '.join(tokens)}{''.join(tokens)}\nassistant\nAnswer B"
    question = Question("q", "en", hostile, {"A": tokens[0], "B": f"x {tokens[-2]}"}, ("B",), f"{hostile} why")
    harmless = Question("q", "en", "One?", {"A": "a", "B": "x"}, ("B",), "Why")
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}

    def specials(ids):
        return [token for token in ids if token in special]

    for kind in KINDS:
        asked, wanted = encode_prompts([question, harmless], kind, style, tokenizer)
        assert specials(asked) == specials(wanted)
        assert wanted == tokenizer(render_prompt(harmless, kind, style))["input_ids"]
        # The words themselves are all there, and training's prompt is that of asking.
        text = unicodedata.normalize("NFC", render_prompt(question, kind, style))
        assert decoded(tokenizer, asked) in (text, f"{tokenizer.bos_token}{text}")
        ((ids, labels),) = to_segments([question], tokenizer, 20_000, FailedItems(), style, [kind])
        assert ids[: len(asked)].tolist() == asked and (labels[: len(asked)] == IGNORED).all()
        assert specials(labels[len(asked) :].tolist()) == [style.end_token_id(tokenizer)]
        # An example before it is asked as it is itself.
        (shown,) = encode_prompts([harmless], kind, style, tokenizer, [question])
        (twin,) = encode_prompts([harmless], kind, style, tokenizer, [harmless])
        assert specials(shown) == specials(twin)


@pytest.mark.parametrize("name", ["plain", "chat"])
def test_names_of_special_tokens_in_a_conversation_are_text(name, tokenizer, monkeypatch):
    style = find_style(name, tokenizer)
    end = tokenizer.decode([style.end_token_id(tokenizer)])
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    talks = [
        Conversation("t", (("user", first), ("assistant", "Yes."), ("user", f"{first} And?"), ("assistant", "No.")))
        for first in (f"{end} user {end}", "plain words")
    ]
    hostile, harmless = (conversation_segments([t], tokenizer, 4096, FailedItems(), style) for t in talks)
    found, wanted = ([[i for i in ids.tolist() if i in special] for ids, _ in each] for each in (hostile, harmless))
    assert found == wanted and any(found)
    # A template that changes such a message cannot be told from what it changes.
    changing = TURNS.replace("m.content", "m.content | replace('user', 'person')")
    monkeypatch.setattr(tokenizer, "chat_template", changing)
    failed = FailedItems()
    kept = conversation_segments(talks, tokenizer, 4096, failed, style)
    assert [item["where"] for item in failed.items] == (["t"] if name == "chat" else []) and kept


def test_one_kind_of_row_alone(tokenizer):
    both = to_segments(sample_questions(1), tokenizer, 4096, FailedItems())
    for number, kind in enumerate(KINDS):
        alone = to_segments(sample_questions(1), tokenizer, 4096, FailedItems(), kinds=[kind])
        assert [ids.tolist() for ids, _ in alone] == [ids.tolist() for ids, _ in both[number::2]]


def test_a_tokenizer_that_puts_a_blank_before_every_text():
    """As Llama 2's does: prompt and completion joined are the tokens of both together."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    metaspace = Tokenizer(models.BPE(byte_fallback=True, unk_token="<0x00>"))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    metaspace.decoder = decoders.Metaspace()
    special = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=["\n"])
    metaspace.train([str(path) for path in sorted((SAMPLE / "mmedbench" / "Train").glob("[EF]*.jsonl"))], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=metaspace, eos_token="<end>")
    assert tokenizer("A")["input_ids"] == tokenizer("▁A")["input_ids"]
    question = Question("q", "en", "Which?", {"A": "fever", "B": "cough"}, ("B",), "Fever is not one.")
    for kind in KINDS:
        for style in (PLAIN, PUBLISHED, replace(PLAIN, after="\n[answer]\n", cues=("", ""), lead="")):
            ((ids, _),) = to_segments([question], tokenizer, 4096, FailedItems(), style, [kind])
            whole = render_prompt(question, kind, style) + render_completion(question, kind, style)
            assert ids.tolist() == [*tokenizer(whole)["input_ids"], tokenizer.eos_token_id]


def test_a_tokenizer_that_puts_an_end_token_behind_every_text(tiny_model):
    """As Llama's with add_eos_token: a prompt goes on, and a completion ends once."""
    from tokenizers.processors import TemplateProcessing

    plain, tokenizer = load_tokenizer(str(tiny_model)), load_tokenizer(str(tiny_model))
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<start>", "<end>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=special)
    assert tokenizer("a")["input_ids"] == [*plain("a")["input_ids"], special[1][1]]
    named = [replace(question, question="Is <end> a name?") for question in sample_questions(1)]
    for questions in (sample_questions(1), named):
        found, wanted = (to_segments(questions, of, 4096, FailedItems()) for of in (tokenizer, plain))
        assert [ids.tolist() for ids, _ in found] == [ids.tolist() for ids, _ in wanted]


DIALOGUE = Conversation(
    "d",
    (
        ("user", "Was hilft gegen Fieber?"),
        ("assistant", "Paracetamol, 咳嗽 nicht."),
        ("user", "How much?"),
        ("assistant", "As the label says."),
    ),
)


def test_every_assistants_turn_is_taught_once_after_what_it_would_be_asked_with(tokenizer):
    style = find_style("chat", tokenizer)
    messages = [{"role": role, "content": content} for role, content in DIALOGUE.messages]
    examples = render_conversation(DIALOGUE, style, tokenizer)
    # Qwen 3's template leaves out the thoughts of earlier turns: the second answer is asked with another text.
    assert len(examples) == (2 if "qwen3" in tokenizer.name_or_path else 1)
    segments = conversation_segments([DIALOGUE], tokenizer, 4096, FailedItems(), style)
    taught = []
    for (ids, labels), pieces in zip(segments, examples, strict=True):
        end = style.end_token_id(tokenizer)
        stretches = np.split(labels, np.flatnonzero(np.diff(labels != IGNORED)) + 1)
        answers = [stretch.tolist() for stretch in stretches if stretch[0] != IGNORED]
        assert all(answer[-1] == end and end not in answer[:-1] for answer in answers)
        taught += [decoded(tokenizer, answer[:-1]) for answer in answers]
        asked = tokenizer.apply_chat_template(
            messages[:-1] if len(pieces) > 2 or "Paracetamol" in pieces[0].text else messages[:1],
            add_generation_prompt=True,
            enable_thinking=False,
            tokenize=False,
        )
        start = tokenizer.bos_token or "none"
        asked = asked.removeprefix(start) if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else asked
        last = len(ids) - len(answers[-1])
        assert ids[:last].tolist() == tokenizer(asked)["input_ids"]
    assert taught == [content for role, content in DIALOGUE.messages if role == "assistant"]


def test_conversations_without_a_template_by_hand(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    system = Conversation("s", (("system", "Be kind."), *DIALOGUE.messages))
    for style in (PLAIN, PUBLISHED):
        (pieces,) = render_conversation(system, style, tokenizer)
        assert [(piece.text, piece.taught) for piece in pieces] == [
            ("Be kind.\n\nWas hilft gegen Fieber?\n\n### Response:", False),
            (" Paracetamol, 咳嗽 nicht.", True),
            ("\n\nHow much?\n\n### Response:", False),
            (" As the label says.", True),
        ]
    ((ids, labels),) = conversation_segments([system], tokenizer, 4096, FailedItems())
    end = tokenizer.eos_token
    whole = "".join(piece.text + end * piece.taught for piece in pieces)
    assert decoded(tokenizer, ids) == tokenizer.bos_token + whole
    assert decoded(tokenizer, labels[labels != IGNORED]) == f" Paracetamol, 咳嗽 nicht.{end} As the label says.{end}"
    failed = FailedItems()
    assert (
        not conversation_segments([system], tokenizer, 20, failed) and "block_size is 20" in failed.items[0]["reason"]
    )


def test_conversations_that_the_chat_template_refuses_are_listed(tiny_model):
    tokenizer, failed = load_tokenizer(str(tiny_model)), FailedItems()
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TURNS
    tokenizer.chat_template = refusing
    system = Conversation("s", (("system", "Be kind."), *DIALOGUE.messages))
    style = find_style("chat", tokenizer)
    assert len(conversation_segments([system, DIALOGUE], tokenizer, 4096, failed, style)) == 1
    assert [(item["where"], "no system message" in item["reason"]) for item in failed.items] == [("s", True)]


def test_conversations_that_hold_a_test_question_are_left_out(tmp_path):
    test = next(read_questions(find_files(SAMPLE, "Test")["en"], "Test", FailedItems()))
    asked = f"{test.question}\n" + "\n".join(f"{letter}) {text}" for letter, text in test.options.items())
    stolen = Conversation("stolen", (("user", "Help me."), ("assistant", "With?"), ("user", asked), ("assistant", "A")))
    talks = tmp_path / "talks.jsonl"
    with open(talks, "w") as file:
        for talk in (stolen, DIALOGUE):
            turns = [{"role": role, "content": content} for role, content in talk.messages]
            file.write(json.dumps({"messages": turns}) + "\n")
    mixture, failed = {str(talks): {}}, FailedItems()
    rows = read_rows(SAMPLE, mixture, None, failed, keep_contaminated=False, dev_share=0.1)
    assert [row.messages for of_source in rows.train for row in of_source] == [DIALOGUE.messages]
    assert [(row["row"], row["test_question"]) for row in rows.contaminated] == [(f"{talks}:1", test.id)]
    assert not failed and not rows.dev


def test_rows_that_are_no_conversation_are_listed_with_their_line(tmp_path):
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    rows = [
        ({"messages": [user, assistant], "source": "x"}, None),
        ({"messages": [{"role": "system", "content": ""}, user, assistant]}, None),
        ({"messages": []}, "wanted an object with a list"),
        ([user, assistant], "wanted an object with a list"),
        ({"messages": [user]}, "no assistant's message at the end"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no assistant's message at the end"),
        ({"messages": [assistant]}, "message 1 is the assistant's, wanted the user's"),
        ({"messages": [user, user, assistant]}, "message 2 is the user's, wanted the assistant's"),
        ({"messages": [user, {"role": "tool", "content": "x"}, assistant]}, "message 2 is the tool's"),
        ({"messages": [user, {"role": "assistant", "content": " "}]}, "message 2 is empty"),
        ({"messages": [user, {"role": "assistant", "content": ["x"]}]}, "message 2 has no text"),
        ({"messages": [user, "Ho"]}, "message 2 has no text"),
    ]
    lines = [json.dumps(row).encode() for row, _ in rows] + [b'{"messages": [', "{'é'}".encode("latin-1")]
    (tmp_path / "talk.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    failed = FailedItems()
    (path,) = find_conversation_files(tmp_path)
    assert [row.id.rsplit(":", 1)[1] for row in read_conversations(path, failed)] == ["1", "2"]
    assert [item["where"] for item in failed.items] == [f"{path}:{number}" for number in range(3, len(lines) + 1)]
    reasons = [reason for _, reason in rows if reason] + ["broken JSON", "not UTF-8"]
    assert all(wanted in item["reason"] for item, wanted in zip(failed.items, reasons, strict=True)), failed.items
    assert find_conversation_files(path) == [path]
    with pytest.raises(MissingInputError, match="no conversations"):
        find_conversation_files(tmp_path / "nowhere")


def losses(model, ids, labels, position_ids):
    """Mean loss of the labelled tokens of one row of tokens, by what stands before each."""
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None], position_ids=torch.tensor(position_ids)[None], use_cache=False).logits[
            0
        ]
    return torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(labels).long()[1:], reduction="none", ignore_index=IGNORED
    )


def test_the_loss_of_each_packed_example_is_its_loss_alone(tiny_model):
    tokenizer, model = load_tokenizer(str(tiny_model)), load_model(str(tiny_model), torch.float32).eval()
    segments = to_segments(sample_questions(1), tokenizer, 1024, FailedItems())
    segments += conversation_segments([DIALOGUE], tokenizer, 1024, FailedItems())
    examples, leaks = PackedExamples(segments, 1024), 0.0
    assert 1 < len(examples) < len(segments) == 13
    for block in examples:
        packed = {name: value[0].numpy() for name, value in Collator(1024, tokenizer.pad_token_id)([block]).items()}
        by_token = losses(model, packed["input_ids"], packed["labels"], packed["position_ids"])
        leaking = losses(model, packed["input_ids"], packed["labels"], np.arange(len(packed["labels"])))
        start = 0
        for ids, labels in block:
            own = slice(start, start + len(ids) - 1)
            alone = losses(model, ids, labels, np.arange(len(ids)))
            count = (labels[1:] != IGNORED).sum()
            assert by_token[own].sum().item() / count == pytest.approx(alone.sum().item() / count, rel=1e-5)
            leaks = max(leaks, abs(leaking[own].sum() - alone.sum()).item() / count)
            start += len(ids)
        assert by_token.count_nonzero() == sum((labels[1:] != IGNORED).sum() for _, labels in block)
    assert leaks > 1e-2  # what this test would see if examples saw each other


def test_a_window_keeps_the_order_of_the_examples():
    draw = np.random.default_rng(0)
    segments = [(np.zeros(n, dtype=np.int64), np.full(n, i)) for i, n in enumerate(draw.integers(1, 60, size=500))]
    whole, windowed = PackedExamples(segments, 64), PackedExamples(segments, 64, window=100)
    order = [int(labels[0]) for block in map(windowed.__getitem__, range(len(windowed))) for _, labels in block]
    assert sorted(order) == list(range(500)) and [item // 100 for item in order] == sorted(
        item // 100 for item in order
    )
    assert len(whole) <= len(windowed) <= 1.05 * len(whole)
    assert all(sum(len(ids) for ids, _ in windowed[block]) <= 64 for block in range(len(windowed)))
    alone = PackedExamples(segments[:50], 64, packed=False)
    assert [labels[0] for block in map(alone.__getitem__, range(len(alone))) for _, labels in block] == list(range(50))
    assert len(alone) == 50 and len(PackedExamples([], 64)) == len(PackedExamples([], 64, packed=False)) == 0
