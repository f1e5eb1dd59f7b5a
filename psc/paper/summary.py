"""Runs side by side: tables of their records, and pictures of the same test."""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import h5py
import numpy as np

from psc.em.pictures import segmentation_figure
from psc.errors import DataError
from psc.paper.curves import curves_figure, threshold_figure
from psc.paper.groups import (
    Group,
    by_application,
    comparable,
    group_names,
    group_records,
    of_one_version,
)
from psc.paper.measures import AFFINITY, ForwardCost, Measures, forward_cost
from psc.paper.tradeoff import Comparison, Network, tradeoff_figure
from psc.training.provenance import code_version
from psc.training.records import FILE_NAME, Record, read_record
from psc.volumes import output

# ----------------------------------------
# Runs side by side in Markdown: one row per network, and where the numbers come from.


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


# ----------------------------------------
# summary.csv: the summary's numbers unrounded, one row per network.


_BEFORE_SCORES = (
    "dataset",
    "data",
    "backbone",
    "block",
    "m",
    "n",
    "parameters",
    "input_shape",
    "multiply_adds",
    "flops",
    "iterations",
)
_AFTER_SCORES = ("training_minutes", "seeds", "commit")


def columns(applications: Iterable[Measures]) -> tuple[str, ...]:
    """Columns of summary.csv.

    Parameters and costs of the network (the costs of one forward pass of a sample of
    ``input_shape``, N×C×D×H×W, empty where unknown); of each application's scores the means and
    sample standard deviations over seeds (VI in bits, accuracies as shares of 1; the deviation
    empty for a single seed, all of them for runs of another application) and the score of what
    needs no network; seeds separated by spaces; code version.
    """
    scores: list[str] = []
    for measures in applications:
        scores += [f"{s.column}_{moment}" for s in measures.scores for moment in ("mean", "sd")]
        scores.append(measures.floor_column)
    return (*_BEFORE_SCORES, *scores, *_AFTER_SCORES)


def write_spreadsheet(
    groups: Sequence[Group], costs: Sequence[ForwardCost | None], path: Path
) -> None:
    """Write one row per group.

    Args:
        groups: runs averaged over seeds.
        costs: of each, None where unknown.
        path: the file; replaced.
    """
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(by_application(groups)))
        writer.writeheader()
        writer.writerows(
            _row_spreadsheet(group, cost) for group, cost in zip(groups, costs, strict=True)
        )
    partial.replace(path)


def _row_spreadsheet(group: Group, cost: ForwardCost | None) -> dict[str, Any]:
    first, block, measures = group.first, group.first.config["block"], group.measures
    minutes = [
        r.wall_seconds["training"] / 60 for r in group.records if "training" in r.wall_seconds
    ]
    row: dict[str, Any] = {
        "dataset": first.config["dataset"]["name"],
        "data": first.data["kind"],
        "backbone": group.backbone,
        "block": group.block,
        "m": block.get("m"),
        "n": block.get("n"),
        "parameters": first.parameters,
        "input_shape": cost and "x".join(map(str, cost.input_shape)),
        "multiply_adds": cost and cost.multiply_adds,
        "flops": cost and cost.flops,
        "iterations": first.iterations,
        measures.floor_column: mean(group.floor(measures.headline.key)),
        "training_minutes": mean(minutes) if minutes else None,
        "seeds": " ".join(str(record.seed) for record in group.records),
        "commit": group.version,
    }
    for score in measures.scores:
        values = group.scores(score.key)
        row[f"{score.column}_mean"] = mean(values)
        row[f"{score.column}_sd"] = stdev(values) if len(values) > 1 else None
    return row


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What ``write_summary`` made.

    Attributes:
        text: the table and its notes, Markdown.
        files: everything that was written.
    """

    text: str
    files: tuple[Path, ...]


def read_records(folder: Path) -> dict[Path, Record]:
    """Records of all finished runs directly in a folder, by run folder, in order of name.

    Raises:
        DataError: if there is none, or one cannot be read.
    """
    records = {path.parent: read_record(path) for path in sorted(folder.glob(f"*/{FILE_NAME}"))}
    if not records:
        raise DataError(f"{folder} holds no finished run (no */{FILE_NAME})")
    return records


def write_summary(folder: Path, *, commit: str | None = None, all_commits: bool = False) -> Summary:
    """Summarise a folder of runs in that folder.

    ``summary.md`` and ``summary.csv`` have a row per network, ``tradeoff.png`` shows scores against
    cost. ``curves.png`` shows the first run of every network of the first test, and so do, where
    there are segmentations, ``summary.png`` (of the first test slab) and ``thresholds.png``.
    Runs of several applications have a table each, and a ``curves-<application>.png`` each.

    Args:
        folder: of run folders.
        commit: see ``psc.paper.groups.of_one_version``.
        all_commits: see there.

    Raises:
        DataError: if there is no finished run, one of no known application, or records of several
            versions of the code and neither ``commit`` nor ``all_commits``.
    """
    runs = of_one_version(read_records(folder), commit=commit, all_commits=all_commits)
    groups = group_records(list(runs.values()))
    costs = [forward_cost(group.first) for group in groups]
    text = summary_text(list(runs.values()))
    (folder / "summary.md").write_text(text)
    write_spreadsheet(groups, costs, folder / "summary.csv")
    _tradeoff(groups, costs, folder / "tradeoff.png")
    names = ["summary.md", "summary.csv", "tradeoff.png"]
    applications = by_application(groups)
    for measures, some in applications.items():
        pictured = comparable(some)[0]
        first = {
            name: next(path for path, record in runs.items() if record is group.first)
            for name, group in zip(group_names(pictured), pictured, strict=True)
        }
        curves = "curves.png" if len(applications) == 1 else f"curves-{measures.name}.png"
        names += _pictures(measures, first, runs, folder, curves)
    return Summary(text, tuple(folder / name for name in names))


def _tradeoff(groups: Sequence[Group], costs: Sequence[ForwardCost | None], path: Path) -> None:
    cost_of = dict(zip(groups, costs, strict=True))
    comparisons = []
    for together in comparable(groups):
        measures, networks = together[0].measures, []
        for name, group in zip(group_names(together), together, strict=True):
            values, cost = group.scores(measures.headline.key), cost_of[group]
            networks.append(
                Network(
                    name,
                    group.first.config["block"].get("m"),
                    group.first.parameters,
                    cost.flops if cost else None,
                    mean(values),
                    stdev(values) if len(values) > 1 else None,
                )
            )
        first = together[0].first
        title = f"{first.config['dataset']['name']}: {data_name(first)}"
        floor = mean(together[0].floor(measures.headline.key))
        comparisons.append(Comparison(title, networks, floor, measures))
    tradeoff_figure(comparisons, path)


def _pictures(
    measures: Measures,
    first: dict[str, Path],
    runs: Mapping[Path, Record],
    folder: Path,
    curves: str,
) -> list[str]:
    """Draw what an application's runs are seen by; returns the files' names."""
    records = {name: runs[run] for name, run in first.items()}
    passes = {name: _iterations_per_pass(record) for name, record in records.items()}
    known = {name: iterations for name, iterations in passes.items() if iterations is not None}
    curves_figure(
        {name: run / "metrics.csv" for name, run in first.items()},
        folder / curves,
        errors=measures.errors_logged,
        iterations_per_epoch=known if len(known) == len(passes) else None,
    )
    if not measures.segmentations:
        return [curves]
    _thresholds(records, folder / "thresholds.png")
    drawn = _segmentations(first, folder / "summary.png")
    return [curves, "thresholds.png", *(["summary.png"] if drawn else [])]


def _iterations_per_pass(record: Record) -> float | None:
    """Iterations that see as many samples as there are training videos; None where not known."""
    videos = record.data.get("splits", {}).get("videos")
    trainer = record.config.get("trainer", {})
    devices = trainer.get("devices", 1)
    if not videos or not isinstance(devices, int) or devices < 1:
        return None
    batch = record.config["recipe"]["batch_size"] * devices * trainer.get("num_nodes", 1)
    return float(videos["train"] / batch)


def _thresholds(records: dict[str, Record], path: Path) -> None:
    sweeps = {name: record.metrics["sweep"] for name, record in records.items()}
    sweeps[AFFINITY.floor_name] = next(iter(records.values())).metrics["baseline"]["sweep"]
    threshold_figure(
        {
            name: [(row["threshold"], row["split"], row["merge"]) for row in sweep]
            for name, sweep in sweeps.items()
        },
        path,
    )


def _segmentations(runs: dict[str, Path], path: Path) -> bool:
    """Draw them; False where a run's volumes are not there, as beside collected records."""
    predictions = {}
    for name, run in runs.items():
        volumes = run / "evaluation" / "test-0.h5"
        if not volumes.is_file():
            log.warning("no %s: %s is missing; evaluate.py writes it again", path.name, volumes)
            return False
        with h5py.File(volumes) as file:
            predictions[name] = file[output.SEGMENTATION][:]
            raw, truth = file[output.RAW][:], file[output.TRUTH][:]
            baseline = file[output.BASELINE][:]
            resolution = file[output.RAW].attrs.get("resolution")
    predictions[AFFINITY.floor_name] = baseline
    size = None if resolution is None else tuple(np.asarray(resolution, dtype=float).tolist())
    segmentation_figure(raw, truth, predictions, path, voxel_size_nm=size)
    return True
