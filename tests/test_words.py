"""Words: the same word on both sides of a comparison, whatever stands around it."""

import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from inference.scores.words import words

ROOT = Path(__file__).parents[1]
TEXTS = {
    "en": 'The patient has pneumonia. It\'s viral, e.g. influenza A; the dose is 2.5 mg ("twice a day").',
    "zh": "患者出现发热和咳嗽，因此最可能的诊断是肺炎。应给予 2.5 mg 的药物（每日两次）。",
    "ja": "患者は発熱と咳嗽を認める。したがって、最も考えられるのは肺炎である。SpO2は95％だった。",
    "fr": "L'examen montre une pneumonie. C’est l'option juste, car la fièvre dure : 2,5 mg suffisent !",
    "ru": "У больного пневмония. Ответ верен, так как лихорадка длится более 3 дней.",
    "es": "¿Qué tiene el paciente? Una neumonía, por la fiebre. ¡Hay que tratarla!",
}


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
        plain = unicodedata.normalize("NFKC", TEXTS[lang]).lower().replace("’", "'")
        assert "".join(split) == re.sub(r"\s", "", plain)
    assert words(" \n\t ", lang) == words("", lang) == []
    assert words(TEXTS[lang] + "\ud800", lang)  # half a surrogate pair, as JSON may hold it


def test_chinese_and_japanese_are_split_into_words_not_characters():
    assert "肺炎" in words(TEXTS["zh"], "zh") and "肺炎" in words(TEXTS["ja"], "ja")


def test_chinese_words_do_not_depend_on_a_cache_file(tmp_path):
    (tmp_path / "jieba.cache").write_bytes(b"not a dictionary")
    code = "from inference.scores.words import words; print(words('患者出现发热', 'zh'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert answer.stdout.strip() == str(words("患者出现发热", "zh")), answer.stderr
    assert answer.stderr == "" and [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]


@pytest.mark.parametrize("lang", ["en", "zh", "ja"])
@pytest.mark.parametrize("piece", ["医", "a", "'", ". ", "\n", " "])
def test_splitting_hostile_text_takes_linear_time(lang, piece):
    start = time.process_time()
    words(piece * (100_000 if piece == "医" else 20_000), lang)
    assert time.process_time() - start < 20  # 2 s here; jieba alone took 52 s, quadratic in a run of Han characters
