"""A table of texts as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

Cells = Sequence[str]
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
}  # fmt: skip


def markdown(headings: Cells, rows: Sequence[Cells], num_text_columns: int) -> str:
    """The table in Markdown, ending with a line end; columns after the first `num_text_columns` are right-aligned."""
    aligns = [":--"] * num_text_columns + ["--:"] * (len(headings) - num_text_columns)
    return "".join(_line(cells) for cells in (headings, aligns, *rows))


def _line(cells: Cells) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def bold(cells: Cells) -> list[str]:
    """Cells of a Markdown row that stands out."""
    return [f"**{cell}**" for cell in cells]


def latex(headings: Cells, rows: Sequence[Cells], num_text_columns: int) -> str:
    """The table as a LaTeX tabular (package booktabs); Markdown's bold becomes LaTeX's."""
    columns = "l" * num_text_columns + "r" * (len(headings) - num_text_columns)
    body = "".join("  " + " & ".join(map(_latex_cell, cells)) + " \\\\\n" for cells in rows)
    heading = "  " + " & ".join(map(_latex_cell, headings)) + " \\\\\n"
    return (
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n{heading}  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n"
    )


def _latex_cell(cell: str) -> str:
    cell = " ".join(cell.split())
    is_bold = len(cell) > 4 and cell.startswith("**") and cell.endswith("**")
    escaped = "".join(_LATEX.get(character, character) for character in (cell[2:-2] if is_bold else cell))
    return f"\\textbf{{{escaped}}}" if is_bold else escaped
