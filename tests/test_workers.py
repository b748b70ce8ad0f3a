"""Several processes that answer: the answers of one, whoever dies; nothing runs on after its parent."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from configs.errors import EnvironmentFailure
from data_collection.questions.question import Question
from inference.workers import Workers

ROOT = Path(__file__).parents[1]
# The processes of an Adder import this file: what imports torch is imported where it is used.


class Adder:
    """What a worker makes; one of them dies on a task of its name."""

    def __init__(self, base: int, number: int):
        self.base, self.number = base, number

    def add(self, tell, value):
        tell(value)
        return self.base + value, self.number

    def wait(self, tell, folder):
        while not (Path(folder) / "go").exists():
            time.sleep(0.01)
        (Path(folder) / "gone").touch()
        return "late"

    def die(self, tell, how):
        if how == "error":
            raise ValueError("no such thing")
        os.kill(os.getpid(), signal.SIGKILL)


def test_every_task_is_done_once_and_results_bear_their_tasks_numbers():
    workers, told = Workers(partial(Adder, 100), 2), []
    found = dict(workers.do([("add", (value,)) for value in range(50)], told.append))
    assert {number: value for number, (value, _) in found.items()} == {n: 100 + n for n in range(50)}
    assert sorted(told) == list(range(50))
    assert dict(workers.do([], told.append)) == {}
    assert [value for _, (value, _) in workers.do([("add", (7,))], told.append)] == [107]  # the processes stay
    workers.close()


@pytest.mark.parametrize(("how", "found"), [("error", "ValueError: no such thing"), ("kill", "killed by signal 9")])
def test_a_process_that_dies_is_said(how, found):
    workers = Workers(partial(Adder, 0), 2)
    with pytest.raises(EnvironmentFailure) as failure:
        list(workers.do([("add", (1,)), ("die", (how,)), *[("add", (2,))] * 3], lambda at: None))
    assert found in failure.value.render()
    workers.close()


def test_what_others_were_at_when_one_died_is_no_result_of_later_tasks(tmp_path):
    workers = Workers(partial(Adder, 0), 2)
    with pytest.raises(EnvironmentFailure):
        list(workers.do([("wait", (tmp_path,)), ("die", ("kill",))], lambda at: None))
    (tmp_path / "go").touch()
    end = time.monotonic() + 0.5  # what the first is at, should it still be there, comes before the tasks below
    while not (tmp_path / "gone").exists() and time.monotonic() < end:
        time.sleep(0.01)
    found = dict(workers.do([("add", (value,)) for value in (5, 6)], lambda at: None))
    assert {number: value for number, (value, _) in found.items()} == {0: 5, 1: 6}
    workers.close()


def test_no_process_outlives_a_killed_parent():
    program = (
        "import sys, time; sys.path.insert(0, 'tests')\n"
        "from functools import partial\nfrom test_workers import Adder\nfrom inference.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    workers = Workers(partial(Adder, 0), 2)\n"
        "    list(workers.do([('add', (1,))] * 2, lambda at: None))\n"
        "    print(*[process.pid for process in workers._processes.values()], flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


QUESTIONS = [
    Question(
        f"q{n}", "en", f"What is {'very ' * (n * n)}odd about the number {n}?", {"A": "Yes", "B": "No"}, ("A",), "R"
    )
    for n in range(7)
]


def answers(engine, skip: frozenset[int] = frozenset()) -> tuple[dict, dict]:
    """By question: the text written, and the log-likelihoods of the options' texts."""
    from inference.engines import Asking

    written, scored, told = {}, {}, []

    def on_answers(got):
        written.update({answer.index: answer.text for answer in got})

    def on_scores(got):
        scored.update({scores.index: scores.log_likelihoods for scores in got})

    engine.ask(QUESTIONS, Asking("with_rationale", 6, 1.3), skip, on_answers, told.append)
    engine.score_options(QUESTIONS, "cloze", {}, skip, on_scores)
    assert told
    return written, scored


def test_two_processes_answer_as_one_does(tiny_model):
    from inference.engines import LocalEngine

    one = answers(LocalEngine(str(tiny_model), 2, None, "float32"))
    engine = LocalEngine(str(tiny_model), 2, None, "float32", 2)
    two, rest = answers(engine), answers(engine, frozenset({0, 3}))
    assert len(engine._workers._processes) == 2
    engine.close()
    assert two[0] == one[0]
    for index, of in one[1].items():
        assert two[1][index] == pytest.approx(of, rel=1e-5)
    assert rest[0] == {index: text for index, text in one[0].items() if index not in (0, 3)}
    assert engine._model is None  # the process that writes needs no GPU
