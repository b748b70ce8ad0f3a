"""Evaluation during training: dev accuracy, the best checkpoint, early stopping, and all of it interrupted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.errors import ExitCode, FailedItems, SettingsError
from configs.files import read_json
from data_collection.questions.answers import parse_answer
from finetune import adapters, development
from finetune.prompts import render_prompt
from finetune.rows import read_train, split_dev
from pretrain.models import load_model, load_tokenizer
from pretrain.training import running, trainer
from pretrain.training.callbacks import read_metrics
from pretrain.training.train_settings import TrainSettings

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"


def command_line(output, model, **more):
    """The words after finetune/train.py for a run of seconds, evaluated every second step."""
    settings = {
        "data": SAMPLE,
        "languages": "es",
        "model_name_or_path": model,
        "output_dir": output,
        "kinds": "answer_only",
        "max_steps": 8,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "block_size": 512,
        "dev_share": 0.22,
        "bf16": "false",
        "report_to": "none",
        **more,
    }
    return [str(word) for name, value in settings.items() for word in (f"--{name}", *str(value).split())]


def main_of(words, monkeypatch):
    """Run finetune/train.py in this process."""
    from finetune import train

    for name in ("NUM_PROCESSES", "SLURM_STEP_ID", "RANK", "STOP_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    return train.main()


def evaluations(output):
    """Step to metrics of the last evaluation there."""
    return {row["step"]: row for row in read_metrics(output / "metrics.jsonl") if "eval_loss" in row}


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_model):
    """A small model that has learnt to write letters, with its run's folder."""
    output, patch = tmp_path_factory.mktemp("taught") / "run", pytest.MonkeyPatch()
    words = command_line(output, tiny_model, max_steps=60, eval_steps=30, save_steps=100, languages="es fr zh")
    assert main_of(words, patch) == ExitCode.DONE
    patch.undo()
    return output


def test_dev_accuracy_is_that_of_asking_the_saved_model_question_by_question(taught):
    """A plain greedy loop, one question at a time, without cache or batches."""
    model, tokenizer = load_model(str(taught), torch.float32).eval(), load_tokenizer(str(taught))
    dev = split_dev(read_train(SAMPLE, ["es", "fr", "zh"], FailedItems()), 0.22)[1]
    right = {lang: [] for lang in ("es", "fr", "zh")}
    unparsed = []
    for question in dev:
        prompt = tokenizer(render_prompt(question, "answer_only"))["input_ids"]
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(development.MAX_NEW_TOKENS):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    break
        parsed = parse_answer(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True), question.options)
        right[question.lang].append(parsed == question.answers)
        unparsed.append(parsed is None)
    assert all(len(found) == 9 for found in right.values())
    wanted = {lang: sum(found) / 9 for lang, found in right.items()}
    found = evaluations(taught)
    assert sorted(found) == [0, 30, 60]
    last = found[60]
    assert {lang: last[f"eval_accuracy_{lang}"] for lang in wanted} == wanted
    assert last["eval_accuracy"] == pytest.approx(sum(wanted.values()) / 3)
    assert last["eval_unparsed"] == sum(unparsed) / 27
    assert last["eval_accuracy"] > 0 and last["eval_unparsed"] < found[0]["eval_unparsed"]  # else this shows nothing
    assert read_json(taught / "run.json")["result"]["after"]["accuracy"] == wanted
    assert read_json(taught / "generation_config.json").get("max_new_tokens") is None


@pytest.mark.parametrize("lora", [False, True])
def test_generating_leaves_a_model_as_it_was(lora, tiny_model):
    model = load_model(str(tiny_model), torch.float32, "flex_attention")
    if lora:
        config = adapters.lora_config(model, rank=2, alpha=2, dropout=0, targets=["all-linear"])
        model = adapters.add_adapter(model, config, seed=0, activation_checkpointing=False)
    inner, config = model.get_submodule("base_model.model" if lora else ""), model.generation_config
    with development.ready_to_generate(model):
        assert inner.config._attn_implementation == inner.model.config._attn_implementation == "sdpa"
        list(development.generate(model, load_tokenizer(str(tiny_model)), ["What is it?"], 2, 1))
    assert inner.config._attn_implementation == inner.model.config._attn_implementation == "flex_attention"
    assert model.generation_config is config


@pytest.fixture
def scripted(monkeypatch):
    """Accuracies by step as the test says; keeps the trained weights of each evaluation."""
    weights = {}

    def script(accuracies):
        def measure(self, model):
            step = self.state.global_step
            state = self.accelerator.get_state_dict(self.model)
            weights.setdefault(step, {name: value.clone() for name, value in state.items()})
            metrics = trainer.PackedTrainer.measure(self, model)
            return {**metrics, "eval_accuracy": accuracies[step]} if step in accuracies else metrics

        monkeypatch.setattr(development.FinetuneTrainer, "measure", measure)
        return weights

    return script


BEST = {"load_best_model_at_end": "true", "save_total_limit": 2, "max_dev_questions_per_language": 1}


@pytest.mark.parametrize("best", [2, 4, 8])
def test_the_best_checkpoint_is_the_result_wherever_it_was(best, scripted, tiny_model, tmp_path, monkeypatch):
    """Between two checkpoints (2), at one that later ones would push out (4), and at the last step, which has none."""
    weights = scripted({step: 0.5 + 0.1 * (step == best) for step in range(0, 9, 2)})
    lora = {"lora": "true"} if best == 2 else {}
    words = command_line(tmp_path / "run", tiny_model, **BEST, **lora)
    assert main_of(words, monkeypatch) == ExitCode.DONE
    saved = load_file(tmp_path / "run" / ("adapter_model.safetensors" if lora else "model.safetensors"))
    wanted = weights[best]
    if lora:
        wanted = {name.replace(".default", ""): value for name, value in wanted.items() if "lora_" in name}
    assert saved.keys() == wanted.keys() and all(torch.equal(saved[name], wanted[name]) for name in saved)
    record = read_json(tmp_path / "run" / "run.json")["result"]
    assert record["best_step"] == best and record["num_steps"] == 8
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    assert steps == [0, 2, 4, 6, 8] + [8] * (best != 8)  # the result is evaluated, once
    assert not list((tmp_path / "run").glob("checkpoint-*"))


class Killed(BaseException):
    pass


def test_a_run_that_stops_early_ends_as_if_in_one_piece_wherever_it_is_killed(
    scripted, tiny_model, tmp_path, monkeypatch
):
    curve = {0: 0.1, 2: 0.3, 4: 0.6, 6: 0.2, 8: 0.6, 10: 0.9, 12: 1.0, 14: 1.0}
    scripted(curve)
    more = {**BEST, "early_stopping_patience": 2, "max_steps": 14, "save_steps": 2}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert main_of(command_line(straight, tiny_model, **more), monkeypatch) == ExitCode.DONE
    result = read_json(straight / "run.json")["result"]
    assert (result["num_steps"], result["best_step"]) == (8, 4)  # 6 and 8 were no better
    words = command_line(killed, tiny_model, **more)

    def die(*_):
        raise Killed

    # In a step after a checkpoint with one bad evaluation counted, and before the result of the stopped run is saved.
    step = trainer.PackedTrainer.training_step
    monkeypatch.setattr(
        trainer.PackedTrainer,
        "training_step",
        lambda self, *a: die() if self.state.global_step == 7 else step(self, *a),
    )
    with pytest.raises(Killed):
        main_of(words, monkeypatch)
    monkeypatch.setattr(trainer.PackedTrainer, "training_step", step)
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    save = running.save_result
    monkeypatch.setattr(running, "save_result", die)
    with pytest.raises(Killed):
        main_of(words, monkeypatch)
    monkeypatch.setattr(running, "save_result", save)
    assert main_of(words, monkeypatch) == ExitCode.DONE
    found, wanted = (load_file(folder / "model.safetensors") for folder in (killed, straight))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    results = [read_json(folder / "run.json")["result"] for folder in (killed, straight)]
    assert results[0]["num_steps"] == 8 and results[0]["after"] == results[1]["after"]
    rows = [{step: row["eval_loss"] for step, row in evaluations(folder).items()} for folder in (killed, straight)]
    assert rows[0] == rows[1]


def test_what_cannot_be_chosen_by_is_refused_before_a_model_is_loaded(tiny_model, tmp_path, monkeypatch):
    for wrong, said in (
        ({"dev_share": 0}, "0 dev questions"),
        ({"kinds": "with_rationale"}, "kinds with_rationale"),
        ({"max_dev_questions_per_language": 0}, "max_dev_questions_per_language 0"),
    ):
        with pytest.raises(SettingsError, match="no dev questions") as refused:
            main_of(command_line(tmp_path / "run", tiny_model, **{**BEST, **wrong}), monkeypatch)
        assert said in refused.value.found
    with pytest.raises(SettingsError, match="eval_strategy is no"):
        words = command_line(tmp_path / "run", tiny_model, early_stopping_patience=1, eval_strategy="no")
        main_of(words, monkeypatch)
    with pytest.raises(SettingsError, match="no such figure") as refused:
        main_of(command_line(tmp_path / "run", tiny_model, **BEST, metric_for_best_model="acuracy"), monkeypatch)
    assert "accuracy_es" in refused.value.wanted and not list((tmp_path / "run").glob("checkpoint-*"))
    shutil.rmtree(tmp_path / "run")
    # By loss nothing is asked; without evaluations during training nothing is either.
    by_loss = {**BEST, "max_dev_questions_per_language": 0, "metric_for_best_model": "loss", "max_steps": 2}
    assert main_of(command_line(tmp_path / "run", tiny_model, **by_loss), monkeypatch) == ExitCode.DONE
    monkeypatch.setattr(development, "generate", lambda *_: pytest.fail("it asks"))
    plain = command_line(tmp_path / "plain", tiny_model, eval_strategy="no", max_steps=1)
    assert main_of(plain, monkeypatch) == ExitCode.DONE
    assert not any("accuracy" in name for row in evaluations(tmp_path / "plain").values() for name in row)


def test_less_is_better_of_all_but_accuracies(tmp_path):
    for name, more_is_better in {"loss_en": False, "perplexity": False, "unparsed": False, "accuracy_en": True}.items():
        found = TrainSettings(output_dir=str(tmp_path), metric_for_best_model=name, bf16=False)
        assert found.greater_is_better is more_is_better


def test_ranks_with_unequal_shares_under_zero_3_find_the_accuracy_of_one_process(taught, tmp_path, script_env):
    """27 questions for two ranks, whose answers end after different numbers of tokens."""
    more = {"languages": "es fr zh", "deepspeed": "configs/deepspeed/zero3.json", "per_device_eval_batch_size": 2}
    more |= {"max_steps": 2, "save_steps": 1, "eval_steps": 1, "learning_rate": 1e-3, "load_best_model_at_end": "true"}
    more |= {"metric_for_best_model": "unparsed", "greater_is_better": "false"}  # as good after both steps
    words = command_line(tmp_path / "run", taught, **more)
    env = script_env | {"NUM_PROCESSES": "2", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "finetune/train.py", *words]
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == ExitCode.DONE, answer.stderr
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    one = evaluations(taught)[60]
    names = [name for name in one if "accuracy" in name or "unparsed" in name]
    assert len(names) == 5 and [row["step"] for row in rows] == [0, 1, 2, 2]
    assert {name: rows[0][name] for name in names} == {name: pytest.approx(one[name]) for name in names}
    # The first of two equally good checkpoints was loaded, from the parts of both ranks, evaluated and saved.
    assert rows[3]["eval_loss"] == pytest.approx(rows[1]["eval_loss"]) != rows[2]["eval_loss"]
    assert read_json(tmp_path / "run" / "run.json")["result"]["best_step"] == 1
