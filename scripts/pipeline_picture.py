"""The picture of the pipeline: an SVG that follows the reader's light or dark mode, in the system's own fonts."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = "assets/overview.svg"
# What each stage is for, and what it hands on; the commands come from the tree.
_STAGES = {
    "data_collection": ("Data", "raw text, PDF books, web pages, question sets", "kept/*.parquet, Train|Test/*.jsonl"),
    "pretrain": ("Pretraining", "documents to token blocks to a model of the domain", "*.safetensors"),
    "finetune": ("Fine-tuning", "questions, conversations; all weights or LoRA", "a model or adapter, prompt.json"),
    "inference": ("Inference", "answers, scores, comparisons, pages", "predictions.jsonl, scores.json"),
}
_ARRIVES = "documents, books, pages, questions"
_AROUND = ("scripts", "chains, cluster, report, cards")
_BELOW = "configs: settings, languages, errors and exit codes, and a run.json in every output folder"
_WIDTH, _RIGHT, _LEFT, _GAP = 980, 220, 24, 46
_CHARACTER, _CHIP, _LINE = 7.3, 26, 32  # width of a monospaced letter at 12 px, height of a chip, and with its gap
_STYLE = """
text{font:13px system-ui,"Noto Sans",sans-serif;fill:#1d2329}.name{font-size:17px;font-weight:600}.soft{fill:#5a6570}
.code{font:12px ui-monospace,"DejaVu Sans Mono",monospace}.band{fill:#f5f7f8;stroke:#dce1e5}
.chip{fill:#fff;stroke:#b9c3ca}
.flow{stroke:#0b6e75;stroke-width:2;fill:none}.tip{fill:#0b6e75}.file{fill:#0b6e75}
@media(prefers-color-scheme:dark){text{fill:#d5dbe1}.soft{fill:#98a4af}.band{fill:#1c2227;stroke:#323b43}
.chip{fill:#14181c;stroke:#4a5661}.flow{stroke:#5cc3ca}.tip,.file{fill:#5cc3ca}}
"""


@dataclass(frozen=True)
class Command:
    """A command: its file's name and the first line of what it says of itself."""

    name: str
    about: str


def commands(folder: Path) -> list[Command]:
    """The commands of a folder, in the order of their names: entry scripts, and shell scripts but jobs' run.sh.

    What other shell scripts source is none, and has no interpreter in its first line.
    """
    found = []
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "__main__" not in text:
            continue
        tree = ast.parse(text)
        last = tree.body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
            found.append(Command(path.name, (ast.get_docstring(tree) or "").split("\n")[0]))
    for path in sorted(folder.glob("*.sh")):
        interpreter, *lines = path.read_text(encoding="utf-8").split("\n")
        if interpreter.startswith("#!") and path.name != "run.sh":
            found.append(Command(path.name, next((line[2:] for line in lines if line.startswith("# ")), "")))
    return found


def draw(root: Path) -> str:
    """The picture of the tree at `root`, as text."""
    inner = _WIDTH - _RIGHT - 3 * _LEFT
    found = {folder: commands(root / folder) for folder in (*_STAGES, _AROUND[0])}
    parts: list[str] = []
    top = 44.0
    parts.append(_text(_LEFT + inner / 2, 22, _ARRIVES, "soft", "middle"))
    first = top
    for number, (folder, (name, about, hands_on)) in enumerate(_STAGES.items()):
        chips, height = _chips(found[folder], _LEFT + 16, top + 44, inner - 32)
        height += 52
        parts.append(_arrow(_LEFT + inner / 2, top - (_GAP if number else 14), top))
        parts.append(f'<rect class="band" x="{_LEFT}" y="{top:g}" width="{inner}" height="{height:g}" rx="10"/>')
        parts.append(_text(_LEFT + 16, top + 28, name, "name"))
        parts.append(_text(_LEFT + 142, top + 28, about, "soft"))
        parts.append(_text(_LEFT + inner - 16, top + 28, f"{folder}/", "code soft", "end"))
        parts += chips
        top += height + _GAP
        parts.append(_text(_LEFT + inner / 2 + 14, top - _GAP / 2 + 4, hands_on, "code file"))
    bottom = top - _GAP
    parts.append(_arrow(_LEFT + inner / 2, bottom, bottom + 28))
    x = _WIDTH - _RIGHT - _LEFT
    parts.append(f'<rect class="band" x="{x}" y="{first:g}" width="{_RIGHT}" height="{bottom - first:g}" rx="10"/>')
    parts.append(_text(x + 16, first + 28, "Around it", "name"))
    parts.append(_text(x + _RIGHT - 16, first + 28, f"{_AROUND[0]}/", "code soft", "end"))
    parts.append(_text(x + 16, first + 48, _AROUND[1], "soft"))
    chips, used = _chips(found[_AROUND[0]], x + 16, first + 62, _RIGHT - 32)
    assert used + 62 < bottom - first, "the commands of scripts/ no longer fit beside the stages"
    parts += chips
    end = bottom + 44
    width = _WIDTH - 2 * _LEFT
    parts.append(f'<rect class="band" x="{_LEFT}" y="{end:g}" width="{width}" height="40" rx="10"/>')
    parts.append(_text(_WIDTH / 2, end + 25, _BELOW, "soft", "middle"))
    described = "Stages of the pipeline from top to bottom, with their commands: " + ", ".join(
        f"{folder} ({', '.join(command.name for command in found[folder])})" for folder in _STAGES
    )
    height = end + 40 + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">From raw text to a table of scores</title>\n<desc id="d">{escape(described)}</desc>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _chips(found: list[Command], left: float, top: float, width: float) -> tuple[list[str], float]:
    """Commands as chips in lines of so many pixels, and the height they take."""
    parts, x, y = [], left, top
    for command in found:
        wide = _CHARACTER * len(command.name) + 18
        if x > left and x + wide > left + width:
            x, y = left, y + _LINE
        parts.append(
            f"<g><title>{escape(command.about)}</title>"
            f'<rect class="chip" x="{x:g}" y="{y:g}" width="{wide:g}" height="{_CHIP}" rx="6"/>'
            f"{_text(x + 9, y + 17, command.name, 'code')}</g>"
        )
        x += wide + 8
    return parts, y - top + _LINE


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> str:
    end = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{name}" x="{x:g}" y="{y:g}"{end}>{escape(text)}</text>'


def _arrow(x: float, top: float, bottom: float) -> str:
    line = f'<path class="flow" d="M{x:g} {top:g}V{bottom - 7:g}"/>'
    return f'{line}<path class="tip" d="M{x - 6:g} {bottom - 8:g}h12l-6 8z"/>'
