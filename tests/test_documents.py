"""Readers of every layout, the writer, and the shares of a Slurm array."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.errors import FailedItems, MissingInputError, SettingsError
from data_collection.corpus import document_files, documents
from data_collection.corpus.documents import (
    Document,
    DocumentWriter,
    find_shards,
    read_batches,
    read_shard,
    to_document,
)
from data_collection.corpus.json_lines import flat_rows
from data_collection.corpus.work import array_task, unique_names

DOCUMENTS = [
    Document("a", "Un texte.\nDeux lignes.", "fr", "web", "CC0", {"label": "medical", "year": 2020}),
    Document("b", "二つ目の文書", "ja", "", "", {"nested": {"x": [1, 2]}}),
    Document("c", "", "ru"),
]


def read_all(paths, lang=None):
    failed = FailedItems()
    found = [doc for shard in find_shards(paths) for doc in read_shard(shard, failed, lang)]
    return found, failed


def rows():
    return [{**vars(doc), "meta": json.dumps(doc.meta)} for doc in DOCUMENTS]


def write_parquet(path):
    with DocumentWriter(path, {"made": "by test"}) as writer:
        for document in DOCUMENTS:
            writer.write(document)


def write_json_lines(path):
    path.write_text("\n".join(json.dumps({**vars(doc)}, ensure_ascii=False) for doc in DOCUMENTS), encoding="utf-8")


def write_gz(path):
    path.write_bytes(gzip.compress("".join(json.dumps(vars(doc)) + "\n" for doc in DOCUMENTS).encode()))


def write_zst(path):  # two frames, as appended files have
    lines = [(json.dumps(vars(doc)) + "\n").encode() for doc in DOCUMENTS]
    path.write_bytes(zstandard.compress(lines[0]) + zstandard.compress(b"".join(lines[1:])))


def write_dataset(path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows()).save_to_disk(str(path))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("d.parquet", write_parquet),
        ("d.jsonl", write_json_lines),
        ("d.jsonl.gz", write_gz),
        ("D.JSONL.GZ", write_gz),
        ("d.jsonl.zst", write_zst),
        ("saved", write_dataset),
    ],
)
def test_every_layout_gives_the_same_documents(tmp_path, name, write):
    write(tmp_path / name)
    found, failed = read_all([tmp_path])
    assert found == DOCUMENTS and not failed


def test_text_files_are_documents_in_shards_of_a_thousand(tmp_path):
    folder = tmp_path / "books"
    (folder / "sub").mkdir(parents=True)
    for number in range(1001):
        (folder / "sub" / f"{number:04d}.txt").write_text(f"\ufeffnombre {number}\r\n", encoding="utf-8")
    (folder / "bad.txt").write_bytes("é".encode("latin-1"))
    shards = find_shards([folder])
    assert [len(shard.paths) for shard in shards] == [1000, 2]
    assert [shard.name for shard in shards] == ["books-txt", "books-txt-2"]
    found, failed = read_all([folder], "fr")
    assert len(found) == 1001 and [Path(item["where"]).name for item in failed.items] == ["bad.txt"]
    assert found[0] == Document("sub/0000", "nombre 0\n", "fr", meta={"file": "sub/0000.txt"})


def test_bad_rows_are_listed_and_the_rest_is_read(tmp_path):
    path = tmp_path / "mixed.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text": "first, after a byte order mark"}',
        b"{broken",
        b'{"text": "latin \xe9"}',
        b'{"id": 7, "text": null}',
        b'{"text": ["a list"]}',
        b"[1, 2]",
        b"",
        b"[" * 100_000,
        b'{"text": ' + b"9" * 5000 + b"}",
        b'{"id": 12, "text": "lone \\ud83d, pair \\ud83d\\ude00, nul \\u0000.", "lang": "fr-FR", "license": "MIT", "k": "\\udc00"}',
    ]
    path.write_bytes(b"\n".join(lines))
    found, failed = read_all([path], "en")
    assert [doc.id for doc in found] == ["mixed-1", "12"]
    assert found[0].lang == "en"
    assert found[1] == Document("12", "lone \ufffd, pair 😀, nul .", "fr", "", "MIT", {"k": "\udc00"})
    assert [int(item["where"].rsplit(":", 1)[1]) for item in failed.items] == [2, 3, 4, 5, 6, 8, 9]
    with DocumentWriter(tmp_path / "out.parquet", {}) as writer:  # what was read can be stored
        for document in found:
            writer.write(document)
    assert read_all([tmp_path / "out.parquet"])[0][1].meta == {"k": "\ufffd"}


FLAT = b'{"id": 7, "text": "caf\\u00e9 \\\\u00e9 [{", "label": "medical", "date": "2020-01-01", "year": 2020, "old": true, "p": 0.5}'


@pytest.mark.parametrize(
    ("lines", "in_columns"),
    [
        ([FLAT] * 30, True),
        (
            [FLAT, b'{"text": "one field only"}', b"", b'{"text": "after a blank line", "label": null, "source": "s"}'],
            True,
        ),
        ([FLAT, b'{"text": null, "source": "s"}', FLAT], True),  # a failed row, with its number
        ([FLAT, FLAT + FLAT], False),  # two objects on a line
        ([FLAT, FLAT + b"{", b"}" + FLAT], False),
        ([FLAT, b'{"text":', b'"on two lines"}', FLAT + FLAT], False),
        ([FLAT, b"{broken}", FLAT], False),
        ([FLAT, b" " + FLAT], False),
        ([FLAT, FLAT.replace(b"7", b"null")], True),
        ([FLAT] * 25 + [FLAT.replace(b"2020,", b"12345678901234567890,")], False),
        ([FLAT, FLAT.replace(b"0.5", b"3")], False),  # 3, not 3.0
        ([FLAT, FLAT.replace(b"0.5", b"[3]")], False),
        ([FLAT, b'{"text": "a", "text": "b"}'], False),
        ([FLAT, b'{"text": "lone \\ud83d, nul \\u0000"}'], False),
        ([FLAT, b'{"text": "tab \t"}'], False),
        ([FLAT] * 25 + [b'{"text": "not UTF-8 \xff"}'], True),  # Arrow does not look; the row reader takes over
        ([FLAT] * 25 + [b'{"text": "a", "late": "field"}'], False),
        ([FLAT, b'{"text": "a", "late": "field"}'], True),
        ([b'{"text": "a", "meta": {"a": 1}}', b'{"text": "b", "meta": {"c": [2]}}'], False),
        ([b'{"text": "a", "meta": "{\\"a\\": 1}", "x": "y"}'] * 2, True),
        ([FLAT, b'{"text": ' + b"[" * 100_000 + b"}"], False),
        ([b"[1]", b'{"no": "text"}'], False),
    ],
)
def test_json_lines_in_columns_are_what_they_are_row_by_row(tmp_path, lines, in_columns):
    assert (flat_rows([line + b"\n" for line in lines if line]) is not None) == in_columns
    (tmp_path / "x.jsonl").write_bytes(b"\r\n".join(lines))
    (shard,) = find_shards([tmp_path])
    by_row, by_batch = FailedItems(), FailedItems()
    rows = [vars(document) for document in read_shard(shard, by_row, "fr")]
    batches = [row for batch in read_batches(shard, by_batch, "fr") for row in batch.to_pylist()]
    assert [{**row, "meta": json.loads(row["meta"])} for row in batches] == rows
    assert by_batch.items == by_row.items


def test_an_endless_line_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(document_files, "MAX_DOCUMENT_BYTES", 1000)
    rows = [{"text": "a" * 5000}, {"text": "short"}, {"text": "b" * 2000}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, failed = read_all([tmp_path])
    assert [doc.text for doc in found] == ["short"] and len(failed) == 2


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.jsonl.zst", "cut.parquet", "other.parquet", "cut.jsonl"])
def test_a_damaged_file_is_a_failed_item(tmp_path, name):
    path = tmp_path / name
    if name == "other.parquet":
        pq.write_table(pa.table({"content": ["no text column"]}), path)
    else:
        {"gz": write_gz, "zst": write_zst, "parquet": write_parquet, "jsonl": write_json_lines}[name.split(".")[-1]](
            path
        )
        path.write_bytes(path.read_bytes()[:-20])
    found, failed = read_all([path])
    assert len(found) < 3 and len(failed) == 1 and str(path) in failed.items[0]["where"]


def test_a_file_with_two_columns_named_text_is_a_failed_item(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "two.parquet")
    write_parquet(tmp_path / "whole.parquet")
    found, failed = read_all([tmp_path])
    assert found == DOCUMENTS and [item["reason"] for item in failed.items] == ["several columns are named text"]


def test_parquet_text_that_is_not_utf8_fails_alone(tmp_path):
    good, bad = b"gut", b"\xff\xfe"
    text = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 3, 5, 8))), pa.py_buffer(good + bad + good)],
    )
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet")
    found, failed = read_all([tmp_path])
    assert [doc.id for doc in found] == ["x-1", "x-3"] and len(failed) == 1


def test_columns_that_arrow_cannot_sort_out_are_stored_like_any_other(tmp_path):
    categories = pa.array(["news", None, "news"]).dictionary_encode()
    views = pa.array(["u", "v", None], pa.string_view())
    table = pa.table({"text": ["one", "two", "three"], "section": categories, "note": views})
    path = tmp_path / "documents.parquet"
    pq.write_table(table, path)
    failed = FailedItems()
    (batch,) = read_batches(find_shards([path])[0], failed)
    assert [json.loads(meta) for meta in batch.column("meta").to_pylist()] == [
        {"section": "news", "note": "u"},
        {"note": "v"},
        {"section": "news"},
    ]
    assert not failed


def test_where_shards_are_found(tmp_path):
    stage = tmp_path / "stage"
    for folder in ("kept", "rejected", "shards", "kept/.hidden"):
        (stage / folder).mkdir(parents=True, exist_ok=True)
        write_parquet(stage / folder / "x.parquet")
    write_parquet(stage / "kept" / ".x.parquet.abc.tmp")
    other = tmp_path / "other" / "x.parquet"
    other.parent.mkdir()
    write_parquet(other)
    shards = find_shards([stage, other, other.parent, stage / "kept" / "x.parquet"])
    assert [(shard.name, shard.paths[0]) for shard in shards] == [("x", stage / "kept" / "x.parquet"), ("x-2", other)]
    before = shards[0].identity()
    assert before == find_shards([stage])[0].identity()
    with DocumentWriter(shards[0].paths[0], {}) as writer:
        writer.write(DOCUMENTS[0])
    assert shards[0].identity() != before
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.docx").write_text("?")
    for wrong in (tmp_path / "empty", tmp_path / "absent", tmp_path / "x.docx"):
        with pytest.raises(MissingInputError):
            find_shards([wrong])


def test_an_output_among_the_input_is_refused(tmp_path):
    for folder in ("raw", "step/kept", "step/rejected"):
        (tmp_path / folder).mkdir(parents=True)
        write_parquet(tmp_path / folder / "a.parquet")
    raw, step = tmp_path / "raw", tmp_path / "step"
    wrong = [(raw, raw / "out"), (raw, raw), (step, step), (step / "rejected" / "a.parquet", step), (tmp_path, step)]
    for given, output_dir in wrong:
        with pytest.raises(SettingsError, match="part of the input"):
            find_shards([given], output_dir)
    right = [
        (raw, tmp_path / "out"),
        (raw, tmp_path),
        (step, step / "unique"),
        (raw, step),
        (raw, raw / ".hidden" / "out"),
    ]
    for given, output_dir in right:
        assert len(find_shards([given], output_dir)) == 1


def test_the_same_file_name_ten_thousand_times_gets_as_many_names():
    root = Path("in")
    names = unique_names([(root / "in-txt", root)] * 10_000 + [(root / "in-txt-7", root)], (".txt",))
    assert names[:3] == ["in-txt", "in-txt-2", "in-txt-3"] and names[-2:] == ["in-txt-10000", "in-txt-7-2"]


def test_codes_of_three_letters_are_those_of_two():
    stated = ["French", "fra", "fra_Latn", "FR-ca", "cmn_Hani", "zh_Hans", "ger", "nld", "sah"]
    known = [to_document({"text": "x", "language": lang}, "1").lang for lang in stated]
    assert known == ["fr", "fr", "fr", "fr", "zh", "zh", "de", "nld", "sah"]


def test_writer_is_all_or_nothing_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_GROUP_CHARACTERS", 100)
    path = tmp_path / "x.parquet"
    with pytest.raises(KeyboardInterrupt), DocumentWriter(path, {}) as writer:
        writer.write(DOCUMENTS[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    made = []
    for _ in range(2):
        with DocumentWriter(path, {"fingerprint": "f"}, [pa.field("reason", pa.string())]) as writer:
            for number in range(10):
                writer.write(Document(str(number), "x" * 60), reason="r")
        made.append(path.read_bytes())
    assert made[0] == made[1] and (writer.num_documents, writer.num_characters) == (10, 600)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 5 and file.schema_arrow.metadata[b"fingerprint"] == b"f"
    assert file.read().column("reason").to_pylist() == ["r"] * 10


def test_names_are_unique_whatever_the_case():
    root = Path("in")
    paths = [
        (root / name, root)
        for name in ("a.jsonl", "A.parquet", "a-2.jsonl", "b/c d.jsonl", "b-c-d.jsonl", "é" * 300 + ".txt")
    ]
    names = unique_names(paths, (".jsonl", ".parquet", ".txt"))
    assert names[:5] == ["a", "A-2", "a-2-2", "b-c-d", "b-c-d-2"]
    assert len({name.lower() for name in names}) == 6 and max(len(name.encode()) for name in names) <= 200


@pytest.mark.parametrize(("first", "last", "step"), [(0, 0, 1), (0, 7, 1), (1, 4, 1), (3, 15, 4)])
def test_array_tasks_share_all_items(monkeypatch, first, last, step):
    ids = range(first, last + 1, step)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", str(len(ids)))
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", str(first))
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", str(last))
    done = []
    for task in ids:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        index, count = array_task()
        done += list(range(20))[index::count]
    assert sorted(done) == list(range(20))


def test_an_array_with_gaps_is_refused(monkeypatch):
    for name, value in (("ID", 1), ("COUNT", 3), ("MIN", 1), ("MAX", 7)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert array_task() == (0, 3)  # 1, 4, 7
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "6")
    with pytest.raises(SettingsError, match="gaps"):
        array_task()
