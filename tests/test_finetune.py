"""Fine-tuning: exact labels, dev split, packed examples, LoRA from the command line to an adapter."""

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from configs.errors import EnvironmentFailure, ExitCode, FailedItems, MissingInputError, SettingsError
from configs.files import read_json, write_json
from data_collection.questions.question import Question
from finetune import prompts, tuning
from finetune.examples import (
    PackedExamples,
    find_benchmark,
    to_segments,
)
from finetune.prompts import KINDS, check_prompt, prompt_record, render_completion, render_prompt, save_prompt
from finetune.rows import read_rows, read_train, split_dev
from finetune.styles import PLAIN
from pretrain.models import load_model, load_tokenizer
from pretrain.token_blocks.blocks import IGNORED, Collator
from pretrain.training.callbacks import read_metrics
from pretrain.training.trainer import PackedTrainer

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
TOKENIZERS = ["tiny", "smollm2-135m", "tokenizers/gemma3", "tokenizers/llama3", "tokenizers/qwen3"]


def sample_questions(per_language=5):
    questions = read_train(SAMPLE, None, FailedItems())
    return [question for question in questions if int(question.id.rsplit("/", 1)[1]) <= per_language]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_labels_are_the_completion_and_its_end_token_and_the_prompt_is_that_of_inference(name, tiny_model):
    folder = tiny_model if name == "tiny" else ROOT / "models" / name
    if not folder.is_dir():
        pytest.skip(f"models/{name} is missing: python scripts/download.py {name.split('/')[0]}")
    tokenizer = load_tokenizer(str(folder))
    questions, failed = sample_questions(), FailedItems()
    assert len(questions) == 30 and {question.lang for question in questions} == {"en", "zh", "ja", "fr", "ru", "es"}
    segments = to_segments(questions, tokenizer, 4096, failed)
    assert len(segments) == 2 * len(questions) and not failed
    for (ids, labels), (question, kind) in zip(segments, [(q, k) for q in questions for k in KINDS], strict=True):
        prompt_ids = tokenizer(render_prompt(question, kind))["input_ids"]
        assert ids[: len(prompt_ids)].tolist() == prompt_ids
        assert (labels[: len(prompt_ids)] == IGNORED).all() and (labels == ids)[len(prompt_ids) :].all()
        *taught, end = labels[len(prompt_ids) :].tolist()
        assert end == tokenizer.eos_token_id and end not in taught
        text = tokenizer.decode(taught, clean_up_tokenization_spaces=False)
        assert text == unicodedata.normalize("NFC", render_completion(question, kind))


def test_completions_by_hand():
    question = Question("q", "es", "¿Cuál?", {"A": "uno", "B": "dos", "C": "tres"}, ("A", "C"), "Porque sí.")
    assert render_completion(question, "with_rationale") == " Porque sí.\n\n### Answer: A, C"
    assert render_completion(question, "answer_only") == " A, C"
    assert render_prompt(question, "with_rationale").endswith("\n\n¿Cuál?\nA. uno\nB. dos\nC. tres\n\n### Rationale:")
    assert render_prompt(question, "answer_only").endswith("C. tres\n\n### Answer:")


def test_what_cannot_be_taught_is_listed(tiny_model):
    options = {"A": "yes", "B": "no"}
    short = Question("short", "en", "Is it?", options, ("A",), "It is.")
    bare = Question("bare", "en", "Is it not?", options, ("B",))
    withheld = Question("withheld", "en", "Who knows?", options, (), "Nobody.")
    long = Question("long", "en", "Is it? " * 40, options, ("A",), "It is.")
    tokenizer, failed = load_tokenizer(str(tiny_model)), FailedItems()
    segments = to_segments([short, bare, withheld, long], tokenizer, 120, failed)
    listed = [(item["where"], item["reason"].split(",")[0]) for item in failed.items]
    assert listed[:3] == [
        ("bare (with_rationale)", "the question has no rationale"),
        ("withheld (with_rationale)", "the question has no answer"),
        ("withheld (answer_only)", "the question has no answer"),
    ]
    assert [where for where, _ in listed[3:]] == ["long (with_rationale)", "long (answer_only)"]
    assert all(reason.endswith(" tokens") and int(reason.split()[0]) > 120 for _, reason in listed[3:])
    assert len(segments) == 3
    # A row that fits exactly is taught.
    longest = max(len(ids) for ids, _ in segments)
    assert len(to_segments([short, bare], tokenizer, longest, FailedItems())) == 3
    assert len(to_segments([short, bare], tokenizer, longest - 1, FailedItems())) == 2


def test_packed_examples_teach_what_they_teach_alone(tiny_model):
    tokenizer, model = load_tokenizer(str(tiny_model)), load_model(str(tiny_model), torch.float32)
    segments = to_segments(sample_questions(1), tokenizer, 1024, FailedItems())
    examples = PackedExamples(segments, 1024)
    assert 1 < len(examples) < len(segments) == 12
    assert sorted(len(ids) for block in map(list, examples) for ids, _ in block) == sorted(
        map(len, (s[0] for s in segments))
    )
    packed = Collator(1024, tokenizer.pad_token_id)([examples[i] for i in range(len(examples))])
    total = count = 0
    with torch.no_grad():
        loss = model(**packed, use_cache=False).loss.item()
        for ids, labels in segments:
            logits = model(torch.from_numpy(ids)[None, :-1]).logits[0]
            targets = torch.from_numpy(labels).long()[1:]
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED).item()
            count += int((targets != IGNORED).sum())
    assert count == int((packed["labels"] != IGNORED).sum())
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_settings_that_no_adapter_has_are_refused():
    assert tuning.FinetuneSettings(lora_dropout=0.0).problems() == []
    found = tuning.FinetuneSettings(lora_dropout=1.0, lora_rank=0, dev_share=1.0, lora=True, qlora=True).problems()
    assert [problem.split(maxsplit=1)[0] for problem in found] == ["dev_share", "lora_rank", "lora_dropout", "lora"]


def test_dev_is_held_out_of_train_by_hash():
    questions = read_train(SAMPLE, None, FailedItems())
    assert len(questions) == 252
    twice = [*questions, *(Question(f"{q.id}-again", q.lang, q.question, q.options, q.answers) for q in questions[::5])]
    train, dev = split_dev(twice, 0.1)
    assert all(question.id.startswith("Train/") for question in train + dev)
    assert sorted(q.id for q in train + dev) == sorted(q.id for q in twice)
    assert not {q.content_hash for q in train} & {q.content_hash for q in dev}
    for lang in {question.lang for question in questions}:
        assert len({q.content_hash for q in dev if q.lang == lang}) == 4  # of 42
    # One language alone, in another order, is split as before.
    only = [question for question in reversed(twice) if question.lang == "ru"]
    assert {q.id for q in split_dev(only, 0.1)[1]} == {q.id for q in dev if q.lang == "ru"}
    assert split_dev(questions, 0.0) == (questions, [])


def without_test_questions(data, **more):
    more = {"keep_contaminated": False, "dev_share": 0.0, **more}
    failed = FailedItems()
    rows = read_rows(data, None, None, failed, **more)
    assert not failed
    return rows


def test_training_questions_that_are_test_questions_are_left_out_and_listed(tmp_path, tiny_model, monkeypatch):
    questions = read_train(SAMPLE, None, FailedItems())
    clean = without_test_questions(SAMPLE)
    assert clean.train == [questions] and not clean.contaminated
    shutil.copytree(SAMPLE / "mmedbench", tmp_path, dirs_exist_ok=True)
    stolen = {}
    for lang, name in (("en", "English"), ("zh", "Chinese"), ("ja", "Japanese"), ("fr", "French"), ("es", "Spanish")):
        row = json.loads((tmp_path / "Test" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[4])
        texts = list(row["options"].values())
        row |= {
            "question": f"12. {row['question'].upper()}",
            "options": dict(zip("ABCDEFGH", texts[::-1], strict=False)),
        }
        with open(tmp_path / "Train" / f"{name}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "answer_idx": "A"}, ensure_ascii=False) + "\n")
        stolen[lang] = f"Train/{name}/00043", f"Test/{name}/00005"
    rows = without_test_questions(tmp_path)
    assert [q.content_hash for q in rows.train[0]] == [q.content_hash for q in questions]
    assert {row["row"]: row["test_question"] for row in rows.contaminated} == dict(stolen.values())
    assert all(0.5 <= row["share"] <= 1 for row in rows.contaminated)
    more = read_train(tmp_path, None, FailedItems())
    assert without_test_questions(tmp_path, keep_contaminated=True).train == [more]

    # From the command line: no failed items, so exit code 0; listed beside run.json, and what is clean is taught.
    small = {"block_size": 2048, "per_device_train_batch_size": 1, "max_steps": 1, "dev_share": 0}
    words = [*command_line(tmp_path, tiny_model, **small), "--languages", "en"]
    assert main_of(words, monkeypatch)() == ExitCode.DONE
    (listed,) = [json.loads(line) for line in (tmp_path / "run" / "contaminated.jsonl").read_text().splitlines()]
    assert listed == rows.contaminated[0] and not (tmp_path / "run" / "failures.jsonl").exists()
    result = read_json(tmp_path / "run" / "run.json")["result"]
    assert (result["num_contaminated"], result["num_rows"]) == (1, 42)
    kept = [*words, "--keep_contaminated", "true", "--output_dir", str(tmp_path / "kept")]
    assert main_of(kept, monkeypatch)() == ExitCode.DONE
    result = read_json(tmp_path / "kept" / "run.json")["result"]
    assert (result["num_contaminated"], result["num_rows"]) == (0, 43)
    assert not (tmp_path / "kept" / "contaminated.jsonl").exists()
    shutil.rmtree(tmp_path / "Test")
    assert without_test_questions(tmp_path).train == [more]  # nothing to compare with


def test_questions_are_found_or_said_to_be_missing(tmp_path):
    assert find_benchmark(SAMPLE) == SAMPLE and find_benchmark(SAMPLE / "mmedbench") == SAMPLE / "mmedbench"
    with pytest.raises(MissingInputError, match="no questions"):
        find_benchmark(tmp_path)
    with pytest.raises(MissingInputError, match="Train questions in fr"):
        shutil.copytree(SAMPLE / "mmedbench" / "Test", tmp_path / "Test")
        (tmp_path / "Train").mkdir()
        shutil.copy(SAMPLE / "mmedbench" / "Train" / "English.jsonl", tmp_path / "Train")
        read_train(tmp_path, ["en", "fr"], FailedItems())


def test_weights_taught_another_prompt_are_refused(tmp_path, monkeypatch):
    check_prompt(tmp_path)  # a base model has no record
    save_prompt(tmp_path)
    check_prompt(tmp_path)
    before = prompt_record()
    monkeypatch.setitem(prompts._INSTRUCTIONS, "ru", (prompts._INSTRUCTIONS["ru"][0], "Ответьте."))
    assert prompt_record()["hash"] != before["hash"]
    with pytest.raises(SettingsError, match="another prompt") as refused:
        check_prompt(tmp_path)
    assert Path(refused.value.where) == tmp_path / "prompt.json" and before["hash"] in refused.value.found


@pytest.fixture
def benchmark(tmp_path):
    """The sample's English questions and one broken row among them."""
    (tmp_path / "Train").mkdir()
    lines = (SAMPLE / "mmedbench" / "Train" / "English.jsonl").read_text(encoding="utf-8").splitlines()
    lines.insert(3, json.dumps({"question": "Which?", "options": {"A": "this", "B": "that"}, "answer_idx": "C"}))
    (tmp_path / "Train" / "English.jsonl").write_text("\n".join(lines[:13]) + "\n", encoding="utf-8")
    return tmp_path


def command_line(benchmark, model, **more):
    """The words after finetune/train.py for a run of seconds into benchmark/run."""
    settings = {
        "data": benchmark,
        "model_name_or_path": model,
        "output_dir": benchmark / "run",
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "block_size": 1024,
        "dev_share": 0.1,
        "bf16": "false",
        "report_to": "none",
        **more,
    }
    return [str(word) for name, value in settings.items() for word in (f"--{name}", value)]


def test_lora_from_the_command_line_to_an_adapter(benchmark, tiny_model, script_env, monkeypatch):
    output, words = benchmark / "run", command_line(benchmark, tiny_model, lora="true")
    command = [sys.executable, "finetune/train.py", *words]
    answer = subprocess.run(command, cwd=ROOT, env=script_env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == ExitCode.FAILED_ITEMS, answer.stderr
    assert answer.stdout.strip().splitlines()[-1] == str(output)
    (failure,) = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert failure["where"].endswith("English.jsonl:4") and "answer C" in failure["reason"]
    record = read_json(output / "run.json")
    assert (record["status"], record["failed_items"], record["result"]["method"]) == ("finished", 1, "LoRA")
    assert record["result"]["num_rows"] == 11 and record["result"]["num_steps"] == 3  # of 12, one dev
    before, after = (record["result"][name]["loss"]["en"] for name in ("before", "after"))
    assert after < before
    assert [row["step"] for row in read_metrics(output / "metrics.jsonl")] == [0, 1, 2, 3, 3]

    adapted, base = load_model(str(output), torch.float32).eval(), load_model(str(tiny_model), torch.float32)
    assert type(adapted).__name__.startswith("PeftModel")
    ids = torch.tensor([[0, 300, 301, 302]])
    with torch.no_grad():
        assert not torch.allclose(adapted(ids).logits, base(ids).logits)
        with adapted.disable_adapter():
            assert torch.allclose(adapted(ids).logits, base(ids).logits)
    assert read_json(output / "prompt.json") == prompt_record(PLAIN, ["en"])
    check_prompt(output)

    # The same command again, in this process: already done, with the code of the first run.
    monkeypatch.setattr(tuning, "load_model", lambda *_: pytest.fail("it trains again"))
    assert main_of(words, monkeypatch)() == ExitCode.FAILED_ITEMS
    taught = read_json(output / "prompt.json")
    write_json(output / "prompt.json", {**taught, "hash": "0"})
    with pytest.raises(SettingsError, match="another prompt"):
        check_prompt(output)
    with pytest.raises(SettingsError, match="lora_rank was 16"):
        main_of([*words, "--lora_rank", "4"], monkeypatch)()


def test_a_stopped_run_gives_0_though_rows_failed_so_that_its_job_is_requeued(benchmark, tiny_model, monkeypatch):
    stop, words = benchmark / "stop", command_line(benchmark, tiny_model, max_steps=2)
    stop.touch()
    monkeypatch.setenv("STOP_FILE", str(stop))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(benchmark))
    assert main_of(words, monkeypatch)() == ExitCode.DONE
    assert read_json(benchmark / "run" / "run.json")["status"] == "stopped"
    stop.unlink()
    assert main_of(words, monkeypatch)() == ExitCode.FAILED_ITEMS
    assert read_json(benchmark / "run" / "run.json")["status"] == "finished"
    whole, start = (load_model(str(folder), torch.float32).state_dict() for folder in (benchmark / "run", tiny_model))
    assert not any(torch.equal(whole[name], start[name]) for name in start if "norm" not in name)


def main_of(words, monkeypatch):
    """finetune/train.py's `main` with this command line."""
    from finetune import train

    for name in ("NUM_PROCESSES", "SLURM_STEP_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    return train.main


def test_training_goes_on_from_an_adapter(benchmark, tiny_model, monkeypatch):
    words = command_line(benchmark, tiny_model, lora="true", max_steps=1)
    main_of(words, monkeypatch)()
    first = benchmark / "run"
    words = command_line(benchmark, first, lora="true", max_steps=1, output_dir=benchmark / "second")
    assert main_of(words, monkeypatch)() == ExitCode.FAILED_ITEMS
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (first, benchmark / "second")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    config = read_json(benchmark / "second" / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(tiny_model)  # and not the adapter
    with pytest.raises(SettingsError, match="no weights of its own"):
        main_of(command_line(benchmark, first, output_dir=benchmark / "third"), monkeypatch)()
    path = first / "adapter_config.json"
    write_json(path, {**read_json(path), "target_modules": r".*\.q_proj"})  # a pattern, as PEFT takes it too
    planned = command_line(benchmark, first, lora="true", output_dir=benchmark / "planned", dry_run="true")
    assert main_of(planned, monkeypatch)() == ExitCode.FAILED_ITEMS
    write_json(path, {**read_json(path), "peft_type": "IA3"})
    with pytest.raises(SettingsError, match="peft_type IA3"):
        main_of(planned, monkeypatch)()
    with pytest.raises(EnvironmentFailure, match="4-bit"):
        main_of(command_line(benchmark, tiny_model, qlora="true", output_dir=benchmark / "four"), monkeypatch)()


def test_a_mixture_is_taught_in_the_order_of_its_draw(benchmark, tiny_model, tmp_path, monkeypatch):
    talks = tmp_path / "talks.jsonl"
    turns = [{"role": "user", "content": "What is {}?"}, {"role": "assistant", "content": "It is {}."}]
    rows = [{"messages": [{**turn, "content": turn["content"].format(i)} for turn in turns]} for i in range(40)]
    talks.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": []}]))
    config = tmp_path / "mixture.yaml"
    mixture = {str(benchmark): {"weight": 2, "priority": 1}, str(talks): {"priority": 1e9}}
    config.write_text(yaml.safe_dump({"mixture": mixture}))
    seen = []
    step = PackedTrainer.training_step

    def watched(self, model, inputs, *more):
        seen.append(inputs["input_ids"].tolist())
        return step(self, model, inputs, *more)

    monkeypatch.setattr(PackedTrainer, "training_step", watched)
    monkeypatch.setattr(tuning, "_ORDERED_WINDOW", 8)
    words = ["--config", str(config), *command_line(benchmark, tiny_model, max_steps=2, block_size=256)]
    assert main_of(words, monkeypatch)() == ExitCode.FAILED_ITEMS  # a row of each source is no good
    failures = [json.loads(line)["where"] for line in (benchmark / "run" / "failures.jsonl").read_text().splitlines()]
    assert f"{talks}:41" in failures
    record = read_json(benchmark / "run" / "run.json")["result"]
    assert record["num_rows"] == 11 + 40
    tokenizer = load_tokenizer(str(tiny_model))
    first = tokenizer.decode([token for row in seen[0] for token in row])
    assert "It is" in first and "### Answer" not in first  # conversations come first, by their priority


def test_work_that_packing_would_add_is_left_out_and_nothing_else(benchmark, tiny_model, monkeypatch):
    taught, losses = [], []
    compute = PackedTrainer.compute_loss

    def watched(self, model, inputs, *arguments, **more):
        taught.append(("cu_seq_lens_q" in inputs, len(inputs.get("logits_to_keep", ()))))
        return compute(self, model, inputs, *arguments, **more)

    monkeypatch.setattr(PackedTrainer, "compute_loss", watched)
    for name, more in (("mask", {"attn_implementation": "sdpa"}), ("segments", {})):
        folder = benchmark / name
        words = command_line(benchmark, tiny_model, max_steps=2, lora="true", output_dir=folder, **more)
        assert main_of(words, monkeypatch)() == ExitCode.FAILED_ITEMS
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([row[name] for row in rows for name in ("loss", "eval_loss") if name in row])
    assert [by_segment for by_segment, _ in taught] == [False] * 2 + [True] * 2
    assert all(0 < num_kept < 1024 for _, num_kept in taught[2:])  # of two blocks of 1,024
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_model_whose_attention_cannot_keep_examples_apart_is_taught_one_a_block(benchmark, tiny_model, monkeypatch):
    from transformers import BloomConfig, BloomForCausalLM

    folder = benchmark / "bloom"
    tokenizer = load_tokenizer(str(tiny_model))
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
    BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=0, eos_token_id=1)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    widths = []
    step = PackedTrainer.training_step

    def watched(self, model, inputs, *more):
        widths.append(inputs["input_ids"].shape[1])
        return step(self, model, inputs, *more)

    monkeypatch.setattr(PackedTrainer, "training_step", watched)
    assert main_of(command_line(benchmark, folder, max_steps=2), monkeypatch)() == ExitCode.FAILED_ITEMS
    assert all(width < 512 for width in widths)  # as long as its longest example, and no block of 1,024
    planned = command_line(benchmark, folder, lora="true", output_dir=benchmark / "planned", dry_run="true")
    assert main_of(planned, monkeypatch)() == ExitCode.FAILED_ITEMS
