"""What transformers 4, and what is built on it, must find in a model's folder beside what transformers 5 writes."""

from __future__ import annotations

from pathlib import Path

from configs.files import read_json, write_json


def write_for_older_readers(folder: Path) -> None:
    """Name the rotary embedding and the tokenizer's class as transformers 4 does, too.

    transformers 5 writes the rotary embedding's base and scaling as `rope_parameters` alone. Version 4 takes no notice
    of that and computes with its class's default, often 10,000, without a word; so does a vLLM on top of it. The class
    name that 5 writes for a tokenizer without one of its own is unknown to 4; both know the other name. Version 5
    reads the same from the result. Models with one rotary embedding a kind of layer (Gemma 3) stay as they are, for
    version 4 has no common names for those.

    Args:
        folder: a saved model, a saved tokenizer, or both; an adapter's has no config.json.
    """
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    rotary = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rotary:
        more = {name: rotary.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in rotary}
        if config.get("model_type") == "gpt_neox":  # which has names of its own there
            names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
            more |= {names[name]: value for name, value in more.items()}
        if rotary.get("rope_type", "default") != "default":
            more["rope_scaling"] = rotary
        write_json(path, {**config, **more})
    path = folder / "tokenizer_config.json"
    described = read_json(path) if path.is_file() else {}
    if described.get("tokenizer_class") == "TokenizersBackend":
        write_json(path, {**described, "tokenizer_class": "PreTrainedTokenizerFast"})
