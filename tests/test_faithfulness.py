"""What a text says beside its source: worked cases in nine languages, and real translations."""

import json
from pathlib import Path

import pytest

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.llm.faithfulness import Facts, changed, is_negated, refers_to_source, share_from, unfaithful
from data_collection.questions.source_sets import read_source_set

ROOT = Path(__file__).parents[1]
CASIMEDICOS = ROOT.parent / "shared" / "data" / "sources" / "CasiMedicos"
SOURCE = (
    "Adults take 5 mg of warfarin every 8 hours. The drug is not given to children under 12 years. "
    "1,500 patients were seen by magnetic resonance imaging; 3.5 % bled, and HbA1c fell in two."
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Adults take 5 mg of warfarin every 8 hours.", ""),
        ("Adults take 5mg of warfarin every 8 h.", ""),
        ("Of 1500 patients 3,5 percent bled.", ""),
        ("HbA1c fell in 2 of them.", ""),
        ("MRI was used.", ""),
        ("1. Adults take it every 8 hours.\n2. Children do not.", ""),
        ("No, the drug is not given to children under 12 years.", ""),
        ("Adults take 5 g of warfarin.", "another unit"),
        ("Adults take 5 mg of warfarin every 8 days.", "another unit"),
        ("Adults take 50 mg of warfarin.", "a number"),
        ("3.6 % bled.", "a number"),
        ("Adults take 5 mg of aspirin.", "a name"),
        ("LDL was measured.", "a name"),
        ("The drug is given to children under 12 years.", "the opposite"),
        ("Adults do not take 5 mg of warfarin every 8 hours.", "the opposite"),
    ],
)
def test_what_an_answer_adds_to_its_passage(text, problem):
    found = unfaithful(text, SOURCE, "en")
    assert found.startswith(problem) if problem else not found


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        ("zh", "成人每8小时服用华法林5毫克,不用于儿童"),
        ("ja", "成人はワルファリン5ミリグラムを8時間ごとに服用し、小児には用いない"),
        ("fr", "L'adulte prend 5 mg de warfarine toutes les 8 heures, l'enfant ne la prend pas"),
        ("ru", "Взрослые принимают 5 мг варфарина каждые 8 часов, детям он не даётся"),
        ("es", "El adulto toma 5 mg de warfarina cada 8 horas; no se da a niños"),
        ("ar", "يأخذ البالغ ٥ ملغ من الوارفارين كل ٨ ساعات ولا يعطى للأطفال"),
        ("hi", "वयस्क हर ८ घंटे में वार्फरिन ५ मि.ग्रा. लें, बच्चों को नहीं"),
        ("de", "Erwachsene nehmen alle 8 Stunden 5 mg Warfarin, Kinder nicht"),
    ],
)
def test_numbers_units_names_and_negations_are_found_in_every_language(lang, text):
    source = "Adults take 5 mg of warfarin every 8 hours, children do not"
    assert changed(text, lang, source, "en", polarity=True) == ""
    assert changed(source, "en", text, lang, polarity=True) == ""
    digits = {"ar": "٥", "hi": "५"}.get(lang, "5")
    assert changed(text.replace(digits, "6"), lang, source, "en", polarity=True).startswith("a number")
    assert changed(text, lang, source.replace("mg", "g"), "en", polarity=True).startswith("another unit")
    assert changed(text, lang, source.replace("warfarin", "insulin"), "en", polarity=True).startswith("a name")
    assert "negation" in changed(text, lang, source.replace(", children do not", ""), "en", polarity=True)
    assert changed(text, lang, source.replace(", children do not", ""), "en", polarity=False) == ""


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1,500", {1500.0, 1.5}),
        ("2,5", {2.5}),
        ("1,234,567", {1234567.0}),
        ("1.234,5", {1234.5}),
        ("10 000", {10000.0}),
        ("٣٧٫٥", {37.5}),
        ("３．５", {3.5}),
        ("2万", {20000.0}),
        ("3 million", {3e6}),
    ],
)
def test_what_a_number_may_mean(written, values):
    (quantity,) = Facts.of(f"— {written} —", "en").quantities
    assert quantity.readings == values


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_has_its_words(lang):
    assert not is_negated("", lang) and not refers_to_source("", lang)
    assert share_from("Warfarin 5 mg", "5 mg Warfarin", lang) == 1 and Facts.of("III", lang).worded >= {3.0}


def test_real_translations_are_hardly_taken_for_changed_ones_and_changed_ones_are_found():
    """Two translations of Spanish questions by other people, and the same with one figure or one word changed."""
    if not CASIMEDICOS.is_dir():
        pytest.skip("needs ../shared/data")
    questions = list(read_source_set("casimedicos", CASIMEDICOS, FailedItems()))
    texts = {lang: {q.id.rsplit("/", 1)[1]: q.question for q in questions if q.lang == lang} for lang in ("en", "fr")}
    pairs = [(text, texts["fr"][number]) for number, text in texts["en"].items()][:120]
    wrong = [(en, fr) for en, fr in pairs if changed(fr, "fr", en, "en", polarity=False)]
    assert len(wrong) <= 0.05 * len(pairs), json.dumps(wrong[:3], ensure_ascii=False)
    with_figure = [(en, fr) for en, fr in pairs if (en, fr) not in wrong and "année" not in fr and " ans" in fr]
    spoilt = [(en, fr.replace(" ans", "7 ans", 1)) for en, fr in with_figure]
    assert len(spoilt) > 50 and all(changed(fr, "fr", en, "en", polarity=False) for en, fr in spoilt)
