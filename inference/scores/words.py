"""Words: how a text is split into words for BLEU and ROUGE, one splitter a language.

Texts are normalised before they are split (NFKC: full-width and half-width forms are one; both apostrophes are one) and
lower-cased; punctuation marks are words. Splitters are loaded when first used, once a process, and read nothing but
what their packages hold.
"""

from __future__ import annotations

import importlib.metadata
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from functools import cache

_SPLITTERS = {"zh": ("jieba", "jieba.lcut"), "ja": ("Janome", "Janome.Tokenizer(wakati=True)")}
_RULES = ("nltk", "nltk.NLTKWordTokenizer on each sentence")
_SENTENCE_END = re.compile(r"([.!?؟।][\"'»”’)\]}]*)\s+")
# Longer pieces are cut: jieba takes time quadratic in a run of Han characters, nltk's patterns a time that they bound.
MAX_PIECE_CHARACTERS = 2000


def word_splitter(lang: str) -> str:
    """Name and version of the splitter of a language code, for the record."""
    package, name = _SPLITTERS.get(lang, _RULES)
    return f"{name} ({package} {importlib.metadata.version(package)}), NFKC, lower case"


def words(text: str, lang: str) -> list[str]:
    """The words of a text, in order, without blanks.

    Args:
        text: any text.
        lang: language code; languages without a splitter of their own are split by nltk's rules.
    """
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character, and stops Janome
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    split = {"zh": _chinese, "ja": _japanese}.get(lang, _spaced)()
    return [word for piece in _pieces(text) for word in split(piece) if not word.isspace()]


def _pieces(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for start in range(0, len(line), MAX_PIECE_CHARACTERS):
            yield line[start : start + MAX_PIECE_CHARACTERS]


@cache
def _chinese() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source has invalid escape sequences
        import jieba
    jieba.setLogLevel("WARNING")
    # Built from the package's own dictionary: jieba's cache file in the shared temporary folder may be another
    # version's or another user's.
    splitter = jieba.Tokenizer()
    splitter.FREQ, splitter.total = splitter.gen_pfdict(splitter.get_dict_file())
    splitter.initialized = True
    return splitter.lcut


@cache
def _japanese() -> Callable[[str], list[str]]:
    from janome.tokenizer import Tokenizer

    splitter = Tokenizer(wakati=True)
    return lambda text: list(splitter.tokenize(text))


@cache
def _spaced() -> Callable[[str], list[str]]:
    from nltk.tokenize import NLTKWordTokenizer

    splitter = NLTKWordTokenizer()

    def split(line: str) -> list[str]:
        # The tokenizer parts a full stop from its word only at the end of what it is given, so each sentence is given
        # by itself. Every mark before a blank ends one, abbreviations too ("e.g. this"): a rule without a model
        # treats a word alike on both sides of a comparison, which is what the scores need.
        sentences = _SENTENCE_END.sub(r"\1\n", re.sub("[¿¡،؛؟।]", r" \g<0> ", line)).split("\n")
        return [word for sentence in sentences for word in splitter.tokenize(sentence)]

    return split
