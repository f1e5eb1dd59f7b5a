"""The tables on the page: the paper's protocol, samples in a box of their own, synthetic apart."""

import re
from collections.abc import Sequence
from pathlib import Path

from psc.paper.experiments import REDUCED, SYNTHETIC
from psc.paper.formats import WARNINGS, heading, legend, results
from psc.paper.page_html import inline, paragraph_of, relative_link, table, text
from psc.paper.page_records import record_link
from psc.paper.page_status import best_first
from psc.paper.table import Line, Table

_BADGES = {REDUCED: "real sample · reduced protocol", SYNTHETIC: "synthetic"}


def experiment_article(tables: Sequence[Table], page_folder: Path) -> str:
    """An experiment: what the paper claims, and its tables but for those of synthetic data."""
    experiment = tables[0].experiment
    readme = experiment.folder / "README.md"
    links = relative_link(experiment.folder, page_folder) + "/"
    claim = paragraph_of(readme, "What the paper claims")
    parts = [f"<h3>{text(experiment.title)}</h3>\n"]
    if claim is not None:
        parts.append(f"<p><strong>What the paper claims</strong> {inline(claim, links)}</p>\n")
    parts += [table_box(shown, page_folder) for shown in tables if shown.protocol.kind != SYNTHETIC]
    if readme.is_file():
        parts.append(
            f'<p class="faint">Protocols, and every deviation from the paper: '
            f'<a href="{links}README.md">experiments/{text(experiment.name)}</a>.</p>\n'
        )
    return f'<article id="{text(experiment.name)}">\n{"".join(parts)}</article>\n'


def table_box(shown: Table, page_folder: Path) -> str:
    """One table with its warning, its legend and its notes."""
    kind = shown.protocol.kind
    title = shown.experiment.title if kind == SYNTHETIC else ""
    parts = [f"<h4>{text(f'{title}. {heading(shown)}' if title else heading(shown))}</h4>\n"]
    if kind in _BADGES:
        parts.insert(0, f'<p class="badge">{text(_BADGES[kind])}</p>\n')
    if kind in WARNINGS:
        parts.append(f'<p class="warning">{text(WARNINGS[kind])}</p>\n')
    grid, markup = _with_links(shown, page_folder)
    separate = len(shown.lines) + 1 if shown.floors else None
    parts.append(table(grid, label=heading(shown), markup=markup, separate=separate))
    order = best_first(shown) if kind == REDUCED else None
    if order is not None:
        parts.append(f"<p>{text(order)}</p>\n")
    parts.append(f'<p class="faint">{text(legend(shown))}</p>\n')
    if shown.notes:
        notes = "".join(f"<li>{inline(note)}</li>" for note in shown.notes)
        parts.append(f'<ul class="faint">{notes}</ul>\n')
    return f'<div class="box {text(kind)}">\n{"".join(parts)}</div>\n'


def _with_links(
    shown: Table, page_folder: Path
) -> tuple[list[tuple[str, ...]], dict[tuple[int, int], str]]:
    """The table's cells and a column of links to the records of each line."""
    header, *rows = results(shown)
    lines: list[Line | None] = [*shown.lines, *[None] * (len(rows) - len(shown.lines))]
    grid, markup = [(*header, "records")], {}
    for i, (row, line) in enumerate(zip(rows, lines, strict=True), start=1):
        runs = line.runs if line is not None else ()
        grid.append((*row, " ".join(run.record.run for run in runs)))
        if runs:
            markup[i, len(row)] = " ".join(
                record_link(run.path, shown.experiment.folder.parent, _short(run.record.run))
                for run in runs
            )
    if not any(line is not None and line.runs for line in lines):
        return [row[:-1] for row in grid], {}
    return grid, markup


def _short(run: str) -> str:
    """What tells runs of a table apart: the digits at the end of their name."""
    found = re.search(r"[^-]+$", run)
    return found[0] if found else run


def synthetic_section(experiments: Sequence[Sequence[Table]], page_folder: Path) -> str:
    """Tables of synthetic data, far from the paper's; nothing where there are none."""
    shown = [t for tables in experiments for t in tables if t.protocol.kind == SYNTHETIC]
    if not shown:
        return ""
    boxes = "".join(table_box(each, page_folder) for each in shown)
    return (
        '<section id="synthetic">\n<h2>Synthetic data</h2>\n<p>These tables show that the programs '
        f"run from end to end. They say nothing about the paper.</p>\n{boxes}</section>\n"
    )
