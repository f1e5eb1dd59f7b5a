"""A table of the paper as data: what the paper prints, what our records say, and which records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from psc.code_version import code_version
from psc.errors import DataError
from psc.paper.experiments import (
    PAPER,
    PARAMETERS,
    SYNTHETIC,
    Experiment,
    PlannedRow,
    Protocol,
    Row,
)
from psc.paper.network_costs import COSTS, Cost
from psc.paper.published_cells import PublishedCell
from psc.paper.records import RecordedRun
from psc.published import FIGURE_4B, compare
from psc.published import PARAMETERS as PUBLISHED_SIZES
from psc.reporting.groups import Group, comparable, group_records
from psc.reporting.measures import Measures, Score


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
