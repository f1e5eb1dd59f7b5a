"""Tables as text: Markdown to read, CSV to compute with, LaTeX to print."""

import csv
import io
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from psc.paper.experiments import PAPER, PARAMETERS, RECORDS, REDUCED, SYNTHETIC
from psc.paper.latex import latex_table
from psc.paper.published_cells import UNKNOWN
from psc.paper.table import Claim, Line, Table
from psc.reporting.network_summary import billions, markdown_table

NOT_RUN = "not run"

NOTHING = "–"
"""In place of a number that does not exist: the paper does not print it, or the row is not ours."""

KINDS = {
    PAPER: "The paper's protocol",
    REDUCED: "Real sample, reduced protocol",
    SYNTHETIC: "Synthetic data: plumbing only",
}
"""Kind of protocol → heading of its tables."""

WARNINGS = {
    REDUCED: "These numbers compare blocks with each other. They cannot be set beside the paper's.",
    SYNTHETIC: "Shows that the programs run; says nothing about the paper.",
}

Grid = list[tuple[str, ...]]


def heading(table: Table) -> str:
    """What kind of table it is, and its protocol."""
    return f"{KINDS[table.protocol.kind]}: {table.protocol.title}"


def results(table: Table) -> Grid:
    """The table's cells as text, its header first; every line has a cell for each column."""
    header = ["row"]
    header += ["parameters, paper", "parameters, ours"] if table.is_paper else ["parameters"]
    header.append("MACs")
    for score in table.scores:
        names = (f"{score.label}, paper", f"{score.label}, ours")
        header += names if table.is_paper else (score.label,)
    header += ["iterations", "seeds"]
    grid = [tuple(header), *(_result(table, line) for line in table.lines)]
    for floor in table.floors:
        cells = [table.measures.floor_name, *[NOTHING] * (3 if table.is_paper else 2)]
        for score in table.scores:
            ours = table.measures.text([floor[score.key]])
            cells += [NOTHING, ours] if table.is_paper else [ours]
        grid.append((*cells, NOTHING, NOTHING))
    return grid


def origins(table: Table) -> Grid:
    """Where the numbers come from: a line for each row that has been run, a header first."""
    header = ("row", "runs", "seals", "commit", "hardware", "iterations", "data")
    return [
        header,
        *(
            (
                line.row.label,
                ", ".join(run.record.run for run in line.runs),
                ", ".join(run.record.seal[:8] for run in line.runs),
                line.commit,
                line.hardware,
                _counts(line.iterations),
                line.data,
            )
            for line in table.lines
            if line.runs
        ),
    ]


def claims(table: Table) -> Grid:
    """What the paper says of its rows in words, beside ours; a header first."""
    return [
        ("the paper compares", "paper", "ours", "place"),
        *(
            (
                f"{claim.row}: {claim.metric} against {claim.against}",
                UNKNOWN if claim.cell.value is None else _percent(claim.cell.value, 0),
                _our_change(claim),
                claim.cell.place,
            )
            for claim in table.claims
        ),
    ]


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables of an experiment as one Markdown text."""
    parts = [f"# {tables[0].experiment.title}"] if tables else []
    for table in tables:
        parts.append(f"## {heading(table)}")
        if table.protocol.kind in WARNINGS:
            parts.append(f"**{WARNINGS[table.protocol.kind]}**")
        parts.append(_markdown(results(table)))
        parts.append(legend(table))
        if table.claims:
            parts.append(_markdown(claims(table)))
        if table.notes:
            parts.append("\n".join(f"- {note}" for note in table.notes))
        found = origins(table)
        if len(found) > 1:
            parts.append("Where these numbers come from:")
            parts.append(_markdown(found))
    return "\n\n".join(parts) + "\n"


def legend(table: Table) -> str:
    """What the cells mean, in one paragraph."""
    better = "lower" if table.measures.lower_is_better else "higher"
    words = [f"Mean ± sample standard deviation over seeds; {better} is better."]
    if table.is_paper:
        words.append(
            f"“{NOT_RUN}”: no record of real data at this protocol; “unknown”: only an image of "
            f"the paper holds it; “{NOTHING}”: there is none."
        )
    words.append(f"MACs: of one training sample. Records: {table.experiment.name}/{RECORDS}.")
    return " ".join(words)


def to_csv(table: Table) -> str:
    """One table as CSV: unrounded, a line per row; what does not exist is empty.

    Shares of 1, such as Dice, are given in per cent, as the paper does.
    """
    rows = [_spreadsheet_line(table, line) for line in table.lines]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_latex(table: Table) -> str:
    """One table as a LaTeX float that needs the package booktabs."""
    caption = f"{table.experiment.title}. {heading(table)}. {WARNINGS.get(table.protocol.kind, '')}"
    notes = [legend(table), *table.notes]
    for line in origins(table)[1:]:
        label, runs, _, commit, hardware, iterations, data = line
        notes.append(f"{label}: {runs}; commit {commit}; {hardware}; {iterations} it.; {data}.")
    label = f"{table.experiment.name}-{table.protocol.name}"
    return latex_table(results(table), caption=caption.strip(), label=label, notes=notes)


def _result(table: Table, line: Line) -> tuple[str, ...]:
    ours = line.planned is not None
    parameters = f"{line.cost.parameters:,}" if line.cost else NOTHING
    macs = line.cost.multiply_adds if line.cost else None
    cells = [line.row.label]
    cells += [_printed(line, PARAMETERS), parameters] if table.is_paper else [parameters]
    cells.append(NOTHING if macs is None else billions(macs))
    for score in table.scores:
        if table.is_paper:
            cells.append(_printed(line, score.key))
        if line.runs:
            cells.append(table.measures.text(line.scores(score.key)))
        else:
            cells.append(NOT_RUN if ours else NOTHING)
    cells.append(_counts(line.iterations) if line.runs else NOTHING)
    cells.append(_seeds(line) if ours else NOTHING)
    return tuple(cells)


def _spreadsheet_line(table: Table, line: Line) -> dict[str, Any]:
    ours = NOT_RUN if line.planned else "quoted"
    found: dict[str, Any] = {
        "protocol": table.protocol.name,
        "row": line.row.name,
        "label": line.row.label,
        "status": "run" if line.runs else ours,
        "parameters": line.cost and line.cost.parameters,
        "multiply_adds": line.cost and line.cost.multiply_adds,
    }
    if table.is_paper:
        found["parameters_paper"] = _printed(line, PARAMETERS, nothing="")
    unit, scale = ("_percent", 100) if table.measures.percent else ("", 1)
    for score in table.scores:
        name = f"{score.column}{unit}"
        if table.is_paper:
            found[f"{name}_paper"] = _printed(line, score.key, nothing="")
        values = [scale * value for value in line.scores(score.key)]
        found[f"{name}_mean"] = mean(values) if values else None
        found[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
    return found | {
        "iterations": " ".join(map(str, line.iterations)),
        "seeds": " ".join(map(str, line.seeds)),
        "missing_seeds": " ".join(map(str, line.missing_seeds)),
        "runs": " ".join(run.record.run for run in line.runs),
        "seals": " ".join(run.record.seal for run in line.runs),
        "commit": line.commit,
        "hardware": line.hardware,
        "data": line.data,
    }


def _printed(line: Line, metric: str, nothing: str = NOTHING) -> str:
    cell = line.published.get(metric)
    return nothing if cell is None else cell.text


def _our_change(claim: Claim) -> str:
    return NOT_RUN if claim.ours is None else _percent(claim.ours, 1)


def _percent(value: float, digits: int) -> str:
    return f"{value:+.{digits}f} %".replace("-", "−")


def _counts(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def _seeds(line: Line) -> str:
    there = ", ".join(map(str, line.seeds))
    if not line.missing_seeds:
        return there
    planned = ", ".join(map(str, line.planned.seeds if line.planned else ()))
    return f"{there or 'none'} of {planned}"


def _markdown(grid: Grid) -> str:
    escaped = [tuple(cell.replace("|", "\\|") for cell in line) for line in grid]
    return markdown_table(escaped[0], escaped[1:])
