"""Questions asked of a server: any that speaks OpenAI's protocol, through data_collection's client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from configs.errors import EnvironmentFailure, SettingsError
from configs.progress import log
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Answer, Request, Server
from data_collection.questions.question import Question
from finetune.generation import Generation
from finetune.prompts import render_completion, render_question
from finetune.styles import Style
from inference.engines import Asking, Examples
from inference.kinds import AskedKind

# What a server is sent: the user's words alone, which it puts into its model's own chat template.
USERS_WORDS = Style("chat", cues=("", ""), lead="")


class ServerEngine:
    """A model behind an OpenAI-compatible server, many requests at once."""

    style = USERS_WORDS

    def __init__(self, settings: ServerSettings):
        self._server = Server(settings)
        self.name = f"{self._server.model} at {settings.server_url}"
        self.identity, self.short_name = self._server.model, self._server.model.rsplit("/", 1)[-1]

    @property
    def spent(self) -> float:
        """See `Engine`: what the budget is compared with."""
        return self._server.spent

    @spent.setter
    def spent(self, spent: float) -> None:
        self._server.spent = spent

    def unreadable(self, questions: Sequence[Question], kind: AskedKind, examples: Examples) -> list[Generation]:
        """See `Engine`: what is too long for a server it says itself, question by question."""
        return []

    def ask(
        self,
        questions: Sequence[Question],
        asking: Asking,
        skip: frozenset[int],
        on_answers: Callable[[list[Generation]], None],
        on_token: Callable[[int], None],
    ) -> None:
        """See `Engine`.

        Raises:
            SettingsError: a repetition penalty is asked for, which OpenAI's protocol does not have; or see
                `Server.ask`.
            EnvironmentFailure: some questions have no answer after all tries; all others' were given. Questions that
                the server refuses for good (too long for it, filtered) are given an empty answer with the reason.
        """
        if asking.repetition_penalty != 1:
            raise SettingsError(
                "a server cannot be asked with a repetition penalty",
                where="--repetition_penalty",
                found=asking.repetition_penalty,
                wanted=1,
                todo="leave it out; its numbers would not compare with greedy answers either",
            )
        failures: list[Answer] = []

        def on_answer(answer: Answer) -> None:
            if answer.text is None and not answer.is_final:
                failures.append(answer)
                return
            counts = answer.num_prompt_tokens, answer.num_new_tokens, answer.hit_limit
            cost = self._server.cost(answer.num_prompt_tokens, answer.num_new_tokens)
            on_answers([Generation(answer.key, answer.text or "", *counts, answer.seconds, answer.error or "", cost)])

        def requests() -> Iterator[Request]:
            for index, question in enumerate(questions):
                if index not in skip:
                    yield Request(index, self._messages(question, asking), asking.max_new_tokens)

        if most := self._server.estimate(requests()):
            log.info(f"{len(questions) - len(skip):,} questions to ask {self.name}, about {most:.2f} at most")
        self._server.ask(requests(), on_answer)
        if failures:
            raise EnvironmentFailure(
                f"{len(failures):,} of {len(questions):,} questions were not answered",
                where=self.name,
                found=f"{questions[failures[0].key].id}: {failures[0].error}",
                wanted="an answer to each",
                todo="the same command asks these again, and only these",
            )

    def close(self) -> None:
        """See `Engine`: nothing is held between calls."""

    def _messages(self, question: Question, asking: Asking) -> list[dict[str, str]]:
        """The question, after the examples as turns that were answered."""
        messages = []
        for example in asking.examples.get(question.lang, ()):
            messages.append({"role": "user", "content": render_question(example, asking.kind, self.style)})
            messages.append({"role": "assistant", "content": render_completion(example, asking.kind, self.style)})
        return [*messages, {"role": "user", "content": render_question(question, asking.kind, self.style)}]
