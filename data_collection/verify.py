"""Have people check rationales in a local web page, and write what they found.

    python data_collection/verify.py --input data/mmedbench --output_dir DIR
    python data_collection/verify.py --input data/mmedbench --output_dir DIR --export CHECKED

The first prints a link; who opens it gives a name and marks, one question at a time, whether the rationale is right,
fits the answer, is complete and is in the language. DIR keeps the marks (marks.sqlite), the key of the link and
run.json; Ctrl-C ends it and the same command goes on. The second writes to CHECKED: Train/ and Test/LANGUAGE.jsonl with
human_checked and human_check_passed, agreement.json and .md (kappas), marks.jsonl (without names) and run.json.
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
from typing import Literal

from configs.settings import parse, setting


@dataclass
class VerifySettings:
    """Settings of data_collection/verify.py."""

    input: Path = setting(help="folder of questions in MMedBench's layout")
    output_dir: Path = setting(help="folder of the marks")
    export: Path | None = setting(None, "folder of the checked questions: write it and end, without a page")
    split: Literal["Train", "Test"] = setting("Test", "which questions are checked")
    languages: list[str] | None = setting(None, "codes of the languages; all that are there by default")
    number: int | None = setting(None, "rationales to check in each language, drawn by hash; all by default")
    overlap: float = setting(0.1, "share of them that every checker of the language gets, not knowing which")
    host: str = setting("127.0.0.1", "address that the page is served at; 0.0.0.0 is every address of this machine")
    port: int = setting(8765, "port; 0 takes a free one")
    hosts: list[str] = setting([], "further names or addresses under which browsers reach this machine")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if 0 <= self.overlap <= 1 else [f"overlap {self.overlap}: wanted 0 to 1"]
        if self.number is not None and self.number < 1:
            found.append(f"number {self.number}: wanted 1 or more")
        if not 0 <= self.port < 65536:
            found.append(f"port {self.port}: wanted 0 to 65535")
        if self.host in ("", "0.0.0.0", "::") and not self.hosts:  # noqa: S104 (looked for, not bound)
            found.append(f"host {self.host!r}: wanted with --hosts NAME, the name that browsers will use")
        return found


def main() -> int:
    (settings,) = parse(__doc__, VerifySettings)
    from data_collection.checking.verification import verify

    return verify(settings)


if __name__ == "__main__":
    run(main)
