"""Generation: batches write what a plain greedy loop writes, one prompt at a time."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from configs.errors import FailedItems
from data_collection.questions.mmedbench import find_files, read_questions
from finetune.generation import generate, plan_batches
from finetune.prompts import render_prompt
from pretrain.models import load_model, load_tokenizer

SAMPLE = Path(__file__).parents[1] / "assets" / "sample"


class Ids:
    """A tokenizer whose `decode` shows the ids themselves, so that equal texts are equal tokens; its pad token was added
    to it and has no embedding."""

    def __init__(self, tokenizer, eos_token_id):
        self.tokenizer, self.eos_token_id, self.pad_token_id = tokenizer, eos_token_id, 10**6

    def __call__(self, text):
        return self.tokenizer(text)

    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def greedy(tiny_model):
    """(model, tokenizer, prompts, what a plain loop without cache or batch writes after each, 12 tokens)."""
    model, tokenizer = load_model(str(tiny_model), torch.float32).eval(), load_tokenizer(str(tiny_model))
    files = find_files(SAMPLE, "Test").values()
    questions = [
        question for path in files for question in itertools.islice(read_questions(path, "Test", FailedItems()), 2)
    ]
    prompts = [render_prompt(question, "answer_only") for question in questions]
    written = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            for _ in range(12):
                ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        written.append(ids[-12:])
    return model, tokenizer, prompts, written


def test_batched_generation_writes_what_a_plain_greedy_loop_writes(greedy):
    model, tokenizer, prompts, written = greedy
    # The end token is one that some of the answers come to and others do not.
    tokens = [token for token in np.unique(written) if 0 < sum(token in ids for ids in written) < len(written)]
    end = max(tokens, key=lambda token: sum(token in ids[1:] for ids in written))
    wanted = [ids[: ids.index(end)] if end in ids else ids for ids in written]
    assert len({len(ids) for ids in wanted}) > 1, "this test wants answers of unequal lengths"
    for batch_size in (1, 5, 12):
        answers = [
            answer for batch in generate(model, Ids(tokenizer, int(end)), prompts, 12, batch_size) for answer in batch
        ]
        assert sorted(answer.index for answer in answers) == list(range(12))
        for answer in answers:
            ids = wanted[answer.index]
            assert answer.text == " ".join(map(str, ids)) and answer.num_new_tokens == len(ids)
            assert answer.hit_limit == (end not in written[answer.index])
            assert answer.num_prompt_tokens == len(tokenizer(prompts[answer.index])["input_ids"])
    # The same token as the chat template's own end, beside a tokenizer's end token that nobody writes.
    ends = frozenset({int(end)})
    ended = [a for batch in generate(model, Ids(tokenizer, 1), prompts, 12, 12, end_tokens=ends) for a in batch]
    assert {a.index: a.text for a in ended} == {a.index: a.text for a in answers}


def test_only_whole_batches_are_skipped(greedy):
    model, tokenizer, prompts, _ = greedy
    plan = plan_batches([len(tokenizer(prompt)["input_ids"]) for prompt in prompts], 4, 3)
    skip = frozenset([*plan[1], next(batch for batch in plan if len(batch) > 1)[-1]])
    batches = list(generate(model, Ids(tokenizer, 1), prompts, 3, 4, skip))
    assert [[answer.index for answer in batch] for batch in batches] == [plan[0], *plan[2:]]
    first = {
        answer.index: answer.text for batch in generate(model, Ids(tokenizer, 1), prompts, 3, 4) for answer in batch
    }
    assert all(answer.text == first[answer.index] for batch in batches for answer in batch)


def test_a_plan_has_every_prompt_once_longest_first():
    draw = np.random.default_rng(0)
    for _ in range(30):
        lengths, size = draw.integers(1, 50, size=draw.integers(0, 40)).tolist(), int(draw.integers(1, 9))
        plan = plan_batches(lengths, size, int(draw.integers(0, 40)))
        flat = [index for batch in plan for index in batch]
        assert sorted(flat) == list(range(len(lengths)))
        assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
        assert all(len(batch) <= size for batch in plan)


@pytest.mark.parametrize("max_new_tokens", [0, 8, 200])
def test_no_way_to_part_the_prompts_takes_less_estimated_time(max_new_tokens):
    """Against every way to cut ten sorted prompts, by the estimate as it is stated: 30 tokens a call, 1/300 a kept one."""

    def estimate(batches: list[list[int]]) -> float:
        steps = max_new_tokens / 2
        return sum(len(of) * max(of) * (1 + steps / 300) + (1 + steps) * 30 for of in batches)

    draw = np.random.default_rng(max_new_tokens)
    for _ in range(5):
        lengths = sorted(draw.lognormal(4.5, 1, size=10).astype(int).tolist(), reverse=True)
        ways = []
        for cuts in range(2**9):
            edges = [0, *(place + 1 for place in range(9) if cuts >> place & 1), 10]
            way = [lengths[start:end] for start, end in itertools.pairwise(edges)]
            if all(len(of) <= 4 for of in way):
                ways.append(estimate(way))
        found = estimate([[lengths[index] for index in of] for of in plan_batches(lengths, 4, max_new_tokens)])
        assert found == pytest.approx(min(ways))


def test_one_long_prompt_does_not_pad_the_others():
    assert [len(of) for of in plan_batches([1320] + [100] * 29, 32, 64)] == [1, 29]
    assert [len(of) for of in plan_batches([110] + [100] * 29, 32, 64)] == [30]


def test_repetition_penalty_equals_a_plain_loop_that_leaves_the_prompt_alone(greedy):
    model, tokenizer, prompts, _ = greedy
    for answer in next(generate(model, Ids(tokenizer, 1), prompts[:2], 30, 2, repetition_penalty=1.5)):
        ids = tokenizer(prompts[answer.index])["input_ids"]
        written: list[int] = []
        for _ in range(answer.num_new_tokens):
            with torch.no_grad():
                scores = model(torch.tensor([ids + written])).logits[0, -1]
            for token in set(written):
                scores[token] = scores[token] / 1.5 if scores[token] > 0 else scores[token] * 1.5
            written.append(int(scores.argmax()))
        assert answer.text.split() == [str(token) for token in written]
        assert answer.num_new_tokens > 10


def test_an_answer_ends_where_the_model_can_read_no_more():
    """Learnt positions have an end: each answer of a batch goes up to it, as it would alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, eos_token_id=89, bos_token_id=89, **sizes)).eval()
    prompts = [[1] * 40, [2] * 33, [3] * 30, [4] * 10]
    together = [a for batch in generate(model, Ids(None, 88), prompts, 20, 4) for a in batch]
    assert {a.index: (a.num_new_tokens, a.hit_limit) for a in together} == dict(
        enumerate([(1, True), (7, True), (10, True), (20, True)])
    )
    for answer in together:
        ((alone,),) = generate(model, Ids(None, 88), [prompts[answer.index]], answer.num_new_tokens, 1)
        assert alone.text == answer.text


def test_the_end_tokens_of_the_model_s_own_settings_end_an_answer(greedy):
    model, tokenizer, prompts, written = greedy
    settings = model.generation_config
    try:
        for ends in (written[0][2], [written[0][2], 1]):  # as a chat model's end of turn, whatever style it is asked in
            model.generation_config = GenerationConfig(eos_token_id=ends, do_sample=True, temperature=9.0)
            ((answer,),) = generate(model, Ids(tokenizer, 1), prompts[:1], 12, 1)
            first = written[0].index(written[0][2])
            assert answer.text == " ".join(map(str, written[0][:first])) and not answer.hit_limit
            assert model.generation_config.temperature == 9.0  # and stay the model's
    finally:
        model.generation_config = settings
