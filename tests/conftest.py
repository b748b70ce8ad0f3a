"""Fixtures for every test file: a real Slurm (scripts/local_slurm.sh), a real server, a browser, a tiny model."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Two clusters at once would give two jobs one id, from which the nodes' port follows: these files share a worker.
OF_SLURM = {"test_chain", "test_jobs", "test_local_slurm", "test_preemption", "test_rewriting"}
LOCAL_SLURM = Path(__file__).parents[1] / "scripts" / "local_slurm.sh"
NODES = 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out whole files between pytest-xdist's workers, those of `OF_SLURM` to one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "slurm" if Path(file).stem in OF_SLURM else file

    return Scheduling(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Hold `OF_SLURM` to the files that use a Slurm."""
    uses = "new_slurm" in getattr(item, "fixturenames", ())
    assert not uses or item.path.stem in OF_SLURM, f"{item.path.name} uses a Slurm: add it to OF_SLURM"


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below those that the kernel gives to clients."""
    for first in random.sample(range(20_000, 30_000, count), 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError(f"no {count} consecutive free ports between 20000 and 30000")


@pytest.fixture(scope="session")
def new_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, str]]]:
    """Makes the environment of one more cluster, in a folder and with ports of its own; whoever asks starts it."""
    lack = pytest.fail if os.environ.get("CI") else pytest.skip  # in CI the tests of Slurm must run
    if os.geteuid() != 0:
        lack("a local Slurm needs root")
    if not shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin"):
        lack("slurmctld is missing: apt-get install slurmctld slurmd slurm-client munge")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN", "LOCAL_SLURM"))}
    made = []

    def new() -> dict[str, str]:
        folder = tmp_path_factory.mktemp("slurm")
        made.append(
            inherited
            | {"LOCAL_SLURM_DIR": str(folder), "LOCAL_SLURM_PORT": str(free_ports(NODES + 1))}
            | {"LOCAL_SLURM_NODES": str(NODES), "SLURM_CONF": str(folder / "slurm.conf")}
        )
        return dict(made[-1])

    yield new
    for env in made:
        subprocess.run([LOCAL_SLURM, "stop"], env=env, check=True, timeout=60)


@pytest.fixture(scope="session")
def slurm(new_slurm: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The environment in which sbatch, srun and scontrol speak to a running cluster: 2 nodes, 64 CPUs, 8 GPUs each."""
    env = new_slurm()
    started = subprocess.run([LOCAL_SLURM, "start"], env=env, capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr
    return env


@pytest.fixture(scope="session")
def script_env() -> dict[str, str]:
    """The environment in which tests start the entry scripts: no hub, no GPU, no Slurm, nothing a launcher left."""
    ours = (
        "SLURM",
        "RANK",
        "WORLD_SIZE",
        "NUM_PROCESSES",
        "STOP_FILE",
        "LOG_FILE",
        "EXIT_CODE_FILE",
        "PYTHON",
        "TENSORBOARD",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of two layers and of a byte-level tokenizer, with a start token, made on the sample."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<start>", "<end>"], initial_alphabet=alphabet)
    sample = LOCAL_SLURM.parents[1] / "assets" / "sample" / "mmedbench" / "Train"
    tokenizer.train([str(path) for path in sorted(sample.glob("*.jsonl"))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    folder = tmp_path_factory.mktemp("tiny")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; of a module, since its event loop would be in the way of others'."""
    lack = pytest.fail if os.environ.get("CI") else pytest.skip  # in CI the pages must be looked at
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        lack("chromium is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class ChatHandler(BaseHTTPRequestHandler):
    """Answers `server.reply(request)` to a request, after the faults that `server.faults[its last message]` lists."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, body, content_type="application/json", length=None, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def refuses(self):
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.send(401, b'{"error": {"message": "Incorrect API key provided"}}')
            return True
        return False

    def do_GET(self):
        if not self.refuses():
            self.send(200, json.dumps({"object": "list", "data": [{"id": m} for m in self.server.models]}).encode())

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen[text] += 1
            self.server.times.append(time.monotonic())
            refused = next((name for name in request if name in self.server.refused_fields), None)
            fault = self.server.faults.get(text, [])
            fault = fault.pop(0) if fault else None
        if self.refuses():
            return
        if refused:
            error = {
                "message": f"Unsupported parameter: '{refused}'",
                "param": refused,
                "code": "unsupported_parameter",
            }
            self.send(400, json.dumps({"error": error}).encode())
            return
        if request["model"] not in self.server.models + self.server.unlisted_models:
            self.send(404, b'{"error": {"message": "The model does not exist"}}')
            return
        time.sleep(self.server.delay)
        self.server.requests.append(request)
        content = None if fault == "no text" else self.server.reply(request)
        good = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "another" if fault == "wrong model" else request["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": self.server.finish_reason,
                    "message": {"role": "assistant", "content": content},
                }
                if fault != "no text"
                else {"index": 0, "finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        body = json.dumps(good).encode()
        if isinstance(fault, int):
            headers = [("Retry-After", "0")] if fault == 429 else []
            code = {"error": {"message": f"fault {fault}", "code": "insufficient_quota" if text == "poor" else None}}
            self.send(fault, json.dumps(code).encode(), headers=headers)
        elif fault == "nothing":
            self.close_connection = True
        elif fault == "half":
            self.send(200, body[: len(body) // 2], length=len(body))
            self.close_connection = True
        elif fault == "half json":
            self.send(200, body[: len(body) // 2])
        elif fault == "html":
            self.send(200, b"<html><body>gateway</body></html>", "text/html")
        elif fault == "empty":
            self.send(200, b"{}")
        elif isinstance(fault, bytes):
            self.send(200, fault)
        elif fault == "hang":
            self.server.over.wait(60)
            self.close_connection = True
        else:
            self.send(200, body)


class ChatServer(ThreadingHTTPServer):
    """A queue that takes all the connections of a client at once: past five, the default, Linux resets some of them."""

    daemon_threads, request_queue_size = True, 128


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """An OpenAI-compatible server on loopback that misbehaves as it is told; its key is in A_KEY."""
    from data_collection.llm import servers

    monkeypatch.setattr(servers, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("A_KEY", "the-key")
    server = ChatServer(("127.0.0.1", 0), ChatHandler)
    server.lock, server.seen, server.times, server.requests = threading.Lock(), Counter(), [], []
    server.faults, server.models, server.key, server.delay = {}, ["tiny"], "the-key", 0.0
    server.reply = lambda request: f"reply to {request['messages'][-1]['content']}"
    server.finish_reason, server.unlisted_models, server.refused_fields = "length", [], []
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


DEMO_MODEL = LOCAL_SLURM.parents[1] / "models" / "smollm2-135m"


class RealServer(NamedTuple):
    """A server that is no stub: its address, and the name that its model has there."""

    url: str
    model: str


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """`transformers serve` with the demo model on loopback: slow (15 tokens a second) and real."""
    if not (DEMO_MODEL / "model.safetensors").is_file():
        pytest.skip("the demo model is missing: python scripts/download.py smollm2-135m")
    program = Path(sys.executable).parent / "transformers"
    folder, port = tmp_path_factory.mktemp("serve"), free_ports(1)
    (folder / "hub").mkdir()  # without one it lists its models by an internal error
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    command = [program, "serve", DEMO_MODEL, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        else:
            pytest.skip(f"transformers serve does not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
        yield RealServer(f"http://127.0.0.1:{port}/v1", str(DEMO_MODEL))
    finally:
        process.terminate()
        process.wait(30)
