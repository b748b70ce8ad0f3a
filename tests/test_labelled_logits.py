"""Packed rows attended to segment by segment, and logits where a label is: the losses and gradients of the usual way."""

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pretrain.token_blocks.blocks import IGNORED, Collator
from pretrain.training.attention import BY_SEGMENT, as_one_row, has_attention_by_segment
from pretrain.training.labelled_logits import can_leave_out_logits, loss_of_labelled, with_labelled_logits

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"vocab_size": 90, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
_GPT2 = {"vocab_size": 90, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
MODELS = [
    (LlamaForCausalLM, LlamaConfig(num_key_value_heads=2, **_SIZES)),
    (Gemma3ForCausalLM, Gemma3TextConfig(num_key_value_heads=2, head_dim=8, **_WINDOWS, **_SIZES)),
    (GPT2LMHeadModel, GPT2Config(**_GPT2, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0)),
]


def batch():
    """Two blocks, of three segments and of one, half of whose tokens are taught; the rest is padding."""
    draw = np.random.default_rng(0)
    rows = [[draw.integers(3, 90, length) for length in of] for of in ([13, 9, 7], [20])]
    blocks = [[(ids, np.where(np.arange(len(ids)) < len(ids) // 2, IGNORED, ids)) for ids in of] for of in rows]
    return Collator(40, 0)(blocks)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([weights.grad.flatten() for weights in model.parameters()])


@pytest.mark.parametrize(("architecture", "config"), MODELS, ids=lambda of: getattr(of, "__name__", ""))
def test_losses_and_gradients_are_those_of_the_whole_square(architecture, config):
    torch.manual_seed(0)
    model, inputs = architecture._from_config(config, attn_implementation="sdpa").train(), batch()
    assert has_attention_by_segment(config) and can_leave_out_logits(model)
    usual = model(**inputs, use_cache=False).loss
    wanted = gradient(model, usual)
    num_labels = int((inputs["labels"] != IGNORED).sum())
    for by_segment in (False, True):  # several rows keep all logits
        model.set_attn_implementation(BY_SEGMENT if by_segment else "sdpa")
        given = with_labelled_logits(as_one_row(inputs) if by_segment else inputs)
        labels = given.pop("labels")
        outputs = model(**given, use_cache=False)
        assert outputs.logits.shape[:2] == ((1, num_labels) if by_segment else (2, 40))
        loss = loss_of_labelled(outputs, labels, num_labels)
        assert loss.item() == pytest.approx(usual.item(), abs=1e-6)
        torch.testing.assert_close(gradient(model, loss), wanted, atol=1e-6, rtol=1e-4)
