"""Text as HTML: escaped, with the little Markdown that captions and READMEs use; tables, links."""

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

__all__ = [
    "document",
    "embedded_png",
    "inline",
    "paragraph_of",
    "relative_link",
    "table",
    "text",
]

FAINT = ("–", "not run", "unknown", "")
"""Cells that hold no number."""

PAIR = (", paper", ", ours")
"""Endings of headings of columns that belong together."""

LONG = 36
"""Characters from which on a cell is broken into lines."""

_NUMBER = re.compile(r"[+−-]?[\d,.]+( ± [\d,.]+)?( [%MG])?")
_BLOCK_NAME = re.compile(r"\bP_?(\d|m)SC_?(\d|n)\b")


def text(words: str) -> str:
    """Escaped, for content and for attributes in double quotes."""
    return html.escape(words, quote=True)


def inline(words: str, links: str = "") -> str:
    """A sentence: **bold**, *emphasis*, `code`, [links](to) and P_mSC_n; all else is escaped.

    Args:
        words: the sentence.
        links: folder, as seen from the page, that relative links start from.
    """
    parts = re.split(r"(`[^`]+`)", " ".join(words.split()))
    return "".join(
        f"<code>{text(part[1:-1])}</code>" if part.startswith("`") else _marked(part, links)
        for part in parts
    )


def paragraph_of(readme: Path, *beginnings: str) -> str | None:
    """The paragraph of a README that begins with **one of these words**, without them."""
    if not readme.is_file():
        return None
    for paragraph in readme.read_text(encoding="utf-8").split("\n\n"):
        for beginning in beginnings:
            if paragraph.startswith(f"**{beginning}**"):
                return paragraph.removeprefix(f"**{beginning}**").lstrip(": ")
    return None


def table(
    grid: Sequence[Sequence[str]],
    *,
    label: str,
    markup: Mapping[tuple[int, int], str] | None = None,
    identifiers: Sequence[str] = (),
    separate: int | None = None,
    stacked: bool = False,
) -> str:
    """A table that scrolls in its box where it is wider than the page.

    Columns "x, paper" and "x, ours" that lie side by side share the heading x. Columns of numbers
    are aligned at the right.

    Args:
        grid: lines of cells, the header first.
        label: what the table is, for screen readers.
        markup: HTML of cells that are not plain text, by line and column; the header is line 0.
        identifiers: of the lines after the header, to link to.
        separate: line before which there is a rule.
        stacked: on narrow screens cells lie below each other; for tables of sentences.
    """
    markup = markup or {}
    numeric = _numeric_columns(grid)
    body = []
    for i, line in enumerate(grid[1:], start=1):
        cells = [
            _cell(cell, markup.get((i, j)), "row" if j == 0 else numeric[j], grid[0][j])
            for j, cell in enumerate(line)
        ]
        identifier = f' id="{text(identifiers[i - 1])}"' if identifiers else ""
        style = ' class="apart"' if i == separate else ""
        body.append(f"<tr{identifier}{style}>{''.join(cells)}</tr>")
    kind = ' class="stacked"' if stacked else ""
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0"><table{kind}>'
        f"\n<thead>{_header(grid[0], numeric)}</thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table></div>\n"
    )


def embedded_png(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def relative_link(target: Path, page_folder: Path) -> str:
    """Address of a file as seen from the page."""
    return quote(Path(os.path.relpath(target, page_folder)).as_posix())


def document(title: str, style: str, body: str) -> str:
    """The whole page. It may fetch nothing, which it also tells the browser."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}</body>\n"
        "</html>\n"
    )


def _marked(words: str, links: str) -> str:
    words = text(words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)
    words = re.sub(r"\*(.+?)\*", r"<em>\1</em>", words)

    def link(found: re.Match[str]) -> str:
        target = found[2] if found[2].startswith("#") else f"{links}{found[2]}"
        return f'<a href="{target}">{found[1]}</a>'

    words = re.sub(r"\[([^\]]+)\]\(([^):]+)\)", link, words)
    return _BLOCK_NAME.sub(r"P<sub>\1</sub>SC<sub>\2</sub>", words)


def _numeric_columns(grid: Sequence[Sequence[str]]) -> list[bool]:
    """Whether a column holds numbers, or nothing where there is none."""
    columns = zip(*grid[1:], strict=True)
    found = [all(c in FAINT or _NUMBER.fullmatch(c) for c in column) for column in columns]
    return found or [False] * len(grid[0])


def _cell(cell: str, markup: str | None, kind: bool | Literal["row"], heading: str) -> str:
    content = text(cell) if markup is None else markup
    if kind == "row":
        return f'<th scope="row">{content}</th>'
    names = ["number"] if kind else ["long"] if len(cell) > LONG else []
    names += ["none"] if cell in FAINT else []
    style = f' class="{" ".join(names)}"' if names else ""
    return f'<td{style} data-label="{text(heading)}">{content}</td>'


def _header(cells: Sequence[str], numeric: Sequence[bool]) -> str:
    """One line, or two where the paper's and our columns share a heading."""
    pairs = [
        i
        for i in range(len(cells) - 1)
        if cells[i].endswith(PAIR[0]) and cells[i + 1] == cells[i].removesuffix(PAIR[0]) + PAIR[1]
    ]
    styles = [' class="number"' if number else "" for number in numeric]
    above, below = [], []
    rows = ' rowspan="2"' if pairs else ""
    for i, cell in enumerate(cells):
        if i in pairs:
            shared = text(cell.removesuffix(PAIR[0]))
            above.append(f'<th scope="colgroup" colspan="2">{shared}</th>')
            below.append(f'<th scope="col"{styles[i]}>paper</th>')
        elif i - 1 in pairs:
            below.append(f'<th scope="col"{styles[i]}>ours</th>')
        else:
            above.append(f'<th scope="col"{rows}{styles[i]}>{text(cell)}</th>')
    return f"<tr>{''.join(above)}</tr>" + (f"<tr>{''.join(below)}</tr>" if pairs else "")
