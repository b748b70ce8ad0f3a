"""The words by which each language gives, denies or leaves open an answer: one row a language. `answers` joins the rows
into patterns that read every language at once, for models do not keep to the language of the question.

Every entry is a regular expression of alternatives, matched without regard to case in a text with blanks folded, in
NFKC, with Latin punctuation and plain quotation marks; each takes bounded time. A new language is a new row, and its
letters in LETTERS_OF_WORDS where it parts words by spaces.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.languages import simplified_characters

# Letters and vowel signs of the scripts that part words by spaces: Latin, Cyrillic, Arabic, Devanagari.
LETTERS_OF_WORDS = "A-Za-zÀ-ɏЀ-ӿ\u0621-\u064a\u066e-\u06d3\u06d5\u06ee-\u06ff\u0900-\u0963\u0971-\u097f"
LETTER = rf"[A-H](?![{LETTERS_OF_WORDS}0-9]|['’][{LETTERS_OF_WORDS}])"
GLOSS = r"\([^()\n]{2,120}\)"  # a letter's text in brackets
_X = rf"[(\"*]{{0,2}}{LETTER}[)\"*]{{0,2}}"
_END_OF_WORD = rf"(?![{LETTERS_OF_WORDS}])"


@dataclass(frozen=True)
class Words:
    """The words of one language; "" where it has none of a kind.

    Attributes:
        noun: heads an answer ("### Answer:").
        phrases: give an answer that follows.
        thus: may stand between such a phrase and the letters.
        negated: before a phrase, turns it round or leaves it open.
        article: before `option`.
        article_alone: before a letter ("la B").
        option: names what a letter stands for.
        joined: words for "and" between blanks.
        glued: words for "and" that need no blank after them.
        either: words for "or".
        closes: follows the letters that were chosen; a copula, a word for "because".
        denies: follows letters that were not chosen.
        afterwards: gives the letters before it as the answer.
        unless: before such letters, turns it round or leaves it open; words for "or" do so anyway.
        both: what stands around the letters of an answer that is all of them, as (before, after).
        it: takes up an option that is discussed.
        copula: stands between it and `wrong`.
        wrong: says that an option is the wrong one.
        since: may follow `wrong`.
        ends: a copula that may end a sentence after an option's text.
        no: an option that is a "no".
    """

    noun: str
    phrases: str
    thus: str = ""
    negated: str = ""
    article: str = ""
    article_alone: str = ""
    option: str = ""
    joined: str = ""
    glued: str = ""
    either: str = ""
    closes: str = ""
    denies: str = ""
    afterwards: str = ""
    unless: str = ""
    both: tuple[str, ...] = ()
    it: str = ""
    copula: str = ""
    wrong: str = ""
    since: str = ""
    ends: str = ""
    no: str = ""


_EN = Words(
    noun=r"(?:final |correct )?answers?",
    phrases=(
        rf"(?:answers?|(?:correct|right|best) (?:options?|choices?|responses?))(?: here)?[*_\"]{{0,3}} ?"
        rf"(?:(?:is|are)(?: not {_X} ?,? ?(?:but(?: rather)?|it is|it's))?|(?:w|sh)ould be|must be|[:=])"
        r"|I(?:'d| would|'ll| will)? (?:choose|select|pick|go (?:with|for)|answer)|I(?:'m| am) going (?:with|for)"
        r"|conclusion[*_]{0,3} ?:(?= ?[*_(]{0,3}[A-H](?![A-Za-z]))|\\boxed(?=\{)"
    ),
    thus=r"most likely|probably|therefore|thus|hence|clearly|definitely|indeed",
    negated=(
        r"incorrect|wrong|false|(?:\bnot|n['’]t)(?: an?| the(?: correct)?)?"
        r"|(?:(?:n['’]t|not) (?:think|believe)(?: that)?|not the case that|doubt(?: that)?|if|unless|whether)"
        r"(?: the(?: correct)?)?"
    ),
    article="the",
    option="options?|choices?|letters?",
    joined="and",
    either="or",
    closes=r"(?:is|are) correct\b|(?:because|since)\b",
    afterwards=r"(?:is|are) the (?:correct|right|best) (?:answers?|options?|choices?)",
    unless="neither|nor|not|if|unless|whether",
    both=(r"\bboth", r"are (?:correct|right)\b"),
    it="this|that|it|option",
    copula="is|are",
    wrong=r"incorrect|wrong|false|untrue"
    r"|not (?:correct|right|true|the (?:correct |right |best )?(?:answer|option|choice))",
    since="because|since|as",
    no="no|false",
)

_ZH = Words(
    noun="(?:正确)?答案",
    phrases=(
        rf"(?:答案|最佳选项|正确选项|正确的?(?=是))[*_]{{0,3}} ?(?:应该?)?"
        rf"(?:不是 ?{_X} ?[,、]? ?而是|是|为|选|:|】|(?=\())"
        r"|(?:应该?|故|因此|所以|本题)?选择?(?!项)|结论[*_]{0,3} ?:(?= ?[*_(]{0,3}[A-H](?![A-Za-z]))"
    ),
    negated="错误的?|不正确的?|不(?:应该?|能|可|宜|会|是)?|(?:如果|若|是否|假如)(?:正确)?",
    option="选项",
    glued="和|及|以及",
    either="或者?|还是",
    closes="[二两三四五]?(?:选项|项)(?!(?:均|都|也|为|是)?(?:错|不|有误))|因为",
    afterwards="(?:选项)?(?:是|为)正确(?:答案|选项|的)",
    unless="如果|若|假如|不是",
    copula="是|为|均|都",
    wrong="错误?的?|不正确|不对",
    since="因为",
    no="否|不是?|错误?",
)

_JA = Words(
    noun="答え|正解|回答|解答",
    phrases=(
        rf"(?:正解|正答|答え|解答|回答|(?:正しい|適切な|妥当な)(?:選択肢|もの|の))[*_]{{0,3}} ?"
        rf"(?:は(?: ?{_X} ?で(?:は)?なく ?[,、]?)?|が|:|】)|結論[*_]{{0,3}} ?:(?= ?[*_(]{{0,3}}[A-H](?![A-Za-z]))"
    ),
    negated="誤った|間違った|もし",
    option="選択肢",
    glued="と|及び|および",
    either="または|あるいは|か",
    closes="です|である|だ(?!け)|となり|と考え",
    denies="では(?:な|あり)|でな|じゃな|とは(?:言|限|考え)",
    afterwards="が(?:正解|正答|答え|最も適切(?:な選択肢)?(?=です|である|だ|。|$))(?!では|じゃ|とは|か)",
    unless="もし",
    copula="は|が|も",
    wrong="誤り|間違い|不正解|不適切|正しくない|適切でない",
    since="である|です|だ",
    no="いいえ|誤り",
)

_FR = Words(
    noun=r"(?:bonnes? )?réponses?(?:\(s\)| correctes?)?",
    phrases=(
        rf"(?:réponses?(?:\(s\))?|(?:réponses?|options?|propositions?) (?:correctes?|exactes?|justes?))[*_]{{0,3}} ?"
        rf"(?:n['’]est pas (?:la )?{_X} ?,? ?mais(?: bien)?|est|sont|serait|[:=])"
        r"|je (?:choisis|sélectionne)|répondre"
    ),
    thus="donc|alors|par conséquent",
    negated=(
        r"mauvaises?|(?:n['’]est|ne sont|n['’]étaient) pas(?: l[ae]s?)?"
        r"|(?:pense pas que|crois pas que|si) la(?: bonne)?"
    ),
    article="las?|les?|l['’]",
    article_alone="la|les?",
    option="réponses?|propositions?|lettres?",
    joined="et",
    either="ou",
    closes=r"(?:car|parce que|puisque)\b",
    afterwards=(
        r"est la (?:bonne\b(?: réponse)?|réponse (?:correcte|exacte|juste))"
        r"|sont les (?:bonnes réponses|réponses (?:correctes|exactes|justes))"
    ),
    unless="ni|si",
    it=r"c['’]est|cela|cette option",
    copula="est|sont",
    wrong=(r"faux|fausses?|incorrecte?s?|inexacte?s?|erronée?s?|n['’]est pas (?:correcte?|exacte?|juste|la bonne)"),
    since="car|parce|puisque",
    no="non|faux",
)

_RU = Words(
    noun="(?:правильный )?ответы?",
    phrases=(
        rf"(?:ответ\w?|(?:правильн|верн)\w{{1,3}} (?:вариант|выбор)\w?(?: ответа)?)[*_]{{0,3}} ?"
        rf"(?:[-–—]? ?не {_X} ?,? а|[-–—:=]|будет|это|является|(?= [A-H](?:[.\n]|$)))(?: под буквой)?"
        r"|(?:правильн|верн)\w{1,3} (?:ответ|вариант)ом является|выбираю"
        r"|вывод[*_]{0,3} ?:(?= ?[*_(]{0,3}[A-H](?![A-Za-z]))"
    ),
    negated=r"неправильн\w{1,3}|неверн\w{1,3}|\bне|(?:не думаю, что|если)(?: правильный)?",
    option=r"вариант\w?|буква",
    joined="и",
    either="или",
    closes=r"(?:потому что|так как|поскольку)\b",
    afterwards=r"(?:[-–—]|является) (?:правильн|верн)\w{1,3} (?:ответ|вариант)",
    unless="ни|не|если",
    it="это",
    wrong=r"неверн\w{1,3}|неправильн\w{1,3}|ошибочн\w{1,3}",
    since="потому|так",
    no="нет|неверно|ложно",
)

_ES = Words(
    noun="respuestas?(?: correctas?| final(?:es)?)?",
    phrases=(
        rf"(?:respuestas?(?: correctas?| final(?:es)?)?|(?:opci(?:ón|ones) |alternativas? )?correctas?)[*_]{{0,3}} ?"
        rf"(?:no es (?:la )?{_X} ?,? ?sino|es|son|sería|[:=])"
        r"|(?:elijo|escojo|selecciono|son correctas)|conclusión[*_]{0,3} ?:(?= ?[*_(]{0,3}[A-H](?![A-Za-z]))"
    ),
    thus="por (?:lo )?tanto|entonces|pues",
    negated=r"(?:no creo que|si) la|\bno(?: es| son)?(?: l[ao]s?)?",
    article="las?|el",
    article_alone="las?",
    option="opci(?:ón|ones)|letras?|alternativas?",
    joined="y",
    either="o",
    closes=r"(?:porque|ya que)\b",
    afterwards="(?:es la|son las) (?:respuestas? |opci(?:ón|ones) )?correctas?",
    unless="ni|si",
    it="esto",
    copula="es|son",
    wrong="fals[oa]s?|incorrect[oa]s?|erróne[oa]s?|no es (?:correct[oa]|la (?:respuesta|opción|correcta))",
    since="porque|ya|pues",
    no="falso",
)

# Answers, options and what is said of them are one word with its article in Arabic, and "and" and "so" stick to it;
# marks of vowels and the stretching stroke are taken out before.
_AR_ANSWER = "(?:ال)?(?:[إا]جاب(?:[ةه]|ات|تان|تي)|جواب)"
_AR_OPTION = "(?:ال)?(?:خيار(?:ات|ان|ين)?|[إا]ختيار(?:ات)?|بديل|[إا]جاب(?:[ةه]|ات|تان|تين)|جواب)"
_AR_RIGHT = "(?:(?:ال)?(?:صحيح|مناسب|صائب)(?:[ةه]|ان|تان)?|ال[أا](?:صح|نسب|دق|فضل|رجح))"
_AR = Words(
    noun=f"{_AR_ANSWER}(?: (?:{_AR_RIGHT}|النهائي[ةه]?))?",
    phrases=(
        rf"[وف]?(?:{_AR_OPTION} {_AR_RIGHT}|{_AR_ANSWER}(?: النهائي[ةه]?)?|[أا]فضل (?:إجابة|خيار)|الصحيح[ةه]?)"
        rf"(?: (?:على|عن) (?:هذا )?السؤال(?: الطبي)?)?[*_\"]{{0,3}} ?"
        rf"(?:(?:ليست?|ليس هو|ليست هي) {_X} ?,? ?(?:بل|و?لكن|و?[إا]نما)(?: ه[يو])?|ه[يو]|هما|[:=]"
        rf"|(?=[ *]{{1,3}}{_X}(?: ?{GLOSS})?(?:[.\n]|$)))|(?:س?[أا]|ن)ختار"
    ),
    thus="[إا]ذ[نا]ا?|بالتالي|لذلك|على الأرجح|بالت[أا]كيد|بوضوح",
    negated=(
        rf"(?<![{LETTERS_OF_WORDS}])[وف]?(?:غير|ليست?(?: هذ[هاي])?|لا|لن|لم|(?:[إا]ذا|لو|هل|سواء)(?: كانت?)?|كانت?"
        r"|(?:قد|ربما|لا|لن|لم|هل|(?:(?:ال)?م|ي|ت)(?:حتمل|مكن) [أا]ن) [تي]كون"
        r"|ليس صحيحا [أا]ن|(?:لا|لم) [أا](?:عتقد|ظن|رى) [أا]ن|[أا]شك(?: في)? [أا]ن)"
    ),
    option=f"{_AR_OPTION}|(?:ال)?(?:حرف|رقم)",
    glued="و",
    either="[أا]و|[أا]م",
    closes=f"ل[أا]ن|(?:صحيح(?:[ةه]|ان|تان)?(?! جزئي)|حيث|[إا]ذ|نظرا|وليست?|وه[يو]){_END_OF_WORD}",
    afterwards=(
        f"(?:{GLOSS} ?)?(?:ه[يو]|هما|هي جميعا) "
        f"(?:{_AR_OPTION} {_AR_RIGHT}|الصحيح[ةه]?{_END_OF_WORD}|[أا]فضل (?:إجابة|خيار))"
    ),
    unless="[إا]ما|و?لا|[وف]?ليست?|ليس هو|(?:[إا]ذا|لو) كانت?|[إا]ذا|لو|هل",
    both=("كل(?:ا|تا)?(?: من)?", "صحيح(?:[ةه]|ان|تان)?"),
    it="هذ[اه](?: الخيار| ال[إا]جابة)?|ه[يو]",
    wrong=(
        "خاطئ(?:[ةه]|ان|تان)?|خط[أا]|غير (?:صحيح|مناسب|صائب)(?:[ةه]|ان|تان)?"
        f"|ليست? (?:صحيح(?:[ةها]|ة)?|{_AR_OPTION} {_AR_RIGHT}|الصحيح[ةه]?)"
    ),
    since="ل[أا]ن(?:ه|ها|هما)?|حيث|[إا]ذ|بسبب",
    no="لا|خط[أا]|خاطئ[ةه]?",
)

# Hindi puts the verb and "not" last, so a phrase without a verb before the letters counts only if a verb ends it, or
# the sentence ends; between them the letter may have its text ("सही उत्तर (B) हेपरिन है।").
_HI_RIGHT = "(?:सही|उचित|सटीक|सर्वोत्तम|(?:सबसे |सर्वाधिक )?उपयुक्त)"
_HI_IS = f"(?:हैं?|होगा|होंगे|होगी|होना चाहिए|होने चाहिए){_END_OF_WORD}(?! ?[?])"
_HI_LIST = rf"{_X}(?:(?:[ ,&]|और|एवं|तथा|व|विकल्प){{1,10}}{_X}){{0,7}}"
_HI_TEXT = r"[.):]?(?:(?!नहीं|ग\u093c?लत|या |अथवा )[^\n.,;]){1,80}?"
_HI = Words(
    noun=f"(?:(?:{_HI_RIGHT}|अंतिम) )?(?:उत्तर|जवाब)|{_HI_RIGHT} विकल्प",
    phrases=(
        rf"(?:{_HI_RIGHT} विकल्प|उत्तर|जवाब)[*_\"]{{0,3}}"
        rf"(?: {_X} नहीं(?: हैं?)? ?,? ?(?:बल्कि|अपितु)| ?[:=ः]| ?[-–—](?= ?{_X})| {_HI_IS} ?[-–—:ः]?(?= ?{_X})"
        rf"|(?= (?:विकल्प )?[*_]{{0,2}}{_HI_LIST}[*_]{{0,2}}(?: ?{GLOSS})?"
        rf"(?:(?: ही)? {_HI_IS}|{_HI_TEXT} {_HI_IS}| ?(?:\n|$|\.(?! ?[^\n.,;]{{0,60}}नहीं))))"
        rf"|(?= [^\n.;:A-H]{{2,80}} {_HI_IS}))"
    ),
    thus="अतः|इसलिए|संभवतः|निश्चित रूप से|स्पष्ट रूप से",
    negated=(
        rf"(?<![{LETTERS_OF_WORDS}])(?:(?:ग\u093c?लत|अनुचित|असत्य|यदि|अगर|क्या|अन्य"
        rf"|नहीं कि|नहीं (?:लगता|लगती|मानता|मानती|सोचता|सोचती) कि|(?:संदेह|ग\u093c?लत) है कि)(?: {_HI_RIGHT})?)"
    ),
    option="विकल्प(?:ों)?|उत्तर|अक्षर",
    joined="और|एवं|तथा|व",
    either="(?:हैं?,? )?(?:या|अथवा)",
    closes=rf"(?:ही )?{_HI_IS}|(?:सही|उचित) {_HI_IS}|(?:क्योंकि|चूँकि|चूंकि)",
    denies="हैं? या नहीं|(?:(?!है|क्योंकि|चूँकि|चूंकि|जबकि)[^\\n.,;]){0,60}नहीं",
    afterwards=(
        rf"(?:{GLOSS} ?)?(?:ही |दोनों |सभी )?{_HI_RIGHT} (?:उत्तर|विकल्प|जवाब) {_HI_IS}"
        rf"|(?:को )?चुन(?:ता|ती|ते|ूँगा|ूंगा|ूँगी|ूंगी){_END_OF_WORD}"
    ),
    unless="न|न तो|न ही|यदि|अगर|क्या",
    both=("(?<!न )दोनों", rf"सही {_HI_IS}"),
    it="यह|ये",
    wrong=(r"ग\u093c?लत|असत्य|अनुचित|त्रुटिपूर्ण|(?:सही|ठीक|उचित|उपयुक्त)(?: (?:उत्तर|विकल्प))? नहीं"),
    since="हैं?|क्योंकि|चूँकि|चूंकि",
    ends="हैं?|होगा",
    no=r"नहीं|ग\u093c?लत",
)

_DE_RIGHT = "(?:richtig|korrekt|zutreffend|passend|best)"
_DE_OPTION = "(?:antwort(?:möglichkeit)?|option|lösung|aussage|auswahl)(?:en)?"
_DE = Words(
    noun=rf"(?:(?:{_DE_RIGHT}|endgültig)en? )?(?:antwort|lösung)(?:en)?(?:\(en\))?",
    phrases=(
        rf"(?:(?:{_DE_RIGHT}en? )?(?:antwort(?:en)?(?:\(en\))?|lösung(?:en)?)|{_DE_RIGHT}en? {_DE_OPTION}"
        rf"|{_DE_RIGHT}(?=(?: hier)? (?:ist|sind|wäre)))"
        r"(?: (?:auf|zu) (?:diese[rn]?|die|der) (?:medizinischen? )?frage| hier)?[*_\"]{0,3} ?"
        rf"(?:(?:ist|sind|lautet|lauten)(?: also)?(?: nicht (?:die )?{_X} ?,? ?sondern)?|wären?|muss|müsste|[:=])"
        rf"|{_DE_RIGHT}en? {_DE_OPTION}(?= {_X}(?: ?{GLOSS})?(?:[.\n]|$))"
        r"|(?:ich wähle|wähle ich)|ich entscheide mich für|entscheide ich mich für|ich (?:nehme|antworte mit)"
    ),
    thus="somit|daher|demnach|folglich|deshalb|damit|wahrscheinlich|höchstwahrscheinlich|vermutlich|eindeutig",
    negated=(
        r"(?<![A-Za-zÀ-ɏ])(?:(?:falsch|inkorrekt|unrichtig|unzutreffend)(?:e[nrs]?)?|kein(?:e[nrs]?)?"
        rf"|(?:nicht|wenn|falls|ob|sofern|bezweifle, dass|nicht, dass)(?: die)?(?: {_DE_RIGHT}en?)?)"
    ),
    article="die|der|den",
    article_alone="die",
    option="antwort(?:en)?|antwortmöglichkeit(?:en)?|option(?:en)?|buchstaben?|aussagen?",
    joined="und|sowie|als auch",
    either="oder|bzw\\.|beziehungsweise",
    closes=r"(?:ist|sind) (?:richtig|korrekt)\b|(?:weil|da|denn)\b",
    denies="nicht\\b",
    afterwards=(
        rf"(?:{GLOSS} ?)?(?:ist |sind |wäre )?(?:hier |also |somit |daher )?die {_DE_RIGHT}en?(?: {_DE_OPTION})?"
        r"(?=[*_\"]{0,3} ?(?:$|[.,;!\n)]|(?:weil|da|denn|und)\b))"
    ),
    unless="weder|noch|nicht|wenn|falls|ob|sofern",
    both=(r"\bsowohl", r"sind (?:richtig|korrekt)\b"),
    it="das|dies|diese (?:antwort|option)|es",
    copula="ist|sind|wäre",
    wrong=(
        r"falsch|inkorrekt|unrichtig|unzutreffend|trifft nicht zu"
        rf"|nicht (?:richtig|korrekt|zutreffend|die {_DE_RIGHT}e (?:antwort|option|wahl))"
    ),
    since="weil|da|denn",
    no="nein|falsch",
)

WORDS: dict[str, Words] = {
    "en": _EN,
    "zh": _ZH,
    "ja": _JA,
    "fr": _FR,
    "ru": _RU,
    "es": _ES,
    "ar": _AR,
    "hi": _HI,
    "de": _DE,
}


def every(kind: str) -> str:
    """The alternatives of one kind, an attribute of `Words`, of all languages; those of Japanese also in simplified
    Chinese characters, as a text without kana is read."""
    found = [words for row in WORDS.values() if (words := getattr(row, kind))]
    simplified = [words.translate(str.maketrans(simplified_characters())) for words in found]
    return f"(?:{'|'.join(dict.fromkeys(found + simplified))})"
