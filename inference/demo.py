"""Show one model, or two side by side, in the browser: free questions and multiple choice, answers as they come.

  python inference/demo.py                                        newest fine-tuned model
  python inference/demo.py --model_name_or_path M --compare M2    folders, adapters or hub ids
  python inference/demo.py --model_name_or_path http://127.0.0.1:8000/v1#NAME
  bash scripts/serve.sh M                                         with a server of its own

Prints the page's address, on this machine alone by default, and runs until Ctrl-C. Nothing that visitors type is kept
unless --log_file is given. For research, not for clinical use.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n"
        "  what to do: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.settings import parse, setting

MAX_IN_LINE = 32


@dataclass
class DemoSettings:
    """Settings of inference/demo.py."""

    model_name_or_path: str | None = setting(
        None, "model, adapter, or address of a server (http://HOST:PORT/v1, #NAME after it where it has several models)"
    )
    compare: str | None = setting(None, "a second one, shown beside it")
    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in, without a password")
    port: int = setting(7860, "port to listen at; 0 for any free one")
    prompt_style: Literal["plain", "chat", "published"] | None = setting(
        None, "layout of the prompt; the one that the model was taught by default"
    )
    extra_body: dict[str, Any] = setting({}, "JSON of further fields of requests to servers, as eval.py sends them")
    max_new_tokens: int = setting(512, "limit of an answer")
    repetition_penalty: float = setting(1.0, "on tokens that the answer has already; 1 for plain greedy")
    max_question_characters: int = setting(4000, "limit of a question with its options")
    max_seconds: int = setting(120, "limit of an answer's time")
    max_answers_at_once: int = setting(1, "questions that the models work on together")
    max_waiting: int = setting(20, "questions that may wait for these; further visitors are told to come back")
    max_questions_per_minute: int = setting(10, "limit of one address")
    log_file: Path | None = setting(None, "JSON lines of questions and answers; the page says that it records")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        positive = ("max_new_tokens", "max_question_characters", "max_seconds", "max_answers_at_once")
        positive += ("max_questions_per_minute",)
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in positive if getattr(self, name) < 1]
        # Each holds one of the 40 handlers that gradio runs at once; the page needs some for itself.
        fits = self.max_waiting >= 0 and self.max_waiting + self.max_answers_at_once <= MAX_IN_LINE
        found += [] if fits else [f"max_waiting {self.max_waiting}: wanted 0 or more, {MAX_IN_LINE} with those at work"]
        found += [] if 0 <= self.port < 65536 else [f"port {self.port}: wanted 0 to 65535"]
        wrong_penalty = f"repetition_penalty {self.repetition_penalty}: wanted above 0"
        return found + ([] if self.repetition_penalty > 0 else [wrong_penalty])


def main() -> None:
    (settings,) = parse(__doc__, DemoSettings)
    from inference.visitors.demo_serving import serve

    serve(settings)


if __name__ == "__main__":
    run(main)
