"""Quality of a text: what is mended in it, and why it is rejected.

The rules on repetition are of the kind of Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from
Training Gopher", appendix A.1: lines, frequent n-grams, repeated n-grams. Its limits (0.18 for the most frequent
3-gram, 0.10 for repeated 10-grams) reject 1 to 14 % of real medical texts, which list stages, risks and questions in
set phrases; ours are beyond what 99.8 % of them reach (README). Chinese and Japanese have no spaces, so there an
n-gram of n words is one of 2n characters.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import numpy as np

from configs.languages import LANGUAGES

MIN_LETTERS_SPACED, MIN_LETTERS_UNSPACED = 50, 20
MIN_LETTER_SHARE = 0.5
MAX_REPEATED_LINES = 0.3
FREQUENT_WORDS, MAX_FREQUENT = 3, 0.35
REPEATED_WORDS, MAX_REPEATED = 10, 0.5
MIN_WORDS = 50  # in fewer words (or twice as many characters) a phrase said twice is a large share
MIN_REPEATED_LINE_BYTES = 60  # 60 Latin, 30 Cyrillic or 20 Chinese letters: a repeated heading is shorter
MAX_JUDGED_CHARACTERS = 1_000_000
MAX_BOILERPLATE_LINE = 400

# What UTF-8 looks like when read as Windows-1252, Latin-1, Windows-1251, MacRoman or code page 437. In every language
# some of these are in any longer text that was so read, and hardly any in a sound one; ftfy, at 2 to 20 MB/s, decides.
_MOJIBAKE_SIGNS = ["Ã", "Â", "Ð", "Ñ", "Ø", "Ù", "â€", "â\x80", "ã€", "ã\x80", "ä¸", "à¤", "Р°", "Рµ", "Рё", "√", "├"]
_LATIN1_CONTROLS = re.compile("[\x80-\x9f]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Invisible characters; the joiners U+200C and U+200D stay, since Arabic and Hindi are spelled with them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffc]"
)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_MARKS_AROUND = " \t\u00a0\u3000•·|<>«»‹›*-–—.…:!：。！[]【】↑→←▲"
_BOILERPLATE_LINES = frozenset(
    phrase
    for line in """
share|share this|share this page|share on facebook|share on twitter|tweet|print|print this page|email this page
menu|main menu|toggle navigation|skip to content|skip to main content|skip to navigation|back to top|top of page
log in|login|sign in|sign up|register|subscribe|advertisement|read more|click here|all rights reserved
分享|分享到|分享到微信|打印|打印本页|菜单|首页|登录|注册|返回顶部|上一篇|下一篇|加入收藏|关闭窗口|广告|点击查看更多|版权所有
列印|友善列印|列印本頁|選單|首頁|回首頁|登入|會員登入|註冊|回頂端|返回頂部|上一頁|下一頁|關閉視窗|廣告|轉寄好友|跳到主要內容|版權所有
印刷|印刷する|このページを印刷|シェア|シェアする|ツイート|ログイン|会員登録|新規登録|ページトップへ|ページの先頭へ|本文へスキップ
partager|partager cette page|imprimer|imprimer cette page|menu principal|aller au contenu|aller au contenu principal
retour en haut|haut de page|se connecter|connexion|s'inscrire|s'abonner|publicité|lire la suite|cliquez ici
tous droits réservés|поделиться|поделиться в соцсетях|распечатать|версия для печати|меню|главное меню|войти|регистрация
наверх|вернуться наверх|перейти к содержанию|подписаться|реклама|читать далее|читать дальше|все права защищены
compartir|compartir en facebook|compartir en twitter|imprimir|imprimir esta página|menú|menú principal|ir al contenido
saltar al contenido|volver arriba|iniciar sesión|registrarse|suscribirse|publicidad|leer más|haga clic aquí
todos los derechos reservados|مشاركة|شارك|طباعة|القائمة|القائمة الرئيسية|تسجيل الدخول|اقرأ المزيد|جميع الحقوق محفوظة
साझा करें|शेयर करें|प्रिंट करें|मेनू|लॉग इन|साइन इन|और पढ़ें|सर्वाधिकार सुरक्षित
teilen|drucken|seite drucken|menü|hauptmenü|zum inhalt springen|nach oben|anmelden|registrieren|abonnieren|werbung
weiterlesen|hier klicken|alle rechte vorbehalten
""".strip().splitlines()
    for phrase in line.split("|")
)
_MAX_PHRASE = 60
_NOTICE = re.compile(
    r"cookies?\b.*\b(?:site|website|browser|consent|privacy|sitio|web|navegador|navigateur|сайте?|браузер\w*|webseite)\b"
    r"|\b(?:site|website|browser|consent|privacy|sitio|web|navegador|navigateur|сайте?|браузер\w*|webseite)\b.*\bcookies?"
    r"|(?:网站|浏览器|隐私|網站|瀏覽器|隱私|サイト|ブラウザ|موقع|वेबसाइट).*(?:cookies?|クッキー|كوكيز|कुकी)"
    r"|(?:cookies?|クッキー|كوكيز|कुकी).*(?:网站|浏览器|隐私|網站|瀏覽器|隱私|サイト|ブラウザ|موقع|वेबसाइट)"
    r"|javascript.*(?:enabl|activ|habilit|disabled|включ|отключ|启用|禁用|啟用|停用|有効|無効|تفعيل|सक्षम|aktivier)"
    r"|(?:enabl|activ|habilit|включ|启用|开启|啟用|開啟|有効|تفعيل|aktivier).*javascript",
    re.IGNORECASE,
)
_NOTICE_SIGNS = ("ookie", "クッキー", "كوكيز", "कुकी", "avascript", "avaScript")


def repair(text: str) -> str:
    """Mend a text: broken encodings, control characters, boilerplate lines, and lines that repeat an earlier one.

    Nothing else is changed: not width, quotes or spaces. A text over .30 of which is repeated lines keeps them, for
    `problem` to reject.

    Args:
        text: any text.

    Returns:
        The text mended, which may be empty; the very same text where there was nothing to mend.
    """
    if not text.isascii() and (any(sign in text for sign in _MOJIBAKE_SIGNS) or _LATIN1_CONTROLS.search(text)):
        text = "\n".join(map(_repair_encoding, text.split("\n")))
    if _CONTROL.search(text):
        text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    return _repair_lines(text)


def _repair_encoding(line: str) -> str:
    if line.isascii() or not (any(sign in line for sign in _MOJIBAKE_SIGNS) or _LATIN1_CONTROLS.search(line)):
        return line
    import ftfy

    return ftfy.fix_encoding(line)  # a line at a time: one sound letter elsewhere would keep it from being decoded


def _repair_lines(text: str) -> str:
    has_notices = any(sign in text for sign in _NOTICE_SIGNS)
    lines = text.split("\n")
    kept = [line for line in lines if not _is_boilerplate(line, has_notices)]
    repeated = repeated_lines(kept)
    if repeated and sum(len(kept[index]) for index in repeated) <= MAX_REPEATED_LINES * sum(map(len, kept)):
        kept = [line for index, line in enumerate(kept) if index not in repeated]
    if len(kept) == len(lines):
        return text
    return _BLANK_LINES.sub("\n\n", "\n".join(kept)).strip("\n")


def _is_boilerplate(line: str, has_notices: bool) -> bool:
    length = len(line)
    if length <= _MAX_PHRASE and line.strip(_MARKS_AROUND).lower() in _BOILERPLATE_LINES:
        return True
    return has_notices and length <= MAX_BOILERPLATE_LINE and _NOTICE.search(line) is not None


def repeated_lines(lines: list[str]) -> set[int]:
    """Indices of the lines of at least `MIN_REPEATED_LINE_BYTES` that are equal to an earlier one, ends stripped."""
    seen: set[str] = set()
    found: set[int] = set()
    for index, line in enumerate(lines):
        if len(line) * 3 < MIN_REPEATED_LINE_BYTES:
            continue
        line = line.strip()
        if line in seen and len(line.encode()) >= MIN_REPEATED_LINE_BYTES:
            found.add(index)
        seen.add(line)
    return found


def problem(text: str, lang: str) -> tuple[str, float]:
    """Why a text is no good for a corpus, or ("", 0.0).

    A text of over a million characters is judged by its first million.

    Args:
        text: a text, mended by `repair`.
        lang: its language's code; a code outside the table counts as one with spaces between words.

    Returns:
        The reason and its number: too_short (letters), few_letters (their share of the visible characters),
        repeated_lines (share of the characters in lines equal to an earlier one), repeated_ngrams (share of the words,
        or of the characters in Chinese and Japanese, in the repeated n-grams of the rule that was broken).
    """
    text = text[:MAX_JUDGED_CHARACTERS]
    spaced = lang not in LANGUAGES or LANGUAGES[lang].spaced
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    classes = np.take(_classes(), codes, mode="clip")
    _, num_others, num_letters = map(int, np.bincount(classes, minlength=3))
    if num_letters < (MIN_LETTERS_SPACED if spaced else MIN_LETTERS_UNSPACED):
        return "too_short", float(num_letters)
    share = num_letters / (num_letters + num_others)
    if share < MIN_LETTER_SHARE:
        return "few_letters", share
    lines = text.split("\n")
    repeated = repeated_lines(lines)
    if repeated:
        share = sum(len(lines[index]) for index in repeated) / sum(map(len, lines))
        if share > MAX_REPEATED_LINES:
            return "repeated_lines", share
    if spaced:
        tokens = np.fromiter(map(hash, text.split()), np.int64).view(np.uint64)
    else:
        tokens = codes[classes != _SPACE].astype(np.uint64)
    share = ngram_problem(tokens, 1 if spaced else 2)
    return ("repeated_ngrams", share) if share else ("", 0.0)


_SPACE, _OTHER, _LETTER = 0, 1, 2
_NUM_CLASSED = 0x32400  # beyond the last Chinese character no living script has letters


@functools.cache
def _classes() -> np.ndarray:
    """Class of each character: white space, letter (or a mark on one, as Hindi's vowels are) or other."""
    table = np.full(_NUM_CLASSED, _OTHER, np.uint8)
    for code, character in enumerate(map(chr, range(_NUM_CLASSED))):
        if character.isspace():
            table[code] = _SPACE
        elif character.isalpha() or unicodedata.category(character)[0] == "M":
            table[code] = _LETTER
    return table


def ngram_problem(tokens: np.ndarray, tokens_per_word: int) -> float:
    """The share of the tokens in repeated n-grams where it is over its limit, else 0.0.

    Either the most frequent n-gram of `FREQUENT_WORDS` words covers over `MAX_FREQUENT` of the tokens, or those of
    `REPEATED_WORDS` words that occurred before cover over `MAX_REPEATED`.

    Args:
        tokens: whole numbers (uint64), equal for equal words or characters.
        tokens_per_word: 1 for words, 2 for characters: the n-grams are that many times as long.
    """
    if len(tokens) < MIN_WORDS * tokens_per_word:
        return 0.0
    short, long = FREQUENT_WORDS * tokens_per_word, REPEATED_WORDS * tokens_per_word
    grams = np.sort(_ngrams(tokens, short))
    starts = np.flatnonzero(grams[1:] != grams[:-1]) + 1
    counts = np.diff(np.concatenate(([0], starts, [len(grams)])))
    share = int(counts.max()) * short / len(tokens)
    if share > MAX_FREQUENT:
        return min(1.0, share)
    # A stretch of repeated long n-grams has repeated short ones all along but for its last few tokens: where these
    # are few, the exact count, which is dear, cannot exceed the limit.
    num_repeated = len(grams) - len(counts)
    if num_repeated <= MAX_REPEATED * len(tokens) * (1 - (short - 1) / long):
        return 0.0
    share = _repeated_share(tokens, long)
    return share if share > MAX_REPEATED else 0.0


def _ngrams(tokens: np.ndarray, n: int) -> np.ndarray:
    """A hash of the n tokens from each place on: a polynomial modulo 2**64."""
    length = len(tokens) - n + 1
    grams = np.zeros(length, np.uint64)
    for offset in range(n):
        grams *= np.uint64(0x9E3779B97F4A7C15)
        grams += tokens[offset : offset + length]
    return grams


def _repeated_share(tokens: np.ndarray, n: int) -> float:
    """Share of the tokens that lie in an n-gram that occurred before."""
    grams = _ngrams(tokens, n)
    later = np.ones(len(grams), bool)
    later[np.unique(grams, return_index=True)[1]] = False
    covered = np.convolve(later, np.ones(n, np.int32)) > 0
    return float(np.count_nonzero(covered)) / len(tokens)
