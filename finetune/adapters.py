"""Adapters: which modules get one, LoRA's settings as PEFT has them, and base models in 4 bits (QLoRA)."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from configs.errors import EnvironmentFailure, SettingsError
from configs.files import read_json
from pretrain.models import base_of, load_config

ALL_LINEAR, QUERY_VALUE = "all-linear", "query-value"
# Names of the query and value projections, or of the one that holds them, in the architectures of transformers.
_QUERY_VALUE = (("q_proj", "v_proj"), ("query_key_value",), ("Wqkv",), ("wqkv",), ("qkv_proj",), ("c_attn",))
# Names of the input embeddings and of the output layer, whose first dimension is the vocabulary.
_OF_VOCABULARY = ("embed_tokens", "wte", "word_embeddings", "embed_in", "lm_head", "embed_out")


def check_adapter(folder: str, *, only_lora: bool = False) -> None:
    """Refuse an adapter that cannot be used, before its base model is loaded.

    Args:
        folder: of the adapter.
        only_lora: of the kinds that can be merged into a model's weights take LoRA alone.

    Raises:
        SettingsError: it is of another kind, or was made for another number of tokens than its base model has.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    path = Path(folder) / "adapter_config.json"
    kind = read_json(path).get("peft_type")
    can_be_merged = hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload")
    if not can_be_merged or (only_lora and kind != "LORA"):
        merge = f"python finetune/merge.py --input {folder} --output_dir DIR, and the merged model in its place"
        raise SettingsError(
            "the adapter is of a kind that cannot be used here",
            where=path,
            found=f"peft_type {kind}",
            wanted="LORA" if only_lora else "LORA, or another kind that PEFT merges into the weights",
            todo=merge if can_be_merged else "a LoRA adapter in its place: python finetune/train.py --lora",
        )
    num_tokens = load_config(base_of(folder))[0].get_text_config().vocab_size
    for name, size in _vocabularies(Path(folder) / "adapter_model.safetensors").items():
        if size != num_tokens:
            raise SettingsError(
                "the adapter and its base model have vocabularies of different sizes",
                where=folder,
                found=f"{name} of {size:,} tokens",
                wanted=f"{num_tokens:,}, as {base_of(folder)} has",
                todo="resize the base model's embeddings as for the adapter's training, save it, and give that folder "
                "as base_model_name_or_path in adapter_config.json",
            )


def _vocabularies(path: Path) -> dict[str, int]:
    """The embeddings and output layers that are in an adapter's file as a whole, and the tokens of each."""
    from safetensors import safe_open

    if not path.is_file():  # `load_model` says so
        return {}
    with safe_open(path, "pt") as file:
        ends = {name: name.split(".")[-2:] for name in file.keys()}  # noqa: SIM118
        names = [name for name, end in ends.items() if end[0] in _OF_VOCABULARY and end[-1] == "weight"]
        return {name: file.get_slice(name).get_shape()[0] for name in names}


def target_modules(model: Any, asked: Sequence[str]) -> str | list[str]:
    """The modules that get an adapter, as PEFT's `target_modules`.

    Args:
        model: the model, from whose own modules the names are taken, whatever its architecture is called.
        asked: ["all-linear"] (all but the output layer), ["query-value"] (the published choice: q_proj and v_proj, or
            BLOOM's query_key_value and its like), or names of modules.

    Raises:
        SettingsError: the model has no such modules; near names are given.
    """
    if list(asked) == [ALL_LINEAR]:
        return ALL_LINEAR
    paths = [name for name, module in model.named_modules() if _is_linear(module)]
    names = {path.rsplit(".", 1)[-1] for path in paths}
    if list(asked) == [QUERY_VALUE]:
        found = next((list(group) for group in _QUERY_VALUE if names.issuperset(group)), None)
        if found:
            return found
    missing = [name for name in asked if not any(f".{path}".endswith(f".{name}") for path in paths)]
    if missing or not asked:
        near = [match for name in missing for match in difflib.get_close_matches(name, sorted(names))]
        raise SettingsError(
            "the model has no such modules for an adapter",
            where="lora_target_modules",
            found=", ".join(missing) or "none",
            wanted=f"{ALL_LINEAR}, {QUERY_VALUE}, or some of {', '.join(sorted(names))}",
            todo=f"near: {', '.join(dict.fromkeys(near))}" if near else f"give {ALL_LINEAR}, which fits every model",
        )
    return list(asked)


def _is_linear(module: Any) -> bool:
    # A linear layer of any kind (GPT-2's Conv1D, a 4-bit one) has one matrix of weights and works on features.
    weight = getattr(module, "weight", None)
    return isinstance(module, torch.nn.Linear) or (type(module).__name__ == "Conv1D" and weight is not None)


def lora_config(
    model: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    rslora: bool = False,
    dora: bool = False,
) -> Any:
    """PEFT's LoraConfig.

    Args:
        rank, alpha, dropout: of Hu et al. 2021 (LoRA), section 4.1: the update is (alpha / rank) B A.
        targets: as `target_modules` takes them.
        rslora: scale by alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA, theorem 3.2).
        dora: learn magnitude and direction of each weight apart (Liu et al. 2024, DoRA, equation 5).

    Raises:
        SettingsError: the model has no such modules.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules(model, targets),
        use_rslora=rslora,
        use_dora=dora,
        task_type="CAUSAL_LM",
    )


def saved_config(folder: str) -> Any:
    """PEFT's LoraConfig of an adapter's folder, for more training."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(folder)
    config.inference_mode = False
    return config


def add_adapter(model: Any, config: Any, *, seed: int, activation_checkpointing: bool) -> Any:
    """The model with a fresh adapter; all else is frozen.

    Args:
        config: what `lora_config` gave.
        seed: the adapter's first weights are drawn from it.
        activation_checkpointing: activations will be recomputed, so gradients must pass through the frozen inputs.
    """
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=activation_checkpointing)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, config)
    if activation_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def merged(model: Any) -> Any:
    """The whole model that a PEFT model with an adapter amounts to.

    Where the output layer shares its weights with the input embeddings and the adapter changes one of the two, they
    are parted: merged into the shared weights, a change of one would change the other.
    """
    inner = model.get_base_model()
    layers = inner.get_input_embeddings(), inner.get_output_embeddings()
    first, second = (getattr(layer, "base_layer", layer) for layer in layers)
    if first.weight is second.weight and any(hasattr(layer, "base_layer") for layer in layers):
        second.weight = torch.nn.Parameter(second.weight.detach().clone(), requires_grad=False)
    return model.merge_and_unload()  # which then notes in the configuration that they are two


def four_bit(compute_dtype: torch.dtype) -> Any:
    """The `quantization_config` of a frozen base model in 4 bits (Dettmers et al. 2023, QLoRA, section 3: NormalFloat,
    its constants quantized once more).

    Args:
        compute_dtype: precision of the multiplications.

    Raises:
        EnvironmentFailure: there is no GPU, or bitsandbytes is not installed.
    """
    where, otherwise = "--qlora", "--lora instead, which trains the same adapter on unquantized weights"
    if not torch.cuda.is_available():
        raise EnvironmentFailure(
            "4-bit base models need a GPU",
            where=where,
            found="no GPU that torch can use",
            wanted="an NVIDIA GPU",
            todo=otherwise,
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentFailure(
            "4-bit base models need the package bitsandbytes",
            where=where,
            found="not installed",
            wanted="bitsandbytes",
            todo=f"pip install bitsandbytes; or {otherwise}",
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
