"""What every command has in common: its head, its help, and what it says while something is missing."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("data_collection", "pretrain", "finetune", "inference", "scripts")
SCRIPTS = [
    path.relative_to(ROOT).as_posix()
    for stage in STAGES
    for path in sorted((ROOT / stage).glob("*.py"))
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
]
TRAINERS = ("pretrain/train.py", "finetune/train.py")


def head_and_end(name):
    """The statements from the docstring to the environment check, and the last one, as text."""
    body = ast.parse((ROOT / name).read_text(encoding="utf-8")).body
    assert isinstance(body[0].value.value, str), f"{name} has no docstring to print"
    return [ast.dump(statement) for statement in body[1:3]], ast.unparse(body[-1])


def test_there_are_the_commands_of_the_design():
    assert {"pretrain/train.py", "finetune/train.py", "inference/eval.py", "data_collection/filter.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_begin_and_end_alike(name):
    assert head_and_end(name) == (head_and_end("pretrain/train.py")[0], "if __name__ == '__main__':\n    run(main)")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_works_from_any_folder_and_without_torch_where_nothing_is_trained(name, tmp_path, script_env):
    command = [sys.executable, "-X", "importtime", str(ROOT / name), "--help"]
    answer = subprocess.run(command, cwd=tmp_path, env=script_env, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8")))
    assert answer.stdout.startswith(docstring.splitlines()[0]) and "settings (--config" in answer.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", answer.stderr, re.MULTILINE))
    assert "configs.errors" in imported
    if name not in TRAINERS:
        assert not imported & {"torch", "transformers", "datasets"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_outside_the_environment_a_command_says_how_to_enter_it(name, tmp_path):
    command = [sys.executable, "-I", "-S", str(ROOT / name)]  # a Python that sees no installed package
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr.startswith("error: the environment is not active\n  what to do: source .venv/bin/activate")


FIRST_COMMANDS = {
    "bash pretrain/run.sh": "python pretrain/prepare.py --input",
    "python finetune/train.py --lora": "python scripts/download.py smollm2-135m",
    "python inference/eval.py": "python finetune/train.py --lora",
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A copy of what a fresh clone holds: no models/, data/ or runs/."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("configs", "assets", *STAGES):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "site.env"))
    return folder


@pytest.mark.parametrize("command", FIRST_COMMANDS)
def test_the_three_commands_say_what_is_missing_before_anything_is_there(command, bare, script_env):
    # PYTHONPATH goes before the editable installation, so that the copy's packages are imported.
    env = script_env | {"PYTHONPATH": str(bare), "PATH": f"{Path(sys.executable).parent}:{script_env['PATH']}"}
    answer = subprocess.run(command.split(), cwd=bare, env=env, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 3, answer.stderr
    said = answer.stderr[answer.stderr.index("error: ") :].splitlines()
    assert "Traceback" not in answer.stderr and all(part in answer.stderr for part in ("  where: ", "  wanted: "))
    assert str(bare) in answer.stderr, "another tree than the copy was looked at"
    assert said[-1].startswith("  what to do: ") and FIRST_COMMANDS[command] in said[-1]


@pytest.mark.parametrize("name", ["ablation", "chain", "demo", "serve", "setup", "test"])
def test_shell_scripts_say_what_they_do_from_any_folder_and_start_nothing_half_told(name, bare, script_env):
    def said(*words):
        command = ["bash", f"{bare.name}/scripts/{name}.sh", *words]
        return subprocess.run(command, cwd=bare.parent, env=script_env, capture_output=True, text=True, timeout=60)

    before = sorted(bare.iterdir())  # other tests of this copy may have left a log
    shown = said("--help")
    assert shown.returncode == 0 and f"bash scripts/{name}.sh" in shown.stdout and not shown.stderr
    if name not in ("serve", "test"):  # whose arguments are the demo page's and pytest's
        for words in (["--output_dir"], ["--output_dir", "--dry_run"], ["--output", "x"], ["x"]):
            refused = said(*words)
            assert refused.returncode == 2 and refused.stderr.startswith("error: "), words
    if name == "chain":
        refused = said("--data", "assets", "--output_dir", "runs/x")
        assert refused.returncode == 3 and "where: --data " in refused.stderr and "no documents" in refused.stderr
    assert sorted(bare.iterdir()) == before and not (bare / "runs" / "x").exists()


def test_the_chain_says_at_once_what_a_stage_hours_later_would_miss(bare, script_env, tmp_path):
    env = script_env | {"PYTHONPATH": str(bare), "PATH": f"{Path(sys.executable).parent}:{script_env['PATH']}"}
    shutil.copytree(bare / "assets" / "sample" / "documents", tmp_path / "texts only" / "documents")
    (tmp_path / "named" / "documents").mkdir(parents=True)
    (tmp_path / "named" / "documents" / "my notes.es.jsonl").touch()
    cases = {
        "there are no Train questions": ["--data", tmp_path / "texts only"],
        "unknown language 'my notes'": ["--data", tmp_path / "named"],
        "there is no model": ["--data", "assets/sample", "--model", "models/nowhere"],
        "prepare.yaml": ["--data", "assets/sample", "--settings", "configs"],
    }
    for said, words in cases.items():
        command = ["bash", "scripts/chain.sh", "--local", "--output_dir", tmp_path / "run", *words]
        answer = subprocess.run(command, cwd=bare, env=env, capture_output=True, text=True, timeout=60)
        assert answer.returncode in (2, 3) and answer.stderr.startswith("error: "), answer.stderr
        assert said in answer.stderr and "  what to do: " in answer.stderr
    assert not (tmp_path / "run").exists()


def test_the_settings_of_every_stage_are_looked_at_before_the_first_begins(bare, script_env, tmp_path):
    for path in (bare / "configs" / "demo").glob("*.yaml"):
        shutil.copyfile(path, tmp_path / path.name)
    with open(tmp_path / "eval.yaml", "a") as wrong, open(tmp_path / "finetune.yaml", "a") as misspelt:
        wrong.write("kinds: []\n")
        misspelt.write("lerning_rate: 1\n")
    (tmp_path / "config.json").write_text("{}")
    env = script_env | {"PYTHONPATH": str(bare), "PATH": f"{Path(sys.executable).parent}:{script_env['PATH']}"}
    command = ["bash", "scripts/chain.sh", "--local", "--data", "assets/sample", "--output_dir", tmp_path / "run"]
    command += ["--model", tmp_path, "--settings", tmp_path]
    answer = subprocess.run(command, cwd=bare, env=env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 2 and answer.stderr.count("error: ") == 2 and not (tmp_path / "run").exists()
    assert f"{tmp_path}/finetune.yaml: unknown setting 'lerning_rate'; near: learning_rate" in answer.stderr
    assert "kinds : wanted one or more" in answer.stderr  # of what needs no GPU the values too


def test_when_slurm_refuses_a_job_those_before_it_are_ended(bare, script_env, tmp_path):
    slurm = {
        "sinfo": "",
        "squeue": "",
        "scancel": f"echo $* >{tmp_path}/cancelled",
        "sbatch": f"echo >>{tmp_path}/jobs; wc -l <{tmp_path}/jobs; [[ $(wc -l <{tmp_path}/jobs) != 3 ]]",
    }
    for name, body in slurm.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    env = script_env | {"PYTHONPATH": str(bare)}
    env["PATH"] = f"{tmp_path}:{Path(sys.executable).parent}:{script_env['PATH']}"
    command = ["bash", "scripts/chain.sh", "--data", "assets/sample", "--output_dir", tmp_path / "run"]
    command += ["--model", tmp_path]
    answer = subprocess.run(command, cwd=bare, env=env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 4 and "error: Slurm did not take the job of the stage filter-" in answer.stderr
    assert sorted((tmp_path / "cancelled").read_text().split()) == ["1", "2"]


def test_a_job_started_by_hand_in_an_allocation_finds_the_repository(bare, script_env, tmp_path):
    env = script_env | {"PATH": f"{Path(sys.executable).parent}:{script_env['PATH']}", "SLURM_JOB_ID": "1"}
    for script, submitted_in in ((bare / "pretrain" / "run.sh", tmp_path), (tmp_path / "slurm_script", bare)):
        shutil.copyfile(ROOT / "pretrain" / "run.sh", script)  # sbatch runs a copy, salloc whatever is typed
        shown = subprocess.run(
            ["bash", str(script), "prepare", "--help"],
            env=env | {"SLURM_SUBMIT_DIR": str(submitted_in)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert shown.returncode == 0 and shown.stdout.startswith("Turn documents into token blocks"), shown.stderr
