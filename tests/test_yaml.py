"""Every settings file in configs/ is one that its script reads; DeepSpeed's leave to it what the settings say."""

from pathlib import Path

import pytest

from configs.files import read_json
from configs.settings import parse
from data_collection.sources.mappings import CorpusMapping
from finetune.tuning import FinetuneArguments, FinetuneSettings
from inference.eval import EvalSettings
from pretrain.prepare import PrepareSettings
from pretrain.pretraining import PretrainArguments
from pretrain.train import PretrainSettings
from scripts.ablation import AblationSettings

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = {
    "prepare": (PrepareSettings,),
    "pretrain": (PretrainSettings, PretrainArguments),
    "finetune": (FinetuneSettings, FinetuneArguments),
    "eval": (EvalSettings,),
    "mappings": (CorpusMapping,),
    "ablation": (AblationSettings,),
}
YAMLS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", YAMLS)
def test_a_settings_file_is_read_by_its_script(name):
    path = CONFIGS / name
    classes = CLASSES[path.stem if path.stem in CLASSES else path.parent.name]  # demo/pretrain.yaml, pretrain/x.yaml
    words = ["--config", str(path)]
    if classes == CLASSES["prepare"]:
        words += ["--input", "documents", "--output_dir", "blocks"]
    if classes == CLASSES["ablation"]:
        words += ["--output_dir", "ablation"]
    if any(hasattr(cls, "deepspeed") for cls in classes):
        words += ["--use_cpu", "--deepspeed", "none"]  # DeepSpeed would make a process group here
    assert len(parse("A test.", *classes, argv=words)) == len(classes)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_takes_batch_and_precision_from_the_settings(stage):
    content = read_json(CONFIGS / "deepspeed" / f"zero{stage}.json")
    assert content["zero_optimization"]["stage"] == stage
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert {content[name] for name in batch} == {"auto"} and content["bf16"]["enabled"] == "auto"


def test_the_published_settings_are_the_defaults_of_pretraining():
    args = PretrainArguments(deepspeed=None, use_cpu=True)
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay) == (2e-5, "cosine", 0.01)
    assert args.warmup_steps == 0.01 and args.output_dir is None
