"""Checkpoints that transformers has no class for, and where each of their tensors goes in a layout that it has.

InternLM 1 and 2 are Llama with biases and with packed projections; Qwen 1 is Qwen 2 under other names. What the
originals add beyond the length they were trained at (dynamic NTK, Qwen's log-n attention) changes nothing up to that
length, which therefore becomes the result's `max_position_embeddings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.errors import SettingsError

Split = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Part:
    """A tensor of the original: its shape, and the tensors of the result that it is split into."""

    shape: tuple[int, ...]
    targets: tuple[str, ...]
    split: Split = lambda tensor: [tensor]


@dataclass(frozen=True)
class Layout:
    """How one checkpoint is converted: the result's transformers configuration, and the original's tensors by name."""

    config: dict[str, Any]
    parts: dict[str, Part]


def layout_of(config: dict[str, Any], where: Path) -> Layout:
    """The layout of a checkpoint from its config.json.

    Raises:
        SettingsError: another kind of model, a field that is missing, or something the target layout cannot express.
    """
    kind = config.get("model_type")
    if kind not in _LAYOUTS:
        raise SettingsError(
            "this is no checkpoint that needs converting, or none that can be",
            where=where,
            found=f"model_type {kind}",
            wanted=", ".join(_LAYOUTS),
            todo="give models that transformers knows to train.py as they are",
        )
    return _LAYOUTS[kind](_Fields(config, where))


class _Fields:
    """The fields of a config.json, refused by name when missing or not to be expressed."""

    def __init__(self, config: dict[str, Any], where: Path):
        self.config, self.where = config, where

    def __getitem__(self, name: str) -> Any:
        if self.config.get(name) is None:
            raise SettingsError(
                f"the configuration has no {name}",
                where=self.where,
                found=", ".join(self.config),
                todo="give the folder of the original model, its config.json included",
            )
        return self.config[name]

    def get(self, name: str, default: Any) -> Any:
        found = self.config.get(name)
        return default if found is None else found

    def want(self, name: str, *wanted: Any) -> None:
        """Refuse another value of `name` than those; a field that is not there has the first of them."""
        found = self.get(name, wanted[0])
        if found not in wanted:
            raise SettingsError(
                f"the target layout has no {name} {found}",
                where=self.where,
                found=f"{name}: {found}",
                wanted=" or ".join(map(str, wanted)),
                todo="such a model needs its own class (remote code), which this repository does not run",
            )


def _split_grouped(packed: torch.Tensor, num_key_value_heads: int, group: int, head_dim: int) -> list[torch.Tensor]:
    """Queries, keys and values of InternLM 2's `wqkv`.

    It holds, for each key-value head, its `group` query heads, then the key head, then the value head.
    """
    heads = packed.unflatten(0, (num_key_value_heads, group + 2, head_dim))
    return [part.flatten(0, 2) for part in heads.split([group, 1, 1], dim=1)]


def _split_in_three(packed: torch.Tensor) -> Sequence[torch.Tensor]:
    """Queries, keys and values of Qwen's `c_attn`, one after the other; copies, as files want no shared memory."""
    return [part.clone() for part in packed.chunk(3)]


_ATTENTION = ("q_proj", "k_proj", "v_proj")


def _targets(layer: int, bias_or_weight: str) -> tuple[str, ...]:
    return tuple(f"model.layers.{layer}.self_attn.{name}.{bias_or_weight}" for name in _ATTENTION)


def _same(shape: tuple[int, ...], target: str) -> Part:
    return Part(shape, (target,))


def _llama_config(fields: _Fields, num_key_value_heads: int, attention_bias: bool, rope_theta: float) -> dict[str, Any]:
    fields.want("hidden_act", "silu")
    fields.want("tie_word_embeddings", False)
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": fields["vocab_size"],
        "hidden_size": fields["hidden_size"],
        "intermediate_size": fields["intermediate_size"],
        "num_hidden_layers": fields["num_hidden_layers"],
        "num_attention_heads": fields["num_attention_heads"],
        "num_key_value_heads": num_key_value_heads,
        "max_position_embeddings": fields["max_position_embeddings"],
        "rms_norm_eps": fields["rms_norm_eps"],
        "attention_bias": attention_bias,
        "rope_theta": rope_theta,
    }


def _internlm(fields: _Fields) -> Layout:
    rotary = fields.get("rotary", {})
    _Fields(rotary, fields.where).want("type", "origin", "dynamic")
    bias = bool(fields.get("bias", True))
    config = _llama_config(fields, fields["num_attention_heads"], bias, float(rotary.get("base", 10000)))
    vocab, hidden, inner = (config[name] for name in ("vocab_size", "hidden_size", "intermediate_size"))
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (hidden,)}
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name in (*_ATTENTION, "o_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (hidden, hidden)
            if bias:
                shapes[f"{prefix}.self_attn.{name}.bias"] = (hidden,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = shapes[f"{prefix}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    return Layout(config, {name: _same(shape, name) for name, shape in shapes.items()})


def _internlm2(fields: _Fields) -> Layout:
    scaling = fields.get("rope_scaling", {})
    _Fields(scaling, fields.where).want("type", "dynamic")
    bias = bool(fields.get("bias", False))
    num_heads, num_kv = fields["num_attention_heads"], fields["num_key_value_heads"]
    config = _llama_config(fields, num_kv, bias, float(fields["rope_theta"]))
    vocab, hidden, inner = (config[name] for name in ("vocab_size", "hidden_size", "intermediate_size"))
    head_dim = hidden // num_heads
    split = partial(_split_grouped, num_key_value_heads=num_kv, group=num_heads // num_kv, head_dim=head_dim)
    packed = (num_heads + 2 * num_kv) * head_dim
    parts = {
        "model.tok_embeddings.weight": _same((vocab, hidden), "model.embed_tokens.weight"),
        "model.norm.weight": _same((hidden,), "model.norm.weight"),
        "output.weight": _same((vocab, hidden), "lm_head.weight"),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        parts[f"{prefix}.attention.wqkv.weight"] = Part((packed, hidden), _targets(layer, "weight"), split)
        parts[f"{prefix}.attention.wo.weight"] = _same((hidden, hidden), f"{prefix}.self_attn.o_proj.weight")
        if bias:
            parts[f"{prefix}.attention.wqkv.bias"] = Part((packed,), _targets(layer, "bias"), split)
            parts[f"{prefix}.attention.wo.bias"] = _same((hidden,), f"{prefix}.self_attn.o_proj.bias")
        parts[f"{prefix}.feed_forward.w1.weight"] = _same((inner, hidden), f"{prefix}.mlp.gate_proj.weight")
        parts[f"{prefix}.feed_forward.w3.weight"] = _same((inner, hidden), f"{prefix}.mlp.up_proj.weight")
        parts[f"{prefix}.feed_forward.w2.weight"] = _same((hidden, inner), f"{prefix}.mlp.down_proj.weight")
        parts[f"{prefix}.attention_norm.weight"] = _same((hidden,), f"{prefix}.input_layernorm.weight")
        parts[f"{prefix}.ffn_norm.weight"] = _same((hidden,), f"{prefix}.post_attention_layernorm.weight")
    return Layout(config, parts)


def _qwen(fields: _Fields) -> Layout:
    fields.want("tie_word_embeddings", False)
    fields.want("no_bias", True)
    fields.want("rotary_pct", 1.0)
    hidden, num_heads = fields["hidden_size"], fields["num_attention_heads"]
    fields.want("kv_channels", hidden // num_heads)
    inner, vocab = fields["intermediate_size"] // 2, fields["vocab_size"]  # the original counts gate and up together
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": fields["num_hidden_layers"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "max_position_embeddings": fields["seq_length"],
        "rms_norm_eps": fields["layer_norm_epsilon"],
        "rope_theta": float(fields.get("rotary_emb_base", 10000)),
    }
    parts = {
        "transformer.wte.weight": _same((vocab, hidden), "model.embed_tokens.weight"),
        "transformer.ln_f.weight": _same((hidden,), "model.norm.weight"),
        "lm_head.weight": _same((vocab, hidden), "lm_head.weight"),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix, target = f"transformer.h.{layer}", f"model.layers.{layer}"
        parts[f"{prefix}.attn.c_attn.weight"] = Part((3 * hidden, hidden), _targets(layer, "weight"), _split_in_three)
        parts[f"{prefix}.attn.c_attn.bias"] = Part((3 * hidden,), _targets(layer, "bias"), _split_in_three)
        parts[f"{prefix}.attn.c_proj.weight"] = _same((hidden, hidden), f"{target}.self_attn.o_proj.weight")
        # Its feed-forward is c_proj(w1(x) * silu(w2(x))): the gate is the second.
        parts[f"{prefix}.mlp.w2.weight"] = _same((inner, hidden), f"{target}.mlp.gate_proj.weight")
        parts[f"{prefix}.mlp.w1.weight"] = _same((inner, hidden), f"{target}.mlp.up_proj.weight")
        parts[f"{prefix}.mlp.c_proj.weight"] = _same((hidden, inner), f"{target}.mlp.down_proj.weight")
        parts[f"{prefix}.ln_1.weight"] = _same((hidden,), f"{target}.input_layernorm.weight")
        parts[f"{prefix}.ln_2.weight"] = _same((hidden,), f"{target}.post_attention_layernorm.weight")
    return Layout(config, parts)


_LAYOUTS = {"internlm": _internlm, "internlm2": _internlm2, "qwen": _qwen}
