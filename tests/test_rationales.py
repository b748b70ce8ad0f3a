"""Rationales from a server: what is asked, what is refused, and that nothing is lost or asked twice."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.llm.explaining import check_rationale, rationale_request
from data_collection.questions.mmedbench import read_questions
from data_collection.questions.question import Question

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "mmedbench"
QUESTION = Question(
    "1",
    "en",
    "Which of these thins the blood?",
    {"A": "Warfarin", "B": "Insulin", "C": "Iron", "D": "Vitamin K"},
    ("A",),
)
GOOD = (
    "Warfarin keeps the liver from renewing vitamin K, without which several clotting factors cannot be finished, and "
    "so blood clots more slowly. Insulin lowers the sugar of the blood and leaves clotting alone. Iron is given for "
    "anaemia. Vitamin K does the opposite of what is asked."
)


def sample(language, split="Test"):
    return list(read_questions(SAMPLE / split / f"{language}.jsonl", split, FailedItems()))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_request_names_the_question_the_options_and_the_answer(lang):
    question = Question("1", lang, "Q?", {"A": "x", "B": "y", "C": "z"}, ("A", "C"))
    request = rationale_request(question, 100, 0)
    (message,) = request.messages
    assert all(part in message["content"] for part in ("Q?\nA. x\nB. y\nC. z\n\n", "### Answer: A, C"))
    assert "{" not in message["content"] and not request.options
    options = [rationale_request(question, 100, attempt).options for attempt in (1, 2)]
    assert options[0] != options[1] and options[0]["temperature"] > 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{GOOD}\n\n### Answer: A", ""),
        (f"{GOOD}\n\nThe answer is A.", ""),
        (f"**{GOOD}**\n\n### Answer: A", ""),
        (f"{GOOD}\n\n### Answer: B", "argues for B instead of A"),
        (f"{GOOD}\n\n### Answer: A, B", "argues for A, B instead of A"),
        (GOOD, "does not end with an answer"),
        ("### Answer: A", "too_short"),
        ("Because.\n### Answer: A", "too_short"),
        (f"I'm sorry, but I cannot give medical advice. {GOOD}\n### Answer: A", "a refusal"),
        (f"As an AI language model I may be wrong. {GOOD}\n### Answer: A", "a refusal"),
        ("It thins the blood because it is warfarin and " * 30 + ".\n### Answer: A", "repeated_ngrams"),
        (GOOD[:-30] + "\n### Answer: A", "broken off"),
        # What a model of 135 million parameters wrote.
        ("A. Explain in English, step by step, why it is right and why the other options are not.", "repeats what was"),
        (
            "La warfarine empêche le foie de renouveler la vitamine K, sans laquelle plusieurs facteurs ne peuvent pas "
            "être achevés ; le sang coagule donc plus lentement.\n\n### Answer: A",
            "in another language",
        ),
    ],
)
def test_what_is_wrong_with_a_rationale(text, problem):
    rationale, found = check_rationale(text, False, QUESTION)
    assert found.startswith(problem) if problem else not found
    if not problem:
        assert rationale == GOOD if "The answer is" not in text else rationale.startswith(GOOD)
    assert check_rationale(text, True, QUESTION) == ("", "cut at the limit")


@pytest.mark.parametrize("language", [row.name for row in list(LANGUAGES.values())[:6]])
def test_rationales_written_by_people_pass_in_every_language(language):
    questions = sample(language, "Train")
    problems = Counter(
        check_rationale(f"{q.rationale}\n\n### Answer: {', '.join(q.answers)}", False, q)[1] for q in questions
    )
    assert problems == {"": len(questions)}


def run(folder, http, env, *words, **popen):
    command = [sys.executable, ROOT / "data_collection" / "rationales.py", "--input", SAMPLE, "--output_dir", folder]
    command += ["--server_url", f"http://127.0.0.1:{http.server_address[1]}/v1", "--api_key_variable", "A_KEY", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**env, "A_KEY": "the-key"}, **pipes, **popen)


def journal(folder):
    path = folder / "attempts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture
def explaining(http):
    """The server writes the sample's own rationales; of each question the first attempts go wrong as listed."""
    by_text = {question.question: question for split in ("Test", "Train") for question in sample("English", split)}
    http.attempts, http.wrong = Counter(), {}
    http.finish_reason = "stop"

    def reply(request):
        question = next(q for text, q in by_text.items() if request["messages"][0]["content"].startswith(text + "\n"))
        with http.lock:
            http.attempts[question.id] += 1
            wrong = http.wrong.get(question.id, [])
            if wrong:
                return wrong.pop(0)
        return f"{question.rationale}\n\n### Answer: {', '.join(question.answers)}"

    http.reply = reply
    return list(by_text.values())


def test_from_questions_to_rationales_with_faults_and_second_attempts(tmp_path, http, explaining, script_env):
    first, second, third = explaining[0], explaining[1], explaining[2]
    other = next(letter for letter in first.options if letter not in first.answers)
    http.wrong = {first.id: [f"{GOOD}\n\n### Answer: {other}"], second.id: ["I am sorry, I cannot help."] * 9}
    prompt = rationale_request(third, 1, 0).messages[0]["content"]
    http.faults = {prompt: [500, "half", "html"]}
    words = ("--languages", "en", "--replace", "--max_attempts", "2", "--input_price", "1", "--output_price", "2")
    process = run(tmp_path / "out", http, script_env, *words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 5, said
    assert "at most when each is good" in said
    kept = [*read_questions(tmp_path / "out" / "Test" / "English.jsonl", "Test", FailedItems())]
    originals = sample("English")
    assert [q.question for q in kept] == [q.question for q in originals]
    assert [q.rationale for q in kept] == [q.rationale for q in originals]  # the second's is the sample's, not replaced
    assert kept[0].meta["rationale_model"] == "tiny" and "rationale_model" not in kept[1].meta
    rows = journal(tmp_path / "out")
    problems = {(row["id"], row["attempt"]): row["problem"] for row in rows}
    assert problems[first.id, 0].startswith("argues for") and problems[first.id, 1] == ""
    assert problems[second.id, 0] == problems[second.id, 1] == "a refusal"
    assert next(row for row in rows if row["id"] == third.id)["num_tries"] == 4
    asked_twice = {first.id, second.id}
    counts = {question.id: 1 + (question.id in asked_twice) for question in explaining}
    assert {i: http.attempts[i] for i in counts} == {**counts, third.id: 1 + 3}  # three of its replies were spoilt
    (failure,) = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert failure["where"] == second.id and "a refusal" in failure["reason"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["result"]["attempts"] == sum(counts.values()) == len(rows)
    assert record["result"]["cost"] == pytest.approx(len(rows) * (10 * 1 + 5 * 2) / 1e6)
    assert "the-key" not in (tmp_path / "out" / "run.json").read_text()
    http.over.set()
    http.shutdown()
    http.server_close()  # the server is not needed to see that all is done
    again = run(tmp_path / "out", http, script_env, *words)
    assert "already done" in again.communicate(timeout=60)[1] and again.returncode == 5


def test_what_the_server_did_not_answer_is_no_attempt(tmp_path, http, explaining, script_env):
    gone = rationale_request(explaining[0], 1, 0).messages[0]["content"]
    http.faults = {gone: ["nothing"] * 3}
    words = ("--languages", "en", "--replace", "--max_attempts", "1", "--max_retries", "1")
    process = run(tmp_path / "out", http, script_env, *words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4 and "1 questions were not answered" in said
    assert explaining[0].id not in {row["id"] for row in journal(tmp_path / "out")}
    num_asked = sum(http.attempts.values())
    http.faults = {}
    process = run(tmp_path / "out", http, script_env, *words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sum(http.attempts.values()) == num_asked + 1
    french = run(tmp_path / "fr", http, script_env, "--languages", "en", "de")
    _, said = french.communicate(timeout=60)
    assert french.returncode == 3 and "in de" in said


def test_killed_three_times_no_question_is_lost_or_asked_again(tmp_path, http, explaining, script_env):
    """What was in flight at a kill is asked once more; what the journal has is not (test_asking.py: ten times)."""
    http.delay = 0.2
    words = ("--languages", "en", "--replace", "--max_concurrent_requests", "2")
    kills = in_flight = 0
    while kills < 3:
        done = len(journal(tmp_path / "out"))
        process = run(tmp_path / "out", http, script_env, *words)
        while process.poll() is None and len(journal(tmp_path / "out")) < done + 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills, in_flight = kills + 1, in_flight + 2
    process = run(tmp_path / "out", http, script_env, *words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    rows = journal(tmp_path / "out")
    assert sorted(row["id"] for row in rows) == sorted(question.id for question in explaining)
    assert sum(http.attempts.values()) <= len(explaining) + in_flight
    kept = [*read_questions(tmp_path / "out" / "Test" / "English.jsonl", "Test", FailedItems())]
    assert [q.rationale for q in kept] == [q.rationale for q in sample("English")]
