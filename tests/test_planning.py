"""Plans: published parameter counts, ZeRO's own table of memory, what a real backward pass allocates, the batch kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import MissingInputError, SettingsError
from configs.files import REPOSITORY
from configs.settings import parse
from finetune.tuning import FinetuneArguments, FinetuneSettings, finetune
from pretrain import planning
from pretrain.models import empty_model, load_config
from pretrain.planning import GIB, Load, accumulation_steps, activation_bytes, find_card, memory_gib, plan_pretraining
from pretrain.pretraining import PretrainArguments
from pretrain.throughput import CARDS, flops_per_token
from pretrain.train import PretrainSettings
from pretrain.training.train_settings import TrainSettings

FOLDER = REPOSITORY / "configs" / "pretrain"
# Parameters as the hub counts them in the models' own files; InternLM's by its report's "7B", from its shapes by hand:
# 2 x 103168 x 4096 + 32 x (4 x (4096^2 + 4096) + 3 x 4096 x 11008 + 2 x 4096) + 4096.
PARAMETERS = {
    "mmedlm_7b": 7_321_948_160,
    "mmedlm2_7b": 7_737_708_544,
    "mmedlm2_1.8b": 1_889_110_016,
    "mmed_llama3_8b": 8_030_261_248,
    "mmed_llama3.1_70b": 70_553_706_496,
    "apollo_qwen_0.5b": 463_987_712,
    "apollo_qwen_1.8b": 1_836_828_672,
    "apollo_qwen_7b": 7_721_324_544,
    "apollo_gemma_2b": 2_506_172_416,
    "apollo_yi_6b": 6_061_035_520,
    "qwen3_8b": 8_190_735_360,
    "qwen3_1.7b": 1_720_574_976,
}
# Blocks and tokens a step: published for the MMed and Apollo models, ours for the others.
BATCHES = {"mmed": {2048: 512, 8192: 512}, "apol": {4096: 128}, "qwen": {4096: 256}}


def dry_run(*words):
    settings, args = parse("A test.", PretrainSettings, PretrainArguments, argv=["--dry_run", *map(str, words)])
    return settings, args


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("SLURM_STEP_ID", "SLURM_NNODES", "NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_every_settings_file_has_its_count():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_model_is_planned_without_hub_and_data(name, monkeypatch):
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)  # what would ask the hub
    settings, args = dry_run("--config", FOLDER / f"{name}.yaml")
    text = plan_pretraining(settings, args, None)
    batch = BATCHES[name[:4]][settings.block_size]
    assert f"{PARAMETERS[name]:,} parameters" in text
    assert f"= {batch:,} blocks of {settings.block_size:,} = {batch * settings.block_size:,} tokens" in text
    assert "fits   " in text and "WARNING" not in text and (REPOSITORY / args.deepspeed).is_file()
    published = 15_000 if name.startswith("mmed") else -(-settings.planned_tokens // (batch * settings.block_size))
    assert f"run    {int(published):,} steps" in text
    assert settings.model_name_or_path.startswith("models/")


def test_the_batch_stays_whatever_the_number_of_gpus():
    for num_gpus in (1, 2, 4, 8, 16, 32, 64):
        settings, args = dry_run("--config", FOLDER / "mmedlm2_7b.yaml", "--planned_gpus", num_gpus)
        text = plan_pretraining(settings, args, None)
        assert f"{num_gpus} devices x 8 blocks x {64 // num_gpus} micro-batches = 512 blocks" in text
    settings, args = dry_run("--config", FOLDER / "mmedlm2_7b.yaml", "--planned_gpus", 128)
    with pytest.raises(SettingsError, match="per_device_train_batch_size 4 would do"):
        plan_pretraining(settings, args, None)
    assert [accumulation_steps(512, 8, n) for n in (1, 8, 64)] == [64, 8, 1]
    for gpus in (3, 7, 1024):
        with pytest.raises(ValueError, match="no multiple"):
            accumulation_steps(512, 8, gpus)


def test_a_start_accumulates_to_the_global_batch(tmp_path):
    given = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "per_device_train_batch_size": 2}
    assert TrainSettings(**given, global_batch_size=12).gradient_accumulation_steps == 6
    with pytest.raises(ValueError, match="no multiple"):
        TrainSettings(**given, global_batch_size=13)
    with pytest.raises(ValueError, match="one of the two"):
        TrainSettings(**given, global_batch_size=12, gradient_accumulation_steps=2)


def test_processes_of_a_start_are_counted(monkeypatch):
    words = ("--config", FOLDER / "mmedlm2_1.8b.yaml", "--planned_gpus", "none")

    def planned():
        settings, args = dry_run(*words)
        return plan_pretraining(settings, args, None)

    assert "1 devices x 8 blocks x 64" in planned()
    monkeypatch.setenv("NUM_PROCESSES", "4")
    assert "4 devices x 8 blocks x 16" in planned()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NNODES", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert "16 devices x 8 blocks x 4" in planned()
    settings, args = dry_run(*words[:2])  # asked for: 8
    text = plan_pretraining(settings, args, None)
    assert "8 devices x 8 blocks x 8" in text and "a start would have 2 x 8 processes" in text


def test_states_of_the_model_are_those_of_the_zero_paper():
    # Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs; GB of 10^9 bytes.
    size = int(7.5e9)
    config = AutoConfig.for_model("llama")
    ours = Load(config, size, size, micro_batch_size=1, block_size=1, bf16=True, checkpointing=True)
    load = replace(ours, bf16_gradients=True)
    states, found = ["weights", "gradients", "optimizer"], {}
    for stage in (1, 2, 3):
        row = memory_gib(load, stage, 64)
        found[stage] = sum(row[name] for name in states) * GIB / 1e9
    assert found == {
        1: pytest.approx(31.4, abs=0.05),
        2: pytest.approx(16.6, abs=0.05),
        3: pytest.approx(1.9, abs=0.05),
    }
    assert memory_gib(load, 1, 1)["optimizer"] * GIB == 12 * size
    # Offloading takes from the GPU what that stage shares out, and there is none without DeepSpeed.
    moved = replace(load, offload_optimizer=True, offload_weights=True)
    kept = {stage: [name for name in states if memory_gib(moved, stage, 64)[name]] for stage in range(4)}
    assert kept == {0: states, 1: states[:2], 2: states[:1], 3: []}
    # Summed in float32, a gradient has 4 bytes, and stays on the GPU under stage 2.
    summed = [memory_gib(ours, stage, 64)["gradients"] * GIB for stage in (1, 2, 3)]
    assert summed == [4 * size, 4 * size / 64, 4 * size / 64]
    moved = replace(ours, offload_optimizer=True, offload_weights=True)
    assert [memory_gib(moved, stage, 64)["gradients"] * GIB for stage in (1, 2, 3)] == [4 * size, 4 * size / 64, 0]
    # An adapter of 1 %: the frozen rest is bfloat16 and has neither gradients nor optimizer.
    row = memory_gib(Load(config, size, size // 100, 1, 1, bf16=True, checkpointing=True), 0, 1)
    assert row["optimizer"] * GIB == pytest.approx(8 * size / 100)
    assert row["weights"] * GIB == pytest.approx(2 * size * 0.99 + 6 * size / 100)


LAYERED = {"num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("shape", "checkpointing"),
    [
        ({"hidden_size": 256, "intermediate_size": 688, "num_key_value_heads": 4, "vocab_size": 100}, True),
        ({"hidden_size": 256, "intermediate_size": 1536, "num_key_value_heads": 2, "vocab_size": 100}, False),
        ({"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2, "vocab_size": 20000}, True),
    ],
    ids=["recomputed", "kept", "logits"],
)
def test_activations_are_what_a_backward_pass_allocates(shape, checkpointing):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    config = AutoConfig.for_model("llama", **LAYERED, **shape)
    batch, length = 4, 1024
    with FakeTensorMode():  # shapes and sizes, no memory and no arithmetic
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        ids = torch.zeros(batch, length, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    allocated = sum(size for kind, size in peak.items() if str(kind).rpartition(".")[2] in ("ACT", "TEMP"))
    load = Load(config, 1, 1, batch, length, bf16=True, checkpointing=checkpointing)
    parts = activation_bytes(load)
    print(allocated, parts)
    assert parts["kept"] + max(parts["working"], parts["logits"]) == pytest.approx(allocated, rel=0.1)


def test_time_is_flops_over_what_the_cards_do():
    settings, args = dry_run("--config", FOLDER / "mmedlm2_7b.yaml", "--planned_mfu", "0.115")
    text = plan_pretraining(settings, args, None)
    # The published run, 8 A100 at the 11 to 12 % that its duration implies, took over 30 days.
    model = empty_model(load_config("models/none", settings.architecture)[0])
    seconds = flops_per_token(model, 2048) * 15_000 * 512 * 2048 / (8 * 312e12 * 0.115)
    assert f"({seconds / 86400:.1f} days) on 8 x NVIDIA A100-SXM4-80GB" in text and 28 < seconds / 86400 < 31


def test_what_does_not_fit_is_said_with_a_cure():
    def said(name, *words):
        settings, args = dry_run("--config", FOLDER / f"{name}.yaml", *words)
        return next(
            line for line in plan_pretraining(settings, args, None).splitlines() if "FIT" in line or "fits" in line
        )

    crowded = said("mmed_llama3.1_70b", "--planned_gpus", 8)
    assert crowded.startswith("DOES NOT FIT") and crowded.endswith("try more GPUs")
    small = ("--planned_card", "L40S", "--deepspeed", "configs/deepspeed/zero1.json")
    shared = ("--planned_card", "L40S", "--deepspeed", "configs/deepspeed/zero2.json")
    assert "try ZeRO 3, or a smaller per_device_train_batch_size" in said("mmedlm2_7b", *shared)
    assert "try ZeRO 2, or" in said("mmedlm2_7b", *small, "--per_device_train_batch_size", 4)
    assert "try activation_checkpointing, or" in said("mmedlm2_7b", "--activation_checkpointing", "false")
    large = ("--per_device_train_batch_size", 8, "--planned_gpus", 8)
    assert "a smaller per_device_train_batch_size" in said("mmed_llama3_8b", *large)
    assert said("mmed_llama3_8b", *large, "--use_liger_kernel", "true").startswith("fits")


def test_cards_are_found_by_the_beginning_of_their_names():
    assert find_card("NVIDIA H100 NVL")[0] == find_card("H100 N")[0] == "NVIDIA H100 NVL"
    for name in CARDS:  # some names begin like others: L4 and L40S, A10 and A100
        assert find_card(name)[0] == find_card(name.partition(" ")[2])[0] == name
    assert find_card("A100")[1].tflops == 312 and find_card("Instinct MI300X")[1].tflops == 1307.4
    with pytest.raises(SettingsError, match="H1000"):
        find_card("H1000")


def test_data_are_planned_with_and_checked(monkeypatch, tiny_model):
    index = {"splits": {"train": {"num_blocks": 1001, "num_tokens": 120_000}}}
    hashes = []
    blocks = SimpleNamespace(index=index, block_size=128, check_tokenizer=lambda *given: hashes.append(given))
    monkeypatch.setattr(planning, "TokenBlocks", lambda data, verify: blocks)
    words = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 5, "--num_train_epochs", 2)
    settings, args = dry_run("--model_name_or_path", tiny_model, "--data", "blocks", *words)
    text = plan_pretraining(settings, args, Path("blocks"))
    assert "1,001 blocks of 128 tokens, 120,000 tokens" in text and len(hashes) == 1
    assert "1 devices x 4 blocks x 5 micro-batches = 20 blocks" in text
    assert "run    102 steps" in text and "2.04 epochs" in text  # 51 steps an epoch, the last of them padded up
    settings.block_size = 256
    with pytest.raises(SettingsError, match="another size"):
        plan_pretraining(settings, args, Path("blocks"))
    settings.block_size = None
    with pytest.raises(MissingInputError, match="no length"):
        plan_pretraining(settings, args, None)
    settings.planned_tokens = 50  # not one block
    with pytest.raises(SettingsError, match="not one step"):
        plan_pretraining(settings, args, None)
    settings.planned_tokens = None
    args.max_steps = 7
    assert "run    7 steps" in plan_pretraining(settings, args, None)
    settings.block_size = 4096  # the model has 2,048 positions
    assert "WARNING the model was trained to 2,048 positions" in plan_pretraining(settings, args, None)


def test_finetuning_plans_with_its_questions_and_its_adapter(tiny_model, capsys):
    words = ["--model_name_or_path", str(tiny_model), "--data", str(REPOSITORY / "assets" / "sample"), "--dry_run"]
    words += ["--block_size", "4096", "--planned_gpus", "2", "--global_batch_size", "16", "--num_train_epochs", "3"]
    for lora in (True, False):
        finetune(*parse("A test.", FinetuneSettings, FinetuneArguments, argv=[*words, "--lora", str(lora)]))
        text = capsys.readouterr().out
        # Rank 16 on the seven projections of two layers: 16 x (inputs + outputs).
        adapter = 2 * 16 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 64) + (64 + 32))
        assert (f", {adapter:,} of them trained" in text) == lora
        assert "2 devices x 4 blocks x 2 micro-batches = 16 blocks of 4,096 = 65,536 tokens" in text
        num_blocks = int(text.partition(" blocks\n")[0].rpartition(" ")[2].replace(",", ""))
        assert f"run    {3 * -(-num_blocks // 16)} steps" in text


def test_a_wrong_architecture_is_named():
    with pytest.raises(SettingsError, match="no_such_type"):
        load_config("models/none", {"model_type": "no_such_type"})
    with pytest.raises(MissingInputError, match="there is no model"):
        load_config("models/none")
