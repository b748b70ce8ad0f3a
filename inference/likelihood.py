"""Log-likelihoods of a question's options after its prompt, which is computed once for all of them.

As lm-evaluation-harness defines them: log P(option | prompt), summed over the option's tokens.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from configs.errors import SettingsError
from finetune.generation import plan_batches


@dataclass(frozen=True)
class OptionScores:
    """What a model makes of the options of one question.

    Attributes:
        index: place of the prompt in the list that was given.
        log_likelihoods: letter to natural logarithm of the option's probability after the prompt.
        num_prompt_tokens, num_option_tokens: lengths, the latter over all options.
        seconds: time of its batch, shared evenly.
    """

    index: int
    log_likelihoods: dict[str, float]
    num_prompt_tokens: int
    num_option_tokens: int
    seconds: float

    def choose(self, options: Mapping[str, str] | None = None) -> str:
        """The letter of the highest log-likelihood, the first of equal ones.

        Args:
            options: letter to text, to divide each log-likelihood by its text's number of characters (acc_norm of
                lm-evaluation-harness).
        """
        scores = {
            letter: value / len(options[letter]) if options else value for letter, value in self.log_likelihoods.items()
        }
        return max(scores, key=lambda letter: scores[letter])

    def probabilities(self) -> dict[str, float]:
        """Letter to probability among the options: they sum to 1."""
        values = torch.tensor(list(self.log_likelihoods.values()), dtype=torch.float64).softmax(0).tolist()
        return dict(zip(self.log_likelihoods, values, strict=True))


@torch.inference_mode()
def score_options(
    model: Any,
    prompts: Sequence[list[int]],
    options: Sequence[Mapping[str, list[int]]],
    batch_size: int,
    skip: frozenset[int] = frozenset(),
) -> Iterator[list[OptionScores]]:
    """Log-likelihoods of the options of each prompt, batch by batch as they come.

    Args:
        model: causal language model on its device, in eval mode.
        prompts: token ids.
        options: of each prompt, letter to the token ids that are scored after it.
        batch_size: prompts computed together; the options follow one after another on what was kept of them.
        skip: indices of prompts that need no scores; a batch is left out when all of its prompts are in it.

    Raises:
        SettingsError: the model gives NaN, of which the first option would be chosen.
    """
    for batch in plan_batches(list(map(len, prompts)), batch_size, device=model.device.type):
        if skip.issuperset(batch):
            continue
        start = time.monotonic()
        with _full_precision_logits(model):
            scored = _score_batch(model, [(prompts[index], list(options[index].values())) for index in batch])
        if any(map(math.isnan, itertools.chain(*scored))):
            raise SettingsError(
                "the model's log-likelihoods are not numbers",
                where=model.name_or_path,
                found="NaN",
                wanted="logits that are finite",
                todo="--precision float32; where that gives NaN too the weights are broken: look at their training",
            )
        seconds = (time.monotonic() - start) / len(batch)
        yield [
            OptionScores(
                index,
                dict(zip(options[index], values, strict=True)),
                len(prompts[index]),
                sum(map(len, options[index].values())),
                seconds,
            )
            for index, values in zip(batch, scored, strict=True)
        ]


def _score_batch(model: Any, batch: list[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    """Log-likelihoods (prompt, option) of one batch of token ids."""
    prompts, options = [prompt for prompt, _ in batch], [of for _, of in batch]
    if max(len(ids) for of in options for ids in of) == 1:
        after = _after_prompts(model, prompts)
        return [[after[row, ids[0]].item() for ids in of] for row, of in enumerate(options)]
    return _score_texts(model, prompts, options)


def _after_prompts(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """Log-probabilities (prompts, vocabulary) of the token after each prompt, which are all that letters need.

    Padded on the right, where no token sees the padding, so that attention needs no mask and takes its fastest way.
    """
    width = max(map(len, prompts))
    input_ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in prompts])
    ends = sorted({len(ids) - 1 for ids in prompts})
    logits = _forward(
        model, input_ids, None, use_cache=False, logits_to_keep=torch.tensor(ends, device=model.device)
    ).logits
    places = ends if logits.shape[1] == len(ends) else list(range(width))
    last = [places.index(len(ids) - 1) for ids in prompts]
    return logits[torch.arange(len(prompts)), last].float().log_softmax(-1).cpu()


def _score_texts(model: Any, prompts: list[list[int]], options: list[list[list[int]]]) -> list[list[float]]:
    """Log-likelihoods (prompt, option) of options of any length, which go on from what attention kept of the prompts.

    Prompts are padded on the left, as in generation: the only side that every architecture takes with a cache.
    """
    width = max(map(len, prompts))
    input_ids = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])  # (prompts, width)
    output = _forward(model, input_ids, mask, use_cache=True, logits_to_keep=1)
    after = output.logits[:, -1].float().log_softmax(-1).cpu()  # (prompts, vocabulary)
    scores = [[after[row, ids[0]].item() for ids in of] for row, of in enumerate(options)]
    for place in range(max(map(len, options))):
        nth = [of[place] if place < len(of) else of[0][:1] for of in options]  # a row may have fewer options
        width = max(map(len, nth)) - 1
        if not width:
            continue
        input_ids = torch.tensor([ids[:-1] + [0] * (width - len(ids) + 1) for ids in nth])
        wanted = torch.tensor([ids[1:] + [0] * (width - len(ids) + 1) for ids in nth])
        there = torch.tensor([[1] * (len(ids) - 1) + [0] * (width - len(ids) + 1) for ids in nth])
        kept = copy.deepcopy(output.past_key_values)  # the next option goes on from the prompts as well
        logits = _forward(model, input_ids, torch.cat([mask, there], 1), past_key_values=kept).logits.float()
        wanted = wanted.to(logits.device)[..., None]
        tokens = (logits.gather(-1, wanted)[..., 0] - logits.logsumexp(-1)).cpu()  # (prompts, width)
        for row, total in enumerate((tokens * there).sum(1).tolist()):
            if place < len(options[row]):
                scores[row][place] += total
    return scores


def _forward(model: Any, input_ids: torch.Tensor, mask: torch.Tensor | None, **options: Any) -> Any:
    """The model's output for tokens that stand at the end of `mask`, positions counted over its ones."""
    if mask is not None:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        options |= {"attention_mask": mask.to(model.device), "position_ids": positions.to(model.device)}
    accepted = inspect.signature(model.forward).parameters  # BLOOM knows no position_ids, for one
    return model(
        input_ids=input_ids.to(model.device),
        **{name: value for name, value in options.items() if name in accepted},
    )


@contextmanager
def _full_precision_logits(model: Any) -> Iterator[None]:
    """Have the last layer of a half-precision model multiply in float32 while the block runs.

    In bfloat16 the logits of two letters are often equal to the last of its 8 bits, and the first letter would win.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.weight.dtype == torch.float32:
        yield
        return

    def in_float32(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.float()
        return functional.linear(args[0].float(), module.weight.float(), bias)

    hook = head.register_forward_hook(in_float32)
    try:
        yield
    finally:
        hook.remove()
