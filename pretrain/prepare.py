"""Turn documents into token blocks: every document's tokens stored once, packed without cutting what fits in a block.

python pretrain/prepare.py --input runs/filter/en runs/filter/fr --output_dir runs/blocks --model_name_or_path MODEL
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

from dataclasses import asdict, dataclass
from pathlib import Path

from configs import records
from configs.errors import FailedItems
from configs.progress import log
from configs.settings import parse, setting


@dataclass
class PrepareSettings:
    """Settings of pretrain/prepare.py."""

    input: list[str] = setting(help="folders or files of documents")
    output_dir: Path = setting(help="folder for the token blocks")
    model_name_or_path: str | None = setting(None, "model whose tokenizer is used; the demo model by default")
    lang: str | None = setting(None, "language of documents that state none, such as .txt files")
    block_size: int = setting(2048, "tokens a block")
    validation_share: float = setting(0.01, "share of each language's documents held out, by their hash")
    max_validation_tokens: int = setting(200_000, "at most so many held-out tokens a language")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if self.block_size >= 16 else [f"block_size {self.block_size}: wanted 16 or more"]
        if not 0 <= self.validation_share < 1:
            found.append(f"validation_share {self.validation_share}: wanted 0 to 1")
        return found


def main() -> int:
    (settings,) = parse(__doc__, PrepareSettings)
    from data_collection.documents import find_shards
    from pretrain.models import find_model, load_tokenizer
    from pretrain.tokenizing import check_tokenizer, prepare_blocks, tokenizer_hash

    shards = find_shards(settings.input)
    model = find_model(settings.model_name_or_path)
    tokenizer = load_tokenizer(model)
    check_tokenizer(tokenizer, model)
    values = {name: value for name, value in asdict(settings).items() if name not in ("input", "output_dir")}
    identity = {
        **values,
        "model_name_or_path": tokenizer_hash(tokenizer),
        "input": [shard.identity() for shard in shards],
    }
    done = records.already_done(settings.output_dir, identity)
    if done and (settings.output_dir / "index.json").is_file():
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    failed = FailedItems()
    with records.run_record(settings.output_dir, "prepare", asdict(settings), identity) as record:
        index = prepare_blocks(shards, settings.output_dir, tokenizer, settings, failed)
        failed.write(settings.output_dir / "failures.jsonl")
        result = {name: index[name] for name in ("num_tokens", "num_tokens_by_language", "splits", "block_size")}
        record.finish("finished", len(failed), model_name_or_path=model, **result)
    print(settings.output_dir)
    return failed.exit_code


if __name__ == "__main__":
    run(main)
