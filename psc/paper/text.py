"""Results as text: cells as Markdown, LaTeX, CSV or aligned, templates of HTML, marked parts.

Grids are written here and not by a library: Markdown is not padded, so that one changed number
changes one line of a committed table, and LaTeX escapes what our texts hold, such as ±, ³ and “”.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from psc.errors import DataError
from psc.files import write_text

Cells = Sequence[str]

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


def percent(value: float, digits: int = 1) -> str:
    """A change: −40 % or +2.3 %, with a true minus sign."""
    return f"{value:+.{digits}f} %".replace("-", "−")


def billions(count: int) -> str:
    """150,430,000,000 as 150.4 G."""
    return f"{count / 1e9:.1f} G"


def block_label(name: str) -> str:
    """A block as the paper writes it: 3D, P₂SC₂."""
    parts = re.fullmatch(r"p(\d+)sc(\d+)(.*)", name)
    if parts is None:
        return name.upper() if name == "3d" else name
    subscripts = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    return f"P{parts[1]}SC{parts[2]}".translate(subscripts) + parts[3].replace("_", " ")


def markdown_table(grid: Sequence[Cells]) -> str:
    """Lines of cells, the header first, as a Markdown table."""
    header, *rows = [[cell.replace("|", "\\|") for cell in line] for line in grid]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, below the first one's keys; None is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def aligned(lines: Sequence[Cells], right: int = 0) -> str:
    """Cells in columns of text, the last ``right`` ones aligned at the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "<" * (len(widths) - right) + ">" * right
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return "\n".join(form.format(*line).rstrip() for line in lines)


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, in ASCII; what has no escape becomes a question mark."""
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    return escaped.encode("ascii", "replace").decode()


def latex_table(grid: Sequence[Cells], *, caption: str, label: str, notes: Cells = ()) -> str:
    """A float with rules of the package booktabs; of lines of cells, the header first."""
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


def render_html(template: Path, **shown: Any) -> str:
    """A page from a jinja2 template and what it shows, all of it escaped."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template.name).render(shown)


def markers(name: str) -> tuple[str, str]:
    """The lines before and after a generated part of a Markdown file."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def insert_between(path: Path, name: str, content: str) -> None:
    """Replace what lies between the markers of a file."""
    first, last = markers(name)
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise DataError(f"{path} has no place for it; add the lines {first} and {last}")
    write_text(f"{before}{first}\n\n{content}\n\n{last}{after}", path)
