"""What the steps that ask a server have in common: nothing lost, nothing asked twice, whatever the server and kills do."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs import locks
from configs.errors import EnvironmentFailure, SettingsError
from configs.progress import Progress
from data_collection.llm.asking import Attempts, ask_until_good, sampling
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """A thing to ask about in as many steps as given; good is an answer that ends with the number of the step."""

    id: str

    def request(self, attempt, earlier):
        content = f"{self.id} step {len(earlier)} after {earlier}"
        return Request(self.id, [{"role": "user", "content": content}], 5, sampling(attempt))

    def check(self, text, hit_limit, earlier):
        return text, "" if text.endswith(f"ok{len(earlier)}") else f"not ok: {text}"


def ask(http, path, ids, num_steps=1, max_attempts=2, **settings):
    address = f"http://127.0.0.1:{http.server_address[1]}/v1"
    server = Server(
        ServerSettings(server_url=address, api_key_variable="A_KEY", **{"request_timeout": 5.0, **settings})
    )
    attempts = Attempts(path, num_steps)
    try:
        ask_until_good(server, lambda: map(Step, ids), attempts, max_attempts, Progress("x", len(ids)))
        return {item: attempts.results(item) for item in ids}, attempts
    finally:
        attempts.close()


def rows_of(path):
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def ok(request):
    return f"ok{request['messages'][0]['content'].split(' step ')[1][0]}"


FAULTS = [429, 500, "hang", "half", "half json", "html", "empty", "nothing", "wrong model"]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_faulty_server_loses_nothing_and_is_asked_nothing_twice(tmp_path, http, num_steps):
    http.reply = ok
    ids = [f"item{number}" for number in range(20)]
    http.faults = {f"{ids[number]} step 0 after []": [fault] for number, fault in enumerate(FAULTS)}
    http.faults["item12 step 0 after []"] = ["no text"]
    http.requests.clear()
    results, attempts = ask(http, tmp_path / "a.jsonl", ids, num_steps)
    assert results == {item: [f"ok{step}" for step in range(num_steps)] for item in ids}
    rows = rows_of(tmp_path / "a.jsonl")
    assert len(rows) == attempts.num_rows == 20 * num_steps + 1  # the refusal is an attempt, a broken reply is none
    assert [row["problem"][:7] for row in rows if row["problem"]] == ["no text"]
    assert sum(http.seen.values()) == 20 * num_steps + len(FAULTS) - 1 + 1  # another model's answer is one
    assert ask(http, tmp_path / "a.jsonl", ids, num_steps)[0] == results
    assert sum(http.seen.values()) == 20 * num_steps + len(FAULTS)


def test_a_step_that_fails_begins_its_attempt_again_and_attempts_end(tmp_path, http):
    def reply(request):
        text = request["messages"][0]["content"]
        if text.startswith("never"):
            return "prose"
        return "prose" if text.startswith("late step 1") and "seed" not in request else ok(request)

    http.reply = reply
    results, attempts = ask(http, tmp_path / "a.jsonl", ["never", "late", "good"], 2, 3)
    assert results == {"never": None, "late": ["ok0", "ok1"], "good": ["ok0", "ok1"]}
    assert attempts.last_problem("never") == "not ok: prose" and attempts.problems == {"not ok": 4, "": 5}
    asked = [(row["id"], row["attempt"], row["step"]) for row in rows_of(tmp_path / "a.jsonl")]
    assert sorted(asked) == [
        ("good", 0, 0), ("good", 0, 1),
        ("late", 0, 0), ("late", 0, 1), ("late", 1, 0), ("late", 1, 1),
        ("never", 0, 0), ("never", 1, 0), ("never", 2, 0),
    ]  # fmt: skip


def test_thoughts_are_recorded_and_not_looked_at(tmp_path, http):
    http.reply = lambda request: "<think>the draft ends with ok0</think>\n\nand the answer too: ok0"
    results, _ = ask(http, tmp_path / "a.jsonl", ["thinks"])
    assert results == {"thinks": ["\n\nand the answer too: ok0"]}
    assert "the draft" in rows_of(tmp_path / "a.jsonl")[0]["output"]
    http.reply = lambda request: "many" + "\n \n\t" * 9000 + "\nlines ok0"
    assert ask(http, tmp_path / "l.jsonl", ["loops"])[0] == {"loops": ["many\n\nlines ok0"]}
    http.reply = lambda request: "<think>without an end ok0"
    assert ask(http, tmp_path / "b.jsonl", ["thinks"], max_attempts=1)[0] == {"thinks": None}


def test_what_occurs_twice_is_asked_once(tmp_path, http):
    http.reply, http.delay = ok, 0.05
    ask(http, tmp_path / "a.jsonl", ["a", "a", "b", "a"])
    assert set(http.seen.values()) == {1} and len(http.seen) == 2


def test_a_server_that_is_away_costs_no_attempt(tmp_path, http):
    http.reply = ok
    http.faults = {"b step 0 after []": [500] * 3}
    with pytest.raises(EnvironmentFailure, match="1 items were not answered"):
        ask(http, tmp_path / "a.jsonl", ["a", "b"], max_retries=1)
    assert [row["id"] for row in rows_of(tmp_path / "a.jsonl")] == ["a"]
    results, _ = ask(http, tmp_path / "a.jsonl", ["a", "b"])
    assert results == {"a": ["ok0"], "b": ["ok0"]} and http.seen["a step 0 after []"] == 1


def test_the_budget_holds_for_all_restarts_together(tmp_path, http):
    http.reply, ids = ok, list(map(str, range(9)))
    paid = {"input_price": 1e6, "output_price": 1e6, "budget": 65.0, "max_concurrent_requests": 1}
    for _ in range(2):  # an answer costs 15, the next might cost more: 60 are spent by the first command
        with pytest.raises(SettingsError, match=r"of which 60\.0000 is spent"):
            ask(http, tmp_path / "a.jsonl", ids, **paid)
        assert sum(http.seen.values()) == len(rows_of(tmp_path / "a.jsonl")) == 4
    assert all(ask(http, tmp_path / "a.jsonl", ids, **{**paid, "budget": 200.0})[0].values())


def test_a_setting_that_the_server_refuses_uses_up_no_attempts(tmp_path, http):
    http.reply, http.refused_fields = ok, ["messages"]
    ids = list(map(str, range(30)))
    with pytest.raises(SettingsError, match="refuses all requests") as raised:
        ask(http, tmp_path / "a.jsonl", ids)
    assert "messages" in str(raised.value) and not rows_of(tmp_path / "a.jsonl")
    http.refused_fields = []
    assert all(ask(http, tmp_path / "a.jsonl", ids)[0].values())


def test_the_few_that_are_left_and_refused_for_good_are_attempts_and_the_run_ends(tmp_path, http):
    http.reply, http.refused_fields = ok, ["messages"]
    results, _ = ask(http, tmp_path / "a.jsonl", ["a", "b", "a"], max_attempts=2)
    assert results == {"a": None, "b": None}
    assert sorted((row["id"], row["attempt"]) for row in rows_of(tmp_path / "a.jsonl")) == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1),
    ]  # fmt: skip


def test_a_second_command_on_the_same_journal_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_TO_LOCK", 0.2)
    first = Attempts(tmp_path / "a.jsonl")
    with pytest.raises(SettingsError, match="another command"):
        Attempts(tmp_path / "a.jsonl")
    first.close()
    Attempts(tmp_path / "a.jsonl").close()


@pytest.mark.parametrize("num_steps", [1, 2])
def test_killed_ten_times_nothing_is_lost_or_asked_again(tmp_path, http, num_steps):
    """What was in flight at a kill is asked once more; what the journal has is not."""
    http.reply, http.delay = ok, 0.03
    ids = [f"item{number}" for number in range(40)]
    path = tmp_path / "a.jsonl"
    for _ in range(10):
        done = len(rows_of(path))
        child = os.fork()
        if child == 0:  # without the imports of a new process; the tests of the commands start real ones
            try:
                ask(http, path, ids, num_steps, max_concurrent_requests=2)
            finally:
                os._exit(0)
        while len(rows_of(path)) < min(done + 2, len(ids) * num_steps):
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    results, attempts = ask(http, path, ids, num_steps)
    assert results == {item: [f"ok{step}" for step in range(num_steps)] for item in ids}
    assert attempts.num_rows == len(ids) * num_steps
    assert sum(http.seen.values()) <= len(ids) * num_steps + 10 * 2


COMMANDS = {
    "rationales": ["--input", ROOT / "assets" / "sample" / "mmedbench", "--languages", "en", "fr"],
    "rewrite": ["--input", ROOT / "assets" / "sample" / "documents" / "en.medical.jsonl"],
    "translate": ["--input", ROOT / "assets" / "sample" / "mmedbench", "--languages", "en", "--to", "fr", "ar", "hi"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_prose_is_recorded_and_a_killed_command_asks_nothing_twice(tmp_path, http, script_env, command):
    """A server that answers nothing of use: each thing is asked about as often as it may be, and no more."""
    http.reply, http.finish_reason, http.delay = lambda _: "Here is my view of the matter, in prose.", "stop", 0.1
    words = [sys.executable, ROOT / "data_collection" / f"{command}.py", *COMMANDS[command], "--output_dir"]
    words += [tmp_path / "out", "--api_key_variable", "A_KEY", "--max_attempts", "2", "--max_concurrent_requests", "8"]
    words += ["--server_url", f"http://127.0.0.1:{http.server_address[1]}/v1"]
    if command == "rationales":
        words.append("--replace")
    env = {**script_env, "A_KEY": "the-key"}
    if command == "rewrite":  # whose work is done in another process
        wrong = subprocess.run(words, env={**env, "A_KEY": "wrong"}, capture_output=True, text=True, timeout=120)
        assert wrong.returncode == 2 and "A_KEY" in wrong.stderr and not http.seen
    killed = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(http.seen.values()) < 20:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    http.delay = 0
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == (0 if command == "rewrite" else 5), done.stderr
    journals = [*(tmp_path / "out").glob("attempts*/*.jsonl"), *(tmp_path / "out").glob("attempts.jsonl")]
    rows = [row for path in journals for row in rows_of(path)]
    assert len({(row["id"], row["attempt"]) for row in rows}) == len(rows) == 2 * len({row["id"] for row in rows})
    assert all(row["problem"] for row in rows)
    assert len(rows) <= sum(http.seen.values()) <= len(rows) + 8
