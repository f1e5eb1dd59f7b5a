"""Runs side by side: tables of their records, and pictures of the same test."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import h5py
import numpy as np

from psc.datasets import output
from psc.errors import DataError
from psc.reporting.costs import ForwardCost, forward_cost
from psc.reporting.curves import curves_figure, threshold_figure
from psc.reporting.groups import Group, by_application, comparable, group_names, group_records
from psc.reporting.measures import AFFINITY, Measures
from psc.reporting.results_table import data_name, summary_text
from psc.reporting.segmentation_figures import segmentation_figure
from psc.reporting.spreadsheet import write_spreadsheet
from psc.reporting.tradeoff import Comparison, Network, tradeoff_figure
from psc.reporting.versions import of_one_version
from psc.results import FILE_NAME, Record, read_record

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
        commit: see ``psc.reporting.versions.of_one_version``.
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
