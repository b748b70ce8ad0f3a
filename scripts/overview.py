"""Draw assets/overview.svg, the pipeline as it is: stages, their commands, and the files that pass between them.

  python scripts/overview.py [--output FILE]

Commands are read from the tree, so the picture is drawn again when one is added; a test holds it to that.
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

from configs.files import REPOSITORY, atomic_open
from configs.settings import parse, setting
from scripts.pipeline_picture import PICTURE, draw


@dataclass
class OverviewSettings:
    """Settings of scripts/overview.py."""

    output: Path = setting(REPOSITORY / PICTURE, "the picture")


def main() -> int:
    (settings,) = parse(__doc__, OverviewSettings)
    with atomic_open(settings.output) as file:
        file.write(draw(REPOSITORY))
    print(settings.output)
    return 0


if __name__ == "__main__":
    run(main)
