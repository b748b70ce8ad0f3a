"""Tokens a second and model FLOPs utilisation (MFU)."""

from __future__ import annotations

from typing import Any

# Dense bf16 peak, TFLOP/s, from the makers' data sheets. A card that is not here gets no MFU rather than a wrong one.
PEAK_TFLOPS = {
    "NVIDIA A100": 312.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H100 SXM": 989.0,
    "NVIDIA H200": 989.0,
}


def flops_per_token(model: Any, sequence_length: float) -> float:
    """Training FLOPs of one token: 6 N for the weights that are multiplied, plus causal attention.

    Attention costs 6 x layers x heads x head_dim x sequence_length: forward and backward of QK and AV at an average
    context of half the sequence (PaLM, Chowdhery et al. 2022, appendix B, halved because it is causal).
    """
    config = model.config
    # Under ZeRO 3 a weight is empty between its uses, and ds_numel is its size.
    sizes = {name: getattr(weight, "ds_numel", weight.numel()) for name, weight in model.named_parameters()}
    num_parameters = sum(size for name, size in sizes.items() if "embed_tokens" not in name)
    if getattr(config, "tie_word_embeddings", False):
        num_parameters += config.vocab_size * config.hidden_size  # the output layer shares the embedding's weights
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head_dim * sequence_length
    return 6 * num_parameters + attention


def peak_tflops(device_name: str) -> float | None:
    """Dense bf16 peak of a card by the longest name that matches, or None when it is unknown."""
    names = [name for name in PEAK_TFLOPS if device_name.startswith(name)]
    return PEAK_TFLOPS[max(names, key=len)] if names else None
