"""Runs side by side: a table of their records, and pictures of the same test slab."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import h5py
import numpy as np

from psc.code_version import code_version
from psc.datasets import output
from psc.errors import DataError
from psc.reporting.costs import ForwardCost, forward_cost
from psc.reporting.curves import curves_figure, threshold_figure
from psc.reporting.groups import Group, comparable, group_names, group_records
from psc.reporting.segmentation_figures import segmentation_figure
from psc.reporting.spreadsheet import write_spreadsheet
from psc.reporting.tradeoff import Comparison, Network, tradeoff_figure
from psc.reporting.versions import of_one_version
from psc.results import FILE_NAME, Record, read_record

log = logging.getLogger(__name__)

HEADER = (
    "block",
    "parameters",
    "iterations",
    "VI split",
    "VI merge",
    "VI sum [bits]",
    "adapted Rand error",
    "against no network",
    "training [min]",
    "seeds",
)


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


def summary_table(records: Sequence[Record]) -> str:
    """A Markdown table: one row per network, mean ± standard deviation over seeds.

    After the networks of one test comes the baseline without any. Runs of different data,
    settings, iterations or code are different rows, never averaged; a column says the backbone,
    another the version of the code, where there are several.

    Args:
        records: of affinity runs.
    """
    groups = group_records(records)
    optional = {
        "backbone": {group: group.backbone for group in groups},
        "code": {group: group.version for group in groups},
    }
    shown = {name: of for name, of in optional.items() if len(set(of.values())) > 1}
    lines = [(*HEADER, *shown), ("---",) * (len(HEADER) + len(shown))]
    for together in comparable(groups):
        lines += [(*_row(group), *(of[group] for of in shown.values())) for group in together]
        lines.append((*_baseline_row(together[0].first), *("" for _ in shown)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary_notes(records: Sequence[Record]) -> str:
    """What the table's numbers come from, in one Markdown line per kind of data."""
    notes = []
    for kind in sorted({record.data["kind"] for record in records}):
        some = [record for record in records if record.data["kind"] == kind]
        devices = sorted({str(record.hardware["device"]) for record in some})
        commits = sorted({code_version(record.git) for record in some})
        notes.append(
            f"{_kind(some[0])}; {some[0].config['dataset']['name']}; {', '.join(devices)}; "
            f"commit {', '.join(commits)}."
        )
    return "\n".join(notes) + "\n"


def write_summary(folder: Path, *, commit: str | None = None, all_commits: bool = False) -> Summary:
    """Summarise a folder of runs in that folder.

    ``summary.md`` and ``summary.csv`` have a row per network, ``tradeoff.png`` shows error against
    cost. ``summary.png`` (segmentations of the first test slab), ``curves.png`` and
    ``thresholds.png`` show the first run of every network of the first test.

    Args:
        folder: of run folders.
        commit: see ``psc.reporting.versions.of_one_version``.
        all_commits: see there.

    Raises:
        DataError: if there is no finished run, or records of several versions of the code and
            neither ``commit`` nor ``all_commits``.
    """
    runs = of_one_version(read_records(folder), commit=commit, all_commits=all_commits)
    records = list(runs.values())
    groups = group_records(records)
    costs = [forward_cost(group.first) for group in groups]
    text = summary_table(records) + "\n" + summary_notes(records)
    names = ["summary.md", "summary.csv", "tradeoff.png", "curves.png", "thresholds.png"]
    (folder / "summary.md").write_text(text)
    write_spreadsheet(groups, costs, folder / "summary.csv")
    _tradeoff(groups, costs, folder / "tradeoff.png")
    pictured = comparable(groups)[0]
    first = {
        name: next(path for path, record in runs.items() if record is group.first)
        for name, group in zip(group_names(pictured), pictured, strict=True)
    }
    curves_figure({name: run / "metrics.csv" for name, run in first.items()}, folder / "curves.png")
    _thresholds({name: runs[run] for name, run in first.items()}, folder / "thresholds.png")
    if _segmentations(first, folder / "summary.png"):
        names.append("summary.png")
    return Summary(text, tuple(folder / name for name in names))


def _tradeoff(groups: Sequence[Group], costs: Sequence[ForwardCost | None], path: Path) -> None:
    cost_of = dict(zip(groups, costs, strict=True))
    comparisons = []
    for together in comparable(groups):
        networks = []
        for name, group in zip(group_names(together), together, strict=True):
            values, cost = group.scores("total"), cost_of[group]
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
        title = f"{first.config['dataset']['name']}: {_kind(first)}"
        comparisons.append(Comparison(title, networks, mean(together[0].baseline("total"))))
    tradeoff_figure(comparisons, path)


def _kind(record: Record) -> str:
    kind = record.data["kind"]
    return "SYNTHETIC data, no result of the paper's" if kind == "synthetic" else f"{kind} data"


def _thresholds(records: dict[str, Record], path: Path) -> None:
    sweeps = {name: record.metrics["sweep"] for name, record in records.items()}
    sweeps["no network"] = next(iter(records.values())).metrics["baseline"]["sweep"]
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
    predictions["no network"] = baseline
    size = None if resolution is None else tuple(np.asarray(resolution, dtype=float).tolist())
    segmentation_figure(raw, truth, predictions, path, voxel_size_nm=size)
    return True


def _row(group: Group) -> tuple[str, ...]:
    scores = {key: group.scores(key) for key in ("split", "merge", "total", "adapted_rand_error")}
    improvement = 100 * (mean(scores["total"]) / mean(group.baseline("total")) - 1)
    return (
        group.block,
        f"{group.first.parameters:,}",
        f"{group.first.iterations:,}",
        *(_with_deviation(values) for values in scores.values()),
        f"{improvement:+.1f} %",
        _minutes([record.wall_seconds.get("training") for record in group.records]),
        ", ".join(str(record.seed) for record in group.records),
    )


def _baseline_row(record: Record) -> tuple[str, ...]:
    test = record.metrics["baseline"]["test"]
    scores = (f"{test[key]:.3f}" for key in ("split", "merge", "total", "adapted_rand_error"))
    return ("no network", "0", "0", *scores, "", "", "")


def _minutes(seconds: Sequence[float | None]) -> str:
    """Mean, or nothing where evaluate.py wrote the record: it has trained nothing."""
    known = [value for value in seconds if value is not None]
    return f"{mean(known) / 60:.1f}" if known else ""


def _with_deviation(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    deviation = stdev(values)
    return f"{mean(values):.3f} ± {0.0 if math.isnan(deviation) else deviation:.3f}"
