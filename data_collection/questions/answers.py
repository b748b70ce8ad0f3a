"""Reading the chosen options out of a model's text. Strict: what is not said explicitly is no answer.

Every pattern here takes time linear in the text: runs of blanks are folded first, other runs are bounded, and groups of
letters are possessive (a group is taken whole or not at all, so "A, B and C are wrong" does not shrink to A).
"""

from __future__ import annotations

import re
import unicodedata

_WORD = "A-Za-zÀ-ɏЀ-ӿ"  # letters of the scripts that part words by spaces
_LETTER = rf"[A-H](?![{_WORD}0-9]|['’][{_WORD}])"
# What joins letters: marks, words for "and", a blank, a line end where each letter has a line of its own.
_JOINT = (
    rf"(?: ?[,;/&+、・] ?(?:(?:and|et|y|и) )?| (?:and|et|y|и) | ?(?:と|和|及び?|以及|および) ?| "
    rf"|\n(?={_LETTER} ?(?:\n|$)))"
)
# Without anything between them only capitals are letters ("ACD").
_LETTERS = (
    rf"(?P<letters>(?-i:[A-H]{{2,8}}(?![{_WORD}0-9]))|{_LETTER}(?:{_JOINT}{_LETTER}){{0,7}}+(?!{_JOINT}{_LETTER}))"
)
# What follows a choice: the end, punctuation, a dash, a copula. "A patient" is an article, "A, or B" leaves it open.
_CLOSE = (
    r"(?: ?(?:$|[\n.;:!)\]}*_\"'»”」』】。]|[-–—] |选项|项|です|である|だ(?!け)|となり|と考え"
    r"|(?:is|are) correct\b))"
)
_HEDGE = r"(?! ?[,;、] ?(?:or|ou|o|или|或者?|または|あるいは) ?[A-H])"
_END = rf"{_HEDGE}(?={_CLOSE}| ?[,、])"
_OPEN = r"[ *_\"'«“「『【(\[{$]{0,6}"
_OPTION = (
    r"(?:(?:the|las?|el|les?|l['’])? ?(?:options?|choices?|letters?|réponses?|propositions?|opci(?:ón|ones)"
    r"|вариант\w?|буква|选项|選択肢)[ :]{0,2}|(?:las?|les?) )?"
)


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


# Nouns that head an answer.
_NOUN = _any(
    r"(?:final |correct )?answers?",
    r"(?:正确)?答案|答え|正解|回答|解答",
    r"(?:bonnes? )?réponses?(?:\(s\))?",
    r"respuestas?(?: correctas?)?",
    r"(?:правильный )?ответы?",
)
# Phrases that give an answer in running text, ...
_PHRASE = _any(
    r"(?:answers?|(?:correct|right|best) (?:options?|choices?|responses?))[*_]{0,3} ?(?:is|are|(?:w|sh)ould be|[:=])",
    r"I (?:choose|select|pick)",
    r"(?:答案|正确选项|正确的?是)[*_]{0,3} ?(?:应该?)?(?:是|为|选|:|(?=\())",
    r"(?:应该?|故|因此|所以|本题)?选择?(?!项)",
    r"(?:正解|正答|答え|解答|回答|正しい選択肢)[*_]{0,3} ?(?:は|が|:)",
    r"(?:réponses?(?:\(s\))?|(?:réponses?|options?|propositions?) (?:correctes?|exactes?|justes?))[*_]{0,3} ?"
    r"(?:est|sont|serait|[:=])(?: donc)?",
    r"(?:respuestas?(?: correctas?)?|(?:opci(?:ón|ones) |alternativas? )?correctas?)[*_]{0,3} ?(?:es|son|sería|[:=])",
    r"(?:ответ\w?|(?:правильн|верн)\w{1,3} (?:вариант|выбор)\w?(?: ответа)?)[*_]{0,3} ?(?:[-–—:=]|будет|это|является)"
    r"(?: под буквой)?",
    r"\\boxed(?=\{)",
)
# ... words before them that turn them round, ...
_NEGATED = _any(
    r"incorrect|wrong|false|not (?:an?|the(?: correct)?)",
    r"错误的?|不正确的?|不(?:应该?|能|可|宜|会|是)?",
    r"誤った|間違った",
    r"mauvaises?",
    r"неправильн\w{1,3}|неверн\w{1,3}",
)
# ... and phrases after the letters.
_AFTERWARDS = _any(
    r"(?:is|are) the (?:correct|right|best) (?:answer|option|choice)",
    r"(?:选项)?(?:是|为)正确(?:答案|选项|的)",
    r"が(?:正解|正答|答え)(?!では|じゃ)",
    r"est la (?:bonne réponse|réponse (?:correcte|exacte|juste))",
    r"es la (?:respuesta |opción )?correcta",
    r"(?:[-–—]|является) (?:правильн|верн)\w{1,3} (?:ответ|вариант)",
)
_SAID = re.compile(
    rf"(?P<negated>{_NEGATED} ?)?(?<![{_WORD}]){_PHRASE}[*_ ]{{0,4}}\n{{0,2}}{_OPEN}{_OPTION}{_OPEN}"
    rf"(?=(?P<text>[^\n]{{0,400}}))(?:{_LETTERS}{_END})?",
    re.IGNORECASE,
)
_SAID_AFTER = re.compile(rf"(?<![{_WORD}]){_LETTERS}[)\]*_\"'»”」』】]{{0,4}} ?{_AFTERWARDS}", re.IGNORECASE)
_PUBLISHED = re.compile(rf"\bOPTIONS? {_LETTERS} (?:IS|ARE) CORRECT")
_AT_ONCE = re.compile(rf"^{_OPEN}{_OPTION}{_OPEN}{_LETTERS}[ .)\]}}*_\"'»”」』】。$]{{0,6}}(?:\n|$)", re.IGNORECASE)
_AT_START = re.compile(rf"^{_OPEN}(?P<option>{_OPTION}){_OPEN}{_LETTERS}{_END}", re.IGNORECASE)
_HEADING = re.compile(rf"#{{2,6}} ?[*_]{{0,3}} ?{_NOUN} ?[*_]{{0,3}} ?[:：]?", re.IGNORECASE)
_LINE = re.compile(rf"^[ \t]{{0,9}}[*_]{{0,3}}{_NOUN} ?[*_]{{0,3}} ?[:：]", re.IGNORECASE | re.MULTILINE)
_ITEM = re.compile(r"(?:^|(?<=[\s;,.]))([A-H])[.):] ?")


def split_answer(text: str) -> tuple[str, list[str]]:
    """What stands before the answer, and the answers that stand under headings.

    The first heading ("### Answer:", in any of the languages) ends the rationale, for what a model writes after it is
    beyond what it was asked. Where there is no heading, the last line that begins with "Answer:" ends it.
    """
    headings = list(_HEADING.finditer(text))
    if headings:
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        parts = [text[heading.end() : end] for heading, end in zip(headings, ends, strict=True)]
        return text[: headings[0].start()], [part.partition("##")[0] for part in parts]
    lines = list(_LINE.finditer(text))
    return text[: lines[-1].start()] if lines else text, []


def parse_answer(text: str, options: dict[str, str]) -> tuple[str, ...] | None:
    """The letters that the text gives as its answer, sorted; None when it gives none.

    In this order: letters alone in the first line; what the first filled answer heading heads; else, in the whole text,
    the last explicit phrase in any of the languages ("the correct answer is B", "故选B", "OPTION A,B IS CORRECT");
    letters that the text starts with; an option's whole text. Full-width letters count as letters. A letter that no
    option bears makes the answer none, and so do lists of all options and choices left open ("A or B").

    Args:
        text: what the model wrote after the prompt.
        options: letter to option text, as asked.
    """
    text = _normal(text, options)
    before, headed = split_answer(text)
    filled = [part.strip() for part in headed if part.strip()]
    at_once = _AT_ONCE.match(before.strip())
    letters = _read(filled[0] if filled and not at_once else before.strip() if headed else text, options)
    return letters if letters and all(letter in options for letter in letters) else None


def _normal(text: str, options: dict[str, str]) -> str:
    """NFKC, blanks folded, no blanks at the ends of lines, Cyrillic letters that stand alone as Latin ones."""
    text = re.sub(r"[^\S\n]+", " ", unicodedata.normalize("NFKC", text))
    text = re.sub(r" ?\n ?", "\n", text).strip()
    # В looks like B and is the third letter of the Russian alphabet: where there is an option C nobody can tell.
    cyrillic = {"А": "A", "Б": "B"} | ({"В": "B"} if "C" not in options else {})
    return re.sub(r"(?<!\w)[АБВ](?!\w)", lambda match: cyrillic.get(match[0], match[0]), text)


def _read(text: str, options: dict[str, str]) -> tuple[str, ...]:
    """The letters that a normal text gives, whether or not there are such options; () when it gives none."""
    texts = {letter: _bare(_normal(option, options)) for letter, option in options.items()}
    if (found := _AT_ONCE.match(text)) and (letters := _spread(found["letters"], texts)):
        return letters
    said = [match for match in _SAID.finditer(text) if not match["negated"]]
    said += [*_SAID_AFTER.finditer(text), *_PUBLISHED.finditer(text)]
    for found in sorted(said, key=lambda match: match.start(), reverse=True):
        if letters := _chosen(found, texts) or _by_text(found.groupdict().get("text", ""), texts):
            return letters
    found = _AT_START.match(text)
    # "Option A, the oldest drug, ..." begins a discussion.
    if found and not (found["option"].strip() and re.match(" ?[,、]", text[found.end() :])):
        letters = _chosen(found, texts)
        if letters and (letters := _of_list(text, texts, letters)):
            return letters
    return _by_text(text.split("\n", 1)[0], texts)


def _chosen(found: re.Match[str], texts: dict[str, str]) -> tuple[str, ...]:
    """The letters of a match, unless the letter belongs to the words after it ("E. coli")."""
    letters = _spread(found["letters"] or "", texts)
    if len(letters) == 1 and re.compile(r"\. ?[a-z]{3}").match(found.string, end := found.end("letters")):
        return letters if _own(letters[0], found.string, end, texts) else ()
    return letters


def _spread(group: str, texts: dict[str, str]) -> tuple[str, ...]:
    """Letters of a group, sorted. Run together they count in alphabetical order only, and not if an option says so."""
    if re.fullmatch(r"[A-H]{2,8}", group):
        is_word = list(group) != sorted(set(group)) or group.casefold() in texts.values()
        return () if is_word else tuple(group)
    single = re.findall(rf"(?<![{_WORD}])[A-Ha-h](?![{_WORD}])", group)
    return tuple(sorted({letter.upper() for letter in single}))


def _own(letter: str, text: str, start: int, texts: dict[str, str], end: int | None = None) -> bool:
    """Whether the text from `start` begins with the option's text, or, up to `end`, is that text."""
    own = texts.get(letter, "")
    said = _bare(text[start : start + len(own) + 20] if end is None else text[start:end])
    return bool(own) and (said.startswith(own) if end is None else said == own)


def _of_list(text: str, texts: dict[str, str], letters: tuple[str, ...]) -> tuple[str, ...]:
    """The letters of a text that starts as "A. ... C. ...": all of them when each item is its option's text.

    A list of every option chooses nothing, nor does a discussion of several.
    """
    paragraph = text.split("\n\n", 1)[0]
    starts = list(_ITEM.finditer(paragraph))
    ends = [*(item.start() for item in starts[1:]), len(paragraph)]
    listed = {item[1] for item in starts}
    if len(listed) < 2 or {item[1] for item in starts if _own(item[1], paragraph, item.end(), texts)} == set(letters):
        return letters
    chosen = all(_own(item[1], paragraph, item.end(), texts, end) for item, end in zip(starts, ends, strict=True))
    return tuple(sorted(listed)) if chosen and len(listed) < len(texts) else ()


def _bare(normal_text: str) -> str:
    return normal_text.casefold().strip(" \t\n.,:;()。、*_\"'«»“”「」")


def _by_text(statement: str, texts: dict[str, str]) -> tuple[str, ...]:
    """The one option whose whole text is the statement ("Ответ: да"); of two, the one that begins it ("Да, ...")."""
    said = _bare(statement)
    same = [letter for letter, own in texts.items() if own and own == said]
    if not same and len(texts) == 2:
        same = [letter for letter, own in texts.items() if own and re.match(re.escape(own) + r" ?[.,;:!\n]", said)]
    return (same[0],) if len(same) == 1 else ()
