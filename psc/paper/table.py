"""A table of the paper as data: what the paper prints, what our records say, and which records."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psc.errors import ConfigError, DataError
from psc.paper.costs import COSTS, Cost
from psc.paper.experiments import (
    EXPERIMENTS,
    PAPER,
    PARAMETERS,
    RECORDS,
    REDUCED,
    SYNTHETIC,
    UNKNOWN,
    Experiment,
    PlannedRow,
    Protocol,
    PublishedCell,
    Row,
    read_experiment,
    table_names,
)
from psc.paper.groups import Group, comparable, group_records
from psc.paper.measures import Measures, Score
from psc.paper.network_summary import billions, markdown_table
from psc.paper.published import FIGURE_4B, compare
from psc.paper.published import PARAMETERS as PUBLISHED_SIZES
from psc.paper.records import RecordedRun, read_records
from psc.training.provenance import code_version

# ----------------------------------------
# A grid of text as a LaTeX table.


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


@dataclass(frozen=True, eq=False)
class Line:
    """A row of the paper, and the runs that fill it.

    Attributes:
        row: of the paper.
        planned: how it is run; None for a row that the paper quotes.
        published: what the paper prints, by metric; empty but in tables of the paper's protocol.
        cost: of the network; None for a row that the paper quotes.
        runs: of one version of the code and one set of data, seeds apart; none: not run.
    """

    row: Row
    planned: PlannedRow | None
    published: Mapping[str, PublishedCell]
    cost: Cost | None
    runs: tuple[RecordedRun, ...] = ()

    def scores(self, key: str) -> list[float]:
        """A test score of every run, in the record's unit."""
        return [float(run.record.metrics["test"][key]) for run in self.runs]

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return [run.record.seed for run in self.runs]

    @property
    def missing_seeds(self) -> list[int]:
        """Planned, but not among the runs."""
        planned = self.planned.seeds if self.planned else ()
        return [seed for seed in planned if seed not in self.seeds]

    @property
    def iterations(self) -> list[int]:
        """That were trained, each number once."""
        return sorted({run.record.iterations for run in self.runs})

    @property
    def commit(self) -> str:
        """Version of the code that ran; empty if nothing did."""
        return code_version(self.runs[0].record.git) if self.runs else ""

    @property
    def hardware(self) -> str:
        """Devices, each once."""
        return ", ".join(sorted({str(run.record.hardware["device"]) for run in self.runs}))

    @property
    def data(self) -> str:
        """Kind and name of the data; empty if nothing ran."""
        names = {
            f"{r.record.data['kind']}: {r.record.config['dataset']['name']}" for r in self.runs
        }
        return ", ".join(sorted(names))


@dataclass(frozen=True)
class Claim:
    """A comparison of two rows that the paper states, and ours.

    Attributes:
        cell: what the paper says.
        row, against: labels of both rows.
        metric: what is compared, in words.
        ours: our change in per cent; None where a row has not been run.
    """

    cell: PublishedCell
    row: str
    against: str
    metric: str
    ours: float | None


@dataclass(frozen=True, eq=False)
class Table:
    """One table: an experiment's rows at one protocol.

    Attributes:
        experiment: whose.
        protocol: at which.
        scores: its columns beside parameters and costs.
        lines: rows in the paper's order; a row has one line for each version of the code and set of
            data that was run.
        floors: scores of what needs no network, by key; one for each set of test data.
        claims: of the paper; empty but at the paper's protocol.
        notes: sentences below the table.
    """

    experiment: Experiment
    protocol: Protocol
    scores: tuple[Score, ...]
    lines: tuple[Line, ...]
    floors: tuple[Mapping[str, float], ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_paper(self) -> bool:
        """Whether the paper's numbers stand beside ours."""
        return self.protocol.kind == PAPER

    @property
    def measures(self) -> Measures:
        """How its runs are scored."""
        return self.experiment.measures


def make_tables(experiment: Experiment, runs: Sequence[RecordedRun]) -> list[Table]:
    """All tables of an experiment: one for each protocol, the paper's first.

    One of synthetic data is left out as long as nothing has been run at it.

    Args:
        experiment: what is to be shown.
        runs: its records.

    Raises:
        DataError: if two runs of one row, protocol and version of the code have one seed.
    """
    return [
        _table(experiment, protocol, runs)
        for protocol in experiment.protocols
        if protocol.kind != SYNTHETIC or any(run.protocol is protocol for run in runs)
    ]


def _table(experiment: Experiment, protocol: Protocol, runs: Sequence[RecordedRun]) -> Table:
    ours = [run for run in runs if run.protocol is protocol]
    planned = {row.row.name: row for row in protocol.rows}
    is_paper = protocol.kind == PAPER
    lines: list[Line] = []
    for row in experiment.rows:
        published = {
            cell.metric: cell
            for cell in experiment.published
            if is_paper and cell.row == row.name and cell.against is None
        }
        if row.name in planned:
            lines += _lines(row, planned[row.name], published, ours)
        elif is_paper:
            lines.append(Line(row, None, published, None))
    printed = {cell.metric for cell in experiment.published}
    scores = experiment.measures.scores
    table = Table(
        experiment=experiment,
        protocol=protocol,
        scores=tuple(s for s in scores if s.key in printed) if is_paper else scores,
        lines=tuple(lines),
        floors=_floors(experiment.measures, lines),
    )
    if not is_paper:
        return table
    return Table(
        experiment=experiment,
        protocol=protocol,
        scores=table.scores,
        lines=table.lines,
        floors=table.floors,
        claims=_claims(experiment, lines),
        notes=_notes(lines),
    )


def _lines(
    row: Row,
    planned: PlannedRow,
    published: Mapping[str, PublishedCell],
    runs: Sequence[RecordedRun],
) -> list[Line]:
    own = [run for run in runs if run.planned is planned]
    cost = COSTS.of(planned.config)
    if not own:
        return [Line(row, planned, published, cost)]
    run_of = {id(run.record): run for run in own}
    lines = []
    for group in group_records([run.record for run in own]):
        together = sorted((run_of[id(r)] for r in group.records), key=lambda run: run.record.seed)
        for one, next_one in pairwise(together):
            if one.record.seed == next_one.record.seed:
                raise DataError(
                    f"{one.path} and {next_one.path} are of one row and one seed; delete one, or "
                    "the seed would count twice"
                )
        recorded = group.first.parameters
        known = cost if recorded == cost.parameters else Cost(recorded, None)
        lines.append(Line(row, planned, published, known, tuple(together)))
    return lines


def _floors(measures: Measures, lines: Sequence[Line]) -> tuple[Mapping[str, float], ...]:
    groups = [Group(tuple(run.record for run in line.runs)) for line in lines if line.runs]
    return tuple(measures.floor(together[0].first) for together in comparable(groups))


def _claims(experiment: Experiment, lines: Sequence[Line]) -> tuple[Claim, ...]:
    labels = {row.name: row.label for row in experiment.rows}
    words = {score.key: score.label.split(" [")[0] for score in experiment.measures.scores}
    words[PARAMETERS] = PARAMETERS
    return tuple(
        Claim(
            cell,
            labels[cell.row],
            labels[cell.against],
            words[cell.metric],
            _change(lines, cell.metric, cell.row, cell.against),
        )
        for cell in experiment.published
        if cell.against is not None
    )


def _change(lines: Sequence[Line], metric: str, row: str, against: str) -> float | None:
    values = []
    for name in (row, against):
        found = [line for line in lines if line.row.name == name]
        if metric == PARAMETERS and found and found[0].cost:
            values.append(float(found[0].cost.parameters))
        elif metric != PARAMETERS and len(found) == 1 and found[0].runs:
            values.append(mean(found[0].scores(metric)))
        else:
            return None
    return 100 * (values[0] / values[1] - 1)


def _notes(lines: Sequence[Line]) -> tuple[str, ...]:
    notes = [f"{line.row.label}: {line.row.quoted}." for line in lines if line.row.quoted]
    for line in lines:
        if line.planned is None or line.cost is None:
            continue
        config = line.planned.config
        network = (config.backbone.name, config.block.name)
        size = PUBLISHED_SIZES.get(network)
        if size is not None and size.source != FIGURE_4B:
            comparison = compare(network, line.cost.parameters, lambda _: 0)
            notes.append(
                f"{line.row.label}: {size} parameters by {size.source}; ours: {comparison.verdict}."
            )
    return tuple(dict.fromkeys(notes))


# ----------------------------------------
# Tables as text: Markdown to read, CSV to compute with, LaTeX to print.


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


# ----------------------------------------
# Tables of the paper as files: build/paper/tables/<experiment>.{md,csv,tex}.


@dataclass(frozen=True)
class WrittenTables:
    """What was written of an experiment.

    Attributes:
        markdown: its tables, as in the .md file.
        files: all that were written.
    """

    markdown: str
    files: tuple[Path, ...]


def chosen_tables(names: Sequence[str], root: Path = EXPERIMENTS) -> list[str]:
    """The tables that a user names, all if none.

    Raises:
        ConfigError: for one that does not exist.
    """
    known = table_names(root)
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: there is no such table in {root}, only {', '.join(known)}")
    return list(names) or known


def tables_of(folder: Path) -> list[Table]:
    """An experiment's tables from its folder.

    Raises:
        DataError: as ``read_experiment``, ``read_records`` and ``make_tables``.
    """
    experiment = read_experiment(folder)
    return make_tables(experiment, read_records(experiment))


def write_tables(tables: Sequence[Table], folder: Path) -> WrittenTables:
    """Write an experiment's tables: one Markdown file, and CSV and LaTeX of each.

    Args:
        tables: of one experiment, the paper's first: its files have the experiment's name, those of
            other protocols ``<experiment>-<protocol>``, and older ones of these names are deleted.
        folder: where to; made if it is not there.
    """
    name = tables[0].experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    markdown = to_markdown(tables)
    contents = {f"{name}.md": markdown}
    for table in tables:
        own = name if table.is_paper else f"{name}-{table.protocol.name}"
        contents[f"{own}.csv"] = to_csv(table)
        contents[f"{own}.tex"] = to_latex(table)
    for old in (*folder.glob(f"{name}-*.csv"), *folder.glob(f"{name}-*.tex")):
        if old.name not in contents:
            old.unlink()
    files = []
    for file_name, content in contents.items():
        partial = folder / f".{file_name}.tmp"
        partial.write_text(content, encoding="utf-8")
        files.append(partial.replace(folder / file_name))
    return WrittenTables(markdown, tuple(files))
