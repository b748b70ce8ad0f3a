"""Write one HTML page about a whole run, and its table of scores with all models side by side.

  python scripts/report.py RUN_DIR [--output FILE]

Reads every run.json under RUN_DIR, whatever state its stage is in. Writes FILE (RUN_DIR/report.html by default), which
needs no network and no other file, RUN_DIR/table.md and RUN_DIR/table.csv. Ends with 5 when a stage had failed items.
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

from dataclasses import dataclass
from pathlib import Path

from configs.settings import parse, setting


@dataclass
class ReportSettings:
    """Settings of scripts/report.py."""

    run_dir: Path = setting(help="folder of the run, with one sub-folder a stage", positional=True)
    output: Path | None = setting(None, "the page; RUN_DIR/report.html by default")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        return [f"output: {self.output} is a folder"] if self.output and self.output.is_dir() else []


def main() -> int:
    (settings,) = parse(__doc__, ReportSettings)
    from scripts.reporting import report

    return report(settings.run_dir, settings.output or settings.run_dir / "report.html")


if __name__ == "__main__":
    run(main)
