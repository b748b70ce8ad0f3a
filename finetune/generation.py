"""Batched greedy generation in this process: prompts of like length together, padded on the left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from finetune.kept_states import make_room

# What a call of the model costs beside its tokens, and what a token kept from before costs each later one, in the time
# that a token of a prompt takes. CPU: SmolLM2-135M on 2 cores (scripts/bench/bench_inference.py --part costs), from
# 26 and 1 / 710 in float32 to 48 and 1 / 320 in bfloat16; GPU: 16 GB of weights read against arithmetic, not measured.
_COSTS = {"cpu": (35.0, 1 / 450), "cuda": (400.0, 1 / 1500)}


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    Attributes:
        index: place of the prompt in the list that was given.
        text: the new text, special tokens left out.
        num_prompt_tokens, num_new_tokens: lengths.
        hit_limit: the end token did not come within the limit, or within what the model can read.
        seconds: time of its batch, shared evenly.
        error: why a server refused to answer, for good; the text is empty then.
        cost: what a server's answer cost.
    """

    index: int
    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    hit_limit: bool
    seconds: float
    error: str = ""
    cost: float = 0.0


def plan_batches(
    lengths: Sequence[int], batch_size: int, max_new_tokens: int = 0, device: str = "cpu"
) -> list[list[int]]:
    """Indices in batches, longest prompts first: too little memory shows at once.

    A batch ends early where padding its shorter prompts to the longest would cost more than starting another, which has
    to be written token by token as well: the plan has the least estimated time. It depends on the arguments only, so a
    resumed run makes the same batches.

    Args:
        lengths: tokens of each prompt.
        batch_size: prompts together, at most.
        max_new_tokens: what is written after each, at most; half of it is reckoned with.
        device: type of the model's device.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    one_call, one_kept_token = _COSTS.get(device, _COSTS["cuda"])
    num_steps = max_new_tokens / 2
    cost_of_token, cost_of_batch = 1 + num_steps * one_kept_token, (1 + num_steps) * one_call
    least, starts = [0.0], [0]  # of the first prompts of `order`: time, and where their last batch starts
    for end in range(1, len(order) + 1):
        costs = [
            (least[start] + (end - start) * lengths[order[start]] * cost_of_token + cost_of_batch, start)
            for start in range(max(0, end - batch_size), end)
        ]
        cost, start = min(costs)
        least.append(cost)
        starts.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]


def own_end_tokens(model: Any) -> frozenset[int]:
    """The ids that end an answer by the model's generation_config: a model with a chat template often ends its turns
    with another token than its tokenizer's end token, whatever it is asked in."""
    found = model.generation_config.eos_token_id
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def context_length(config: Any) -> int:
    """Tokens that a model of this configuration can read and write together; 2 ** 60 where it names no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 2**60


@contextmanager
def _settings_of_model(model: Any, config: GenerationConfig) -> Iterator[None]:
    """The model with these settings in the place of its own: what is only given to `model.generate` leaves open is
    taken from the model's. Its own come back, which are saved with the weights."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


class _Watch(StoppingCriteria):
    """Says after every token how many an answer has, and ends a call when a quarter of its answers are done."""

    def __init__(self, num_prompt_tokens: int, end_tokens: torch.Tensor, on_token: Callable[[int], None], whole: bool):
        self.num_prompt_tokens, self.end_tokens, self.on_token = num_prompt_tokens, end_tokens, on_token
        self.whole = whole  # the batch stays together until the last answer is done
        self.done: Any = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.on_token(input_ids.shape[1] - self.num_prompt_tokens)
        self.done = torch.isin(input_ids[:, -1], self.end_tokens) | self.done
        ends = not self.whole and bool(4 * self.done.sum() >= len(input_ids))
        return torch.full((len(input_ids),), ends, dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | list[int]],
    max_new_tokens: int,
    batch_size: int,
    skip: frozenset[int] = frozenset(),
    repetition_penalty: float = 1.0,
    on_token: Callable[[int], None] = lambda num_new_tokens: None,
    end_tokens: frozenset[int] = frozenset(),
) -> Iterator[list[Generation]]:
    """Greedy answers to `prompts`, batch by batch as they come.

    Args:
        model: causal language model on its device, in eval mode.
        prompts: token ids (`encoding.encode_prompts`), or texts, which the tokenizer reads as they are.
        max_new_tokens: limit a prompt; no answer is forced at it. An answer ends before it where the model's context
            is full.
        skip: indices of prompts that need no answer; a batch is left out when all of its prompts are in it.
        repetition_penalty: divides the scores of tokens that the answer has already (Keskar et al. 2019, CTRL, section
            4.1), the prompt's tokens not counted, since an answer has to name its options; 1 for plain greedy.
        on_token: called after every token of a batch with the number of new ones, for progress.
        end_tokens: ids that end an answer beside the tokenizer's end token and those of the model's generation_config
            (a chat template may have one of its own).
    """
    encoded = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]
    end_tokens |= {tokenizer.eos_token_id} | own_end_tokens(model)
    context = context_length(model.config)
    # No token of an answer sees the padding; a pad token may have no embedding (added to Llama 1's tokenizer, for one).
    padding = tokenizer.eos_token_id
    # A model's own generation_config may sample or penalise; greedy means the same for every model.
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=padding,
        eos_token_id=sorted(end_tokens),
    )
    for batch in plan_batches(list(map(len, encoded)), batch_size, max_new_tokens, model.device.type):
        if skip.issuperset(batch):
            continue
        start = time.monotonic()
        width = max(len(encoded[index]) for index in batch)
        input_ids = torch.full((len(batch), width), padding, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, index in enumerate(batch):
            input_ids[row, width - len(encoded[index]) :] = torch.tensor(encoded[index])
            attention_mask[row, width - len(encoded[index]) :] = 1
        processors = LogitsProcessorList()
        if repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty, prompt_ignore_length=width))
        limits = [max(1, min(max_new_tokens, context - len(encoded[index]))) for index in batch]
        with _settings_of_model(model, config):
            written = _write(model, input_ids, attention_mask, limits, end_tokens, processors, on_token)
        seconds = (time.monotonic() - start) / len(batch)
        answers = []
        for index, ids in zip(batch, written, strict=True):
            end = next((place for place, token in enumerate(ids) if token in end_tokens), None)
            ids = ids if end is None else ids[:end]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            answers.append(Generation(index, text, len(encoded[index]), len(ids), end is None, seconds))
        yield answers


def _write(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    limits: list[int],
    end_tokens: frozenset[int],
    processors: LogitsProcessorList,
    on_token: Callable[[int], None],
) -> list[list[int]]:
    """The new tokens of each row of `input_ids`, (B, T) as is `attention_mask`, at most so many as its limit; those
    after an end token mean nothing.

    Answers that are done leave the batch, whose others go on with what attention kept of them: else one long answer
    would cost as much as a batch of them. Under ZeRO 3 all stay, as every rank has to make the same calls.
    """
    width = input_ids.shape[1]
    ids, mask = input_ids.to(model.device), attention_mask.to(model.device)
    ends = torch.tensor(sorted(end_tokens), device=model.device)
    written: list[list[int]] = [[]] * len(ids)
    rows, cache, whole = torch.arange(len(ids), device=model.device), None, is_deepspeed_zero3_enabled()
    most = torch.tensor(limits, device=model.device)
    while True:
        more = width + int(most.max() if whole else most[rows].min()) - ids.shape[1]
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=1 if cache is None and not whole else more,  # what the prompts leave is then given room
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_Watch(width, ends, on_token, whole)]),
            return_dict_in_generate=True,
        )
        ids, cache = output.sequences, output.past_key_values
        done = torch.isin(ids[:, width:], ends).any(1) | (ids.shape[1] >= width + most[rows])
        for row, new in zip(rows[done].tolist(), ids[done, width:].tolist(), strict=True):
            written[row] = new[: limits[row]]
        if done.all():
            return written
        if hasattr(cache, "batch_select_indices"):
            make_room(cache)
            if done.any():
                going_on = (~done).nonzero()[:, 0]
                cache.batch_select_indices(going_on)
                ids, mask, rows = ids[going_on], mask[going_on], rows[going_on]
        else:  # states of another kind than attention's (Mamba)
            whole = True
        mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], 1)
