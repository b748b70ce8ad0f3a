"""The frame of the shard-by-shard commands: markers, arrays, a job that spreads itself over a real Slurm."""

import errno
import functools
import json
import os
import pickle
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import errors
from configs.errors import ExitCode, FailedItems, MissingInputError, SettingsError
from configs.files import atomic_open, fingerprint, write_json
from data_collection.corpus import totals
from data_collection.corpus.documents import Document, find_shards
from data_collection.corpus.jobs import ShardJob, run_shard_job, shard_files
from data_collection.corpus.totals import Tally, summarise, summarise_groups
from data_collection.corpus.work import remove_half_written

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
    log, out = tmp_path / "log", tmp_path / "a folder, with a comma"
    command = ["sbatch", "--parsable", "--cpus-per-task=2", f"--output={log}", "data_collection/run.sh", "filter"]
    command += ["--input", str(tmp_path / "in"), "--output_dir", str(out), "--lang", "en"]
    job = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True, check=True).stdout.strip()
    end = time.monotonic() + 200
    while subprocess.run(["squeue", "-h", "-j", job], env=slurm, capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)
    said = log.read_text()
    array = re.search(r"6 of 6 files are left: array (\d+) of 2 tasks, and this job", said)
    show = ["scontrol", "-o", "show", "job", array[1]]
    tasks = subprocess.run(show, env=slurm, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(tasks) == 2 and all("JobState=COMPLETED" in task for task in tasks), tasks
    record = json.loads((out / "run.json").read_text())
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


def overtaken(folder, ends, item, failed):
    """Another task with the same shard ends while this one writes."""
    path = folder / f"{item.name}.txt"
    with atomic_open(path) as file:
        file.write("the same")
        if ends:
            path.write_text("the same")
            identity = {"ends": ends, **item.identity()}
            marker = {"fingerprint": fingerprint(identity), "identity": identity, "product": item.value, "failed": []}
            write_json(folder / "shards" / f"{item.name}.json", marker)
        remove_half_written([path])
    return {"product": item.value}


@pytest.mark.parametrize("ends", [True, False])
def test_a_task_that_another_one_overtook_does_no_harm(tmp_path, ends):
    work = functools.partial(overtaken, tmp_path, ends)
    job = ShardJob("overtaken", tmp_path, {"ends": ends}, work, lambda item: [tmp_path / f"{item.name}.txt"])
    if ends:
        assert run_shard_job(job, ITEMS[:1], Settings(), total, 1) == ExitCode.DONE
        assert (tmp_path / "n0.txt").read_text() == "the same"
    else:  # a file that is lost for another reason is a bug that shows
        with pytest.raises(FileNotFoundError):
            run_shard_job(job, ITEMS[:1], Settings(), total, 1)


def test_half_written_files_are_looked_for_once_in_each_folder(tmp_path, monkeypatch):
    listed = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or real(path))
    folders = [tmp_path / "a", tmp_path / "b.c"]
    for folder in folders:
        folder.mkdir()
        for name in (".n1.json.k2_x.tmp", ".n10.json.kx.tmp", ".other.json.kx.tmp", ".n1.json", "n1.json"):
            (folder / name).touch()
    remove_half_written(folder / f"n{number}.json" for folder in folders for number in range(50))
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {".other.json.kx.tmp", ".n1.json", "n1.json"}
        assert 1 <= listed.count(folder) <= 2


def test_an_output_folder_that_is_a_file_and_input_that_is_gone_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match="the output folder is a file"):
            run_shard_job(make(folder), ITEMS, Settings(), total, 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lost.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="an input file is gone"):
        run_shard_job(make(tmp_path / "out"), find_shards([tmp_path / "in"]), Settings(), total, 1)
    os.mkfifo(tmp_path / "pipe.jsonl")  # reading it would wait for ever
    with pytest.raises(MissingInputError, match="a pipe or device"):
        run_shard_job(make(tmp_path / "out"), find_shards([tmp_path / "pipe.jsonl"]), Settings(), total, 1)


def test_links_to_folders_around_them_end_and_give_no_file_twice(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for path in ("in/a.jsonl", "in/deep/b.jsonl", "more.jsonl"):
        (tmp_path / path).write_text("{}")
    for name in ("one", "two", "three"):  # each round through them would lead to three more
        (tmp_path / "in" / "deep" / name).symlink_to(tmp_path / "in")
    found = find_shards([tmp_path / "in", tmp_path / "in" / "deep", tmp_path / "more.jsonl"])
    assert [shard.name for shard in found] == ["a", "deep-b", "more"]


def test_a_full_disk_names_the_file_that_was_written(tmp_path):
    with pytest.raises(OSError) as error, atomic_open(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert pickle.loads(pickle.dumps(error.value)).filename == str(tmp_path / "x") and not list(tmp_path.iterdir())


def test_what_is_counted_by_name_is_bounded(monkeypatch):
    monkeypatch.setattr(totals, "MAX_GROUPS", 5)
    monkeypatch.setattr(totals, "MAX_SHOWN", 3)
    monkeypatch.setattr(errors, "MAX_FAILED_ITEMS", 4)
    tally, failed = Tally(), FailedItems()
    for number in range(40):
        tally.add(Document(str(number), "x", "en", f"site-{number % 10}"), "bad" if number == 39 else "")
        failed.add(number, "no text")
    numbers = tally.numbers()
    assert (numbers["read"], numbers["kept"], numbers["rejected"]) == (40, 39, 1)
    assert sorted(numbers["counts"]) == [
        ["", "en", "(others)", "(others)", 19],
        *(["", "en", f"site-{n}", "", 4] for n in range(5)),
        ["bad", "en", "(others)", "(others)", 1],
    ]
    assert [item["where"] for item in failed.items] == ["0", "1", "2", "3", "39"]
    assert failed.items[-1]["reason"].startswith("36 more failed")
    marked = [(None, {**numbers, "failed": failed.items})]
    shown = {"(others)": 39 - 12, **{f"site-{n}": 4 for n in range(3)}}
    assert summarise(marked)[0]["kept_by_source"] == shown
    grouped = summarise_groups(marked, ("lang", "source", "licence"))[0]
    assert {name: row["read"] for name, row in grouped["by_source"].items()} == shown | {"(others)": 40 - 12}
    assert grouped["by_source"]["(others)"] == {"read": 28, "bad": 1, "kept": 27}
