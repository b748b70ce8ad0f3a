"""Merging: a merged model has the adapter's logits, is never half there, and takes prompt and run record with it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.errors import ExitCode, SettingsError
from configs.files import read_json, write_json
from finetune import merging
from finetune.adapters import add_adapter, lora_config
from finetune.merge import MergeSettings
from finetune.merging import ADAPTER_RUN_FILE, MAX_DIFFERENCE, merge
from finetune.prompts import check_prompt, prompt_record, save_prompt
from inference import engines
from pretrain.models import find_model, load_config, load_model, load_tokenizer
from pretrain.training.running import already_done

IDS = torch.tensor([[0, 300, 301, 302, 17, 18]])


def make_adapter(base, folder, dora=False, rslora=False, targets=("all-linear",)):
    """An adapter that changes its base model, with what a run of finetune/train.py leaves beside it."""
    model = load_model(str(base), torch.float32)
    config = lora_config(model, rank=4, alpha=8, dropout=0.1, targets=targets, dora=dora, rslora=rslora)
    adapted = add_adapter(model, config, seed=1, activation_checkpointing=False)
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    load_tokenizer(str(base)).save_pretrained(folder)
    save_prompt(folder, languages=["ru", "en"])
    result = {"data": "questions", "method": "LoRA", "num_questions": 11}
    write_json(folder / "run.json", {"stage": "finetune", "status": "finished", "result": result})
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


@torch.no_grad()
def logits(folder):
    return load_model(str(folder), torch.float32).eval()(IDS).logits


@pytest.mark.parametrize("variant", ["plain", "dora", "rslora"])
def test_the_merged_model_has_the_adapters_logits(variant, tiny_model, tmp_path):
    options = {} if variant == "plain" else {variant: True}
    adapter = make_adapter(tiny_model, tmp_path / "adapter", **options)
    assert merge(MergeSettings(adapter, tmp_path / "whole")) == ExitCode.DONE
    assert (logits(tmp_path / "whole") - logits(adapter)).abs().max() < MAX_DIFFERENCE
    assert (logits(tmp_path / "whole") - logits(tiny_model)).abs().max() > 0.1
    assert not (tmp_path / "whole" / "adapter_config.json").exists()


def test_an_output_layer_that_shares_its_weights_is_merged_by_itself(tiny_model, tmp_path):
    """Merged into the weights that are the input embeddings too, its adapter would change these."""
    base = tmp_path / "tied"
    shutil.copytree(tiny_model, base)
    config = load_config(str(base))[0]
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "adapter", targets=["q_proj", "lm_head"])
    with torch.no_grad():
        assert (engines._load(str(adapter), "float32")(IDS).logits - logits(adapter)).abs().max() < MAX_DIFFERENCE
    assert merge(MergeSettings(adapter, tmp_path / "whole")) == ExitCode.DONE
    assert (logits(tmp_path / "whole") - logits(adapter)).abs().max() < MAX_DIFFERENCE


def test_prompt_record_and_run_record_go_with_it(adapter, tmp_path, capsys):
    settings = MergeSettings(adapter, tmp_path / "whole")
    merge(settings)
    assert capsys.readouterr().out.strip() == str(tmp_path / "whole")
    assert read_json(tmp_path / "whole" / "prompt.json") == prompt_record(languages=["en", "ru"])
    check_prompt(tmp_path / "whole")
    assert read_json(tmp_path / "whole" / ADAPTER_RUN_FILE) == read_json(adapter / "run.json")
    record = read_json(tmp_path / "whole" / "run.json")
    assert (record["stage"], record["status"]) == ("merge", "finished")
    result = record["result"]
    assert (result["data"], result["method"], result["adapter"]) == ("questions", "LoRA", str(adapter))
    assert max(result["largest_difference_merged"], result["largest_difference_saved"]) < MAX_DIFFERENCE
    tokens = load_tokenizer(str(tmp_path / "whole"))("Fieber, 发烧")["input_ids"]
    assert tokens == load_tokenizer(str(adapter))("Fieber, 发烧")["input_ids"]
    # In another precision the folder is another output; a folder of its own holds rounded weights.
    with pytest.raises(SettingsError, match="dtype was base"):
        merge(MergeSettings(adapter, tmp_path / "whole", "bfloat16"))
    merge(MergeSettings(adapter, tmp_path / "half", "bfloat16"))
    assert {p.dtype for p in load_model(str(tmp_path / "half"), "auto").parameters()} == {torch.bfloat16}
    assert read_json(tmp_path / "half" / "run.json")["result"]["largest_difference_saved"] > MAX_DIFFERENCE


def test_a_killed_merge_leaves_no_model_and_the_same_command_makes_it(adapter, tmp_path, monkeypatch):
    settings, output = MergeSettings(adapter, tmp_path / "whole"), tmp_path / "whole"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_largest_difference", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(settings)
    moved = []

    def replace_three(path, target, really=Path.replace):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(target)
        return really(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_three)
        with pytest.raises(KeyboardInterrupt):
            merge(settings)
    assert len(moved) == 3 and (output / "model.safetensors").exists() == any("safetensors" in p.name for p in moved)
    with pytest.raises(ValueError, match="holds no model"):
        find_model(str(output))
    assert read_json(output / "run.json")["status"] == "failed"
    assert merge(settings) == ExitCode.DONE
    assert (logits(output) - logits(adapter)).abs().max() < MAX_DIFFERENCE
    assert not (output / ".merging").exists()
    monkeypatch.setattr(merging, "load_model", lambda *_: pytest.fail("it merges again"))
    assert merge(settings) == ExitCode.DONE


def test_a_checkpoint_is_merged_with_the_records_of_its_run(adapter, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(adapter, run / "checkpoint-20")
    for name in ("run.json", "prompt.json"):
        shutil.move(run / "checkpoint-20" / name, run / name)
    merge(MergeSettings(run / "checkpoint-20", tmp_path / "whole"))
    assert read_json(tmp_path / "whole" / "prompt.json") == prompt_record(languages=["en", "ru"])
    assert read_json(tmp_path / "whole" / "run.json")["result"]["method"] == "LoRA"


def test_what_is_no_adapter_is_refused(tiny_model, tmp_path):
    with pytest.raises(SettingsError, match="only an adapter") as refused:
        merge(MergeSettings(tiny_model, tmp_path / "whole"))
    assert refused.value.where == str(tiny_model) and not (tmp_path / "whole").exists()


def test_nobody_elses_weights_are_written_over(adapter, tiny_model, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    weights = (base / "model.safetensors").read_bytes()
    with pytest.raises(SettingsError, match="did not write"):
        merge(MergeSettings(adapter, base))
    (tmp_path / "theirs" / "checkpoint-500").mkdir(parents=True)  # would be removed as half-written
    for folder in (base, tmp_path / "theirs"):
        with pytest.raises(SettingsError, match="did not write"):
            already_done(SimpleNamespace(output_dir=str(folder)), "finetune", "name", {})
    assert (base / "model.safetensors").read_bytes() == weights and not (base / "run.json").exists()


def test_a_merge_that_answers_otherwise_is_refused(adapter, tmp_path, monkeypatch):
    """As when the base model's file is another than the adapter was trained on, or PEFT merges wrongly."""
    differences = iter([MAX_DIFFERENCE / 2, 2 * MAX_DIFFERENCE, float("nan")])
    monkeypatch.setattr(merging, "_largest_difference", lambda *_: next(differences))
    for _ in range(2):  # as saved, then as merged
        with pytest.raises(SettingsError, match="does not answer as the adapter does"):
            merge(MergeSettings(adapter, tmp_path / "whole"))
        assert not (tmp_path / "whole" / "config.json").exists()
