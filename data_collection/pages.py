"""One PDF page as lines of text: from its text layer (PDFium), or from its picture (Tesseract)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from data_collection.paragraphs import BETWEEN_CJK, Line

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfPage

MAX_PIXELS = 40_000_000  # a sheet of A3 at 300 dpi has 17 million; a poster is drawn smaller instead of filling memory
FEW_LETTERS = 20
MIN_CONTRAST = 16  # of 255 greys; less is one colour
MAX_SECONDS_PER_PAGE = 120  # Tesseract takes 1 to 10 s for a dense page
_HYPHEN = "\x02"  # PDFium's mark for a hyphen at the end of a line
# Signs that fonts draw for others: ligatures, and radicals in place of the ideographs that look the same.
_DRAWN = re.compile("[\ufb00-\ufb06\u2e80-\u2fd5]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ue000-\uf8ff]")

_LIST_ITEM = re.compile(r"[•·▪◦–—*-]|\(?\w{1,3}[.)．）]\s")
FAILURES = {
    "no_font": "its text is drawn as nothing: the PDF embeds no font and this machine has none for it (apt-get install "
    "fonts-noto-cjk for Chinese and Japanese)",
    "no_picture": "its picture cannot be decoded: it is broken, or needs more memory than --max_gib_per_book",
    "timeout": f"Tesseract took more than {MAX_SECONDS_PER_PAGE} s",
}


@dataclass
class Page:
    """What was read of one page.

    Attributes:
        method: "text" (layer), "ocr", "blank" (nothing on it), or why it could not be read: a key of `FAILURES`.
        lines: in reading order.
        confidences: Tesseract's (characters, confidence in %) of each word.
    """

    method: str
    lines: list[Line] = field(default_factory=list)
    confidences: list[tuple[int, float]] = field(default_factory=list)

    @property
    def num_letters(self) -> int:
        return sum(character.isalnum() for line in self.lines for character in line.text)


@dataclass
class _Box:
    """Where a line stands, in points or any unit, y growing downwards."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    hyphen: bool

    @property
    def height(self) -> float:
        return max(self.bottom - self.top, 0.1)


def read_page(page: PdfPage, method: str, model: str, dpi: int) -> Page:
    """Read a page by its text layer, or by Tesseract where the layer is empty or garbage.

    Garbage: under half of the visible characters are letters or digits, as when a font maps its signs to nothing
    (MMedC's rule for whole books, here by page); or nearly no text while the page has pictures.

    Args:
        page: the page.
        method: "auto", or "text" or "ocr" to force one.
        model: name of Tesseract's language model.
        dpi: resolution at which the page is drawn for Tesseract.
    """
    layer = Page("text", text_layer(page)) if method != "ocr" else Page("text")
    if method == "text" or (method == "auto" and not _needs_ocr(page, layer)):
        return layer if layer.lines else Page("blank")
    seen = ocr(page, model, dpi)
    # A page of one printed line and a photograph comes here as well, and its layer may be the better one.
    return layer if layer.num_letters > seen.num_letters and not is_garbage(layer) else seen


def is_garbage(page: Page) -> bool:
    """Whether under half of the visible characters are letters or digits."""
    visible = sum(not character.isspace() for line in page.lines for character in line.text)
    return page.num_letters * 2 < visible


def _needs_ocr(page: PdfPage, layer: Page) -> bool:
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    if layer.num_letters == 0:
        return next(iter(page.get_objects(max_depth=1)), None) is not None  # text may be drawn as outlines
    if layer.num_letters < FEW_LETTERS:
        return next(iter(page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=5)), None) is not None
    return is_garbage(layer)


def text_layer(page: PdfPage) -> list[Line]:
    """The text layer as lines, in the order in which the PDF draws them."""
    boxes = _boxes(page)
    pairs = list(pairwise(boxes))
    # From line to line inside a paragraph: the page's most common distance, in heights of a line.
    leadings = sorted(ratio for before, line in pairs if 0.5 < (ratio := (line.top - before.top) / before.height) < 3)
    leading = leadings[len(leadings) // 2] if leadings else 1.2
    joined = [_continues(before, line, boxes, leading) for before, line in pairs]
    return [Line(box.text, not joins, box.hyphen) for box, joins in zip(boxes, [False, *joined], strict=False)]


def _boxes(page: PdfPage) -> list[_Box]:
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    codes = [pdfium.FPDFText_GetUnicode(text_page, index) for index in range(text_page.count_chars())]
    boxes: list[_Box] = []
    start = 0
    for end, code in enumerate([*codes, 10]):
        if code not in (10, 13, 2):  # line feed, carriage return, _HYPHEN
            continue
        visible = [index for index in range(start, end) if codes[index] > 32 and codes[index] != 160]
        text = clean("".join(map(chr, codes[start:end])))
        start = end + 1
        if not visible or not text:
            continue
        first, last = (text_page.get_charbox(index, loose=True) for index in (visible[0], visible[-1]))
        left, bottom, right, top = (f(a, b) for f, a, b in zip((min, min, max, max), first, last, strict=True))
        for _ in range(page.get_rotation() // 90):  # boxes are those of the page before it is turned
            left, bottom, right, top = bottom, -right, top, -left
        boxes.append(_Box(text, left, right, -top, -bottom, code == 2))
    return boxes


def clean(text: str) -> str:
    """Join surrogate pairs, put ligatures and radicals in their plain form, drop what cannot be printed."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _DRAWN.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", _UNPRINTABLE.sub("", text)).strip()


def _continues(before: _Box, line: _Box, boxes: list[_Box], leading: float) -> bool:
    """Whether `line` goes on with the paragraph of `before`: by their places and the right edge of their column."""
    if before.hyphen:
        return True
    height = min(before.height, line.height)
    if max(before.height, line.height) > 1.25 * height:  # a heading
        return False
    ends = before.text.rstrip("\"'”’»)）」』")[-1:] in ".!?:;。！？：；…"
    if line.top < before.top - height:  # the next column
        return not ends and line.text[:1].islower()
    if not 0.3 * height < line.top - before.top < 1.25 * leading * before.height:  # beside it, or after a gap
        return False
    if min(_share_of_letters(before.text), _share_of_letters(line.text)) < 0.6:  # rows of a table
        return False
    column = sorted(box.right for box in boxes if abs(box.left - before.left) < 3 * height)
    edge = column[int(0.9 * (len(column) - 1))]
    if before.right < edge - 0.15 * (edge - before.left):
        return False
    indented = line.left > before.left + 0.8 * height
    return not (ends and (indented or _LIST_ITEM.match(line.text)))


def _share_of_letters(text: str) -> float:
    visible = [character for character in text if not character.isspace()]
    return sum(character.isalpha() for character in visible) / max(1, len(visible))


def ocr(page: PdfPage, model: str, dpi: int) -> Page:
    """Draw the page in grey and let Tesseract read it."""
    import pytesseract

    width, height = page.get_size()  # points, 72 to the inch
    scale = min(dpi / 72, (MAX_PIXELS / max(1.0, width * height)) ** 0.5)
    bitmap = page.render(scale=scale, grayscale=True)
    image = bitmap.to_pil()
    darkest, lightest = image.getextrema()
    if lightest - darkest < MIN_CONTRAST:
        return Page(_why_blank(page))
    if _share_drawn(page, image, bitmap.get_posconv(page)) < 0.8:  # 0.96 and more on 48 real pages with their fonts
        return Page("no_font")
    try:
        table = pytesseract.image_to_data(
            image,
            lang=model,
            config=f"--dpi {max(70, round(scale * 72))}",
            timeout=MAX_SECONDS_PER_PAGE,
            output_type=pytesseract.Output.DICT,
        )
    except RuntimeError as error:  # pytesseract's own way to say so
        if "timeout" not in str(error):
            raise
        return Page("timeout")
    return _words_to_page(table)


def _share_drawn(page: PdfPage, image: Image, position: Any) -> float:
    """The share of the text layer's characters (of 200 of them) in whose place the picture shows anything.

    Without a font for them PDFium draws Chinese and Japanese characters as nothing, but the digits and rules around
    them, which Tesseract would then read as if they were the page.
    """
    boxes = _character_boxes(page)
    if len(boxes) < FEW_LETTERS:
        return 1.0
    sample = boxes[:: max(1, len(boxes) // 200)]
    num_drawn = 0
    for left, bottom, right, top in sample:
        (x0, y0), (x1, y1) = position.to_bitmap(left, bottom), position.to_bitmap(right, top)
        darkest, lightest = image.crop((min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)).getextrema()
        num_drawn += lightest - darkest >= MIN_CONTRAST
    return num_drawn / len(sample)


def _character_boxes(page: PdfPage) -> list[tuple[float, float, float, float]]:
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    spaces = (2, 10, 13, 32, 160, 0x3000)
    codes = [pdfium.FPDFText_GetUnicode(text_page, index) for index in range(text_page.count_chars())]
    return [text_page.get_charbox(index) for index, code in enumerate(codes) if code not in spaces]


def _why_blank(page: PdfPage) -> str:
    """Why a page is drawn in one colour. PDFium leaves out, without an error, what it cannot draw."""
    from pypdfium2 import PdfiumError
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE, FPDF_PAGEOBJ_TEXT

    try:
        for picture in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=5):
            pixels = picture.get_bitmap().to_numpy()  # (height, width, channels) or (height, width)
            if int((pixels.max(axis=(0, 1)) - pixels.min(axis=(0, 1))).max()) >= MIN_CONTRAST:
                return "no_picture"
    except PdfiumError:
        return "no_picture"
    return "no_font" if next(iter(page.get_objects(filter=[FPDF_PAGEOBJ_TEXT], max_depth=5)), None) else "blank"


def _words_to_page(table: dict[str, list[Any]]) -> Page:
    """Tesseract's table of words as lines; a line starts a paragraph where Tesseract's paragraph changes."""
    page = Page("ocr")
    place: tuple[int, ...] = ()
    for block, paragraph, line, confidence, word in zip(
        table["block_num"], table["par_num"], table["line_num"], table["conf"], table["text"], strict=True
    ):
        word = clean(word)
        if not word:
            continue
        if (block, paragraph, line) != place:
            page.lines.append(Line(word, starts=(block, paragraph) != place[:2]))
            place = (block, paragraph, line)
        else:
            page.lines[-1].text += f" {word}"
        page.confidences.append((len(word), float(confidence)))
    for line in page.lines:  # Tesseract parts Chinese and Japanese words by spaces
        line.text = BETWEEN_CJK.sub("", line.text)
    return page
