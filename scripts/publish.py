"""Write the card of a model or a data set, show what would be uploaded to the hub, and with --upload do it.

  python scripts/publish.py runs/demo/finetune --repo ORGANISATION/NAME --base_model ORGANISATION/BASE
  python scripts/publish.py runs/corpus --repo ORGANISATION/NAME --licence cc-by-4.0 --upload

DIR is the output folder of a training, a merge, a step of the corpus, a rewriting or a set of questions. The card,
DIR/README.md, is made from the records of the run and of all before it; a card edited by hand is kept. Without --upload
nothing leaves this machine. A new repository is private until its owner makes it public. The token is the hub's own:
HF_TOKEN in the environment, or `hf auth login`.
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
class PublishSettings:
    """Settings of scripts/publish.py."""

    folder: Path = setting(help="what to publish: the output folder of a run", positional=True)
    repo: str = setting(help="where to: ORGANISATION/NAME on the hub")
    licence: str | None = setting(
        None, "the hub's name of the licence; that of the base model or of the data by default"
    )
    base_model: str | None = setting(
        None, "hub id of the model it was trained from, where the records name only a folder"
    )
    evaluations: list[Path] = setting(
        [], "evaluations for the card; by default those under DIR/.. and runs/ of this model"
    )
    private: bool = setting(True, "make a new repository private")
    upload: bool = setting(False, "upload; without it the card is written and the files are shown")


def main() -> int:
    (settings,) = parse(__doc__, PublishSettings)
    from scripts.publishing import publish

    return publish(settings)


if __name__ == "__main__":
    run(main)
