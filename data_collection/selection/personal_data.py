"""Personal data in texts: e-mail addresses, telephone numbers, identity numbers and payment cards become marks.

The numbers of medical texts (doses, dates, ICD codes, DOIs, trial and gene identifiers) must stay. So a number counts
only in the written form of its kind, with right check digits where its kind has them, and a bare row of digits only
after a word that says what it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
_DIGIT = "0-9０-９"
_HYPHEN = r"\-‐‑–−－ー"
_WORD = "0-9０-９A-Za-zＡ-Ｚａ-ｚÀ-ɏЀ-ӿ_"  # not Chinese or Japanese, which write numbers next to words
# A row of at least eight digits with what people write between them; letters only where an identity number has one.
_CANDIDATE = re.compile(
    rf"(?<![{_WORD}.,/@#=－-])(?<!\d:)(?:[XYZ][ {_HYPHEN}]?(?=[{_DIGIT}]{{7}})|[+＋] ?)?"
    rf"[(（]?[{_DIGIT}](?:[ .\u00a0\u3000()（）{_HYPHEN}]{{0,2}}[{_DIGIT}]){{6,40}}"
    rf"(?:[ {_HYPHEN}]?[A-ZＸ])?(?![{_WORD}@]|[.,/:{_HYPHEN}][{_DIGIT}])"
)
_PIECE = re.compile(r"[^ \u00a0\u3000]{8,}")
_LABEL_REACH = 24  # characters before a number in which the word that names it is looked for
_PHONE_LABEL = re.compile(
    r"(?:\b(?:tel|phone|telephone|mobile|cell|fax|whatsapp|t[ée]l[ée]phone|t[ée]l|m[óo]vil|tel[ée]fono|tfno|telefon|handy"
    r"|тел|телефон|моб|факс)\b|电话|電話|手机|手機|携帯|传真|傳真|ＴＥＬ|ＦＡＸ|هاتف|جوال|فون|फ़ोन|फोन|मोबाइल)[^\d\n０-９]{0,12}$",
    re.IGNORECASE,
)
_ID_LABELS: dict[str, re.Pattern[str]] = {
    kind: re.compile(rf"(?:{words})[^\d\n０-９]{{0,12}}$", re.IGNORECASE)
    for kind, words in {
        "ru_inn": r"\bИНН\b",
        "ru_snils": r"СНИЛС",
        "ru_passport": r"\bпаспорт\w*",
        "jp_number": r"マイナンバー|個人番号|my number",
        "in_aadhaar": r"aadhaar|aadhar|आधार",
        "us_ssn": r"\bssn\b|social security (?:number|no)",
        "de_id": r"steuer-?id\w*|identifikationsnummer|idnr",
        "eg_id": r"الرقم القومي|رقم الهوية",
    }.items()
}


def mask(text: str) -> tuple[str, int]:
    """Replace personal data by <EMAIL>, <PHONE>, <ID> and <CARD>.

    Identity numbers: Chinese resident's (18 digits), Spanish DNI and NIE, French NIR, Russian SNILS, INN and passport,
    Japanese My Number, US social security, Indian Aadhaar, German tax and Egyptian national ones. Names, addresses and
    dates of birth are not looked for.

    Args:
        text: any text, in any language.

    Returns:
        The text with marks, and how many there are.
    """
    count = 0
    if "@" in text:
        text, count = _EMAIL.subn("<EMAIL>", text)
    parts, end = [], 0
    for found in _CANDIDATE.finditer(text):
        spans = [found.span()]
        if not _mark_of(text, *found.span()):  # several numbers side by side?
            spans = [piece.span() for piece in _PIECE.finditer(text, *found.span())]
        for start, stop in spans:
            mark = _mark_of(text, start, stop)
            if mark:
                parts += [text[end:start], mark]
                end = stop
                count += 1
    return ("".join(parts) + text[end:] if parts else text), count


def _mark_of(text: str, start: int, stop: int) -> str:
    written = unicodedata.normalize("NFKC", text[start:stop])
    written = re.sub(f"[{_HYPHEN}]", "-", written.replace("\u00a0", " "))
    digits = re.sub(r"\D", "", written)
    before = text[max(0, start - _LABEL_REACH) : start]
    if _is_identity(written, digits, before):
        return "<ID>"
    if _is_card(written, digits):
        return "<CARD>"
    if _is_phone(written, digits, before):
        return "<PHONE>"
    return ""


def _is_identity(written: str, digits: str, before: str) -> bool:
    from stdnum.cn import ric
    from stdnum.de import idnr
    from stdnum.eg import tn
    from stdnum.es import dni, nie
    from stdnum.fr import nir
    from stdnum.in_ import aadhaar
    from stdnum.jp import in_
    from stdnum.ru import inn
    from stdnum.us import ssn

    compact = re.sub(r"[^0-9A-Z]", "", written)
    unmarked = written == compact or re.fullmatch(r"[XYZ]?[- ]?[\d.]+[- ]?[A-Z]", written)
    if compact[-1].isalpha() or compact[0].isalpha():
        if len(compact) == 18 and compact[-1] == "X":
            return bool(ric.is_valid(compact))
        return bool(unmarked) and len(compact) == 9 and (dni.is_valid(compact) or nie.is_valid(compact))
    if len(digits) == 18 and written == digits:
        return bool(ric.is_valid(digits))
    if re.fullmatch(r"[1-478] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?\d\d ?\d{3} ?\d{3}(?:[ -]{1,3}\d\d|\d\d)", written):
        return bool(nir.is_valid(digits))
    if re.fullmatch(r"\d{3}-\d{3}-\d{3}[ -]\d\d", written):
        return _is_snils(digits)
    if re.fullmatch(r"\d{3}-\d\d-\d{4}", written):
        return bool(ssn.is_valid(digits))
    labelled: dict[str, Callable[[str], bool]] = {
        "ru_inn": inn.is_valid,
        "ru_snils": _is_snils,
        "ru_passport": lambda number: len(number) == 10,
        "jp_number": in_.is_valid,
        "in_aadhaar": aadhaar.is_valid,
        "us_ssn": ssn.is_valid,
        "de_id": idnr.is_valid,
        "eg_id": tn.is_valid,
    }
    return any(_ID_LABELS[kind].search(before) and is_valid(digits) for kind, is_valid in labelled.items())


def _is_snils(digits: str) -> bool:
    """Whether the check digits of a Russian insurance number of 11 digits are right: weights 9 to 1, modulo 101."""
    if len(digits) != 11:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(range(9, 0, -1), digits[:9], strict=True))
    return total % 101 % 100 == int(digits[9:])


_CARD = re.compile(r"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6\d{3})([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d\d([ -]?)\d{6}\2\d{5}")


def _is_card(written: str, digits: str) -> bool:
    from stdnum import luhn

    return _CARD.fullmatch(written) is not None and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


_PHONE_FORMS = re.compile(
    r"""
    (?:\+[ ]?|00)[1-9]\d{0,2} (?:[ .-]?\(0\))? (?:[ .()-]{0,2}\d){6,12}      # international
    | \(?[2-9]\d\d\)?[ .-][2-9]\d\d[ .-]\d{4}                              # North America, separators asked for
    | 0[1-9](?:([ .-])\d\d)(?:\1\d\d){3}                                   # France, in pairs
    | 1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})                                 # China, mobile
    | 0\d{2,3}-[2-9]\d{6,7} | \(0\d{2,3}\)[ ]?[2-9]\d{6,7}                 # China, fixed
    | (?=(?:\D?\d){10,11}$) (?:0\d{1,4}-\d{1,4}-\d{4} | 0\d{1,4}\(\d{1,4}\)\d{4})  # Japan
    | 8[ -]?\(\d{3,5}\)[ -]?\d{1,3}-\d\d-\d\d | 8[ -]\d{3}[ -]\d{3}-\d\d-\d\d  # Russia
    | \(0\d{2,5}\)[ ]?\d[\d -]{3,9}\d                                      # Germany, area in brackets
    """,
    re.VERBOSE,
)


def _is_phone(written: str, digits: str, before: str) -> bool:
    if not 8 <= len(digits) <= 15 or len(set(digits)) < 3 or written[-1].isalpha():
        return False
    return _PHONE_FORMS.fullmatch(written) is not None or _PHONE_LABEL.search(before) is not None
