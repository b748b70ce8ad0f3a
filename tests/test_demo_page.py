"""The demo page in a real browser: asked, answered, looked at by axe, and fed with hostile text."""

import asyncio
import contextlib
import http.client
import json
import re
import threading
import time
from html.parser import HTMLParser

import pytest
import uvicorn

from configs.languages import LANGUAGES
from data_collection.questions.question import Question
from inference.demo import DemoSettings
from inference.visitors import demo_panels
from inference.visitors.demo_page import Limits, Page, example_questions, first_language, page_texts, read_options
from inference.visitors.demo_serving import listen, make_app
from inference.visitors.streaming import LocalAuthor, Reply
from inference.visitors.waiting_line import Line

SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
HOSTILE = (
    SCRIPT
    + "${document.title = 'taken'} {{#each value}}{{this}}{{/each}} `\\` NUL \x00 RTL \u202eabc [link](http://evil.example/) $x$"
)
LONG = "0123456789" * 10_000


def test_every_language_has_every_text_with_the_same_places():
    texts = page_texts()
    assert list(texts) == list(LANGUAGES)
    places = {name: set(re.findall(r"\{\w+\}", text)) for name, text in texts["en"].items()}
    for code, own in texts.items():
        assert {name: set(re.findall(r"\{\w+\}", text)) for name, text in own.items()} == places, code
        assert not [name for name, text in own.items() if not text.strip() or set("<>&") & set(text)], code
    for name in ("notice", "title", "waiting", "not_kept"):
        assert len({own[name] for own in texts.values()}) == len(texts), f"{name} is not translated everywhere"


def test_examples_are_there_in_six_languages_with_their_answers():
    examples = example_questions()
    assert {question.lang for question in examples} == {"en", "zh", "ja", "fr", "ru", "es"}
    assert all(question.answers for question in examples)


def test_options_and_languages_are_read_as_people_and_browsers_write_them():
    assert read_options("A. Liver\n\n b) Spleen \n(C) Vitamin A. deficiency\nd: A lot") == [
        "Liver",
        "Spleen",
        "Vitamin A. deficiency",
        "A lot",
    ]
    germs = ["S. aureus", "E. coli", "C. difficile"]
    assert read_options("\n".join(germs)) == germs
    assert first_language("ko-KR,ko;q=0.9,fr-CH;q=0.8,en;q=0.7", ["en", "fr"]) == "fr"
    assert first_language("", ["en", "fr"]) == first_language("ko", ["en", "fr"]) == "en"


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def test_whatever_is_written_is_text_in_a_panel():
    texts, limits = page_texts()["en"], {"limit": 5, "seconds": 6}
    question = Question("q", "en", HOSTILE, {"A": HOSTILE, "B": "b"}, ())
    reply = Reply(HOSTILE + LONG, "length", {"A": 0.75, "B": 0.25})
    page = Tags(demo_panels.choice(HOSTILE, reply, question, ("A",), texts, limits))
    assert page.tags <= {"section", "h2", "h3", "bdi", "div", "p", "ul", "li", "span", "i", "strong"}
    assert SCRIPT in page.text and LONG[:90_000] in page.text and "␀" in page.text and "⟨U+202E⟩" in page.text
    assert "75.0 %" in page.text and "\x00" not in page.text and "\u202e" not in page.text
    assert "Right answer: A" in page.text and "Cut off: 5 tokens" in page.text


def test_settings_that_make_no_sense_are_named_together():
    found = DemoSettings(max_seconds=0, max_waiting=-1, port=70000, repetition_penalty=0).problems()
    assert [problem.split()[0] for problem in found] == ["max_seconds", "max_waiting", "port", "repetition_penalty"]


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded():
    from configs.errors import EnvironmentFailure

    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(EnvironmentFailure, match="the port is taken"):
            listen("127.0.0.1", taken.getsockname()[1])


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


class Scripted:
    """Writes the pieces of `texts[words]`, or goes on and on; what it does is counted."""

    name = "org/" + SCRIPT
    num_left = num_started = 0

    def __init__(self):
        self.texts = {"hostile": [HOSTILE, LONG]}

    def prompt(self, words):
        return words

    def question_prompt(self, question):
        return "Explain: " + question.question

    async def write(self, prompt, reply):
        self.num_started += 1
        try:
            for piece in self.texts.get(prompt) or (f"{prompt[:9]} {number} " for number in range(100_000)):
                reply.text += piece
                await asyncio.sleep(0.02)
            reply.ending = "complete"
        except asyncio.CancelledError:
            self.num_left += 1
            raise

    async def option_probabilities(self, question):
        return {letter: 1 / len(question.options) for letter in question.options}


class Running:
    """The page on a port of this process, a model of two layers beside a scripted one."""

    def __init__(self, tiny_model):
        self.scripted = Scripted()
        authors = [LocalAuthor(str(tiny_model), 30, 1.0, None), self.scripted]
        self.page = Page(authors, Line(2, 20, 1000), Limits(200_000, 30, 60), None)
        socket = listen("127.0.0.1", 0)
        self.port = socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(make_app(self.page), log_level="warning", timeout_graceful_shutdown=1, ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [socket]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


@pytest.fixture(scope="module")
def running(tiny_model):
    served = Running(tiny_model)
    yield served
    served.server.should_exit = True
    served.thread.join(10)


def test_routes_that_the_page_does_not_use_are_closed(running):
    status, headers, body = running.request("GET", "/")
    assert status == 200 and "connect-src 'self'" in headers["content-security-policy"]
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", body.decode(), re.DOTALL)[1])
    assert not config["analytics_enabled"] and not config["run_history"]
    assert not [part for part in config["dependencies"] if part["api_visibility"] == "public"]
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    file = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nfull\r\n--x--\r\n'
    assert running.request("POST", "/gradio_api/upload", file, form)[0] == 404
    paths = ("info", "openapi.json", "file=/etc/passwd", "proxy=http://evil.example/", "runs", "call/ask", "vibe-code/")
    assert {running.request("GET", f"/gradio_api/{path}")[0] for path in paths} == {404}
    assert {running.request("GET", path)[0] for path in ("/monitoring", "/docs", "/openapi.json")} == {404}
    large = {"Content-Length": "2000000", "Content-Type": "application/json"}
    assert running.request("POST", "/gradio_api/queue/join", b"", large)[0] == 413


class Visit:
    """One visitor's page; leaving it asserts that the browser complained of nothing and asked nobody else."""

    def __init__(self, browser, running, width=1440, **options):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page, self.host = self.context.new_page(), running.address
        self.complaints, self.others = [], []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self.on_request)
        self.page.goto(running.address)
        self.page.locator("#ask").wait_for(timeout=60_000)
        code = (options.get("locale") or "en")[:2]
        self.page.wait_for_function(f"document.documentElement.lang == '{code}' && document.title", timeout=30_000)

    def on_request(self, request):
        if not request.url.startswith((self.host, "data:", "blob:")):
            self.others.append(request.url)

    def ask(self, words):
        self.page.locator("#tabs textarea").first.fill(words)
        self.page.locator("#ask").click()

    def serious(self):
        """What axe finds of serious or critical impact."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
        found = axe.Axe().run(self.page).response["violations"]
        return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]

    def leave(self):
        self.context.close()
        assert (self.complaints, self.others) == ([], [])


def test_a_question_is_asked_and_its_streamed_answer_read(browser, running, tmp_path):
    visit = Visit(browser, running)
    page = visit.page
    visit.ask("fever")
    written = page.locator("#answer-1 .written")
    written.wait_for()
    first = written.inner_text()
    page.wait_for_function(f"document.querySelector('#answer-1 .written').innerText.length > {len(first) + 20}")
    assert first.startswith("fever 0 fever 1") and written.inner_text().startswith(first)
    page.locator("#answer-0 section[aria-busy=false] .written").wait_for()  # the model beside it, cut at 30 tokens
    assert "30 tokens" in page.locator("#answer-0").inner_text()
    page.locator("#stop").click()
    page.locator("#answer-1 section[aria-busy=false]").wait_for()
    assert "Stopped." in page.locator("#answer-1").inner_text()
    assert visit.serious() == []
    page.screenshot(path=tmp_path / "question-1440.png", full_page=True)
    visit.leave()


def test_a_multiple_choice_question_is_answered(browser, running, tmp_path):
    running.scripted.texts = {
        **running.scripted.texts,
        **{
            "Explain: " + question.question: ["Because it is. ", "The answer is A."] for question in example_questions()
        },
    }
    visit = Visit(browser, running, width=390, color_scheme="dark")
    page = visit.page
    page.get_by_role("tab", name="Multiple choice").click()
    example = example_questions()[0]
    page.locator("button", has_text=example.question[:40]).click()
    page.wait_for_function("document.querySelectorAll('#tabs textarea')[2].value.length > 5")
    page.locator("#choose").click()
    panel = page.locator("#choice-1 section[aria-busy=false]")
    panel.locator(".written").wait_for()
    said = panel.inner_text()
    assert said.count("25.0 %") == 4 and example.options["A"] in said
    assert "Because it is. The answer is A." in said and "Right answer: A" in said
    assert re.search(r"Answer at the end of the explanation: A ✓", said)
    page.locator("#choice-0 section[aria-busy=false] .share").first.wait_for()
    shares = page.locator("#choice-0 .share").all_inner_texts()
    assert len(shares) == 4 and sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.3)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"
    assert visit.serious() == []
    page.screenshot(path=tmp_path / "choice-390-dark.png", full_page=True)
    visit.leave()


def test_the_page_speaks_the_language_that_is_chosen_and_the_notice_stays_in_sight(browser, running, tmp_path):
    visit, texts = Visit(browser, running, width=390, locale="fr-CH"), page_texts()
    page = visit.page
    assert texts["fr"]["notice"] in page.locator("#notice").inner_text()
    assert page.locator("#ask").inner_text() == texts["fr"]["ask"]
    for code in ("ja", "ar"):
        page.locator("#language input").click()
        page.get_by_role("option", name=texts[code]["name"]).click()
        page.wait_for_function(f"document.documentElement.lang == '{code}'")
        page.wait_for_function(f"document.querySelector('#ask').innerText == '{texts[code]['ask']}'")
        assert page.title() == texts[code]["title"]
        assert page.evaluate("document.documentElement.dir") == texts[code]["direction"]
        page.mouse.wheel(0, 5000)
        page.wait_for_timeout(200)
        notice = page.locator("#notice")
        box = notice.bounding_box()
        assert texts[code]["notice"] in notice.inner_text() and 0 <= box["y"] < 60 and box["height"] > 20
        assert page.evaluate("document.elementFromPoint(innerWidth / 2, 30).closest('#notice') != null")
    assert visit.serious() == []
    page.screenshot(path=tmp_path / "arabic-390.png", full_page=True)
    visit.leave()


def test_hostile_text_is_shown_as_text(browser, running):
    visit = Visit(browser, running)
    page = visit.page
    visit.ask("hostile")
    page.locator("#answer-1 section[aria-busy=false] .written").wait_for()
    written = page.locator("#answer-1 .written").inner_text()
    assert SCRIPT in written and "${document.title" in written and "{{#each value}}" in written and "␀" in written
    assert len(written) > 90_000 and "[link](http://evil.example/)" in written
    assert SCRIPT[:50] in page.locator("#answer-1 h2").inner_text()
    assert page.title() != "taken" and page.locator("#answer-1 :is(script, img, a)").count() == 0
    visit.ask(LONG + HOSTILE)  # as a question: within this page's limit, far beyond the small model's
    page.locator("#answer-0 .ending", has_text="too long for this model").wait_for()
    page.locator("#stop").click()
    page.locator("#answer-1 section[aria-busy=false]").wait_for()
    visit.ask("x" * 200_001)
    page.locator("#message .message").wait_for()
    assert "200,001 characters are too many" in page.locator("#message").inner_text()
    visit.leave()


def test_a_visitor_who_leaves_stops_the_generation(browser, running):
    visit, scripted = Visit(browser, running), running.scripted
    num_left = scripted.num_left
    visit.ask("on and on")
    visit.page.locator("#answer-1 .written").wait_for()
    assert len(running.page.line) == 1 and scripted.num_left == num_left
    visit.leave()
    until(lambda: len(running.page.line) == 0, seconds=30)  # the limit of time alone would come after 60 seconds
    assert scripted.num_left == num_left + 1
