"""summary.csv: the summary's numbers unrounded, one row per network."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psc.reporting.costs import ForwardCost
from psc.reporting.groups import Group, by_application
from psc.reporting.measures import Measures

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
        writer.writerows(_row(group, cost) for group, cost in zip(groups, costs, strict=True))
    partial.replace(path)


def _row(group: Group, cost: ForwardCost | None) -> dict[str, Any]:
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
