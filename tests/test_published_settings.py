"""The published settings of fine-tuning: one file a base model of the paper's tables and method, and Apollo's mixture."""

from pathlib import Path

import pytest
import yaml

from configs.settings import parse
from finetune.mixtures import parse_mixture
from finetune.tuning import FinetuneArguments, FinetuneSettings

FOLDER = Path(__file__).parents[1] / "configs" / "finetune"
BASES = [
    "bloomz_7b",
    "internlm_7b",
    "llama2_7b",
    "medalpaca_7b",
    "chatdoctor_7b",
    "pmc_llama_7b",
    "mistral_7b",
    "meditron_7b",
    "internlm2_7b",
    "internlm2_1.8b",
    "biomistral_7b",
    "llama3_8b",
]
# MMedLM's README and scripts of fine-tuning; the two disagree on LoRA's learning rate (1e-6 and 2e-5).
PUBLISHED = {
    "full": {"learning_rate": 1e-6, "num_train_epochs": 5, "lora": False},
    "lora": {"learning_rate": 2e-5, "num_train_epochs": 3, "lora": True, "lora_rank": 16, "lora_dropout": 0.05},
}
BOTH = {"lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0, "block_size": 2048, "bf16": True}
NUM_GPUS, ROWS_A_BLOCK = 4, 8  # BLOOM cannot be packed: a row a block


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("base", BASES)
def test_a_file_says_what_was_published_and_the_script_reads_it(base, method):
    path = FOLDER / f"{base}_{method}.yaml"
    words = ["--config", str(path), "--use_cpu", "--deepspeed", "none"]  # DeepSpeed would make a process group here
    settings, args = parse("A test.", FinetuneSettings, FinetuneArguments, argv=words)
    for name, value in (PUBLISHED[method] | BOTH).items():
        assert getattr(settings if hasattr(settings, name) else args, name) == value, name
    rows = NUM_GPUS * args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert rows * (1 if base == "bloomz_7b" else ROWS_A_BLOCK) == 128
    if method == "lora":
        wanted = ["query_key_value"] if base == "bloomz_7b" else ["q_proj", "v_proj"]
        assert settings.lora_target_modules == wanted
        assert "1e-6" in path.read_text() and "2e-5" in path.read_text()


def test_files_of_one_method_differ_in_the_model_and_its_modules_alone():
    for method in PUBLISHED:
        files = [yaml.safe_load((FOLDER / f"{base}_{method}.yaml").read_text()) for base in BASES]
        names = {file.pop("model_name_or_path") for file in files}
        for file in files:
            file.pop("lora_target_modules", None)
        files = [file for file, base in zip(files, BASES, strict=True) if base != "bloomz_7b"]  # it is not packed
        assert len(names) == len(BASES) and all(file == files[0] for file in files)


def test_apollos_mixed_stage():
    words = ["--config", str(FOLDER / "apollo.yaml"), "--use_cpu", "--deepspeed", "none"]
    settings, args = parse("A test.", FinetuneSettings, FinetuneArguments, argv=words)
    assert (args.learning_rate, args.num_train_epochs, settings.block_size) == (1e-5, 1, 4096)
    assert 8 * args.per_device_train_batch_size * args.gradient_accumulation_steps == 128
    sources = {source.path.name: source for source in parse_mixture(settings.mixture)}
    twice = {name for name, source in sources.items() if (source.weight, source.priority) == (2, 2)}
    assert twice == {"exams", "dialogues", "general"}
    assert {(s.weight, s.priority) for name, s in sources.items() if name not in twice} == {(1, 16)}
