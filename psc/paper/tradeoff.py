"""The trade-off that the paper is about: how good a network is against what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from psc.errors import ConfigError
from psc.paper.measures import Measures
from psc.paper.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    PAGE_WIDTH,
    SMALL_POINTS,
    VERMILLION,
    checked_png,
    page_style,
    save_png,
)

_ROW_HEIGHT = 2.6  # inches
_LABEL_HEIGHT = 0.052  # of a panel
_LOOKS = {None: (BLACK, "s"), 1: (BLUE, "o"), 2: (VERMILLION, "^"), 3: (GREEN, "D")}
"""Number of streams → colour and marker."""


@dataclass(frozen=True)
class Point:
    """A network."""

    name: str  # written beside the point
    streams: int | None  # m of P_mSC_n; None for 3D convolutions
    parameters: int  # number of them
    # of one sample's forward pass; None if unknown: the point is then left out there
    flops: int | None
    score: float  # mean of the headline score, in the record's unit
    deviation: float | None  # its standard deviation over seeds; None for a single run


@dataclass(frozen=True)
class Panels:
    """Networks whose scores may be compared: a row of the figure."""

    title: str  # the data; says so where they are synthetic
    points: Sequence[Point]  # at least one
    floor: float  # score of what needs no network
    measures: Measures  # what the score is


def tradeoff_figure(rows: Sequence[Panels], path: Path | str) -> None:
    """Score against parameters (left) and against FLOPs (right); further left is cheaper.

    Colours and markers are the number of streams; bars are standard deviations over seeds.
    Neither axis begins at zero.
    """
    path = checked_png(path)
    if not rows or not all(row.points for row in rows):
        raise ConfigError("a trade-off needs at least one network in every comparison")
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, _ROW_HEIGHT * len(rows)), layout="constrained")
        all_axes = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
        for (left, right), row in zip(all_axes, rows, strict=True):
            left.set_title(row.title, loc="left", weight="bold")
            _draw(left, row, [point.parameters for point in row.points])
            _draw(right, row, [point.flops for point in row.points])
            measures = row.measures
            better = "lower" if measures.lower_is_better else "higher"
            left.set(xlabel="parameters", ylabel=f"{measures.axis}, {better} is better")
            right.set(xlabel=f"FLOPs of a {measures.sample}'s forward pass")
        save_png(figure, path)


def _draw(axes: Axes, row: Panels, costs: Sequence[int | None]) -> None:
    known = [(point, cost) for point, cost in zip(row.points, costs, strict=True) if cost]
    for point, cost in known:
        shade, shape = _LOOKS.get(point.streams, ("0.4", "x"))
        axes.errorbar(
            cost,
            point.score,
            yerr=point.deviation,
            color=shade,
            marker=shape,
            markersize=4,
            elinewidth=0.8,
            capsize=2,
        )
    axes.axhline(row.floor, color="0.5", linestyle=DASHED, linewidth=0.8)
    axes.annotate(
        row.measures.floor_name,
        (0, row.floor),
        (3, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color="0.4",
        fontsize=SMALL_POINTS,
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if row.measures.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _set_limits(axes, row, [cost for _, cost in known])
    _name(axes, known)


def _set_limits(axes: Axes, row: Panels, costs: Sequence[int]) -> None:
    """As near as the points allow: networks of one backbone lie close together."""
    scores = [row.floor]
    for point in row.points:
        deviation = point.deviation or 0.0
        scores += [point.score - deviation, point.score + deviation]
    low, high = min(scores), max(scores)
    margin = 0.1 * (high - low or high or 1.0)
    axes.set_ylim(max(0.0, low - margin), high + margin)
    first, last = min(costs, default=0), max(costs, default=1)
    margin = 0.1 * (last - first or last)
    axes.set_xlim(max(0.0, first - margin), last + margin)


def _name(axes: Axes, known: Sequence[tuple[Point, int]]) -> None:
    """Names in a column on the right, in the order of their points, a thin line to each."""
    bottom, top = axes.get_ylim()
    known = sorted(known, key=lambda pair: pair[0].score)
    heights = _apart([(point.score - bottom) / (top - bottom) for point, _ in known])
    for (point, cost), height in zip(known, heights, strict=True):
        axes.annotate(
            point.name,
            (cost, point.score),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL_POINTS,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.4, "shrinkB": 3},
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, fractions of the panel, moved until names there do not overlap."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _LABEL_HEIGHT) if placed else height)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - _LABEL_HEIGHT
    return placed
