"""Turn a checkpoint of InternLM 1 or 2 into the Llama layout, one of Qwen 1 into Qwen 2's: no remote code is run.

python pretrain/convert.py --input FOLDER --output_dir models/internlm2-7b

The same command goes on where an interrupted one ended, or says "already done".
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


@dataclass
class ConvertSettings:
    """Settings of pretrain/convert.py."""

    input: Path = setting(help="folder of the original model: config.json, weights, tokenizer")
    output_dir: Path = setting(help="folder for the converted model")
    allow_pickle: bool = setting(
        False, "read pytorch_model*.bin where there are no safetensors (torch.load with weights_only)"
    )


def main() -> int:
    (settings,) = parse(__doc__, ConvertSettings)
    from pretrain.converters.converting import convert

    convert(settings)
    print(settings.output_dir)
    return 0


if __name__ == "__main__":
    run(main)
