"""Which attention keeps documents of a packed block apart on this device, and how a batch is handed to it."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

VARLEN = "flash_attention"  # how transformers' names of the variable-length kernels begin
BY_SEGMENT = "sdpa_by_segment"  # ours
# Their attention takes no notice of positions, or a convolution or linear attention goes on from one text to the next,
# so packed examples would see each other (tried in the tests; every start tries it on its own model: `preflight`).
_NOT_PACKED = {"biogpt", "bloom", "falcon", "lfm2", "lfm2_moe", "minimax", "mpt", "opt", "xglm"}


def can_be_packed(model_type: str) -> bool:
    """Whether texts in one block are kept apart by an architecture, as its configuration calls it.

    Not by those with a recurrent state (Mamba and its hybrids, Qwen 3 Next and 3.5), which runs through a whole row.
    """
    known = AutoModelForCausalLM._model_mapping.get(CONFIG_MAPPING[model_type], None)
    return model_type not in _NOT_PACKED and not getattr(known, "_is_stateful", False)


def has_attention_by_segment(config: Any) -> bool:
    """Whether models of this configuration can take BY_SEGMENT: they can be packed, and call attention by its name."""
    architecture = AutoModelForCausalLM._model_mapping.get(type(config), None)
    by_name = getattr(architecture, "_supports_attention_backend", False)
    return can_be_packed(config.model_type) and bool(by_name)


def choose_attention(asked: str | None, on_cpu: bool, half_precision: bool) -> str:
    """The attention that transformers is to use.

    flash_attention_2 where its package is installed: work is that of the documents alone. Else, on GPUs, torch's flex
    attention, which skips whole tiles between documents. On the CPU scaled dot product attention of each document: of a
    block it would work on the whole square, nearly all of which the mask takes away again.

    Args:
        asked: what the user wants, which goes first.
        on_cpu: whether the run is on processors only.
        half_precision: whether it computes in bfloat16 or float16, without which there is no variable-length kernel.

    Raises:
        ValueError: a variable-length kernel is asked for where it cannot run.
    """
    varlen = half_precision and not on_cpu
    if asked and asked.startswith(VARLEN) and not varlen:
        raise ValueError(
            f"attn_implementation {asked} needs a GPU and bf16; without them: sdpa, or flex_attention on GPUs"
        )
    if asked:
        return asked
    if on_cpu:
        return BY_SEGMENT
    return "flash_attention_2" if varlen and importlib.util.find_spec("flash_attn") else "flex_attention"


def _flex_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments: Any, **more: Any
) -> Any:
    """transformers' flex attention, which under autocast computes in autocast's type as all other attentions do.

    With float32 weights (training without DeepSpeed) rotary embeddings and norms leave queries and keys in float32.
    torch 2.13 casts them too; before, flex attention took its float32 kernels, several times as slow, or refused
    bfloat16 values beside (pytorch issue 165468).
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return flex_attention_forward(module, query, key, value, *arguments, **more)


AttentionInterface.register("flex_attention", _flex_attention)
# It is compiled for training and evaluation, several and one block or document a batch, a last smaller batch: more ways
# than torch's limit of 8, beyond which it is not compiled, and holds all scores of a batch in memory at once.
torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)


def _attention_by_segment(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' scaled dot product attention, causal, of each segment of one row.

    Args:
        query, key, value: (1, heads, T, D).
        cu_seq_lens_q: where segments begin and the last one ends, (segments + 1,), as `as_one_row` gives it.
        sliding_window: tokens that a token sees, itself among them.
        more: scaling and dropout.

    Returns:
        (1, T, heads, D)
    """
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    for parts in zip(*(of.split(lengths, dim=2) for of in (query, key, value)), strict=True):
        length, mask = parts[0].shape[2], None
        if sliding_window and length > sliding_window:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
            mask = mask.triu(1 - sliding_window)
        outputs.append(sdpa_attention_forward(module, *parts, mask, **more)[0])
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(BY_SEGMENT, _attention_by_segment)  # with no mask of its own, transformers makes none


def wants_one_row(attention: str) -> bool:
    """Whether an attention takes batches from `as_one_row`, of models that can be packed."""
    return attention.startswith(VARLEN) or attention == BY_SEGMENT


def as_one_row(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
    """A packed batch as one row: all blocks one after another, and where each document begins.

    transformers looks for documents in `position_ids` only in a batch of one row; of several rows it would attend to
    all that is before a token, other documents included. No label crosses the seams, as the first token of a
    document has none.

    Args:
        inputs: input_ids, labels and position_ids, each (B, T).

    Returns:
        The same as (1, B x T), with cu_seq_lens_q and _k (documents + 1) and max_length_q and _k.
    """
    row = {name: value.reshape(1, -1) for name, value in inputs.items()}
    positions = row["position_ids"][0]
    starts = (positions == 0).nonzero().flatten()
    ends = torch.cat([starts, starts.new_tensor([len(positions)])]).to(torch.int32)
    longest = int(ends.diff().max())
    return {**row, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
