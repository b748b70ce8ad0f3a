"""FLOPs of a token by hand, for every kind of model that is trained here, and peaks that are known or not guessed."""

import pytest
import torch
from transformers import AutoConfig

from pretrain.models import empty_model, load_model
from pretrain.throughput import CARDS, flops_per_token, peak_tflops

# A layer of the tiny model: queries 32 x 32, keys and values 32 x 16 each (2 of 4 heads of 8), output 32 x 32, three of
# 32 x 64 in the feed-forward part, two norms of 32. Then the last norm and the output layer of 800 x 32; no embedding.
LAYERS = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32
OUTPUT = 800 * 32
# 2 layers of 4 heads of 8: forward 2 x 2 x 50 multiply-adds of each query's 8 at a mean context of 50, thrice with backward.
ATTENTION = 3 * 2 * 4 * (2 * 2 * 50 * 8)


def test_flops_of_a_token_by_hand(tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    assert flops_per_token(model, 100) == 6 * (LAYERS + OUTPUT) + ATTENTION
    # The output layer works as hard when it shares the weights of the embedding.
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert flops_per_token(model, 100) == 6 * (LAYERS + OUTPUT) + ATTENTION
    # ZeRO 3 leaves an empty weight that knows its size.
    for weight in model.parameters():
        weight.ds_numel = weight.numel()
        weight.data = torch.empty(0)
    assert flops_per_token(model, 100) == 6 * (LAYERS + OUTPUT) + ATTENTION


def test_frozen_weights_have_no_gradient_of_their_own(tiny_model):
    from peft import LoraConfig, get_peft_model

    model = load_model(str(tiny_model), torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = 2 * (4 * 32 + 32 * 4)
    assert flops_per_token(model, 100) == 4 * (LAYERS + OUTPUT) + 6 * adapter + ATTENTION


def test_grouped_query_attention_saves_weights_and_no_scores():
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "vocab_size": 99,
    }
    flops = {}
    for num_kv in (8, 2):
        config = AutoConfig.for_model("qwen3", **shape, num_key_value_heads=num_kv, head_dim=16)
        flops[num_kv] = [flops_per_token(empty_model(config), length) for length in (0, 1000)]
    assert flops[8][0] - flops[2][0] == 6 * 3 * 2 * 64 * 16 * 6  # six heads of 16 fewer, of keys and of values
    # Heads are 16 wide here, not 64 / 8.
    assert flops[8][1] - flops[8][0] == flops[2][1] - flops[2][0] == 6 * 3 * 8 * 16 * 1000


def test_peak_of_a_card_is_known_or_not_guessed():
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert (peak_tflops("NVIDIA H100 PCIe"), peak_tflops("NVIDIA H100 80GB HBM3")) == (756, 989.4)
    assert peak_tflops("AMD Instinct MI300X") == 1307.4
    others = ["Tesla V100-SXM2-32GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA A10G"]
    others += ["NVIDIA A100-SXM4-80GB MIG 3g.40gb", "NVIDIA A100-SXM-64GB", "NVIDIA H200 NVL 2", ""]
    assert [peak_tflops(name) for name in others] == [None] * len(others)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_listed_with_dense_figures_of_its_own(name):
    card = CARDS[name]
    assert 20 < card.gib < 300
    assert 70 < card.tflops <= 2500  # the largest of them with sparsity would be 5,000
