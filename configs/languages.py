"""The language table: one row a language, the only place that lists them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from configs.errors import SettingsError
from configs.files import REPOSITORY


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 code, as in file names and the `lang` column.
        name: English name, as in MMedBench's file names.
        spaced: words are parted by white space (so keywords match whole words).
        tesseract: name of Tesseract's model.
        min_keywords: MKC, the least number of distinct medical keywords of a kept document.
        min_density: DENS, the least share of characters that keywords cover, of a kept document of up to 500
            characters (data_collection/selection/thresholds.py has that of longer ones). Those of ar, hi and de are
            the others' mean: there were no labelled documents to choose them by.
        paper_min_keywords: MKC as published with MMedC, for its own lists of about 200 keywords; none for a language
            that MMedC does not have.
        paper_min_density: DENS as published with MMedC.
        other_codes: of ISO 639-2 and 639-3, which data sets state (FineWeb 2: fra, cmn_Hani).
    """

    code: str
    name: str
    spaced: bool
    tesseract: str
    min_keywords: int
    min_density: float
    paper_min_keywords: int | None = None
    paper_min_density: float | None = None
    other_codes: tuple[str, ...] = ()

    @property
    def keywords_file(self):
        return REPOSITORY / "configs" / "keywords" / f"{self.code}.txt"


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("en", "English", True, "eng", 3, 0.147, 5, 0.04, other_codes=("eng",)),
        Language("zh", "Chinese", False, "chi_sim", 3, 0.094, 5, 0.05, other_codes=("zho", "chi", "cmn")),
        Language("ja", "Japanese", False, "jpn", 3, 0.058, 5, 0.05, other_codes=("jpn",)),
        Language("fr", "French", True, "fra", 3, 0.079, 4, 0.04, other_codes=("fra", "fre")),
        Language("ru", "Russian", True, "rus", 3, 0.111, 4, 0.02, other_codes=("rus",)),
        Language("es", "Spanish", True, "spa", 3, 0.158, 4, 0.04, other_codes=("spa",)),
        Language("ar", "Arabic", True, "ara", 3, 0.108, other_codes=("ara", "arb")),
        Language("hi", "Hindi", True, "hin", 3, 0.108, other_codes=("hin",)),
        Language("de", "German", True, "deu", 3, 0.108, other_codes=("deu", "ger")),
    )
}


def language(code_or_name: str) -> Language:
    """The row of a code ("fr") or a name ("French"), upper or lower case.

    Raises:
        SettingsError: no such language in the table.
    """
    wanted = code_or_name.strip().lower()
    for row in LANGUAGES.values():
        if wanted in (row.code, row.name.lower()):
            return row
    raise SettingsError(
        f"unknown language {code_or_name!r}",
        where="configs/languages.py",
        wanted=", ".join(LANGUAGES),
        todo="give one of these codes, or add a row to the table",
    )


@functools.cache
def simplified_characters() -> dict[str, str]:
    """The simplified form of each traditional Chinese character, variants of Taiwan and Hong Kong included.

    For comparing texts only: of several traditional characters with one simplified form it cannot tell which was meant.
    """
    lines = (REPOSITORY / "configs" / "traditional_chinese.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {traditional: simplified for simplified, others in pairs for traditional in others}
