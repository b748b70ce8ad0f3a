"""What is wrong with a text that a language model wrote, as far as a program can tell without knowing the subject."""

from __future__ import annotations

import functools
import re

from configs.languages import LANGUAGES
from data_collection.selection import quality
from data_collection.selection.detection import MIN_OWN_PROBABILITY, own_probability

CUT = "cut at the limit"
REFUSAL = "a refusal"
ECHO = "repeats what was asked"
MAX_ECHOED = 0.4  # of a text; of 7,468 real rationales none has more than .20 of its question and instructions

# How a model says that it will not answer, near the beginning of what it writes.
_REFUSAL = re.compile(
    r"\bas an ai\b|\bi(?:'m| am) (?:sorry|unable)|\bi apologi[sz]e"
    r"|\bi (?:can(?:no|')t|am not able to) (?:help|assist|provide|answer|give)"
    r"|\bje suis désolé|\bje ne peux pas (?:répondre|fournir|vous aider)|\ben tant qu['’](?:ia|intelligence)"
    r"|\blo siento|\bno puedo (?:ayudar|responder|proporcionar)|\bcomo (?:una? )?(?:ia|inteligencia artificial)\b"
    r"|\bизвините|\bя не могу (?:ответить|помочь|предоставить)|\bкак (?:ии\b|языковая модель)"
    r"|\bes tut mir leid|\bich kann (?:ihnen )?(?:leider )?nicht (?:helfen|antworten)|\bals ki\b"
    r"|抱歉|对不起|我无法(?:回答|提供|帮助)|作为(?:一个)?(?:人工智能|AI|语言模型)"
    r"|申し訳(?:ありません|ございません)|お答えできません|AIとして"
    r"|عذر[اًا]|آسف|لا أستطيع (?:الإجابة|المساعدة)|क्षमा करें|मैं .{0,20}असमर्थ",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200  # characters from the start
_KANA, _HAN = re.compile("[\u3041-\u30fa\uff66-\uff9d]"), re.compile("[\u3400-\u9fff]")
_SENTENCE_END = tuple('.!?。！？؟।…)）」』”"»*:：')


def refuses(text: str) -> bool:
    """Whether the text begins by saying that it will not answer."""
    return _REFUSAL.search(text[:_REFUSAL_WITHIN]) is not None


def text_problem(text: str, lang: str) -> str:
    """Why a text is no good as one of the language, or "": too short or full of repetitions (`quality.problem`), in
    another language, or broken off."""
    reason, number = quality.problem(text, lang)
    if reason:
        return f"{reason} ({number:.3g})"
    if not in_language(text, lang):
        return "in another language"
    return "" if text.rstrip().endswith(_SENTENCE_END) else "broken off"


def in_language(text: str, lang: str) -> bool:
    """Whether a text is in the language, as far as its letters and fastText tell."""
    # The model takes short Chinese texts for Japanese (2 of 42 in our sample); their characters tell them apart.
    if lang in ("zh", "ja"):
        num_kana, num_han = len(_KANA.findall(text)), len(_HAN.findall(text))
        own = num_han + num_kana
        return 2 * own > sum(map(str.isalpha, text)) and (num_kana > 0.1 * own) == (lang == "ja")
    return own_probability(text, lang, "fasttext") >= MIN_OWN_PROBABILITY["fasttext"]


def share_echoed(text: str, asked: str, lang: str) -> float:
    """The share of a text that stands in what was asked, 0 to 1: of its runs of five words, or of ten characters in
    Chinese and Japanese. A small model repeats its instructions."""
    runs = _runs(text, lang)
    return sum(run in _run_set(asked, lang) for run in runs) / len(runs) if runs else 0.0


def _runs(text: str, lang: str) -> list[str]:
    units = text.lower().split() if LANGUAGES[lang].spaced else "".join(text.split())
    size = 5 if LANGUAGES[lang].spaced else 10
    return [" ".join(units[at : at + size]) for at in range(len(units) - size + 1)]


@functools.lru_cache(maxsize=1)
def _run_set(text: str, lang: str) -> frozenset[str]:
    return frozenset(_runs(text, lang))
