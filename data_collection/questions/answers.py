"""Reading the chosen options out of a model's text. Strict: what is not said explicitly is no answer."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = r"[A-H](?:(?:\s*(?:,|;|/|&|、|,?\s*(?:and|et|y|и|と|和|及))\s*)[A-H])*"
# A letter group ends at the end of the text, a line break, or punctuation: "A patient" is an article, not an answer.
_END = r"(?=\s*(?:$|[\n.,;:!?)\]*。，、：]|is correct\b))"
_OPTION_WORD = r"(?:(?:option|options|choice|选项|選択肢|l'option|les options|opción|opciones|вариант|варианты)\s*)?"
_MARKER = (
    r"(?:the (?:correct )?answer is|answers?|答案(?:是|为)?|答え(?:は)?|正解(?:は)?|回答|réponses?|bonnes? réponses?"
    r"|respuestas?|la respuesta (?:correcta )?es|ответы?)"
)
_AFTER_MARKER = re.compile(
    rf"{_MARKER}\s*[:：]?\s*[*(\[]*\s*{_OPTION_WORD}[(\[]?(?P<letters>{_LETTERS}){_END}", re.IGNORECASE
)
_PUBLISHED = re.compile(rf"\bOPTIONS?\s+(?P<letters>{_LETTERS})\s+(?:IS|ARE)\s+CORRECT", re.IGNORECASE)
_AT_START = re.compile(rf"^[\s*(\[]*{_OPTION_WORD}[(\[]?(?P<letters>{_LETTERS}){_END}", re.IGNORECASE)
_MARKED_TEXT = re.compile(rf"{_MARKER}\s*[:：]\s*(?P<text>[^\n]+)", re.IGNORECASE)


def parse_answer(text: str, options: dict[str, str]) -> tuple[str, ...] | None:
    """The letters that the text gives as its answer, sorted; None when it gives none.

    The last explicit answer counts: letters after an answer marker in any of the languages, or in the published
    layout ("OPTION A,B IS CORRECT"); else letters that the text starts with; else an option's whole text.
    Full-width letters count as letters. A letter that no option bears makes the answer none.

    Args:
        text: what the model wrote after the prompt.
        options: letter to option text, as asked.
    """
    text = unicodedata.normalize("NFKC", text).replace("А", "A").strip()  # Cyrillic А looks and means the same
    explicit = [*_AFTER_MARKER.finditer(text), *_PUBLISHED.finditer(text)]
    if explicit:
        found = max(explicit, key=lambda match: match.start())
    else:
        found = _AT_START.match(text)
    if found:
        letters = tuple(sorted(set(re.findall(r"(?<![A-Za-z])[A-Ha-h](?![A-Za-z])", found["letters"].upper()))))
        return letters if letters and all(letter in options for letter in letters) else None
    return _by_option_text(text, options)


def _by_option_text(text: str, options: dict[str, str]) -> tuple[str, ...] | None:
    """The one option whose whole text is the answer ("Ответ: да"), or None."""

    def plain(value: str) -> str:
        return unicodedata.normalize("NFKC", value).casefold().strip(" \t\n.。*\"'«»")

    marked = list(_MARKED_TEXT.finditer(text))
    said = plain(marked[-1]["text"] if marked else text)
    same = [letter for letter, option in options.items() if plain(option) == said]
    return (same[0],) if len(same) == 1 else None
