"""summary.csv: the summary's numbers unrounded, one row per network."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psc.reporting.costs import ForwardCost
from psc.reporting.groups import Group

SCORES = {
    "vi_split": "split",
    "vi_merge": "merge",
    "vi_sum": "total",
    "adapted_rand_error": "adapted_rand_error",
}
"""Column → key of a record's test scores; VI in bits."""

COLUMNS = (
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
    *(f"{score}_{moment}" for score in SCORES for moment in ("mean", "sd")),
    "no_network_vi_sum",
    "training_minutes",
    "seeds",
    "commit",
)
"""Columns of summary.csv: parameters and costs of the network (the costs of one forward pass of a
sample of ``input_shape``, N×C×D×H×W, empty where unknown), means and sample standard
deviations over seeds (empty for a single one), seeds separated by spaces, code version."""


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
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_row(group, cost) for group, cost in zip(groups, costs, strict=True))
    partial.replace(path)


def _row(group: Group, cost: ForwardCost | None) -> dict[str, Any]:
    first, block = group.first, group.first.config["block"]
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
        "no_network_vi_sum": mean(group.baseline("total")),
        "training_minutes": mean(minutes) if minutes else None,
        "seeds": " ".join(str(record.seed) for record in group.records),
        "commit": group.version,
    }
    for column, key in SCORES.items():
        values = group.scores(key)
        row[f"{column}_mean"] = mean(values)
        row[f"{column}_sd"] = stdev(values) if len(values) > 1 else None
    return row
