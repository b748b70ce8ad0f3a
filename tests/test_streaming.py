"""Answers as they are written: the line of visitors, authors in this process and behind a server, and the handlers."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch

from configs.errors import SettingsError
from data_collection.questions.question import Question
from finetune.generation import generate
from finetune.prompts import render_prompt
from inference.visitors.demo_page import Limits, Page
from inference.visitors.streaming import LocalAuthor, Reply, TooLongError, load_author
from inference.visitors.waiting_line import Line, MustWait

QUESTION = Question("q", "en", "Which organ makes insulin?", {"A": "Liver", "B": "Pancreas", "C": "Spleen"}, ())


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_line_keeps_its_order_and_its_length():
    line = Line(num_at_once=2, max_waiting=2, max_per_minute=100)
    turns = [line.join("a", f"page {i}") for i in range(4)]
    assert [turn.num_ahead for turn in turns] == [0, 0, 1, 2]
    with pytest.raises(MustWait) as full:
        line.join("b", "page 5")
    assert full.value.seconds is None and len(line) == 4
    turns[1].leave()
    assert [turn.num_ahead for turn in (turns[0], *turns[2:])] == [0, 0, 1]
    line.stop("page 2")
    assert [turn.stopped for turn in (turns[0], *turns[2:])] == [False, True, False]


def test_an_address_asks_so_often_a_minute_and_is_then_forgotten():
    clock = Clock()
    line = Line(num_at_once=1, max_waiting=0, max_per_minute=2, clock=clock)
    line.join("a", "").leave()
    clock.now += 50
    line.join("a", "").leave()
    with pytest.raises(MustWait) as often:
        line.join("a", "")
    assert often.value.seconds == 10
    kept = line.join("b", "")  # another address may
    with pytest.raises(MustWait):
        line.join("c", "")  # refused for the line's length, which counts as no question
    kept.leave()
    clock.now += 10.5
    line.join("a", "").leave()
    clock.now += 61
    line.join("d", "")
    assert list(line._asked) == ["d"]


@pytest.fixture(scope="module")
def author(tiny_model):
    return LocalAuthor(str(tiny_model), max_new_tokens=60, repetition_penalty=1.0, prompt_style=None)


def test_what_is_streamed_is_what_the_evaluation_generates(author):
    reply, seen = Reply(), []

    async def watch():
        task = asyncio.create_task(author.write(author.question_prompt(QUESTION), reply))
        while not task.done():
            await asyncio.sleep(0)
            seen.append(reply.text)
        await task

    asyncio.run(watch())
    prompts = [render_prompt(QUESTION, "with_rationale", author._style)]
    ((whole,),) = generate(author._model, author._tokenizer, prompts, 60, 1)
    assert reply.text == whole.text and reply.ending == ("length" if whole.hit_limit else "complete")
    different = list(dict.fromkeys(seen))
    assert len(different) > 5 and all(whole.text.startswith(part) for part in different)


def test_probabilities_are_those_of_whole_texts_one_by_one(author):
    """Against the plain way: log P of each letter after the prompt, softmax over the letters."""
    prompt = render_prompt(QUESTION, "answer_only", author._style)
    start = author._tokenizer(prompt)["input_ids"]
    scores = []
    for letter in QUESTION.options:
        ids = author._tokenizer(f"{prompt} {letter}")["input_ids"]
        assert ids[: len(start)] == start
        with torch.inference_mode():
            logits = author._model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        scores.append(sum(logits[place - 1, ids[place]] for place in range(len(start), len(ids))))
    wanted = torch.stack(scores).softmax(0).tolist()
    found = asyncio.run(author.option_probabilities(QUESTION))
    assert list(found) == ["A", "B", "C"] and sum(found.values()) == pytest.approx(1)
    # The model may be in bfloat16, whose sums depend on the shape of what is added.
    assert list(found.values()) == pytest.approx(wanted, abs=0.02)


def test_a_task_that_is_cancelled_stops_the_model_within_one_token(author, monkeypatch):
    steps = []
    forward = author._model.forward
    monkeypatch.setattr(author._model, "forward", lambda *a, **k: (steps.append(time.sleep(0.02)), forward(*a, **k))[1])
    monkeypatch.setattr(author._model.generation_config, "max_new_tokens", 1000)
    monkeypatch.setattr(author, "_end_tokens", set())
    monkeypatch.setattr(author._model.generation_config, "eos_token_id", None)

    async def leave():
        task = asyncio.create_task(author.write(author.prompt("fever"), Reply()))
        while len(steps) < 3:
            await asyncio.sleep(0.01)
        seen = len(steps)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        at_end = len(steps)
        await asyncio.sleep(0.2)
        return seen, at_end, len(steps)

    seen, at_end, later = asyncio.run(leave())
    assert at_end <= seen + 3 and later == at_end


def test_an_adapter_is_shown_on_its_base(author, tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, r=8, lora_alpha=64)
    folder = tmp_path / "mine" / "adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    author._tokenizer.save_pretrained(folder)
    adapted = load_author(str(folder), max_new_tokens=60)
    assert adapted.name == "mine/adapter" and str(tmp_path) not in adapted.name

    async def write(who):
        reply = Reply()
        await who.write(who.prompt("fever"), reply)
        return reply.text

    assert asyncio.run(write(adapted)) not in ("", asyncio.run(write(author)))


def test_a_name_of_a_special_token_is_text_and_too_much_text_is_refused(author):
    ids = author.prompt("a <end> b")
    assert author._tokenizer.eos_token_id not in ids and "<end>" in author._tokenizer.decode(ids)
    reply = Reply()
    asyncio.run(author.write(author.prompt("NUL \x00 RTL \u202e <script> \ufffe"), reply))
    assert reply.text and reply.ending
    with pytest.raises(TooLongError):
        author.prompt("word " * 2100)  # the context is 2,048 tokens


class StreamingHandler(BaseHTTPRequestHandler):
    """Streams `server.pieces`; one that is `hang` waits until the visitor has left or the test is over."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(json.dumps({"object": "list", "data": [{"id": "org/served"}, {"id": "other"}]}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        if refused := next((name for name in self.server.refused if name in request), None):
            error = {"message": f"no {refused}", "param": refused, "code": "unsupported_parameter"}
            self.reply(json.dumps({"error": error}), 400)
            return
        if request.get("logprobs"):
            top = [{"token": t, "logprob": p, "bytes": None} for t, p in self.server.top]
            logprobs = {"content": [{**top[0], "top_logprobs": top}]} if top else None
            message = {"role": "assistant", "content": "B"}
            choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": logprobs}
            self.reply(
                json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
            )
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in self.server.pieces:
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            self.event(choice)
            while piece == "hang" and not self.server.over.is_set():
                try:
                    self.event({**choice, "delta": {"content": "."}})
                except OSError:
                    self.server.left.set()
                    return
                time.sleep(0.02)
        self.event({"index": 0, "delta": {}, "finish_reason": self.server.finish_reason})

    def event(self, choice):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def reply(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())


@pytest.fixture
def served():
    server = ThreadingHTTPServer(("127.0.0.1", 0), StreamingHandler)
    server.daemon_threads = True
    server.requests, server.refused, server.top, server.finish_reason = [], [], [], "stop"
    server.over, server.left = threading.Event(), threading.Event()
    server.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_server_streams_and_gives_probabilities_where_it_has_them(served):
    served.pieces = ["Insulin ", "comes from the ", "pancreas."]
    author = load_author(served.address + "#org/served", max_new_tokens=7)

    async def ask():
        reply = Reply()
        await author.write(author.prompt("Where from?"), reply)
        return reply, await author.option_probabilities(QUESTION)

    reply, none = asyncio.run(ask())
    assert (reply.text, reply.ending, none) == ("Insulin comes from the pancreas.", "complete", None)
    sent = served.requests[0]
    assert sent["messages"] == [{"role": "user", "content": "Where from?"}] and sent["max_tokens"] == 7
    assert (sent["model"], sent["temperature"], author.name) == ("org/served", 0, "org/served")
    # e^-1 : e^-2 + e^-3 (two tokens of one letter); C is not among the likeliest
    served.top = [(" B", -1.0), ("The", -1.5), ("A", -2.0), (" A", -3.0)]
    found = asyncio.run(load_author(served.address + "#org/served", max_new_tokens=7).option_probabilities(QUESTION))
    assert found == {"A": pytest.approx(0.33476, abs=1e-4), "B": pytest.approx(0.66524, abs=1e-4), "C": 0.0}


def test_a_server_that_refuses_fields_is_asked_in_its_words(served):
    served.pieces, served.refused, served.top = ["Yes."], ["max_tokens", "temperature"], [("A", 0.0)]
    thinking_off = {"chat_template_kwargs": {"enable_thinking": False}}
    author = load_author(served.address + "#org/served", max_new_tokens=7, extra_body=thinking_off)
    reply = Reply()
    asyncio.run(author.write("x", reply))
    assert (reply.text, reply.ending, len(served.requests)) == ("Yes.", "complete", 3)
    assert served.requests[-1]["max_completion_tokens"] == 7 and "temperature" not in served.requests[-1]
    assert all(request["chat_template_kwargs"] == {"enable_thinking": False} for request in served.requests)
    served.refused.append("logprobs")
    assert asyncio.run(author.option_probabilities(QUESTION)) is None


def test_a_server_is_left_when_the_task_is_cancelled_and_cannot_flood_the_page(served):
    served.pieces = ["Wait", "hang"]
    author = load_author(served.address + "#org/served", max_new_tokens=7)

    async def leave():
        reply = Reply()
        task = asyncio.create_task(author.write("x", reply))
        while "." not in reply.text:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert served.left.wait(10)
    served.pieces = ["x" * 60_000] * 3
    reply = Reply()
    asyncio.run(load_author(served.address + "#org/served", max_new_tokens=7).write("x", reply))
    assert (len(reply.text), reply.ending) == (100_000, "length")


def test_what_a_server_does_not_have_is_refused(served):
    with pytest.raises(SettingsError, match="which model"):
        load_author(served.address, max_new_tokens=7)
    with pytest.raises(SettingsError, match="repetition penalty"):
        load_author(served.address + "#org/served", max_new_tokens=7, repetition_penalty=1.2)


class Slow:
    """Writes "word 0 word 1 ..." until it is cancelled or has written `num_words`."""

    name = "org/slow"
    at_work = most_at_work = num_written = num_left = 0

    def __init__(self, num_words=5, seconds=0.01):
        self.num_words, self.seconds = num_words, seconds

    def prompt(self, words):
        return words

    question_prompt = prompt

    async def write(self, prompt, reply):
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            for number in range(self.num_words):
                reply.text += f"word {number} "
                self.num_written += 1
                await asyncio.sleep(self.seconds)
            reply.ending = "complete"
        except asyncio.CancelledError:
            self.num_left += 1
            raise
        finally:
            self.at_work -= 1

    async def option_probabilities(self, question):
        return dict.fromkeys(question.options, 1 / len(question.options))


def visitor(number=0, address="1.2.3.4"):
    return SimpleNamespace(client=SimpleNamespace(host=address), session_hash=f"page {number}")


def page_of(*authors, num_at_once=1, max_waiting=20, per_minute=100, max_seconds=60, log_file=None):
    return Page(authors, Line(num_at_once, max_waiting, per_minute), Limits(4000, 512, max_seconds), log_file)


async def outputs(handler):
    return [output async for output in handler]


def test_ten_visitors_at_once_are_answered_in_turn_or_told_to_come_back():
    slow = Slow(num_words=3)
    page = page_of(slow, max_waiting=5)

    async def all_ask():
        return await asyncio.gather(*(outputs(page.ask("fever?", "en", visitor(i))) for i in range(10)))

    ended = [seen[-1] for seen in asyncio.run(all_ask())]
    answered = [panel for _, panel in ended if isinstance(panel, str) and "word 2" in panel]
    told = [line for line, _ in ended if "Too many people are waiting" in line]
    assert (len(answered), len(told)) == (6, 4) and slow.most_at_work == 1 and len(page.line) == 0


def test_a_visitor_who_waits_is_told_the_place_in_the_page_s_language():
    page = page_of(Slow())

    async def two():
        first = asyncio.create_task(outputs(page.ask("fever?", "en", visitor(1))))
        await asyncio.sleep(0)
        return await outputs(page.ask("発熱？", "ja", visitor(2))), await first

    second, _ = asyncio.run(two())
    assert "前に 1 件あります" in second[0][0] and "word 4" in second[-1][1]


def test_a_visitor_who_leaves_stops_the_models_and_makes_room():
    slow, other = Slow(num_words=10_000), Slow(num_words=10_000)
    page = page_of(slow, other)

    async def leave():
        handler = page.ask("fever?", "en", visitor())
        async for _, panel, _ in handler:
            if isinstance(panel, str) and "word 3" in panel:
                break
        await handler.aclose()  # as gradio does
        written = slow.num_written
        await asyncio.sleep(0.1)
        return written

    written = asyncio.run(leave())
    assert slow.num_written == written and (slow.num_left, other.num_left) == (1, 1)
    assert slow.at_work == other.at_work == len(page.line) == 0


def test_answers_end_at_the_limit_of_time_and_at_the_visitor_s_wish():
    page = page_of(Slow(num_words=10_000), max_seconds=0.3)
    assert "Stopped after 0.3 s." in asyncio.run(outputs(page.ask("fever?", "en", visitor())))[-1][1]
    page = page_of(Slow(num_words=10_000))

    async def stop():
        handler = asyncio.create_task(outputs(page.ask("fever?", "fr", visitor(1))))
        await asyncio.sleep(0.3)
        await page.stop(visitor(2))
        await asyncio.sleep(0.3)
        assert not handler.done()
        await page.stop(visitor(1))
        return await handler

    assert ">Arrêté.<" in asyncio.run(stop())[-1][1]


def test_one_model_s_failure_is_its_own(caplog):
    class Broken(Slow):
        async def write(self, prompt, reply):
            raise RuntimeError("device <lost>")

    _, broken, good = asyncio.run(outputs(page_of(Broken(), Slow()).ask("fever?", "es", visitor())))[-1]
    assert "El modelo no pudo responder" in broken and "device" not in broken and "word 4" in good


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ("", "a\nb", "Please type a question."),
        ("q", "a", "2 to 8 options"),
        ("q", "\n".join("abcdefghi"), "2 to 8 options"),
        ("q" * 4001, "a\nb", "4,003 characters are too many; at most 4,000"),
        ("\x00" * 4001, "a\nb", "too many"),
    ],
)
def test_what_cannot_be_asked_is_said_and_costs_no_turn(words, options, said):
    slow = Slow()
    page = page_of(slow)
    ((line, panel),) = asyncio.run(outputs(page.choose(words, options, "en", "en", visitor())))
    assert said in line and not isinstance(panel, str) and slow.num_written == len(page.line._asked) == 0


def test_nothing_is_kept_unless_a_file_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asyncio.run(outputs(page_of(Slow()).ask("secret fever", "en", visitor())))
    assert list(tmp_path.rglob("*")) == []
    path = tmp_path / "log.jsonl"
    page = page_of(Slow(), log_file=path)
    asyncio.run(outputs(page.choose("half \ud800 <b>", "A. yes\nB) no", "en", "en", visitor(7, "9.9.9.9"))))
    (row,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (row["question"], row["options"]) == ("half ? <b>", {"A": "yes", "B": "no"})
    assert row["answers"] == [
        {
            "model": "org/slow",
            "answer": "word 0 word 1 word 2 word 3 word 4 ",
            "ending": "complete",
            "probabilities": {"A": 0.5, "B": 0.5},
        }
    ]
    assert "9.9.9.9" not in path.read_text() and "page 7" not in path.read_text()
