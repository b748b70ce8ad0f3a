"""The client for any OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted models.

Many requests at once under the server's rate limits, each tried again after what passes (429, 5xx, a broken connection,
half an answer), told at once after what does not (a wrong key, an unknown model), and never beyond the budget.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from configs.errors import EnvironmentFailure, SettingsError
from configs.progress import log
from data_collection.llm.server_settings import BYTES_PER_TOKEN, ServerSettings

_REPLACED = {"max_tokens": "max_completion_tokens", "temperature": "", "seed": ""}
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a second try, doubled at each further one
MAX_REFUSED_AT_FIRST = 20


@dataclass(frozen=True)
class Request:
    """One conversation that a server is to go on with.

    Attributes:
        key: the caller's name for it, given back with the answer.
        messages: role and content of each message.
        max_new_tokens: limit of the answer.
        options: further fields of the request, such as temperature or seed; temperature 0 where none is given.
    """

    key: Any
    messages: list[dict[str, str]]
    max_new_tokens: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def most_tokens(self) -> tuple[int, int]:
        """The most tokens that the prompt and the answer may have, about: the server alone knows."""
        return sum(len(m["content"].encode()) // BYTES_PER_TOKEN + 8 for m in self.messages), self.max_new_tokens


@dataclass(frozen=True)
class Answer:
    """What became of a request: a text, or the reason why there is none.

    Attributes:
        key: the request's.
        text: the answer, None when all tries failed; thoughts that the server gives apart stand before it, in
            <think>...</think>, where most models write theirs (`answers.without_thoughts` takes them out).
        error: why there is no text.
        hit_limit: the answer was cut at `max_new_tokens`.
        model: the name of the model that the server says has answered.
        num_prompt_tokens, num_new_tokens: as the server counts them, 0 where it does not.
        is_final: a failure that another try would repeat: the request itself is refused.
        num_tries: requests sent.
        seconds: from the first of them to the end.
    """

    key: Any
    text: str | None
    error: str | None
    is_final: bool
    hit_limit: bool
    model: str
    num_prompt_tokens: int
    num_new_tokens: int
    num_tries: int
    seconds: float


class _Malformed(Exception):
    """A reply of status 200 that is no answer."""


def _passes(error: Exception) -> bool:
    """Whether another try may do better. Everything but a status is a broken connection or a broken reply."""
    if not isinstance(error, openai.APIStatusError):
        return True
    return error.status_code in (408, 409, 429) or error.status_code >= 500


class Server:
    """A server and what was spent on it. `ask` may be called again and again.

    Attributes:
        model: the name asked for.
        spent: cost so far, by the settings' prices and the server's counts of tokens; who keeps a journal adds what it
            says of earlier commands, so that one that was killed does not begin its budget anew.
    """

    def __init__(self, settings: ServerSettings):
        self.settings, self.spent, self._reserved, self._in_flight = settings, 0.0, 0.0, 0
        self._refused: list[Answer] | None = []  # until the first answer that is a text
        self._foreign: set[str] = set()
        self._names: dict[str, str] = {}  # of the fields that this server takes under another name, or "" for not
        self.model = asyncio.run(self._check())

    def cost(self, num_prompt_tokens: int, num_new_tokens: int) -> float:
        """The price of so many tokens."""
        return (num_prompt_tokens * self.settings.input_price + num_new_tokens * self.settings.output_price) / 1e6

    def estimate(self, requests: Iterable[Request]) -> float:
        """The most that the requests may cost when each is answered at the first try."""
        return sum(self.cost(*request.most_tokens) for request in requests)

    def ask(self, requests: Iterable[Request], on_answer: Callable[[Answer], None]) -> None:
        """Ask all; `on_answer` gets each answer as it comes, in any order, failures among them.

        Requests are drawn as they are sent, so any number of them takes the same memory. What `on_answer` raises ends
        the asking.

        Raises:
            SettingsError: a wrong key, an unknown model, or no budget left for the next request; those in flight were
                waited for and given to `on_answer`. Or all of the first requests are refused for good: what no
                request can have must not become everyone's answer, so these are not given to `on_answer`.
        """
        self._refused = None if self._refused is None else []
        asyncio.run(self._ask_all(iter(requests), on_answer))
        self._give_refused(on_answer)  # of too few requests to say that the server refuses everything

    def _give(self, answer: Answer, on_answer: Callable[[Answer], None]) -> None:
        if answer.text is not None:
            self._give_refused(on_answer)
        if self._refused is None or not answer.is_final:
            on_answer(answer)
            return
        self._refused.append(answer)
        if len(self._refused) == MAX_REFUSED_AT_FIRST:
            raise SettingsError(
                "the server refuses all requests",
                where=self.settings.server_url,
                found=answer.error,
                wanted="an answer to one of the first",
                todo="correct what it says; nothing is lost, and the same command asks again",
            )

    def _give_refused(self, on_answer: Callable[[Answer], None]) -> None:
        refused, self._refused = self._refused, None
        for answer in refused or ():
            on_answer(answer)

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.settings.server_url,
            api_key=os.environ.get(self.settings.api_key_variable) or "none",
            timeout=self.settings.request_timeout,
            max_retries=0,  # tries are ours to make: each has to stand in line for the rate limits again
        )

    async def _check(self) -> str:
        """The model's name, after a look at what the server has."""
        wanted = self.settings.server_model
        async with self._client() as client:
            try:
                served = [model.id async for model in client.models.list()]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise self._wrong_key(error) from None
            except openai.APIConnectionError as error:
                raise EnvironmentFailure(
                    "no server answers",
                    where=self.settings.server_url,
                    found=error.__cause__ or error,
                    wanted="an OpenAI-compatible server",
                    todo="start one (vLLM, llama.cpp, transformers serve) or give its address to --server_url",
                ) from None
            except (
                Exception
            ) as error:  # not every server lists its models; whether it answers is seen at the first request
                log.info(f"{self.settings.server_url} does not list its models ({type(error).__name__})")
                served = []
        if wanted is None and len(served) != 1:
            raise SettingsError(
                "which model to ask is not clear",
                where=self.settings.server_url,
                found=f"{len(served)} models: {', '.join(served[:20])}" if served else "no list of models",
                wanted="one name",
                todo="--server_model NAME",
            )
        if wanted and served and wanted not in served:
            await self._try_unlisted(wanted, served)
        return wanted or served[0]

    async def _try_unlisted(self, wanted: str, served: list[str]) -> None:
        """A server may list other models than it answers with (`transformers serve` lists a cache): one token tells."""
        request = Request(None, [{"role": "user", "content": "?"}], 1)
        try:
            async with self._client() as client:
                await client.chat.completions.create(model=wanted, **self.fields_of(request))
        except openai.APIStatusError as error:
            if _passes(error):
                return  # it is busy; the first real request is tried again and again
            raise self._unknown_model(wanted, f"{', '.join(served[:20])}; {_short(error)}") from None
        except (openai.APIError, json.JSONDecodeError):
            return
        log.info(f"{self.settings.server_url} does not list {wanted}, but answers with it")

    def fields_of(self, request: Request) -> dict[str, Any]:
        """The request's fields under the names that this server takes; those that it does not take are left out."""
        fields = {
            "messages": request.messages,
            "max_tokens": request.max_new_tokens,
            "temperature": 0,
            **request.options,
        }
        named = {new: value for name, value in fields.items() if (new := self._names.get(name, name))}
        return {**named, "extra_body": self.settings.extra_body} if self.settings.extra_body else named

    def adapts(self, refused: Exception, sent: dict[str, Any]) -> bool:
        """Whether a refused request is to be sent again with what `fields_of` gives now: newer hosted models take no
        `max_tokens`, and reasoning models no temperature."""
        name, code = getattr(refused, "param", None), str(getattr(refused, "code", ""))
        if name not in _REPLACED or name not in sent or not code.startswith("unsupported"):
            return False
        if name not in self._names:
            self._names[name] = _REPLACED[name]
            log.info(f"{self.settings.server_url} does not take {name}: asking with {_REPLACED[name] or 'its default'}")
        return True

    def _wrong_key(self, error: Exception) -> SettingsError:
        variable = self.settings.api_key_variable
        return SettingsError(
            "the server refuses the key",
            where=self.settings.server_url,
            found=f"{'a value' if os.environ.get(variable) else 'nothing'} in {variable}; {_short(error)}",
            wanted="a key that this server knows",
            todo=f"export {variable}=..., or name the variable that has it with --api_key_variable",
        )

    def _unknown_model(self, wanted: str, found: str) -> SettingsError:
        return SettingsError(
            "the server has no such model",
            where=self.settings.server_url,
            found=found,
            wanted=wanted,
            todo="--server_model",
        )

    async def _ask_all(self, requests: Iterator[Request], on_answer: Callable[[Answer], None]) -> None:
        stopping = False
        limits = self._limits()

        async def work(client: Any) -> None:  # each worker draws the next request when its last one is answered
            nonlocal stopping
            try:
                while not stopping and (request := next(requests, None)) is not None:
                    worst = await self._reserve(request)
                    try:
                        answer = await self._ask_one(client, request, limits)
                    finally:
                        self._in_flight -= 1
                        self._reserved = self._reserved - worst if self._in_flight else 0.0  # and not a rounding error
                    self.spent += self.cost(answer.num_prompt_tokens, answer.num_new_tokens)
                    self._give(answer, on_answer)
            except BaseException:
                stopping = True
                raise

        async with self._client() as client:
            workers = [work(client) for _ in range(self.settings.max_concurrent_requests)]
            for ended in await asyncio.gather(*workers, return_exceptions=True):
                if ended is not None:
                    raise ended

    def _limits(self) -> list[tuple[AsyncLimiter, bool]]:
        """The rate limits, and whether each counts tokens instead of requests."""
        settings, limits = self.settings, []
        if rate := settings.requests_per_minute:  # evenly, since many servers count by the second
            limits.append((AsyncLimiter(max(1.0, rate / 60), max(1.0, 60 / rate)), False))
        if rate := settings.tokens_per_minute:
            limits.append((AsyncLimiter(rate, 60), True))
        return limits

    async def _reserve(self, request: Request) -> float:
        """Set the most that the request may cost aside; waits while others' reserve may yet turn out too large."""
        worst, budget = self.cost(*request.most_tokens), self.settings.budget
        while budget is not None and self.spent + self._reserved + worst > budget:
            if not self._in_flight:
                raise SettingsError(
                    "the budget does not cover the next request",
                    where="--budget",
                    found=f"{budget:g}, of which {self.spent:.4f} is spent",
                    wanted=f"{worst:.4f} more",
                    todo="a larger budget; the same command goes on from here",
                )
            await asyncio.sleep(0.05)
        self._reserved += worst
        self._in_flight += 1
        return worst

    async def _ask_one(self, client: Any, request: Request, limits: list[tuple[AsyncLimiter, bool]]) -> Answer:
        start, error, is_final, num_tries = time.monotonic(), "", False, 0
        most_tries = self.settings.max_retries + 1
        while num_tries < most_tries:
            for limiter, of_tokens in limits:
                await limiter.acquire(min(sum(request.most_tokens), limiter.max_rate) if of_tokens else 1)
            num_tries += 1
            try:
                # A limit on the whole: the client's own is on each silence, which a server that drips bytes never hits.
                async with asyncio.timeout(self.settings.request_timeout):
                    fields = self.fields_of(request)
                    reply = await client.chat.completions.create(model=self.model, **fields)
                return self._answer(request, reply, num_tries, time.monotonic() - start)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as refused:
                raise self._wrong_key(refused) from None
            except openai.NotFoundError as missing:
                raise self._unknown_model(self.model, _short(missing)) from None
            except (openai.APIError, json.JSONDecodeError, TimeoutError, _Malformed) as failure:
                if getattr(failure, "code", None) == "insufficient_quota":  # a 429 that no waiting mends
                    raise self._wrong_key(failure) from None
                if self.adapts(failure, fields):
                    most_tries += 1
                    continue
                error = f"{type(failure).__name__}: {_short(failure)}"
                if not _passes(failure):
                    is_final = True
                    break
                if num_tries < most_tries:
                    await asyncio.sleep(_wait(num_tries, failure))
        seconds = time.monotonic() - start
        return Answer(request.key, None, error, is_final, False, self.model, 0, 0, num_tries, seconds)

    def _answer(self, request: Request, reply: Any, num_tries: int, seconds: float) -> Answer:
        """An Answer from a reply of status 200.

        Raises:
            _Malformed: it is no chat completion (a proxy's page, an empty object).
        """
        try:
            choice = reply.choices[0]
            finish, message, text = choice.finish_reason, choice.message, choice.message.content
        except (AttributeError, LookupError, TypeError):
            choice = text = None
        if choice is None or not isinstance(text, (str, type(None))):  # the client checks no types
            raise _Malformed(f"the reply is no chat completion: {_short(reply, 100)}")
        model = str(getattr(reply, "model", None) or "")
        if model != self.model and model not in self._foreign:
            self._foreign.add(model)
            log.info(f"{self.settings.server_url} was asked for {self.model} and says that {model or 'none'} answered")
        usage = getattr(reply, "usage", None)
        counts = [getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
        counts = [count if isinstance(count, int) and count > 0 else 0 for count in counts]
        hit_limit = finish == "length"
        if text is None and hit_limit:  # a reasoning model that never came to its answer
            text = ""
        # SGLang and DeepSeek name thoughts so; vLLM and OpenRouter have the shorter name.
        thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if text is not None and thoughts and isinstance(thoughts, str):
            text = f"<think>{thoughts}</think>{text}"
        why = "thoughts without an answer" if thoughts else "no text"
        error = f"{why} (finish reason {finish})" if text is None else None
        return Answer(request.key, text, error, error is not None, hit_limit, model, *counts, num_tries, seconds)


def _wait(num_tries: int, error: Exception) -> float:
    """Seconds until the next try: what the server asks for, else twice as long each time, spread at random."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.replace(".", "", 1).isdigit():
        return min(float(asked), LONGEST_WAIT)
    return min(FIRST_WAIT * 2 ** (num_tries - 1), LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 (no secret)


def _short(error: object, length: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= length else text[:length] + "..."
