"""A real result by the repository's own commands: the base model, fine-tuned, and fine-tuned after pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from configs.errors import MissingInputError
from configs.files import REPOSITORY, atomic_open, read_json
from scripts.bench.gpu.materials import (
    SMOLLM2,
    GpuBenchSettings,
    command,
    data_folder,
    has_weights,
    make_model,
    real_model,
)
from scripts.bench.gpu.measures import Measure

CONFIG = REPOSITORY / "configs" / "ablation" / "smollm2_135m.yaml"
_QUICK = {
    "prepare": {"block_size": 512},
    "pretrain": {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    "finetune": {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    "eval": {"max_questions_per_language": 1, "max_new_tokens": 2, "max_new_tokens_answer_only": 2},
}


def real(settings: GpuBenchSettings) -> Mapping[str, Measure]:
    """The measures of the part.

    Raises:
        MissingInputError: there are no real weights to begin with.
    """
    if not settings.quick and not has_weights(real_model(settings)):
        raise MissingInputError(
            "a real result wants a real model",
            where="--model",
            wanted="a folder with config.json, tokenizer.json and safetensors",
            todo="python scripts/download.py smollm2-135m",
        )
    return {"base": partial(evaluate_base, settings), "rows": partial(run_rows, settings)}


def evaluate_base(settings: GpuBenchSettings) -> dict[str, Any]:
    """The scores of the model that both rows begin with."""
    shared, output = yaml.safe_load(CONFIG.read_text(encoding="utf-8")), settings.output_dir / "run-real" / "base"
    words = ["--config", REPOSITORY / shared["eval"], "--model_name_or_path", make_model(settings, SMOLLM2)]
    words += ["--data", data_folder(settings), "--output_dir", output, "--label", "base"]
    for name, value in (_QUICK["eval"] if settings.quick else {}).items():
        words += [f"--{name}", value]
    command("inference/eval.py", *words)
    return averages(output)


def run_rows(settings: GpuBenchSettings) -> dict[str, Any]:
    """scripts/ablation.sh with configs/ablation/smollm2_135m.yaml, on documents without test questions.

    Ended by a time limit, the same command goes on.
    """
    output, data = settings.output_dir / "run-real", data_folder(settings)
    documents = sorted((data / "documents").glob("*.medical.jsonl"))
    corpus = output / "corpus"
    command("data_collection/decontaminate.py", "--input", *documents, "--test", data, "--output_dir", corpus)
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values |= {"model_name_or_path": str(make_model(settings, SMOLLM2)), "data": str(data)}
    values["corpus"] = {name: [str(corpus)] for name in values["corpus"]}
    if settings.quick:
        for row in values["rows"].values():
            row.update({stage: _QUICK[stage] for stage in (_QUICK if row.get("corpus") else ("finetune", "eval"))})
    config = output / "ablation.yaml"
    with atomic_open(config) as file:
        yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)
    command("scripts/ablation.sh", "--config", config, "--output_dir", output / "ablation", "--local")
    return {"table": (output / "ablation" / "ablation.md").read_text(encoding="utf-8")} | {
        record["result"]["label"]: averages(path.parent) | {"seconds": record["wall_seconds"]}
        for path in sorted((output / "ablation" / "eval").glob("*/run.json"))
        for record in [read_json(path)]
    }


def averages(folder: Path) -> dict[str, Any]:
    """Of an evaluation's folder: the averages over the languages, with intervals, by kind of asking."""
    average = read_json(folder / "scores.json")["runs"][0]["average"]
    names = ("accuracy", "bleu_1_sentence", "rouge_1_f")
    kept = [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_standard_error")]
    kept.append("chance_level")
    return {kind: {name: of[name] for name in kept if name in of} for kind, of in average.items()}
