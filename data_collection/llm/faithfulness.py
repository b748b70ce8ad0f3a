"""Whether a text says what its source says, as far as numbers, units, names and negations tell.

The checks are for errors that do harm and that a fluent text hides: 5 g for 5 mg, another drug, a lost "not". They find
no wrong reasoning. Figures on real texts are in the README.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.languages import LANGUAGES

_WORDS = Path(__file__).with_suffix("").with_name("medical_words.yaml")
_SCRIPTS = {"zh": "zh", "ja": "ja", "ru": "cyrillic", "ar": "ar", "hi": "hi"}  # of `names`; the others' is latin
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_ITEM_NUMBER = re.compile(r"^\s*\(?\d{1,2}[.)、．](?=\s|[^\d\s])", re.MULTILINE)
_NUMBER = re.compile(r"(?<![a-zа-яё\d])(?<!\d[.,])\d+(?:[,.'’ \u00a0\u202f]\d{3}(?!\d))*(?:[.,]\d+)?")
_ROMAN = re.compile(r"(?<![A-Za-z])(?:I{1,3}|IV|VI{0,3}|IX|XI{0,2})(?:[AaBbCc]?)(?![A-Za-z.])")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10}
_LATIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*")
_YES_OR_NO = re.compile(
    r"^\W*(?:yes|no|oui|non|si|sí|да|нет|ja|nein|نعم|لا|हाँ|हां|नहीं|जी हाँ|是的|不是|不|はい|いいえ)[\s,.:;!，。、،।]+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])|\n+")
MIN_ALIGNED = 0.6  # of a sentence's words are in a sentence of the source that it is taken to repeat


@functools.cache
def words() -> dict[str, Any]:
    """The table of units, names, negations and numbers."""
    import yaml

    return yaml.safe_load(_WORDS.read_text(encoding="utf-8"))


def _either(patterns: Iterable[str], ends: str = "") -> re.Pattern[str]:
    """One pattern for all, the longer before the shorter; `ends` follows those that are not Chinese or Japanese."""
    ordered = sorted(patterns, key=len, reverse=True)
    return re.compile("|".join(f"(?:{p})" + ("" if _CJK.search(p) else ends) for p in ordered))


@functools.cache
def _units() -> list[tuple[str, re.Pattern[str]]]:
    return [(name, _either(spellings, r"(?!\w)")) for name, spellings in words()["units"].items()]


@functools.cache
def _factors() -> list[tuple[float, re.Pattern[str]]]:
    return [(float(factor), _either(forms, r"(?!\w)")) for factor, forms in words()["factors"].items()]


@functools.cache
def _names(lang: str) -> dict[str, re.Pattern[str]]:
    script = _SCRIPTS.get(lang, "latin")
    return {name: _either(by[script]) for name, by in words()["names"].items() if script in by}


@functools.cache
def _negation(lang: str) -> re.Pattern[str]:
    return _either(words()["negations"][lang])


@functools.cache
def _number_words(lang: str) -> re.Pattern[str]:
    forms = [form for forms in words()["number_words"][lang].values() for form in forms]
    return _either(rf"(?<!\w){form}(?!\w)" if LANGUAGES[lang].spaced else form for form in forms)


def plain(text: str) -> str:
    """A text in the form that is compared: lower case, ASCII digits and signs, Latin letters without accents."""
    text = unicodedata.normalize("NFKC", text).translate({0x66B: ".", 0x66C: ",", 0x2212: "-"})
    text = re.sub(r"(?![0-9])\d", lambda m: str(unicodedata.digit(m[0])), text)
    return _without_accents(text.lower())


def _without_accents(text: str) -> str:
    parts = re.sub("([a-z])[\u0300-\u036f]+", r"\1", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", parts).replace("œ", "oe").replace("ß", "ss")


class Quantity(NamedTuple):
    """A number in a text.

    Attributes:
        written: as it stands there.
        readings: what it may mean: 1,500 is one and a half in French and fifteen hundred in English.
        unit: of the table, two with a slash between, or "" where none follows.
    """

    written: str
    readings: frozenset[float]
    unit: str


@dataclass(frozen=True)
class Facts:
    """What is compared of a text.

    Attributes:
        quantities: numbers in digits, without those that count the items of a list.
        worded: values of number words and Roman numerals; a text need not have them in any form.
        names: those of the table.
        negated: it has a negation or exception.
    """

    quantities: tuple[Quantity, ...]
    worded: frozenset[float]
    names: frozenset[str]
    negated: bool

    @classmethod
    @functools.lru_cache(maxsize=64)  # a passage is compared with several answers
    def of(cls, text: str, lang: str) -> Facts:
        """The facts of a text in a language."""
        low = plain(text)
        names = frozenset(name for name, pattern in _names(lang).items() if pattern.search(low))
        return cls(tuple(_quantities(low)), _worded(text, low, lang), names, is_negated(text, lang))


def _quantities(low: str) -> Iterable[Quantity]:
    low = _ITEM_NUMBER.sub(lambda m: " " * len(m[0]), low)
    for match in _NUMBER.finditer(low):
        rest = low[match.end() : match.end() + 40]
        readings = _readings(match[0])
        space = len(rest) - len(rest.lstrip(" -\u00a0\u202f"))
        for factor, pattern in _factors():
            if found := pattern.match(rest, space):
                readings = {value * factor for value in readings}
                rest, space = rest[found.end() :].lstrip(), 0
                break
        yield Quantity(match[0], frozenset(readings), _unit_at(rest, space))


def _unit_at(text: str, at: int) -> str:
    for name, pattern in _units():
        if found := pattern.match(text, at):
            below = re.match(r"\s*/\s*", text[found.end() :])
            second = _unit_at(text, found.end() + below.end()) if below else ""
            return f"{name}/{second}" if second else name
    return ""


def _readings(written: str) -> set[float]:
    digits = re.sub(r"[ '’\u00a0\u202f]", "", written)
    found = set()
    for decimal, thousands in ((".", ","), (",", ".")):
        whole, point, fraction = digits.partition(decimal)
        groups = whole.split(thousands)
        if decimal in fraction or thousands in fraction or any(len(group) != 3 for group in groups[1:]):
            continue
        found.add(float("".join(groups) + (f".{fraction}" if point else "")))
    return found or {float(re.sub(r"[.,]", "", digits))}


def _worded(text: str, low: str, lang: str) -> frozenset[float]:
    values = {
        float(value)
        for value, forms in words()["number_words"][lang].items()
        for found in [set(_number_words(lang).findall(low))]
        if found & set(forms)
    }
    for match in _ROMAN.finditer(unicodedata.normalize("NFKC", text)):
        parts = [_ROMAN_VALUES[letter] for letter in match[0].rstrip("AaBbCc")]
        values.add(float(sum(-a if a < b else a for a, b in zip(parts, [*parts[1:], 0], strict=True))))
    return frozenset(values)


def is_negated(text: str, lang: str) -> bool:
    """Whether a text has a negation or an exception."""
    return _negation(lang).search(plain(text)) is not None


def added(text: Facts, source: Facts) -> str:
    """The first number, unit or name of the text that its source does not have, or ""."""
    for quantity in text.quantities:
        same = [other for other in source.quantities if quantity.readings & other.readings]
        if not same and not quantity.readings & source.worded:
            return f"a number that the source does not have: {quantity.written}"
        if quantity.unit and same and all(other.unit not in ("", quantity.unit) for other in same):
            return f"another unit: {quantity.written} {quantity.unit}, in the source {same[0].unit}"
    if text.names - source.names:
        return f"a name that the source does not have: {min(text.names - source.names)}"
    return ""


def changed(text: str, lang: str, source: str, source_lang: str, *, polarity: bool) -> str:
    """What a translation has lost or added, or ""; in languages of two scripts only names that both can show.

    Args:
        polarity: a negation must be in both or in neither; meant for a question or an option, not for long texts.
    """
    there, here = Facts.of(source, source_lang), Facts.of(text, lang)
    shared = frozenset(_names(lang)) & frozenset(_names(source_lang))
    there, here = (
        Facts(facts.quantities, facts.worded, facts.names & shared, facts.negated) for facts in (there, here)
    )
    if problem := added(here, there):
        return problem
    if problem := added(there, here):
        return problem.replace("the source does not have", "was lost").replace("in the source", "here")
    if polarity and here.negated != there.negated:
        return "a negation that was lost" if there.negated else "a negation that the source does not have"
    return ""


def unfaithful(text: str, source: str, lang: str) -> str:
    """What a text in the source's own language says beside its source, or "".

    A number, unit or name of the table, a code of Latin letters and digits (HbA1c), in other scripts any Latin word,
    that the source does not have; a sentence that repeats one of the source without its negation, or adds one.
    """
    return (
        added(Facts.of(text, lang), Facts.of(source, lang))
        or _added_code(text, source, lang)
        or _turned(text, source, lang)
    )


def _added_code(text: str, source: str, lang: str) -> str:
    known = {word.lower() for word in _LATIN_WORD.findall(unicodedata.normalize("NFKC", source))}
    initials = "".join(word[0] for word in re.findall(r"[^\W\d_]+", source.lower()))
    joined = re.sub(r"\W", "", source.lower())
    for word in _LATIN_WORD.findall(unicodedata.normalize("NFKC", text)):
        is_code = len(word) > 1 and (sum(map(str.isupper, word)) > 1 or any(map(str.isdigit, word)))
        if not is_code and (lang not in _SCRIPTS or len(word) < 3):
            continue
        low = word.lower().rstrip("s") if is_code else word.lower()
        if low in known or word.lower() in known or re.sub(r"\W", "", low) in joined:
            continue
        if not (is_code and word.isalpha() and low in initials):  # MRI for magnetic resonance imaging
            return f"a name that the source does not have: {word}"
    return ""


def _turned(text: str, source: str, lang: str) -> str:
    """A sentence of the text that says the opposite of the sentence of the source that it repeats."""
    known = [(units(sentence, lang), is_negated(sentence, lang)) for sentence in _SENTENCE.split(source)]
    for sentence in _SENTENCE.split(text):
        sentence = _YES_OR_NO.sub("", sentence)
        said = units(sentence, lang)
        if len(said) < 3:
            continue
        shares = [(len(said & others) / len(said), negated) for others, negated in known]
        best = max((share for share, _ in shares), default=0.0)
        if best >= MIN_ALIGNED and is_negated(sentence, lang) not in {
            neg for share, neg in shares if share > best - 0.1
        }:
            return f"the opposite of the source: {sentence.strip()[:80]}"
    return ""


def units(text: str, lang: str) -> frozenset[str]:
    """The words of a text that carry its meaning, without negations: in Chinese and Japanese pairs of characters."""
    low = _negation(lang).sub(" ", plain(text))
    if LANGUAGES[lang].spaced:
        return frozenset(word for word in re.findall(r"[^\W_]+", low) if len(word) > 3 or word.isdigit())
    runs = re.findall(r"[^\W_]+", low)
    return frozenset(run[at : at + 2] for run in runs for at in range(max(1, len(run) - 1)))


def share_from(text: str, source: str, lang: str) -> float:
    """The share of the text's `units` that its source has, 0 to 1; 1 where it has none."""
    said = units(text, lang)
    return len(said & units(source, lang)) / len(said) if said else 1.0


def refers_to_source(text: str, lang: str) -> bool:
    """Whether a text that is to stand alone speaks of the passage that it was made from."""
    return _either(words()["references"][lang]).search(plain(text)) is not None
