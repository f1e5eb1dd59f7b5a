"""Which bodies one network joins and another keeps apart, over all runs of each.

VI says how much, this says where: a pair of true bodies counts as joined by a run if one of its
segments holds at least ``LEAST`` voxels of both.
"""

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean

from psc.errors import DataError

LEAST = 1_000
"""Voxels, a cube of ten: a smaller piece in a wrong segment is a matter of the boundary."""

_Pair = tuple[int, int]


def joined_pairs(bodies_csv: Path) -> dict[_Pair, int]:
    """Pairs of bodies that a run joins, with the voxels of the smaller piece; from its table.

    ``psc.em.bodies.write_body_errors`` wrote it, with the 20 largest pieces of every segment.
    """
    found: dict[_Pair, int] = {}
    try:
        with bodies_csv.open(encoding="utf-8", newline="") as file:
            merges = [row for row in csv.DictReader(file) if row["kind"] == "merge"]
        for row in merges:
            pieces = [tuple(map(int, each.split(":"))) for each in row["largest_pieces"].split()]
            large = [(body, voxels) for body, voxels in pieces if voxels >= LEAST]
            for (one, some), (other, more) in combinations(large, 2):
                pair = min(one, other), max(one, other)
                found[pair] = max(found.get(pair, 0), min(some, more))
    except (OSError, AttributeError, KeyError, ValueError) as error:
        raise DataError(
            f"{bodies_csv} is no table of bodies ({error}); evaluate.py writes it again"
        ) from error
    return found


def joined_bodies(runs: Mapping[str, Sequence[Path]]) -> list[tuple[str, ...]]:
    """A grid of the pairs of bodies that not all networks join alike; a header first.

    The greatest difference between two networks comes first. ``runs``: the tables of bodies of
    each run, by network.
    """
    tables = {name: [joined_pairs(path) for path in paths] for name, paths in runs.items()}
    voxels: dict[_Pair, int] = {}
    for some in tables.values():
        for table in some:
            for pair, size in table.items():
                voxels[pair] = max(voxels.get(pair, 0), size)
    apart = {}
    for pair in voxels:
        shares = [mean(pair in table for table in some) for some in tables.values()]
        apart[pair] = max(shares) - min(shares)
    order = sorted((p for p in apart if apart[p] > 0), key=lambda p: (-apart[p], -voxels[p], p))
    header = ("bodies", "voxels joined, at most", *(f"{name} joins them" for name in runs))
    return [header] + [
        (
            f"{pair[0]}, {pair[1]}",
            f"{voxels[pair]:,}",
            *(f"{sum(pair in table for table in some)} of {len(some)}" for some in tables.values()),
        )
        for pair in order
    ]
