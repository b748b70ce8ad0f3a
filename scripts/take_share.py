"""Take a stated share of a set of everything (documents/, mmedbench/, pdf/pages/), in the same layout.

  python scripts/take_share.py --data ../shared/data --share 0.02 --output_dir runs/share

Of each file the lines with the smallest hashes are taken, so a larger share holds every smaller one; of each folder of
PDFs the files with the smallest hashes of their names. At least one of each, always.
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

from configs.progress import log
from configs.settings import parse, setting
from scripts import sharing


@dataclass
class ShareSettings:
    """Settings of scripts/take_share.py."""

    data: Path = setting(help="folder with documents/, mmedbench/ or pdf/pages/")
    output_dir: Path = setting(help="folder for the share")
    share: float = setting(help="above 0, at most 1")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if 0 < self.share <= 1 else [f"share {self.share}: wanted above 0, at most 1"]
        if self.output_dir.resolve() == self.data.resolve():
            found.append(
                f"output_dir {self.output_dir}: wanted another folder than data, which the share would go over"
            )
        return found


def main() -> int:
    (settings,) = parse(__doc__, ShareSettings)
    counts = sharing.take_share(settings.data, settings.share, settings.output_dir)
    log.info(f"{settings.share:.2%} of {settings.data}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    print(settings.output_dir)
    return 0


if __name__ == "__main__":
    run(main)
