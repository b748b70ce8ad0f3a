"""The medical filter: counting against an independent count, reasons, resume, arrays, and its quality on real documents."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.languages import LANGUAGES
from data_collection.documents import Document
from data_collection.filtering import FilterRules, judge, own_probability
from data_collection.keywords import KeywordMatcher, normalise, read_keywords

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "documents"
REAL = ROOT.parent / "shared" / "data" / "documents"


def texts(path):
    return [json.loads(line)["text"] for line in open(path, encoding="utf-8")]


def run_filter(*arguments, env=None):
    command = [sys.executable, str(ROOT / "data_collection" / "filter.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, **(env or {})})


def kept_and_rejected(folder):
    return {path.relative_to(folder): pq.read_table(path).to_pylist() for path in sorted(folder.glob("*/*.parquet"))}


# --- counting


def slow_match(text, keywords, spaced):
    """MKC and DENS by one regular expression a keyword."""
    text = normalise(text)
    word = r"[^\W_]" if spaced else r"[0-9a-zµ-\u058f]"  # what makes a word with a keyword's end
    covered, found = [False] * len(text), 0
    for keyword in keywords:
        left = f"(?<!{word})" if re.match(word, keyword) else ""
        right = f"(?!{word})" if re.search(f"{word}$", keyword) else ""
        hits = list(re.finditer(f"(?={left}{re.escape(keyword)}{right})", text))
        found += bool(hits)
        for hit in hits:
            covered[hit.start() : hit.start() + len(keyword)] = [True] * len(keyword)
    return found, sum(covered) / len(text)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_pass_counts_as_one_search_a_keyword_does(lang):
    row = LANGUAGES[lang]
    keywords = read_keywords(row.keywords_file)
    matcher = KeywordMatcher(keywords, row.spaced)
    for text in texts(SAMPLE / f"{lang}.medical.jsonl")[:3] + texts(SAMPLE / f"{lang}.general.jsonl")[:2]:
        assert matcher.match(text) == pytest.approx(slow_match(text, keywords, row.spaced))


@pytest.mark.parametrize(
    ("text", "keywords", "spaced", "wanted"),
    [
        ("Diabetes mellitus, diabetes.", ["diabetes", "diabetes mellitus"], True, (2, 25 / 28)),  # overlap counts once
        ("Prediabetes and mydiabetes", ["diabetes"], True, (0, 0)),
        ("İİİ fever", ["fever"], True, (1, 5 / 12)),  # lower() makes İ two characters long
        ("STRASSE Fieber", ["fieber"], True, (1, 6 / 14)),
        ("type 2\ndiabetes", ["type 2 diabetes"], True, (1, 1)),
        ("crise d’épilepsie", ["crise d'épilepsie"], True, (1, 1)),
        ("une e\u0301pilepsie", ["épilepsie"], True, (1, 9 / 13)),
        ("жёлтая лихорадка", ["желтая лихорадка"], True, (1, 1)),
        ("ＣＴ検査", ["ct", "検査"], False, (2, 1)),
        ("做CT检查", ["ct"], False, (1, 2 / 5)),
        ("action、糖尿病患者", ["ct", "尿病", "糖尿病"], False, (2, 3 / 12)),
        ("", ["fever"], True, (0, 0)),
    ],
)
def test_worked_counts(text, keywords, spaced, wanted):
    assert KeywordMatcher(keywords, spaced).match(text) == pytest.approx(wanted)


def test_keyword_lists_are_normalised_and_have_no_doubles(tmp_path):
    path = tmp_path / "k.txt"
    path.write_text("# list\nFever  # common\n fever\n\nＣＴ\nmaladie d’Alzheimer\n", encoding="utf-8")
    assert read_keywords(path) == ["ct", "fever", "maladie d'alzheimer"]


# --- reasons


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "keywords.txt"
    path.write_text("fever\ncough\npneumonia\nfièvre\n", encoding="utf-8")
    return FilterRules("en", min_keywords=2, min_density=0.1, language_check=True, keywords=path)


@pytest.mark.parametrize(
    ("text", "lang", "reason"),
    [
        ("fever, cough: 39.5 °C", "en", "too_short"),
        ("The patient has a fever and his doctor is worried about it.", "en", "few_keywords"),
        ("The fever and the cough went away. " + "Then we talked about football all day. " * 5, "en", "low_density"),
        ("The patient has a fever and a cough, and pneumonia is likely.", "en", ""),
        ("The patient has a fever and a cough, and pneumonia is likely.", "fr", "other_language"),
        ("Le patient a de la fever (fièvre) et de la cough depuis hier soir, il reste au lit.", "en", "other_language"),
    ],
)
def test_reasons(rules, text, lang, reason):
    assert judge(Document("x", text, lang), rules)[0] == reason


def test_language_check_can_be_left_out(rules):
    french = Document("x", "Le patient a de la fever (fièvre) et de la cough depuis hier soir, il reste au lit.", "fr")
    assert judge(french, FilterRules(rules.lang, 2, 0.1, False, rules.keywords))[0] == ""


def test_language_of_the_sample():
    for lang in LANGUAGES:
        for text in texts(SAMPLE / f"{lang}.medical.jsonl")[:4]:
            assert own_probability(text, lang) > 0.5
            assert all(own_probability(text, other) < 0.1 for other in LANGUAGES if other != lang)
    assert own_probability("12345 !!!", "fr") == 1.0


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
    assert changed.returncode == 2 and "min_keywords was 5" in changed.stderr and "min_keywords 9" in changed.stderr


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
    for lang in LANGUAGES:
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
    for num_markers in (1, 4):
        process = subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while len(list(out.glob("shards/*.json"))) < num_markers and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (out / "kept" / ".fr.medical.parquet.left.tmp").write_bytes(b"half written")
    assert run_filter(*arguments, "--output_dir", out).returncode == 0
    assert kept_and_rejected(out) == kept_and_rejected(folder / ".out")
    assert (out / "stats.json").read_bytes() == (folder / ".out" / "stats.json").read_bytes()
    assert not list(out.glob("*/.*.tmp"))


# --- quality


@pytest.mark.skipif(not REAL.is_dir(), reason="the real documents (../shared/data/documents) are not here")
@pytest.mark.parametrize(
    ("lang", "min_recall"), [("en", 0.79), ("zh", 0.72), ("ja", 0.85), ("fr", 0.78), ("ru", 0.83), ("es", 0.83)]
)
def test_recall_and_false_positives_on_real_documents(lang, min_recall):
    row = LANGUAGES[lang]
    matcher = KeywordMatcher(read_keywords(row.keywords_file), row.spaced)

    def rate(kind):
        matches = [matcher.match(text) for text in texts(REAL / f"{lang}.{kind}.jsonl")]
        kept = [m for m in matches if m.num_keywords >= row.min_keywords and m.density >= row.min_density]
        return len(kept) / len(matches)

    assert rate("general") <= 0.02
    assert rate("medical") >= min_recall
