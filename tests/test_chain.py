"""The whole chain on a real Slurm: two nodes, DeepSpeed, a broken PDF among good ones, a stage that fails."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
MODEL = REPOSITORY / "models" / "smollm2-135m"
SETTINGS = {
    "prepare": {"block_size": 256, "validation_share": 0.2, "max_validation_tokens": 500},
    "pretrain": {
        "max_steps": 3,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "deepspeed": "configs/deepspeed/zero2.json",
    },
    "finetune": {
        "lora": True,
        "block_size": 640,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "save_steps": 2,
        "logging_steps": 1,
    },
    "eval": {
        "max_questions_per_language": 1,
        "max_new_tokens": 8,
        "max_new_tokens_answer_only": 4,
        "languages": ["en", "zh"],
    },
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model, a small share of the sample with one broken PDF, and short settings."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if not MODEL.is_dir():
        pytest.skip("the demo model is missing: python scripts/download.py smollm2-135m")
    folder = tmp_path_factory.mktemp("chain")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    subprocess.run(
        [
            sys.executable,
            "scripts/take_share.py",
            "--data",
            "assets/sample",
            "--share",
            "0.25",
            "--output_dir",
            folder / "data",
        ],
        cwd=REPOSITORY,
        check=True,
    )
    for path in [*(folder / "data").glob("documents/*"), *(folder / "data").glob("mmedbench/*/*")]:
        if path.name[:2] not in ("en", "zh", "En", "Ch"):
            path.unlink()
    shutil.rmtree(folder / "data" / "pdf" / "pages" / "zh")
    (folder / "data" / "pdf" / "pages" / "en" / "broken.pdf").write_bytes(b"%PDF-1.4\nthis is no PDF")
    (folder / "settings").mkdir()
    for name, values in SETTINGS.items():
        (folder / "settings" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


def chain(env: dict[str, str], work: Path, run: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "scripts/chain.sh", "--data", work / "data", "--output_dir", work / run, "--settings"]
    command += [work / "settings", "--model", work / "model", *words]
    env = {**env, "NUM_PROCESSES": "2"}
    try:
        return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=540)
    except subprocess.TimeoutExpired:  # the jobs would hold the nodes that other tests wait for
        subprocess.run(["scancel", "--me"], env=env, check=True)
        raise


def queue(env: dict[str, str]) -> str:
    return subprocess.run(["squeue", "--noheader"], env=env, capture_output=True, text=True, check=True).stdout


def test_chain_on_slurm_ends_with_the_full_table_and_exit_5_for_the_broken_pdf(slurm, work):
    done = chain(slurm, work, "run", "--nodes", "2")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "broken.pdf" in done.stdout + done.stderr
    record = json.loads((work / "run" / "pretrain" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["slurm"]["SLURM_NNODES"] == "2"
    # 2 processes x 1 block: DeepSpeed's two ranks really took part.
    assert record["identity"]["global_batch_size"] == 2
    table = (work / "run" / "table.md").read_text()
    for cell in ("English", "Chinese", "base, answer only", "with rationale", "Average"):
        assert cell in table
    assert (work / "run" / "report.html").is_file()
    for name in ("ocr/en", "filter/en", "filter/zh", "blocks", "pretrain", "finetune", "eval-base", "eval-tuned"):
        assert json.loads((work / "run" / name / "run.json").read_text())["status"] == "finished"
    assert not queue(slurm)


def test_a_failing_stage_is_named_with_its_log_and_leaves_no_job_waiting(slurm, work):
    settings = work / "settings" / "finetune.yaml"
    good = settings.read_text()
    settings.write_text(good + "learning_rate: -1\n")
    try:
        done = chain(slurm, work, "failing", "--nodes", "2")
    finally:
        settings.write_text(good)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the stage finetune failed" in done.stderr and f"{work}/failing/logs/finetune.log" in done.stderr
    assert "learning_rate -1.0: wanted 0 or more" in done.stderr  # the log's end
    assert not queue(slurm)
    assert not (work / "failing" / "eval-tuned").exists()


def test_the_same_command_without_slurm_goes_on_and_gives_the_same_scores(slurm, work):
    """What Slurm made is not made again; a stage that is removed is made again, alike."""
    before = {
        p: json.loads((work / "run" / p).read_text())["runs"]
        for p in ("eval-base/scores.json", "eval-tuned/scores.json")
    }
    started = json.loads((work / "run" / "finetune" / "run.json").read_text())["started"]
    shutil.rmtree(work / "run" / "eval-tuned")
    predictions = work / "run" / "eval-base" / "predictions.jsonl"
    rows = predictions.read_bytes().splitlines(keepends=True)
    predictions.write_bytes(rows[0] + rows[1][:20])  # killed while it wrote its second answer
    record = work / "run" / "eval-base" / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "running"'))
    done = chain(slurm, work, "run", "--local")
    assert done.returncode == 5, done.stdout + done.stderr
    assert json.loads((work / "run" / "finetune" / "run.json").read_text())["started"] == started
    for path, runs in before.items():
        again = json.loads((work / "run" / path).read_text())["runs"]
        for old, new in zip(runs, again, strict=True):
            for kind, average in old["average"].items():
                for name in ("accuracy", "bleu_1_sentence", "rouge_1_f"):
                    assert new["average"][kind].get(name) == average.get(name), (path, kind, name)


STAGES = """set -euo pipefail
cd {repository}
output_dir={folder} local="" dry_run=""
source scripts/shell.sh
source scripts/stages.sh
begin_stages
stage first "" "" {folder}/job first {folder}/first.yaml
stage second first "" {folder}/job second
stage aside "" "" {folder}/job aside
wait_for_stages
"""


def test_a_command_typed_again_waits_for_the_jobs_of_the_last_one_unless_they_are_to_do_something_else(slurm, tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    waits = f'until [[ -e "{folder}/go" ]]; do sleep 0.2; done'
    (folder / "job").write_text(f'#!/bin/bash\nexec >> "{folder}/log"\necho $1 begins\n{waits}\necho $1 ends\n')
    (folder / "first.yaml").write_text("a: 1")
    script = STAGES.format(repository=REPOSITORY, folder=str(folder).replace(" ", "\\ "))

    def log():
        return (folder / "log").read_text().split("\n")[:-1] if (folder / "log").exists() else []

    def begin(wanted):
        """Start the command; the process when `wanted` jobs have begun and it waits, and what it said until then."""
        process = subprocess.Popen(["bash", "-c", script], env=slurm, stderr=subprocess.PIPE, text=True)
        said = []
        for line in process.stderr:
            said.append(line)
            if line[:2].isdigit():  # the time, and the jobs that it waits for
                break
        end = time.monotonic() + 120
        while len(log()) < wanted:
            assert time.monotonic() < end, said
            time.sleep(0.1)
        return process, "".join(said)

    def end(process):
        process.kill()
        process.wait()

    try:
        process, _ = begin(2)
        end(process)
        process, said = begin(2)
        end(process)
        assert said.count("goes on: job") == 3 and "submitted" not in said
        assert sorted(log()) == ["aside begins", "first begins"]
        (folder / "first.yaml").write_text("a: 2")  # so what needs it begins anew too
        process, said = begin(3)
        assert said.count("goes on: job") == 1 and said.count("submitted") == said.count("ending job") == 2
        (folder / "go").touch()
        assert process.wait(timeout=60) == 0
    finally:
        subprocess.run(["scancel", "--me"], env=slurm, check=True)
    assert sorted(log()[:3]) == ["aside begins", "first begins", "first begins"]
    assert sorted(log()[3:]) == ["aside ends", "first ends", "second begins", "second ends"]
