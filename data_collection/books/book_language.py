"""The language of a PDF book: by its text layer, or by a few of its pages read by Tesseract."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from configs.languages import LANGUAGES
from data_collection.books.pages import FEW_LETTERS, draw, text_layer
from data_collection.books.recognition import RecognitionError, recognise
from data_collection.selection.detection import own_probability

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

NUM_PAGES = 5  # looked at, spread over the book
ENOUGH_LETTERS = 200
MIN_PROBABILITY = 0.3
# What Tesseract's script detection says, and the languages it may be. It takes Japanese for Chinese and back.
_SCRIPTS = {
    **dict.fromkeys(("Latin", "Fraktur"), ("en", "fr", "es", "de")),
    **dict.fromkeys(("Han", "Japanese", "Hiragana", "Katakana"), ("zh", "ja")),
    "Cyrillic": ("ru",),
    "Arabic": ("ar",),
    "Devanagari": ("hi",),
}


def detect_language(pdf: PdfDocument, models: Sequence[str], dpi: int, at_page: Callable[[], None]) -> str | None:
    """The code of the book's language, None when it cannot be told.

    Args:
        pdf: the book.
        models: Tesseract's installed models; when there are none, only the text layer is looked at.
        dpi: resolution at which pages are drawn for Tesseract.
        at_page: called before each page that is looked at, for whose time there is a limit.
    """
    from pypdfium2 import PdfiumError

    count = len(pdf)
    pages, lines = [], []
    for number in sorted({count * (2 * part + 1) // (2 * NUM_PAGES) for part in range(NUM_PAGES)}):
        at_page()
        try:
            page = pdf[number]
            lines += text_layer(page)
        except PdfiumError:  # a failed page later, not a failed book
            continue
        pages.append(page)
    text = " ".join(line.text for line in lines)
    num_letters = sum(map(str.isalpha, text))
    code = _of_pictures(pages, models, dpi, at_page) if models and num_letters < ENOUGH_LETTERS else None
    return code or _most_probable(text, list(LANGUAGES))


def _of_pictures(pages: Sequence[PdfPage], models: Sequence[str], dpi: int, at_page: Callable[[], None]) -> str | None:
    found: Counter[str] = Counter()
    for page in pages:
        at_page()
        image = draw(page, dpi, max_megapixels=10)
        try:
            script = re.search(r"Script: (\w+)", recognise(image, "--psm", "0", "-l", "osd"))
        except RecognitionError:  # too few characters
            continue
        candidates = _SCRIPTS.get(script[1], ()) if script else ()
        codes = [code for code in candidates if code in LANGUAGES and LANGUAGES[code].tesseract in models]
        if not codes:
            continue
        code: str | None = codes[0]
        if len(candidates) > 1:  # of which perhaps one has a model, and that is not the book's
            try:
                words = recognise(image, "-l", "+".join(LANGUAGES[code].tesseract for code in codes))
            except RecognitionError:
                continue
            code = _most_probable(words, codes)
        if code:
            found[code] += 1
        if found and found.most_common(1)[0][1] == 2:
            break
    return found.most_common(1)[0][0] if found else None


def _most_probable(text: str, codes: Sequence[str]) -> str | None:
    """The code of the language that a text is in; None where it has too few letters to tell, as a table of numbers."""
    if sum(map(str.isalpha, text)) < FEW_LETTERS:
        return None
    probability, code = max((own_probability(text, code, "fasttext"), code) for code in codes)
    return code if probability >= MIN_PROBABILITY else None
