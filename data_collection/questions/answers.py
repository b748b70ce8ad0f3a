"""Reading the chosen options out of a model's text. Strict: what is not said explicitly is no answer.

Every pattern here takes time linear in the text: runs of blanks are folded first, other runs are bounded, and groups of
letters are possessive (a group is taken whole or not at all, so "A, B and C are wrong" does not shrink to A).
"""

from __future__ import annotations

import re
import unicodedata

from configs.languages import simplified_characters
from data_collection.questions.answer_words import GLOSS, LETTER, LETTERS_OF_WORDS, WORDS, every

_OPEN = r"[ *_\"'«“「『【(\[{$]{0,6}"
_CLOSERS = r"[)\]}*_\"'»”」』】$]{0,4}"
_OPTION = rf"(?:{every('article')}? ?{every('option')}[ :]{{0,2}}|{every('article_alone')} )?"
# What joins letters: marks, words for "and", a blank, a line end where each letter has a line of its own; before it a
# letter may have its text in brackets.
_JOINED, _GLUED = every("joined"), every("glued")
_MARK = rf"(?: ?[,;/&+、・] ?(?:{_JOINED} |{_GLUED} ?)?| {_JOINED} | ?{_GLUED} ?| )"
_JOINT = (
    rf"(?:[)\]*_\"]{{0,3}}(?: ?{GLOSS}|の[^。\n]{{1,40}}?(?=と|、))?{_MARK}"
    rf"[(\[*_\"]{{0,3}}(?:{every('article_alone')} )?"
    rf"|\n(?={LETTER} ?(?:\n|$)))"
)
# Without anything between them only capitals are letters ("ACD").
# Looking ahead and back to what was seen never tries a shorter list, as a possessive {0,7}+ would not; but that one
# misses lists in Python before 3.11.5 (cpython issue 106052).
_LETTERS = (
    rf"(?P<letters>(?-i:[A-H]{{2,8}}(?![{LETTERS_OF_WORDS}0-9]))"
    rf"|(?=(?P<listed>{LETTER}(?:{_JOINT}{LETTER}){{0,7}}))(?P=listed)(?!{_JOINT}{LETTER}))"
)
# What follows a choice: the end, punctuation, a dash, a copula. "A patient" is an article, "A, or B" leaves it open,
# and "(A) ではない" takes it back.
_OR = every("either")
_CLOSE = rf"(?: ?(?:$|[\n.;:!)(\]}}*_\"'»”」』】。]|[-–—] |{every('closes')}))"
_LEFT = (
    rf"(?!{_CLOSERS}(?: ?\([^()\n]{{1,120}}\))?"
    rf"(?: ?[,、;(]? ?{_OR} ?[(\[*_\"]{{0,3}}{_OPTION}[A-H]| ?{every('denies')}))"
)
_END = rf"{_LEFT}(?={_CLOSE}| ?[,、])"

# An explicit phrase before the letters, ...
_SAID = re.compile(
    rf"(?<![{LETTERS_OF_WORDS}]){every('phrases')}(?: ?,? ?{every('thus')} ?,?)?"
    rf"[*_ ]{{0,4}}(?:: ?)?\n{{0,2}}{_OPEN}{_OPTION}{_OPEN}(?=(?P<text>[^\n]{{0,400}}))"
    rf"(?:{_LETTERS}(?:{_END}|の(?!可能|[^。、\n]{{0,40}}(?:{WORDS['ja'].denies})|[^。\n]{{0,60}}[とや、][A-H]の)))?",
    re.IGNORECASE,
)
# ... and one after them.
_SAID_AFTER = re.compile(
    rf"(?<![{LETTERS_OF_WORDS}]){_LETTERS}{_CLOSERS} ?{every('afterwards')}",
    re.IGNORECASE,
)
# What ends where such a phrase begins, or the letters before one, and turns it round or leaves it open.
_NEGATED = re.compile(rf"{every('negated')} ?$", re.IGNORECASE)
_UNLESS = re.compile(
    rf"(?:(?<![{LETTERS_OF_WORDS}])|(?![{LETTERS_OF_WORDS}]))(?:{_OR}|{every('unless')}) ?{_OPEN}{_OPTION}{_OPEN}$",
    re.IGNORECASE,
)
_BACK = 48  # characters: no longer than these
# "Both" says that these are all; "A and C are correct" may be said of what a question for the wrong ones leaves: on the
# reference rationales it is the key in 85 %.
_BOTH = [
    re.compile(rf"{words.both[0]} {_OPTION}{_LETTERS}{_CLOSERS} {words.both[1]}", re.IGNORECASE)
    for words in WORDS.values()
    if words.both
]
_PUBLISHED = re.compile(rf"\bOPTIONS? {_LETTERS} (?:IS|ARE) CORRECT")
_AT_ONCE = re.compile(rf"^{_OPEN}{_OPTION}{_OPEN}{_LETTERS}[ .)\]}}*_\"'»”」』】。$]{{0,6}}(?:\n|$)", re.IGNORECASE)
_AT_START = re.compile(rf"^{_OPEN}(?P<option>{_OPTION}){_OPEN}{_LETTERS}{_END}", re.IGNORECASE)
_MARKS = "[*_\u200e\u200f]{0,4}"  # of bold, and of the direction of the script
_HEADING = re.compile(rf"#{{2,6}} ?{_MARKS} ?{every('noun')} ?{_MARKS} ?[:：ः]?", re.IGNORECASE)
_LINE = re.compile(rf"^[ \t]{{0,9}}{_MARKS}{every('noun')} ?{_MARKS} ?[:：ः]", re.IGNORECASE | re.MULTILINE)
# What a discussion of one option after the other says of the first ("A. Iron is incorrect", "A : faux").
_SAYS_WRONG = re.compile(
    rf"[\s.:;,)\]}}*_\"'»”」』】–—-]{{0,6}}(?:{every('it')} ?)?(?:{every('copula')} ?)?{every('wrong')}"
    rf"(?![{LETTERS_OF_WORDS}])(?= ?(?:$|[\n.,;:!)*_。、，；！：]|{every('since')}))",
    re.IGNORECASE,
)
_NO = re.compile(every("no"), re.IGNORECASE)
_ENDS = every("ends")
_ITEM = re.compile(r"(?:^|(?<=[\s;,.]))([A-H])(?:[.):] ?| [-–—] )")
_NEXT_ITEM = re.compile(rf" ?[,;.]? ?(?:{_JOINED}|{_GLUED})?\s*(?=[A-H](?:[.):]| [-–—] ))")
# Marks of direction, joiners and soft hyphens, the vowel marks and the stretching stroke of Arabic, and marks of code.
_UNSEEN = re.compile("[\u00ad\u061c\u0640\u064b-\u0652\u0670\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff`]")
_PUNCTUATION = str.maketrans("،؛؟۔।॥", ",;?...")
_SIMPLIFIED = str.maketrans(simplified_characters())
_KANA = re.compile("[ぁ-ゖァ-ヺｦ-ﾝ]")
_LOW_QUOTES = re.compile("[„‚]([^„“‚‘\\n]{1,200})[“‘”]")
_THOUGHTS = re.compile(r"^.*</think>|<think>.*", re.DOTALL | re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """What a reasoning model says after its thoughts (<think>...</think>); nothing where they have no end."""
    return _THOUGHTS.sub("", text)


def split_answer(text: str) -> tuple[str, list[str]]:
    """What stands before the answer, and the answers that stand under headings.

    The first heading ("### Answer:", in any of the languages) ends the rationale, for what a model writes after it is
    beyond what it was asked. Where there is no heading, the last line that begins with "Answer:" ends it. Thoughts
    are no part of either.
    """
    text = without_thoughts(text)
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
    letters that the text starts with, unless it says next that they are wrong; an option's whole text. Full-width
    letters count as letters. A letter that no option bears makes the answer none, and so do lists of all options and
    choices left open ("A or B"). Traditional Chinese characters are read as simplified ones.

    The prompt shows Latin letters, and Arabic and Hindi ones are never read as these: their order is not one (أ ب ج د
    and أ ب ت ث; क ख ग घ and अ ब स द), and they are words as well ("ج:" announces an answer, "د." is a doctor).

    Args:
        text: what the model wrote after the prompt.
        options: letter to option text, as asked.
    """
    text = without_thoughts(text)
    if not _KANA.search(text):  # no Japanese: the words for Chinese are in simplified characters
        text, options = text.translate(_SIMPLIFIED), {a: own.translate(_SIMPLIFIED) for a, own in options.items()}
    text = _normal(text, options)
    before, headed = split_answer(text)
    filled = [part.strip() for part in headed if part.strip()]
    if filled and not _AT_ONCE.match(before.strip()):
        # What follows the first paragraph may be the next question.
        letters = _read(filled[0].split("\n\n")[0], options) or _read(filled[0], options)
    else:
        letters = _read(before.strip() if headed else text, options)
    return letters if letters and all(letter in options for letter in letters) else None


def _normal(text: str, options: dict[str, str]) -> str:
    """NFKC, blanks folded, no blanks at the ends of lines, no marks of code nor any that are not seen, no marks of
    vowels, Latin punctuation, Cyrillic letters that stand alone as Latin ones."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).translate(_PUNCTUATION)
    text = re.sub(r"[^\S\n]+", " ", _LOW_QUOTES.sub(r'"\1"', text))
    text = re.sub(r" ?\n ?", "\n", text).strip()
    text = re.sub(r"\\text(?:bf|rm)?\{([^{}]{0,40})\}", r"\1", text)
    text = text.replace("<answer>", "### Answer: ").replace("</answer>", "\n\n")
    # В looks like B and is the third letter of the Russian alphabet: where there is an option C nobody can tell. So
    # is Е where there is an option F; С, the 19th letter, can only be meant for C.
    cyrillic = {"А": "A", "Б": "B", "С": "C"}
    cyrillic |= {cyr: latin for cyr, latin, third in (("В", "B", "C"), ("Е", "E", "F")) if third not in options}
    return re.sub(r"(?<!\w)[АБВСЕ](?!\w)", lambda match: cyrillic.get(match[0], match[0]), text)


def _read(text: str, options: dict[str, str]) -> tuple[str, ...]:
    """The letters that a normal text gives, whether or not there are such options; () when it gives none."""
    texts = {letter: _bare(_normal(option, options)) for letter, option in options.items()}
    if (found := _AT_ONCE.match(text)) and (letters := _spread(found["letters"], texts)):
        return letters
    said = [match for pattern in (_SAID, _SAID_AFTER, *_BOTH, _PUBLISHED) for match in pattern.finditer(text)]
    for found in sorted(said, key=lambda match: match.start(), reverse=True):
        letters = _chosen(found, texts)
        letters = (letters and _itemised(found, texts)) or letters
        letters = letters or _by_text(found.groupdict().get("text", ""), texts, begins=True)
        if letters and not _denied(found):
            return letters
    found = _AT_START.match(text)
    # "Option A, the oldest drug, ..." begins a discussion, and "D (+) glucose" a sentence; "D (fourth text)" answers.
    rest = text[found.end() :] if found else ""
    last = found["letters"][-1].upper() if found else ""
    discusses = re.match(" ?[,、(]", rest) if found and found["option"].strip() else re.match(r" ?\(", rest)
    discusses = discusses and (found["option"].strip() or not _own(last, rest, 0, texts))
    if found and not discusses and not _says_wrong(rest, texts.get(last, "")):
        letters = _chosen(found, texts)
        if letters and (letters := _of_list(text, texts, letters)):
            return letters
    return _by_text(text.split("\n", 1)[0], texts)


def _denied(found: re.Match[str]) -> bool:
    """Whether the words before a phrase, or before the letters of one that follows them, turn it round or leave it
    open."""
    before = _NEGATED if found.re is _SAID else _UNLESS if found.re is _SAID_AFTER else None
    return before is not None and before.search(found.string, max(0, found.start() - _BACK), found.start()) is not None


def _chosen(found: re.Match[str], texts: dict[str, str]) -> tuple[str, ...]:
    """The letters of a match, unless the letter belongs to the words after it ("E. coli") or these are another option's
    text ("A. No", where A is yes)."""
    letters, text, end = _spread(found["letters"] or "", texts), found.string, found.end("letters")
    if len(letters) != 1 or _own(letters[0], text, end, texts):
        return letters
    followed = _bare(text[end : end + 2 + max(map(len, texts.values()))])
    if any(own and re.match(re.escape(own) + rf"(?![{LETTERS_OF_WORDS}])", followed) for own in texts.values()):
        return ()
    return () if re.compile(r"\. ?[a-z]{3}").match(text, end) else letters


def _itemised(found: re.Match[str], texts: dict[str, str]) -> tuple[str, ...]:
    """The letters of "A. first text, C. third text" where a match found A; () when no items with their texts follow."""
    text, at, listed = found.string, found.start("letters"), []
    while item := _ITEM.match(text, at):
        own = texts.get(item[1], "")
        at = item.end() + len(own)
        if not own or text[item.end() : at].lower() != own:
            break
        listed.append(item[1])
        if not (following := _NEXT_ITEM.match(text, at)):
            break
        at = following.end()
    return tuple(sorted(set(listed))) if 1 < len(set(listed)) < len(texts) else ()


def _spread(group: str, texts: dict[str, str]) -> tuple[str, ...]:
    """Letters of a group, sorted. Run together they count in alphabetical order only, and not if an option says so."""
    if re.fullmatch(r"[A-H]{2,8}", group):
        is_word = list(group) != sorted(set(group)) or group.lower() in texts.values()
        return () if is_word else tuple(group)
    group = re.sub(rf"{GLOSS}|の[^。\n]*?(?=[と、][A-H])|{_GLUED}", " ", group)
    single = re.findall(rf"(?<![{LETTERS_OF_WORDS}])[A-Ha-h](?![{LETTERS_OF_WORDS}])", group)
    return tuple(sorted({letter.upper() for letter in single}))


def _own(letter: str, text: str, start: int, texts: dict[str, str], end: int | None = None) -> bool:
    """Whether the text from `start` begins with the option's text, or, up to `end`, is that text."""
    own = texts.get(letter, "")
    said = _bare(text[start : start + len(own) + 20] if end is None else text[start:end])
    return bool(own) and (said.startswith(own) if end is None else said == own)


def _says_wrong(rest: str, own: str) -> bool:
    """Whether what follows a letter, its option's text or not, says that it is the wrong one. After an option "no" it
    says that what was asked about is wrong."""
    if _NO.fullmatch(own):
        return False
    start = re.match(r"[\s.:;,()\]}*_\"'»”」』】–—-]{0,6}", rest).end()
    end = start + len(own) if own and rest[start : start + len(own)].lower() == own else 0
    return _SAYS_WRONG.match(rest, end) is not None


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
    return normal_text.lower().strip(" \t\n.,:;()。、*_\"'«»“”「」")


def _by_text(statement: str, texts: dict[str, str], *, begins: bool = False) -> tuple[str, ...]:
    """The one option whose whole text is the statement ("Ответ: да").

    Of two options also the one that begins it ("Да, ..."), unless a word for "or" follows; of any number the one that
    is its first sentence where `begins` says that an answer was announced ("The answer is dry cough (option B). It").
    """
    said, begun = _bare(statement), statement.lower().lstrip(" *_\"'«“「")
    same = [letter for letter, own in texts.items() if own and own == said]
    if not same and begins:
        ends = rf"(?: ?\({_OPTION}[A-H]\))?(?: {_ENDS})? ?(?:[.;!\n]|$)"
        starts = {letter: own for letter, own in texts.items() if own and begun.startswith(own)}
        same = [a for a, own in starts.items() if re.compile(ends, re.IGNORECASE).match(begun, len(own))]
    if not same and len(texts) == 2:
        ends = rf" ?(?:[.;:!\n]|,(?! ?{_OR}(?![{LETTERS_OF_WORDS}])))"
        same = [letter for letter, own in texts.items() if own and re.match(re.escape(own) + ends, said)]
    return (same[0],) if len(same) == 1 else ()
