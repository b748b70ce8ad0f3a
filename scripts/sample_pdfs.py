"""Draw the sample's two textbook chapters: one with a text layer, one of pictures only, as a scanned book is.

    python scripts/sample_pdfs.py

Reads assets/sample/pdf/chapters/{en,zh}.txt (first line title, "## " headings, blank lines between paragraphs) and
writes assets/sample/pdf/pages/en/heart.pdf and assets/sample/pdf/pages/zh/kidney.pdf; the same bytes at every run.
The second needs a Chinese font (apt-get install fonts-noto-cjk).
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import io
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import EnvironmentFailure, MissingInputError
from configs.files import REPOSITORY, atomic_open
from configs.settings import parse, setting

A5_POINTS = (420, 595)
SCAN_DPI = 200
MARGIN = 45  # points


@dataclass
class SamplePdfSettings:
    """Settings of the sample PDFs."""

    folder: Path = setting(
        REPOSITORY / "assets" / "sample" / "pdf", help="folder with chapters/; pages/ is written there"
    )


def read_chapter(path: Path) -> list[tuple[str, str]]:
    """The blocks of a chapter as (kind, text), kind title, heading or paragraph."""
    if not path.exists():
        raise MissingInputError("a chapter is missing", where=path, todo="write it, or restore it with git")
    blocks = [" ".join(block.split()) for block in path.read_text(encoding="utf-8").split("\n\n") if block.strip()]
    return [
        ("title" if number == 0 else "heading" if block.startswith("## ") else "paragraph", block.removeprefix("## "))
        for number, block in enumerate(blocks)
    ]


def write_text_pdf(blocks: list[tuple[str, str]], path: Path) -> None:
    """A PDF with a text layer in a standard font, hyphen-free, justified, with running page numbers."""
    from reportlab.lib.enums import TA_JUSTIFY
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    styles = {
        "title": ParagraphStyle("title", fontName="Times-Bold", fontSize=16, leading=20, spaceAfter=14),
        "heading": ParagraphStyle(
            "heading", fontName="Times-Bold", fontSize=12, leading=15, spaceBefore=10, spaceAfter=5, keepWithNext=1
        ),
        "paragraph": ParagraphStyle(
            "paragraph", fontName="Times-Roman", fontSize=10, leading=13, firstLineIndent=12, alignment=TA_JUSTIFY
        ),
    }

    def number_page(canvas: Any, document: Any) -> None:
        canvas.setFont("Times-Roman", 9)
        canvas.drawCentredString(A5_POINTS[0] / 2, MARGIN / 2, str(document.page))

    stream = io.BytesIO()
    document = SimpleDocTemplate(
        stream,
        pagesize=A5_POINTS,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=blocks[0][1],
        invariant=1,  # no date of creation and no random id, so that the bytes repeat
    )
    story = [Paragraph(text.replace("&", "&amp;").replace("<", "&lt;"), styles[kind]) for kind, text in blocks]
    document.build(story, onFirstPage=number_page, onLaterPages=number_page)
    with atomic_open(path, "wb") as file:
        file.write(stream.getvalue())


def chinese_font() -> tuple[Path, int]:
    """A Simplified Chinese font of this machine: its file, and its number in the file."""
    query = ["fc-match", "--format", "%{family}\n%{file}\n%{index}", "Noto Sans CJK SC:style=Regular:lang=zh-cn"]
    try:
        family, file, index = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError, ValueError):
        family, file, index = "", "", "0"
    if "CJK" not in family:
        raise EnvironmentFailure(
            "no Chinese font was found", found=family or "no answer of fc-match", todo="apt-get install fonts-noto-cjk"
        )
    return Path(file), int(index) & 0xFFFF  # the upper half says which variant of a variable font


def wrap(text: str, width: float, font: Any, indent: float) -> list[str]:
    """Chinese text in lines of at most `width`: broken anywhere but before closing punctuation."""
    lines = [""]
    for character in text:
        room = width - (indent if len(lines) == 1 else 0)
        if font.getlength(lines[-1] + character) > room and character not in "，。、；：！？）》”’":
            lines.append("")
        lines[-1] += character
    return lines


def write_scanned_pdf(blocks: list[tuple[str, str]], path: Path) -> None:
    """A PDF of black-and-white pictures, without a text layer, with running page numbers."""
    from PIL import Image, ImageDraw, ImageFont
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    file, number = chinese_font()
    pixels = SCAN_DPI / 72
    width, height = (round(points * pixels) for points in A5_POINTS)
    margin = round(MARGIN * pixels)
    sizes = {"title": 16, "heading": 12.5, "paragraph": 11}  # points
    fonts = {kind: ImageFont.truetype(str(file), round(size * pixels), index=number) for kind, size in sizes.items()}
    pages: list[Any] = []
    pen, y = None, height
    for kind, text in blocks:
        font, leading = fonts[kind], round(sizes[kind] * 1.6 * pixels)
        indent = 2 * font.size if kind == "paragraph" else 0
        for place, line in enumerate(wrap(text, width - 2 * margin, font, indent)):
            if pen is None or y + leading > height - margin:
                pages.append(Image.new("L", (width, height), 255))
                pen, y = ImageDraw.Draw(pages[-1]), margin
                pen.text((width // 2, height - margin // 2), str(len(pages)), 0, fonts["paragraph"], anchor="mm")
            pen.text((margin + (indent if place == 0 else 0), y), line, 0, font)
            y += leading
        y += round({"title": 12, "heading": 4, "paragraph": 5}[kind] * pixels)
    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=A5_POINTS, invariant=1)
    for page in pages:
        canvas.drawImage(ImageReader(page.convert("1", dither=Image.Dither.NONE)), 0, 0, *A5_POINTS)
        canvas.showPage()
    canvas.save()
    with atomic_open(path, "wb") as output:
        output.write(stream.getvalue())


def main() -> int:
    folder = parse(__doc__, SamplePdfSettings)[0].folder
    for lang, name, write in (("en", "heart.pdf", write_text_pdf), ("zh", "kidney.pdf", write_scanned_pdf)):
        path = folder / "pages" / lang / name
        write(read_chapter(folder / "chapters" / f"{lang}.txt"), path)
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    run(main)
