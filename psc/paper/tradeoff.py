"""The trade-off that the paper is about: how good a network is against what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from psc.errors import ConfigError
from psc.paper.measures import Measures
from psc.paper.style import PAGE_WIDTH, checked_png, page_style, save_png

_ROW_HEIGHT = 2.6  # inches
_LABEL_POINTS = 6.0
_LABEL_HEIGHT = 0.052  # of a panel
_COLOURS = {None: "#000000", 1: "#0072B2", 2: "#D55E00", 3: "#009E73"}
_MARKERS = {None: "s", 1: "o", 2: "^", 3: "D"}


@dataclass(frozen=True)
class Network:
    """One point of the figure.

    Attributes:
        name: written beside the point.
        streams: m of P_mSC_n; None for 3D convolutions.
        parameters: number of them.
        flops: of one sample's forward pass; None if unknown: the point is then left out there.
        score: mean of the headline score, in the record's unit.
        deviation: its standard deviation over seeds; None for a single run.
    """

    name: str
    streams: int | None
    parameters: int
    flops: int | None
    score: float
    deviation: float | None


@dataclass(frozen=True)
class Comparison:
    """Networks whose scores may be compared: a row of the figure.

    Attributes:
        title: the data; says so where they are synthetic.
        networks: at least one.
        floor: score of what needs no network.
        measures: what the score is.
    """

    title: str
    networks: Sequence[Network]
    floor: float
    measures: Measures


def tradeoff_figure(comparisons: Sequence[Comparison], path: Path | str) -> None:
    """Score against parameters (left) and against FLOPs (right); further left is cheaper.

    Colours and markers are the number of streams; bars are standard deviations over seeds.
    Neither axis begins at zero.

    Args:
        comparisons: a row of the figure each, at least one.
        path: the PNG to write.

    Raises:
        ConfigError: no comparison, one without networks, or a path that is no PNG.
    """
    path = checked_png(path)
    if not comparisons or not all(comparison.networks for comparison in comparisons):
        raise ConfigError("a trade-off needs at least one network in every comparison")
    rows = len(comparisons)
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, _ROW_HEIGHT * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False, sharey="row")
        for (left, right), comparison in zip(panels, comparisons, strict=True):
            left.set_title(comparison.title, loc="left", weight="bold")
            _draw(left, comparison, [network.parameters for network in comparison.networks])
            _draw(right, comparison, [network.flops for network in comparison.networks])
            measures = comparison.measures
            better = "lower" if measures.lower_is_better else "higher"
            left.set(xlabel="parameters", ylabel=f"{measures.axis}, {better} is better")
            right.set(xlabel=f"FLOPs of a {measures.sample}'s forward pass")
        save_png(figure, path)


def _draw(axes: Axes, comparison: Comparison, costs: Sequence[int | None]) -> None:
    known = [(n, cost) for n, cost in zip(comparison.networks, costs, strict=True) if cost]
    for network, cost in known:
        axes.errorbar(
            cost,
            network.score,
            yerr=network.deviation,
            color=_COLOURS.get(network.streams, "0.4"),
            marker=_MARKERS.get(network.streams, "x"),
            markersize=4,
            elinewidth=0.8,
            capsize=2,
        )
    axes.axhline(comparison.floor, color="0.5", linestyle=(0, (4, 1.5)), linewidth=0.8)
    axes.annotate(
        comparison.measures.floor_name,
        (0, comparison.floor),
        (3, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color="0.4",
        fontsize=_LABEL_POINTS,
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if comparison.measures.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _set_limits(axes, comparison, [cost for _, cost in known])
    _name(axes, known)


def _set_limits(axes: Axes, comparison: Comparison, costs: Sequence[int]) -> None:
    """As near as the points allow: networks of one backbone lie close together."""
    scores = [comparison.floor]
    for network in comparison.networks:
        deviation = network.deviation or 0.0
        scores += [network.score - deviation, network.score + deviation]
    low, high = min(scores), max(scores)
    margin = 0.1 * (high - low or high or 1.0)
    axes.set_ylim(max(0.0, low - margin), high + margin)
    first, last = min(costs, default=0), max(costs, default=1)
    margin = 0.1 * (last - first or last)
    axes.set_xlim(max(0.0, first - margin), last + margin)


def _name(axes: Axes, known: Sequence[tuple[Network, int]]) -> None:
    """Names in a column on the right, in the order of their points, a thin line to each."""
    bottom, top = axes.get_ylim()
    known = sorted(known, key=lambda pair: pair[0].score)
    heights = _apart([(network.score - bottom) / (top - bottom) for network, _ in known])
    for (network, cost), height in zip(known, heights, strict=True):
        axes.annotate(
            network.name,
            (cost, network.score),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=_LABEL_POINTS,
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
