"""Adapters: the modules that get one in each architecture, LoRA's variants in numbers, and QLoRA's refusals.

Also which architectures keep packed examples apart: small models of each are made here.
"""

import importlib.util

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import EnvironmentFailure, SettingsError
from configs.files import read_json, write_json
from finetune.adapters import add_adapter, check_adapter, four_bit, lora_config, target_modules
from pretrain.models import base_of, load_model, load_tokenizer
from pretrain.training.attention import can_be_packed

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
OTHER = {
    "bloom": {"n_layer": 1, "n_head": 4},
    "falcon": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 1, "n_heads": 4},
}
ARCHITECTURES = {
    "llama": {"q_proj", "v_proj"},
    "qwen2": {"q_proj", "v_proj"},
    "qwen3": {"q_proj", "v_proj"},
    "mistral": {"q_proj", "v_proj"},
    "gemma": {"q_proj", "v_proj"},
    "gemma2": {"q_proj", "v_proj"},
    "gemma3_text": {"q_proj", "v_proj"},
    "bloom": {"query_key_value"},
    "falcon": {"query_key_value"},
    "gpt_neox": {"query_key_value"},
    "phi3": {"qkv_proj"},
    "mpt": {"Wqkv"},
    "gpt2": {"c_attn"},
}


def small(kind):
    torch.manual_seed(0)
    values = SMALL | OTHER.get(kind, {})
    names = set(AutoConfig.for_model(kind).to_dict()) | set(OTHER.get(kind, {}))
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{k: v for k, v in values.items() if k in names})
    )


def config(model, targets=("all-linear",), **more):
    return lora_config(model, rank=4, alpha=8, dropout=0.0, targets=list(targets), **more)


def adapted_modules(model):
    return {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_query_and_value_projections_are_found_in_each_architecture(kind):
    model = small(kind)
    assert set(target_modules(model, ["query-value"])) == ARCHITECTURES[kind]
    adapted = add_adapter(model, config(model, ["query-value"]), seed=0, activation_checkpointing=False)
    assert adapted_modules(adapted) == ARCHITECTURES[kind]
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    whole = adapted.unload()
    wide = adapted_modules(add_adapter(whole, config(whole), seed=0, activation_checkpointing=False))
    assert wide > ARCHITECTURES[kind] and "lm_head" not in wide


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures_that_let_packed_examples_see_each_other_are_known(kind):
    model = small(kind).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)  # so that attention is more than an average
        ids = torch.randint(1, 64, (1, 16), generator=torch.Generator().manual_seed(0))
        positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
        alone = model(ids[:, 9:], use_cache=False).logits
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 9:]
    assert ((packed - alone).abs().max() < 1e-4) == can_be_packed(model.config.model_type)


def test_named_modules_and_names_that_are_none(tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    assert target_modules(model, ["q_proj", "mlp.down_proj"]) == ["q_proj", "mlp.down_proj"]
    for asked, near in ((["q_prj", "v_proj"], "q_proj"), (["query_key_value"], "all-linear"), ([], "all-linear")):
        with pytest.raises(SettingsError, match="no such modules") as refused:
            target_modules(model, asked)
        assert near in refused.value.todo and "down_proj" in refused.value.wanted
    with pytest.raises(SettingsError, match="no such modules"):
        target_modules(model, ["norm"])  # there are modules of that name, but not linear ones
    with pytest.raises(SettingsError, match="no such modules"):
        target_modules(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["query-value"])


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora"])
def test_an_adapter_changes_a_layer_by_what_its_paper_says(variant, tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    choice = config(model, ["q_proj"], **({} if variant == "plain" else {variant: True}))
    adapted = add_adapter(model, choice, seed=3, activation_checkpointing=False)
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(x), x @ weight.T, atol=1e-6)  # B is zero: nothing is changed at first
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_(generator=torch.Generator().manual_seed(2))
        changed = weight + (8 / 4**0.5 if variant == "rslora" else 8 / 4) * b @ a
        if variant == "dora":
            changed *= weight.norm(dim=1, keepdim=True) / changed.norm(dim=1, keepdim=True)
        assert torch.allclose(layer(x), x @ changed.T, atol=1e-4)


def test_the_first_weights_depend_on_the_seed_alone(tiny_model):
    def first(seed, noise):
        model = load_model(str(tiny_model), torch.float32)
        torch.manual_seed(noise)
        adapted = add_adapter(model, config(model), seed=seed, activation_checkpointing=False)
        return torch.cat([p.flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    assert torch.equal(first(1, 5), first(1, 6)) and not torch.equal(first(1, 5), first(2, 5))


def test_training_goes_on_from_an_adapter(tiny_model, tmp_path):
    model = load_model(str(tiny_model), torch.float32)
    adapted = add_adapter(model, config(model), seed=0, activation_checkpointing=True)
    ids = torch.tensor([[5, 6, 7]])
    adapted(ids, labels=ids).loss.backward()  # gradients reach the adapter through frozen inputs
    assert all(p.grad is not None for n, p in adapted.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    adapted.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), torch.float32, adapter_is_trainable=True)
    assert torch.equal(again(ids).logits, adapted(ids).logits)
    trained = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in adapted.named_parameters() if p.requires_grad}


def test_adapters_that_cannot_be_used_are_refused_before_their_base_is_loaded(tiny_model, tmp_path):
    from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

    def made(name, choice, num_tokens=800):
        model = load_model(str(tiny_model), torch.float32)
        model.resize_token_embeddings(num_tokens)
        get_peft_model(model, choice).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    good = made("lora", config(load_model(str(tiny_model), torch.float32)))
    check_adapter(good, only_lora=True)
    scaled = made("ia3", IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]))
    check_adapter(scaled)
    with pytest.raises(SettingsError, match="peft_type IA3") as refused:
        check_adapter(scaled, only_lora=True)
    assert "finetune/merge.py --input" in refused.value.todo
    prompt = made("prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    for only_lora in (False, True):
        with pytest.raises(SettingsError, match="peft_type PROMPT_TUNING") as refused:
            check_adapter(prompt, only_lora=only_lora)
        assert "merge.py" not in refused.value.todo
    grown = made("grown", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), num_tokens=802)
    with pytest.raises(SettingsError, match="of 802 tokens") as refused:
        check_adapter(grown)
    assert refused.value.wanted.startswith("800")
    with pytest.raises(SettingsError, match="does not fit its base model"):
        load_model(grown, torch.float32)
    # An adapter as PEFT saves it has no tokenizer beside it: its base model's is meant.
    assert load_tokenizer(good).get_vocab() == load_tokenizer(str(tiny_model)).get_vocab()
    path = tmp_path / "lora" / "adapter_config.json"
    write_json(path, {**read_json(path), "base_model_name_or_path": None})
    with pytest.raises(SettingsError, match="does not say which model"):
        base_of(good)


def test_four_bits_without_a_gpu_or_bitsandbytes_are_refused_and_say_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFailure, match="need a GPU") as refused:
        four_bit(torch.bfloat16)
    assert all((refused.value.where, refused.value.found, refused.value.wanted)) and "--lora" in refused.value.todo
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match="bitsandbytes") as refused:
        four_bit(torch.bfloat16)
    assert "pip install bitsandbytes" in refused.value.todo
