"""The client for servers under load: time against what the rate limit allows, and memory by the number of questions.

    python scripts/bench/bench_servers.py --output_dir runs/bench-servers

rationales.py, as users start it, asks a server on this machine that answers after 50 ms. The time counts from the first
request to the last answer, as the server sees them; the limit allows number / rate. Memory is the process's highest.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import asyncio
import json
import multiprocessing
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.files import REPOSITORY, write_json
from configs.progress import log
from configs.settings import parse, setting

RATIONALE = (
    "Question {number} of this test has one right answer, since its options were made so: the first is what was asked "
    "for, and the others are there only to be refused.\n\n### Answer: A"
)


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the questions, the rationales and results.json")
    numbers: list[int] = setting([1000, 10000], help="questions of each run")
    requests_per_minute: float = setting(6000.0, help="the rate limit given to the client")
    max_concurrent_requests: int = setting(32, help="requests in flight at once")
    delay: float = setting(0.05, help="seconds that the server takes for an answer")

    def problems(self) -> list[str]:
        return [f"numbers wants 1 or more, found {number}" for number in self.numbers if number < 1]


def serve(delay: float, pipe: Any) -> None:
    """An OpenAI-compatible server in a process of its own; sends its port, and the time of each request and answer at
    the end. Written on bare sockets, so that it takes less of the machine than the client that is measured."""
    asked: list[float] = []
    answered: list[float] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if head.startswith(b"get"):
                    reply: dict[str, Any] = {"object": "list", "data": [{"id": "stub"}]}
                else:
                    asked.append(time.monotonic())
                    content = json.loads(body)["messages"][0]["content"]
                    await asyncio.sleep(delay)
                    text = RATIONALE.format(number=content.split()[1])
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
                    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "usage": usage}
                    reply["choices"] = [choice]
                    answered.append(time.monotonic())
                data = json.dumps(reply).encode()
                header = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                writer.write(header % len(data) + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(main())
    pipe.send((asked, answered))


def write_questions(folder: Path, number: int) -> None:
    """So many questions of about two hundred characters, with numbers of their own."""
    (folder / "Train").mkdir(parents=True, exist_ok=True)
    with open(folder / "Train" / "English.jsonl", "w", encoding="utf-8") as file:
        for index in range(number):
            question = f"Question {index} of a test: which of these options is the one that was asked for here?"
            options = {"A": f"That of place {index}", "B": "Another one", "C": "A third one", "D": "None of the others"}
            file.write(json.dumps({"question": question, "options": options, "answer_idx": "A"}) + "\n")


def measure(settings: BenchSettings, number: int) -> dict[str, Any]:
    """One run of rationales.py over so many questions."""
    folder = settings.output_dir / f"{number}-at-{time.time():.0f}"
    write_questions(folder / "questions", number)
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(settings.delay, there), daemon=True)
    server.start()
    command = [sys.executable, REPOSITORY / "data_collection" / "rationales.py", "--input", folder / "questions"]
    command += ["--output_dir", folder / "rationales", "--server_url", f"http://127.0.0.1:{here.recv()}/v1"]
    command += ["--requests_per_minute", str(settings.requests_per_minute)]
    command += ["--max_concurrent_requests", str(settings.max_concurrent_requests)]
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    here.send("over")
    asked, answered = here.recv()
    server.join()
    assert status == 0 and len(asked) == len(answered) == number, (status, len(asked))
    allowed = number / settings.requests_per_minute * 60
    asking = max(answered) - min(asked)
    return {
        "questions": number,
        "allowed_seconds": round(allowed, 1),
        "asking_seconds": round(asking, 1),
        "ratio": round(asking / allowed, 3),
        "whole_command_seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "cpu_ms_a_question": round((usage.ru_utime + usage.ru_stime) / number * 1000, 2),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> int:
    settings = parse(__doc__, BenchSettings)[0]
    results = []
    for number in settings.numbers:
        results.append(measure(settings, number))
        log.info(json.dumps(results[-1]))
        write_json(settings.output_dir / "results.json", results)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run(main)
