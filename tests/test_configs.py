"""What every stage builds on: settings, run records, files that are never half written, exit codes."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from configs import records
from configs.errors import ExitCode, FailedItems, MissingInputError, SettingsError, UserError
from configs.files import (
    Journal,
    atomic_open,
    atomic_path,
    file_identity,
    fingerprint,
    read_json,
    sha256_file,
    write_json,
)
from configs.languages import LANGUAGES, language
from configs.progress import Progress, duration
from configs.settings import check, parse, setting

ROOT = Path(__file__).parents[1]


@dataclass
class Training:
    learning_rate: float = setting(1e-4, "step size")
    num_steps: int = setting(10, "steps")
    num_warmup_steps: int = setting(0, "steps of warm-up")
    lora: bool = setting(False, "train an adapter")
    schedule: Literal["cosine", "linear"] = setting("cosine", "shape of the learning rate")
    languages: list[str] = setting(["en"], "codes")
    sizes: list[int] | None = setting(None, "sizes")
    limit: int | None = setting(None, "at most so many")
    fraction: int | float | None = setting(None, "share, or number")
    output_dir: Path = setting(Path("runs"), "where to")

    def problems(self):
        return ["num_steps is negative"] if self.num_steps < 0 else []


@dataclass
class Data:
    name: str = setting(help="a name", positional=True)
    source: str = setting("web", "where from")


def training(*words):
    return parse("A test.", Training, argv=list(words))[0]


def refused(*words, classes=(Training,)):
    with pytest.raises(SettingsError) as caught:
        parse("A test.", *classes, argv=list(words))
    assert caught.value.exit_code == ExitCode.SETTINGS and "what to do" in str(caught.value)
    return str(caught.value)


# Settings


def test_a_list_given_twice_is_one_list_and_the_last_of_two_single_values_holds():
    given = training("--languages", "zh", "ja", "--limit", "3", "--languages=fr", "--limit", "4")
    assert (given.languages, given.limit) == (["zh", "ja", "fr"], 4)


def test_values_take_the_types_of_their_fields():
    given = training(
        *[
            "--learning_rate",
            "2e-5",
            "--num-steps=5",
            "--lora",
            "--schedule",
            "linear",
            "--languages",
            "zh",
            "ja",
            "--limit",
            "3",
            "--output_dir",
            "a/b",
        ]
    )
    assert (given.learning_rate, given.num_steps, given.lora, given.schedule) == (2e-5, 5, True, "linear")
    assert (given.languages, given.limit, given.output_dir) == (["zh", "ja"], 3, Path("a/b"))
    assert training() == Training()
    assert training("--limit", "none").limit is None
    assert training("--learning_rate", "-1").learning_rate == -1.0


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("no", False), ("False", False), ("1", True), ("off", False)]
)
def test_false_is_false(word, value):
    assert training("--lora", word).lora is value


def test_unions_take_the_narrowest_type():
    assert type(training("--fraction", "2").fraction) is int
    assert type(training("--fraction", "0.5").fraction) is float
    assert training("--sizes", "1", "2").sizes == [1, 2]
    assert training("--sizes", "7").sizes == [7]


def test_defaults_are_not_shared():
    training().languages.append("xx")
    assert training().languages == ["en"]


def test_yaml_and_what_goes_over_it(tmp_path):
    file = tmp_path / "settings.yaml"
    # YAML reads 2e-5 (no point) as text, and a single language as no list.
    file.write_text("learning_rate: 2e-5\nnum_steps: 7\nlora: true\nlanguages: zh\nlimit: null\noutput_dir: out\n")
    given = training("--config", str(file), "--num_steps", "8")
    assert given == Training(2e-5, 8, 0, True, languages=["zh"], output_dir=Path("out"))
    # The order on the command line does not matter.
    assert training("--num_steps", "8", "--config", str(file)) == given


def test_all_errors_are_reported_at_once_with_near_names(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("learnin_rate: 1\nnum_steps: many\nlora: 3\nlanguages: [1, en]\n")
    text = refused("--config", str(file), "--schedule", "square", "--limit", "2.5", "--num_step", "3", "--output_dir")
    assert text.startswith("error: 7 wrong settings")
    for expected in (
        f"{file}: unknown setting 'learnin_rate'; near: learning_rate",
        f"{file}: num_steps wants int, found 'many'",
        f"{file}: lora wants bool, found 3",
        "schedule wants cosine|linear, found 'square'",
        "limit wants int, found '2.5'",
        "unknown setting 'num_step'; near: num_steps",
        "output_dir wants one path, found 0 values",
    ):
        assert expected in text, expected


def test_wrong_yaml_is_said(tmp_path):
    file = tmp_path / "settings.yaml"
    for content, expected in (
        ("a: [", "not YAML"),
        ("- 1\n- 2\n", "found list"),
        ("num_steps: .inf", "num_steps wants int"),
    ):
        file.write_text(content)
        assert expected in refused("--config", str(file))
    assert "no such settings file" in refused("--config", str(tmp_path / "none.yaml"))
    assert "not YAML" in refused("--config", str(tmp_path))
    file.write_text("")
    assert training("--config", str(file)) == Training()


def test_values_are_checked_by_the_class_itself():
    assert "num_steps is negative" in refused("--num_steps", "-1")


def test_settings_can_be_looked_at_and_nothing_else_done():
    for look in (lambda words: parse("A test.", Training, argv=words), lambda words: check(Training, argv=words)):
        with pytest.raises(SystemExit) as ended:
            look(["--num_steps", "3", "--check_settings", "--lora"])
        assert ended.value.code == 0
        with pytest.raises(SettingsError, match="near: num_steps"):
            look(["--check_settings", "--num_step", "3"])
    assert "num_steps is negative" in refused("--num_steps", "-1", "--check_settings")


def test_several_classes_positional_and_required():
    data, given = parse("A test.", Data, Training, argv=["wiki", "--source", "book", "--num_steps", "2"])
    assert (data.name, data.source, given.num_steps) == ("wiki", "book", 2)
    assert "name is missing" in refused(classes=(Data, Training))
    twice = refused("a", "b", classes=(Data,))  # what was said wrongly is not missing as well
    assert "name wants one value" in twice and "is missing" not in twice
    assert "unexpected 'a'" in refused("a")


def test_help_names_every_setting_and_ends_well(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("What it does.", Data, Training, argv=["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text and "--schedule <cosine|linear>" in text and "(required)" in text
    assert all(f"--{name}" in text for name in Training.__dataclass_fields__)


def test_every_settings_file_of_the_repository_is_a_mapping_of_plain_names():
    import yaml

    for path in (ROOT / "configs").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict) and all(str(name).isidentifier() for name in content), path


# Run records


def test_a_run_is_recorded_from_start_to_end(tmp_path):
    with records.run_record(tmp_path, "stage", {"lr": 1e-5}, {"input": "a"}) as record:
        assert read_json(tmp_path / "run.json")["status"] == "running"
        record.finish("finished", 2, num_rows=5)
    saved = read_json(tmp_path / "run.json")
    assert (saved["stage"], saved["status"], saved["settings"]) == ("stage", "finished", {"lr": 1e-5})
    assert saved["result"] == {"num_rows": 5} and saved["failed_items"] == 2 and saved["versions"]["python"]
    done = records.already_done(tmp_path, {"input": "a"})
    assert done and records.exit_code(done) == ExitCode.FAILED_ITEMS


def test_a_failed_run_goes_on_and_is_not_done(tmp_path):
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)), records.run_record(tmp_path, "stage", {}, {"input": "a"}):
            raise error
        saved = read_json(tmp_path / "run.json")
        assert saved["status"] == "failed" and type(error).__name__ in saved["error"]
        assert records.already_done(tmp_path, {"input": "a"}) is None
    with records.run_record(tmp_path, "stage", {}, {"input": "a"}):
        pass
    saved = read_json(tmp_path / "run.json")
    assert (saved["status"], saved["lives"]) == ("finished", 3) and "error" not in saved


def test_the_time_of_a_life_that_sigkill_ended_counts(tmp_path):
    """Up to what it wrote last; what this life wrote before it opened the record is not of that one."""
    with pytest.raises(KeyboardInterrupt), records.run_record(tmp_path, "stage", {}, {"input": "a"}) as record:
        raise KeyboardInterrupt
    (tmp_path / "run.json").write_text(json.dumps(record.data | {"status": "running", "wall_seconds": 1000.0}))
    begun = time.time() - 500_000
    (tmp_path / "kept").mkdir()
    (tmp_path / "tokenizer.json").touch()
    for name, after in (("run.json", 0), ("metrics.jsonl", 60_000), ("kept", 40_000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (begun + after, begun + after))
    with records.run_record(tmp_path, "stage", {}, {"input": "a"}):
        pass
    assert 61_000 <= read_json(tmp_path / "run.json")["wall_seconds"] < 62_000


def test_changed_identity_over_old_output_is_refused_showing_both(tmp_path):
    assert records.already_done(tmp_path, {"lr": 1}) is None
    with records.run_record(tmp_path, "stage", {}, {"lr": 1e-5, "seed": 3, "data": {"x": 1}}):
        pass
    assert records.already_done(tmp_path, {"seed": 3, "data": {"x": 1}, "lr": 1e-5})
    with pytest.raises(SettingsError) as caught:
        records.already_done(tmp_path, {"lr": 2e-5, "seed": 3, "rank": 8})
    text = str(caught.value)
    assert "lr was 1e-05" in text and "lr 2e-05" in text and "rank was None" in text and "data was {'x': 1}" in text
    assert "seed" not in text and "--output_dir" in text


def test_no_command_writes_over_the_record_of_another(tmp_path):
    with records.run_record(tmp_path, "eval", {}, {"a": 1}):
        pass
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(SettingsError, match="another command"), records.run_record(tmp_path, "leaderboard", {}, {}):
        pass
    assert (tmp_path / "run.json").read_bytes() == before


def test_no_secret_reaches_the_record(tmp_path, monkeypatch):
    @dataclass
    class Server:
        base_url: str = "http://localhost"
        api_key: str = "s3cret-1"
        max_new_tokens: int = 5
        keywords: str = "list"

    monkeypatch.setattr(
        sys,
        "argv",
        ["ask.py", "--api_key", "s3cret-2", "--hub-token=s3cret-3", "--max_new_tokens", "5", "--password", "s3cret-4"],
    )
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret-5")
    settings = {"server": Server(), "hf_token": "s3cret-6", "nested": [{"password": "s3cret-7"}]}
    with records.run_record(tmp_path, "stage", settings, {"secret": "s3cret-8", "n": 1}) as record:
        record.finish("finished", credentials="s3cret-9")
    text = (tmp_path / "run.json").read_text()
    assert "s3cret" not in text
    saved = json.loads(text)
    assert saved["settings"]["server"] == {"base_url": "http://localhost", "max_new_tokens": 5, "keywords": "list"}
    assert "--max_new_tokens 5" in saved["command"] and "--hub-token=***" in saved["command"]


def test_a_broken_record_hides_no_other_run(tmp_path):
    with records.run_record(tmp_path / "good", "train", {}, {}):
        pass
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text('{"stage": "tra')
    assert records.newest_finished("train", tmp_path) == tmp_path / "good"


def test_newest_finished_is_of_the_stage_and_finished(tmp_path):
    assert records.newest_finished("train", tmp_path / "none") is None
    for name, stage, status, finished in (
        ("old", "train", "finished", "2025-01-01T00:00:00+00:00"),
        ("deep/new", "train", "finished", "2025-01-02T00:00:00+00:00"),
        ("failed", "train", "failed", "2025-01-03T00:00:00+00:00"),
        ("running", "train", "running", None),
        ("other", "eval", "finished", "2025-01-04T00:00:00+00:00"),
    ):
        write_json(tmp_path / name / "run.json", {"stage": stage, "status": status, "finished": finished})
    assert records.newest_finished("train", tmp_path) == tmp_path / "deep" / "new"
    assert records.newest_finished("report", tmp_path) is None


# Files


def test_atomic_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_open(path) as file:
        file.write("whole\n")
        assert not path.exists()
    assert path.read_bytes() == b"whole\n"
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "whole\n" and [p.name for p in path.parent.iterdir()] == ["file.txt"]
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"other")
    umask = os.umask(0)
    os.umask(umask)
    assert path.read_bytes() == b"other" and path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_journal_survives_being_killed_at_any_byte(tmp_path):
    rows = [{"id": i, "text": "é" * i} for i in range(4)]
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(rows[:3])
    journal.close()
    whole = (tmp_path / "journal.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        (tmp_path / "journal.jsonl").write_bytes(whole[:cut])
        journal = Journal(tmp_path / "journal.jsonl")
        kept = sum(end <= cut for end in ends)
        assert journal.rows == rows[:kept]
        journal.append(rows[kept:])
        journal.close()
        lines = (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows == journal.rows


@pytest.mark.parametrize("line", [b'{"id": 2, "te\n', b"\xff\xfe\n", b"\0\0\0\n", b"\n"])
def test_a_journal_broken_before_its_last_line_is_refused_and_left_as_it_is(tmp_path, line):
    content = b'{"id": 1}\n' + line + b'{"id": 3}\n{"id'
    (tmp_path / "journal.jsonl").write_bytes(content)
    with pytest.raises(MissingInputError, match=r"journal\.jsonl:2\n(.|\n)*sed -i '2,\$d'"):
        Journal(tmp_path / "journal.jsonl")
    assert (tmp_path / "journal.jsonl").read_bytes() == content


def test_an_output_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        for write in (lambda path: write_json(path, {}), Journal):
            with pytest.raises(SettingsError, match=f"is a file\n  where: {folder}\n"):
                write(folder / "name")


def test_fingerprints_do_not_depend_on_the_order_of_keys(tmp_path):
    assert (
        fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1}) != fingerprint({"a": 1, "b": [2, 1]})
    )
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    before = file_identity(tmp_path / "x")
    os.utime(tmp_path / "x", ns=(0, 0))
    assert before["num_bytes"] == 3 and file_identity(tmp_path / "x") != before


def test_names_that_are_no_utf_8_are_written_and_read_back(tmp_path):
    value = {"name": "caf\udce9", "text": "é\\udce9"}  # of the file b"caf\xe9"; the other is text
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    for _ in range(2):
        with closing(Journal(tmp_path / "a.jsonl")) as journal:
            journal.append([value])
            assert journal.rows[-1] == value == journal.read(0)
    assert fingerprint(value) != fingerprint({**value, "name": "caf\udcea"})


def test_json_that_is_absent_or_broken_is_missing_input(tmp_path):
    (tmp_path / "broken").write_bytes(b'{"a": \xff')
    for name in ("absent", "broken"):
        with pytest.raises(MissingInputError, match=name):
            read_json(tmp_path / name)


# Errors, exit codes


def test_an_error_has_four_parts():
    error = UserError("it broke", where="file:3", found="1", wanted="2", todo="mend it")
    assert str(error).splitlines() == [
        "error: it broke",
        "  where: file:3",
        "  found: 1",
        "  wanted: 2",
        "  what to do: mend it",
    ]
    assert "where" not in str(UserError("it broke", todo="mend it"))


def test_failed_items_are_written_once_and_removed_when_mended(tmp_path):
    path = tmp_path / "failures.jsonl"
    failed = FailedItems()
    for number in range(30):
        failed.add(f"file:{number}", "broken")
    failed.write(path)
    failed.write(path)
    assert len(path.read_text().splitlines()) == len(failed) == 30 and failed.exit_code == ExitCode.FAILED_ITEMS
    FailedItems().write(path)
    assert not path.exists() and FailedItems().exit_code == ExitCode.DONE


@pytest.mark.parametrize(("rank", "said"), [("0", "failed: file:3: broken\n"), ("7", "")])
def test_of_many_processes_that_read_the_same_rows_the_first_says_what_failed(rank, said, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    failed = FailedItems()
    failed.add("file:3", "broken")
    assert capsys.readouterr().err == said and len(failed) == 1


CODES = {
    "return None": (0, ""),
    "return 5": (5, ""),
    "raise SettingsError('bad', todo='mend')": (2, "error: bad"),
    "raise MissingInputError('gone', todo='make')": (3, "error: gone"),
    "raise EnvironmentFailure('no disk', todo='buy')": (4, "error: no disk"),
    "import no_such_package": (4, "no_such_package is not installed"),
    "from configs import no_such_module": (1, "Traceback"),
    "raise OSError(28, 'No space left on device', '/data')": (4, "make room"),
    "raise FileNotFoundError(2, 'No such file', '/x')": (1, "Traceback"),
    "raise MemoryError": (4, "memory"),
    "raise ValueError('x')": (1, "Traceback"),
    "assert False, 'never'": (1, "never"),
    "raise KeyboardInterrupt": (130, "goes on"),
    "sys.exit(0)": (0, ""),
}


@pytest.mark.parametrize("body", CODES)
def test_exit_codes(body):
    code, said = CODES[body]
    script = (
        f"import sys\nfrom configs.errors import *\nfrom configs.errors import run\ndef main():\n    {body}\nrun(main)"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert ("Traceback" in answer.stderr) == (code == 1 or "Memory" in body)


@pytest.mark.parametrize("num_characters", [10, 10_000_000])
def test_a_reader_that_has_seen_enough_is_no_error(num_characters):
    script = f"from configs.errors import run\nrun(lambda: print('x' * {num_characters}))"
    reading, writing = os.pipe()
    os.close(reading)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (answer.returncode, answer.stderr) == (0, "")


# Languages, progress


def test_languages_are_found_by_code_and_name():
    assert list(LANGUAGES) == ["en", "zh", "ja", "fr", "ru", "es", "ar", "hi", "de"]
    assert language("French") is language("fr") is language(" FRENCH ") is LANGUAGES["fr"]
    with pytest.raises(SettingsError, match="'tlh'"):
        language("tlh")
    assert all(row.keywords_file.is_file() for row in LANGUAGES.values())


def test_progress_counts_what_an_earlier_run_did_but_not_in_the_speed():
    assert [duration(s) for s in (-1, 42.9, 185, 7620, 273_600)] == ["0s", "42s", "3m05s", "2h07m", "3d04h"]
    progress = Progress("ask", 100, "questions", done=90)
    assert progress.line().startswith("ask: 90 of 100 questions") and "/s" not in progress.line()
    progress.advance(5)
    assert progress.line("ok").startswith("ask: 95 of 100 questions, ") and progress.line("ok").endswith(" left, ok")
