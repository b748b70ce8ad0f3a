"""Quality rules and repair of texts."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from data_collection.selection.quality import MAX_REPEATED, ngram_problem, problem, repair

DOCUMENTS = Path(__file__).parents[2] / "shared" / "data" / "documents"
needs_documents = pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="no ../shared/data")

SOUND = {
    "en": "The “β-lactam” costs 5 µg – café, naïve, Ø 5 mm, √2, ½ and 38 °C…",
    "zh": "患者，男，６５岁。体温３８℃，血压１２０/８０ｍｍＨｇ；诊断为“肺炎”。",
    "ja": "ステロイド抵抗性の潰瘍性大腸炎に対するシクロスポリン（ＣｓＡ）の有効率は６０～８０％とされる。",
    "fr": "À l’âge de 45 ans, l’œdème « aigu » s’aggrave ; ça dure depuis Noël.",
    "ru": "Рак лёгкого — болезнь, при которой… «опухоль» растёт; РНК, СПИД, Рим.",
    "es": "¿Qué señales hay? El niño tenía 39 °C; ESPAÑA, AÑO 2020, Ávila.",
    "ar": "المريض يعاني من ارتفاع ضغط الدم.",
    "hi": "रोगी को उच्च रक्तचाप है और क्‍लिनिक में भर्ती है।",
    "de": "Die Größe der Übelkeit: 5 µg/ml, ÄRZTE prüfen täglich.",
}


@pytest.mark.parametrize("lang", SOUND)
def test_sound_text_is_returned_as_it_is_and_text_read_in_a_wrong_encoding_is_mended(lang):
    sound = SOUND[lang]
    assert repair(sound) is sound
    broken = sound.encode().decode("latin-1")
    assert (
        broken != sound
        and repair(f"A line that is sound: {sound}\n{broken}") == f"A line that is sound: {sound}\n{sound}"
    )


def test_windows_1252_and_1251_readings_are_mended():
    assert repair("dâ€™une Ã©tude ; l'Ã¢ge") == "d’une étude ; l'âge"
    assert repair("лечение рака".encode().decode("cp1251")) == "лечение рака"


def test_invisible_characters_go_and_line_ends_become_one_kind():
    assert repair("a\0b\x07c\u00add\ufeffe\u200bf\u202eg") == "abcdefg"
    assert repair("a\r\nb\rc\x0cd\u2028e\tf") == "a\nb\nc\nd\ne\tf"
    joined = "क्‍लिनिक می‌شود"  # Hindi and Persian are spelled with joiners
    assert repair(joined) is joined


def test_boilerplate_lines_go_and_the_same_words_in_a_sentence_stay():
    text = (
        "Share\nFever is common.\n» Print this page «\nThis website uses cookies to improve your experience.\n"
        "Please enable JavaScript in your browser.\nBack to top"
    )
    assert repair(text) == "Fever is common."
    assert repair("首页\n发热是常见症状。\n返回顶部\n本网站使用Cookie，继续浏览即表示同意。") == "发热是常见症状。"
    assert repair("選單\n發燒是常見症狀。\n回頂端\n本網站使用Cookie，繼續瀏覽即表示同意。") == "發燒是常見症狀。"
    assert repair("Аспирин снижает жар.\nПоделиться\nНа сайте используются cookies.") == "Аспирин снижает жар."
    sentences = "Patients share rooms.\nHe ate three cookies a day at this site.\nPrint the form and sign in ink."
    assert repair(sentences.replace(" at this site", "")) == sentences.replace(" at this site", "")


def test_long_repeated_lines_go_and_short_headings_stay():
    footer = "Journal of Internal Medicine, volume 12, number 3, March 2011, all parts"
    bodies = [
        f"Chapter {n}: patient number {n} had fever for {n} days and then recovered without treatment " * 3
        for n in range(9)
    ]
    text = "\n".join(part for body in bodies for part in ("Treatment", body, footer))
    mended = repair(text)
    assert mended.count(footer) == 1 and mended.count("Treatment") == 9
    assert all(body.strip() in mended for body in bodies)
    assert repair(mended) == mended


def test_a_text_that_mostly_repeats_is_left_for_rejection():
    text = "\n".join(["Buy the best pills of the whole world here, today and only today, my friend"] * 20)
    assert repair(text) == text
    assert problem(text, "en") == ("repeated_lines", pytest.approx(19 / 20, abs=0.01))


def test_reasons_and_their_numbers():
    words = "The patient was treated with aspirin for three weeks and had no further complaints."
    assert problem(words, "en") == ("", 0.0)
    assert problem("Only 18 letters are in it.", "en") == ("too_short", 18.0)
    assert problem("患者服用阿司匹林三周后无不适症状，复查结果正常。", "zh") == ("", 0.0)
    assert problem("阿司匹林三周后", "zh") == ("too_short", 7.0)
    assert problem("", "en") == ("too_short", 0.0)
    letters = "abcdefghij" * 6
    assert problem(letters + " 1 2 3 4" * 30, "en") == ("few_letters", pytest.approx(60 / 180))
    assert problem(letters + "1" * 60, "en")[0] == ""  # half of them are enough
    hindi = "रोगी को उच्च रक्तचाप है और वह क्लिनिक में भर्ती है तथा उसका उपचार चल रहा है अभी"
    assert problem(hindi, "hi") == ("", 0.0)  # vowel signs count as letters


def test_repeated_phrases_are_found_with_and_without_spaces():
    phrase = "take this wonderful remedy every single morning and you will never again feel any pain "
    assert problem(phrase * 10, "en")[0] == "repeated_ngrams"
    assert (
        problem("每天早晨服用这种神奇的药物您将永远不再感到任何疼痛而且一定会长寿" * 10, "zh")[0] == "repeated_ngrams"
    )
    filler = random.Random(0)
    varied = " ".join(f"click here now {filler.randrange(10**9):x}" for _ in range(100))
    reason, share = problem(varied, "en")
    assert reason == "repeated_ngrams" and share == pytest.approx(0.75, abs=0.01)


def slow_repeated_share(tokens, n):
    """Share of the tokens in n-grams seen before, by sets."""
    seen, covered = set(), set()
    for start in range(len(tokens) - n + 1):
        gram = tuple(tokens[start : start + n])
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return len(covered) / len(tokens)


@pytest.mark.parametrize("tokens_per_word", [1, 2])
def test_ngram_rule_equals_plain_python(tokens_per_word):
    draw = random.Random(tokens_per_word)
    decided = set()
    for _ in range(200):
        pieces = [[draw.randrange(10**6) for _ in range(draw.randrange(15, 60))] for _ in range(6)]
        tokens = [token for _ in range(10) for token in draw.choice(pieces if draw.random() < 0.6 else pieces[:5])]
        tokens += [draw.randrange(10**6) for _ in range(draw.randrange(0, 400))]
        share = slow_repeated_share(tokens, 10 * tokens_per_word)
        found = ngram_problem(np.array(tokens, np.uint64), tokens_per_word)
        assert found == (pytest.approx(share) if share > MAX_REPEATED else 0.0)
        decided.add(bool(found))
    assert decided == {True, False}


def test_hostile_texts_end_soon_and_without_an_error():
    for text in (
        "",
        "\0" * 1000,
        "Ã" * 20_000,
        "\n" * 100_000,
        " \n" * 50_000,
        "\ud800" * 100,
        "😀" * 10_000,
        "cookie " * 50,
    ):
        assert isinstance(repair(text), str)
        assert problem(repair(text), "zh")[0] in ("too_short", "few_letters", "repeated_ngrams")


@needs_documents
@pytest.mark.parametrize("lang", ["en", "zh", "ja", "fr", "ru", "es"])
def test_under_one_percent_of_real_medical_documents_is_rejected_or_changed_beyond_invisible_characters(lang):
    with open(DOCUMENTS / f"{lang}.medical.jsonl", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    mended = [repair(text) for text in texts]
    assert sum(bool(problem(text, lang)[0]) for text in mended) < 0.01 * len(texts)
    assert sum(len(new) < 0.98 * len(old) for old, new in zip(texts, mended, strict=True)) < 0.01 * len(texts)
