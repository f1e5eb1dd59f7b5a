"""A table of the paper: what the paper prints, what our records say, and which records.

A cell of ours is the mean ± sample standard deviation over the seeds of a row's records, or "not
run". ``results``, ``claims``, ``differences`` and ``origins`` are grids of text, a header first,
for Markdown, LaTeX and the page; CSV has the numbers unrounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from psc.files import write_text
from psc.paper import evidence
from psc.paper.account import Cost, network_cost
from psc.paper.experiments import (
    PAPER,
    RECORDS,
    REDUCED,
    SYNTHETIC,
    Experiment,
    PlannedRow,
    Protocol,
    RecordedRun,
    Row,
    read_experiment,
    read_records,
)
from psc.paper.groups import (
    Group,
    comparable,
    group_records,
    hardware_of,
    refuse_twins,
    seed_and_fold,
    step_samples,
)
from psc.paper.measures import Measures, Score, moments
from psc.paper.published import FIGURE_4B, PARAMETERS, SIZES, UNKNOWN, PublishedCell
from psc.paper.text import billions, csv_text, latex_table, markdown_table, percent

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

COSTS = (
    "MACs: of one training sample; PFLOP (10¹⁵ operations): of one training, counted as three"
    " forward passes for each sample; minutes: its wall time, on average, on a machine that may"
    " have been busy."
)

Grid = list[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Line:
    """A row of the paper, and the runs that fill it."""

    row: Row  # of the paper
    planned: PlannedRow | None  # how it is run; None for a row that the paper quotes
    # what the paper prints, by metric; empty but in tables of the paper's protocol
    published: Mapping[str, PublishedCell]
    # of one version of the code and one set of data, seeds apart; none: not run
    runs: tuple[RecordedRun, ...] = ()

    @property
    def group(self) -> Group:
        """The records of its runs."""
        return Group(tuple(run.record for run in self.runs))

    @property
    def cost(self) -> Cost | None:
        """Of the network; None for a row that the paper quotes."""
        cost = network_cost(self.planned.config) if self.planned else None
        recorded = self.runs[0].record.parameters if self.runs else None
        if recorded is None or (cost is not None and cost.parameters == recorded):
            return cost
        return Cost(recorded, None)

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return self.group.seeds if self.runs else []

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Seed and fold of what is planned, but not among the runs."""
        return self.planned.missing([run.record for run in self.runs]) if self.planned else []

    @property
    def missing_seeds(self) -> list[int]:
        """Planned, of which a run is missing."""
        return sorted({seed for seed, _ in self.missing})

    @property
    def iterations(self) -> list[int]:
        """That were trained, each number once."""
        return sorted({run.record.iterations for run in self.runs})

    @property
    def training_flops(self) -> list[int | None]:
        """Counted operations of each of these numbers of iterations."""
        if not self.runs or self.cost is None:
            return []
        step = self.cost.training_flops(step_samples(self.group.first))
        return [None if step is None else number * step for number in self.iterations]

    @property
    def origin(self) -> dict[str, str]:
        """Version of the code, devices and data of its runs; all empty if nothing ran."""
        records = [run.record for run in self.runs]
        found = {
            "commit": {self.group.version} if records else set(),
            "hardware": {hardware_of(record) for record in records},
            "data": {f"{r.data['kind']}: {r.config['dataset']['name']}" for r in records},
        }
        return {name: "; ".join(sorted(texts)) for name, texts in found.items()}

    def printed(self, metric: str, nothing: str = NOTHING) -> str:
        """What the paper prints."""
        cell = self.published.get(metric)
        return nothing if cell is None else cell.text


@dataclass(frozen=True, eq=False)
class Table:
    """One table: an experiment's rows at one protocol."""

    experiment: Experiment
    protocol: Protocol
    # In the paper's order; a row has one line for each version of the code and set of data.
    lines: tuple[Line, ...]

    @property
    def is_paper(self) -> bool:
        """Whether the paper's numbers stand beside ours."""
        return self.protocol.kind == PAPER

    @property
    def measures(self) -> Measures:
        """How its runs are scored."""
        return self.experiment.measures

    @property
    def scores(self) -> tuple[Score, ...]:
        """Its columns beside parameters and costs: at the paper's protocol those of the paper."""
        printed = {cell.metric for cell in self.experiment.published}
        return tuple(s for s in self.measures.scores if not self.is_paper or s.key in printed)

    @property
    def effort(self) -> tuple[str, ...]:
        """Its columns of what a training took."""
        ran = any(line.runs for line in self.lines)
        return ("iterations", "PFLOP", "minutes") if ran else ("iterations",)

    @property
    def floors(self) -> list[Group]:
        """Runs that say how what needs no network scores; of each set of test data."""
        groups = [line.group for line in self.lines if line.runs]
        return [together[0] for together in comparable(groups)]

    @property
    def notes(self) -> list[str]:
        """Sentences below the table: rows that the paper quotes, and sizes published elsewhere."""
        if not self.is_paper:
            return []
        notes = [f"{line.row.label}: {line.row.quoted}." for line in self.lines if line.row.quoted]
        for line in self.lines:
            config = line.planned.config if line.planned else None
            size = SIZES.get((config.backbone.name, config.block.name)) if config else None
            if size is not None and size.source != FIGURE_4B and line.cost is not None:
                label = f"{line.row.label}: {size} parameters by {size.source}"
                notes.append(f"{label}; ours: {size.verdict(line.cost.parameters)}.")
        return list(dict.fromkeys(notes))

    @property
    def heading(self) -> str:
        """What kind of table it is, and its protocol."""
        return f"{KINDS[self.protocol.kind]}: {self.protocol.title}"

    @property
    def spread(self) -> str:
        """What the scores are means of."""
        folded = any(line.group.folds for line in self.lines if line.runs)
        over = "the subjects that the folds tested" if folded else "seeds"
        return f"Mean ± sample standard deviation over {over}"

    @property
    def legend(self) -> str:
        """What the cells mean, in one paragraph."""
        better = "lower" if self.measures.lower_is_better else "higher"
        words = [f"{self.spread}; {better} is better."]
        if self.is_paper:
            words.append(
                f"“{NOT_RUN}”: no record of real data at this protocol; “unknown”: only an image "
                f"of the paper holds it; “{NOTHING}”: there is none."
            )
        words += [
            COSTS if len(self.effort) > 1 else "MACs: of one training sample.",
            f"Records: {self.experiment.name}/{RECORDS}.",
        ]
        return " ".join(words)


def tables_of(folder: Path) -> list[Table]:
    """A table for each protocol, the paper's first; of synthetic data only if it was run."""
    experiment = read_experiment(folder)
    return make_tables(experiment, read_records(experiment))


def make_tables(experiment: Experiment, runs: Sequence[RecordedRun]) -> list[Table]:
    """The same of an experiment and its records."""
    return [
        _table(experiment, protocol, [run for run in runs if run.protocol is protocol])
        for protocol in experiment.protocols
        if protocol.kind != SYNTHETIC or any(run.protocol is protocol for run in runs)
    ]


def _table(experiment: Experiment, protocol: Protocol, runs: Sequence[RecordedRun]) -> Table:
    planned = {row.row.name: row for row in protocol.rows}
    is_paper = protocol.kind == PAPER
    lines: list[Line] = []
    for row in experiment.rows:
        printed = [c for c in experiment.published if c.row == row.name and c.against is None]
        cells = {cell.metric: cell for cell in printed if is_paper}
        if row.name in planned:
            lines += _lines(planned[row.name], cells, runs)
        elif is_paper and row.in_paper:
            lines.append(Line(row, None, cells))
    return Table(experiment, protocol, tuple(lines))


def _lines(
    planned: PlannedRow, published: Mapping[str, PublishedCell], runs: Sequence[RecordedRun]
) -> list[Line]:
    """Of a row of ours: one for each group of its runs, at least one."""
    run_of = {id(run.record): run for run in runs if run.planned is planned}
    lines = []
    for group in group_records([run.record for run in run_of.values()]):
        records = sorted(group.records, key=seed_and_fold)
        together = [run_of[id(record)] for record in records]
        refuse_twins(group, {id(run.record): run.path for run in together})
        lines.append(Line(planned.row, planned, published, tuple(together)))
    return lines or [Line(planned.row, planned, published)]


def results(table: Table) -> Grid:
    """The table's cells: parameters, MACs, the scores, the paper's beside ours, and the seeds."""
    paper = table.is_paper
    header = ["row"]
    header += ["parameters, paper", "parameters, ours"] if paper else ["parameters"]
    header.append("MACs")
    for score in table.scores:
        header += [f"{score.label}, paper", f"{score.label}, ours"] if paper else [score.label]
    header += [*table.effort, "seeds"]
    grid = [tuple(header), *(_result(table, line) for line in table.lines)]
    for tested in table.floors:
        cells = [table.measures.floor_name, *[NOTHING] * (3 if paper else 2)]
        for score in table.scores:
            ours = table.measures.text(tested.floor(score.key))
            cells += [NOTHING, ours] if paper else [ours]
        grid.append((*cells, *[NOTHING] * (len(grid[0]) - len(cells))))
    return grid


def _result(table: Table, line: Line) -> tuple[str, ...]:
    macs = line.cost.multiply_adds if line.cost else None
    cells = [line.row.label]
    cells += [line.printed(PARAMETERS)] if table.is_paper else []
    cells.append(f"{line.cost.parameters:,}" if line.cost else NOTHING)
    cells.append(NOTHING if macs is None else billions(macs))
    for score in table.scores:
        cells += [line.printed(score.key)] if table.is_paper else []
        if line.runs:
            cells.append(table.measures.text(line.group.scores(score.key)))
        else:
            cells.append(NOT_RUN if line.planned else NOTHING)
    cells += _effort(line)[: len(table.effort)]
    seeds = ", ".join(map(str, line.seeds))
    if line.planned and set(line.planned.seeds) > set(line.seeds):
        seeds = f"{seeds or 'none'} of {', '.join(map(str, line.planned.seeds))}"
    if line.runs and line.planned and line.group.folds:
        lacking = f"; {len(line.runs)} of {len(line.planned.runs)} runs" if line.missing else ""
        seeds += f" (folds {line.group.folds}{lacking})"
    return (*cells, seeds if line.planned else NOTHING)


def _effort(line: Line) -> tuple[str, str, str]:
    """What one training took: iterations, counted operations, measured minutes."""
    if not line.runs:
        return NOTHING, NOTHING, NOTHING
    flops, minutes = line.training_flops, line.group.minutes
    return (
        _counts(line.iterations),
        ", ".join(NOTHING if count is None else f"{count / 1e15:.3g}" for count in flops),
        NOTHING if minutes is None else f"{minutes:,.0f}",
    )


def _counts(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def origins(table: Table) -> Grid:
    """Where the numbers come from: a line for each row that has been run."""
    grid: Grid = [("row", "runs", "seals", "commit", "hardware", "iterations", "data")]
    for line in table.lines:
        if line.runs:
            runs = ", ".join(run.record.run for run in line.runs)
            seals = ", ".join(run.record.seal[:8] for run in line.runs)
            commit, hardware, data = line.origin.values()
            where = commit, hardware, _counts(line.iterations), data
            grid.append((line.row.label, runs, seals, *where))
    return grid


def differences(table: Table) -> Grid:
    """Every row against 3D, paired over seeds (``psc.paper.evidence``)."""
    return evidence.contrasts([(line.row.label, line.group) for line in table.lines if line.runs])


def claims(table: Table) -> Grid:
    """What the paper says of two rows in words, beside ours; at its own protocol only."""
    experiment = table.experiment
    labels = {row.name: row.label for row in experiment.rows}
    words = {score.key: score.label.split(" [")[0] for score in experiment.measures.scores}
    grid: Grid = [("the paper compares", "paper", "ours", "place")]
    for cell in experiment.published:
        if cell.against is None or not table.is_paper:
            continue
        ours, other = (_value(table, cell.metric, row) for row in (cell.row, cell.against))
        change = NOT_RUN if ours is None or other is None else percent(100 * (ours / other - 1))
        metric = words.get(cell.metric, cell.metric)
        label = f"{labels[cell.row]}: {metric} against {labels[cell.against]}"
        stated = UNKNOWN if cell.value is None else percent(cell.value, 0)
        grid.append((label, stated, change, cell.place))
    return grid


def _value(table: Table, metric: str, row: str) -> float | None:
    """Our number; None where there is none, or several."""
    found = [line for line in table.lines if line.row.name == row]
    if metric == PARAMETERS:
        return float(found[0].cost.parameters) if found and found[0].cost else None
    return mean(found[0].group.scores(metric)) if len(found) == 1 and found[0].runs else None


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables of an experiment as one Markdown text."""
    parts = [f"# {tables[0].experiment.title}"] if tables else []
    for table in tables:
        parts.append(f"## {table.heading}")
        if table.protocol.kind in WARNINGS:
            parts.append(f"**{WARNINGS[table.protocol.kind]}**")
        parts += [markdown_table(results(table)), table.legend]
        if len(stated := claims(table)) > 1:
            parts.append(markdown_table(stated))
        if len(found := differences(table)) > 1:
            parts += [markdown_table(found), evidence.NOTE]
        if table.notes:
            parts.append("\n".join(f"- {note}" for note in table.notes))
        if len(found := origins(table)) > 1:
            parts += ["Where these numbers come from:", markdown_table(found)]
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table) -> str:
    """One table as a LaTeX float that needs the package booktabs."""
    warning = WARNINGS.get(table.protocol.kind, "")
    caption = f"{table.experiment.title}. {table.heading}. {warning}".strip()
    notes = [table.legend, *table.notes]
    for label, change, interval, seeds, words in differences(table)[1:]:
        notes.append(f"{label}: {change} ({interval}; seeds {seeds}): {words}.")
    for label, runs, _, commit, hardware, iterations, data in origins(table)[1:]:
        notes.append(f"{label}: {runs}; commit {commit}; {hardware}; {iterations} it.; {data}.")
    label = f"{table.experiment.name}-{table.protocol.name}"
    return latex_table(results(table), caption=caption, label=label, notes=notes)


def to_csv(table: Table) -> str:
    """One table as CSV: unrounded, shares of 1 in per cent; what does not exist is empty."""
    return csv_text([_csv_line(table, line) for line in table.lines])


def _csv_line(table: Table, line: Line) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocol": table.protocol.name,
        "row": line.row.name,
        "label": line.row.label,
        "status": "run" if line.runs else NOT_RUN if line.planned else "quoted",
        "parameters": line.cost and line.cost.parameters,
        "multiply_adds": line.cost and line.cost.multiply_adds,
    }
    if table.is_paper:
        found["parameters_paper"] = line.printed(PARAMETERS, "")
    unit, scale = ("_percent", 100) if table.measures.percent else ("", 1)
    for score in table.scores:
        name = f"{score.column}{unit}"
        if table.is_paper:
            found[f"{name}_paper"] = line.printed(score.key, "")
        values = line.group.scores(score.key) if line.runs else []
        found |= moments(name, [scale * value for value in values])
    return found | {
        "iterations": " ".join(map(str, line.iterations)),
        "training_flops": " ".join(map(str, filter(None, line.training_flops))),
        "training_minutes": line.group.minutes if line.runs else None,
        "seeds": " ".join(map(str, line.seeds)),
        "missing_seeds": " ".join(map(str, line.missing_seeds)),
        "runs": " ".join(run.record.run for run in line.runs),
        "seals": " ".join(run.record.seal for run in line.runs),
        **line.origin,
    }


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """One Markdown file, and CSV and LaTeX of each; older ones of this experiment are deleted."""
    name = tables[0].experiment.name
    contents = {f"{name}.md": to_markdown(tables)}
    for table in tables:
        own = name if table.is_paper else f"{name}-{table.protocol.name}"
        contents |= {f"{own}.csv": to_csv(table), f"{own}.tex": to_latex(table)}
    for old in (*folder.glob(f"{name}-*.csv"), *folder.glob(f"{name}-*.tex")):
        if old.name not in contents:
            old.unlink()
    return [write_text(content, folder / file) for file, content in contents.items()]
