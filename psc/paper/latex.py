"""A grid of text as a LaTeX table."""

from collections.abc import Sequence

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "³": r"$^3$",
    "²": r"$^2$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; 7-bit, so that any engine takes it.

    A character that has no escape here and is not ASCII becomes a question mark.
    """
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    return escaped.encode("ascii", "replace").decode()


def latex_table(
    grid: Sequence[Sequence[str]], *, caption: str, label: str, notes: Sequence[str] = ()
) -> str:
    """A float with rules of the package booktabs.

    Args:
        grid: lines of cells, the header first, all of one length.
        caption: above the table.
        label: of the float, after ``tab:``.
        notes: paragraphs below the table.
    """
    lines = [" & ".join(escape(cell) for cell in line) + r" \\" for line in grid]
    columns = "l" + "r" * (len(grid[0]) - 1)
    return "\n".join(
        (
            r"% needs \usepackage{booktabs}; made by scripts/paper.py from the records",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\raggedright\scriptsize {escape(note)}" for note in notes),
            r"\end{table}",
            "",
        )
    )
