"""Merge a LoRA adapter into its base model: a whole model that answers as the two do together, checked.

  python finetune/merge.py --input runs/finetune/NAME --output_dir models/NAME
  python finetune/merge.py --input runs/finetune/NAME/checkpoint-200 --output_dir DIR

The prompt's record and the run record of the adapter go with it.
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
class MergeSettings:
    """Settings of finetune/merge.py."""

    input: Path = setting(help="folder of an adapter, or of a checkpoint with one")
    output_dir: Path = setting(help="folder of the merged model")
    dtype: Literal["base", "float32", "bfloat16", "float16"] = setting(
        "base", "precision of the saved weights; that of the base model by default"
    )


def main() -> int:
    (settings,) = parse(__doc__, MergeSettings)
    from finetune.merging import merge

    return merge(settings)


if __name__ == "__main__":
    run(main)
