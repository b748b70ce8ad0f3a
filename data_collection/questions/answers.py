"""Reading the chosen options out of a model's text. Strict: what is not said explicitly is no answer.

Every pattern here takes time linear in the text: runs of blanks are folded first, other runs are bounded, and groups of
letters are possessive (a group is taken whole or not at all, so "A, B and C are wrong" does not shrink to A).
"""

from __future__ import annotations

import re
import unicodedata

_WORD = "A-Za-zÀ-ɏЀ-ӿ"  # letters of the scripts that part words by spaces
_LETTER = rf"[A-H](?![{_WORD}0-9]|['’][{_WORD}])"
_OPEN = r"[ *_\"'«“「『【(\[{$]{0,6}"
_OPTION = (
    r"(?:(?:the|las?|el|les?|l['’])? ?(?:options?|choices?|letters?|réponses?|propositions?|lettres?"
    r"|opci(?:ón|ones)|letras?|alternativas?|вариант\w?|буква|选项|選択肢)[ :]{0,2}|(?:las?|les?) )?"
)
# What joins letters: marks, words for "and", a blank, a line end where each letter has a line of its own; before it a
# letter may have its text in brackets.
_GLOSS = r"\([^()\n]{2,120}\)"
_MARK = r"(?: ?[,;/&+、・] ?(?:(?:and|et|y|и) )?| (?:and|et|y|и) | ?(?:と|和|及び?|以及|および) ?| )"
_JOINT = (
    rf"(?:[)\]*_\"]{{0,3}}(?: ?{_GLOSS}|の[^。\n]{{1,40}}?(?=と|、))?{_MARK}[(\[*_\"]{{0,3}}(?:las? )?"
    rf"|\n(?={_LETTER} ?(?:\n|$)))"
)
# Without anything between them only capitals are letters ("ACD").
_LETTERS = (
    rf"(?P<letters>(?-i:[A-H]{{2,8}}(?![{_WORD}0-9]))|{_LETTER}(?:{_JOINT}{_LETTER}){{0,7}}+(?!{_JOINT}{_LETTER}))"
)
# What follows a choice: the end, punctuation, a dash, a copula. "A patient" is an article, "A, or B" leaves it open.
_CLOSE = (
    r"(?: ?(?:$|[\n.;:!)(\]}*_\"'»”」』】。]|[-–—] |[二两三四五]?(?:选项|项)(?!(?:均|都|也|为|是)?(?:错|不|有误))"
    r"|です|である|だ(?!け)|となり|と考え|(?:is|are) correct\b"
    r"|(?:because|since|car|parce que|puisque|porque|ya que|потому что|так как|поскольку)\b|因为))"
)
_OR = r"(?:or|ou|o|или|或者?|还是|または|あるいは)"
_HEDGE = rf"(?! ?[,;、(]? ?{_OR} ?[A-H])"
_END = rf"{_HEDGE}(?={_CLOSE}| ?[,、])"


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


# Nouns that head an answer.
_NOUN = _any(
    r"(?:final |correct )?answers?",
    r"(?:正确)?答案|答え|正解|回答|解答",
    r"(?:bonnes? )?réponses?(?:\(s\)| correctes?)?",
    r"respuestas?(?: correctas?| final(?:es)?)?",
    r"(?:правильный )?ответы?",
)
_X = rf"[(\"*]{{0,2}}{_LETTER}[)\"*]{{0,2}}"
# Phrases that give an answer in running text, ...
_PHRASE = _any(
    rf"(?:answers?|(?:correct|right|best) (?:options?|choices?|responses?))(?: here)?[*_\"]{{0,3}} ?"
    rf"(?:(?:is|are)(?: not {_X} ?,? ?(?:but(?: rather)?|it is|it's))?|(?:w|sh)ould be|must be|[:=])",
    r"I(?:'d| would|'ll| will)? (?:choose|select|pick|go (?:with|for)|answer)",
    r"I(?:'m| am) going (?:with|for)",
    rf"(?:答案|最佳选项|正确选项|正确的?(?=是))[*_]{{0,3}} ?(?:应该?)?"
    rf"(?:不是 ?{_X} ?[,、]? ?而是|是|为|选|:|】|(?=\())",
    r"(?:应该?|故|因此|所以|本题)?选择?(?!项)",
    rf"(?:正解|正答|答え|解答|回答|(?:正しい|適切な|妥当な)(?:選択肢|もの|の))[*_]{{0,3}} ?"
    rf"(?:は(?: ?{_X} ?で(?:は)?なく ?[,、]?)?|が|:|】)",
    rf"(?:réponses?(?:\(s\))?|(?:réponses?|options?|propositions?) (?:correctes?|exactes?|justes?))[*_]{{0,3}} ?"
    rf"(?:n['’]est pas (?:la )?{_X} ?,? ?mais(?: bien)?|est|sont|serait|[:=])",
    r"(?:结论|結論|conclusion|вывод|conclusión)[*_]{0,3} ?:(?= ?[*_(]{0,3}[A-H](?![A-Za-z]))",
    r"je (?:choisis|sélectionne)|répondre",
    rf"(?:respuestas?(?: correctas?| final(?:es)?)?|(?:opci(?:ón|ones) |alternativas? )?correctas?)[*_]{{0,3}} ?"
    rf"(?:no es (?:la )?{_X} ?,? ?sino|es|son|sería|[:=])",
    r"(?:elijo|escojo|selecciono|son correctas)",
    rf"(?:ответ\w?|(?:правильн|верн)\w{{1,3}} (?:вариант|выбор)\w?(?: ответа)?)[*_]{{0,3}} ?"
    rf"(?:[-–—]? ?не {_X} ?,? а|[-–—:=]|будет|это|является|(?= [A-H](?:[.\n]|$)))(?: под буквой)?",
    r"(?:правильн|верн)\w{1,3} (?:ответ|вариант)ом является|выбираю",
    r"\\boxed(?=\{)",
)
# ... what may stand between the phrase and the letters, ...
_THUS = _any(
    r"most likely|probably|therefore|thus|hence|clearly|definitely|indeed",
    r"donc|alors|par conséquent",
    r"por (?:lo )?tanto|entonces|pues",
)
# ... words before them that turn them round or leave them open, ...
_NEGATED = _any(
    r"incorrect|wrong|false|(?:\bnot|n['’]t)(?: an?| the(?: correct)?)?",
    r"(?:(?:n['’]t|not) (?:think|believe)(?: that)?|not the case that|doubt(?: that)?|if|unless|whether)"
    r"(?: the(?: correct)?)?",
    r"错误的?|不正确的?|不(?:应该?|能|可|宜|会|是)?|(?:如果|若|是否|假如)(?:正确)?",
    r"誤った|間違った|もし",
    r"mauvaises?|(?:n['’]est|ne sont|n['’]étaient) pas(?: l[ae]s?)?|(?:pense pas que|crois pas que|si) la(?: bonne)?",
    r"(?:no creo que|si) la|\bno(?: es| son)?(?: l[ao]s?)?",
    r"неправильн\w{1,3}|неверн\w{1,3}|\bне|(?:не думаю, что|если)(?: правильный)?",
)
# ... and phrases after the letters.
_AFTERWARDS = _any(
    r"(?:is|are) the (?:correct|right|best) (?:answers?|options?|choices?)",
    r"(?:选项)?(?:是|为)正确(?:答案|选项|的)",
    r"が(?:正解|正答|答え|最も適切(?:な選択肢)?(?=です|である|だ|。|$))(?!では|じゃ|とは|か)",
    r"(?:est la (?:bonne\b(?: réponse)?|réponse (?:correcte|exacte|juste))"
    r"|sont les (?:bonnes réponses|réponses (?:correctes|exactes|justes)))",
    r"(?:es la|son las) (?:respuestas? |opci(?:ón|ones) )?correctas?",
    r"(?:[-–—]|является) (?:правильн|верн)\w{1,3} (?:ответ|вариант)",
)
_SAID = re.compile(
    rf"(?P<negated>{_NEGATED} ?)?(?<![{_WORD}]){_PHRASE}(?: ?,? ?{_THUS} ?,?)?[*_ ]{{0,4}}(?:: ?)?\n{{0,2}}"
    rf"{_OPEN}{_OPTION}{_OPEN}(?=(?P<text>[^\n]{{0,400}}))(?:{_LETTERS}(?:{_END}|の(?!可能|[^。\n]{{0,60}}[とや、][A-H]の)))?",
    re.IGNORECASE,
)
_SAID_AFTER = re.compile(
    rf"(?<![{_WORD}])(?<!nor )(?<! ni )(?<! or )(?<! ou )(?<! o )(?<!或)(?<!или ){_LETTERS}"
    rf"[)\]*_\"'»”」』】]{{0,4}} ?{_AFTERWARDS}",
    re.IGNORECASE,
)
# "Both" says that these are all; "A and C are correct" may be said of what a question for the wrong ones leaves: on the
# reference rationales it is the key in 85 %.
_BOTH = re.compile(rf"\bboth {_LETTERS} are (?:correct|right)\b", re.IGNORECASE)
_PUBLISHED = re.compile(rf"\bOPTIONS? {_LETTERS} (?:IS|ARE) CORRECT")
_AT_ONCE = re.compile(rf"^{_OPEN}{_OPTION}{_OPEN}{_LETTERS}[ .)\]}}*_\"'»”」』】。$]{{0,6}}(?:\n|$)", re.IGNORECASE)
_AT_START = re.compile(rf"^{_OPEN}(?P<option>{_OPTION}){_OPEN}{_LETTERS}{_END}", re.IGNORECASE)
_HEADING = re.compile(rf"#{{2,6}} ?[*_]{{0,3}} ?{_NOUN} ?[*_]{{0,3}} ?[:：]?", re.IGNORECASE)
_LINE = re.compile(rf"^[ \t]{{0,9}}[*_]{{0,3}}{_NOUN} ?[*_]{{0,3}} ?[:：]", re.IGNORECASE | re.MULTILINE)
_ITEM = re.compile(r"(?:^|(?<=[\s;,.]))([A-H])[.):] ?")
_NEXT_ITEM = re.compile(r" ?[,;.]? ?(?:and|et|y|и)?\s*(?=[A-H][.):])")
_THOUGHTS = re.compile(r"^.*</think>|<think>.*", re.DOTALL | re.IGNORECASE)


def split_answer(text: str) -> tuple[str, list[str]]:
    """What stands before the answer, and the answers that stand under headings.

    The first heading ("### Answer:", in any of the languages) ends the rationale, for what a model writes after it is
    beyond what it was asked. Where there is no heading, the last line that begins with "Answer:" ends it. Thoughts
    (<think>...</think>) are no part of either.
    """
    text = _THOUGHTS.sub("", text)
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
    text = _normal(_THOUGHTS.sub("", text), options)
    before, headed = split_answer(text)
    filled = [part.strip() for part in headed if part.strip()]
    if filled and not _AT_ONCE.match(before.strip()):
        # What follows the first paragraph may be the next question.
        letters = _read(filled[0].split("\n\n")[0], options) or _read(filled[0], options)
    else:
        letters = _read(before.strip() if headed else text, options)
    return letters if letters and all(letter in options for letter in letters) else None


def _normal(text: str, options: dict[str, str]) -> str:
    """NFKC, blanks folded, no blanks at the ends of lines, no marks of code, Cyrillic letters that stand alone as Latin
    ones."""
    text = re.sub(r"[^\S\n]+", " ", unicodedata.normalize("NFKC", text).replace("`", ""))
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
    said = [match for match in _SAID.finditer(text) if not match["negated"]]
    said += [match for pattern in (_SAID_AFTER, _BOTH, _PUBLISHED) for match in pattern.finditer(text)]
    for found in sorted(said, key=lambda match: match.start(), reverse=True):
        if letters := _chosen(found, texts):
            return _itemised(found, texts) or letters
        if letters := _by_text(found.groupdict().get("text", ""), texts, begins=True):
            return letters
    found = _AT_START.match(text)
    # "Option A, the oldest drug, ..." begins a discussion, and "D (+) glucose" a sentence; "D (fourth text)" answers.
    rest = text[found.end() :] if found else ""
    discusses = re.match(" ?[,、(]", rest) if found and found["option"].strip() else re.match(r" ?\(", rest)
    if found and (not discusses or (not found["option"].strip() and _own(found["letters"], rest, 0, texts))):
        letters = _chosen(found, texts)
        if letters and (letters := _of_list(text, texts, letters)):
            return letters
    return _by_text(text.split("\n", 1)[0], texts)


def _chosen(found: re.Match[str], texts: dict[str, str]) -> tuple[str, ...]:
    """The letters of a match, unless the letter belongs to the words after it ("E. coli") or these are another option's
    text ("A. No", where A is yes)."""
    letters, text, end = _spread(found["letters"] or "", texts), found.string, found.end("letters")
    if len(letters) != 1 or _own(letters[0], text, end, texts):
        return letters
    followed = _bare(text[end : end + 2 + max(map(len, texts.values()))])
    if any(own and re.match(re.escape(own) + rf"(?![{_WORD}])", followed) for own in texts.values()):
        return ()
    return () if re.compile(r"\. ?[a-z]{3}").match(text, end) else letters


def _itemised(found: re.Match[str], texts: dict[str, str]) -> tuple[str, ...]:
    """The letters of "A. first text, C. third text" where a match found A; () when no items with their texts follow."""
    text, at, listed = found.string, found.start("letters"), []
    while item := _ITEM.match(text, at):
        own = texts.get(item[1], "")
        at = item.end() + len(own)
        if not own or text[item.end() : at].casefold() != own:
            break
        listed.append(item[1])
        if not (following := _NEXT_ITEM.match(text, at)):
            break
        at = following.end()
    return tuple(sorted(set(listed))) if 1 < len(set(listed)) < len(texts) else ()


def _spread(group: str, texts: dict[str, str]) -> tuple[str, ...]:
    """Letters of a group, sorted. Run together they count in alphabetical order only, and not if an option says so."""
    if re.fullmatch(r"[A-H]{2,8}", group):
        is_word = list(group) != sorted(set(group)) or group.casefold() in texts.values()
        return () if is_word else tuple(group)
    group = re.sub(rf"{_GLOSS}|の[^。\n]*?(?=[と、][A-H])", "", group)
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


def _by_text(statement: str, texts: dict[str, str], *, begins: bool = False) -> tuple[str, ...]:
    """The one option whose whole text is the statement ("Ответ: да").

    Of two options also the one that begins it ("Да, ..."), unless a word for "or" follows; of any number the one that
    is its first sentence where `begins` says that an answer was announced ("The answer is dry cough (option B). It").
    """
    said, begun = _bare(statement), statement.casefold().lstrip(" *_\"'«“「")
    same = [letter for letter, own in texts.items() if own and own == said]
    if not same and begins:
        ends = rf"(?: ?\({_OPTION}[A-H]\))? ?(?:[.;!\n]|$)"
        starts = {letter: own for letter, own in texts.items() if own and begun.startswith(own)}
        same = [a for a, own in starts.items() if re.compile(ends, re.IGNORECASE).match(begun, len(own))]
    if not same and len(texts) == 2:
        ends = rf" ?(?:[.;:!\n]|,(?! ?{_OR}\b))"
        same = [letter for letter, own in texts.items() if own and re.match(re.escape(own) + ends, said)]
    return (same[0],) if len(same) == 1 else ()
