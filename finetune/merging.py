"""The work of merge.py: an adapter and its base model to one model of the same logits."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.errors import SettingsError
from configs.files import read_json
from configs.progress import log
from data_collection.questions.question import Question
from finetune import adapters
from finetune.prompts import PROMPT_FILE, beside, render_prompt
from pretrain.models import (
    already_made,
    base_of,
    find_model,
    is_adapter,
    load_model,
    load_tokenizer,
    model_identity,
)
from pretrain.older_readers import write_for_older_readers

MAX_DIFFERENCE = 1e-4  # of a logit, between float32 weights
ADAPTER_RUN_FILE = "finetune_run.json"
_WORK = ".merging"
_LANGUAGES = ("en", "zh", "ru")  # a few prompts in three scripts


def merge(settings: Any) -> int:
    """Merge, compare the logits before and after, save; returns the exit code.

    The folder becomes a model with its last file, config.json: a merge that was killed leaves none behind, and the same
    command begins it anew.

    Raises:
        SettingsError: the folder holds no adapter, the output's holds others' weights, or the merged model's logits are
            not the adapter's.
    """
    adapter = find_model(str(settings.input))
    if not is_adapter(adapter):
        raise SettingsError(
            "only an adapter can be merged",
            where=adapter,
            found="a whole model",
            wanted="a folder with adapter_config.json",
            todo="use the model as it is, or give the output folder of finetune/train.py --lora",
        )
    adapters.check_adapter(adapter)
    base, output_dir = base_of(adapter), settings.output_dir
    identity = {"adapter": model_identity(adapter), "base": model_identity(base), "dtype": settings.dtype}
    if already_made(output_dir, identity):
        log.info(f"already done: {output_dir}")
        print(output_dir)
        return 0
    run_file, prompt_file = (beside(Path(adapter), name) for name in ("run.json", PROMPT_FILE))
    earlier = read_json(run_file) if run_file else {}
    with records.run_record(output_dir, "merge", {**asdict(settings), "base": base}, identity) as record:
        work = output_dir / _WORK
        shutil.rmtree(work, ignore_errors=True)
        tokenizer = load_tokenizer(adapter)
        differences = _save_merged(adapter, tokenizer, settings.dtype, work)
        for source, name in ((run_file, ADAPTER_RUN_FILE), (prompt_file, PROMPT_FILE)):
            if source:
                shutil.copyfile(source, work / name)
        for path in sorted(work.iterdir(), key=lambda path: path.name == "config.json"):
            path.replace(output_dir / path.name)
        work.rmdir()
        record.finish("finished", **{**earlier.get("result", {}), "adapter": adapter, **differences})
    log.info(", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in differences.items()))
    print(output_dir)
    return 0


def _save_merged(adapter: str, tokenizer: Any, precision: str, folder: Path) -> dict[str, float]:
    """Save the merged model; returns the largest differences of a logit, merged in float32 and as saved."""
    prompts = [
        tokenizer(render_prompt(Question("", lang, "?", {"A": "+", "B": "-"}, ()), "with_rationale"))["input_ids"]
        for lang in _LANGUAGES
    ]
    model = load_model(adapter, torch.float32).eval()
    wanted = _logits(model, prompts)
    model = adapters.merged(model)
    merged = _largest_difference(_logits(model, prompts), wanted)
    _check(merged, adapter)
    dtype = _stored_dtype(base_of(adapter)) if precision == "base" else getattr(torch, precision)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_for_older_readers(folder)
    del model
    saved = _largest_difference(_logits(load_model(str(folder), torch.float32).eval(), prompts), wanted)
    if dtype == torch.float32:  # rounding to another precision moves the logits, and is what was asked for
        _check(saved, folder)
    return {"largest_difference_merged": merged, "largest_difference_saved": saved}


@torch.no_grad()
def _logits(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits after every token, each (T, V), multiplied out in float64; the float32 weights come back unchanged.

    In float32 the order of sums alone moves a logit of SmolLM2 by 1e-4, as much as is looked for here.
    """
    model.double()
    logits = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in prompts]
    model.float()
    return logits


def _largest_difference(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def _check(difference: float, where: str | Path) -> None:
    if not difference < MAX_DIFFERENCE:  # so that a NaN is refused too
        raise SettingsError(
            "the merged model does not answer as the adapter does",
            where=where,
            found=f"a logit differs by {difference:.1e}",
            wanted=f"less than {MAX_DIFFERENCE:.0e}",
            todo="use the adapter unmerged; its weights, or the base model's, may have changed since its training",
        )


def _stored_dtype(base: str) -> torch.dtype:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32
