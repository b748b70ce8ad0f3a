"""Before the first step: what is checked is refused with its number, and the check leaves no trace."""

import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils
from transformers.integrations import flex_attention as flex

from configs.errors import EnvironmentFailure, SettingsError
from pretrain.models import load_model
from pretrain.token_blocks.blocks import IGNORED, Collator
from pretrain.training import attention, checkpoints, preflight
from pretrain.training.attention import BY_SEGMENT, as_one_row, choose_attention
from pretrain.training.loss_plot import plot_losses
from pretrain.training.metering import Meter


def test_room_is_wanted_for_the_checkpoints_kept_and_the_one_being_written(tmp_path, monkeypatch):
    free = {"bytes": 300}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free["bytes"]))
    preflight.check_disk(tmp_path, 100, save_total_limit=2)  # three lie there at once
    free["bytes"] = 299
    with pytest.raises(EnvironmentFailure, match="too little room"):
        preflight.check_disk(tmp_path, 100, save_total_limit=2)
    preflight.check_disk(tmp_path, 100, save_total_limit=None)
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.mark_complete(tmp_path / f"checkpoint-{step}", step)
    free["bytes"] = 100
    preflight.check_disk(tmp_path, 100, save_total_limit=2)  # those that are there have their room
    free["bytes"] = 99
    with pytest.raises(EnvironmentFailure, match="too little room"):
        preflight.check_disk(tmp_path, 100, save_total_limit=2)


def test_a_checkpoint_is_estimated_from_trained_and_frozen_weights(tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    num = sum(weight.numel() for weight in model.parameters())
    assert preflight.checkpoint_bytes(model) == 16 * num
    head = model.lm_head.weight.requires_grad_(False)
    assert preflight.checkpoint_bytes(model) == 16 * (num - head.numel()) + 4 * head.numel()
    model.peft_config = {}  # an adapter's checkpoint holds no frozen weight
    assert preflight.checkpoint_bytes(model) == 16 * (num - head.numel())


def test_gpus_that_are_missing_or_in_use_are_named(monkeypatch):
    for name in ("SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    cuda = SimpleNamespace(
        device_count=lambda: 2,
        current_device=lambda: 1,
        get_device_name=lambda _: "NVIDIA H200",
        mem_get_info=lambda _: (90 * 2**30, 100 * 2**30),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    preflight.check_gpus(on_cpu=False)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    with pytest.raises(EnvironmentFailure, match="found: 2 GPUs\n  wanted: 8"):
        preflight.check_gpus(on_cpu=False)
    monkeypatch.setattr(torch.version, "cuda", None)  # a torch for processors
    preflight.check_gpus(on_cpu=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # somebody wants none of them
    cuda.device_count = lambda: 0
    preflight.check_gpus(on_cpu=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("SLURM_GPUS_ON_NODE")
    cuda.device_count, cuda.mem_get_info = lambda: 2, lambda _: (79 * 2**30, 100 * 2**30)
    with pytest.raises(EnvironmentFailure, match=r"GPU 1 \(NVIDIA H200\)\n  found: 79.0 of 100.0 GiB free"):
        preflight.check_gpus(on_cpu=False)


def blocks(num_blocks, seed=0):
    draw = np.random.default_rng(seed)
    rows = [[30, 10], [20], [9, 3], [48]]
    return [[(ids, ids) for ids in (draw.integers(2, 700, size=n) for n in row)] for row in rows[:num_blocks]]


SMALL = {
    "vocab_size": 700,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.mark.parametrize(
    ("kind", "more", "is_kept_apart"),
    [
        ("llama", {}, True),
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 4}, True),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 64}, False),  # sdpa; positions are counted without looking
        ("mamba", {"state_size": 4}, False),
        ("lfm2", {"layer_types": ["conv"], "num_key_value_heads": 4}, False),
    ],
)
def test_the_dry_step_refuses_models_in_which_documents_see_each_other(kind, more, is_kept_apart):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more))
    args = SimpleNamespace(per_device_train_batch_size=3, attn_implementation="sdpa")
    trainer = SimpleNamespace(
        train_dataset=blocks(3),
        data_collator=Collator(48, 1),
        model=model,
        args=args,
        _prepare_inputs=dict,
        compute_loss_context_manager=torch.enable_grad,
    )
    assert attention.can_be_packed(kind) == is_kept_apart
    if is_kept_apart:
        preflight.dry_step(trainer)
        return
    with pytest.raises(SettingsError, match="see each other"):
        preflight.dry_step(trainer)
    trainer.train_dataset = [[segments[-1]] for segments in trainer.train_dataset]  # an example a row, for fine-tuning
    preflight.dry_step(trainer)


def test_the_dry_step_goes_through_every_layer_and_leaves_no_trace(tiny_model, monkeypatch):
    model = load_model(str(tiny_model), torch.float32)
    model.config.attention_dropout = 0.1
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1  # draws random numbers
    model.activation_checkpointing_enable()
    hooks = dict(model.get_input_embeddings()._forward_hooks)
    seen = []
    for index, layer in enumerate(model.model.layers):
        layer.register_full_backward_hook(lambda *_, index=index: seen.append(index))
    taken = []
    trainer = SimpleNamespace(
        train_dataset=blocks(4),
        data_collator=Collator(48, 1),
        model=model,
        args=SimpleNamespace(per_device_train_batch_size=2),
        _prepare_inputs=lambda batch: taken.append(batch) or batch,
        compute_loss_context_manager=torch.enable_grad,
    )
    model.eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    preflight.dry_step(trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(set(seen)) == [0, 1] and taken[0]["input_ids"].shape == (2, 48)
    assert all(weight.grad is None for weight in model.parameters()) and not model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert dict(model.get_input_embeddings()._forward_hooks) == hooks


def test_the_attention_is_the_best_that_keeps_documents_apart(monkeypatch):
    installed = {"flash_attn": object()}
    monkeypatch.setattr(attention.importlib.util, "find_spec", installed.get)
    assert choose_attention(None, on_cpu=True, half_precision=True) == BY_SEGMENT
    assert choose_attention(None, on_cpu=False, half_precision=True) == "flash_attention_2"
    assert choose_attention(None, on_cpu=False, half_precision=False) == "flex_attention"
    assert choose_attention("eager", on_cpu=False, half_precision=True) == "eager"
    installed.clear()
    assert choose_attention(None, on_cpu=False, half_precision=True) == "flex_attention"
    for on_cpu, half_precision in ((True, True), (False, False)):
        with pytest.raises(ValueError, match="needs a GPU and bf16"):
            choose_attention("flash_attention_2", on_cpu, half_precision)


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # rotary embeddings leave float32, norms of queries too
def test_flex_attention_computes_in_the_type_of_autocast(family, monkeypatch):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = AutoConfig.for_model(family, vocab_size=50, num_hidden_layers=1, **shape)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="flex_attention", dtype=torch.float32)
    seen = []

    def eager(query, key, value, training, **more):
        seen.append({query.dtype, key.dtype, value.dtype})
        return flex.flex_attention(query, key, value, **more)

    monkeypatch.setattr(flex, "compile_friendly_flex_attention", eager)
    monkeypatch.setattr(masking_utils, "create_block_mask", partial(_uncompiled, masking_utils.create_block_mask))
    batch = {name: value % 50 for name, value in Collator(48, 1)(blocks(2)).items() if name != "labels"}
    with torch.no_grad():
        exact = model(**batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(**batch).logits
    assert seen == [{torch.float32}, {torch.bfloat16}]
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.02)
    assert torch._dynamo.config.recompile_limit >= 64


def _uncompiled(create, **more):
    return create(**{**more, "_compile": False})


def test_a_batch_in_one_row_for_variable_length_kernels(tiny_model):
    batch = Collator(48, 1)(blocks(4))
    row = as_one_row(batch)
    # 30 + 10 + 8 of padding, 20 + 28, 9 + 3 + 36, 48
    assert row["cu_seq_lens_q"].tolist() == [0, 30, 40, 48, 68, 96, 105, 108, 144, 192]
    assert row["cu_seq_lens_q"].dtype == torch.int32 and row["max_length_q"] == row["max_length_k"] == 48
    assert torch.equal(row["cu_seq_lens_k"], row["cu_seq_lens_q"]) and row["input_ids"].shape == (1, 192)
    assert (row["labels"][0, [0, 48, 96, 144]] == IGNORED).all()  # nothing predicts across the seams
    model = load_model(str(tiny_model), torch.float32)
    tensors = {name: row[name] for name in batch}
    with torch.no_grad():
        wanted, found = (model(**inputs, use_cache=False).loss.item() for inputs in (batch, tensors))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_meter_by_hand(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pretrain.training.metering.time.monotonic", lambda: now[0])
    meter = Meter()
    meter.begin(4)
    for _ in range(2):
        meter.count(torch.tensor(300), seconds_waited=0.5)
    now[0] += 13
    meter.leave_out(3)  # an evaluation
    row = meter.read(6, 10, world_size=2, model=None, block_size=8)
    assert row.pop("memory_gib") > 0
    assert row == {
        "seconds_per_step": 5.0,
        "target_tokens_per_second": 60.0,
        "data_wait_share": 0.1,
        "seconds_left": 20,
    }
    meter.count(100, 0.0)
    now[0] += 1
    assert meter.read(7, 10, 2, None, 8)["target_tokens_per_second"] == 100


def test_the_plot_shows_every_curve_and_is_the_same_again(tmp_path):
    rows = [{"step": 0, "eval_loss": 3.5, "eval_loss_en": 3.0, "eval_loss_zh": 4.0}]
    rows += [{"step": step, "loss": 4.0 / step, "grad_norm": 1.0} for step in (1, 2)]
    rows += [{"step": 2, "eval_loss": 2.5, "eval_loss_en": 2.0, "eval_loss_zh": 3.0}]
    for name in ("a.svg", "b.svg"):
        plot_losses(rows, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("training", "held out, en", "held out, zh", "step"))
