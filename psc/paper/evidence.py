"""What can be concluded from a few seeds: differences between blocks, paired, with an interval.

Two networks that were trained with one seed had the same patches in the same order, so that their
difference varies less than either score. Its mean has a 95 % bootstrap interval: seeds are drawn
with replacement, and so are test subjects where the record has a score of each. Of fewer than
``RUNS`` pairs of runs no interval is given. VI says how much, the bodies that one network joins and
another keeps apart say where.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.files import entries
from psc.paper.curves import read_curve
from psc.paper.groups import Group, comparable, precision, seed_and_fold
from psc.training.records import Record, read_record

RUNS = 3
"""Two runs say nothing of how a third would do."""
TOLD = 6
"""Fewer pairs all differ in one direction more often than once in twenty, where nothing differs."""

NOTE = (
    f"Differences are paired over shared seeds. Interval: 95 %, by bootstrap over seeds and, where "
    f"each is recorded, test subjects; none of fewer than {RUNS} pairs of runs, and of fewer than "
    "ten it is narrower than it should be. Where it holds 0, the blocks are not told apart; of "
    f"fewer than {TOLD} pairs better and worse are said of these runs alone."
)
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Of two networks' scores, in the record's unit."""

    seeds: tuple[int, ...]  # that both have
    runs: int  # pairs of them: as many as seeds, times folds
    mean: float
    interval: tuple[float, float] | None  # None of fewer than ``RUNS`` pairs


def paired_difference(ours: Group, other: Group, key: str) -> Difference | None:
    """Of a score of ``ours`` minus ``other``, over what both have run; None if that is nothing."""
    mine, its = ({seed_and_fold(r): r for r in group.records} for group in (ours, other))
    apart: dict[int, dict[str, float]] = {}  # by seed and subject
    shared = sorted(mine.keys() & its.keys())
    for seed, fold in shared:
        a, b = (_scores(records[seed, fold], key) for records in (mine, its))
        found = apart.setdefault(seed, {})
        found |= {name: a[name] - b[name] for name in a.keys() & b.keys()}
    names = sorted(set().union(*apart.values()))
    if not names:
        return None
    table = np.array([[found.get(name, np.nan) for name in names] for found in apart.values()])
    interval = _interval(table) if len(shared) >= RUNS else None
    return Difference(tuple(apart), len(shared), float(_mean(table)), interval)


def _scores(record: Record, key: str) -> dict[str, float]:
    """By test subject where they are recorded, else the only one."""
    subjects = record.metrics.get("subjects")
    if subjects is None:
        return {"": record.metrics["test"][key]}
    tested = {name: subjects[name][key] for name in record.data["splits"]["test"]}
    return {name: score for name, score in tested.items() if score is not None}


def _mean(apart: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over subjects, each averaged over the seeds that tested it, of (…, seeds, subjects)."""
    known = ~np.isnan(apart)
    counts = known.sum(-2)
    subjects = np.where(known, apart, 0.0).sum(-2) / np.maximum(counts, 1)
    weights = (counts > 0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # a draw of seeds that tested nobody is left out
        return np.asarray((subjects * weights).sum(-1) / weights.sum(-1))


def _interval(apart: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles of the mean of (seeds, subjects), both drawn anew."""
    seeds, subjects = apart.shape
    rng = np.random.default_rng(0)
    rows = rng.integers(0, seeds, (_RESAMPLES, seeds, 1))
    columns = rng.integers(0, subjects, (_RESAMPLES, 1, subjects))
    low, high = np.nanpercentile(_mean(apart[rows, columns]), (2.5, 97.5))
    return float(low), float(high)


def contrasts(named: Sequence[tuple[str, Group]]) -> list[tuple[str, ...]]:
    """A grid of every network against 3D of the same code, recipe and test; a header first."""
    names = {id(group): name for name, group in named}
    grid: list[tuple[str, ...]] = [
        ("against 3D", "difference", "95 % interval", "shared seeds", "therefore")
    ]
    for some in comparable([group for _, group in named]):
        for group in some:
            alike = [other for other in some if _protocol(other) == _protocol(group)]
            full = [other for other in alike if other.block == "3d"]
            if not full:
                continue
            # of several that whose backbone most others have
            other = max(full, key=lambda g: sum(g.backbone == any_.backbone for any_ in alike))
            for score in () if other is group else group.measures.paired:
                found = paired_difference(group, other, score.key)
                if found is not None:
                    label = f"{names[id(group)]} − {names[id(other)]}, {score.label}"
                    grid.append((label, *_cells(group, found)))
    return grid


def _protocol(group: Group) -> tuple[str, ...]:
    """Code, data, recipe and precision; not the recipe's name and the rate, tuned for a block."""
    recipe = {key: value for key, value in group.first.config["recipe"].items() if key != "name"}
    if "optimizer" in recipe:
        recipe["optimizer"] = recipe["optimizer"] | {"learning_rate": None}
    return group.version, group.splits, repr(recipe), precision(group.first)


def _cells(group: Group, found: Difference) -> tuple[str, ...]:
    measures = group.measures
    mean, seeds = measures.change(found.mean), ", ".join(map(str, found.seeds))
    if found.interval is None:
        words = f"no interval of {found.runs} run{'s'[: found.runs > 1]}"
        return mean, "–", seeds, words
    low, high = found.interval
    if low <= 0 <= high:
        words = "not told apart"
    else:
        words = "better" if (high < 0) == measures.lower_is_better else "worse"
        words += f" in these {found.runs} runs" if found.runs < TOLD else ""
    return mean, f"{measures.change(low)} to {measures.change(high)}", seeds, words


def learning_rates(tuning: Path) -> list[tuple[str, ...]]:
    """A grid of the lowest validation loss of every block at every learning rate; a header first.

    Each with the iteration where it was reached, the lowest of a block in bold; of the records in
    ``tuning``, which are in no table: no test score has been looked at for a choice.
    """
    losses: dict[str, dict[float, tuple[float, int]]] = {}
    for run in entries(tuning):
        config = read_record(run).config
        steps, curve = read_curve(run / "metrics.csv", "validation/loss")
        curve = np.nan_to_num(curve, nan=np.inf)  # diverged: never the lowest
        rate = config["recipe"]["optimizer"]["learning_rate"]
        of_block = losses.setdefault(config["block"]["name"], {})
        if rate in of_block:
            raise DataError(f"{run}: {tuning} has another run of this block and rate; delete one")
        of_block[rate] = float(curve.min()), int(steps[curve.argmin()]) + 1
    rates = sorted({rate for found in losses.values() for rate in found})
    grid: list[tuple[str, ...]] = [("block", *(f"rate {rate:g}" for rate in rates))]
    for block, found in sorted(losses.items()):
        best = min(found.values())
        cells = []
        for rate in rates:
            loss, iteration = found.get(rate, (math.nan, 0))
            text = f"{loss:.3f} ({iteration:,})" if iteration else "–"
            cells.append(f"**{text}**" if (loss, iteration) == best else text)
        grid.append((block, *cells))
    return grid


JOINED_VOXELS = 1_000
"""Voxels, a cube of ten: a smaller piece in a wrong segment is a matter of the boundary."""

_Pair = tuple[int, int]


def joined_pairs(bodies_csv: Path) -> dict[_Pair, int]:
    """Pairs of bodies that a run joins, with the voxels of the smaller piece; from its table.

    ``psc.em.bodies.write_body_errors`` wrote it, with the 20 largest pieces of every segment. A
    pair counts as joined if one segment holds at least ``JOINED_VOXELS`` voxels of both.
    """
    found: dict[_Pair, int] = {}
    try:
        with bodies_csv.open(encoding="utf-8", newline="") as file:
            merges = [row for row in csv.DictReader(file) if row["kind"] == "merge"]
        for row in merges:
            pieces = [tuple(map(int, each.split(":"))) for each in row["largest_pieces"].split()]
            large = [(body, voxels) for body, voxels in pieces if voxels >= JOINED_VOXELS]
            for (one, some), (other, more) in combinations(large, 2):
                pair = min(one, other), max(one, other)
                found[pair] = max(found.get(pair, 0), min(some, more))
    except (OSError, AttributeError, KeyError, ValueError) as error:
        raise DataError(
            f"{bodies_csv} is no table of bodies ({error}); evaluate.py writes it again"
        ) from error
    return found


def joined_bodies(runs: Mapping[str, Sequence[Path]]) -> list[tuple[str, ...]]:
    """A grid of the pairs of bodies that not all networks join alike, the most unlike first."""
    tables = {name: [joined_pairs(path) for path in paths] for name, paths in runs.items()}
    voxels: dict[_Pair, int] = {}
    for pair, size in (item for some in tables.values() for t in some for item in t.items()):
        voxels[pair] = max(voxels.get(pair, 0), size)
    apart = {}
    for pair in voxels:
        shares = [sum(pair in t for t in some) / len(some) for some in tables.values()]
        apart[pair] = max(shares) - min(shares)
    order = sorted((p for p in apart if apart[p] > 0), key=lambda p: (-apart[p], -voxels[p], p))
    header = ("bodies", "voxels joined, at most", *(f"{name} joins them" for name in runs))
    grid: list[tuple[str, ...]] = [header]
    for pair in order:
        joins = (f"{sum(pair in t for t in some)} of {len(some)}" for some in tables.values())
        grid.append((f"{pair[0]}, {pair[1]}", f"{voxels[pair]:,}", *joins))
    return grid
