"""Figures of tissue segmentation over subjects: Dice as boxes, volumes after Bland and Altman.

``slices_figure`` of one subject is at home in ``psc.reporting.tissue_slices``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from psc.errors import DataError
from psc.metrics.tissue_scores import TissueScore
from psc.reporting.canvas import PAGE_WIDTH, checked_png, page_style, save_png
from psc.reporting.tissue_scores_csv import SubjectScores
from psc.reporting.tissue_slices import slices_figure
from psc.reporting.tissue_style import tissue_colour, tissue_marker

__all__ = ["scores_figure", "slices_figure", "volumes_figure"]

_SCORES_HEIGHT = 2.9  # inches
_VOLUMES_HEIGHT = 2.0  # inches of a row
_SMALL_POINTS = 6.0
_FEWEST_FOR_A_BOX = 5  # subjects; of fewer, quartiles say nothing that the points do not
_FEWEST_FOR_LIMITS = 3  # subjects; of fewer, there are no limits of agreement
_TISSUE_WIDTH = 0.84  # of the distance between two tissues, shared by the methods
_METHOD_MARKERS = "osDv"  # of the methods, the first one's filled
_SOLID = (0.0, ())
_DASHED = (0.0, (4.0, 1.5))
_LIMITS = 1.96  # standard deviations: 95 % of normally distributed differences


def scores_figure(rows: Sequence[SubjectScores], path: Path | str, *, title: str = "") -> None:
    """Box plot of Dice per tissue, the methods side by side, every subject a point.

    Boxes are quartiles and medians, whiskers the range, drawn from five subjects on. Above each
    column stand mean ± sample standard deviation and the number of subjects, missed structures
    (Dice 0) included; a tissue that truth and prediction both lack has no point.

    Args:
        rows: scores of one part of the split; methods in the order of their first row.
        path: the PNG to write.
        title: above the figure, such as the data set, or that the data are synthetic.

    Raises:
        DataError: no rows, rows of several parts or tissues, or a subject twice by one method.
        ConfigError: a path that is no PNG.
    """
    path = checked_png(path)
    by_method = _by_method(rows)
    tissues = list(rows[0].scores.tissues)
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH * 0.75, _SCORES_HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for i, tissue in enumerate(tissues):
            for j, scores in enumerate(by_method.values()):
                width = _TISSUE_WIDTH / len(by_method)
                x = i + (j - (len(by_method) - 1) / 2) * width
                _draw_dice(axes, x, width, tissue, [score[tissue] for score in scores], j)
        axes.set_xticks(range(len(tissues)), [tissue.upper() for tissue in tissues])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.5, len(tissues) - 0.5)
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), 1.02)
        axes.set_ylabel(f"Dice of the {rows[0].part} subjects")
        if title:
            figure.suptitle(title, weight="bold", fontsize="medium")
        _name_methods(figure, list(by_method))
        save_png(figure, path)


def volumes_figure(rows: Sequence[SubjectScores], path: Path | str, *, title: str = "") -> None:
    """Tissue volumes of every subject, predicted minus true against their mean, in ml.

    After Bland and Altman (Lancet 1986): with three or more subjects a solid line is the mean
    difference, dashed ones are 1.96 sample standard deviations away from it. A row of panels for
    each method, a panel for each tissue; every panel has its own range.

    Args:
        rows: scores of one part of the split; methods in the order of their first row.
        path: the PNG to write.
        title: above the figure, such as the data set, or that the data are synthetic.

    Raises:
        DataError: no rows, rows of several parts or tissues, or a subject twice by one method.
        ConfigError: a path that is no PNG.
    """
    path = checked_png(path)
    by_method = _by_method(rows)
    tissues = list(rows[0].scores.tissues)
    with page_style():
        figure = Figure(
            figsize=(PAGE_WIDTH, _VOLUMES_HEIGHT * len(by_method)), layout="constrained"
        )
        panels = figure.subplots(len(by_method), len(tissues), squeeze=False)
        for row, (method, scores) in zip(panels, by_method.items(), strict=True):
            for axes, tissue in zip(row, tissues, strict=True):
                _draw_volumes(axes, tissue, [score[tissue] for score in scores])
                axes.set_title(f"{tissue.upper()}, {method}", loc="left", weight="bold")
            row[0].set_ylabel("predicted − true (ml)")
        for axes in panels[-1]:
            axes.set_xlabel("mean of predicted and true volume (ml)")
        if title:
            figure.suptitle(title, weight="bold", fontsize="medium")
        if max(map(len, by_method.values())) >= _FEWEST_FOR_LIMITS:
            lines = [
                Line2D([], [], color="0.3", linewidth=0.9, linestyle=style, label=label)
                for style, label in ((_SOLID, "mean difference"), (_DASHED, "mean ± 1.96 sd"))
            ]
            figure.legend(handles=lines, loc="outside lower center", ncols=2)
        save_png(figure, path)


def _by_method(rows: Sequence[SubjectScores]) -> dict[str, list[Mapping[str, TissueScore]]]:
    """Scores of each method, in the order of the subjects' names."""
    if not rows:
        raise DataError("no scores to draw; score at least one subject")
    parts = {row.part for row in rows}
    tissues = {tuple(row.scores.tissues) for row in rows}
    if len(parts) > 1 or len(tissues) > 1:
        raise DataError(
            f"scores of the parts {sorted(parts)} on the tissues {sorted(tissues)} in one figure;"
            " draw those of one part, on the same tissues"
        )
    by_method: dict[str, dict[str, Mapping[str, TissueScore]]] = {}
    for row in rows:
        subjects = by_method.setdefault(row.method, {})
        if row.subject in subjects:
            raise DataError(f"{row.subject} has two rows of scores by {row.method}; keep one")
        subjects[row.subject] = row.scores.tissues
    return {
        method: [subjects[name] for name in sorted(subjects)]
        for method, subjects in by_method.items()
    }


def _draw_dice(
    axes: Axes,
    x: float,
    width: float,
    tissue: str,
    scores: Sequence[TissueScore],
    method: int,
) -> None:
    """A column of the box plot: a box on the left, if there is one, and the points beside it."""
    dice = np.array([score.dice for score in scores])
    known = dice[~np.isnan(dice)]
    colour, first = tissue_colour(tissue), method == 0
    left, right = -0.15, 0.15
    if known.size >= _FEWEST_FOR_A_BOX:
        left, right = 0.05, 0.4
        box = axes.boxplot(
            known,
            positions=[x - 0.2 * width],
            widths=0.3 * width,
            whis=(0, 100),
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.0},
            whiskerprops={"linewidth": 0.6},
            capprops={"linewidth": 0.6},
            manage_ticks=False,
        )
        box["boxes"][0].set(facecolor=(*colour, 0.25) if first else "white", linewidth=0.6)
    # Side by side in the order of the subjects: the same place in the columns of all methods.
    shift = left + (right - left) * (np.arange(dice.size) + 0.5) / dice.size
    axes.plot(
        x + shift * width,
        dice,
        linestyle="none",
        marker=_METHOD_MARKERS[method % len(_METHOD_MARKERS)],
        markersize=3,
        markeredgewidth=0.7,
        clip_on=False,  # a missed structure lies on the lower edge
        markeredgecolor=colour,
        markerfacecolor=colour if first else "white",
        zorder=3,
    )
    axes.annotate(
        _in_numbers(known, sum(score.missed for score in scores)),
        (x, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=_SMALL_POINTS,
    )


def _in_numbers(dice: npt.NDArray[np.float64], missed: int) -> str:
    if dice.size == 0:
        return "n = 0"
    deviation = f"\n± {dice.std(ddof=1):.3f}" if dice.size > 1 else ""
    lost = f", {missed} missed" if missed else ""
    return f"{dice.mean():.3f}{deviation}\nn = {dice.size}{lost}"


def _name_methods(figure: Figure, methods: Sequence[str]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=_METHOD_MARKERS[i % len(_METHOD_MARKERS)],
            markersize=4,
            color="0.3",
            markerfacecolor="0.3" if i == 0 else "white",
            label=method,
        )
        for i, method in enumerate(methods)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _draw_volumes(axes: Axes, tissue: str, scores: Sequence[TissueScore]) -> None:
    truth = np.array([score.volume_truth for score in scores])
    predicted = np.array([score.volume_predicted for score in scores])
    difference = predicted - truth
    colour = tissue_colour(tissue)
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.plot(
        (truth + predicted) / 2,
        difference,
        linestyle="none",
        marker=tissue_marker(tissue),
        markersize=4,
        markeredgewidth=0,
        color=colour,
    )
    axes.margins(x=0.12, y=0.12)
    if difference.size >= _FEWEST_FOR_LIMITS:
        mean, spread = difference.mean(), _LIMITS * difference.std(ddof=1)
        lines = (mean, mean + spread, mean - spread)
        for height, style in zip(lines, (_SOLID, _DASHED, _DASHED), strict=True):
            axes.axhline(height, color=colour, linestyle=style, linewidth=0.9)
            axes.annotate(
                f"{height:+.3g}".replace("-", "−"),
                (1, height),
                (2, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=_SMALL_POINTS,
                color="0.3",
            )
        axes.update_datalim([(truth[0], height) for height in lines])
        axes.autoscale_view()
    axes.xaxis.set_major_locator(MaxNLocator(5))
