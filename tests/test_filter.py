"""The medical filter: reasons, batches against rows, resume, arrays, and its quality on real documents."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.corpus import document_files, documents
from data_collection.corpus.document_rows import SCHEMA
from data_collection.corpus.documents import Document, DocumentWriter, find_shards, read_batches, read_shard
from data_collection.selection import filtering
from data_collection.selection.filtering import FilterRules, judge
from data_collection.selection.keywords import KeywordMatcher, read_keywords
from data_collection.selection.thresholds import Thresholds

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "documents"
REAL = ROOT.parent / "shared" / "data" / "documents"
SIX = ("en", "zh", "ja", "fr", "ru", "es")


def texts(path):
    return [json.loads(line)["text"] for line in open(path, encoding="utf-8")]


def run_filter(*arguments, env=None):
    command = [sys.executable, str(ROOT / "data_collection" / "filter.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, **(env or {})})


def kept_and_rejected(folder):
    return {path.relative_to(folder): pq.read_table(path).to_pylist() for path in sorted(folder.glob("*/*.parquet"))}


# --- reasons


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "keywords.txt"
    path.write_text("fever\ncough\npneumonia\nfièvre\n", encoding="utf-8")
    return FilterRules("en", Thresholds(2, 0.1), path)


def batch_of(*documents):
    rows = [{**vars(document), "meta": json.dumps(document.meta)} for document in documents]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


PATIENT = "The patient has a fever and a cough, and pneumonia is likely according to his doctor. "
FRENCH = "Le patient a de la fever (fièvre) et de la cough depuis hier soir, il reste au lit. "


@pytest.mark.parametrize(
    ("text", "lang", "reason"),
    [
        ("fever, cough: 39.5 °C", "en", "too_short"),
        ("发烧" * 9, "en", "too_short"),
        ("The patient has a fever and his old doctor is very worried about it.", "en", "few_keywords"),
        ("The fever and the cough went away. " + "Then we talked about football all day. " * 5, "en", "low_density"),
        (PATIENT, "en", ""),
        (PATIENT, "fr", "other_language"),
        (FRENCH, "en", "other_language"),
        (PATIENT * 40, "en", "repeated_ngrams"),
    ],
)
@pytest.mark.parametrize("detector", ["fasttext", "langdetect"])
def test_reasons(rules, text, lang, reason, detector):
    found = judge(batch_of(Document("x", text, lang)), replace(rules, language_detector=detector))
    assert found.reason.tolist() == [reason]
    assert (found.num_keywords[0] < 0) == (reason == "too_short" or lang == "fr")  # the cheap tests come first


TRADITIONAL_MEDICAL = (
    "六十八歲男性病患因胸悶、下肢水腫及呼吸困難至急診就醫，過去有第二型糖尿病與高血壓病史。心電圖顯示心房顫動，心臟超音波發現"
    "二尖瓣逆流，抽血檢查肌酸酐與白血球偏高。診斷為心臟衰竭合併泌尿道感染，給予利尿劑、抗凝血劑與抗生素治療，三天後症狀緩解，"
    "並安排電腦斷層追蹤腎臟病灶。"
)
TRADITIONAL_GENERAL = (
    "週末的夜市人潮擁擠，攤販沿著舊鐵道排開，賣著蚵仔煎、滷味和現榨果汁。學生們下課後騎著腳踏車過來，一邊聽街頭藝人唱歌，一邊"
    "討論暑假要去哪裡旅行。捷運站旁的書店正在舉辦講座，邀請導演談臺灣電影的發展，現場座無虛席，討論十分熱烈。"
)


@pytest.mark.parametrize("detector", ["fasttext", "langdetect"])
def test_traditional_chinese_is_chinese(detector):
    rules = FilterRules("zh", Thresholds.of("zh"), LANGUAGES["zh"].keywords_file, language_detector=detector)
    documents = batch_of(Document("a", TRADITIONAL_MEDICAL, "zh"), Document("b", TRADITIONAL_GENERAL, "zh"))
    verdicts = judge(documents, rules)
    assert verdicts.reason.tolist() == ["", "few_keywords"] and verdicts.text.equals(documents["text"])


def test_a_batch_is_judged_as_its_documents_are(rules):
    documents = [
        Document(str(i), text, "en") for i, text in enumerate((PATIENT, "short", FRENCH, PATIENT * 40, "x " * 99))
    ]
    alone = [judge(batch_of(document), rules) for document in documents]
    together = judge(batch_of(*documents), rules)
    for name in ("reason", "num_keywords", "density", "number"):
        one_by_one = np.concatenate([getattr(found, name) for found in alone])
        assert str(one_by_one.tolist()) == str(getattr(together, name).tolist())
    assert together.reason.tolist() == ["", "too_short", "other_language", "repeated_ngrams", "few_keywords"]
    assert together.num_keywords.tolist() == [3, -1, 3, 3, 0]
    assert together.number[1] == 5 and together.number[2] < 0.3 and together.number[3] > 0.5


def test_tests_can_be_left_out_and_personal_data_masked(rules):
    documents = batch_of(Document("a", FRENCH, "fr"), Document("b", PATIENT * 40, "en"))
    everything = replace(rules, language_check=False, quality_check=False)
    assert judge(documents, everything).reason.tolist() == ["", ""]
    letter = Document("c", PATIENT + "Write to jane.doe@example.org about it.", "en")
    masked = judge(batch_of(letter, Document("d", PATIENT, "en")), replace(rules, mask_personal_data=True)).text
    assert masked.to_pylist() == [letter.text.replace("jane.doe@example.org", "<EMAIL>"), PATIENT]
    assert judge(batch_of(letter), rules).text.to_pylist() == [letter.text]


def test_sources_and_labels_are_counted_by_name_up_to_a_limit(rules, tmp_path, monkeypatch):
    monkeypatch.setattr(filtering, "MAX_GROUPS", 5)
    with DocumentWriter(tmp_path / "in.parquet", {}) as writer:
        for number in range(40):
            text = PATIENT if number % 2 else "short"
            writer.write(Document(str(number), text, "en", f"site-{number % 20}", "", {"label": f"label-{number}"}))
    (shard,) = find_shards([tmp_path / "in.parquet"])
    numbers = filtering.filter_shard(shard, FailedItems(), tmp_path / "out", rules)
    counted = {(reason, source, label): number for reason, source, label, number in numbers["counts"]}
    assert len(counted) == 7 and sum(counted.values()) == numbers["read"] == 40
    assert sum(number for (reason, *_), number in counted.items() if not reason) == numbers["kept"] == 20
    others = [counted[reason, "(others)", "(others)"] for reason in ("", "too_short")]
    assert sum(others) == 35


def test_the_characters_kept_are_those_of_the_mended_texts(rules, tmp_path):
    soft = PATIENT.replace("pneumonia", "pneu\u00admo\u00adnia")
    with DocumentWriter(tmp_path / "in.parquet", {}) as writer:
        for number, text in enumerate((soft, PATIENT, "short")):
            writer.write(Document(str(number), text, "en", meta={"label": number}))
    (shard,) = find_shards([tmp_path / "in.parquet"])
    numbers = filtering.filter_shard(shard, FailedItems(), tmp_path / "out", rules)
    assert numbers["characters"] == {"read": 2 * len(PATIENT) + 2 + 5, "kept": 2 * len(PATIENT)}
    assert [label for *_, label, _ in numbers["counts"]] == ["0", "1", "2"]  # a class may be 0


def test_kept_texts_are_mended(rules):
    broken = "Cookies help us: this website uses cookies, please consent.\n" + PATIENT.replace(",", "\u200b,")
    (text,) = judge(batch_of(Document("a", broken, "en")), rules).text.to_pylist()
    assert text == PATIENT.strip() or text == PATIENT


# --- the same rows whatever the layout


ROWS = [
    {"id": 7, "text": PATIENT, "language": "English", "license": "CC0", "meta": '{"label": "medical"}', "year": 2020},
    {"id": None, "text": "nul \0 in " + PATIENT, "language": "en-GB", "license": "", "meta": None, "year": None},
    {"id": 9, "text": None, "language": "en", "license": None, "meta": "", "year": 1},
    {"id": 10, "text": FRENCH, "language": None, "license": None, "meta": "{broken", "year": 5},
    {
        "id": 11,
        "text": "kein Text",
        "language": "",
        "license": "x\0y",
        "meta": '{ "a": {"b": [1]}, "label": ""}',
        "year": 0,
    },
]


def strings_only(rows):
    return [{"id": str(row["id"] or ""), **{k: row[k] for k in ("text", "language", "meta")}} for row in rows]


@pytest.mark.parametrize("rows", [ROWS, strings_only(ROWS), [{"text": row["text"]} for row in ROWS]])
@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string()])
def test_batches_hold_what_the_row_reader_reads(tmp_path, rows, text_type):
    table = pa.Table.from_pylist(rows)
    table = table.set_column(table.schema.get_field_index("text"), "text", table["text"].cast(text_type))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = {}
    for shard in find_shards([tmp_path]):
        by_row, by_batch = FailedItems(), FailedItems()
        documents = [{**vars(d), "meta": d.meta} for d in read_shard(shard, by_row, "fr")]
        batches = list(read_batches(shard, by_batch, "fr"))
        assert all(batch.schema == SCHEMA for batch in batches)
        found = [{**row, "meta": json.loads(row["meta"])} for batch in batches for row in batch.to_pylist()]
        assert found == documents and len(found) == 4
        assert by_row.items == by_batch.items and len(by_row) == 1
        read[shard.kind] = [{**row, "id": ""} for row in found]
    assert read["parquet"] == read["jsonl"]


def test_a_column_that_is_not_utf8_costs_only_its_rows(tmp_path):
    data = b"gut\xff\xfegut"
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 3, 5, 8))
    text = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet")
    failed = FailedItems()
    (shard,) = find_shards([tmp_path])
    assert [row["id"] for batch in read_batches(shard, failed) for row in batch.to_pylist()] == ["x-1", "x-3"]
    assert len(failed) == 1


def test_a_large_file_is_cut_between_row_groups(tmp_path, monkeypatch):
    with DocumentWriter(tmp_path / "big.parquet", {}) as writer:
        monkeypatch.setattr(documents, "MAX_GROUP_ROWS", 10)
        for number in range(95):
            writer.write(Document("", f"{number} {random.Random(number).randbytes(200).hex()}"))
    (whole,) = find_shards([tmp_path])
    monkeypatch.setattr(document_files, "MAX_PART_BYTES", tmp_path.joinpath("big.parquet").stat().st_size // 3)
    parts = find_shards([tmp_path])
    assert [part.name for part in parts] == [f"big.part-{n}-of-{len(parts)}" for n in range(1, len(parts) + 1)]
    assert len(parts) >= 3 and len({part.identity()["row_groups"] for part in parts}) == len(parts)
    assert sum(part.identity()["num_bytes"] for part in parts) <= whole.identity()["num_bytes"]
    failed = FailedItems()
    in_parts = [document for part in parts for document in read_shard(part, failed)]
    assert in_parts == list(read_shard(whole, failed)) and len(in_parts) == 95
    batches = [row["id"] for part in parts for batch in read_batches(part, failed) for row in batch.to_pylist()]
    assert batches == [document.id for document in in_parts] and not failed


# --- the command


def test_sample_end_to_end(tmp_path):
    out = tmp_path / "out"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": 5}\n', encoding="utf-8")
    arguments = (
        "--input",
        SAMPLE / "es.medical.jsonl",
        SAMPLE / "es.general.jsonl",
        bad,
        "--output_dir",
        out,
        "--lang",
        "es",
    )
    done = run_filter(*arguments)
    assert done.returncode == 5, done.stderr  # one row has no text
    stats = json.loads((out / "stats.json").read_text())
    assert stats["read"] == 52 == stats["kept"] + stats["rejected"] and stats["failed"] == 1
    assert stats["by_label"]["medical"]["kept"] >= 24 and stats["by_label"]["general"].get("kept", 0) <= 1
    assert sum(stats["rejected_by_reason"].values()) == stats["rejected"]
    ids = {row["id"] for rows in kept_and_rejected(out).values() for row in rows}
    assert len(ids) == 52
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["failed_items"], record["result"]["kept"]) == ("finished", 1, stats["kept"])
    assert json.loads(done.stdout.splitlines()[-1])["kept"] == stats["kept"]
    assert str(bad) in (out / "failures.jsonl").read_text()
    before = (out / "run.json").read_bytes()
    again = run_filter(*arguments)
    assert again.returncode == 5 and "already done" in again.stderr and (out / "run.json").read_bytes() == before
    changed = run_filter(*arguments, "--min_keywords", 9)
    assert changed.returncode == 2 and "min_keywords was 3" in changed.stderr and "min_keywords 9" in changed.stderr


def test_wrong_settings_and_missing_input(tmp_path):
    wrong = run_filter("--input", SAMPLE, "--output_dir", tmp_path, "--lang", "tlh", "--min_density", 2)
    assert wrong.returncode == 2 and all(name in wrong.stderr for name in ("tlh", "min_density"))
    absent = run_filter("--input", tmp_path / "absent", "--output_dir", tmp_path, "--lang", "fr")
    assert absent.returncode == 3 and "absent" in absent.stderr
    nolist = run_filter("--input", SAMPLE, "--output_dir", tmp_path, "--lang", "fr", "--keywords", tmp_path / "k.txt")
    assert nolist.returncode == 3 and "k.txt" in nolist.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filter")
    for lang in SIX:
        for kind in ("medical", "general"):
            name = f"{lang}.{kind}.jsonl"
            (folder / name).write_text((SAMPLE / name).read_text(encoding="utf-8"), encoding="utf-8")
    arguments = ("--input", folder, "--lang", "fr", "--num_processes", 2)
    assert run_filter(*arguments, "--output_dir", folder / ".out").returncode == 0
    return folder, arguments


def test_an_array_does_what_one_task_does(uninterrupted, tmp_path):
    folder, arguments = uninterrupted
    for task in (2, 0, 1):
        env = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "3"}
        assert not (tmp_path / "out" / "stats.json").exists()
        assert run_filter(*arguments, "--output_dir", tmp_path / "out", env=env).returncode == 0
    assert kept_and_rejected(tmp_path / "out") == kept_and_rejected(folder / ".out")
    assert (tmp_path / "out" / "stats.json").read_bytes() == (folder / ".out" / "stats.json").read_bytes()
    # a later task with other settings must not mix its output in
    env = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    (tmp_path / "out" / "run.json").unlink()
    other = run_filter(*arguments, "--output_dir", tmp_path / "out", "--min_density", 0.5, env=env)
    assert other.returncode == 2 and "min_density" in other.stderr


def test_killed_at_any_moment_the_same_command_ends_the_same(uninterrupted, tmp_path):
    folder, arguments = uninterrupted
    out = tmp_path / "out"
    command = [
        sys.executable,
        str(ROOT / "data_collection" / "filter.py"),
        *map(str, arguments),
        "--output_dir",
        str(out),
    ]
    draw = random.Random(0)
    for num_markers in (0, 1, 3, 5, 8):
        process = subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while len(list(out.glob("shards/*.json"))) < num_markers and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.random() * (0.2 if num_markers else 3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (out / "kept" / ".fr.medical.parquet.left.tmp").write_bytes(b"half written")
    assert run_filter(*arguments, "--output_dir", out).returncode == 0
    assert kept_and_rejected(out) == kept_and_rejected(folder / ".out")
    assert (out / "stats.json").read_bytes() == (folder / ".out" / "stats.json").read_bytes()
    assert not list(out.glob("*/.*.tmp"))


# --- quality


@pytest.mark.skipif(not REAL.is_dir(), reason="the real documents (../shared/data/documents) are not here")
@pytest.mark.parametrize("lang", SIX)
def test_recall_and_false_positives_on_real_documents(lang):
    matcher = KeywordMatcher(read_keywords(LANGUAGES[lang].keywords_file), lang)

    def kept(kind):
        found = matcher.match_array(pa.array(texts(REAL / f"{lang}.{kind}.jsonl")))
        return Thresholds.of(lang).keep(*found)

    general, medical = kept("general"), kept("medical")
    assert general.sum() <= max(2, 0.02 * len(general))
    assert medical.mean() >= 0.85


def test_preview_marks_the_keywords_and_says_the_verdict(tmp_path):
    path = tmp_path / "k.txt"
    path.write_text("fever\nhigh fever\npneumonia\n", encoding="utf-8")
    text = "A high\nfever: \x1b[31m pneumonia. " + "Then we talked about football all day. " * 3
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "one", "text": text}) + "\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "data_collection" / "preview.py"), "--lang", "en", "--keywords", str(path)]
    done = subprocess.run([*command, "--input", str(tmp_path / "d.jsonl")], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "--- one: low_density; 3 keywords" in done.stdout or "--- one: kept; 3 keywords" in done.stdout
    assert "A [high\nfever]: \ufffd[31m [pneumonia]." in done.stdout
    assert "\x1b" not in done.stdout and "keywords: " in done.stdout
    done = subprocess.run(
        [*command, "--input", str(tmp_path / "d.jsonl"), "--verdict", "few_letters"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "") and "of 1 documents none is few_letters" in done.stderr
