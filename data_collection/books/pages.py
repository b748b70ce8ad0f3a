"""One PDF page as lines of text: from its text layer (PDFium), or from its picture (Tesseract)."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from data_collection.books.layout import WIDE_GAP, Box, is_vertical, lines_of, reading_order, rows_of_picture, turned
from data_collection.books.paragraphs import BETWEEN_CJK, Line
from data_collection.books.recognition import RecognitionError, recognise

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfBitmap, PdfPage

FEW_LETTERS = 20
MIN_CONTRAST = 16  # of 255 greys; less is one colour
SCAN_AREA = 0.9  # share of a page that its one picture fills
# A scan is drawn at its own resolution: more dots take time and show no more. But Tesseract reads small letters, and
# the strokes of Chinese and Japanese, better enlarged.
MIN_SCAN_DPI = 200
DENSE_MODELS = ("chi", "jpn")
SURE = 70.0  # %; a page that Tesseract is less sure of may be written downwards
# Signs that fonts draw for others: ligatures, and radicals in place of the ideographs that look the same.
_DRAWN = re.compile("[\ufb00-\ufb06\u2e80-\u2fd5]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ue000-\uf8ff]")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])[’ʼ](?=[^\W\d_])")
NO_FONT = (
    "its text is drawn as nothing: the PDF embeds no font and this machine has none for it (apt-get install "
    "fonts-noto-cjk for Chinese and Japanese)"
)
NO_PICTURE = "its picture cannot be decoded: it is broken, or needs more memory than --max_gib_per_process"


@dataclass(frozen=True)
class PageRules:
    """How a page is read.

    Attributes:
        method: auto (its text layer, or Tesseract where there is none or it is garbage), or text or ocr alone.
        model: Tesseract's model.
        vertical_model: its model for lines written downwards; "" when there is none.
        dpi: dots an inch at which a page is drawn for Tesseract.
        max_megapixels: a larger page is drawn at fewer dots an inch.
    """

    method: str
    model: str
    vertical_model: str
    dpi: int
    max_megapixels: float


@dataclass
class Page:
    """What was read of one page.

    Attributes:
        method: "text" (layer), "ocr", "blank" (nothing on it) or "failed".
        lines: in reading order.
        confidence: Tesseract's, in %, over the characters; None for a text layer.
        reason: why it failed.
    """

    method: str
    lines: list[Line] = field(default_factory=list)
    confidence: float | None = None
    reason: str = ""

    @property
    def num_letters(self) -> int:
        return sum(character.isalnum() for line in self.lines for character in line.text)

    def row(self) -> dict[str, Any]:
        """The page as JSON-able values, for a journal."""
        return asdict(self)

    @staticmethod
    def from_row(row: dict[str, Any]) -> Page:
        return Page(row["method"], [Line(**line) for line in row["lines"]], row["confidence"], row["reason"])


def read_page(page: PdfPage, rules: PageRules) -> Page:
    """Read a page by its text layer, or by Tesseract where the layer is empty or garbage.

    Garbage: under half of the visible characters are letters or digits, as when a font maps its signs to nothing
    (MMedC's rule for whole books, here by page); or nearly no text while the page has pictures.
    """
    layer = Page("text", text_layer(page)) if rules.method != "ocr" else Page("text")
    if rules.method == "text" or (rules.method == "auto" and not _needs_ocr(page, layer)):
        return layer if layer.lines else Page("blank")
    seen = ocr(page, rules)
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
    """The text layer as lines in reading order."""
    boxes = _boxes(page)
    if is_vertical(boxes):
        boxes = turned(boxes)
    return lines_of(reading_order(boxes))


def _boxes(page: PdfPage) -> list[Box]:
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    codes = [pdfium.FPDFText_GetUnicode(text_page, index) for index in range(text_page.count_chars())]
    num_turns = page.get_rotation() // 90

    def box_of(first: int, last: int) -> Box:
        """The box of the characters from `first` to `last`, by these two."""
        boxes = [text_page.get_charbox(index, loose=True) for index in (first, last)]
        left, bottom, right, top = (
            f(pair) for f, pair in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
        )
        for _ in range(num_turns):  # boxes are those of the page before it is turned
            left, bottom, right, top = bottom, -right, top, -left
        return Box(clean("".join(map(chr, codes[first : last + 1]))), left, right, -top, -bottom)

    found: list[Box] = []
    start = 0
    for end, code in enumerate([*codes, 10]):
        if code not in (10, 13, 2):  # line feed, carriage return, and PDFium's mark for a hyphen at a line's end
            continue
        words = _words(codes, start, end)
        start = end + 1
        if not words:
            continue
        line = box_of(words[0][0], words[-1][1])
        if not line.text:
            continue
        line.hyphen = code == 2
        cells = [words[0]]
        edges = [box_of(*word) for word in words] if len(words) > 1 else []
        for before, word, (first, last) in zip(edges, edges[1:], words[1:], strict=False):
            if word.left - before.right > WIDE_GAP * line.height:
                cells.append((first, last))
            else:
                cells[-1] = (cells[-1][0], last)
        if len(cells) > 1:
            line.cells = [cell for pair in cells if (cell := box_of(*pair)).text]
            line.cells[-1].hyphen = line.hyphen
        found.append(line)
    return found


def _words(codes: list[int], start: int, end: int) -> list[tuple[int, int]]:
    """The (first, last) of each run of visible characters."""
    words: list[tuple[int, int]] = []
    for index in range(start, end):
        if codes[index] <= 32 or codes[index] == 160:
            continue
        if words and words[-1][1] == index - 1:
            words[-1] = (words[-1][0], index)
        else:
            words.append((index, index))
    return words


def clean(text: str) -> str:
    """Join surrogate pairs, put ligatures, radicals and apostrophes in their plain form, drop the unprintable."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _DRAWN.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", _APOSTROPHE.sub("'", _UNPRINTABLE.sub("", text))).strip()


def draw(page: PdfPage, dpi: int, max_megapixels: float) -> Image:
    """The page as a picture in colour: PDFium's own grey loses lines of text that Tesseract can read."""
    return _draw(page, dpi, max_megapixels)[0].to_pil()


def _draw(page: PdfPage, dpi: float, max_megapixels: float) -> tuple[PdfBitmap, float]:
    """(the picture, the dots an inch it really has)."""
    width, height = page.get_size()  # points, 72 to the inch
    scale = min(dpi / 72, (max_megapixels * 1e6 / max(1.0, width * height)) ** 0.5)
    return page.render(scale=scale), scale * 72


def dpi_of_scan(page: PdfPage) -> float:
    """Dots an inch of the picture that fills the page; infinite when there is none of `MIN_SCAN_DPI` and more."""
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    width, height = page.get_size()
    for picture in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=5):
        left, bottom, right, top = picture.get_bounds()
        area = (right - left) * (top - bottom)
        if area >= SCAN_AREA * width * height:
            dpi = 72 * (math.prod(picture.get_px_size()) / area) ** 0.5
            return dpi if round(dpi) >= MIN_SCAN_DPI else math.inf
    return math.inf


def ocr(page: PdfPage, rules: PageRules) -> Page:
    """Draw the page and let Tesseract read it, across, and downwards where it is not sure of that."""
    is_dense = rules.model.startswith(DENSE_MODELS)
    bitmap, dpi = _draw(page, rules.dpi if is_dense else min(rules.dpi, dpi_of_scan(page)), rules.max_megapixels)
    image = bitmap.to_pil()
    grey = image.convert("L")
    darkest, lightest = grey.getextrema()
    if lightest - darkest < MIN_CONTRAST:
        reason = _why_blank(page)
        return Page("failed", reason=reason) if reason else Page("blank")
    if _share_drawn(page, grey, bitmap.get_posconv(page)) < 0.8:  # 0.96 and more on 48 real pages with their fonts
        return Page("failed", reason=NO_FONT)
    if _is_grey(image):
        image = grey  # a third of the bytes, for a sixth of Tesseract's time
    seen = _tesseract(image, rules.model, dpi)
    if rules.vertical_model and (seen.confidence or 0.0) < SURE:
        downwards = _tesseract(image, rules.vertical_model, dpi, downwards=True)
        if (downwards.confidence or 0.0) > (seen.confidence or 0.0):
            return downwards
    return seen


def _is_grey(image: Image) -> bool:
    from PIL import ImageChops

    red, green, blue = image.split()
    return not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(green, blue).getbbox()


def _tesseract(image: Image, model: str, dpi: float, downwards: bool = False) -> Page:
    try:
        table = recognise(image, "-l", model, "--dpi", str(max(70, round(dpi))), "tsv")
    except RecognitionError as error:
        return Page("failed", reason=f"Tesseract ended with an error: {error}")
    words = csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return page_of_words([word for word in words if word["level"] == "5"], downwards)


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
    """Why a page is drawn in one colour; "" when nothing is on it. PDFium leaves out silently what it cannot draw."""
    from pypdfium2 import PdfiumError
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE, FPDF_PAGEOBJ_TEXT

    try:
        for picture in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=5):
            pixels = picture.get_bitmap().to_numpy()  # (height, width, channels) or (height, width)
            if int((pixels.max(axis=(0, 1)) - pixels.min(axis=(0, 1))).max()) >= MIN_CONTRAST:
                return NO_PICTURE
    except PdfiumError:
        return NO_PICTURE
    return NO_FONT if next(iter(page.get_objects(filter=[FPDF_PAGEOBJ_TEXT], max_depth=5)), None) else ""


def page_of_words(words: Sequence[dict[str, str]], downwards: bool = False) -> Page:
    """Tesseract's words as a page: rows of its table, whose columns are text, conf, left, top, width and so on."""
    lines: list[list[tuple[str, tuple[int, int, int, int]]]] = []
    starts: list[bool] = []
    place: tuple[str, ...] = ()
    num_characters, total = 0, 0.0
    for word in words:
        text = clean(word["text"])
        if not text:
            continue
        here = (word["block_num"], word["par_num"], word["line_num"])
        if here != place:
            lines.append([])
            starts.append(here[:2] != place[:2])
            place = here
        left, top, width, height = (int(word[name]) for name in ("left", "top", "width", "height"))
        lines[-1].append((text, (left, left + width, top, top + height)))
        num_characters += len(text)
        total += len(text) * float(word["conf"])
    boxes = []
    for line in lines:
        left, right, top, bottom = zip(*(box for _, box in line), strict=True)
        # Tesseract parts Chinese and Japanese words by spaces.
        text = BETWEEN_CJK.sub("", " ".join(word for word, _ in line))
        boxes.append(Box(text, min(left), max(right), min(top), max(bottom)))
    if downwards:
        found = [Line(box.text, start) for box, start in zip(boxes, starts, strict=True)]
    else:
        found = rows_of_picture(boxes, starts)
    return Page("ocr", found, round(total / num_characters, 1) if num_characters else None)
