"""Figures of tissue segmentation over subjects: Dice as boxes, volumes after Bland and Altman.

``slices_figure`` of one subject is at home in ``psc.mri.pictures``.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from psc.em.pictures import Colour
from psc.errors import ConfigError, DataError
from psc.metrics.tissues import TissueScore, TissueScores
from psc.mri.tissues import CLASSES, TISSUES
from psc.paper.style import GAP, PAGE_WIDTH, checked_png, page_style, save_png

# ----------------------------------------
# How a tissue looks in every figure: its colour and its marker.


# Of Okabe and Ito's colours the three that are told apart best with any colour vision; markers
# repeat the distinction.
_COLOURS = {"csf": "0072B2", "gm": "E69F00", "wm": "56B4E9"}
_MARKERS = {"csf": "o", "gm": "s", "wm": "^"}


def _colour(hexadecimal: str) -> Colour:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


DIFFERENCE_COLOUR = _colour("D55E00")
"""Voxels where truth and prediction differ, over the grey image."""


def tissue_colour(tissue: str) -> Colour:
    """Red, green and blue in [0, 1] of a tissue; grey for one that is not of the paper's."""
    return _colour(_COLOURS.get(tissue, "777777"))


def tissue_marker(tissue: str) -> str:
    """The name, to matplotlib, of a tissue's marker."""
    return _MARKERS.get(tissue, "D")


# ----------------------------------------
# Slices of a tissue segmentation: what went in, what was wanted, what came out, where they differ.
#
# Axes run to the subject's right, anterior and superior (RAS), and pictures follow the neurological
# convention: the subject's left is on the left, anterior is at the top of an axial slice and at the
# right of a sagittal one.


_Labels = npt.NDArray[np.integer[Any]]
_Image = npt.NDArray[np.float32]

_PLANES = (("axial", 2, "LR"), ("coronal", 1, "LR"), ("sagittal", 0, "PA"))
"""Name, axis that the slice is perpendicular to, letters at its left and right edge."""
_TITLES = ("T1", "truth", "prediction", "where they differ")
_AROUND_BRAIN = 4.0  # mm
_LEFT = 0.2  # inches, for the names of the planes
_ABOVE = 0.22  # inches, for the names of the columns
_BELOW = 0.42  # inches, for the legend
_SCALE_BARS = (50, 20, 10, 5, 2, 1)  # mm


def slices_figure(
    image: npt.NDArray[Any],
    labels: _Labels,
    prediction: _Labels,
    voxel_size: Sequence[float],
    path: Path | str,
    *,
    centre: tuple[int, int, int] | None = None,
    title: str = "",
) -> None:
    """Axial, coronal and sagittal slice: T1 | truth | prediction | where they differ.

    All panels have the same scale, in mm; only what is around the labels is shown.

    Args:
        image: T1 intensities (D, H, W) in RAS order, any real dtype and range.
        labels: true tissues (D, H, W), values of ``psc.mri.tissues``.
        prediction: predicted tissues of the same shape.
        voxel_size: mm along D, H and W.
        path: the PNG to write.
        centre: voxel (D, H, W) that the slices pass through; by default the middle of the box
            around everything that truth or prediction labels.
        title: above all, such as the subject's name, or that the data are synthetic.

    Raises:
        DataError: shapes differ or are not three-dimensional, a voxel size is not positive, neither
            truth nor prediction holds a tissue, or a slice holds a label that is none.
        ConfigError: a centre outside the volume, or a path that is no PNG.
    """
    path = checked_png(path)
    _check_volumes(image, labels, prediction, voxel_size)
    box = _labelled_box(labels, prediction)
    middle = centre or tuple((side.start + side.stop - 1) // 2 for side in box)
    if not all(0 <= at < size for at, size in zip(middle, image.shape, strict=True)):
        raise ConfigError(f"centre must be a voxel of the volume {image.shape}, found {centre}")
    box = [
        _widened(side, round(_AROUND_BRAIN / size), length)
        for side, size, length in zip(box, voxel_size, image.shape, strict=True)
    ]
    extents = [(side.stop - side.start) * size for side, size in zip(box, voxel_size, strict=True)]
    shown = [(axis, middle[axis], box) for _, axis, _ in _PLANES]
    grey = _grey_images([_section(image, *where) for where in shown])
    with page_style():
        figure, panels = _panels(extents, title)
        for (name, axis, letters), where, row, t1 in zip(_PLANES, shown, panels, grey, strict=True):
            true, predicted = _section(labels, *where), _section(prediction, *where)
            different = np.where((true != predicted)[..., None], DIFFERENCE_COLOUR, t1)
            width, height = (extents[other] for other in range(3) if other != axis)
            for panel, picture in zip(
                row, (t1, _paint(true), _paint(predicted), different), strict=True
            ):
                panel.imshow(picture, extent=(0, width, 0, height), interpolation="nearest")
                panel.set_axis_off()
            _write_letters(row[0], letters)
            row[0].annotate(
                name,
                (0, 0.5),
                (-4, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="center",
                color="0.25",
            )
        _add_scale_bar(panels[0][0], extents[0], extents[1])
        _add_legend(figure)
        save_png(figure, path)


def _check_volumes(
    image: npt.NDArray[Any], labels: _Labels, prediction: _Labels, voxel_size: Sequence[float]
) -> None:
    if image.ndim != 3:
        raise DataError(f"image must have shape (D, H, W), found {image.shape}")
    for name, volume in (("labels", labels), ("prediction", prediction)):
        if volume.shape != image.shape:
            raise DataError(
                f"{name} has shape {volume.shape}, but image {image.shape}; bring both to one grid"
            )
    if len(voxel_size) != 3 or not all(0 < size < np.inf for size in voxel_size):
        raise DataError(f"voxel_size must be three positive numbers in mm, found {voxel_size}")


def _labelled_box(labels: _Labels, prediction: _Labels) -> list[slice]:
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(labels.any(axis=others) | prediction.any(axis=others))
        if occupied.size == 0:
            raise DataError("neither truth nor prediction holds a tissue; nothing to show")
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return box


def _widened(side: slice, voxels: int, length: int) -> slice:
    return slice(max(0, side.start - voxels), min(length, side.stop + voxels))


def _section(
    volume: npt.NDArray[Any], axis: int, index: int, box: Sequence[slice]
) -> npt.NDArray[Any]:
    """A slice as it is looked at: the first of its axes to the right, the second upwards."""
    where = tuple(index if other == axis else box[other] for other in range(3))
    return volume[where].T[::-1]


def _grey_images(sections: Sequence[npt.NDArray[Any]]) -> list[_Image]:
    """Slices as red, green and blue in [0, 1], all with the same two half per cents clipped."""
    together = np.concatenate([section.ravel() for section in sections]).astype(np.float32)
    low, high = (float(value) for value in np.percentile(together, [0.5, 99.5]))
    scale = 1 / (high - low) if high > low else 1.0
    grey = [np.clip((section.astype(np.float32) - low) * scale, 0, 1) for section in sections]
    return [np.repeat(section[..., None], 3, axis=-1) for section in grey]


def _paint(labels: _Labels) -> _Image:
    """Tissues in their colours on black."""
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise DataError(
            f"labels must be 0 to {CLASSES - 1}, found {labels.min()} to {labels.max()}"
        )
    table = np.zeros((CLASSES, 3), dtype=np.float32)
    for tissue, value in TISSUES.items():
        table[value] = tissue_colour(tissue)
    return table[labels]


def _panels(extents: Sequence[float], title: str) -> tuple[Figure, list[list[Axes]]]:
    """Rows of panels, one for each plane, as large as their mm; columns are centred."""
    column = (PAGE_WIDTH - _LEFT - len(_TITLES) * GAP) / len(_TITLES)
    inches = column / max(extents[0], extents[1])  # per mm; W is never drawn to the right
    sizes = [
        tuple(extents[other] * inches for other in range(3) if other != axis)
        for _, axis, _ in _PLANES
    ]
    above = _ABOVE * (2 if title else 1)
    height = above + sum(size[1] + GAP for size in sizes) + _BELOW
    figure = Figure(figsize=(PAGE_WIDTH, height))
    if title:
        figure.text(_LEFT / PAGE_WIDTH, 1 - 0.15 / height, title, weight="bold")
    panels: list[list[Axes]] = []
    top = height - above
    for width, tall in sizes:
        row = []
        for i in range(len(_TITLES)):
            left = _LEFT + i * (column + GAP) + (column - width) / 2
            box = (left / PAGE_WIDTH, (top - tall) / height, width / PAGE_WIDTH, tall / height)
            row.append(figure.add_axes(box))
        panels.append(row)
        top -= tall + GAP
    for i, name in enumerate(_TITLES):
        middle = _LEFT + i * (column + GAP) + column / 2
        figure.text(
            middle / PAGE_WIDTH, 1 - (above - 0.07) / height, name, ha="center", weight="bold"
        )
    return figure, panels


def _write_letters(panel: Axes, letters: str) -> None:
    for letter, x in zip(letters, (0.03, 0.97), strict=True):
        text = panel.text(
            x,
            0.97,
            letter,
            transform=panel.transAxes,
            color="white",
            va="top",
            ha="left" if x < 0.5 else "right",
        )
        text.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="black")])


def _add_scale_bar(panel: Axes, width: float, height: float) -> None:
    """A bar in the lower left, as long as fits into two fifths of the panel."""
    length = next((mm for mm in _SCALE_BARS if mm <= 0.4 * width), _SCALE_BARS[-1])
    left, bottom, thickness = 0.04 * width, 0.04 * height, 0.012 * height
    bar = Rectangle((left, bottom), length, thickness, color="white", linewidth=0)
    bar.set_path_effects([patheffects.withStroke(linewidth=1.2, foreground="black")])
    panel.add_patch(bar)
    text = panel.text(left, bottom + 2 * thickness, f"{length} mm", color="white", va="bottom")
    text.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="black")])


def _add_legend(figure: Figure) -> None:
    handles = [Patch(color=tissue_colour(name), label=name.upper()) for name in TISSUES]
    handles.append(Patch(color=DIFFERENCE_COLOUR, label="truth and prediction differ"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        borderaxespad=0.2,
        title="left is the subject's left (neurological convention)",
        alignment="center",
    )


# ----------------------------------------
# The CSV file of tissue scores: a row for each subject and each way of segmenting it.


NETWORK = "network"
"""The method of rows that are not a baseline's."""


@dataclass(frozen=True)
class SubjectScores:
    """One subject's scores by one method.

    Attributes:
        subject: IBSR_01, …
        part: of the split, "validation" or "test".
        method: what segmented it: ``NETWORK``, or a name of
            ``psc.mri.baseline.METHODS``.
        scores: on the whole volume.
    """

    subject: str
    part: str
    method: str
    scores: TissueScores


def write_subject_scores(path: Path, rows: Sequence[SubjectScores]) -> None:
    """Write one row per subject and method; completely or not at all.

    Columns: subject, part, method; then those of ``TissueScores.as_row`` (Dice in [0, 1], hd95 in
    mm, volumes in ml, their difference in % of the true volume), unrounded, and empty where a
    measure is not defined.

    Args:
        path: the file; replaced. Missing folders are made.
        rows: at least one, all of the same tissues.

    Raises:
        DataError: no rows, or not all have the same tissues.
    """
    table = [
        {"subject": row.subject, "part": row.part, "method": row.method} | row.scores.as_row()
        for row in rows
    ]
    if not table:
        raise DataError(f"no scores to write into {path}; score at least one subject")
    for row, line in zip(rows, table, strict=True):
        if line.keys() != table[0].keys():
            raise DataError(
                f"{row.subject} ({row.method}) was scored on {', '.join(row.scores.tissues)}, but"
                f" {rows[0].subject} on {', '.join(rows[0].scores.tissues)}; score all on the same"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
