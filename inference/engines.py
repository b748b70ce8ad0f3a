"""Where answers come from: a model in this process, or an OpenAI-compatible server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from data_collection.questions.question import Question
from finetune.adapters import check_adapter, merged
from finetune.encoding import continued, encode
from finetune.generation import Generation, context_length, generate, plan_batches
from finetune.prompts import (
    Kind,
    PromptKind,
    check_prompt,
    prompt_parts,
    render_options,
    taught_style,
)
from finetune.styles import Style, StyleName, find_style
from inference.kinds import LIKELIHOOD_KINDS, PROMPT_OF, AskedKind
from inference.likelihood import OptionScores, score_options
from inference.workers import Workers
from pretrain.models import base_of, is_adapter, load_config, load_model, load_tokenizer, model_identity
from pretrain.training.train_settings import native_bf16

Examples = Mapping[str, Sequence[Question]]  # language code to the examples of a few-shot prompt
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Attributes:
        kind: with rationale, or answer only.
        max_new_tokens: limit of an answer; no answer is forced at it.
        repetition_penalty: 1 for plain greedy (`generate`).
        examples: what is shown before each question (few-shot).
    """

    kind: Kind
    max_new_tokens: int
    repetition_penalty: float
    examples: Examples = field(default_factory=dict)


class Engine(Protocol):
    """Answers questions.

    Attributes:
        name, short_name: what a log calls the model, and what a folder does.
        identity: what its answers depend on beside the questions and `Asking`, JSON-able.
        style: the prompt's.
        spent: cost of its answers; who keeps a journal adds what it says of earlier commands.
    """

    name: str
    short_name: str
    identity: Any
    style: Style
    spent: float

    def unreadable(self, questions: Sequence[Question], kind: AskedKind, examples: Examples) -> list[Generation]:
        """Empty answers, with the reason, of the questions whose prompts are longer than the model can read."""

    def ask(
        self,
        questions: Sequence[Question],
        asking: Asking,
        skip: frozenset[int],
        on_answers: Callable[[list[Generation]], None],
        on_token: Callable[[int], None],
    ) -> None:
        """Give the answers to `on_answers`, some at a time as they come, in any order.

        Args:
            skip: indices of questions that have an answer already.
            on_token: called with the number of tokens that the batch at work has, where that is known.
        """

    def close(self) -> None:
        """Let go of what asking holds beside this process; it may be asked again."""


class FolderEngine:
    """What every engine over a model folder, an adapter or a hub id has: tokenizer, prompt style, identity and prompts.

    Args:
        model_path: folder of a model or an adapter, or hub id.
        prompt_style: layout of the prompt; by default the one that the model was taught, else plain.
        precision: of the weights; bfloat16 where the device has it by default.
    """

    spent = 0.0

    def __init__(self, model_path: str, prompt_style: StyleName | None, precision: Precision):
        if is_adapter(model_path):
            check_adapter(model_path)
        self._precision = precision
        self.name, self.short_name = model_path, Path(model_path).name
        self._tokenizer = load_tokenizer(model_path)
        self.style = find_style(prompt_style or taught_style(Path(model_path)) or "plain", self._tokenizer)
        check_prompt(Path(model_path), self.style)
        self.identity = [model_identity(model_path), model_identity(base_of(model_path))]
        self._ends = frozenset({self._tokenizer.eos_token_id, self.style.end_token_id(self._tokenizer)})
        self._model: Any = None

    def unreadable(self, questions: Sequence[Question], kind: AskedKind, examples: Examples) -> list[Generation]:
        """See `Engine`."""
        most = context_length(load_config(base_of(self.name))[0])
        return [
            Generation(index, "", length, 0, False, 0.0, f"{length:,} tokens, and the model reads {most:,}")
            for index, length in enumerate(self._lengths(questions, kind, examples))
            if length > most
        ]

    def _lengths(self, questions: Sequence[Question], kind: AskedKind, examples: Examples) -> list[int]:
        """Tokens that the model has to read of each question."""
        return list(map(len, self._prompts(questions, PROMPT_OF[kind], examples)))

    def close(self) -> None:
        """See `Engine`: nothing is held beside this process."""

    def _prompts(self, questions: Sequence[Question], kind: PromptKind, examples: Examples) -> list[list[int]]:
        """Token ids of the prompts."""
        parts = [prompt_parts(question, kind, self.style, examples.get(question.lang, ())) for question in questions]
        return encode(parts, self._tokenizer)


class LocalEngine(FolderEngine):
    """A model folder or adapter in batches of prompts of like length (transformers): in this process, or a copy of it
    in each of several processes, which take batch after batch.

    Args:
        model_path, prompt_style, precision: see `FolderEngine`.
        batch_size: prompts together, at most.
        num_processes: that answer at once; one a GPU by default, this process alone without one.
    """

    def __init__(
        self,
        model_path: str,
        batch_size: int,
        prompt_style: StyleName | None,
        precision: Precision = "auto",
        num_processes: int | None = 1,
    ):
        super().__init__(model_path, prompt_style, precision)
        self.batch_size, self._workers = batch_size, None
        self._num_processes = num_processes or torch.cuda.device_count() or 1

    def ask(
        self,
        questions: Sequence[Question],
        asking: Asking,
        skip: frozenset[int],
        on_answers: Callable[[list[Generation]], None],
        on_token: Callable[[int], None],
    ) -> None:
        """See `Engine`; answers given again in a batch with others that were skipped are left out."""
        prompts = self._prompts(questions, asking.kind, asking.examples)
        options = asking.max_new_tokens, asking.repetition_penalty
        if self._num_processes == 1:
            batches = self._generate(on_token, prompts, *options, skip)
        else:
            batches = self._spread("write_batch", [prompts], options, asking.max_new_tokens, skip, on_token)
        for batch in batches:
            on_answers([answer for answer in batch if answer.index not in skip])

    def _generate(
        self,
        on_token: Callable[[int], None],
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        repetition_penalty: float,
        skip: frozenset[int] = frozenset(),
    ) -> Iterator[list[Generation]]:
        limits = max_new_tokens, self.batch_size, skip, repetition_penalty
        return generate(self.model(), self._tokenizer, prompts, *limits, on_token, self._ends)

    def write_batch(self, on_token: Callable[[int], None], *arguments: Any) -> list[Generation]:
        """Answers to the prompts of one batch: the work of one of several processes."""
        return [answer for batch in self._generate(on_token, *arguments) for answer in batch]

    def score_batch(self, on_token: Callable[[int], None], *arguments: Any) -> list[OptionScores]:
        """Log-likelihoods of the options of one batch: the work of one of several processes."""
        return [scores for batch in score_options(self.model(), *arguments, self.batch_size) for scores in batch]

    def score_options(
        self,
        questions: Sequence[Question],
        kind: PromptKind,
        examples: Examples,
        skip: frozenset[int],
        on_scores: Callable[[list[OptionScores]], None],
    ) -> None:
        """Give the log-likelihoods of each question's options to `on_scores`, a batch at a time.

        Args:
            kind: answer_only scores the options' letters after the prompt that shows them, cloze their texts after the
                question alone.
        """
        prompts, options = self._prompts_and_options(questions, kind, examples)
        if self._num_processes == 1:
            batches = score_options(self.model(), prompts, options, self.batch_size, skip)
        else:
            batches = self._spread("score_batch", [prompts, options], (), 0, skip, lambda at: None)
        for batch in batches:
            on_scores([scores for scores in batch if scores.index not in skip])

    def _lengths(self, questions: Sequence[Question], kind: AskedKind, examples: Examples) -> list[int]:
        if kind not in LIKELIHOOD_KINDS:
            return super()._lengths(questions, kind, examples)
        prompts, options = self._prompts_and_options(questions, PROMPT_OF[kind], examples)
        longest = (max(map(len, of.values())) for of in options)  # nothing is asked of an option's last token
        return [len(prompt) + length - 1 for prompt, length in zip(prompts, longest, strict=True)]

    def _prompts_and_options(
        self, questions: Sequence[Question], kind: PromptKind, examples: Examples
    ) -> tuple[list[list[int]], list[dict[str, list[int]]]]:
        """Token ids of the prompts, and of each question's options by their letters."""
        texts = [render_options(question, self.style, as_text=kind == "cloze") for question in questions]
        encoded = iter(continued(self._tokenizer, [text for of in texts for text in of.values()], as_text=True))
        options = [{letter: next(encoded) for letter in of} for of in texts]
        return self._prompts(questions, kind, examples), options

    def _spread(
        self,
        method: str,
        columns: Sequence[Sequence[Any]],
        arguments: tuple[Any, ...],
        max_new_tokens: int,
        skip: frozenset[int],
        on_token: Callable[[int], None],
    ) -> Iterator[list[Any]]:
        """What `method` gives for each batch of the plan, in one of the processes: the batches of one process alone.

        Args:
            columns: what the method takes for each question, the prompts first.
            arguments: what it takes beside.
        """
        plan = plan_batches(list(map(len, columns[0])), self.batch_size, max_new_tokens, _device())
        plan = [batch for batch in plan if not skip.issuperset(batch)]
        tasks = [(method, (*([column[i] for i in batch] for column in columns), *arguments)) for batch in plan]
        if self._workers is None:
            make = partial(
                _own_engine, self.name, self.batch_size, self.style.name, self._precision, self._num_processes
            )
            self._workers = Workers(make, self._num_processes)
        for number, answers in self._workers.do(tasks, on_token):
            yield [replace(answer, index=plan[number][answer.index]) for answer in answers]

    def close(self) -> None:
        """See `Engine`."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def model(self) -> Any:
        """The model ready to be asked: loaded at the first call, an adapter merged into its base."""
        self._model = self._model or _load(self.name, self._precision)
        return self._model


def _load(model_path: str, precision: Precision = "auto") -> Any:
    """The model ready to be asked, by default in bfloat16 where the device has it; adapters merged into their base."""
    in_bfloat16 = native_bf16() if precision == "auto" else precision == "bfloat16"
    model = load_model(model_path, torch.bfloat16 if in_bfloat16 else torch.float32)
    if is_adapter(model_path):
        model = merged(model)
    return model.to(_device()).eval()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _own_engine(
    model_path: str, batch_size: int, style: StyleName, precision: Precision, num_processes: int, number: int
) -> LocalEngine:
    """The engine of one of several processes, on its own GPU or with its share of the CPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_processes))
    return LocalEngine(model_path, batch_size, style, precision)
