"""The corpus report: its sums against a plain recount, its samples, its page; interrupted and at it again."""

import html.parser
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from configs.errors import ExitCode, FailedItems, MissingInputError, SettingsError
from configs.files import read_json, write_json
from data_collection.corpus import corpus_counts, corpus_report
from data_collection.corpus.corpus_counts import Part, Totals, bin_of, describe_part, tokens_of
from data_collection.corpus.corpus_report import clean, corpus_record, write_report
from data_collection.corpus.corpus_steps import find_parts, find_steps
from data_collection.corpus.documents import Document, DocumentWriter, find_shards, read_shard

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
REASONS = (pa.field("reason", pa.string()), pa.field("num_keywords", pa.int32()))
EVIL = "</p><script>alert(1)</script>\x1b[2J\u202egnp.exe\u202c"


def write_step(folder, stage, made_from, kept, rejected, shards=2):
    """A folder as a command leaves it: `kept` documents and `rejected` (document, reason, keywords) in some shards."""
    for number in range(shards):
        with DocumentWriter(folder / "kept" / f"{number}.parquet", {}) as writer:
            for document in kept[number::shards]:
                writer.write(document)
        with DocumentWriter(folder / "rejected" / f"{number}.parquet", {}, REASONS) as writer:
            for document, reason, num_keywords in rejected[number::shards]:
                writer.write(document, reason=reason, num_keywords=num_keywords)
    numbers = {"kept": len(kept), "rejected": len(rejected), "read": len(kept) + len(rejected)}
    write_json(folder / "stats.json", numbers)
    settings = {"input": made_from, "output_dir": str(folder)}
    record = {"stage": stage, "status": "finished", "folder": str(folder.parent), "settings": settings}
    write_json(folder / "run.json", {**record, "command": f"python {stage}.py {EVIL}"})


def sample_documents():
    shards = find_shards([SAMPLE / "documents"])
    documents = [document for shard in shards for document in read_shard(shard, FailedItems())]
    for number, document in enumerate(documents):
        document.source = f"source {number % 3}" if number % 7 else EVIL
        document.licence = ("CC0", "")[number % 2]
    return documents


@pytest.fixture
def chain(tmp_path):
    """filter -> dedup, both with dropped documents; the folder of the corpus, and what is in it."""
    documents = sample_documents()
    few = [(document, "few_keywords", number % 5) for number, document in enumerate(documents[::5])]
    left = [document for number, document in enumerate(documents) if number % 5]
    twins = [(document, EVIL, None) for document in left[::9]]
    corpus = [document for number, document in enumerate(left) if number % 9]
    write_step(tmp_path / "filtered", "filter", [str(SAMPLE / "documents")], left, few)
    write_step(tmp_path / "corpus", "dedup", ["filtered/kept"], corpus, twins)
    return tmp_path / "corpus", corpus, few, twins


def report(inputs, output_dir, *words, **options):
    command = [sys.executable, "data_collection/report.py", "--input", *map(str, inputs)]
    return subprocess.Popen(
        [*command, "--output_dir", str(output_dir), "--num_processes", "1", *map(str, words)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


class Page(html.parser.HTMLParser):
    """Counts the tags of a page, and checks that they close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = Counter(), [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        assert not [
            name for name, value in attributes if name.startswith("on") or (name in ("src", "href") and value[0] != "#")
        ]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_of_a_chain_against_a_plain_recount(chain, tmp_path, tiny_model, script_env):
    folder, corpus, few, twins = chain
    whole = tmp_path / "report"
    process = report([folder], whole, "--tokenizer", tiny_model, env=script_env)
    out, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.DONE, err
    record = read_json(whole / "corpus.json")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = defaultdict(Counter)
    for document in corpus:
        of = expected[document.lang, document.source]
        of["documents"] += 1
        of["characters"] += len(document.text)
        of["tokens"] += len(tokenizer(document.text, add_special_tokens=False)["input_ids"])
        of[document.licence or "(not stated)"] += 1
    got = {
        (row["lang"], row["source"]): Counter(
            {name: row[name] for name in ("documents", "characters", "tokens")} | row["licences"]
        )
        for row in record["sources"]
    }
    assert got == expected and record["tokens"]["method"] == "exact"
    for lang, row in record["languages"].items():
        texts = [document.text for document in corpus if document.lang == lang]
        words = None if lang in ("zh", "ja") else sum(len(text.split()) for text in texts)
        assert (row["documents"], row["words"]) == (len(texts), words)
        assert row["bytes"] == sum(len(text.encode()) for text in texts) and row["tokens_standard_error"] == 0
    assert json.loads(out) == {
        "documents": len(corpus),
        "characters": sum(len(document.text) for document in corpus),
        "bytes": sum(len(document.text.encode()) for document in corpus),
        "tokens": sum(of["tokens"] for of in expected.values()),
    }

    # The steps were found by their records, and what they dropped is counted from their files.
    assert [step["label"] for step in record["steps"]] == ["filter (filtered)", "dedup (corpus)"]
    assert [step["is_corpus"] for step in record["steps"]] == [False, True] and record["notices"] == []
    filtered, dedup = record["dropped"]
    characters = sum(len(document.text) for document, *_ in few)
    assert filtered["reasons"] == [{"reason": "few_keywords", "documents": len(few), "characters": characters}]
    assert (dedup["kept"], dedup["dropped"]) == (len(corpus), len(twins))

    # Others' text, wherever it stands, is text: no tag, no control character, no turn of direction.
    text = (whole / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags["script"] and "alert(1)" in page.text and page.tags["svg"] > 6
    assert not set(text) & {"\x1b", "\u202e", "\u202c"}
    markdown = (whole / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown and "few\\_keywords" in markdown and "\x1b" not in markdown
    shown = read_json(whole / "shards" / "1-dropped-0.json")["samples"]
    assert shown and all(row[3]["text"] in page.text for row in shown[:1])

    # Killed at any moment, the same command ends with the same files.
    cut, rng, kills = tmp_path / "cut", random.Random(0), 0
    for _ in range(3):
        process = report([folder], cut, "--tokenizer", tiny_model, env=script_env)
        time.sleep(rng.uniform(1, 5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate(timeout=600)
    process = report([folder], cut, "--tokenizer", tiny_model, env=script_env)
    process.communicate(timeout=600)
    assert process.returncode == ExitCode.DONE and kills
    for name in ("corpus.json", "report.html", "report.md", "stats.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def totals_of(folder, num_samples=3, share=1.0, tokenizer=None):
    totals = Totals(num_samples)
    steps = find_steps([folder])
    for part in find_parts(steps):
        failed = FailedItems()
        numbers = describe_part(part, failed, tokenizer=tokenizer, share=share, num_samples=num_samples)
        totals.add(part, json.loads(json.dumps({**numbers, "failed": failed.items})))
    return totals, steps


def test_sums_and_samples_do_not_depend_on_the_shards(chain, tmp_path):
    _, corpus, few, _ = chain
    seen = []
    for shards in (1, 4):
        folder = tmp_path / f"{shards}" / "corpus"
        write_step(folder, "filter", [], corpus[::-1] if shards == 4 else corpus, few, shards)
        totals, _ = totals_of(folder)
        samples = {step: sample.rows() for step, sample in totals.samples.items()}
        groups = {step: {key: row.tolist() for key, row in of.items()} for step, of in totals.groups.items()}
        histograms = [
            {lang: dict(counter) for lang, counter in of[dropped].items()}
            for of in (totals.lengths, totals.keywords)
            for dropped in (False, True)
        ]
        seen.append((samples, groups, histograms))
    assert seen[0] == seen[1]
    kept = seen[0][0][""]
    assert Counter(lang for _, lang, *_ in kept) == dict.fromkeys(("en", "zh", "ja", "fr", "ru", "es"), 3)
    assert sum(seen[0][2][3]["en"].values()) == sum(document.lang == "en" for document, *_ in few)
    lengths = Counter(bin_of(len(document.text)) for document in corpus if document.lang == "ru")
    assert seen[0][2][0]["ru"] == lengths
    assert not any(sample.rows() for sample in totals_of(folder, num_samples=0)[0].samples.values())


def test_a_sample_of_tokens_estimates_the_whole_within_its_error(tmp_path, tiny_model):
    documents = sample_documents()
    many = []
    rng = random.Random(0)
    for number in range(1200):
        document = rng.choice(documents)
        start = rng.randrange(len(document.text) // 2)
        many.append(Document(f"d{number}", document.text[start:], "en", document.source))
    write_step(tmp_path / "corpus", "filter", [], many, [])
    exact, _ = tokens_of(totals_of(tmp_path / "corpus", tokenizer=str(tiny_model))[0], 1.0)
    sampled, steps = totals_of(tmp_path / "corpus", share=0.2, tokenizer=str(tiny_model))
    cells, errors = tokens_of(sampled, 0.2)
    whole, estimate, error = sum(exact.values()), sum(cells.values()), errors["en"]
    assert 150 < sum(row[0] for row in sampled.tokens.values()) < 330
    assert 0 < error < 0.05 * whole and abs(estimate - whole) < 4 * error
    record = corpus_record(steps, sampled, str(tiny_model), 0.2)
    assert record["tokens"]["method"] == "estimated from 20.00% of the documents"
    assert record["languages"]["en"]["tokens_standard_error"] == error

    # The error by its formula, from all documents' numbers (Cochran, 6.4), is near the one estimated from the sample.
    pairs = [
        (len(d.text), len(corpus_counts._tokenizer(str(tiny_model))(d.text, add_special_tokens=False)["input_ids"]))
        for d in many
    ]
    ratio = sum(t for _, t in pairs) / sum(c for c, _ in pairs)
    spread = math.sqrt(sum((t - ratio * c) ** 2 for c, t in pairs) / (len(pairs) - 1))
    assert error == pytest.approx(len(many) * spread * math.sqrt((1 - 0.2) / (0.2 * len(many))), rel=0.3)


def test_many_sources_are_folded_into_one_and_nothing_is_lost(tmp_path, monkeypatch):
    documents = [Document(f"d{i}", f"text {i}", "en", f"https://site/{i}") for i in range(100)]
    write_step(tmp_path / "corpus", "web", [], documents, [])
    monkeypatch.setattr(corpus_counts, "MAX_SOURCES", 10)
    totals, steps = totals_of(tmp_path / "corpus")
    record = corpus_record(steps, totals, None, 1.0)
    assert len(record["sources"]) <= 12 and "(others)" in {row["source"] for row in record["sources"]}
    assert sum(row["documents"] for row in record["sources"]) == record["documents"] == 100


def test_what_does_not_add_up_is_said(chain, tmp_path):
    folder = chain[0]
    options = {"output_dir": tmp_path / "r", "tokenizer": None, "share": 1.0, "num_samples": 1}

    def write():
        steps = find_steps([folder])
        marked = []
        for part in find_parts(steps):
            numbers = describe_part(part, FailedItems(), tokenizer=None, share=1.0, num_samples=1)
            marked.append((part, {**numbers, "failed": []}))
        return write_report(marked, steps=steps, **options)[0]["notices"]

    assert write() == []
    statistics = read_json(tmp_path / "filtered" / "stats.json")
    write_json(tmp_path / "filtered" / "stats.json", {**statistics, "rejected": 1})
    assert [notice.split(":")[0] for notice in write()] == ["filter (filtered)"] * 2
    (folder / "kept" / "1.parquet").unlink()
    with pytest.raises(SettingsError, match="does not hold the documents"):
        write()


def test_plain_files_and_missing_things(tmp_path, script_env):
    (step,) = find_steps([SAMPLE / "documents" / "fr.medical.jsonl"])
    assert step.is_corpus and step.record == {} and step.label == "fr.medical.jsonl"
    assert [part.dropped for part in find_parts([step])] == [False]
    with pytest.raises(MissingInputError, match="no such input"):
        find_steps([tmp_path / "nothing"])
    process = report([SAMPLE / "documents"], tmp_path / "r", "--tokenizer", tmp_path, env=script_env)
    assert "no tokenizer" in process.communicate(timeout=600)[1] and process.returncode == ExitCode.MISSING_INPUT
    # A record that names its own folder, or holds anything else than it should, leads nowhere.
    write_json(
        tmp_path / "kept" / "run.json",
        {"stage": 3, "settings": {"input": [".", 7, "x"]}, "folder": str(tmp_path / "kept")},
    )
    (tmp_path / "kept" / "a.txt").write_text("text")
    assert [step.is_corpus for step in find_steps([tmp_path / "kept"])] == [True]


def test_bins_and_clean_text():
    assert [bin_of(value) for value in (0, 1, 2, 3, 7, 15)] == [0, 2, 3, 4, 6, 8]
    assert clean(None) == "–" and clean("a\x00\u202e\ud800b\nc") == "a���b\nc"
    assert corpus_report._unit(3.2e9) == (1e9, "billion") and corpus_report._unit(5e4) == (1.0, "")
    assert (
        Part("s", True, 0, find_shards([SAMPLE / "documents" / "fr.medical.jsonl"])[0]).name == "0-dropped-fr.medical"
    )
