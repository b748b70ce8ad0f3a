"""Tesseract as a process: a picture goes in and a text or a table of words comes out, both by pipes.

pytesseract tells what is installed. Pages do not go through it: it would import pandas in every worker, half a second
each, and hands over through temporary files, which a full disk cuts.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


class RecognitionError(Exception):
    """Tesseract ended with an error, which is the message."""


def installed_models() -> list[str] | None:
    """Tesseract's installed models; None when it is not installed itself."""
    import pytesseract  # the command's own process only

    try:
        return pytesseract.get_languages()
    except pytesseract.TesseractNotFoundError:
        return None


def recognise(image: Image, *words: str) -> str:
    """What Tesseract prints about a picture.

    Args:
        image: in grey or in colour, modes L or RGB.
        words: its options, and the kind of output: none for plain text, "tsv" for a table of words.

    Raises:
        RecognitionError: it ended with an error.
    """
    kind = {"L": "P5", "RGB": "P6"}[image.mode]
    picture = f"{kind} {image.width} {image.height} 255\n".encode() + image.tobytes()
    done = subprocess.run(["tesseract", "stdin", "stdout", *words], input=picture, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RecognitionError(said[-200:] or f"exit code {done.returncode}")
    return done.stdout.decode(errors="replace")
