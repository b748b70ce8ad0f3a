"""Have a language-model server write the rationale of each question, and check what it writes.

    python data_collection/rationales.py --input data/mmedbench --output_dir DIR --server_url http://127.0.0.1:8000/v1

Any OpenAI-compatible server; the key comes from the environment. Writes Train/ and Test/LANGUAGE.jsonl with the
rationales that passed, attempts.jsonl (every answer of the server and what was found wrong with it; the same command
goes on from there), failures.jsonl (questions without a good rationale) and run.json.
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

from configs.settings import parse, setting
from data_collection.llm.server_settings import ServerSettings


@dataclass
class RationaleSettings:
    """Settings of data_collection/rationales.py, beside those of the server."""

    input: Path = setting(help="folder of questions in MMedBench's layout")
    output_dir: Path = setting(help="folder of the questions with rationales")
    languages: list[str] | None = setting(None, "codes of the languages; all that are there by default")
    max_new_tokens: int = setting(1024, "limit of a rationale; one that was cut is asked for again")
    max_attempts: int = setting(3, "rationales asked for before a question is given up")
    replace: bool = setting(False, "ask for questions that have a rationale too")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("max_new_tokens", "max_attempts")
        return [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]


def main() -> int:
    settings, server = parse(__doc__, RationaleSettings, ServerSettings)
    from data_collection.llm.explaining import write_rationales

    return write_rationales(settings, server)


if __name__ == "__main__":
    run(main)
