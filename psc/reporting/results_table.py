"""Runs side by side in Markdown: one row per network, and where the numbers come from."""

from collections.abc import Sequence
from statistics import mean

from psc.code_version import code_version
from psc.reporting.groups import Group, by_application, comparable, group_records
from psc.reporting.measures import Measures
from psc.results import Record

__all__ = ["data_name", "summary_notes", "summary_table", "summary_text"]


def summary_text(records: Sequence[Record]) -> str:
    """Table and notes of each application; under a heading where there are several."""
    applications = by_application(group_records(records))
    parts = []
    for measures, groups in applications.items():
        some = [record for group in groups for record in group.records]
        heading = f"## {measures.title}\n\n" if len(applications) > 1 else ""
        parts.append(f"{heading}{_table(measures, groups)}\n{summary_notes(some)}")
    return "\n".join(parts)


def summary_table(records: Sequence[Record]) -> str:
    """A Markdown table: one row per network, mean ± standard deviation over seeds.

    After the networks of one test comes what needs none: the segmentation without a network, or
    chance. Runs of different data, settings, iterations or code are different rows, never averaged;
    a column says the backbone, another whether it is a control, another the version of the code,
    where they differ.

    Args:
        records: of one application; several have a table each, one after another.

    Raises:
        DataError: a record of no known application.
    """
    applications = by_application(group_records(records))
    return "\n".join(_table(measures, groups) for measures, groups in applications.items())


def summary_notes(records: Sequence[Record]) -> str:
    """What the table's numbers come from, in one Markdown line per kind of data."""
    notes = []
    for kind in sorted({record.data["kind"] for record in records}):
        some = [record for record in records if record.data["kind"] == kind]
        devices = sorted({str(record.hardware["device"]) for record in some})
        commits = sorted({code_version(record.git) for record in some})
        notes.append(
            f"{data_name(some[0])}; {some[0].config['dataset']['name']}; {', '.join(devices)}; "
            f"commit {', '.join(commits)}."
        )
    return "\n".join(notes) + "\n"


def data_name(record: Record) -> str:
    """The kind of data in words; synthetic data cannot be overlooked."""
    kind = record.data["kind"]
    return "SYNTHETIC data, no result of the paper's" if kind == "synthetic" else f"{kind} data"


def _table(measures: Measures, groups: Sequence[Group]) -> str:
    optional = {
        "backbone": {group: group.backbone for group in groups},
        "control": {group: group.control for group in groups},
        "code": {group: group.version for group in groups},
    }
    shown = {name: of for name, of in optional.items() if len(set(of.values())) > 1}
    header = (
        "block",
        "parameters",
        "iterations",
        *(score.label for score in measures.scores),
        *((measures.against,) if measures.against else ()),
        "training [min]",
        "seeds",
        *shown,
    )
    lines = [header, ("---",) * len(header)]
    for together in comparable(groups):
        lines += [(*_row(group), *(of[group] for of in shown.values())) for group in together]
        floor = _floor_row(together[0])
        lines.append((*floor, *("" for _ in range(len(header) - len(floor)))))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _row(group: Group) -> tuple[str, ...]:
    measures = group.measures
    against: tuple[str, ...] = ()
    if measures.against:
        key = measures.headline.key
        change = 100 * (mean(group.scores(key)) / mean(group.floor(key)) - 1)
        against = (f"{change:+.1f} %",)
    return (
        group.block,
        f"{group.first.parameters:,}",
        f"{group.first.iterations:,}",
        *(measures.text(group.scores(score.key)) for score in measures.scores),
        *against,
        _minutes([record.wall_seconds.get("training") for record in group.records]),
        ", ".join(str(record.seed) for record in group.records),
    )


def _floor_row(group: Group) -> tuple[str, ...]:
    measures = group.measures
    floor = measures.floor(group.first)
    scores = (measures.text([floor[score.key]]) for score in measures.scores)
    return (measures.floor_name, "0", "0", *scores)


def _minutes(seconds: Sequence[float | None]) -> str:
    """Mean, or nothing where evaluate.py wrote the record: it has trained nothing."""
    known = [value for value in seconds if value is not None]
    return f"{mean(known) / 60:.1f}" if known else ""
