"""Runs side by side: a table of their records, and pictures of the same test slab."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import h5py
import numpy as np

from psc.datasets import output
from psc.errors import DataError
from psc.reporting.curves import curves_figure, threshold_figure
from psc.reporting.segmentation_figures import segmentation_figure
from psc.results import FILE_NAME, Record, read_record

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

    The last row is the baseline without a network. Runs of different data, iterations or code
    are different rows, never averaged.

    Args:
        records: of affinity runs.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_group(record), []).append(record)
    rows = [_row(group) for group in groups.values()]
    for group in {_data(group[0]): group for group in groups.values()}.values():
        rows.append(_baseline_row(group[0]))
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary_notes(records: Sequence[Record]) -> str:
    """What the table's numbers come from, in one Markdown line per kind of data."""
    notes = []
    for kind in sorted({record.data["kind"] for record in records}):
        some = [record for record in records if record.data["kind"] == kind]
        devices = sorted({str(record.hardware["device"]) for record in some})
        commits = sorted({_commit(record) for record in some})
        label = (
            "SYNTHETIC data, no result of the paper's" if kind == "synthetic" else f"{kind} data"
        )
        notes.append(
            f"{label}; {some[0].config['dataset']['name']}; {', '.join(devices)}; "
            f"commit {', '.join(commits)}."
        )
    return "\n".join(notes) + "\n"


def write_summary(folder: Path) -> str:
    """Write summary.md, summary.png, curves.png and thresholds.png into a folder of runs.

    The pictures show the first run of every block, on the first test slab.

    Returns:
        The Markdown text.

    Raises:
        DataError: if there is no finished run, or a run's volumes are missing.
    """
    records = read_records(folder)
    text = summary_table(list(records.values())) + "\n" + summary_notes(list(records.values()))
    (folder / "summary.md").write_text(text)
    first: dict[str, Path] = {}
    for path, record in records.items():
        first.setdefault(str(record.config["block"]["name"]), path)
    _segmentations(first, folder / "summary.png")
    curves_figure({name: run / "metrics.csv" for name, run in first.items()}, folder / "curves.png")
    sweeps = {name: records[run].metrics["sweep"] for name, run in first.items()}
    sweeps["no network"] = next(iter(records.values())).metrics["baseline"]["sweep"]
    threshold_figure(
        {
            name: [(row["threshold"], row["split"], row["merge"]) for row in sweep]
            for name, sweep in sweeps.items()
        },
        folder / "thresholds.png",
    )
    return text


def _segmentations(runs: dict[str, Path], path: Path) -> None:
    predictions = {}
    for name, run in runs.items():
        volumes = run / "evaluation" / "test-0.h5"
        if not volumes.is_file():
            raise DataError(f"{volumes} is missing; evaluate.py writes it again")
        with h5py.File(volumes) as file:
            predictions[name] = file[output.SEGMENTATION][:]
            raw, truth = file[output.RAW][:], file[output.TRUTH][:]
            baseline = file[output.BASELINE][:]
            resolution = file[output.RAW].attrs.get("resolution")
    predictions["no network"] = baseline
    size = None if resolution is None else tuple(np.asarray(resolution, dtype=float).tolist())
    segmentation_figure(raw, truth, predictions, path, voxel_size_nm=size)


def _data(record: Record) -> tuple[Any, ...]:
    files = tuple(sorted(file["sha256"] for file in record.data["files"]))
    return record.config["dataset"]["name"], files, repr(record.config["segmentation"])


def _group(record: Record) -> tuple[Any, ...]:
    same = {key: record.config[key] for key in ("backbone", "block", "recipe", "segmentation")}
    return (*_data(record), repr(same), _commit(record))


def _commit(record: Record) -> str:
    commit, dirty = record.git["commit"], record.git["dirty"]
    return "unknown" if commit is None else commit[:8] + (" + changes" if dirty else "")


def _row(group: Sequence[Record]) -> tuple[str, ...]:
    tests = [record.metrics["test"] for record in group]
    baselines = [record.metrics["baseline"]["test"]["total"] for record in group]
    total = mean(test["total"] for test in tests)
    return (
        str(group[0].config["block"]["name"]),
        f"{group[0].parameters:,}",
        f"{group[0].iterations:,}",
        *(_with_deviation([t[key] for t in tests]) for key in ("split", "merge", "total")),
        _with_deviation([test["adapted_rand_error"] for test in tests]),
        f"{100 * (total / mean(baselines) - 1):+.1f} %",
        _minutes([record.wall_seconds.get("training") for record in group]),
        ", ".join(str(record.seed) for record in group),
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
