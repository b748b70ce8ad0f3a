"""Ablations: the plan of stages, the commands, the table; and a small one with a tiny model, from text to table."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from configs.errors import SettingsError
from configs.files import fingerprint
from configs.settings import parse
from inference.scores.significance import mcnemar_exact
from scripts.ablating import plan, rows_of
from scripts.ablation import AblationSettings
from scripts.ablation_table import _plot_average, draw

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
BASE = {
    "model_name_or_path": "models/base",
    "corpus": {"english": ["a"], "web": ["b", "c d"]},
    "rows": {
        "answer only": {"finetune": {"kinds": "answer_only", "lora": True, "languages": ["en", "fr"]}},
        "+ rationale": {},
        "+ English": {"corpus": ["english"]},
        "+ web": {"corpus": ["english", "web"]},
        "LoRA on web": {"corpus": ["english", "web"], "finetune": {"lora": True}},
        "longer": {"corpus": ["english", "web"], "pretrain": {"max_steps": 9}},
    },
}


def write(path, values):
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def settings(tmp_path, values=BASE, *words):
    argv = ["--config", str(write(tmp_path / "ablation.yaml", values)), "--output_dir", str(tmp_path / "run"), *words]
    (made,) = parse("", AblationSettings, argv=argv)
    return made


def test_rows_of_the_same_corpus_share_its_pretraining(tmp_path):
    made = settings(tmp_path)
    stages = plan(made)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names) == 3 * 2 + 6 * 2  # three ways to pretrain, six rows
    longer = f"pretrain-english-web-{fingerprint({'pretrain': {'max_steps': 9}})[:6]}"
    assert [n for n in names if n.startswith("pretrain")] == ["pretrain-english", "pretrain-english-web", longer]
    seen = set()
    for stage in stages:
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    by_row = {row.name: row.stages for row in rows_of(made)}
    assert by_row["+ web"][:2] == by_row["LoRA on web"][:2] != by_row["longer"][:2]
    assert len(by_row["+ rationale"]) == 2 and not by_row["+ rationale"][0].needs
    assert len({stage.folder for stage in stages}) == len(stages)
    # Further rows, wherever they are put, leave those that are there in their folders.
    shorter = {"corpus": ["english", "web"], "pretrain": {"max_steps": 3}}
    grown = rows_of(settings(tmp_path, {**BASE, "rows": {"shorter": shorter, **BASE["rows"]}}))
    assert {row.name: row.stages for row in grown[1:]} == by_row


def test_each_command_reads_what_the_one_before_it_wrote(tmp_path):
    made = settings(tmp_path, {**BASE, "pretrain": "configs/demo/pretrain.yaml", "data": "questions"}, "--nodes", "4")
    by_row = {row.name: row.stages for row in rows_of(made)}

    def value(stage, name):
        return stage.words[stage.words.index(f"--{name}") + 1]

    prepare, pretrain, finetune, evaluation = by_row["longer"]
    assert prepare.words[:2] == ("pretrain/run.sh", "prepare") and value(prepare, "input") == "english=a"
    assert prepare.words[prepare.words.index("--input") + 2 :][:2] == ("web=b", "web=c d")
    assert value(pretrain, "data") == value(prepare, "output_dir") == str(prepare.folder)
    assert value(prepare, "model_name_or_path") == value(pretrain, "model_name_or_path") == "models/base"
    assert value(pretrain, "config") == "configs/demo/pretrain.yaml" and value(pretrain, "max_steps") == "9"
    assert pretrain.options == "--nodes=4"
    assert value(finetune, "model_name_or_path") == str(pretrain.folder) and value(finetune, "data") == "questions"
    assert value(evaluation, "model_name_or_path") == str(finetune.folder) and "--label=longer" in evaluation.words
    alone = by_row["answer only"][0]
    assert value(alone, "model_name_or_path") == "models/base" and value(alone, "lora") == "true"
    at = alone.words.index("--languages")
    assert alone.words[at : at + 3] == ("--languages", "en", "fr")


def test_what_is_wrong_is_named_all_at_once(tmp_path):
    values = {
        **BASE,
        "corpus": {"a b": ["x"], "english": "no list"},
        "rows": {
            "one": {"corpus": ["textbooks"]},
            "two": {"finetun": {}},
            "three": {"eval": 3},
            "four": {"pretrain": {"max_steps": 9}},
        },
    }
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, values)
    for part in (
        "'a b'",
        "wanted a list",
        "'textbooks' is not under corpus",
        "near: finetune",
        "three: eval",
        "four: pretrain",
    ):
        assert part in str(refused.value)
    with pytest.raises(SettingsError, match="rows: none"):
        settings(tmp_path, {**BASE, "rows": {}})


def run(tmp_path, env, *words, config="ablation.yaml"):
    command = ["bash", "scripts/ablation.sh", "--config", tmp_path / config, "--output_dir", tmp_path / "run", *words]
    env = {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=540)


def test_the_dry_run_prints_the_commands_of_bash_and_of_slurm(tmp_path, script_env):
    made = settings(tmp_path)
    done = run(tmp_path, script_env, "--dry_run", "--local")
    assert done.returncode == 0, done.stderr
    assert [shlex.split(line)[1:] for line in done.stdout.splitlines()] == [list(s.words) for s in plan(made)]
    assert not (tmp_path / "run").exists()
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "sinfo"):  # what a cluster has; nothing is submitted in a dry run
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n[ $0 != sbatch ]\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = {**script_env, "PATH": f"{tmp_path / 'bin'}:{script_env['PATH']}"}
    done = run(tmp_path, env, "--dry_run", "--nodes", "3")
    lines = {words[2].removeprefix("--job-name="): words for words in map(shlex.split, done.stdout.splitlines())}
    assert list(lines) == [stage.name for stage in plan(made)]
    words = next(words for name, words in lines.items() if name.startswith("finetune-lora-on-web-"))
    assert "--dependency=afterok:<pretrain-english-web>" in words and "--kill-on-invalid-dep=yes" in words
    assert "--nodes=3" in lines["pretrain-english"] and "--gpus-per-node=0" in lines["prepare-english"]
    missing = run(tmp_path, script_env, "--local")
    assert missing.returncode == 3 and "a, b, c d" in missing.stderr and not (tmp_path / "run").exists()
    assert run(tmp_path, script_env, "--colour").returncode == 2


def answers(folder, right, *, finished=True):
    """A finished evaluation: so many of ten English and five French questions right, with rationale all."""
    folder.mkdir(parents=True)
    rows = []
    for kind in ("answer_only", "with_rationale"):
        for lang, num in (("en", 10), ("fr", 5)):
            for i in range(num):
                output = "A" if i < right[lang] else "B"
                text = f"### Rationale: Iron it is.\n\n### Answer: {output}" if kind == "with_rationale" else output
                rows.append(
                    {
                        "id": f"{lang}{i}",
                        "lang": lang,
                        "kind": kind,
                        "options": {"A": "Iron", "B": "Zinc"},
                        "gold": ["A"],
                    }
                    | {"output": text, "rationale": "Iron it is."}
                )
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"status": "finished" if finished else "running"}))


def test_the_table_has_finished_rows_and_each_ones_step_from_the_row_above(tmp_path, capsys):
    made = settings(tmp_path, {**BASE, "published": "InternLM 2"})
    rows = {row.name: row for row in rows_of(made)}
    answers(rows["answer only"].evaluation, {"en": 5, "fr": 1})
    answers(rows["+ rationale"].evaluation, {"en": 8, "fr": 2})
    answers(rows["+ English"].evaluation, {"en": 9, "fr": 1}, finished=False)
    answers(rows["+ web"].evaluation, {"en": 8, "fr": 5})
    tuned = rows["answer only"].stages[-2].folder
    tuned.mkdir(parents=True)
    (tuned / "run.json").write_text(json.dumps({"settings": {"kinds": "answer_only"}}))
    blocks = rows["+ web"].stages[0].folder
    blocks.mkdir(parents=True)
    (blocks / "run.json").write_text(json.dumps({"result": {"splits": {"train": {"num_tokens": 12345}}}}))
    assert draw(made) == 0
    text = (tmp_path / "run" / "ablation.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    first, second, third = lines[2:5]
    assert first[:3] == ["answer only", "–", "–"] and first[3].startswith("35.0 ±") and first[4:7] == ["–"] * 3
    assert second[3].startswith("60.0 ±") and second[5:7] == ["100.0", "100.0"] and first[7:] == ["–"] * 3
    assert second[7] == "+25.0" and second[9] == f"{mcnemar_exact(0, 4):.3g}"  # 3 English and 1 French more
    assert third[:3] == ["+ web", "english, web", "12,345"] and third[7] == "+30.0"
    assert "Not finished: + English, LoRA on web, longer." in text
    assert "As published for InternLM 2" in text and "| + web-filtered corpus | 67.30 | 48.81 | 45.29 |" in text
    with open(tmp_path / "run" / "ablation.csv", newline="") as file:
        found = {(r["row"], r["language"], r["kind"], r["score"]): r for r in csv.DictReader(file)}
    assert float(found["+ web", "fr", "answer_only", "accuracy"]["percent"]) == 100
    assert float(found["+ web", "average", "answer_only", "accuracy"]["percent"]) == pytest.approx(90)
    assert not any(key[0] == "answer only" and key[2] == "with_rationale" for key in found)
    for name in ("ablation.tex", "ablation.svg", "ablation.png", "scores.json", "run.json"):
        assert (tmp_path / "run" / name).stat().st_size
    (blocks / "run.json").write_text(json.dumps({"failed_items": 2}))
    assert draw(made) == 5 and "2 failed items" in (tmp_path / "run" / "failures.jsonl").read_text()
    assert "ablation.md" in capsys.readouterr().out  # drawn again, whatever is there


def test_an_interval_that_ends_at_zero_is_drawn_to_there():
    drawn = {}
    ax = SimpleNamespace(errorbar=lambda *_, yerr, **__: drawn.update(yerr=yerr), annotate=lambda *_, **__: None)
    scores = [{"bleu": 0.2, "bleu_low": 0.0, "bleu_high": 0.5}, {"bleu": 0.3}, {}]
    entries = [{"scores": {"with_rationale": {"average": of}}} for of in scores]
    _plot_average(ax, entries, "with_rationale", "bleu")
    assert drawn["yerr"] == [pytest.approx([20, 0]), pytest.approx([30, 0])]


def test_a_small_ablation_from_text_to_scores(tmp_path, tiny_model, script_env, capsys):
    common = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 4, "max_steps": 2, "logging_steps": 1}
    common |= {"save_steps": 2, "use_cpu": True}
    files = {
        "prepare": {"block_size": 128, "validation_share": 0.2, "max_validation_tokens": 400},
        "pretrain": {**common, "learning_rate": 1e-3},
        "finetune": {**common, "lora": True, "block_size": 1024, "dev_share": 0.05, "languages": ["en"]},
        "eval": {
            "languages": ["en"], "max_questions_per_language": 2, "max_new_tokens": 4, "max_new_tokens_answer_only": 2
        },
    }  # fmt: skip
    paths = {name: str(write(tmp_path / f"{name}.yaml", values)) for name, values in files.items()}
    corpus = {"english": [str(SAMPLE / "documents" / "en.medical.jsonl")]}
    rows = {"on English": {"corpus": ["english"], "finetune": {"kinds": "answer_only"}}}
    values = {**paths, "model_name_or_path": str(tiny_model), "data": str(SAMPLE), "corpus": corpus, "rows": rows}
    made = settings(tmp_path, values)
    done = run(tmp_path, {**script_env, "OMP_NUM_THREADS": "1"}, "--local")
    assert done.returncode == 0, done.stderr
    records = [json.loads((stage.folder / "run.json").read_text()) for stage in plan(made)]
    assert [(record["stage"], record["status"]) for record in records] == [
        (name, "finished") for name in ("prepare", "pretrain", "finetune", "eval")
    ]
    assert records[2]["settings"]["kinds"] == "answer_only" and records[1]["settings"]["max_steps"] == 2
    assert records[2]["settings"]["model_name_or_path"] == str(plan(made)[1].folder)
    tokens = records[0]["result"]["splits"]["train"]["num_tokens"]
    assert f"| on English | english | {tokens:,} |" in done.stdout
    assert {path.stem for path in (tmp_path / "run" / "logs").iterdir()} == {stage.name for stage in plan(made)}
    # With one more row the folder is the same ablation's, and the row is missing from its table.
    grown = settings(tmp_path, {**values, "rows": {**rows, "as it is": {}}})
    assert draw(grown) == 0 and "Not finished: as it is." in capsys.readouterr().out
    assert [stage.name for stage in plan(grown)][:4] == [stage.name for stage in plan(made)]
