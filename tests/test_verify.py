"""Checking of rationales: who gets what, that no mark is lost, who may mark, and the page in a real browser."""

import http.client
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from configs.errors import FailedItems, SettingsError
from data_collection.checking import marks as marks_module
from data_collection.checking.agreement import CRITERIA
from data_collection.checking.marks import Asked, MarkStore
from data_collection.checking.verification import choose, verify
from data_collection.checking.verification_page import VerificationServer, access_key
from data_collection.questions.mmedbench import read_questions
from data_collection.questions.question import Question
from data_collection.verify import VerifySettings

ROOT = Path(__file__).parents[1]
GOOD = dict.fromkeys(CRITERIA, "yes")
SAVED = "#state:text-is('Saved')"
HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> {{7*7}} &lt;b&gt; \u202eevil"
)


def question(number, lang="en", text="What is it?", rationale="Because it is."):
    return Question(f"Test/{lang}/{number:05d}", lang, text, {"A": "this", "B": "that"}, ("A",), rationale)


# Who gets what


def test_every_checker_gets_the_shared_share_and_one_the_rest():
    questions = [question(n) for n in range(50)] + [question(n, "ar") for n in range(8)]
    chosen = choose(questions, 40, 0.2)
    by_lang = {lang: [shared for q, shared in chosen if q.lang == lang] for lang in ("en", "ar")}
    assert [(len(found), sum(found)) for found in by_lang.values()] == [(40, 8), (8, 2)]
    assert choose(questions[::-1], 40, 0.2) == chosen, "the order of the files must not matter"
    assert sum(shared for _, shared in choose(questions, None, 0)) == 0
    shared_places = [place for place, (_, shared) in enumerate(chosen) if shared]
    assert shared_places[-1] - shared_places[0] > 20, "what is shared stands together"


def test_checkers_at_once_never_get_the_same_question_unless_it_is_shared(tmp_path):
    store = MarkStore(tmp_path / "marks.sqlite")
    asked = [Asked(str(n), "en", n % 10 == 0) for n in range(60)]

    def work(checker):
        seen = []
        while (place := store.next_of(checker, asked)) is not None:
            seen.append(place)
            store.mark(asked[place].id, checker, GOOD)
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(work, ["a", "b", "c", "d"]))
    own = [place for of in seen for place in of if place % 10]
    assert sorted(own) == [place for place in range(60) if place % 10]
    assert all({place for place in of if place % 10 == 0} == set(range(0, 60, 10)) for of in seen)
    assert all(
        set(found) == ({"a", "b", "c", "d"} if int(q) % 10 == 0 else set(found))
        for q, found in store.all_marks().items()
    )


def test_a_question_left_open_goes_to_another_and_a_finished_one_never(tmp_path, monkeypatch):
    store, asked = MarkStore(tmp_path / "marks.sqlite"), [Asked("1", "en", False), Asked("2", "en", False)]
    assert store.next_of("a", asked) == 0
    store.mark("1", "a", GOOD)
    assert store.next_of("a", asked) == 1 and store.next_of("b", asked) is None
    store.mark("2", "a", {"correct": "no"})
    assert store.num_left("b", asked) == 0
    monkeypatch.setattr(marks_module, "CLAIM_SECONDS", 0.0)
    time.sleep(0.01)
    assert store.num_left("b", asked) == 1 and store.next_of("b", asked) == 1
    assert store.claim("a", asked[1]), "who has marked a question may go on with it"


def test_the_last_mark_counts_and_none_is_overwritten(tmp_path):
    store = MarkStore(tmp_path / "marks.sqlite")
    for fields in ({"correct": "no"}, {"correct": "no", "comment": "why"}, {"correct": "yes"}, {"comment": ""}):
        store.mark("1", "a", fields)
    assert store.fields("1", "a") == {"correct": "yes", "comment": ""}
    assert MarkStore(store.path).all_marks() == {"1": {"a": {"correct": "yes", "comment": ""}}}
    with sqlite3.connect(store.path) as connection:
        written = connection.execute("select field, value from marks order by number").fetchall()
    assert written == [("correct", "no"), ("comment", "why"), ("correct", "yes"), ("comment", "")]
    for wrong in ({"correct": "maybe"}, {"right": "yes"}, {"comment": "x" * 5001}, {"correct": "yes", "checker": "b"}):
        with pytest.raises(ValueError, match="no such mark"):
            store.mark("1", "a", wrong)
    assert store.fields("1", "a") == {"correct": "yes", "comment": ""}, "half of a refused form was saved"


# Who may mark


class Browser:
    """Cookies and forms without a browser."""

    def __init__(self, server):
        self.port, self.cookie = server.server_port, ""

    def __call__(self, path, form=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = urlencode(form) if isinstance(form, dict) else form
        headers = {"Cookie": self.cookie, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        self.cookie = (answer.getheader("Set-Cookie") or self.cookie).split(";")[0]
        self.location, text = answer.getheader("Location"), answer.read().decode()
        self.token = (re.search('name="token" value="([^"]*)"', text) or [None, getattr(self, "token", "")])[1]
        connection.close()
        return answer.status, text

    def sign_in(self, server, name):
        self(urlsplit(server.link).path + "?" + urlsplit(server.link).query)
        self("/")
        assert self("/name", {"token": self.token, "name": name, "language": "en"})[0] == 303
        assert self(self.location)[0] == 303
        path = self.location
        assert self(path)[0] == 200
        return path


@pytest.fixture
def server(tmp_path):
    questions = [(question(1, text=HOSTILE), True), (question(2), False), (question(3, "ar"), False)]
    found = VerificationServer(("127.0.0.1", 0), MarkStore(tmp_path / "marks.sqlite"), questions, access_key(tmp_path))
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_only_the_link_opens_the_page_and_only_its_own_forms_mark(server, tmp_path):
    browser = Browser(server)
    assert browser("/")[0] == browser("/question/1")[0] == browser("/?key=wrong")[0] == 403
    assert browser("/name", {"token": "", "name": "a", "language": "en"})[0] == 403
    path = browser.sign_in(server, "Ann")
    cookie, token = browser.cookie, browser.token

    good = {"token": token, "correct": "yes", "then": "stay"}
    assert browser(path, {**good, "token": "x" * 64})[0] == 403
    assert browser(path, good, Host="evil.example")[0] == 421
    assert browser(path, good, Origin="http://evil.example")[0] == 421 == browser(path, good, Origin="null")[0]
    assert browser(path, "x" * 70_000)[0] == 413
    assert browser(path, {**good, "correct": "perhaps"})[0] == 400
    assert browser("/question/99", good)[0] == browser("/question/0", good)[0] == browser("/../marks.sqlite")[0] == 404
    browser.cookie = cookie[:-2] + "00"  # another name under the same signature
    assert browser(path, good)[0] == 403
    browser.cookie = cookie
    assert server.store.all_marks() == {}
    assert browser(path, good)[0] == 204 and browser(path, good, Origin=f"http://127.0.0.1:{browser.port}")[0] == 204
    assert list(server.store.all_marks().values()) == [{"Ann": {"correct": "yes"}}]
    key = (tmp_path / "access_key").read_text()
    assert oct((tmp_path / "access_key").stat().st_mode)[-3:] == oct(server.store.path.stat().st_mode)[-3:] == "600"
    assert key not in browser("/question/1")[1] and access_key(tmp_path) == key


def test_checkers_do_not_see_each_other_and_a_name_in_use_is_asked_about(server):
    ann, bob = Browser(server), Browser(server)
    path = ann.sign_in(server, "Ann")
    ann(path, {"token": ann.token, **GOOD, "comment": "Ann's secret"})
    path = bob.sign_in(server, "Bob")
    assert path == "/question/1", "what is shared is given to both"
    status, page = bob(path)
    assert status == 200 and "checked>" not in page.replace(" ", "") and "secret" not in page
    assert "<script>document" not in page and "&lt;script&gt;" in page and "{{7*7}}" in page
    assert bob("/question/3")[0] == 303, "Arabic was not chosen"

    eve = Browser(server)
    eve(urlsplit(server.link).path + "?" + urlsplit(server.link).query)
    eve("/")
    status, page = eve("/name", {"token": eve.token, "name": " Ann\x00 ", "language": "en"})
    assert status == 200 and "has marked under the name" in page
    assert eve("/question/1")[0] == 200 and "Your name" in eve("/question/1")[1]
    assert eve("/name", {"token": eve.token, "name": "Ann", "language": "en", "go_on": "Ann"})[0] == 303


def test_the_odd_cookie_of_another_program_locks_nobody_out(server):
    browser = Browser(server)
    path = browser.sign_in(server, "Ann")
    browser.cookie = f'prefs={{"a":1}}; =; {browser.cookie}; last'
    assert browser(path)[0] == 200
    assert browser(path, Origin="http://[")[0] == 421


def test_a_form_without_scripts_marks_as_well(server):
    browser = Browser(server)
    path = browser.sign_in(server, "Ann")
    assert browser(path, {"token": browser.token, **GOOD, "comment": "one\r\ntwo"})[0] == 303
    assert browser.location == "/next" and server.store.fields(server.asked[0].id, "Ann") == {
        **GOOD,
        "comment": "one\ntwo",
    }
    assert 'value="yes" checked' in browser(path)[1] and "one\ntwo</textarea>" in browser(path)[1]


# The whole, in a browser


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    plain = {
        "options": {"A": "this", "B": "that"},
        "answer_idx": "A",
        "rationale": "Because it is.",
        "human_checked": 0,
    }
    english = [{**plain, "question": f"Question {n}?", "medical": n} for n in range(4)]
    english[0] |= {"question": HOSTILE, "rationale": HOSTILE, "options": {"A": HOSTILE, "B": "that"}}
    english[1] |= {"human_checked": 1, "human_check_passed": 1, "rationale": ""}  # nothing to check; it stays as it is
    arabic = [{**plain, "question": "ما هو العلاج الأول (ACE) لارتفاع ضغط الدم؟", "rationale": "لأنه 5 mg الأفضل."}]
    chinese = [{**plain, "question": "糖尿病患者首选哪种药物？" * 40, "rationale": "因为它最安全。" * 40}]
    for name, found in (("English", english), ("Arabic", arabic), ("Chinese", chinese)):
        (folder / "Test").mkdir(exist_ok=True)
        (folder / "Test" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


class Program:
    """verify.py as a process; started again it takes the port that it had."""

    def __init__(self, benchmark, folder, env):
        self.command = [sys.executable, ROOT / "data_collection" / "verify.py", "--input", benchmark]
        self.command += ["--output_dir", folder, "--overlap", "1"]
        self.env, self.process, self.port = env, None, 0

    def start(self):
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port)],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.link = self.process.stdout.readline().removeprefix("open ").strip()
        assert self.link.startswith("http"), self.process.communicate()[1]
        self.address, self.port = self.link.partition("?")[0], urlsplit(self.link).port

    def end(self, number):
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]

    def export(self, folder):
        return subprocess.run(
            [*self.command, "--export", folder], env=self.env, capture_output=True, text=True, timeout=120
        )


def open_as(browser, link, name, **options):
    page = browser.new_context(**options).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: page.problems.append(dialog.message))
    page.on(
        "request",
        lambda request: page.problems.append(request.url) if urlsplit(request.url).hostname != "127.0.0.1" else None,
    )
    page.goto(link)
    page.fill("#name", name)
    for box in page.locator("[name=language]").all():
        box.check()
    page.click("button")
    page.wait_for_selector("form.marks")
    page.wait_for_load_state()  # its style sheet too
    return page


def mark_by_keys(page, keys):
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_selector(SAVED)


def go_on(page):
    before = page.url
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url != before)


def check_page(page):
    """The question is shown as text, in its direction, without scrolling sideways, and can be used by everyone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    found = axe.Axe().run(page).response["violations"]
    assert [item["id"] for item in found if item["impact"] in ("serious", "critical")] == []
    assert page.title() != "taken" and page.locator(".texts script, .texts img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    lang = page.locator(".texts").get_attribute("lang")
    direction = page.locator(".texts p.others").first.evaluate("element => getComputedStyle(element).direction")
    assert direction == ("rtl" if lang == "ar" else "ltr")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert "For research, not for clinical use." in page.locator("footer").inner_text()


@pytest.fixture
def program(benchmark, tmp_path, script_env):
    found = Program(benchmark, tmp_path / "marks", script_env)
    yield found
    if found.process and found.process.poll() is None:
        found.end(signal.SIGKILL)


def test_two_browsers_a_kill_in_the_middle_and_every_mark_there(benchmark, browser, program, tmp_path):
    program.start()
    ann = open_as(browser, program.link, "Ann <i>", viewport={"width": 1280, "height": 800})
    bob = open_as(
        browser, program.link, "Боб", viewport={"width": 390, "height": 800}, color_scheme="dark", is_mobile=True
    )
    assert bob.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    for page, keys in ((ann, "yyyy"), (bob, "yyny")):
        for _ in range(2):
            check_page(page)
            mark_by_keys(page, keys)
            go_on(page)

    ann.keyboard.press("y")  # half of a question's marks, then the program dies
    ann.wait_for_selector(SAVED)
    program.end(signal.SIGKILL)
    ann.keyboard.press("n")  # marked while there is no program
    ann.fill("#comment", "marked while it was down")
    ann.wait_for_selector("#state.unsaved")
    half = ann.url
    press = "new KeyboardEvent('keydown', {key: 'г', code: 'KeyU', bubbles: true})"  # u on a Russian keyboard
    bob.evaluate(f"document.activeElement.dispatchEvent({press})")
    bob.wait_for_selector("#state.unsaved")
    bob_half = bob.url
    bob.goto("about:blank")  # a page that dies with a mark unsent

    program.start()
    ann.wait_for_selector(SAVED, timeout=20_000)
    assert ann.url == half and ann.locator("input:checked").count() == 2
    ann.reload()
    assert ann.locator("input:checked").count() == 2 and ann.input_value("#comment") == "marked while it was down"
    bob.goto(program.address + "mine")  # the cookie is still good
    assert bob.locator(".mine li").count() == 2
    bob.goto(bob_half)
    bob.wait_for_selector(SAVED)
    assert bob.locator("input[value=unsure]:checked").count() == 1

    ann.keyboard.press("Enter")  # two criteria are missing: it stays
    ann.wait_for_selector("fieldset.missing")
    assert ann.url == half
    mark_by_keys(ann, "yy")
    go_on(ann)
    mark_by_keys(ann, "yyyy")
    go_on(ann)
    check_page(ann)
    mark_by_keys(ann, "yyyy")
    go_on(ann)
    assert "you have checked 5 rationales" in ann.inner_text("main")
    ann.click("text=Your marks")
    assert HOSTILE[:100] in ann.inner_text(".mine") and ann.title() != "taken"
    assert ann.problems == bob.problems == []
    said = program.end(signal.SIGINT)
    assert program.process.returncode == 130 and "the same command goes on" in said

    checked = tmp_path / "checked"
    done = program.export(checked)
    assert done.returncode == 0, done.stderr
    english = rows_of(checked / "Test" / "English.jsonl")
    assert [row["human_checked"] for row in english] == [1, 1, 1, 1] and english[1]["human_check_passed"] == 1
    assert [row["medical"] for row in english] == [0, 1, 2, 3] and english[0]["question"] == HOSTILE
    result = json.loads((checked / "agreement.json").read_text())
    assert (result["questions"], result["checked"]) == (5, 5)
    # Bob said no to two, Ann once no: what is left passed by Ann alone.
    assert result["passed"] == 2 and result["agreement"]["complete"]["observed"] == 0
    assert result["by_checker"] == {"checker 1": {"checked": 5, "passed": 4}, "checker 2": {"checked": 2, "passed": 0}}
    flags = [
        row["human_check_passed"]
        for name in ("English", "Arabic", "Chinese")
        for row in rows_of(checked / "Test" / f"{name}.jsonl")
    ]
    assert sum(flags) == result["passed"] + 1
    marks = rows_of(checked / "marks.jsonl")
    assert {row["checker"] for row in marks} == {"checker 1", "checker 2"} and "Ann" not in (
        checked / "marks.jsonl"
    ).read_text()
    assert [row["comment"] for row in marks if "comment" in row] == ["marked while it was down"]
    assert sum(not row["complete"] for row in marks) == 1
    statistics = json.loads((checked / "statistics.json").read_text())
    assert sum(group["human_checked"] for group in statistics["groups"]) == 6
    assert json.loads((checked / "run.json").read_text())["result"]["checked"] == 5
    again = program.export(benchmark)
    assert again.returncode == 2 and "over something else" in again.stderr


# What is refused


def test_marks_of_other_questions_are_not_gone_on_with(benchmark, tmp_path):
    settings = VerifySettings(benchmark, tmp_path / "marks", export=tmp_path / "checked")
    with pytest.raises(ValueError, match="there are no marks"):
        verify(settings)
    from configs import records

    with records.run_record(tmp_path / "marks", "verification", {}, {"questions": "others"}):
        pass
    with pytest.raises(SettingsError, match="other settings or other input"):
        verify(settings)
    settings = VerifySettings(benchmark, tmp_path / "none", split="Train")
    with pytest.raises(ValueError, match="no Train questions with a rationale"):
        verify(settings)
    assert list(read_questions(benchmark / "Test" / "English.jsonl", "Test", FailedItems()))


def test_settings_are_checked():
    assert VerifySettings(Path("a"), Path("b")).problems() == []
    wrong = VerifySettings(Path("a"), Path("b"), overlap=1.5, number=0, port=70000, host="0.0.0.0")
    assert [found.split()[0] for found in wrong.problems()] == ["overlap", "number", "port", "host"]
