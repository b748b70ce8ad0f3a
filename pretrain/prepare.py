"""Turn documents into token blocks: every document's tokens stored once, packed without cutting what fits in a block.

python pretrain/prepare.py --input runs/corpus --output_dir runs/blocks --model_name_or_path MODEL
python pretrain/prepare.py --input runs/corpus general=runs/wikipedia --shares general=0.1 --output_dir runs/blocks

Documents of an input given as NAME=FOLDER have the source NAME, others the one that they state. --overlap 512 cuts long
documents into the windows that MMedLM was pretrained on. Killed at any moment, the same command goes on from there; a
Slurm array (sbatch --array=0-7 pretrain/run.sh prepare ...) shares the files out.
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
from configs.errors import ExitCode, FailedItems
from configs.files import atomic_open, read_json
from configs.progress import log
from configs.settings import parse, setting

_NO_IDENTITY = ("input", "output_dir", "model_name_or_path", "num_processes")  # what the output does not depend on


@dataclass
class PrepareSettings:
    """Settings of pretrain/prepare.py."""

    input: list[str] = setting(help="folders or files of documents; NAME=FOLDER gives them the source NAME")
    output_dir: Path = setting(help="folder for the token blocks")
    model_name_or_path: str | None = setting(None, "model whose tokenizer is used; the demo model by default")
    lang: str | None = setting(None, "language of documents that state none, such as .txt files")
    block_size: int = setting(2048, "tokens a block")
    overlap: int = setting(0, "tokens that the windows of a long document share; no loss on them twice")
    validation_share: float = setting(0.01, "share of each language's documents held out, by their hash")
    max_validation_tokens: int = setting(200_000, "at most so many held-out tokens a language")
    epochs: list[str] = setting([], "passes over sources, such as textbooks=2 web=0.5; 1 where not named")
    shares: list[str] = setting([], "shares of sources in the training tokens, such as general=0.1")
    language_temperature: float = setting(1.0, "languages by tokens ^ (1 / T): 1 as they are, above it more alike")
    num_processes: int | None = setting(None, "shards tokenized at once; by default the CPUs allocated")

    def named_inputs(self) -> list[tuple[str | None, str]]:
        """(source, path) of each input; a path that exists as it is written has no name."""
        split = [(None, word) if Path(word).exists() else word.rpartition("=")[::2] for word in self.input]
        return [(name or None, path) for name, path in split]

    @property
    def mixture(self):
        """`epochs`, `shares` and `language_temperature` as what they mean."""
        from pretrain.token_blocks.mixing import Mixture, read_pairs

        epochs, shares = (read_pairs(words, "")[0] for words in (self.epochs, self.shares))
        return Mixture(epochs, shares, self.language_temperature)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        from pretrain.token_blocks.mixing import read_pairs

        found = [] if self.block_size >= 16 else [f"block_size {self.block_size}: wanted 16 or more"]
        if not 0 <= self.overlap < self.block_size:
            found.append(f"overlap {self.overlap}: wanted 0 to less than block_size, {self.block_size}")
        if not 0 <= self.validation_share < 1:
            found.append(f"validation_share {self.validation_share}: wanted 0 to 1")
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes {self.num_processes}: wanted 1 or more")
        for name, path in self.named_inputs():
            if name and path.lower().endswith(".txt"):
                found.append(f"input {name}={path}: name a folder; .txt files are read many at a time")
        for name in ("epochs", "shares"):
            found += read_pairs(getattr(self, name), name)[1]
        return found + self.mixture.problems()


def main() -> int:
    (settings,) = parse(__doc__, PrepareSettings)
    from data_collection.corpus.documents import find_shards
    from data_collection.corpus.jobs import do_shards
    from data_collection.corpus.work import array_task, num_allocated_cpus, remove_half_written
    from pretrain.models import find_model, load_tokenizer
    from pretrain.token_blocks.block_files import INDEX
    from pretrain.token_blocks.indexing import Corpus, write_blocks
    from pretrain.token_blocks.tokenizing import MAX_THREADS, text_encoder, tokenize_job

    inputs, output_dir = settings.named_inputs(), settings.output_dir
    shards = find_shards([path for _, path in inputs])
    model = find_model(settings.model_name_or_path)
    encoder, definition = text_encoder(load_tokenizer(model), model, output_dir / "tokenizer.json")
    num_processes = min(settings.num_processes or num_allocated_cpus(), len(shards))
    num_threads = min(MAX_THREADS, max(1, num_allocated_cpus() // num_processes))
    named = [(path, name) for name, path in inputs if name]
    job = tokenize_job(output_dir, encoder, settings.lang, named, num_threads)
    values = {name: value for name, value in asdict(settings).items() if name not in _NO_IDENTITY}
    identity = {**values, **job.rules, "input": [shard.identity() for shard in shards]}
    done = records.already_done(output_dir, identity)
    if done and (output_dir / INDEX).is_file():
        log.info(f"already done: {output_dir}")
        return records.exit_code(done)

    with atomic_open(encoder.definition) as file:
        file.write(definition)
    index, count = array_task()
    largest_first = sorted(shards, key=lambda shard: -shard.identity()["num_bytes"])
    if count > 1:
        do_shards(job, largest_first[index::count], num_processes)
        if not all(job.is_done(shard) for shard in shards):
            log.info("this task's share is done; the task that ends last packs the blocks")
            return ExitCode.DONE
    failed = FailedItems()
    with records.run_record(output_dir, "prepare", asdict(settings), identity) as record:
        do_shards(job, largest_first, num_processes)
        markers = {shard.name: read_json(job.marker_path(shard)) for shard in shards}
        failed.items = [item for marker in markers.values() for item in marker["failed"]]
        failed.write(output_dir / "failures.jsonl")
        try:
            content = write_blocks(Corpus(output_dir, markers), encoder, model, settings)
        except FileNotFoundError:  # another task packed too, ended first, and took ours for a killed one's leftovers
            if not (output_dir / INDEX).is_file():
                raise
            content = read_json(output_dir / INDEX)
        remove_half_written(
            [output_dir / name for name in content["files"]] + [job.marker_path(shard) for shard in shards]
        )
        result = {name: content[name] for name in ("num_tokens", "num_tokens_by_language", "splits", "block_size")}
        record.finish("finished", len(failed), model_name_or_path=model, **result)
    print(output_dir)
    return failed.exit_code


if __name__ == "__main__":
    run(main)
