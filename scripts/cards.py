"""Cards in the hub's format: metadata and text from templates, and whose hand a card is by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from configs.errors import SettingsError
from inference.scores.score_tables import NOTICE
from inference.scores.table_formats import markdown
from inference.visible_text import clean_line
from scripts.report_reading import Stage, items

CARD_FILE = "README.md"
# A card of ours ends with the hash of what stands above, which tells whether a person has changed it since.
_MARK = re.compile(r"\n<!-- made by scripts/publish\.py, ([0-9a-f]{16}) -->\n\Z")
# The first line of what peft and transformers write beside weights, empty forms both.
_FORMS = ("# Model Card for Model ID", "should probably proofread and complete it")
_MAX_TEXT = 2000


class Ready(str):
    """Markdown of our own making."""


def text(value: object) -> str:
    """Others' text as Markdown that shows it."""
    return re.sub(r"([\\`*\[\]<|])", lambda found: f"&#{ord(found[0])};", clean_line(value, _MAX_TEXT))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], num_text_columns: int = 1) -> Ready:
    """A Markdown table of others' text; numbers get their thousands parted, None a dash."""
    shown = [[f"{cell:,}" if isinstance(cell, int) else text(cell) for cell in row] for row in rows]
    return Ready(markdown(headings, shown, num_text_columns))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown; `finalize` escapes
        finalize=lambda value: value if isinstance(value, Ready) else text(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, metadata: Any, **values: Any) -> str:
    """A card.

    Args:
        template: file beside this module.
        metadata: huggingface_hub's ModelCardData or DatasetCardData.
    """
    body = _templates().get_template(template).render(notice=NOTICE, **values)
    body = re.sub("\n{3,}", "\n\n", body).strip()
    card = f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"
    return f"{card}\n<!-- made by scripts/publish.py, {_hash(card)} -->\n"


def _hash(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]


def edited_card(folder: Path) -> str | None:
    """The folder's card if a person wrote or changed it; None where there is none, or one that a program wrote."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    card = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(card)
    ours = mark is not None and _hash(card[: mark.start()]) == mark[1]
    return None if ours or any(form in card for form in _FORMS) else card


def check_card(card: str, kind: str, where: Path) -> None:
    """Refuse a card that the hub would refuse, or that does not say what the model is not for.

    Raises:
        SettingsError: the metadata cannot be read, a field is missing, or the notice is.
    """
    from huggingface_hub import DatasetCard, ModelCard

    found = ""
    try:
        data = (ModelCard if kind == "model" else DatasetCard)(card).data.to_dict()
        found = ", ".join(name for name in ("license", "language") if not data.get(name))
        found = f"no {found} in its metadata" if found else ""
    except Exception as error:  # yaml's errors, ValueError, TypeError: a person's metadata may hold anything
        found = clean_line(error, 300)
    if not found and NOTICE.rstrip(".").lower() not in card.lower():
        found = f"no notice {NOTICE!r}"
    if found:
        raise SettingsError(
            "the card cannot be published",
            where=where,
            found=found,
            wanted="metadata between two lines of ---, with license and language, and the notice",
            todo="correct it, or remove it to have it written anew",
        )


def made_with(stage: Stage) -> dict[str, str]:
    """Commit and versions of the last stage; no machine, no path."""
    changed = " with uncommitted changes" if (stage.folder / "uncommitted.diff").is_file() else ""
    versions = items(stage.get("versions")).items()
    return {
        "commit": f"{stage.get('commit') or 'not recorded'}{changed}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions),
    }
