"""Finding and loading models and tokenizers: a folder, an adapter's folder, or a hub id.

No remote code is run and weights are read from safetensors only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs import records
from configs.errors import EnvironmentFailure, MissingInputError, SettingsError
from configs.files import REPOSITORY, file_identity, read_json

DEMO_MODEL = REPOSITORY / "models" / "smollm2-135m"


def find_model(name_or_path: str | None) -> str:
    """The folder or hub id to load; the demo model when nothing is given.

    Raises:
        MissingInputError: a folder that does not exist, or holds no model.
    """
    path = Path(name_or_path) if name_or_path else DEMO_MODEL
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return str(path.resolve())  # an adapter remembers its base by it, wherever it is used from
    own_folder = not name_or_path or name_or_path[0] in "./~" or path.parts[0] in ("models", "runs", "data")
    if not own_folder and not path.exists() and len(path.parts) == 2:
        return name_or_path
    raise MissingInputError(
        "there is no model" if not path.exists() else "the folder holds no model",
        where=path,
        wanted="a folder with config.json and safetensors, or ORGANISATION/NAME on the hub",
        todo="python scripts/download.py smollm2-135m gets the demo model; any hub id in its place gets that one",
    )


def model_identity(model: str) -> Any:
    """What tells one state of a model from another: its weight files' names, sizes and times; a hub id as it is."""
    files = sorted(Path(model).glob("*.safetensors"))
    return [file_identity(path) for path in files] or model


def already_made(output_dir: Path, identity: Any) -> dict[str, Any] | None:
    """`records.already_done` of a folder for a model, in which nobody else's weights are written over or removed.

    Raises:
        SettingsError: the folder holds the output of other settings or other input, or weights without a run's record.
    """
    others = [*output_dir.glob("*.safetensors"), *output_dir.glob("checkpoint-*")]
    if others and not (output_dir / "run.json").exists():
        raise SettingsError(
            "the output folder holds weights that this command did not write",
            where=output_dir,
            found=", ".join(sorted(path.name for path in others)[:5]),
            todo="give another --output_dir",
        )
    return records.already_done(output_dir, identity)


def is_adapter(model: str) -> bool:
    """Whether the folder holds a PEFT adapter and not a whole model."""
    return (Path(model) / "adapter_config.json").is_file()


def refuse_adapter(model: str) -> None:
    """Training goes on from whole models: a second adapter on top of one would record the wrong base.

    Raises:
        SettingsError: the folder holds an adapter.
    """
    if is_adapter(model):
        raise SettingsError(
            "training cannot go on from an adapter",
            where=model,
            found="adapter_config.json",
            wanted="a whole model",
            todo=f"python finetune/merge.py --input {model} --output_dir DIR, or give the adapter's base model",
        )


def base_of(model: str) -> str:
    """The model an adapter belongs to; the model itself when it is a whole one.

    Raises:
        SettingsError: the adapter names no base model.
        MissingInputError: the base model is not there.
    """
    if not is_adapter(model):
        return model
    path = Path(model) / "adapter_config.json"
    base = read_json(path).get("base_model_name_or_path")
    if not base:
        raise SettingsError(
            "the adapter does not say which model it belongs to",
            where=path,
            found=f"base_model_name_or_path {base}",
            wanted="the folder or hub id of its base model",
            todo="write it there",
        )
    return find_model(base)


def _unreachable(model: str, error: Exception) -> EnvironmentFailure:
    return EnvironmentFailure(
        "the model could not be loaded",
        where=model,
        found=str(error).splitlines()[0],
        todo=f"python scripts/download.py {model} (with network), then give the folder under models/",
    )


def load_config(name_or_path: str | None, architecture: dict[str, Any] | None = None) -> tuple[Any, bool]:
    """The configuration of a model, and whether the model is on this machine.

    Args:
        name_or_path: folder or hub id, as `find_model` takes it.
        architecture: configuration to take, with its `model_type`, where the folder is not there; no hub is asked then.

    Raises:
        MissingInputError: the folder is not there and there is no `architecture`.
        SettingsError: `architecture` is not a configuration of transformers.
        EnvironmentFailure: the hub's configuration cannot be read or fetched.
    """
    from transformers import AutoConfig

    is_here = not name_or_path or (Path(name_or_path) / "config.json").is_file()
    if architecture and not is_here:
        try:
            return AutoConfig.for_model(**architecture), False
        except (TypeError, ValueError) as error:
            raise SettingsError(
                "the architecture is not one of transformers",
                where="architecture",
                found=str(error).splitlines()[0],
                wanted="model_type and the fields of its configuration, as in a model's config.json",
                todo="correct it",
            ) from None
    model = find_model(name_or_path)
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False), is_here
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from None


def empty_model(config: Any) -> Any:
    """A causal language model of this configuration without weights: its parameters have shapes and no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def attention_of(model: str, chosen: str) -> str:
    """The attention that was chosen for the device, or the next best that the model's architecture has.

    Flash or flex attention or that by segment, then sdpa, then eager: BLOOM, for one, has none but the last.
    """
    from transformers import AutoModelForCausalLM

    from pretrain.training.attention import has_attention_by_segment

    config, _ = load_config(base_of(model))
    classes = AutoModelForCausalLM._model_mapping
    architecture = classes.get(type(config), None)
    has = {
        "flash": getattr(architecture, "_supports_flash_attn", True),
        "flex_": getattr(architecture, "_supports_flex_attn", True),
        "sdpa_": has_attention_by_segment(config),
        "sdpa": getattr(architecture, "_supports_sdpa", True),
    }
    if has.get(chosen[:5], True):
        return chosen
    return "sdpa" if has["sdpa"] and chosen != "sdpa" else "eager"


def load_tokenizer(model: str) -> Any:
    """The fast tokenizer of a model; of an adapter that has none beside it, its base model's.

    Raises:
        EnvironmentFailure: it cannot be read or fetched.
    """
    from transformers import AutoTokenizer

    if is_adapter(model) and not any(Path(model).glob("tokenizer*")):
        model = base_of(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: str,
    dtype: Any,
    attn_implementation: str | None = None,
    quantization: Any = None,
    adapter_is_trainable: bool = False,
) -> Any:
    """A causal language model with its weights in `dtype`; an adapter is loaded on its base model.

    Args:
        model: folder or hub id.
        dtype: torch.dtype of the weights.
        attn_implementation: as transformers names it; its choice by default.
        quantization: a `quantization_config` of transformers, for frozen weights of few bits.
        adapter_is_trainable: training goes on with the adapter.

    Raises:
        EnvironmentFailure: it cannot be read or fetched.
        SettingsError: the adapter's weights are not of its base model's sizes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # bars of every process, over each other, in logs
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            base_of(model),
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from None
    if is_adapter(model):
        if not (Path(model) / "adapter_model.safetensors").is_file():
            raise MissingInputError(
                "the adapter's weights are missing",
                where=model,
                wanted="adapter_model.safetensors (other formats are pickles, which are not loaded)",
                todo="finish its training, or convert it with safetensors",
            )
        from peft import PeftModel

        try:
            loaded = PeftModel.from_pretrained(loaded, model, is_trainable=adapter_is_trainable)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise SettingsError(
                "the adapter does not fit its base model",
                where=model,
                found=next(line.strip() for line in str(error).splitlines() if "size mismatch" in line),
                wanted=f"an adapter of {base_of(model)}",
                todo="give the model that it was trained on as base_model_name_or_path in its adapter_config.json",
            ) from None
    return loaded
