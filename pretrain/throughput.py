"""FLOPs of a training token, and the peaks and memories of cards: what MFU and plans are reckoned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Card:
    """A GPU: its dense bf16 peak in TFLOP/s (no sparsity, sums in float32) and the GiB a process can use of it."""

    tflops: float
    gib: float


# By the name that torch.cuda.get_device_name gives. Peaks from the makers' data sheets and white papers (half of what
# they state "with sparsity"); memory as torch reports it, below the nominal one. Names count as a whole: a laptop's
# 4090, a slice of an A100 (MIG) and a custom A100 begin like others and have other peaks.
CARDS = {
    "NVIDIA A100-SXM4-80GB": Card(312, 79.1),
    "NVIDIA A100-SXM4-40GB": Card(312, 39.4),
    "NVIDIA A100 80GB PCIe": Card(312, 79.1),
    "NVIDIA A100-PCIE-40GB": Card(312, 39.4),
    "NVIDIA A800-SXM4-80GB": Card(312, 79.1),
    "NVIDIA A800 80GB PCIe": Card(312, 79.1),
    "NVIDIA H100 80GB HBM3": Card(989.4, 79.1),
    "NVIDIA H100 PCIe": Card(756, 79.1),
    "NVIDIA H100 NVL": Card(835.5, 93.0),
    "NVIDIA H800": Card(989.4, 79.1),
    "NVIDIA H800 PCIe": Card(756, 79.1),
    "NVIDIA H20": Card(148, 95.0),
    "NVIDIA H200": Card(989.4, 139.7),
    "NVIDIA H200 NVL": Card(835.5, 139.7),
    "NVIDIA GH200 480GB": Card(989.4, 94.5),
    "NVIDIA B200": Card(2250, 178.3),
    "NVIDIA GB200": Card(2500, 184.0),
    "NVIDIA L40S": Card(362, 44.4),
    "NVIDIA L40": Card(181, 44.4),
    "NVIDIA L4": Card(121, 22.0),
    "NVIDIA A40": Card(149.7, 44.4),
    "NVIDIA A30": Card(165, 23.5),
    "NVIDIA A10": Card(125, 22.0),
    "NVIDIA RTX A6000": Card(154.8, 47.4),
    "NVIDIA RTX 6000 Ada Generation": Card(364.2, 47.4),
    "NVIDIA GeForce RTX 3090": Card(71.2, 23.6),
    "NVIDIA GeForce RTX 4090": Card(165.2, 23.5),
    "NVIDIA GeForce RTX 5090": Card(209.5, 31.3),
    "AMD Instinct MI250X": Card(191.5, 64.0),  # torch sees each of its two dies as a device
    "AMD Instinct MI300X": Card(1307.4, 191.7),
    "AMD Instinct MI325X": Card(1307.4, 255.7),
}


def flops_per_token(model: Any, sequence_length: float) -> float:
    """Training FLOPs of one token: 6 a weight that is multiplied (4 a frozen one), plus causal attention.

    A weight costs 2 forward, 2 for the gradient of its input and 2 for its own. The input embedding is looked up and
    costs nothing; the output layer counts once, also where it shares the embedding's weights. Attention costs
    6 x layers x heads x head_dim x sequence_length: forward and backward of QK and AV at an average context of half
    the sequence (PaLM, Chowdhery et al. 2022, appendix B, halved because it is causal). Grouped-query attention
    shrinks the projections, which are weights, and not this term: every query head meets every key. Activations
    recomputed in backward do not count (that is what makes it model FLOPs).

    Args:
        model: a causal language model, on any device, sharded by ZeRO 3 or not.
        sequence_length: tokens that attention spans.
    """
    config = model.config
    flops = 0
    embedding = model.get_input_embeddings().weight
    for weight in model.parameters():
        if weight is not embedding:
            # Under ZeRO 3 a weight is empty between its uses, and ds_numel is its size.
            flops += getattr(weight, "ds_numel", weight.numel()) * (6 if weight.requires_grad else 4)
    if getattr(config, "tie_word_embeddings", False):
        trained = model.get_output_embeddings().weight.requires_grad
        flops += config.vocab_size * config.hidden_size * (6 if trained else 4)
    return flops + 6 * config.num_hidden_layers * config.num_attention_heads * head_dim(config) * sequence_length


def head_dim(config: Any) -> int:
    """Width of an attention head, which some models set apart from hidden_size."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def peak_tflops(device_name: str) -> float | None:
    """Dense bf16 peak of a card in TFLOP/s, or None for an unknown one: no MFU rather than a wrong one."""
    card = CARDS.get(device_name)
    return card.tflops if card else None
