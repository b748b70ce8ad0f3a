"""scripts/serve.sh: a real server and the page in front of it, begun together and ended together."""

import contextlib
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A template in the simplest form: the server renders its questions by it.
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Serving:
    """One run of serve.sh; what it starts bears a mark in its environment, by which it is found again."""

    def __init__(self, folder, env, port, *words):
        self.port = port
        self.mark, self.log = f"SERVE_TEST={uuid.uuid4().hex}", folder / "log"
        name, _, value = self.mark.partition("=")
        path = f"{Path(sys.executable).parent}:{env['PATH']}"
        env = {**env, name: value, "SERVER_PORT": str(self.port), "PATH": path}
        with open(self.log, "wb") as log:
            # A shell that was started in the background ignores Ctrl-C, and so would all that it starts.
            restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
            self.process = subprocess.Popen(
                ["bash", "scripts/serve.sh", *map(str, words)],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=restore,
            )

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def left(self):
        """The processes that are still there, by their commands."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return [command for command in found if command]  # a zombie has none

    def wait_for(self, text, seconds=180):
        end = time.monotonic() + seconds
        while text not in self.said():
            assert self.process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.1)


@pytest.fixture
def serve(tmp_path, script_env):
    started = []

    def start(*words, port=None):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Serving(folder, script_env, port or free_port(), *words))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.terminate()
            serving.process.wait(30)


def test_what_cannot_be_served_is_said(serve, tmp_path, tiny_model):
    adapted = tmp_path / "adapter"
    adapted.mkdir()
    (adapted / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_model)}))
    nothing, unknown, adapter = serve(), serve("models/not-there"), serve(adapted)
    assert nothing.process.wait(60) == 2 and "bash scripts/serve.sh MODEL" in nothing.said()
    assert unknown.process.wait(60) == 3 and "there is no model" in unknown.said()
    assert nothing.left() == unknown.left() == []
    if not shutil.which("vllm"):
        assert adapter.process.wait(60) == 2 and "python finetune/merge.py --input" in adapter.said()
        assert adapter.left() == []


def test_a_port_that_is_taken_is_said(serve, tiny_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving = serve(tiny_model, port=taken.getsockname()[1])
        assert serving.process.wait(60) == 4
    assert "the port of the server is taken" in serving.said() and serving.left() == []


def test_a_signal_while_the_server_loads_leaves_nothing(serve, tiny_model):
    serving = serve(tiny_model)
    serving.wait_for("transformers serve")
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(30) == 130 and serving.left() == []


@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not installed")
def test_the_page_asks_the_server_and_both_end_together(serve, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    serving = serve(model, "--port", "0", "--max_new_tokens", 4)
    serving.wait_for("\nhttp://127.0.0.1:")
    address = next(line for line in serving.said().splitlines() if line.startswith("http://127.0.0.1:"))
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"/model" in page.read()
    assert any("transformers" in command for command in serving.left())
    assert any("inference/demo.py" in command for command in serving.left())
    serving.process.terminate()
    assert serving.process.wait(30) == 143 and serving.left() == []
    for port in (serving.port, int(address.rsplit(":", 1)[1])):
        with socket.socket() as free:
            assert free.connect_ex(("127.0.0.1", port)) != 0
    assert "Traceback" not in serving.said()
