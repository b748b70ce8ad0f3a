"""Contamination: test questions found whatever their dress, nothing else found, removed and listed by the command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import ExitCode, FailedItems, MissingInputError
from configs.files import read_json
from configs.languages import simplified_characters
from data_collection.corpus.documents import find_shards, read_shard
from data_collection.overlaps import contamination
from data_collection.overlaps.contamination import (
    ContaminationRules,
    TestQuestions,
    find_test_files,
    question_text,
    read_test_questions,
)
from data_collection.overlaps.decontamination import markdown_cell
from data_collection.overlaps.ngrams import tokenize
from data_collection.questions.question import Question

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
DATA = ROOT.parent / "shared" / "data"
LANGUAGES = ("en", "zh", "ja", "fr", "ru", "es")


def documents(folder, lang, labels=("medical", "general")):
    paths = [path for label in labels if (path := folder / f"{lang}.{label}.jsonl").exists()]
    return [document.text for shard in find_shards(paths) for document in read_shard(shard, FailedItems())]


def plain_tokens(text):
    """What counts as tokens, written anew: words without case, width and marks; Chinese characters and kana alone."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    text = text.translate(str.maketrans(simplified_characters()))
    tokens, word = [], ""
    for character in text:
        if unicodedata.category(character)[0] == "M" or unicodedata.category(character) == "Cf":
            continue
        if character.isalnum() and unicodedata.name(character, "").startswith(("CJK UNI", "HIRAGANA", "KATAKANA")):
            tokens += [word, character] if word else [character]
            word = ""
        elif character.isalnum():
            word += character
        else:
            tokens += [word] if word else []
            word = ""
    return tokens + ([word] if word else [])


def test_tokens_are_those_of_a_plain_reading_of_real_text():
    odd = [
        "", " ", "Ａ５ｍｇ ﬁbrose Straße", "é e\u0301 й и\u0306", "ｶﾞｰｾﾞ ガーゼ ㎎ ½ Ⅳ", "a\u00adb\u200bc", "____(  )",
        "𠀀𠀁x", "٣ مُحَمَّد", "नमस्ते", "x" * 200, "發燒 发烧",
    ]  # fmt: skip
    for texts in (odd, *(documents(SAMPLE / "documents", lang)[:30] for lang in LANGUAGES)):
        tokens = tokenize(texts)
        plain = [plain_tokens(text) for text in texts]
        assert Counter(tokens.texts.tolist()) == Counter({i: len(p) for i, p in enumerate(plain) if p})
        flat = [token for of_text in plain for token in of_text]
        hashes = tokens.hashes.tolist()
        assert len(set(zip(flat, hashes, strict=True))) == len(set(flat)) == len(set(hashes))
        for start, end, token in zip(tokens.starts, tokens.ends, flat, strict=True):
            assert plain_tokens(tokens.joined[start:end]) == [token]


def test_long_questions_are_found_where_a_plain_count_finds_them():
    rng, rules = random.Random(0), ContaminationRules()
    words = [f"w{i}" for i in range(12)]  # so few that chance makes many near hits
    questions = [
        Question(f"q{i}", "en", " ".join(rng.choices(words, k=rng.randint(30, 40))), {"A": "a", "B": "b"}, ("A",))
        for i in range(8)
    ]
    test = TestQuestions(questions, rules)
    grams = {q.id: {tuple(t[i : i + 3]) for i in range(len(t) - 2)} for q in questions for t in [q.question.split()]}
    holders = Counter(gram for of_question in grams.values() for gram in of_question)
    outcomes = Counter()
    for _ in range(300):
        text = rng.choices(words, k=20)
        for word in rng.choice(questions).question.split():
            chance = rng.random()
            text += [] if chance < 0.08 else [rng.choice(words)] if chance < 0.16 else [word]
        text += rng.choices(words, k=40)
        found = {hit.question: hit.share for hit in test.find([" ".join(text)])[0]}
        for question in questions:
            own = {gram for gram in grams[question.id] if holders[gram] <= rules.max_questions}
            reach = 2 * len(question.question.split()) + 3
            at = [tuple(text[i : i + 3]) for i in range(len(text) - 2)]
            best = max(len(own & set(at[i : i + reach - 2])) for i in range(len(at)))
            assert found.get(question.id, 0) == (best / len(own) if 2 * best >= len(own) else 0)
            outcomes[question.id in found] += 1
    assert outcomes[True] > 100 and outcomes[False] > 100


EN = Question(
    "en1", "en", "A 30-year-old man has had fever for 3 days. What is the cause?",
    {"A": "Rubella virus", "B": "Measles", "C": "Plasmodium vivax"}, ("C",),
)  # fmt: skip
JA = Question("ja1", "ja", "ガーゼについて正しいのはどれか。", {"A": "滅菌しない。", "B": "綿で作る。"}, ("B",))
ZH = Question("zh1", "zh", "下列关于肾小球肾炎的叙述，正确的是", {"A": "多见于老年人", "B": "常有血尿"}, ("B",))
RU = Question("ru1", "ru", "Настой обладает мочегонным эффектом?", {"A": "да", "B": "нет"}, ("A",))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            EN,
            "a 30 YEAR old man, has had féver (for 3 days): what is the cause\nB Measles A) rubella  virus C plasmodium",
        ),
        (EN, "１. A ３０-year-old man has had fever for 3 days.\nWhat is the cause? Plasmodium vivax? Measles?"),
        (
            EN,
            "A 30-year-old woman has had fever for 3 days. What is the cause? Rubella virus, Measles, Plasmodium vivax",
        ),
        (JA, "【問】ｶﾞｰｾﾞについて、正しいのはどれか？　ａ．滅菌しない　ｂ．綿で作る"),
        (ZH, "下列關於腎小球腎炎的敘述，正確的是：（Ａ）多見於老年人（Ｂ）常有血尿"),
        (RU, "Верно ли: настой обладает мочегонным\nэффектом."),
    ],
)
def test_dress_and_small_edits_make_no_difference(question, text):
    test = TestQuestions([EN, JA, ZH, RU])
    assert not test.too_short
    for texts in ([text], ["Before.", "x" + text[::-1], "...\n" + text + "\nafter"]):
        hits = test.find(texts)
        assert [hit.question for hit in hits[-1]] == [question.id] and not any(hits[:-1])
        assert hits[-1][0].share >= 0.5 and hits[-1][0].matched in texts[-1]


@pytest.mark.parametrize(
    "text",
    [
        "Rubella virus\nMeasles\nPlasmodium vivax",  # options alone
        "A 30-year-old woman has had fever for 3 days. What is the cause?",  # edited, and no option after it
        "A 30-year-old woman has had fever for 3 days. What is the cause? Influenza, common cold, sepsis",
        "Plasmodium vivax, Measles, Rubella virus: " + "other words " * 40 + "What is the cause?",
        "滅菌しない。綿で作る。",
        "Настой обладает выраженным мочегонным эффектом",  # yes or no: the whole question, or nothing
    ],
)
def test_what_is_not_the_question_is_not_found(text):
    assert TestQuestions([EN, JA, RU]).find([text]) == [[]]


def test_two_test_sets_of_a_language_keep_their_questions_apart(tmp_path):
    texts = [
        "Which drug keeps the liver from renewing vitamin K in the blood of a patient with a clot in the left leg?",
        "Which of the many vessels of the heart brings oxygen to the wall of the left ventricle in most people?",
    ]
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / name / "Test").mkdir(parents=True)
        row = {"question": text, "options": {"A": "warfarin", "B": "iron"}, "answer_idx": "A"}
        (tmp_path / name / "Test" / "English.jsonl").write_text(json.dumps(row) + "\n")
    questions = read_test_questions([tmp_path / "a", tmp_path / "b"], FailedItems())
    (hits,) = TestQuestions(questions).find([" ".join(texts)])
    assert sorted(hit.question for hit in hits) == [f"{tmp_path}/{name}/Test/English.jsonl:00001" for name in "ab"]
    assert [question.id for question in read_test_questions([tmp_path / "a"], FailedItems())] == ["Test/English/00001"]


def test_texts_of_no_words_or_one_huge_word_hold_nothing():
    texts = ["", "\n", "...", "x" * 300_000, "\ud800 a", "\0", "漢" * 300_000, "\u0301" * 50]
    assert TestQuestions([EN, JA, RU]).find(texts) == [[] for _ in texts] and TestQuestions([EN]).find([]) == []


def test_a_stem_that_many_questions_share_needs_all_of_it_and_the_options():
    stem = "Which of the following statements about this drug is true and supported by evidence?"
    options = [[f"{effect} of the {organ}" for effect in ("failure", "growth", "pain")] for organ in "abcdefghij"]
    shared = [Question(f"q{i}", "en", stem, dict(zip("ABC", o, strict=True)), ("A",)) for i, o in enumerate(options)]
    test = TestQuestions(shared)
    assert test.find([stem, f"{stem}\nnone of them\nall of them", "growth of the d, failure of the d"]) == [[], [], []]
    (hits,) = test.find([f"1) {stem}\n- growth of the d\n- pain of the d\n- failure of the d"])
    assert [hit.question for hit in hits] == ["q3"]
    # In fewer questions than `max_questions` the same stem is a question's own, and long enough without options.
    assert [h.question for h in TestQuestions(shared[:2]).find([f"{stem} none"])[0]] == ["q0", "q1"]
    no_text = Question("q", "en", "???", {"A": "this one here", "B": "that one there"}, ("A",))
    assert TestQuestions([no_text]).too_short == ["q"]
    assert TestQuestions([no_text]).find(["this one here that one there"]) == [[]]


def test_texts_do_not_run_into_each_other_and_long_ones_are_read_whole(monkeypatch):
    questions = read_test_questions([SAMPLE], FailedItems())
    test = TestQuestions(questions)
    words = next(q.question.split() for q in questions if 26 <= len(q.question.split()) <= 45)
    third, half = len(words) // 3, len(words) // 2
    assert test.find([" ".join(words)]) != [[]]
    assert test.find([" ".join(words[third:half]), " ".join(words[half:-third])]) == [[], []]
    texts = [question_text(question) for question in questions]
    filler = documents(SAMPLE / "documents", "en")
    long = " ".join(filler) * 3
    for at in range(0, 4000, 401):
        texts.append(long[:at] + "\n" + questions[at % len(questions)].question + "\n" + long)
    expected = test.find(texts)
    for size in (20_000, 40_000):
        monkeypatch.setattr(contamination, "MAX_PIECE_CHARACTERS", size)
        assert test.find(texts) == expected


def test_every_sample_question_planted_in_a_document_is_found_and_nothing_else():
    questions = read_test_questions([SAMPLE], FailedItems())
    test, rng = TestQuestions(questions), random.Random(0)
    assert len(questions) == 126 and not test.too_short
    for lang in LANGUAGES:
        texts = documents(SAMPLE / "documents", lang)
        assert not any(test.find(texts))
        of_language = [question for question in questions if question.lang == lang]
        planted = []
        for question in of_language:
            text = rng.choice(texts)
            at = rng.randrange(len(text))
            planted.append(text[:at] + "\n" + question_text(question).upper().replace(",", " ,") + "\n" + text[at:])
        assert [[hit.question for hit in hits] for hits in test.find(planted)] == [[q.id] for q in of_language]


@pytest.mark.skipif(not (DATA / "mmedbench").is_dir(), reason="../shared/data is absent")
def test_real_documents_and_real_questions():
    questions = read_test_questions([DATA], FailedItems())
    test, rng = TestQuestions(questions), random.Random(0)
    found = total = 0
    for lang in LANGUAGES:
        texts = documents(DATA / "documents", lang)
        num_hits = sum(map(bool, test.find(texts)))
        assert num_hits <= (5 if lang == "zh" else 0)  # the five are of CMExam, rewritten questions of the test set
        for question in (q for q in questions if q.lang == lang):
            text = rng.choice(texts)
            at = rng.randrange(len(text))
            hits = test.find([text[:at] + "\n" + question_text(question) + "\n" + text[at:]])[0]
            found, total = found + (question.id in [hit.question for hit in hits]), total + 1
    assert total == 600 and found == total


@pytest.fixture
def corpus(tmp_path):
    """Six shards of sample documents; each third document of a language holds one of its test questions."""
    questions = [q for q in read_test_questions([SAMPLE], FailedItems())]
    folder, planted = tmp_path / "corpus", {}
    folder.mkdir()
    for lang in LANGUAGES:
        of_language = [question for question in questions if question.lang == lang]
        with open(folder / f"{lang}.jsonl", "w", encoding="utf-8") as file:
            for number, text in enumerate(documents(SAMPLE / "documents", lang)):
                row = {"id": f"{lang}-{number}", "text": text, "lang": lang, "source": "s<b>"}
                if number % 3 == 0:
                    question = of_language[number % len(of_language)]
                    planted[row["id"]] = question.id
                    row["text"] = text + "\n" + question_text(question)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.write('{"no": "text"}\n')
    return folder, planted


def command(corpus, output_dir, test=SAMPLE, *words):
    return [
        sys.executable, "data_collection/decontaminate.py", "--input", str(corpus), "--test", str(test),
        "--output_dir", str(output_dir), *words,
    ]  # fmt: skip


def table(output_dir, part):
    return [row for path in sorted((output_dir / part).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_the_command_removes_and_lists_and_goes_on_after_sigkill(corpus, tmp_path, script_env):
    folder, planted = corpus
    (tmp_path / "Test").mkdir()
    broken = tmp_path / "Test" / "English.jsonl"
    broken.write_bytes((SAMPLE / "mmedbench" / "Test" / "English.jsonl").read_bytes() + b"{\n")
    tests = [str(broken), *(str(p) for p in find_test_files([SAMPLE]) if p.stem != "English")]

    def run(output_dir, **options):
        words = command(folder, output_dir, tests[0], "--num_processes", "1")
        at = words.index("--test") + 1
        words[at : at + 1] = tests
        return subprocess.Popen(
            words, cwd=ROOT, env=script_env, stderr=subprocess.PIPE, start_new_session=True, **options
        )

    whole = tmp_path / "whole"
    process = run(whole, stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.FAILED_ITEMS, err.decode()
    kept, rejected = table(whole, "kept"), table(whole, "rejected")
    assert {row["id"]: row["question"] for row in rejected} == planted
    assert not {row["id"] for row in kept} & set(planted) and {row["reason"] for row in rejected} == {"contaminated"}
    statistics = read_json(whole / "stats.json")
    assert statistics["read"] == len(kept) + len(rejected) == statistics["kept"] + statistics["rejected"]
    assert json.loads(out) == {name: statistics[name] for name in ("read", "kept", "rejected", "failed")}
    failures = [json.loads(line) for line in (whole / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 7 and sum(str(broken) in row["where"] for row in failures) == 1
    page = (whole / "contamination.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| Test/")]
    assert {cells[1]: cells[0].removeprefix("| ") for cells in lines} == planted
    assert sum(row["found"] for row in statistics["test"]["by_language"].values()) == len(set(planted.values()))

    cut, rng, kills = tmp_path / "cut", random.Random(1), 0
    for _ in range(20):
        process = run(cut, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate(timeout=600)
        if process.returncode in (ExitCode.DONE, ExitCode.FAILED_ITEMS):
            break
        half_written = cut / ".contamination.md.killed.tmp"  # as a kill in the last second leaves it
        cut.mkdir(exist_ok=True)  # a kill in the first moment comes before the folder
        half_written.touch()
        os.utime(half_written, (0, 0))
    process = run(cut, stdout=subprocess.DEVNULL)
    process.communicate(timeout=600)
    assert process.returncode == ExitCode.FAILED_ITEMS and kills
    assert table(cut, "kept") == kept and table(cut, "rejected") == rejected
    assert (cut / "contamination.md").read_text(encoding="utf-8") == page
    assert read_json(cut / "stats.json") == statistics
    assert not list(cut.rglob(".*.tmp"))

    other = subprocess.run(
        command(folder, whole, broken), cwd=ROOT, env=script_env, capture_output=True, text=True, timeout=600
    )
    assert other.returncode == ExitCode.SETTINGS and "test was" in other.stderr


def test_a_test_set_that_is_not_there_or_empty_is_said(tmp_path):
    with pytest.raises(MissingInputError, match="no Test questions"):
        find_test_files([tmp_path])
    (tmp_path / "English.jsonl").write_text("{}\n")
    with pytest.raises(MissingInputError, match="no usable question"):
        read_test_questions([tmp_path / "English.jsonl"], FailedItems())


def test_the_report_shows_untrusted_text_as_text():
    assert markdown_cell("a|b <script>\n`x` [l](u)") == "a\\|b &lt;script&gt; \\`x\\` \\[l\\](u)"
