"""Logits and loss of the tokens that have a label, in fine-tuning about every second one, where no kernel does that."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.loss.loss_utils import ForCausalLMLoss

from pretrain.token_blocks.blocks import IGNORED


def can_leave_out_logits(model: Any) -> bool:
    """Whether the model can be asked for the logits of some tokens alone, and its loss is that of its logits."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    has_more_loss = getattr(inner.config.get_text_config(), "output_router_logits", False)  # of mixtures of experts
    return "logits_to_keep" in inspect.signature(inner.forward).parameters and not has_more_loss


def with_labelled_logits(inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch that asks for the logits of those tokens alone that have a label to predict, for `loss_of_labelled`.

    Of several rows all logits, as models leave them out for all rows alike.

    Args:
        inputs: input_ids and labels, each (B, T), and whatever else.

    Returns:
        The same; `labels` as each logit's own, (B, kept), and of one row `logits_to_keep` (kept,).
    """
    wanted = pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)  # of each token the one after it
    if len(wanted) > 1:
        return {**inputs, "labels": wanted}
    places = (wanted[0] != IGNORED).nonzero()[:, 0]
    return {**inputs, "labels": wanted[:, places], "logits_to_keep": places}


def loss_of_labelled(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """transformers' causal loss of a batch from `with_labelled_logits`, as the Trainer's `compute_loss_func`."""
    logits = outputs.logits
    return ForCausalLMLoss(logits, None, logits.shape[-1], num_items_in_batch, IGNORED, shift_labels=labels)
