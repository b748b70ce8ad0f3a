"""What the parts of the GPU benchmark work on: models by shape, a tokenizer, documents, questions, token blocks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.errors import EnvironmentFailure, MissingInputError
from configs.files import REPOSITORY
from configs.settings import setting
from pretrain.models import DEMO_MODEL

SMOLLM2 = "smollm2_135m"
SAMPLE = REPOSITORY / "assets" / "sample"
# SmolLM2-135M's configuration; the other shapes are the files of configs/pretrain.
_SMOLLM2_SHAPE = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}
_QUICK_SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@dataclass
class GpuBenchSettings:
    """Settings of the benchmark."""

    part: str = setting(help="name of the part; an unknown one lists them")
    output_dir: Path = setting(Path("runs/bench-gpu"), "folder of a folder a part, of models and of token blocks")
    data: Path = setting(
        Path("../shared/data"), "folder with documents/ and mmedbench/; the repository's sample where it is not there"
    )
    model: Path | None = setting(
        None, "real model: its tokenizer is everywhere's, its weights, if there, are 135M's; the demo model by default"
    )
    num_steps: int = setting(6, "steps of each way of pretraining, of which the first two are not counted")
    quick: bool = setting(False, "small shapes, the sample and three steps, on whatever device there is")

    def __post_init__(self) -> None:
        self.num_steps = 3 if self.quick else self.num_steps

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        return [] if self.num_steps > 2 else [f"num_steps {self.num_steps}: wanted 3 or more, as two are not counted"]


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def data_folder(settings: GpuBenchSettings) -> Path:
    """The folder of documents and questions: `--data`, or the sample with --quick or where that is absent."""
    is_there = all((settings.data / name).is_dir() for name in ("documents", "mmedbench"))
    return settings.data if is_there and not settings.quick else SAMPLE


def real_model(settings: GpuBenchSettings) -> Path | None:
    """`--model`, or the demo model where it is there, or None.

    Raises:
        MissingInputError: `--model` holds no model.
    """
    if settings.model and not (settings.model / "config.json").is_file():
        raise MissingInputError(
            "there is no model",
            where=settings.model,
            wanted="a folder with config.json, tokenizer.json and, for 135M and the real result, safetensors",
            todo="python scripts/download.py smollm2-135m, or leave --model out: weights are random then",
        )
    return settings.model or (DEMO_MODEL if (DEMO_MODEL / "config.json").is_file() else None)


def has_weights(model: Path | None) -> bool:
    """Whether there is a model with weights, and not a configuration and tokenizer only, which travel lightly."""
    return bool(model and any(model.glob("*.safetensors")))


def described(settings: GpuBenchSettings) -> dict[str, Any]:
    """What a part's figures depend on: a folder with figures of other materials is refused."""
    model = real_model(settings)
    return {
        "quick": settings.quick,
        "questions and documents": "the sample" if data_folder(settings) == SAMPLE else "real ones",
        "tokenizer": model.name if model else "made on the sample",
        "num_steps": settings.num_steps,
    }


def make_model(settings: GpuBenchSettings, shape: str) -> Path:
    """A folder with bfloat16 weights of a shape and the tokenizer of all parts.

    Args:
        shape: a file of configs/pretrain, whose weights are random, or SMOLLM2, the real model where there is one.
    """
    real = real_model(settings)
    if shape == SMOLLM2 and real and has_weights(real) and not settings.quick:
        return real
    folder = settings.output_dir / "models" / f"{shape}{'-quick' if settings.quick else ''}"
    if (folder / "tokenizer_config.json").is_file():  # written last
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values: dict[str, Any] = _SMOLLM2_SHAPE
    if shape != SMOLLM2:
        file = REPOSITORY / "configs" / "pretrain" / f"{shape}.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))["architecture"]
    config = AutoConfig.for_model(**(values | _QUICK_SHAPE if settings.quick else values))
    torch.manual_seed(0)
    with torch.device("cuda" if has_gpu() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _tokenizer(real).save_pretrained(folder)
    return folder


def _tokenizer(real: Path | None) -> Any:
    """The real model's tokenizer, or a byte-level one made on the sample: text has tokens without any download."""
    from pretrain.models import load_tokenizer

    if real:
        return load_tokenizer(str(real))
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16_384, special_tokens=["<start>", "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train(sorted(map(str, SAMPLE.rglob("*.jsonl"))), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_blocks(settings: GpuBenchSettings, block_size: int, overlap: int) -> Path:
    """Token blocks of the documents: packed, or the published windows with an overlap."""
    folder = settings.output_dir / f"blocks-{block_size}-{overlap}"
    words = ["--input", data_folder(settings) / "documents", "--output_dir", folder, "--block_size", block_size]
    words += ["--model_name_or_path", make_model(settings, SMOLLM2), "--validation_share", 0]
    command("pretrain/prepare.py", *words, *(["--overlap", overlap] if overlap else []))
    return folder


def command(script: str, *words: Any) -> None:
    """Run one of this repository's commands; its log goes on to ours.

    Raises:
        EnvironmentFailure: it did not end well; failed items (exit code 5) are no reason here.
    """
    program = "bash" if script.endswith(".sh") else sys.executable
    whole = [program, str(REPOSITORY / script), *map(str, words)]
    code = subprocess.run(whole, check=False, stdout=subprocess.DEVNULL).returncode
    if code not in (0, 5):
        raise EnvironmentFailure(
            "a measured command failed", where=" ".join(whole), found=f"exit code {code}", todo="see its log above"
        )
