"""Scores: worked numbers, parity with the libraries on words split before, a plain-loop second implementation, tables."""

import csv
import json
import math
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError
from data_collection.questions.question import chance_level, is_correct
from inference import score_plots, score_tables, scoring
from inference.words import words

ROOT = Path(__file__).parents[1]
TEXTS = {
    "en": 'The patient has pneumonia. It\'s viral, e.g. influenza A; the dose is 2.5 mg ("twice a day").',
    "zh": "患者出现发热和咳嗽，因此最可能的诊断是肺炎。应给予 2.5 mg 的药物（每日两次）。",
    "ja": "患者は発熱と咳嗽を認める。したがって、最も考えられるのは肺炎である。SpO2は95％だった。",
    "fr": "L'examen montre une pneumonie. C’est l'option juste, car la fièvre dure : 2,5 mg suffisent !",
    "ru": "У больного пневмония. Ответ верен, так как лихорадка длится более 3 дней.",
    "es": "¿Qué tiene el paciente? Una neumonía, por la fiebre. ¡Hay que tratarla!",
}
OPTIONS = {"A": "fever", "B": "cough", "C": "rash", "D": "pain"}


def row(number=0, **changes):
    return {
        "id": f"Test/English/{number:05d}",
        "lang": "en",
        "kind": "answer_only",
        "prompt": {"style": "plain", "hash": "0"},
        "output": " A",
        "options": OPTIONS,
        "parsed": ["A"],
        "gold": ["A"],
        "rationale": "",
        "human_checked": False,
        "human_check_passed": False,
        "num_prompt_tokens": 10,
        "num_new_tokens": 2,
        "hit_limit": False,
        "seconds": 0.5,
    } | changes


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


# Words


def test_a_word_before_a_full_stop_is_the_same_word():
    assert words("Pneumonia. No pneumonia.", "en") == ["pneumonia", ".", "no", "pneumonia", "."]
    assert words("See e.g. pneumonia.\nThen 2.5 mg", "en") == ["see", "e.g", ".", "pneumonia", ".", "then", "2.5", "mg"]
    assert words('He said "pneumonia." Then left.', "en").count("pneumonia") == 1
    assert words("¿Fiebre? ¡Sí!", "es") == ["¿", "fiebre", "?", "¡", "sí", "!"]
    assert words("هل لديك حمى؟ نعم، سعال.", "ar") == ["هل", "لديك", "حمى", "؟", "نعم", "،", "سعال", "."]
    assert words("बुखार है। खांसी नहीं।", "hi") == ["बुखार", "है", "।", "खांसी", "नहीं", "।"]


def test_forms_of_one_character_give_one_word():
    assert words("ＳｐＯ２　９５％", "ja") == words("SpO2 95%", "ja")
    assert words("c’est l’option", "fr") == words("c'est l'option", "fr")
    assert words("ПНЕВМОНИЯ", "ru") == words("пневмония", "ru")
    assert words("fie\u0300vre", "fr") == words("fi\u00e8vre", "fr") == ["fièvre"]


@pytest.mark.parametrize("lang", TEXTS)
def test_words_are_the_characters_of_the_text(lang):
    split = words(TEXTS[lang], lang)
    assert len(split) > 8 and not any(word.isspace() or not word for word in split)
    if lang != "en":  # nltk writes quotation marks in another way
        import unicodedata

        plain = unicodedata.normalize("NFKC", TEXTS[lang]).lower().replace("’", "'")
        assert "".join(split) == re.sub(r"\s", "", plain)
    assert words(" \n\t ", lang) == words("", lang) == []
    assert words(TEXTS[lang] + "\ud800", lang)  # half a surrogate pair, as JSON may hold it


def test_chinese_and_japanese_are_split_into_words_not_characters():
    assert "肺炎" in words(TEXTS["zh"], "zh") and "肺炎" in words(TEXTS["ja"], "ja")


def test_chinese_words_do_not_depend_on_a_cache_file(tmp_path):
    (tmp_path / "jieba.cache").write_bytes(b"not a dictionary")
    code = "from inference.words import words; print(words('患者出现发热', 'zh'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert answer.stdout.strip() == str(words("患者出现发热", "zh")), answer.stderr
    assert answer.stderr == "" and [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]


@pytest.mark.parametrize("lang", ["en", "zh", "ja"])
@pytest.mark.parametrize("piece", ["医", "a", "'", ". ", "\n", " "])
def test_splitting_hostile_text_takes_linear_time(lang, piece):
    start = time.perf_counter()
    words(piece * (100_000 if piece == "医" else 20_000), lang)
    assert time.perf_counter() - start < 20  # 2 s here; jieba alone took 52 s, quadratic in a run of Han characters


# BLEU-1 and ROUGE-1


@pytest.mark.parametrize("lang", TEXTS)
def test_identical_text_scores_one_and_foreign_text_zero(lang):
    own, other = words(TEXTS[lang], lang), words("☃ ☂", lang)
    assert scoring.bleu_1(own, own) == scoring.rouge_1_f(own, own) == 1.0
    assert scoring.bleu_1(own, other) == scoring.rouge_1_f(own, other) == 0.0
    assert scoring.bleu_1(own, []) == scoring.rouge_1_f(own, []) == 0.0


def test_worked_numbers():
    reference, candidate = ["the", "cat", "sat", "on", "the", "mat"], ["the", "the", "the", "cat"]
    # BLEU-1: 2 of the three "the" and 1 "cat" count, 3 of 4; 4 words for 6: brevity e^(1 - 6/4).
    assert scoring.bleu_1(reference, candidate) == pytest.approx(0.75 * math.exp(-0.5), rel=1e-12)
    # ROUGE-1: precision 3/4, recall 3/6, F 2 * .75 * .5 / 1.25.
    assert scoring.rouge_1_f(reference, candidate) == pytest.approx(0.6, rel=1e-12)
    # A longer candidate has no brevity penalty: 6 of 8.
    assert scoring.bleu_1(reference, [*reference, "and", "slept"]) == pytest.approx(0.75, rel=1e-12)


def plain_scores(reference, candidate):
    """A second implementation, by counting."""
    have, want, common = Counter(candidate), Counter(reference), 0
    for word in have:
        common += min(have[word], want[word])
    if not common:
        return 0.0, 0.0
    precision, recall = common / len(candidate), common / len(reference)
    brevity = 1.0 if len(candidate) > len(reference) else math.exp(1 - len(reference) / len(candidate))
    return precision * brevity, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_parity_with_a_plain_loop(lang):
    draw = random.Random(lang)
    pool = words(TEXTS[lang], lang)
    for _ in range(200):
        reference = draw.choices(pool, k=draw.randint(1, 40))
        candidate = draw.choices([*pool, "×"], k=draw.randint(1, 40))
        bleu, rouge = plain_scores(reference, candidate)
        assert scoring.bleu_1(reference, candidate) == pytest.approx(bleu, rel=1e-12)
        assert scoring.rouge_1_f(reference, candidate) == pytest.approx(rouge, rel=1e-12)


def test_parity_with_nltk_sacrebleu_and_rouge_score_on_plain_english():
    from nltk.translate.bleu_score import sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    draw = random.Random(0)
    vocabulary = [
        "fever",
        "cough",
        "rash",
        "pain",
        "in",
        "the",
        "a",
        "of",
        "patient",
        "acute",
        "chronic",
        "with",
        "without",
        "and",
    ]
    rouge, bleu = RougeScorer(["rouge1"]), BLEU(max_ngram_order=1, tokenize="none", effective_order=True)
    for _ in range(100):
        reference, candidate = (" ".join(draw.choices(vocabulary, k=draw.randint(3, 30))) for _ in range(2))
        split = words(reference, "en"), words(candidate, "en")
        ours = scoring.bleu_1(*split)
        assert ours == sentence_bleu([reference.split()], candidate.split(), weights=(1,))
        assert ours == pytest.approx(bleu.sentence_score(candidate, [reference]).score / 100, rel=1e-9)
        assert scoring.rouge_1_f(*split) == rouge.score(reference, candidate)["rouge1"].fmeasure


def test_extract_rationale():
    for output, rationale in (
        (" Because of the fever.\n\n### Answer: A", "Because of the fever."),
        ("### Rationale: Because.\n\n### Answer: A\n\n### Answer: B", "Because."),
        ("###Rationale: Because. ###Answer: OPTION A IS CORRECT.", "Because."),
        ("The answer is A, as the answer: fits.\nAnswer: B", "The answer is A, as the answer: fits."),
        ("因为发热。\n答案：A", "因为发热。"),
        ("Porque hay fiebre.\n**Respuesta:** A", "Porque hay fiebre."),
        ("Cut at the limit, so no mark", "Cut at the limit, so no mark"),
        ("### Answer: A", ""),
        ("", ""),
    ):
        assert scoring.extract_rationale(output) == rationale


# The scores of a file


def test_accuracy_is_exact_set_and_unparsed_counts():
    rows = [
        row(0),
        row(1, output=" A, B", parsed=["A", "B"], gold=["A", "B"]),
        row(2, output=" A", gold=["A", "B"]),  # half of it is not right
        row(3, output=" A, B, C", parsed=["A", "B", "C"], gold=["A", "B"]),
        row(4, output=" I do not know", parsed=None, gold=["C"]),
        row(5, output="The answer is B.", parsed=None, gold=["B"], hit_limit=True),  # an older parser gave up
    ]
    result = scoring.score(rows)
    scores = result["languages"]["answer_only"]["en"]
    assert (scores["num_questions"], scores["num_correct"], scores["num_unparsed"]) == (6, 3, 1)
    assert scores["accuracy"] == 0.5
    assert scores["accuracy_standard_error"] == pytest.approx(math.sqrt(0.25 / 6), rel=1e-12)
    assert scores["unparsed_share"] == scores["hit_limit_share"] == pytest.approx(1 / 6)
    assert scores["chance_level"] == pytest.approx(1 / 15)  # several right answers in the file: any subset of four
    assert scores["generation_seconds"] == 3.0 and scores["questions_per_second"] == 2.0
    assert result["num_parsed_otherwise_than_recorded"] == 1
    assert "bleu_1_sentence" not in scores
    assert is_correct(("B", "A"), ["A", "B"]) and not is_correct(None, ["A"]) and not is_correct((), [])


def test_chance_is_a_mean_over_questions_of_one_language():
    two = {"A": "да", "B": "нет"}
    rows = [row(0), row(1, options=two), row(2, lang="ru", options=two, gold=["B"])]
    languages = scoring.score(rows)["languages"]["answer_only"]
    assert languages["en"]["chance_level"] == (1 / 4 + 1 / 2) / 2
    assert languages["ru"]["chance_level"] == 1 / 2
    assert chance_level(5, several_possible=True) == 1 / 31


def test_the_average_counts_every_language_the_same():
    rows = [row(i) for i in range(9)] + [row(9, output=" B")] + [row(i, lang="fr", output=" C") for i in range(10, 12)]
    result = scoring.score(rows)
    average, languages = result["average"]["answer_only"], result["languages"]["answer_only"]
    assert average["accuracy"] == (0.9 + 0.0) / 2
    assert average["num_questions"] == 12 and average["num_languages"] == 2
    assert average["accuracy_standard_error"] == languages["en"]["accuracy_standard_error"] / 2
    assert average["questions_per_second"] == 2.0


def test_rationales_are_scored_over_the_questions_that_have_a_reference():
    reference = "the cat sat on the mat"
    rows = [
        row(0, kind="with_rationale", rationale=reference, output=f" {reference}\n\n### Answer: A"),
        row(
            1,
            kind="with_rationale",
            rationale=reference,
            output="the the the cat\n\n### Answer: A",
            human_check_passed=1,
        ),
        row(2, kind="with_rationale", rationale=reference, output="### Answer: A"),
        row(3, kind="with_rationale", rationale=" ", output="something\n\n### Answer: A"),
        row(0),
    ]
    result = scoring.score(rows)
    scores = result["languages"]["with_rationale"]["en"]
    bleu = 0.75 * math.exp(-0.5)
    assert (scores["num_references"], scores["num_empty_rationales"], scores["accuracy"]) == (3, 1, 1.0)
    assert scores["bleu_1_sentence"] == pytest.approx((1 + bleu + 0) / 3, rel=1e-12)
    assert scores["rouge_1_f"] == pytest.approx((1 + 0.6 + 0) / 3, rel=1e-12)
    assert scores["human_check_passed_num_references"] == 1
    assert scores["human_check_passed_bleu_1_sentence"] == pytest.approx(bleu, rel=1e-12)
    assert set(result["languages"]) == {"with_rationale", "answer_only"}
    assert "nltk" in result["words"]["en"]


def test_scores_are_a_function_of_the_rows_alone():
    rows = [row(i, output=f" {'ABCD'[i % 4]}", seconds=0.1 * i) for i in range(30)]
    first = scoring.score(rows)
    assert scoring.score(json.loads(json.dumps(rows))) == first == json.loads(json.dumps(first))
    assert scoring.score(rows[::-1])["average"] == first["average"]


# Reading predictions


def test_broken_rows_are_failed_items(tmp_path):
    broken = [
        b'{"id": "cut',
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        *(
            json.dumps(r).encode()
            for r in (
                row(),  # the same question again
                row(1, lang="xx"),
                row(2, kind="guess"),
                row(3, gold=[]),
                row(4, gold=["E"]),
                row(5, gold="A"),
                row(6, options={"A": "x", "C": "y"}),
                row(7, options={"A": "x"}),
                row(8, output=None),
                row(9, seconds=float("nan")),
                row(10, parsed="A"),
                {k: v for k, v in row(11).items() if k != "output"},
            )
        ),
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([json.dumps(row()).encode(), b"", *broken]))
    failed = FailedItems()
    assert scoring.read_predictions(path, failed) == [row()]
    assert [item["where"] for item in failed.items] == [f"{path}:{line}" for line in range(3, 3 + len(broken))]
    assert all(item["reason"] for item in failed.items)


def test_a_file_without_a_usable_row_is_missing_input(tmp_path):
    for name, content in (("absent", None), ("empty", ""), ("broken", "{}\n")):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(MissingInputError) as caught:
            scoring.read_predictions(path, FailedItems())
        assert str(path) in str(caught.value)


# Tables, plots, the command


def scores_of(lang_to_outputs, kind="answer_only", rationale=""):
    rows = [
        row(i, lang=lang, output=output, kind=kind, rationale=rationale)
        for lang, outputs in lang_to_outputs.items()
        for i, output in enumerate(outputs)
    ]
    return scoring.score(rows)


def test_tables_say_what_the_scores_say(tmp_path):
    base = scores_of({"en": [" A", " B", "?"], "zh": [" A", " A", " B"]})
    tuned = scores_of({"en": ["fever\n\n### Answer: A"], "zh": ["×\n\n### Answer: A"]}, "with_rationale", "fever")
    labelled = [("base | x", base), ("tuned", tuned)]
    markdown, table = score_tables.write_tables(labelled, tmp_path, "10 steps,\nlength 5")
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["language"], r["setting"]) for r in rows] == [
        (language, setting)
        for setting in ("base | x, answer only", "tuned, with rationale")
        for language in ("English", "Chinese", "Average")
    ]
    assert float(rows[0]["accuracy_percent"]) == 100 * base["languages"]["answer_only"]["en"]["accuracy"]
    assert float(rows[2]["accuracy_percent"]) == 100 * base["average"]["answer_only"]["accuracy"] == 50.0
    assert rows[0]["bleu_1_sentence_percent"] == "" and float(rows[5]["bleu_1_sentence_percent"]) == 50.0
    text = markdown.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}  # the bar in the label is escaped
    assert "| English | base \\| x, answer only | 3 | 33.3 ± 27.2 | 25.0 | 1 (33.3 %) | – | – |" in lines
    assert "10 steps, length 5" in text and "not for clinical use" in text


@pytest.mark.filterwarnings("error")
def test_plots_are_drawn_and_the_same_each_time(tmp_path):
    base = scores_of({"en": [" A", " B"], "zh": [" A"]})
    tuned = scores_of({"en": ["fever\n\n### Answer: A"], "ru": ["×"]}, "with_rationale", "fever")
    assert {path.name for path in score_plots.write_plots([("base", base)], tmp_path / "base")} == {
        "accuracy.svg",
        "accuracy.png",
    }
    labelled = [("base", base), ("tuned", tuned)]
    first, second = (score_plots.write_plots(labelled, tmp_path / name) for name in ("1", "2"))
    assert [path.name for path in first] == ["accuracy.svg", "accuracy.png", "rationale.svg", "rationale.png"]
    assert all(a.read_bytes() == b.read_bytes() and a.stat().st_size > 5000 for a, b in zip(first, second, strict=True))


def run_score(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "inference" / "score.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )


def test_the_command_scores_says_already_done_and_gives_the_codes(tmp_path):
    good = write_rows(tmp_path / "good" / "predictions.jsonl", [row(), row(1, output=" B")])
    bad = write_rows(tmp_path / "bad" / "predictions.jsonl", [row(), {"id": "broken"}])
    first = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert first.returncode == 5, first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["good"]["answer_only"]["accuracy"] == 0.5
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [run["label"] for run in saved["runs"]] == ["good", "bad"] and saved["caption"] == "60 steps"
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 1
    for name in ("table.md", "table.csv", "accuracy.svg", "accuracy.png", "run.json"):
        assert (tmp_path / "out" / name).stat().st_size

    before = (tmp_path / "out" / "scores.json").stat().st_mtime_ns
    again = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert again.returncode == 5 and "already done" in again.stderr
    assert (tmp_path / "out" / "scores.json").stat().st_mtime_ns == before

    write_rows(good, [row()])
    changed = run_score("--input", good.parent, bad, "--output_dir", tmp_path / "out", "--caption", "60 steps")
    assert changed.returncode == 2 and "other input" in changed.stderr


def test_the_command_refuses_what_is_not_there(tmp_path):
    empty = tmp_path / "predictions.jsonl"
    empty.touch()
    assert run_score("--input", empty, "--output_dir", tmp_path / "out").returncode == 3
    assert run_score("--input", tmp_path / "none", "--output_dir", tmp_path / "out").returncode == 3
    both = run_score("--input", "a", "b", "--labels", "x", "--output_dirs", "out")
    assert both.returncode == 2 and "near: output_dir" in both.stderr
    twice = run_score("--input", "a", "a", "--labels", "x", "--output_dir", tmp_path / "out")
    assert twice.returncode == 2 and "given twice" in twice.stderr and "1 for 2 inputs" in twice.stderr
    assert not (tmp_path / "out").exists()


def test_scoring_imports_no_torch():
    code = "import sys, inference.scoring, inference.words; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
