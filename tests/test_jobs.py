"""The frame of the shard-by-shard commands: markers, arrays, a job that spreads itself over a real Slurm."""

import functools
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import ExitCode, SettingsError
from data_collection.jobs import ShardJob, run_shard_job, shard_files

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Number:
    value: int

    @property
    def name(self):
        return f"n{self.value}"

    def identity(self):
        return {"value": self.value, "num_bytes": 1}


@dataclass
class Settings:
    factor: int = 2


def multiply(folder, factor, item, failed):
    if item.value == 3:
        failed.add(item.name, "three is no good")
    (folder / f"{item.name}.txt").write_text(str(item.value * factor))
    with open(folder / "calls", "a") as file:
        file.write(f"{item.name}\n")
    return {"product": item.value * factor}


def total(markers):
    products = [marker["product"] for _, marker in markers]
    return {"products": products}, {"sum": sum(products)}


def make(folder, factor=2):
    return ShardJob(
        "multiply",
        folder,
        {"factor": factor},
        functools.partial(multiply, folder, factor),
        lambda item: [folder / f"{item.name}.txt"],
    )


def calls(folder):
    return sorted((folder / "calls").read_text().split())


ITEMS = [Number(value) for value in range(5)]


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)


def test_each_shard_is_done_once_and_again_only_where_its_output_or_marker_is_lost(tmp_path, capsys):
    assert run_shard_job(make(tmp_path), ITEMS, Settings(), total, 2) == ExitCode.FAILED_ITEMS
    assert json.loads(capsys.readouterr().out) == {"sum": 20}
    assert json.loads((tmp_path / "failures.jsonl").read_text()) == {"where": "n3", "reason": "three is no good"}
    assert calls(tmp_path) == ["n0", "n1", "n2", "n3", "n4"]
    assert run_shard_job(make(tmp_path), ITEMS, Settings(), total, 2) == ExitCode.FAILED_ITEMS
    assert len(calls(tmp_path)) == 5
    (tmp_path / "run.json").unlink()
    (tmp_path / "n1.txt").unlink()
    (tmp_path / "shards" / "n4.json").unlink()
    run_shard_job(make(tmp_path), ITEMS, Settings(), total, 2)
    assert calls(tmp_path) == ["n0", "n1", "n1", "n2", "n3", "n4", "n4"]
    assert json.loads((tmp_path / "stats.json").read_text()) == {"products": [0, 2, 4, 6, 8]}


def test_other_rules_or_other_input_over_old_output_are_refused(tmp_path):
    run_shard_job(make(tmp_path), ITEMS, Settings(), total, 1)
    with pytest.raises(SettingsError, match="factor was 2"):
        run_shard_job(make(tmp_path, factor=3), ITEMS, Settings(3), total, 1)
    with pytest.raises(SettingsError, match="inputs was 5 shards"):
        run_shard_job(make(tmp_path), ITEMS[:4], Settings(), total, 1)
    assert len(calls(tmp_path)) == 5


def test_the_task_of_an_array_that_ends_last_writes_the_totals(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert run_shard_job(make(tmp_path), ITEMS, Settings(), total, 1) == ExitCode.FAILED_ITEMS  # has n1 and n3
    assert calls(tmp_path) == ["n1", "n3"] and not (tmp_path / "run.json").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert run_shard_job(make(tmp_path), ITEMS, Settings(), total, 1) == ExitCode.FAILED_ITEMS
    assert json.loads((tmp_path / "run.json").read_text())["result"] == {"sum": 20}


def test_a_plain_sbatch_spreads_itself_over_an_array(slurm, tmp_path):
    for number in range(6):
        rows = [{"id": f"{number}-{row}", "text": f"Nausea and fever, patient {row}. " * 10} for row in range(4)]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = tmp_path / "log"
    command = ["sbatch", "--parsable", "--cpus-per-task=2", f"--output={log}", "data_collection/run.sh", "filter"]
    command += ["--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--lang", "en"]
    job = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True, check=True).stdout.strip()
    end = time.monotonic() + 200
    while subprocess.run(["squeue", "-h", "-j", job], env=slurm, capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)
    said = log.read_text()
    assert "6 of 6 files are left: array" in said and "of 2 tasks, and this job" in said, said
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "finished" and record["result"]["read"] == 24
    queue = subprocess.run(["squeue", "-h"], env=slurm, capture_output=True, text=True, check=True).stdout
    assert not queue, queue


def complain(item, failed):
    raise SettingsError("a rule is wrong", where="rules", found="this", wanted="that", todo="mend it")


def test_a_users_error_in_a_worker_is_that_of_the_command(tmp_path):
    job = ShardJob("complain", tmp_path, {}, complain, lambda item: [])
    with pytest.raises(SettingsError) as caught:
        run_shard_job(job, ITEMS, Settings(), total, 2)
    wanted = "error: a rule is wrong\n  where: rules\n  found: this\n  wanted: that\n  what to do: mend it"
    assert str(caught.value) == wanted
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def keep(folder, item, failed):
    for path, size in zip(shard_files(folder, item), (2, 1), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["x"] * size}), path)
    return {"read": 3, "kept": 2, "rejected": 1}


def test_a_file_that_holds_other_rows_than_its_marker_says_is_refused(tmp_path):
    outputs = functools.partial(shard_files, tmp_path)
    job = ShardJob("keep", tmp_path, {}, functools.partial(keep, tmp_path), outputs)

    def count(markers):
        return {}, {"kept": sum(marker["kept"] for _, marker in markers)}

    assert run_shard_job(job, ITEMS, Settings(), count, 1) == ExitCode.DONE
    (tmp_path / "run.json").unlink()
    pq.write_table(pa.table({"text": ["x"]}), shard_files(tmp_path, ITEMS[2])[0])
    with pytest.raises(SettingsError, match=r"n2\.parquet\n  found: 1 rows\n  wanted: 2 rows"):
        run_shard_job(job, ITEMS, Settings(), count, 1)
