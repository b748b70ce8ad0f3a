"""Keyword matching: worked numbers, parity with plain Python, what counts as the same letter, safety on any bytes."""

import json
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import MissingInputError
from configs.languages import LANGUAGES, simplified_characters
from data_collection.selection.keywords import KeywordMatcher, normalise, read_keywords

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample" / "documents"


def texts(path):
    return [json.loads(line)["text"] for line in open(path, encoding="utf-8")]


def slow_match(text, keywords, lang):
    """MKC and DENS by one regular expression a keyword, over the normalised text."""
    text = normalise(text, lang)
    word = r"[^\W_]" if LANGUAGES[lang].spaced else r"[0-9a-zµ-\u058f]"  # what makes a word with a keyword's end
    covered, found = [False] * len(text), 0
    for keyword in {normalise(keyword, lang) for keyword in keywords}:
        left = f"(?<!{word})" if re.match(word, keyword) else ""
        right = f"(?!{word})" if re.search(f"{word}$", keyword) else ""
        hits = list(re.finditer(f"(?={left}{re.escape(keyword)}{right})", text))
        found += bool(hits)
        for hit in hits:
            covered[hit.start() : hit.start() + len(keyword)] = [True] * len(keyword)
    return found, sum(covered) / max(1, len(text))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_pass_counts_as_one_search_a_keyword_does(lang):
    keywords = read_keywords(LANGUAGES[lang].keywords_file)
    # respellings (œ, ae) are no business of the slow way
    keywords = [k for k in keywords if not re.search("[œæäöüß]|oe|ae", k)][::9]
    matcher = KeywordMatcher(keywords, lang)
    paths = [SAMPLE / f"{lang}.medical.jsonl", SAMPLE / f"{lang}.general.jsonl"]
    for path in filter(Path.exists, paths):
        for text in texts(path)[:3]:
            assert matcher.match(text) == pytest.approx(slow_match(text, keywords, lang))


@pytest.mark.parametrize("lang", ["es", "zh"])
def test_random_patterns_and_texts(lang):
    """Overlaps, patterns inside patterns, shared suffixes, signs and spaces inside patterns, all on a tiny alphabet."""
    draw = random.Random(5)
    letters = "abcé -" if lang == "es" else "ab病毒 -"
    for _ in range(60):
        words = {"".join(draw.choices(letters, k=draw.randint(1, 5))).strip(" ") for _ in range(6)}
        keywords = sorted(" ".join(word.split()) for word in words - {""})
        if not keywords:
            continue
        matcher = KeywordMatcher(keywords, lang)
        for _ in range(5):
            text = "".join(draw.choices(letters + "ÉＡ\u00ad\n,", k=draw.randint(0, 40)))
            assert matcher.match(text) == pytest.approx(slow_match(text, keywords, lang)), (keywords, text)


@pytest.mark.parametrize("lang", ["es", "zh"])
def test_a_long_text_is_searched_over_the_ends_of_its_blocks(lang):
    """Keywords, double spaces and skipped characters lie across every place at which a block can end."""
    draw = random.Random(7)
    keywords = ["type 2", "ab", "ba-b", "病毒", "b病毒 a"]
    pieces = [*keywords, *"ab -", "  \n", "\u00ad", "T\u00adYPE  2", "é", "毒"]
    matcher = KeywordMatcher(keywords, lang)
    for size in (5_000, 16_384, 30_000):
        text = "".join(draw.choices(pieces, k=size))
        assert len(text) > size and matcher.match(text) == pytest.approx(slow_match(text, keywords, lang))
    spans = matcher.spans(" " + "type 2," * 20_000)[1]
    assert [(span.start, span.end) for span in spans] == [(1 + 7 * n, 7 + 7 * n) for n in range(20_000)]


@pytest.mark.parametrize(
    ("text", "keywords", "lang", "wanted"),
    [
        ("Diabetes mellitus, diabetes.", ["diabetes", "diabetes mellitus"], "en", (2, 25 / 28)),  # overlap counts once
        ("Prediabetes and mydiabetes", ["diabetes"], "en", (0, 0)),
        ("post-COVID-19 era", ["covid-19", "post-covid"], "en", (2, 13 / 17)),
        ("type 2  \r\n diabetes", ["type 2 diabetes"], "en", (1, 1)),  # white space in a row is one character
        ("T\u200bype\u00a02 dia\u00adbetes", ["type 2 diabetes"], "en", (1, 1)),
        ("İİİ fever", ["fever"], "en", (1, 5 / 9)),
        ("ﬁbrosis and ﬂu", ["fibrosis", "flu"], "en", (2, 11 / 16)),  # ligatures are written out
        ("Sjögren, SJOGREN", ["sjögren"], "en", (1, 14 / 16)),
        ("crise d’épilepsie", ["crise d'épilepsie"], "fr", (1, 1)),
        ("CRISE D'EPILEPSIE", ["crise d'épilepsie"], "fr", (1, 1)),
        ("une e\u0301pilepsie", ["épilepsie"], "fr", (1, 9 / 13)),
        ("œdème, oedeme, oedème", ["œdème"], "fr", (1, 17 / 21)),
        ("ano, an\u0303o, año", ["año"], "es", (1, 6 / 13)),  # ñ is a letter of its own, however it is written
        ("infeccion, INFECCIÓN", ["infección"], "es", (1, 18 / 20)),
        ("жёлтая лихорадка", ["желтая лихорадка"], "ru", (1, 1)),
        ("гри\u0301пп и рай, раи", ["грипп", "раи"], "ru", (2, 8 / 16)),  # stress marks; й is no и
        ("ＣＴ検査", ["ct", "検査"], "ja", (2, 1)),
        ("ｱﾚﾙｷﾞｰ", ["アレルギー"], "ja", (1, 1)),
        ("做CT检查", ["ct"], "zh", (1, 2 / 5)),
        ("action、糖尿病患者", ["ct", "尿病", "糖尿病"], "zh", (2, 3 / 12)),
        ("CT\u00adx CTß", ["ct"], "zh", (0, 0)),  # a soft hyphen ends no word
        ("發燒，发烧，發烧", ["发烧", "發燒"], "zh", (1, 6 / 8)),  # one term, traditional, simplified or mixed
        ("臺灣的痲疹、衞生所、\uf914園", ["麻疹", "卫生", "乐园"], "zh", (3, 6 / 12)),
        ("発熱、發熱", ["発熱"], "ja", (1, 2 / 5)),
        ("कैन्सर, कैंसर, कैँसर", ["कैंसर"], "hi", (1, 16 / 20)),  # a nasal letter or a dot
        ("अण्डाशय संक्रमण डाक्टर", ["अंडाशय", "सङ्क्रमण", "डॉक्टर"], "hi", (3, 20 / 22)),
        ("", ["fever"], "en", (0, 0)),
        ("fever 😀 𝐟𝐞𝐯𝐞𝐫", ["fever"], "en", (1, 10 / 13)),
    ],
)
def test_worked_counts(text, keywords, lang, wanted):
    assert KeywordMatcher(keywords, lang).match(text) == pytest.approx(wanted)


def test_traditional_chinese_holds_what_its_simplified_form_holds():
    """With every character in any of its traditional forms, a text has the same numbers to the last digit."""
    forms = {}
    for traditional, simplified in simplified_characters().items():
        forms[simplified] = forms.get(simplified, "") + traditional
    assert not set("".join(forms.values())) & set(forms)  # nothing is both
    matcher = KeywordMatcher(read_keywords(LANGUAGES["zh"].keywords_file), "zh")
    draw = random.Random(2)
    for kind in ("medical", "general"):
        for text in texts(SAMPLE / f"zh.{kind}.jsonl"):
            traditional = "".join(draw.choice(forms.get(character, character)) for character in text)
            assert traditional != text and matcher.match(traditional) == matcher.match(text)


def test_letters_of_languages_that_may_join_the_table():
    """Folding does not need a row of the table: vowel signs and alif forms of Arabic, the dot below of Hindi."""
    assert normalise("أُنْفْلُوَنْزَا", "ar") == normalise("انفلونزا", "ar")
    assert normalise("बुख\u093cार १२", "hi") == "बुखार 12"
    assert normalise("Übelkeit", "de") == "übelkeit" and normalise("U\u0308belkeit", "de") == "übelkeit"


def test_a_column_gives_what_each_text_gives():
    matcher = KeywordMatcher(read_keywords(LANGUAGES["fr"].keywords_file), "fr")
    some = [*texts(SAMPLE / "fr.medical.jsonl"), "", "ﬁèvre", *texts(SAMPLE / "fr.general.jsonl")]
    each = [matcher.match(text) for text in some]
    for column in (pa.array(some), pa.array(["x", *some, "y"]).slice(1, len(some)), pa.array(some, pa.large_string())):
        found = matcher.match_array(column)
        assert list(zip(found.num_keywords, found.density, strict=True)) == each
        assert found.num_characters.tolist() == [len(normalise(text, "fr")) for text in some]
    wanted = np.arange(len(some)) % 2 == 0
    half = matcher.match_array(pa.array(some), wanted)
    assert not half.num_keywords[~wanted].any() and (half.num_keywords[wanted] > 0).any()
    assert len(matcher.match_array(pa.array([], pa.string())).density) == 0


def test_any_bytes_are_walked_through_without_leaving_the_text():
    matcher = KeywordMatcher(["fever", "é"], "fr")
    draw = random.Random(3)
    bad = [draw.randbytes(draw.randint(0, 30)) for _ in range(500)] + [b"\xf0", b"\xe2\x82", b"\xff" * 9, b"fever\xc3"]
    alone = [matcher.match_array(pa.array([text], pa.binary())) for text in bad]
    together = matcher.match_array(pa.array(bad, pa.binary()))
    assert together.num_keywords.tolist() == [int(one.num_keywords[0]) for one in alone]
    assert together.num_keywords[-1] == 0 or "é" in matcher.keywords
    assert matcher.match("fever \ud800").num_keywords == 1


def test_spans_are_the_keywords_at_their_places():
    matcher = KeywordMatcher(["insuffisance", "insuffisance cardiaque", "œdème"], "fr")
    text = "L’Insuffi\u00adsance\n  cardiaque, des OEDÈMES ; un oedème."
    shown, spans = matcher.spans(text)
    assert shown == text
    assert [(shown[s.start : s.end], s.keyword) for s in spans] == [
        ("Insuffi\u00adsance", "insuffisance"),
        ("Insuffi\u00adsance\n  cardiaque", "insuffisance cardiaque"),
        ("oedème", "œdème"),
    ]
    many = KeywordMatcher(["癌"], "zh").spans("癌" * 3000)[1]
    assert len(many) == 3000 and many[-1].end == 3000
    assert matcher.spans("") == ("", [])


def test_keyword_lists_are_normalised_and_have_no_doubles(tmp_path):
    path = tmp_path / "k.txt"
    path.write_text("# list\nFever  # common\n fever\n\nＣＴ\nmaladie d’Alzheimer\n", encoding="utf-8")
    assert read_keywords(path) == ["ct", "fever", "maladie d'alzheimer"]
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(MissingInputError):
        read_keywords(path)
    twice = KeywordMatcher(["fievre", "fièvre", "Fièvre"], "fr")
    assert twice.match("fièvre, fievre").num_keywords == 1


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_list_has_letters_of_another_writing(lang):
    charset = {"ja": "euc_jis_2004", "zh": "gbk"}.get(lang, "utf-8")  # of characters as Japan and China write them
    of_other = []
    for keyword in read_keywords(LANGUAGES[lang].keywords_file):
        for word in re.findall(r"[^\W\d_]+", keyword):  # a Greek letter may stand first: μg, γgtp
            alphabets = {unicodedata.name(letter).split()[0] for letter in re.sub("^[α-ω]", "", word)}
            if len(alphabets & {"LATIN", "GREEK", "CYRILLIC"}) > 1:
                of_other.append(keyword)  # looks like a word and matches none
        if keyword.encode(charset, "ignore").decode(charset) != keyword:
            of_other.append(keyword)
    assert of_other == []
