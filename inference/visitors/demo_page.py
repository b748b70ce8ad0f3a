"""The demo page: free questions and multiple choice, one or two models side by side, in the visitor's language."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from configs.errors import FailedItems
from configs.files import REPOSITORY
from configs.languages import LANGUAGES
from configs.progress import log
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import LETTERS, Question
from inference.visitors import demo_panels
from inference.visitors.demo_panels import Texts
from inference.visitors.streaming import Author, Reply, TooLongError
from inference.visitors.waiting_line import Line, MustWait, Turn

TICK_SECONDS = 0.15  # between two looks at what the models have written
EXAMPLES_PER_LANGUAGE = 2
_OPTION_LETTER = re.compile(r"^\(?([A-Ha-h])[.)：:]\s+")
Work = Callable[[Author, Reply], Awaitable[None]]


def page_texts() -> dict[str, Texts]:
    """The words of the page by language code, in the order of the language table."""
    with open(Path(__file__).with_name("demo_texts.yaml"), encoding="utf-8") as file:
        texts = yaml.safe_load(file)
    return {code: texts[code] for code in LANGUAGES}


def example_questions() -> list[Question]:
    """The first questions of each language of the sample's test split."""
    failed = FailedItems()
    files = find_files(REPOSITORY / "assets" / "sample", "Test").values()
    return [
        question for path in files for question in list(read_questions(path, "Test", failed))[:EXAMPLES_PER_LANGUAGE]
    ]


def read_options(text: str) -> list[str]:
    """The options of a text, one a line; letters before them ("A. ") are left out where each line has its own.

    One letter alone may be part of the option: "C. difficile", "E. coli".
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    letters = [found[1].upper() if (found := _OPTION_LETTER.match(line)) else "" for line in lines]
    return [_OPTION_LETTER.sub("", line) for line in lines] if letters == list(LETTERS[: len(lines)]) else lines


def first_language(accepted: str, known: Sequence[str]) -> str:
    """The first language of a browser's Accept-Language header that the page has, or English."""
    codes = (part.split(";")[0].strip().lower()[:2] for part in accepted.split(","))
    return next((code for code in codes if code in known), "en")


@dataclass(frozen=True)
class Limits:
    """What one visitor may take.

    Attributes:
        max_characters: of a question, its options included.
        max_new_tokens: of an answer.
        max_seconds: of an answer, from the moment the models begin.
    """

    max_characters: int
    max_new_tokens: int
    max_seconds: int


class Page:
    """What the page does. Every handler is a generator of outputs: the line to the visitor, then a panel a model.

    It goes on yielding while nothing changes: gradio closes the handler of a visitor who has left at its next yield,
    and so the models stop.
    """

    def __init__(self, authors: Sequence[Author], line: Line, limits: Limits, log_file: Path | None):
        self.authors, self.line, self.limits = authors, line, limits
        self.texts = page_texts()
        self.examples = example_questions()
        self._right = {question.content_hash: question.answers for question in self.examples}
        self._named = {"limit": limits.max_new_tokens, "seconds": limits.max_seconds}
        self._log_file = log_file
        if log_file:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_file.touch(mode=0o600)  # what visitors typed is not for all users of this machine

    @property
    def is_recording(self) -> bool:
        """Whether questions and answers are kept."""
        return self._log_file is not None

    async def ask(self, words: str | None, code: str, request: gr.Request) -> AsyncIterator[list[Any]]:
        """Answer a free question."""
        texts, words = self.texts[code], _plain(words)
        if problem := self._problem(words, texts):
            yield self._say(problem, texts)
            return

        async def work(author: Author, reply: Reply) -> None:
            await author.write(author.prompt(words), reply)

        def draw(author: Author, reply: Reply) -> str:
            return demo_panels.answer(author.name, reply, texts, self._named)

        # aclosing: else a visitor who leaves would close this generator, and the models be stopped some time after.
        async with aclosing(self._answer(work, draw, texts, request, {"question": words})) as answering:
            async for outputs in answering:
                yield outputs

    async def choose(
        self, words: str | None, options: str | None, question_language: str, code: str, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Answer a multiple-choice question: probabilities first, then the explanation."""
        texts, words, listed = self.texts[code], _plain(words), read_options(_plain(options))
        problem = self._problem(words + "".join(listed), texts)
        if not words:
            problem = texts["no_question"]
        elif not 2 <= len(listed) <= len(LETTERS):
            problem = problem or texts["wrong_options"]
        if problem:
            yield self._say(problem, texts)
            return
        question = Question("page", question_language, words, dict(zip(LETTERS, listed, strict=False)), ())

        async def work(author: Author, reply: Reply) -> None:
            prompt = author.question_prompt(question)
            reply.probabilities = await author.option_probabilities(question)
            reply.has_probabilities = reply.probabilities is not None
            await author.write(prompt, reply)

        right = self._right.get(question.content_hash, ())

        def draw(author: Author, reply: Reply) -> str:
            return demo_panels.choice(author.name, reply, question, right, texts, self._named)

        asked = {"question": words, "options": question.options}
        async with aclosing(self._answer(work, draw, texts, request, asked)) as answering:
            async for outputs in answering:
                yield outputs

    async def stop(self, request: gr.Request) -> None:
        """End the answers of one page."""
        self.line.stop(request.session_hash or "")

    async def _answer(
        self,
        work: Work,
        draw: Callable[[Author, Reply], str],
        texts: Texts,
        request: gr.Request,
        asked: dict[str, Any],
    ) -> AsyncGenerator[list[Any]]:
        try:
            turn = self.line.join(request.client.host if request.client else "", request.session_hash or "")
        except MustWait as wait:
            limit = {"limit": self.line.max_per_minute, "seconds": wait.seconds}
            yield self._say(texts["too_often"].format(**limit) if wait.seconds else texts["line_full"], texts)
            return
        replies = [Reply() for _ in self.authors]
        tasks: list[asyncio.Task[None]] = []
        try:
            while (ahead := turn.num_ahead) and not turn.stopped:
                yield self._say(texts["waiting"].format(ahead=ahead), texts)
                await asyncio.sleep(2 * TICK_SECONDS)
            tasks = [
                asyncio.create_task(_guarded(work, author, reply))
                for author, reply in zip(self.authors, replies, strict=True)
            ]
            async for _ in _until_done(tasks, turn, self.limits.max_seconds):
                yield ["", *map(draw, self.authors, replies)]
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)  # the next one's turn comes when the models rest
            finally:
                turn.leave()
        for reply in replies:
            reply.ending = reply.ending or ("stop" if turn.stopped else "time")
        self._record(asked, replies)
        yield ["", *map(draw, self.authors, replies)]

    def _say(self, text: str, texts: Texts) -> list[Any]:
        """A line to the visitor; the panels keep what they show."""
        return [demo_panels.message(text, texts), *(gr.skip() for _ in self.authors)]

    def _problem(self, words: str, texts: Texts) -> str:
        if not words:
            return texts["no_question"]
        if len(words) > (limit := self.limits.max_characters):
            return texts["too_long"].format(found=f"{len(words):,}", limit=f"{limit:,}")
        return ""

    def _record(self, asked: dict[str, Any], replies: Sequence[Reply]) -> None:
        if self._log_file is None:
            return
        answers = [
            {"model": author.name, "answer": reply.text, "ending": reply.ending, "probabilities": reply.probabilities}
            for author, reply in zip(self.authors, replies, strict=True)
        ]
        row = {"time": datetime.now(timezone.utc).isoformat(), **asked, "answers": answers}
        with open(self._log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _plain(text: str | None) -> str:
    """What a visitor typed, without the blanks around it and half characters, which no tokenizer takes."""
    return (text or "").encode("utf-8", "replace").decode().strip()


async def _guarded(work: Work, author: Author, reply: Reply) -> None:
    """One model's failure is that model's answer; the other goes on."""
    try:
        await work(author, reply)
    except TooLongError:
        reply.ending = "too_long"
    except Exception as error:
        log.warning(f"{author.name} could not answer: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        reply.ending = "error"


async def _until_done(tasks: list[asyncio.Task[None]], turn: Turn, max_seconds: float) -> AsyncIterator[None]:
    """Ticks until all tasks have ended, the visitor wants no more, or the time is over."""
    end = time.monotonic() + max_seconds
    while not turn.stopped and time.monotonic() < end:
        _, pending = await asyncio.wait(tasks, timeout=TICK_SECONDS)
        if not pending:
            return
        yield


def build(page: Page) -> gr.Blocks:
    """The page as gradio's Blocks. No handler is part of an API, and gradio's own queue lets all of them in: the line
    is `page.line`, which speaks the visitor's language."""
    texts = page.texts["en"]
    hidden = {"api_visibility": "private", "queue": True, "show_progress": "hidden", "concurrency_limit": None}
    names = [(own["name"], code) for code, own in page.texts.items()]
    samples = [[own["placeholder"]] for own in page.texts.values()]
    with gr.Blocks(title=texts["title"], analytics_enabled=False) as blocks:
        notice = gr.HTML(_notice(texts), elem_id="notice")
        with gr.Row(elem_id="head"):
            title = gr.HTML(_title(texts))
            language = gr.Dropdown(names, value="en", label=texts["language"], filterable=False, elem_id="language")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(texts["tab_question"], id="question") as tab_question:
                words = gr.Textbox(label=texts["question"], placeholder=texts["placeholder"], lines=3, max_lines=12)
                free_examples = _examples(texts, samples)
                with gr.Row(elem_classes="actions"):
                    ask = gr.Button(texts["ask"], variant="primary", elem_id="ask")
                    stop = gr.Button(texts["stop"], elem_id="stop")
                free = [gr.HTML(elem_id="message"), *_panels(page, texts, "answer")]
            with gr.Tab(texts["tab_choice"], id="choice") as tab_choice:
                choice_words = gr.Textbox(label=texts["choice_question"], lines=3, max_lines=12)
                options = gr.Textbox(label=texts["options"], lines=4, max_lines=8)
                question_language = gr.Dropdown(
                    names, value="en", label=texts["question_language"], filterable=False, elem_id="question-language"
                )
                choice_examples = _examples(texts, [[question.question] for question in page.examples])
                with gr.Row(elem_classes="actions"):
                    choose = gr.Button(texts["ask"], variant="primary", elem_id="choose")
                    choice_stop = gr.Button(texts["stop"], elem_id="choice-stop")
                chosen = [gr.HTML(elem_id="choice-message"), *_panels(page, texts, "choice")]
        footer = gr.HTML(_footer(page, texts), elem_id="footer")

        def translate(code: str) -> list[Any]:
            own = page.texts[code]
            return [
                gr.Dropdown(value=code, label=own["language"]),
                _notice(own),
                _title(own),
                gr.Tab(own["tab_question"]),
                gr.Textbox(label=own["question"], placeholder=own["placeholder"]),
                *[gr.Button(own["ask"]), gr.Button(own["stop"]), gr.Dataset(label=own["examples"])],
                gr.Tab(own["tab_choice"]),
                gr.Textbox(label=own["choice_question"]),
                gr.Textbox(label=own["options"]),
                gr.Dropdown(value=code, label=own["question_language"]),
                *[gr.Button(own["ask"]), gr.Button(own["stop"]), gr.Dataset(label=own["examples"])],
                _footer(page, own),
            ]

        def greet(request: gr.Request) -> list[Any]:
            return translate(first_language(request.headers.get("accept-language", ""), list(page.texts)))

        def fill(index: int) -> list[Any]:
            question = page.examples[index]
            return [question.question, "\n".join(question.options.values()), question.lang]

        translated = [language, notice, title, tab_question, words, ask, stop, free_examples, tab_choice, choice_words]
        translated += [options, question_language, choose, choice_stop, choice_examples, footer]
        blocks.load(greet, None, translated, **hidden).then(None, language, None, js=_js(page.texts))
        language.input(translate, language, translated, **hidden).then(None, language, None, js=_js(page.texts))
        gr.on([ask.click, words.submit], page.ask, [words, language], free, **hidden)
        gr.on([choose.click], page.choose, [choice_words, options, question_language, language], chosen, **hidden)
        gr.on([stop.click, choice_stop.click], page.stop, None, None, **hidden)
        free_examples.click(
            lambda index: list(page.texts.values())[index]["placeholder"], free_examples, words, **hidden
        )
        choice_examples.click(fill, choice_examples, [choice_words, options, question_language], **hidden)
    return blocks


def _examples(texts: Texts, samples: list[list[str]]) -> gr.Dataset:
    return gr.Dataset(
        label=texts["examples"],
        components=["textbox"],
        samples=samples,
        samples_per_page=len(samples),
        type="index",
        elem_classes="examples",
    )


def _panels(page: Page, texts: Texts, kind: str) -> list[gr.HTML]:
    with gr.Row(elem_classes="panels"):
        return [
            gr.HTML(demo_panels.panel(author.name, texts), elem_id=f"{kind}-{place}", min_width=280)
            for place, author in enumerate(page.authors)
        ]


def _notice(texts: Texts) -> str:
    return f'<p role="note" dir="{texts["direction"]}">{texts["notice"]}</p>'


def _title(texts: Texts) -> str:
    return f'<h1 dir="{texts["direction"]}">{texts["title"]}</h1>'


def _footer(page: Page, texts: Texts) -> str:
    limits = {"characters": f"{page.limits.max_characters:,}", "seconds": page.limits.max_seconds}
    said = texts["limits"].format(**limits, requests=page.line.max_per_minute)
    return f'<p dir="{texts["direction"]}">{said} {texts["kept" if page.is_recording else "not_kept"]}</p>'


def _js(texts: dict[str, Texts]) -> str:
    """Says the page's language and direction to the browser and to screen readers."""
    known = json.dumps({code: [own["title"], own["direction"]] for code, own in texts.items()}, ensure_ascii=False)
    return (
        f"(code) => {{ const [title, direction] = ({known})[code]; document.title = title; "
        "document.documentElement.lang = code; document.documentElement.dir = direction; }"
    )
