"""The README's generated parts: what has been reproduced, results so far, what runs take."""

from collections.abc import Mapping
from pathlib import Path

from psc.errors import DataError
from psc.files import replacing
from psc.paper.costs import costs_markdown
from psc.paper.experiments import REDUCED, table_names
from psc.paper.page import state_at, state_of
from psc.paper.table import NOTHING, WARNINGS, Table, results, tables_of
from psc.paper.text import markdown_table

FIGURES = ("figure-1", "figure-4a", "figure-5", "figure-6")
"""Those that the README shows."""


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
    with replacing(path) as unfinished:
        written = f"{before}{first}\n\n{content}\n\n{last}{after}"
        unfinished.write_text(written, encoding="utf-8")


def readme_parts(root: Path) -> Mapping[str, str]:
    """Markdown by the name of its markers, from the records in ``root``, experiments/."""
    experiments = [tables_of(root / name) for name in table_names(root)]
    return {
        "STATUS": _status(experiments),
        "RESULTS": _results(experiments),
        "COSTS": costs_markdown(root),
    }


def _status(experiments: list[list[Table]]) -> str:
    rows = []
    for paper, *others in experiments:
        state, words = state_of(paper)
        link = f"[{paper.experiment.title}](experiments/{paper.experiment.name}/README.md)"
        rows.append((link, f"{state}: {words}", "; ".join(map(state_at, others)) or NOTHING))
    return markdown_table(("table", "at the paper's protocol", "otherwise"), rows)


def _results(experiments: list[list[Table]]) -> str:
    parts = []
    for tables in experiments:
        for table in tables:
            if table.protocol.kind == REDUCED and any(line.runs for line in table.lines):
                header, *rows = results(table)
                title = f"**{table.experiment.title}.** {table.heading}."
                parts += [title, markdown_table(header, rows)]
    if not parts:
        return "Nothing has been run yet."
    return "\n\n".join([WARNINGS[REDUCED], *parts])
