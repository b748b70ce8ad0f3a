"""Answers as they are being written, for people who watch: by a model in this process or by a server."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import openai
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from configs.errors import SettingsError
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.question import Question
from finetune.encoding import encode, encode_prompts
from finetune.generation import context_length, own_end_tokens
from finetune.prompts import render_prompt, taught_style
from finetune.styles import StyleName, find_style
from inference.engines import LocalEngine
from inference.likelihood import OptionScores
from inference.server_engine import USERS_WORDS
from pretrain.models import find_model, load_tokenizer

# How an answer ended: by itself, at the limit of tokens or of time, by the visitor's wish, by a fault, or before it
# began since the model cannot read so much.
Ending = Literal["complete", "length", "time", "stop", "error", "too_long"]
MAX_ANSWER_CHARACTERS = 100_000  # a server may ignore the limit of tokens that it is sent
CONNECT_SECONDS = 10.0  # all else is under the caller's limit of time
TOP_TOKENS = 20  # the most that OpenAI's protocol gives


@dataclass
class Reply:
    """What a visitor sees of one model's answer so far.

    Attributes:
        text: the answer.
        ending: None while it is being written.
        probabilities: of the options, by letter; None while they are not known or where the server gives none.
        has_probabilities: False once it is known that there are none.
    """

    text: str = ""
    ending: Ending | None = None
    probabilities: dict[str, float] | None = None
    has_probabilities: bool = True


class Author(Protocol):
    """Writes answers.

    Attributes:
        name: as visitors see it; no path of this machine.
    """

    name: str

    def prompt(self, words: str) -> Any:
        """What `write` takes for a free question.

        Raises:
            TooLongError: the model cannot take so much.
        """

    def question_prompt(self, question: Question) -> Any:
        """The same for a multiple-choice question that is to be answered with a rationale."""

    async def write(self, prompt: Any, reply: Reply) -> None:
        """Write the answer into `reply.text` as it comes, then set its `ending`; a task that is cancelled leaves a
        model that has stopped."""

    async def option_probabilities(self, question: Question) -> dict[str, float] | None:
        """The probability of each option among the options, asked for the answer only; None where it is not given."""


def load_author(
    model: str,
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    prompt_style: StyleName | None = None,
    extra_body: dict[str, Any] | None = None,
) -> Author:
    """The author of a model folder, an adapter's folder, a hub id, or a server's address.

    Args:
        model: an address is http://HOST:PORT/v1, with #NAME after it where the server has several models.
        extra_body: further fields of requests to a server (`ServerSettings`).

    Raises:
        SettingsError, EnvironmentFailure, MissingInputError: it cannot be asked; the message says why.
    """
    if not model.startswith(("http://", "https://")):
        return LocalAuthor(model, max_new_tokens, repetition_penalty, prompt_style)
    if repetition_penalty != 1 or prompt_style not in (None, "chat"):
        raise SettingsError(
            "a server has its own prompt, and OpenAI's protocol no repetition penalty",
            where=model,
            found=f"repetition_penalty {repetition_penalty:g}, prompt_style {prompt_style}",
            todo="leave both out, or give a model folder",
        )
    return ServerAuthor(model, max_new_tokens, extra_body or {})


def _shown_name(model: str) -> str:
    """ORGANISATION/NAME of a hub id; of a folder as little of its path, which says more than visitors should know."""
    return "/".join(PurePosixPath(model).parts[-2:])


class TooLongError(ValueError):
    """The prompt and the longest answer do not fit into the model's context."""


class LocalAuthor:
    """A model folder or adapter in this process, asked as the evaluation asks it.

    A free question goes into the chat template of a model that has one, unless the model was taught another style.
    """

    def __init__(self, model: str, max_new_tokens: int, repetition_penalty: float, prompt_style: StyleName | None):
        path = find_model(model)
        self.name = _shown_name(path)
        self._max_new_tokens, self._repetition_penalty = max_new_tokens, repetition_penalty
        self._engine = LocalEngine(path, 1, prompt_style)
        self._tokenizer, self._style = load_tokenizer(path), self._engine.style
        chosen = prompt_style or taught_style(Path(path))
        has_template = bool(getattr(self._tokenizer, "chat_template", None))
        self._free_style = find_style(chosen or ("chat" if has_template else "plain"), self._tokenizer)
        self._model = self._engine.model()
        self._end_tokens = {style.end_token_id(self._tokenizer) for style in (self._style, self._free_style)}
        self._end_tokens |= {self._tokenizer.eos_token_id} | own_end_tokens(self._model)
        # A model's own generation_config may sample or penalise.
        self._model.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=sorted(self._end_tokens),
        )

    def prompt(self, words: str) -> list[int]:
        """See `Author`; names of special tokens in the words are text."""
        style = self._free_style
        return self._fitting(encode([[style.before, words, style.after or style.response_cue]], self._tokenizer)[0])

    def question_prompt(self, question: Question) -> list[int]:
        """See `Author`."""
        return self._fitting(encode_prompts([question], "with_rationale", self._style, self._tokenizer)[0])

    async def write(self, prompt: list[int], reply: Reply) -> None:
        """See `Author`; stops within one token."""
        stop = threading.Event()
        await _in_thread(self._write, prompt, reply, stop, when_cancelled=stop.set)

    async def option_probabilities(self, question: Question) -> dict[str, float]:
        """See `Author`."""
        return await _in_thread(self._option_probabilities, question)

    def _fitting(self, prompt: list[int]) -> list[int]:
        num_tokens = len(prompt) + self._max_new_tokens
        context = context_length(self._model.config)
        if num_tokens > context:
            raise TooLongError(f"prompt and answer may have {num_tokens} tokens, in a context of {context}")
        return prompt

    @torch.inference_mode()
    def _write(self, prompt: list[int], reply: Reply, stop: threading.Event) -> None:
        width = len(prompt)
        input_ids = torch.tensor([prompt], device=self._model.device)
        processors = LogitsProcessorList()
        if self._repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(self._repetition_penalty, prompt_ignore_length=width))
        output = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_Scribe(self._text, width, reply, stop)]),
        )
        if not stop.is_set():
            reply.text = self._text(output[0, width:].tolist())
            reply.ending = "complete" if output[0, -1].item() in self._end_tokens else "length"

    def _text(self, new_ids: list[int]) -> str:
        if new_ids and new_ids[-1] in self._end_tokens:
            new_ids = new_ids[:-1]
        return self._tokenizer.decode(new_ids, skip_special_tokens=True)

    def _option_probabilities(self, question: Question) -> dict[str, float]:
        found: list[OptionScores] = []
        self._engine.score_options([question], "answer_only", {}, frozenset(), found.extend)
        return found[0].probabilities()


async def _in_thread(function: Any, *arguments: Any, when_cancelled: Any = lambda: None) -> Any:
    """The function's result, from a thread. A task that is cancelled ends when the function has."""
    work = asyncio.create_task(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        when_cancelled()
        await asyncio.wait([work])
        raise


class _Scribe(StoppingCriteria):
    """Writes the text down after every token, and stops when it is told to."""

    def __init__(self, text: Any, num_prompt_tokens: int, reply: Reply, stop: threading.Event):
        self.text, self.num_prompt_tokens, self.reply, self.stop = text, num_prompt_tokens, reply, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        # A character may take several tokens: what is not whole yet is left for the next one.
        self.reply.text = self.text(input_ids[0, self.num_prompt_tokens :].tolist()).rstrip("\ufffd")
        return torch.tensor([self.stop.is_set()], device=input_ids.device)


class ServerAuthor:
    """A model behind an OpenAI-compatible server, which puts the words into its own chat template."""

    def __init__(self, address: str, max_new_tokens: int, extra_body: dict[str, Any]):
        url, _, name = address.partition("#")
        settings = ServerSettings(server_url=url, server_model=name or None, extra_body=extra_body)
        self._server = Server(settings)  # says what is wrong with address, key or name
        self.name = _shown_name(self._server.model)
        self._max_new_tokens = max_new_tokens
        key = os.environ.get(settings.api_key_variable) or "none"
        timeout = openai.Timeout(None, connect=CONNECT_SECONDS)
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)

    def prompt(self, words: str) -> str:
        """See `Author`."""
        return words

    def question_prompt(self, question: Question) -> str:
        """See `Author`."""
        return render_prompt(question, "with_rationale", USERS_WORDS)

    async def write(self, prompt: str, reply: Reply) -> None:
        """See `Author`; the connection is closed when the task is cancelled, which tells the server to stop."""
        stream = await self._create(prompt, self._max_new_tokens, stream=True)
        ending: Ending = "complete"
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices[:1]:
                    reply.text += choice.delta.content or ""
                    ending = "length" if choice.finish_reason == "length" else ending
                if len(reply.text) > MAX_ANSWER_CHARACTERS:
                    reply.text, ending = reply.text[:MAX_ANSWER_CHARACTERS], "length"
                    break
        reply.ending = ending

    async def option_probabilities(self, question: Question) -> dict[str, float] | None:
        """See `Author`: of the letters among the tokens that the server holds for likeliest at the first place."""
        prompt = render_prompt(question, "answer_only", USERS_WORDS)
        try:
            reply = await self._create(prompt, 1, logprobs=True, top_logprobs=TOP_TOKENS)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return None  # it knows no log probabilities
        given = reply.choices[0].logprobs
        if not given or not given.content or not given.content[0].top_logprobs:
            return None
        found = dict.fromkeys(question.options, 0.0)
        for token in given.content[0].top_logprobs:
            if token.token.strip() in found:
                found[token.token.strip()] += math.exp(token.logprob)
        total = sum(found.values())
        return {letter: share / total for letter, share in found.items()} if total else None

    async def _create(self, prompt: str, max_new_tokens: int, **options: Any) -> Any:
        request = Request(None, [{"role": "user", "content": prompt}], max_new_tokens, options)
        while True:
            fields = self._server.fields_of(request)
            try:
                return await self._client.chat.completions.create(model=self._server.model, **fields)
            except openai.APIStatusError as refused:
                if not self._server.adapts(refused, fields):
                    raise
