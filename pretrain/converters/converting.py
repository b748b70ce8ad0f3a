"""The work of convert.py: weights shard by shard, then the tokenizer, then config.json, which makes it a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.errors import EnvironmentFailure, MissingInputError, SettingsError
from configs.files import atomic_path, file_identity, read_json, write_json
from configs.progress import Progress, log
from pretrain.converters.layouts import Layout, Part, layout_of
from pretrain.converters.tokenizer_files import convert_tokenizer
from pretrain.models import already_made, empty_model

MAX_SHARD_BYTES = 2 * 2**30  # of a file that is written, and about what is in memory at a time
# Constants that some versions of the originals saved with the weights; both layouts compute them.
_CONSTANTS = re.compile(r".*\.(rotary_emb\.inv_freq|attn\.(masked_)?bias|logn_tensor)")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def convert(settings: Any) -> None:
    """Convert the model in `settings.input` to `settings.output_dir`.

    Raises:
        MissingInputError: the folder, or a file that it names, is not there.
        SettingsError: not such a checkpoint, or pickles without `settings.allow_pickle`.
    """
    source, output_dir = settings.input, settings.output_dir
    original = read_json(source / "config.json")
    layout = layout_of(original, source / "config.json")
    files = find_weights(source, settings.allow_pickle)
    names = ("config.json", "tokenizer.model", "tokenizer_config.json", "qwen.tiktoken")
    data = [*files, *(source / name for name in names)]
    identity = {"format": 1, "input": [file_identity(path) for path in data if path.is_file()]}
    if already_made(output_dir, identity):
        log.info(f"already done: {output_dir}")
        return
    shards, dtype = plan_shards(files, layout, MAX_SHARD_BYTES)
    check_targets(layout)
    with records.run_record(output_dir, "convert", asdict(settings), identity) as record:
        tokenizer = convert_tokenizer(source, output_dir, original["model_type"], layout.config["vocab_size"])
        num_bytes = write_shards(shards, layout, output_dir)
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = {**layout.config, **ids, "dtype": str(dtype).removeprefix("torch.")}
        write_json(output_dir / "config.json", {**config, "rope_parameters": rope_parameters(layout)})
        record.finish("finished", num_bytes=num_bytes, num_tensors=sum(len(p.targets) for p in layout.parts.values()))
    log.info(f"good for {layout.config['max_position_embeddings']:,} positions, the length that it was trained at")


def rope_parameters(layout: Layout) -> dict[str, Any]:
    """The rotary embedding as transformers 5 reads it; older readers take `rope_theta`, so config.json has both."""
    return {"rope_type": "default", "rope_theta": layout.config["rope_theta"]}


def find_weights(source: Path, allow_pickle: bool) -> list[Path]:
    """The files that hold the weights: safetensors, or pickles where those are allowed and there is nothing else.

    Raises:
        MissingInputError: there are none, or a file that the index names is not there.
        SettingsError: there are pickles only, and they are not allowed.
    """
    for suffix, stem in (("safetensors", "model"), ("bin", "pytorch_model")):
        index = source / f"{stem}.{suffix}.index.json"
        names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else []
        files = [source / name for name in names] or sorted(source.glob(f"{stem}*.{suffix}"))
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise MissingInputError(
                "a file of the weights is missing",
                where=missing[0],
                wanted=f"as {index.name} says",
                todo="fetch it again",
            )
        if files and suffix == "bin" and not allow_pickle:
            raise SettingsError(
                "the weights are pickles",
                where=files[0],
                wanted="safetensors",
                todo="--allow_pickle reads them with weights_only, if you trust where they come from",
            )
        if files:
            return files
    raise MissingInputError(
        "the folder holds no weights",
        where=source,
        wanted="model*.safetensors (or pytorch_model*.bin with --allow_pickle)",
        todo="give the folder of the original model",
    )


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """The tensors of a file by name, each read when it is asked for: `keys()`, `shape(name)`, `load(name)`."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                yield _Safetensors(file)
        except SafetensorError as error:
            raise _damaged(path, error) from None
        return
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what unpickling raises for a bad file has many types
        raise _damaged(path, error) from None
    yield _Tensors(tensors)


def _damaged(path: Path, error: Exception) -> MissingInputError:
    return MissingInputError("a file of the weights cannot be read", where=path, found=error, todo="fetch it again")


class _Safetensors:
    def __init__(self, file: Any):
        self.keys, self.load, self._slice = file.keys, file.get_tensor, file.get_slice

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return self._slice(name)[:0].dtype


class _Tensors:
    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.keys, self.load = tensors.keys, tensors.__getitem__

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.load(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.load(name).dtype


def plan_shards(files: list[Path], layout: Layout, max_bytes: int) -> tuple[list[list[tuple[Path, str]]], torch.dtype]:
    """Which tensors of which file go into each file that is written, without reading them; and their common type.

    Raises:
        SettingsError: tensors are missing, unknown, of another shape or of a type that is not trained.
    """
    shards: list[list[tuple[Path, str]]] = [[]]
    problems, seen, dtypes, room = [], set(), set(), max_bytes
    for path in files:
        with open_weights(path) as weights:
            for name in sorted(weights.keys()):
                if _CONSTANTS.fullmatch(name):
                    continue
                part = layout.parts.get(name)
                shape, dtype = weights.shape(name), weights.dtype(name)
                if part is None or name in seen:
                    problems.append(f"{path.name}: {name} is {'there twice' if part else 'unknown'}")
                    continue
                seen.add(name)
                dtypes.add(dtype)
                if shape != part.shape or dtype not in _DTYPES:
                    problems.append(f"{path.name}: {name} is {dtype} {shape}, wanted floats {part.shape}")
                    continue
                num_bytes = torch.Size(shape).numel() * dtype.itemsize
                if num_bytes > room and shards[-1]:
                    shards.append([])
                    room = max_bytes
                room -= num_bytes
                shards[-1].append((path, name))
    problems += [f"{name} is missing" for name in layout.parts if name not in seen]
    problems += [f"types differ: {', '.join(sorted(map(str, dtypes)))}"] if len(dtypes) > 1 and not problems else []
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise SettingsError(
            "the weights are not those of this configuration",
            where=files[0].parent,
            found="\n    " + "\n    ".join(shown),
            wanted=f"{len(layout.parts)} tensors",
            todo="give an original, complete, unquantized checkpoint",
        )
    return shards, dtypes.pop()


def check_targets(layout: Layout) -> None:
    """Compare what the layout makes with the parameters of the class that will load it: names and shapes."""
    from transformers import AutoConfig

    config = {name: value for name, value in layout.config.items() if name not in ("architectures", "rope_theta")}
    model = empty_model(AutoConfig.for_model(**config, rope_parameters=rope_parameters(layout)))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    made = {}
    for part in layout.parts.values():
        pieces = part.split(torch.empty(part.shape, device="meta"))
        made.update({name: tuple(piece.shape) for name, piece in zip(part.targets, pieces, strict=True)})
    assert made == wanted, sorted(made.items() ^ wanted.items())


def write_shards(shards: list[list[tuple[Path, str]]], layout: Layout, output_dir: Path) -> int:
    """Write each planned file unless it is there, and the index; returns the bytes of all tensors.

    A file has its name only when it is complete, so what an interrupted run wrote is kept.

    Raises:
        EnvironmentFailure: the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for left_by_a_kill in output_dir.glob(".model-*.tmp"):
        left_by_a_kill.unlink()
    weight_map: dict[str, str] = {}
    progress = Progress("convert", len(shards), "shards")
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map.update({target: name for _, tensor in shard for target in layout.parts[tensor].targets})
        if not (output_dir / name).is_file():
            try:
                with atomic_path(output_dir / name) as temporary:
                    save_file(_converted(shard, layout.parts), temporary, metadata={"format": "pt"})
            except SafetensorError as error:  # its own name for a full disk
                raise EnvironmentFailure(
                    "a file could not be written",
                    where=output_dir / name,
                    found=error,
                    todo="make room, then the same command: it goes on from where it was",
                ) from None
        progress.advance()
    progress.close()
    num_bytes = 0
    for file in dict.fromkeys(weight_map.values()):
        with open_weights(output_dir / file) as weights:
            names = weights.keys()
            num_bytes += sum(torch.Size(weights.shape(name)).numel() * weights.dtype(name).itemsize for name in names)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(output_dir / "model.safetensors.index.json", index)
    return num_bytes


def _converted(shard: list[tuple[Path, str]], parts: dict[str, Part]) -> dict[str, torch.Tensor]:
    """The tensors of one file that is written."""
    made: dict[str, torch.Tensor] = {}
    for path in dict.fromkeys(path for path, _ in shard):
        with open_weights(path) as weights:
            for name in [name for each, name in shard if each == path]:
                pieces = parts[name].split(weights.load(name))
                made.update({t: piece.contiguous() for t, piece in zip(parts[name].targets, pieces, strict=True)})
    return made
