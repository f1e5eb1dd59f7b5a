"""From the table of all layouts to the question: how close is time to FLOPs?"""

from collections.abc import Sequence

from benchmarks.report import Row

__all__ = ["TARGET", "fastest_layouts"]

TARGET = 1.2
"""Most that the time ratio to 3D is to be, as a multiple of the FLOP ratio."""

_ASKED = ("network", "channels", "precision", "segment", "formulation")


def fastest_layouts(rows: Sequence[Row]) -> list[Row]:
    """One row per segment and formulation, 3D left out: the fastest layout, for each kind of time.

    Args:
        rows: of ``block``'s table of times.

    Returns:
        Ratios of the fastest layouts, and whether both meet ``TARGET`` (None after a failure).
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["segment"] != "3d":
            groups.setdefault(tuple(row[key] for key in _ASKED), []).append(row)
    return [_best(group) for group in groups.values()]


def _best(group: list[Row]) -> Row:
    best = {key: group[0][key] for key in _ASKED}
    ratios = []
    for what in ("forward", "training"):
        measured = [row for row in group if row[f"{what}_seconds"] is not None]
        fastest = min(measured, key=lambda row: float(row[f"{what}_seconds"]), default=None)
        for column in ("time_ratio", "flop_ratio", "time_over_flops", "relative_to_plain"):
            best[f"{what}_{column}"] = fastest and fastest[f"{what}_{column}"]
        ratios.append(best[f"{what}_time_over_flops"])
    complete = all(ratio is not None for ratio in ratios)
    best[f"at_most_{TARGET}"] = all(r <= TARGET for r in ratios) if complete else None
    return best
