"""The client of OpenAI-compatible servers against a real HTTP server on loopback that misbehaves in every known way."""

import json

import pytest

from configs.errors import EnvironmentFailure, SettingsError
from configs.settings import parse
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.answers import without_thoughts

KEY = "the-key"


def settings(http, **more):
    address = f"http://127.0.0.1:{http.server_address[1]}/v1"
    return ServerSettings(server_url=address, api_key_variable="A_KEY", **{"request_timeout": 10.0, **more})


def ask(server, texts, **options):
    answers = []
    requests = (Request(text, [{"role": "user", "content": text}], 5, options) for text in texts)
    server.ask(requests, answers.append)
    return {answer.key: answer for answer in answers}, answers


FAULTS = [429, 500, 503, 408, 409, "nothing", "half", "half json", "html", "empty"]


def test_every_passing_fault_is_survived_and_nothing_is_lost_or_answered_twice(http):
    http.faults = {f"fault {i}": [fault] * (1 + i % 2) for i, fault in enumerate(FAULTS)}
    tries = {text: 1 + len(faults) for text, faults in http.faults.items()}
    texts = [f"fault {i}" for i in range(len(FAULTS))] + [f"good {i}" for i in range(50)]
    by_key, answers = ask(Server(settings(http, request_timeout=120.0)), texts)  # no busy machine is a fault more
    assert sorted(by_key) == sorted(texts) and len(answers) == len(texts)
    assert all(answer.text == f"reply to {key}" and answer.error is None for key, answer in by_key.items())
    assert {key: answer.num_tries for key, answer in by_key.items()} == {text: tries.get(text, 1) for text in texts}
    assert dict(http.seen) == {text: tries.get(text, 1) for text in texts}
    assert by_key["good 1"].hit_limit and by_key["good 1"].num_new_tokens == 5


def test_a_reply_that_does_not_come_is_asked_for_again(http):
    http.faults = {"hangs": ["hang"]}
    by_key, answers = ask(Server(settings(http, request_timeout=3.0, max_retries=50)), ["hangs", "good"])
    assert len(answers) == 2 and by_key["hangs"].num_tries >= 2
    assert all(answer.text == f"reply to {key}" and answer.error is None for key, answer in by_key.items())


def test_what_fails_at_every_try_is_a_failed_answer_with_its_reason(http):
    http.faults = {"never": [500] * 9, "refused": ["no text"], "too long": [400] * 9}
    by_key, _ = ask(Server(settings(http, max_retries=2)), ["never", "refused", "too long", "good"])
    assert {key: answer.num_tries for key, answer in by_key.items()} == {
        "never": 3,
        "refused": 1,
        "too long": 1,
        "good": 1,
    }
    assert "fault 500" in by_key["never"].error and "content_filter" in by_key["refused"].error
    assert "fault 400" in by_key["too long"].error
    assert by_key["never"].text is None and by_key["good"].text == "reply to good"


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": {"0": {}}},
        {"choices": [{"message": "hello"}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": ["hello"]}}]},
        [1],
    ],
)
def test_a_reply_of_another_form_is_tried_again(http, reply):
    http.faults = {"x": [json.dumps(reply).encode()] * 2}
    (answer,) = ask(Server(settings(http)), ["x"])[1]
    assert (answer.text, answer.num_tries) == ("reply to x", 3)


@pytest.mark.parametrize("count", ["many", -5, None, [1]])
def test_counts_that_are_no_numbers_are_none(http, count):
    message = {"choices": [{"message": {"content": "y"}}], "usage": {"prompt_tokens": count, "completion_tokens": 3}}
    http.faults = {"x": [json.dumps(message).encode()]}
    (answer,) = ask(Server(settings(http)), ["x"])[1]
    assert (answer.text, answer.num_prompt_tokens, answer.num_new_tokens) == ("y", 0, 3)


def test_what_is_sent(http):
    server = Server(settings(http))
    assert server.model == "tiny"  # the only one there
    ask(server, ["x"], temperature=0.5, seed=3)
    (sent,) = http.requests
    assert sent == {
        "messages": [{"role": "user", "content": "x"}],
        "model": "tiny",
        "max_tokens": 5,
        "temperature": 0.5,
        "seed": 3,
    }
    ask(server, ["y"])
    assert http.requests[1]["temperature"] == 0


def test_a_wrong_key_is_told_at_once(http, monkeypatch):
    monkeypatch.setenv("A_KEY", "not-the-key")
    with pytest.raises(SettingsError) as raised:
        Server(settings(http))
    assert "A_KEY" in str(raised.value) and "not-the-key" not in str(raised.value)
    monkeypatch.setenv("A_KEY", KEY)
    server = Server(settings(http, max_concurrent_requests=1))
    http.key = "changed"  # taken back while the work goes on
    with pytest.raises(SettingsError, match="refuses the key"):
        ask(server, ["a", "b", "c"])
    assert sum(http.seen.values()) == 1
    http.key = KEY
    http.faults = {"poor": [429]}
    with pytest.raises(SettingsError, match="refuses the key"):
        ask(server, ["poor", "rich"])
    assert http.seen["poor"] == 1


def test_models_are_looked_up_before_the_first_request(http):
    with pytest.raises(SettingsError, match="no such model") as raised:
        Server(settings(http, server_model="huge"))
    assert "tiny" in str(raised.value)
    http.models = ["tiny", "small"]
    with pytest.raises(SettingsError, match="not clear"):
        Server(settings(http))
    http.shutdown()
    http.server_close()
    with pytest.raises(EnvironmentFailure, match="no server answers"):
        Server(settings(http))


def test_an_answer_of_another_model_says_so(http):
    http.faults = {"x": ["wrong model"]}
    by_key, _ = ask(Server(settings(http)), ["x", "y"])
    assert (by_key["x"].model, by_key["y"].model) == ("another", "tiny")


def test_the_budget_is_kept_and_what_was_paid_for_is_given(http):
    """Each request may cost (9 prompt + 5 new) x 1e6 / 1e6 = 14 at most and costs 15 by the server's count."""
    server = Server(settings(http, input_price=1e6, output_price=1e6, budget=65.0, max_concurrent_requests=2))
    texts = [f"{i:02}" for i in range(20)]
    assert server.estimate([Request(t, [{"role": "user", "content": t}], 5) for t in texts]) == 20 * (8 + 5)
    answers = []
    with pytest.raises(SettingsError, match="budget"):
        server.ask((Request(t, [{"role": "user", "content": t}], 5) for t in texts), answers.append)
    assert len(answers) == sum(http.seen.values()) == 4 and server.spent == 60  # a fifth might cost 13: 73 of 65
    assert all(answer.text for answer in answers)


def test_a_budget_of_fractions_ends_the_asking_too(http):
    """What is set aside for many requests at once adds up to nothing only about, in floating point."""
    server = Server(settings(http, input_price=3.0, output_price=15.0, budget=0.002, max_concurrent_requests=16))
    answers = []
    requests = (Request(i, [{"role": "user", "content": "x" * (i % 37)}], 5) for i in range(1000))
    with pytest.raises(SettingsError, match="budget"):
        server.ask(requests, answers.append)
    assert 5 < len(answers) < 25 and server.spent == pytest.approx(len(answers) * (10 * 3 + 5 * 15) / 1e6)


def test_the_rate_is_kept_and_used(http):
    """20 a second, one second's worth of them at once: 60 requests cannot take less than two seconds."""
    http.delay = 0.05
    _, answers = ask(Server(settings(http, requests_per_minute=1200, max_concurrent_requests=40)), map(str, range(60)))
    assert len(answers) == 60
    assert max(http.times) - min(http.times) > 1.8


def test_requests_are_drawn_as_they_are_sent(http):
    drawn, gaps = 0, []

    def requests():
        nonlocal drawn
        for i in range(200):
            drawn += 1
            yield Request(i, [{"role": "user", "content": str(i)}], 5)

    answers = []

    def on_answer(answer):
        answers.append(answer)
        gaps.append(drawn - len(answers))

    Server(settings(http, max_concurrent_requests=8)).ask(requests(), on_answer)
    assert len(answers) == 200 and max(gaps) <= 8


def test_an_error_of_the_caller_ends_the_asking(http):
    answers = []

    def on_answer(answer):
        answers.append(answer)
        if len(answers) == 10:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        Server(settings(http, max_concurrent_requests=4)).ask(
            (Request(i, [{"role": "user", "content": str(i)}], 5) for i in range(1000)), on_answer
        )
    assert len(answers) <= 14 and sum(http.seen.values()) <= 14


def test_a_model_that_is_served_but_not_listed_is_asked(http):
    http.models, http.unlisted_models = ["other"], ["/models/mine"]
    server = Server(settings(http, server_model="/models/mine"))
    assert server.model == "/models/mine" and ask(server, ["x"])[0]["x"].text == "reply to x"


def test_a_model_that_takes_no_max_tokens_or_temperature_is_asked_in_its_words(http):
    http.refused_fields = ["max_tokens", "temperature"]
    by_key, _ = ask(Server(settings(http, max_retries=0, max_concurrent_requests=3)), [str(i) for i in range(9)])
    assert all(answer.text == f"reply to {key}" for key, answer in by_key.items())
    assert all(set(sent) == {"model", "messages", "max_completion_tokens"} for sent in http.requests)
    assert sum(http.seen.values()) <= 9 + 2 * 3  # it is learnt once, not with each question
    http.refused_fields = ["messages"]
    by_key, _ = ask(Server(settings(http)), ["x"])
    assert by_key["x"].num_tries == 1 and "messages" in by_key["x"].error


def test_further_fields_are_sent_and_are_part_of_what_answers_depend_on(http):
    thinking_off = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": 0.6}
    own = settings(http, extra_body=thinking_off)
    ask(Server(own), ["x"], seed=3)
    (sent,) = http.requests
    assert sent == {
        "messages": [{"role": "user", "content": "x"}],
        "model": "tiny",
        "max_tokens": 5,
        "seed": 3,
        **thinking_off,
    }
    assert own.identity("tiny") == {"model": "tiny", "extra_body": thinking_off}
    assert settings(http).identity("tiny") == {"model": "tiny"}  # as runs of before the setting have it
    assert (
        own.problems() == []
        and "max_tokens, model" in settings(http, extra_body={"model": 1, "max_tokens": 2}).problems()[0]
    )
    (parsed,) = parse("", ServerSettings, argv=["--extra_body", '{"reasoning_effort": "low"}'])
    assert parsed.extra_body == {"reasoning_effort": "low"}
    with pytest.raises(SettingsError, match="extra_body"):
        parse("", ServerSettings, argv=["--extra_body", "low"])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("content", "finish", "text", "said"),
    [
        ("### Answer: A", "stop", "<think>B? No.</think>### Answer: A", "### Answer: A"),
        (None, "length", "<think>B? No.</think>", ""),  # the limit came before the end of the thoughts
        (None, "stop", None, None),
    ],
)
def test_thoughts_that_a_server_gives_apart_are_kept_apart(http, name, content, finish, text, said):
    message = {"role": "assistant", "content": content, name: "B? No."}
    http.faults = {
        "x": [json.dumps({"model": "tiny", "choices": [{"finish_reason": finish, "message": message}]}).encode()]
    }
    (answer,) = ask(Server(settings(http)), ["x"])[1]
    assert (answer.text, answer.hit_limit) == (text, finish == "length")
    assert ("thoughts without" in str(answer.error)) == (text is None)
    assert said is None or without_thoughts(answer.text) == said
