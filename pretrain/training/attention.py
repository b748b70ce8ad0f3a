"""Which attention keeps documents of a packed block apart on this device, and how a batch is handed to it."""

from __future__ import annotations

import importlib.util

import torch

VARLEN = "flash_attention"  # how transformers' names of the variable-length kernels begin
# Their attention takes no notice of positions, so packed examples would see each other (tried in the tests).
_NOT_PACKED = {"bloom", "falcon", "mpt"}


def can_be_packed(model_type: str) -> bool:
    """Whether texts in one block are kept apart by an architecture, as its configuration calls it."""
    return model_type not in _NOT_PACKED


def choose_attention(asked: str | None, on_cpu: bool, half_precision: bool) -> str:
    """The attention that transformers is to use.

    flash_attention_2 where its package is installed: work is that of the documents alone. Else, on GPUs, torch's flex
    attention, which skips whole tiles between documents. On the CPU scaled dot product attention with a dense mask.

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
        return "sdpa"
    return "flash_attention_2" if varlen and importlib.util.find_spec("flash_attn") else "flex_attention"


def as_one_row(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
    """A packed batch for a variable-length kernel: all blocks one after another, and where each document begins.

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
