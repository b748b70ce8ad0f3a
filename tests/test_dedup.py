"""Duplicates: shingles and similarity against plain Python, planted duplicates, the choice of what is kept, resume."""

import errno
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import FailedItems
from configs.files import fingerprint, write_json
from configs.languages import LANGUAGES
from data_collection.corpus.documents import Document, find_shards
from data_collection.overlaps import duplicates, signatures
from data_collection.overlaps.minhash import band_hashes, jaccard, read_shingles, rows_per_band, signature

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "documents"
REAL = ROOT.parent / "shared" / "data" / "documents"
COMMAND = [sys.executable, str(ROOT / "data_collection" / "dedup.py")]


def rows_of(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def spaced(lang):
    return lang not in ("zh", "ja")


def plain_shingles(text, lang):
    """Five words or characters in a row, by regular expressions on strings."""
    text = unicodedata.normalize("NFKC", text).lower()
    units = re.findall(r"[^\W_]+", text) if spaced(lang) else re.findall(r"[^\W_]", text)
    return {tuple(units[at : at + 5]) for at in range(len(units) - 4)}


def plain_jaccard(left, right, lang):
    a, b = plain_shingles(left, lang), plain_shingles(right, lang)
    return len(a & b) / len(a | b) if a | b else 0.0


def edited(text, lang, share, draw):
    """The text with a share of its words (characters in zh and ja) dropped or replaced by others of it."""
    units = text.split() if spaced(lang) else list(text)
    out = []
    for unit in units:
        if draw.random() < share:
            if draw.random() < 0.5:
                out.append(draw.choice(units))
        else:
            out.append(unit)
    return (" " if spaced(lang) else "").join(out)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def dedup(*arguments, env=None):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env={**clean, **(env or {})})


def outputs(folder):
    """Every row of the output, by file."""
    return {
        path.relative_to(folder).as_posix(): pq.read_table(path).to_pylist()
        for part in ("kept", "rejected")
        for path in sorted((folder / part).rglob("*.parquet"))
    }


def rejected(folder):
    return {row["id"]: row for name, rows in outputs(folder).items() if name.startswith("rejected") for row in rows}


def kept(folder):
    return {row["id"]: row for name, rows in outputs(folder).items() if name.startswith("kept") for row in rows}


# --- shingles, signatures, similarity


@pytest.mark.parametrize("lang", ["en", "zh", "ja", "fr", "ru", "es"])
def test_similarity_is_that_of_plain_python(lang):
    draw = random.Random(lang)
    for row in rows_of(SAMPLE / f"{lang}.medical.jsonl")[:12]:
        other = edited(row["text"], lang, draw.random() * 0.1, draw)
        found = jaccard(read_shingles(row["text"], spaced(lang)).hashes, read_shingles(other, spaced(lang)).hashes)
        # NFKC of a whole text makes several letters of one here and there (½, ㎎); a character at a time does not.
        assert found == pytest.approx(plain_jaccard(row["text"], other, lang), abs=0.02)


@pytest.mark.parametrize(
    "left, right, same_text",
    [
        ("Acute  renal\n failure of the kidney", "acute renal failure of the KIDNEY ", True),
        ("ＭＲＩ of the brain and the spine", "MRI of the brain and the spine", True),
        ("une crise d\u2019e\u0301pilepsie chez un enfant", "une crise d\u2019épilepsie chez un enfant", True),
        ("soft\u00adware and hard\u200bware of the clinic", "software and hardware of the clinic", True),
        ("a dose of 1.5 mg a day", "a dose of 1,5 mg a day", False),
        ("Acute renal failure of the kidney", "Acute renal failure of the kidneys", False),
    ],
)
def test_what_counts_as_the_same_text(left, right, same_text):
    a, b = read_shingles(left, True), read_shingles(right, True)
    assert (a.digest == b.digest) == same_text
    assert not same_text or (a.length == b.length and np.array_equal(a.hashes, b.hashes))


def test_worked_shingles():
    assert len(read_shingles("one two three four", True).hashes) == 0  # shorter than one shingle
    assert len(read_shingles("one two three four five", True).hashes) == 1
    assert len(read_shingles("a b c d e a b c d e", True).hashes) == 5  # the sixth is the first again
    assert (
        len(read_shingles("高血压 病人，高血", False).hashes) == 3
    )  # seven characters: neither the space nor the comma
    assert read_shingles("", True).length == 0
    for text in ("", "\0\ud800", "😀" * 50, "\u0301" * 50, "𠮷野家𠮷野家"):
        for words in (True, False):
            read_shingles(text, words)


def test_signatures_estimate_the_similarity():
    draw = np.random.default_rng(0)
    errors = []
    for shared in range(0, 1001, 50):  # of 1,000 values a side
        pool = draw.choice(2**32, 2000 - shared, replace=False).astype(np.uint32)
        a, b = np.sort(pool[:1000]), np.sort(pool[1000 - shared :])
        truth = shared / (2000 - shared)
        assert jaccard(a, b) == pytest.approx(truth)
        errors.append((signature(a, 1024) == signature(b, 1024)).mean() - truth)
    assert np.abs(errors).max() < 4 * 0.5 / np.sqrt(1024)  # four standard deviations at their largest
    assert abs(np.mean(errors)) < 0.01


def test_pairs_at_the_threshold_share_a_band():
    assert rows_per_band(0.8) == 6 and rows_per_band(0.5) == 2
    assert rows_per_band(0.95) == 27 and rows_per_band(0.999) == rows_per_band(1) == 32  # 0.999 would want 1,403
    draw = np.random.default_rng(1)
    found = 0
    for _ in range(400):
        pool = draw.choice(2**32, 1000, replace=False).astype(np.uint32)
        a, b = np.sort(pool[:900]), np.sort(pool[100:])  # 800 of 1,000 shared
        found += bool((band_hashes(a, 6) == band_hashes(b, 6)).any())
    assert found >= 388  # expected 0.989 of 400 = 396


# --- the choice of what is kept


def pairs_array(pairs):
    return np.array(sorted(pairs), duplicates.PAIR)


def test_every_removed_document_has_a_kept_twin_at_least_as_similar_as_asked():
    """0 - 1 - 2 - 3, a chain: joined whole, 0 would stand for 3, which shares nothing with it."""
    shingles = {n: np.arange(n * 10, n * 10 + 100, dtype=np.uint32) for n in range(4)}  # neighbours: 90 of 110
    pairs = pairs_array([(1, 1, 0, 0), (2, 2, 1, 1), (3, 3, 2, 2), (2, 2, 0, 0), (3, 3, 1, 1)])
    progress = duplicates.Progress("test", None)
    found = duplicates.decide(iter([pairs[:2], pairs[2:]]), 4, shingles.__getitem__, 0.8, progress)
    assert [column.tolist() for column in found[:2]] == [[1, 3], [0, 2]]
    assert found[2] == pytest.approx([90 / 110] * 2)


def test_runs_are_merged_as_one_sort_would(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NUM_MERGED_RECORDS", 256)  # 64 pairs of a run in memory
    draw = np.random.default_rng(2)
    everything, runs, first = [], [], 0
    with open(tmp_path / "pairs", "wb") as file:
        for length in (0, 1, 500, 333, 64, 65):
            run = np.zeros(length, duplicates.PAIR)
            for name in duplicates.PAIR.names:
                run[name] = draw.integers(0, 4, length)  # many equal ones
            run = duplicates._sorted_different(run)
            run.tofile(file)
            runs.append((tmp_path / "pairs", first, len(run)))
            first += len(run)
            everything += run.tolist()
    merged = [pair for chunk in duplicates.merge_runs(runs) for pair in chunk.tolist()]
    assert sorted(set(merged)) == sorted(set(everything)) == list(dict.fromkeys(merged))


def run_stages(folder, inputs, min_similarity=0.8):
    """The stages one after another in this process, as the command does them."""
    shards = find_shards(sorted(inputs))
    rules = {"min_similarity": min_similarity}
    folders = signatures.Folders(folder)

    def work(job, items):
        for item in items:
            failed = FailedItems()
            numbers = job.work(item, failed)
            marker = {"fingerprint": fingerprint(job.identity(item)), **numbers, "failed": failed.items}
            write_json(job.marker_path(item), marker)

    signing = signatures.signature_job(folder, rules, None, rows_per_band(min_similarity))
    work(signing, shards)
    layout = signatures.read_layout(signing, shards)
    signatures.save_layout(folders, layout)
    items = {kind: signatures.partitions(layout, kind) for kind in ("exact", "bands")}
    jobs = {kind: duplicates.partition_job(folders, kind, rules) for kind in items}
    work(jobs["exact"], items["exact"])
    duplicates.write_copy_bits(folders, layout, items["exact"])
    work(jobs["bands"], items["bands"])
    duplicates.write_decisions(folders, layout, jobs["bands"], items["bands"], rules)
    write_json(folders.clusters / "run.json", {"status": "finished"})
    removal = duplicates.removal_job(folder, rules, None)
    work(removal, shards)
    return layout, items


def test_the_longest_is_kept_then_the_one_with_the_lesser_hash(tmp_path):
    text = rows_of(SAMPLE / "en.medical.jsonl")[0]["text"]
    texts = {"short": text.rsplit(" ", 5)[0], "long": text, "copy": text.upper() + "\n"}
    write_jsonl(
        tmp_path / "in" / "a.jsonl", [{"id": name, "text": value, "lang": "en"} for name, value in texts.items()]
    )
    run_stages(tmp_path / "out", [tmp_path / "in"])
    (winner,) = kept(tmp_path / "out")
    assert winner == min(("long", "copy"), key=lambda n: signatures.priority(Document(n, ""), len(text)))
    gone = rejected(tmp_path / "out")
    assert {row["duplicate_of"] for row in gone.values()} == {winner}
    assert gone["short"]["reason"] == "near_duplicate" and gone["short"]["similarity"] < 1
    other = ({"long", "copy"} - {winner}).pop()
    assert (gone[other]["reason"], gone[other]["similarity"]) == ("exact_duplicate", 1)


def test_a_full_disk_is_known_by_its_number_in_every_file_of_the_stages(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    shutil.copy(SAMPLE / "en.medical.jsonl", tmp_path / "in")
    full = functools.partial(open, "/dev/full", "wb")
    monkeypatch.setattr(signatures, "atomic_open", lambda path, mode: full())
    with pytest.raises(OSError) as error:
        run_stages(tmp_path / "out", [tmp_path / "in"])
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(duplicates, "atomic_open", lambda path, mode: full(buffering=0))
    with pytest.raises(OSError) as error:
        duplicates._save(tmp_path / "x.npy", np.zeros(10))
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    arrays = [np.arange(6).reshape(2, 3)[:, ::-1], np.empty(0, np.uint64), np.zeros((2, 0), np.uint64)]
    for array in arrays:
        duplicates._save(tmp_path / "x.npy", array)
        again = np.load(tmp_path / "x.npy")
        assert again.dtype == array.dtype and np.array_equal(again, array)


def planted(rows, lang, draw, num_exact, num_near):
    """Documents with copies and edited copies of some: (all rows, {copy: original})."""
    rows = [{**row, "id": f"{lang}-{number}", "lang": lang} for number, row in enumerate(rows)]
    out, origin = list(rows), {}
    long = [row for row in rows if len(plain_shingles(row["text"], lang)) >= 30]
    for number, row in enumerate(draw.sample(long, min(num_near, len(long)))):
        text = edited(row["text"], lang, draw.choice((0.005, 0.01, 0.015, 0.02, 0.03, 0.05)), draw)
        out.append({**row, "id": f"{row['id']}-near-{number}", "text": text, "source": "other"})
        origin[out[-1]["id"]] = row["id"]
    for row in draw.sample(rows, min(num_exact, len(rows))):
        out.append({**row, "id": f"{row['id']}-copy", "text": row["text"].upper().lower() + " \n", "source": "other"})
        origin[out[-1]["id"]] = row["id"]
    return out, origin


def check_planted(folder, rows, origin, lang_of, min_recall=0.95):
    """All exact duplicates and `min_recall` of the similar pairs are resolved; what is removed resembles what is kept."""
    texts = {row["id"]: row["text"] for row in rows}
    gone, stay = rejected(folder), kept(folder)
    assert set(gone) | set(stay) == set(texts) and not set(gone) & set(stay)
    near = {copy: first for copy, first in origin.items() if "-near-" in copy}
    for copy in set(origin) - set(near):
        assert {copy, origin[copy]} & set(gone), f"{copy} and {origin[copy]} have one text, and both were kept"
    similar = [pair for pair in near.items() if plain_jaccard(*(texts[n] for n in pair), lang_of[pair[0]]) >= 0.8]
    missed = [pair for pair in similar if not set(pair) & set(gone)]
    wrong = []
    for name, row in gone.items():
        assert row["duplicate_of"] in stay
        true = plain_jaccard(texts[name], texts[row["duplicate_of"]], lang_of[name])
        same = (
            re.sub(r"\s+", " ", texts[name]).strip().lower()
            == re.sub(r"\s+", " ", texts[row["duplicate_of"]]).strip().lower()
        )
        if true < 0.8 and not same:
            wrong.append((name, row["duplicate_of"], true, row["similarity"]))
    assert len(similar) > 3 and len(missed) <= (1 - min_recall) * len(similar), missed
    assert len(wrong) <= 0.01 * len(gone), wrong
    return len(similar), len(missed), len(wrong)


@pytest.mark.parametrize("min_shards", [1, 3])
def test_planted_in_the_sample_across_shards_and_small_partitions(tmp_path, monkeypatch, min_shards):
    draw = random.Random(3)
    rows, origin = [], {}
    for lang in ("en", "zh", "ja", "fr", "ru", "es"):
        more, pairs = planted(rows_of(SAMPLE / f"{lang}.medical.jsonl"), lang, draw, 8, 12)
        rows += more
        origin |= pairs
    rows += [{"id": "tiny-1", "text": "Fever.", "lang": "en"}, {"id": "tiny-2", "text": "FEVER.", "lang": "en"}]
    origin["tiny-2"] = "tiny-1"
    draw.shuffle(rows)
    if min_shards > 1:  # many runs, partitions and slices
        for module, name, value in (
            (signatures, "NUM_ROWS_PER_RUN", 20),
            (signatures, "NUM_RECORDS_PER_PARTITION", 400),
            (duplicates, "NUM_RECORDS_PER_SLICE", 50),
            (duplicates, "NUM_ROWS_PER_WINDOW", 20),
        ):
            monkeypatch.setattr(module, name, value)
    for number in range(min_shards):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl", rows[number::min_shards])
    layout, items = run_stages(tmp_path / "out", [tmp_path / "in"])
    assert layout.starts[-1] == len(rows) and (min_shards == 1 or len(items["bands"]) > 3)
    check_planted(tmp_path / "out", rows, origin, {row["id"]: row["lang"] for row in rows})


def test_of_many_versions_of_a_text_one_is_kept_though_not_all_pairs_are_compared(tmp_path):
    words = " ".join(row["text"] for row in rows_of(SAMPLE / "en.medical.jsonl")[:4]).split()[:300]
    versions = [" ".join([*words[: 5 * n], "changed", *words[5 * n + 1 :]]) for n in range(50)]
    rows = [{"id": str(n), "text": text, "lang": "en"} for n, text in enumerate(versions)] + [{"id": "e", "text": ""}]
    assert len(rows) > 2 * duplicates.MAX_PAIRS_PER_MEMBER
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    run_stages(tmp_path / "out", [tmp_path / "in"])
    assert len(kept(tmp_path / "out")) == 2 and "e" in kept(tmp_path / "out")
    assert len({row["duplicate_of"] for row in rejected(tmp_path / "out").values()}) == 1


def test_shards_and_their_order_make_no_difference(tmp_path):
    draw = random.Random(4)
    rows, _ = planted(rows_of(SAMPLE / "fr.medical.jsonl"), "fr", draw, 10, 20)
    results = []
    for number in range(3):
        draw.shuffle(rows)
        for part in range(number + 1):
            write_jsonl(tmp_path / str(number) / "in" / f"{draw.random()}.jsonl", rows[part :: number + 1])
        run_stages(tmp_path / str(number), [tmp_path / str(number) / "in"])
        gone = rejected(tmp_path / str(number))
        results.append({name: (row["reason"], row["duplicate_of"], row["similarity"]) for name, row in gone.items()})
    assert results[0] and results[0] == results[1] == results[2]


@pytest.mark.parametrize("lang", ["en", "zh", "ja", "fr", "ru", "es"])
def test_planted_in_real_documents(lang, tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"needs {REAL}")
    draw = random.Random(lang)
    rows = rows_of(REAL / f"{lang}.medical.jsonl") + rows_of(REAL / f"{lang}.general.jsonl")
    rows, origin = planted(draw.sample(rows, min(700, len(rows))), lang, draw, 40, 150)
    write_jsonl(tmp_path / "in" / "a.jsonl", rows[::2])
    write_jsonl(tmp_path / "in" / "b.jsonl", rows[1::2])
    run_stages(tmp_path / "out", [tmp_path / "in"])
    print(lang, check_planted(tmp_path / "out", rows, origin, {row["id"]: lang for row in rows}))


# --- the command


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two folders of documents with duplicates across them, as JSON lines and Parquet, and one broken line."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(5)
    rows = [
        row for lang in ("en", "ja") for row in planted(rows_of(SAMPLE / f"{lang}.medical.jsonl"), lang, draw, 8, 12)[0]
    ]
    draw.shuffle(rows)
    write_jsonl(folder / "web" / "a.jsonl", rows[::3])
    with open(folder / "web" / "a.jsonl", "a") as file:
        file.write('{"text": \n')
    write_jsonl(folder / "web" / "deep" / "b.jsonl", rows[1::3])
    (folder / "books").mkdir()
    columns = {name: [row.get(name, "") for row in rows[2::3]] for name in ("id", "text", "lang", "source")}
    pq.write_table(pa.table(columns), folder / "books" / "c.parquet")
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = dedup("--input", corpus / "web", corpus / "books", "--output_dir", folder, "--num_processes", 1)
    assert answer.returncode == 5, answer.stderr
    return folder


def test_the_command_counts_and_says_what_failed(corpus, undisturbed):
    statistics = json.loads((undisturbed / "stats.json").read_text())
    record = json.loads((undisturbed / "run.json").read_text())
    (failure,) = rows_of(undisturbed / "failures.jsonl")
    assert failure["where"].startswith(f"{corpus}/web/a.jsonl:") and failure["reason"].startswith("not JSON")
    assert statistics["read"] == statistics["kept"] + statistics["rejected"]
    assert (len(kept(undisturbed)), len(rejected(undisturbed))) == (statistics["kept"], statistics["rejected"])
    assert sum(statistics["rejected_by_reason"].values()) == statistics["rejected"] > 30
    assert set(statistics["rejected_by_reason"]) == {"exact_duplicate", "near_duplicate"}
    assert statistics["by_lang"].keys() == {"en", "ja"} and record["failed_items"] == 1
    everything = kept(undisturbed)
    by_file = outputs(undisturbed)
    for row in rejected(undisturbed).values():
        assert row["duplicate_of"] in {r["id"] for r in by_file[f"kept/{row['duplicate_of_shard']}.parquet"]}
        assert row["duplicate_of"] in everything and 0.8 <= row["similarity"] <= 1


def test_order_of_inputs_and_number_of_processes_make_no_difference_and_work_may_go(corpus, undisturbed, tmp_path):
    arguments = ("--input", corpus / "books", corpus / "web", "--output_dir", tmp_path, "--num_processes", 2)
    assert dedup(*arguments).returncode == 5
    assert outputs(tmp_path) == outputs(undisturbed)
    shutil.rmtree(tmp_path / "work")
    again = dedup(*arguments)
    assert again.returncode == 5 and "already done" in again.stderr and not (tmp_path / "work").exists()
    other = dedup(*arguments, "--min_similarity", 0.9)
    assert other.returncode == 2 and "min_similarity was 0.8" in other.stderr


def test_steps_in_a_slurm_array(corpus, undisturbed, tmp_path):
    arguments = ("--input", corpus / "web", corpus / "books", "--output_dir", tmp_path, "--num_processes", 1)
    tasks = [
        {
            "SLURM_ARRAY_TASK_ID": str(n),
            "SLURM_ARRAY_TASK_COUNT": "2",
            "SLURM_ARRAY_TASK_MIN": "0",
            "SLURM_ARRAY_TASK_MAX": "1",
        }
        for n in range(2)
    ]
    whole = dedup(*arguments, env=tasks[0])
    assert whole.returncode == 2 and "--step signatures, clusters or remove" in whole.stderr
    assert dedup(*arguments, "--step", "signatures", env=tasks[1]).returncode in (0, 5)
    early = dedup(*arguments, "--step", "clusters")
    assert early.returncode == 3 and "--step signatures" in early.stderr
    assert not (tmp_path / "work" / "copies").exists()
    assert dedup(*arguments, "--step", "signatures", env=tasks[0]).returncode == 5
    early = dedup(*arguments, "--step", "remove")
    assert early.returncode == 3 and "--step clusters" in early.stderr
    assert dedup(*arguments, "--step", "clusters").returncode == 0
    # Both tasks at once, and a third that was given the first one's share.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    running = [
        subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--step", "remove"], env=environment | tasks[n], stderr=-3, stdout=-3
        )
        for n in (0, 1, 0)
    ]
    assert {process.wait(timeout=120) for process in running} <= {0, 5}
    assert outputs(tmp_path) == outputs(undisturbed)
    assert json.loads((tmp_path / "stats.json").read_text()) == json.loads((undisturbed / "stats.json").read_text())


def test_a_task_of_the_array_that_a_plain_sbatch_spreads_over_does_its_shards_of_that_step(
    corpus, undisturbed, tmp_path
):
    arguments = ("--input", corpus / "web", corpus / "books", "--output_dir", tmp_path, "--num_processes", 1)
    shares = tmp_path / "work" / "signatures" / "array.json"
    write_json(shares, [["a"], ["deep-b", "c"]])
    task = {f"SLURM_ARRAY_TASK_{name}": "1" for name in ("ID", "COUNT", "MIN", "MAX")}
    assert dedup(*arguments, env=task | {"SHARES_FILE": str(shares)}).returncode == 0
    assert {path.stem for path in shares.parent.rglob("*.bands")} == {"deep-b", "c"}
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["signatures"]
    assert dedup(*arguments).returncode == 5
    assert outputs(tmp_path) == outputs(undisturbed)


def test_killed_at_any_moment_the_same_command_ends_with_the_same_output(corpus, undisturbed, tmp_path):
    arguments = ("--input", corpus / "web", corpus / "books", "--output_dir", tmp_path, "--num_processes", 1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    # Killed when a file of each stage first appears, its own rename included.
    for pattern in ("work/signatures/**/*.bands", "work/copies/*.npy", "work/clusters/*.bits", "kept/**/*.parquet"):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=environment, stderr=-3, stdout=-3, start_new_session=True
        )
        give_up = time.monotonic() + 120
        while not any(tmp_path.glob(pattern)) and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert dedup(*arguments).returncode == 5
    assert outputs(tmp_path) == outputs(undisturbed)
    assert not [*tmp_path.glob("kept/**/.*"), *tmp_path.glob("rejected/**/.*")]


def test_wrong_settings_are_named_at_once(tmp_path):
    answer = dedup(
        "--input",
        tmp_path,
        "--output_dir",
        tmp_path / "o",
        "--min_similarity",
        1.2,
        "--lang",
        "xx",
        "--num_processes",
        0,
    )
    assert answer.returncode == 2 and all(word in answer.stderr for word in ("min_similarity", "lang", "num_processes"))


def test_the_languages_without_spaces_are_those_of_the_table():
    assert {code for code, row in LANGUAGES.items() if not row.spaced} == {"zh", "ja"}
