"""What an evaluation of tissues leaves to look at: slices, Dice as boxes, volumes, and a table.

Axes run to the subject's right, anterior and superior (RAS), and pictures follow the neurological
convention: the subject's left is on the left, anterior is at the top of an axial slice and at the
right of a sagittal one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from psc.errors import DataError
from psc.files import write_text
from psc.metrics.tissues import TissueScore, TissueScores
from psc.mri.tissues import TISSUES
from psc.paper import style
from psc.paper.text import csv_text
from psc.volumes.intensity import grey_image, grey_range

NETWORK = "network"
"""The method of rows that are not a baseline's."""

DIFFERENCE_COLOUR = to_rgb(style.VERMILLION)
"""Voxels where truth and prediction differ, over the grey image."""

_Labels = npt.NDArray[np.integer[Any]]

# The three of the palette that are told apart best with any colour vision; markers repeat it.
_COLOURS = {"csf": style.BLUE, "gm": style.ORANGE, "wm": style.SKY_BLUE}
_MARKERS = {"csf": "o", "gm": "s", "wm": "^"}
_OTHERS = (
    style.GREEN,
    style.PURPLE,
    style.BLUE,
    style.ORANGE,
    style.SKY_BLUE,
    "#F0E442",
    "#999999",
    "#882255",
    "#44AA99",
)
_COLUMNS = 6  # of a legend

_PLANES = (("axial", 2, "LR"), ("coronal", 1, "LR"), ("sagittal", 0, "PA"))
"""Name, axis that the slice is perpendicular to, letters at its left and right edge."""
_TITLES = ("T1", "truth", "prediction", "where they differ")
_AROUND_BRAIN = 4.0  # mm
_LEGEND = 0.36  # inches

_SCORES_HEIGHT = 2.9  # inches
_VOLUMES_HEIGHT = 2.0  # inches of a row
_MOST_TISSUES = 24  # in one figure
_FEWEST_FOR_A_BOX = 5  # subjects; of fewer, quartiles say nothing that the points do not
_FEWEST_FOR_LIMITS = 3  # subjects; of fewer, there are no limits of agreement
_TISSUE_WIDTH = 0.84  # of the distance between two tissues, shared by the methods
_LIMITS = 1.96  # standard deviations: 95 % of normally distributed differences


def tissue_colour(tissue: str, among: Iterable[str] = TISSUES) -> tuple[float, float, float]:
    """RGB in [0, 1] of a tissue ``among`` those shown together; of more than nine they repeat."""
    others = [name for name in among if name not in _COLOURS]
    if tissue in _COLOURS:
        return to_rgb(_COLOURS[tissue])
    return to_rgb(_OTHERS[others.index(tissue) % len(_OTHERS)])


def shown_name(tissue: str) -> str:
    """What figures call a tissue: CSF, GM, WM, hippocampus."""
    return tissue.upper() if len(tissue) <= 3 else tissue


@style.page_style()
def slices_figure(
    image: npt.NDArray[Any],
    labels: _Labels,
    prediction: _Labels,
    voxel_size: Sequence[float],
    path: Path,
    *,
    tissues: Mapping[str, int] = TISSUES,
    title: str = "",
) -> None:
    """Axial, coronal and sagittal slice: T1 | truth | prediction | where they differ.

    All panels have the same scale, in mm; only what is around the labels is shown. Volumes are
    (D, H, W) in RAS order, intensities of any range, voxels in mm. The slices pass through the
    middle of the box around everything that truth or prediction labels.
    """
    occupied = (labels != 0) | (prediction != 0)
    box = style.bounding_box(occupied, [round(_AROUND_BRAIN / size) for size in voxel_size])
    tight = style.bounding_box(occupied)
    if box is None or tight is None:
        raise DataError("neither truth nor prediction holds a tissue; nothing to show")
    middle = [(side.start + side.stop - 1) // 2 for side in tight]

    def section(volume: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        """As it is looked at: the first of the slice's axes to the right, the second upwards."""
        where = tuple(middle[axis] if other == axis else box[other] for other in range(3))
        return np.asarray(volume[where].T[::-1])

    sections = [section(image, axis) for _, axis, _ in _PLANES]
    bounds = grey_range(np.concatenate([part.ravel() for part in sections]))
    x, y, z = np.multiply([side.stop - side.start for side in box], voxel_size).tolist()
    widest = max(x, y)  # of all panels, which so have one scale; z is never to the right
    below = _LEGEND + len(tissues) // _COLUMNS * style.LINE_HEIGHT
    figure, rows = style.panel_rows(
        [height / widest for height in (y, z, z)],
        len(_TITLES),
        title_lines=1,
        title=[title] if title else [],
        room=(0.0, below),
    )
    for (name, axis, letters), panels, part in zip(_PLANES, rows, sections, strict=True):
        t1 = np.repeat(grey_image(part, bounds)[..., None], 3, axis=-1)
        true, predicted = section(labels, axis), section(prediction, axis)
        different = np.where((true != predicted)[..., None], DIFFERENCE_COLOUR, t1)
        pictures = (t1, _paint(true, tissues), _paint(predicted, tissues), different)
        columns, size = part.shape[1], voxel_size[1 if axis == 0 else 0]
        for panel, picture, words in zip(panels, pictures, _TITLES, strict=True):
            style.show_image(panel, picture, [f"{words}, {name}" if panel is panels[0] else words])
            panel.set_xlim(-0.5, widest / size - 0.5)
        place: dict[str, Any] = {"transform": panels[0].get_xaxis_transform(), "va": "top"}
        for letter, share, edge in zip(letters, (0.03, 0.97), ("left", "right"), strict=True):
            at = share * columns - 0.5, 0.97
            style.outline(panels[0].text(*at, letter, color="w", ha=edge, **place))
    style.add_scale_bar(rows[0][0], widest, "mm")
    handles = [
        Patch(color=tissue_colour(name, tissues), label=shown_name(name)) for name in tissues
    ]
    handles.append(Patch(color=DIFFERENCE_COLOUR, label="truth and prediction differ"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(len(handles), _COLUMNS),
        borderaxespad=0.2,
        title="left is the subject's left (neurological convention)",
        alignment="center",
    )
    style.save_png(figure, path)


def _paint(labels: _Labels, tissues: Mapping[str, int]) -> npt.NDArray[np.float32]:
    """Tissues in their colours on black."""
    most = max(tissues.values())
    if labels.min() < 0 or labels.max() > most:
        raise DataError(f"labels must be 0 to {most}, found {labels.min()} to {labels.max()}")
    table = np.zeros((most + 1, 3), dtype=np.float32)
    for tissue, value in tissues.items():
        table[value] = tissue_colour(tissue, tissues)
    return table[labels]


@dataclass(frozen=True)
class SubjectScores:
    """One subject's scores of the whole volume, by the network or a method without one."""

    subject: str
    part: str
    method: str
    scores: TissueScores


def write_subject_scores(path: Path, rows: Sequence[SubjectScores]) -> None:
    """Write a row of ``TissueScores.as_row`` per subject and method as CSV, unrounded."""
    table = [
        {"subject": row.subject, "part": row.part, "method": row.method} | row.scores.as_row()
        for row in rows
    ]
    write_text(csv_text(table), path)


@style.page_style()
def scores_figure(rows: Sequence[SubjectScores], path: Path, *, title: str = "") -> None:
    """Box plot of Dice per tissue, the methods side by side, every subject a point.

    Boxes are quartiles and medians, whiskers the range, drawn from five subjects on. Above each
    column stand mean ± sample standard deviation and the number of subjects, missed structures
    (Dice 0) included. All rows are of one part of the split.
    """
    by_method = _by_method(rows)
    tissues, title = _shown(by_method, title)
    width = _TISSUE_WIDTH / len(by_method)
    inches = 0.75 * style.PAGE_WIDTH * max(1, len(tissues) / 6)
    figure = Figure(figsize=(inches, _SCORES_HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for i, tissue in enumerate(tissues):
        for j, scores in enumerate(by_method.values()):
            x = i + (j - (len(by_method) - 1) / 2) * width
            dice = [score[tissue] for score in scores]
            _draw_dice(axes, x, width, tissue_colour(tissue, tissues), dice, j)
    axes.set_xticks(range(len(tissues)), [shown_name(tissue) for tissue in tissues])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(tissues) - 0.5)
    axes.set_ylim(max(0.0, axes.get_ylim()[0]), 1.02)
    axes.set_ylabel(f"Dice of the {rows[0].part} subjects")
    handles = [
        Line2D([], [], label=method, color="0.3", **_points(j, "0.3", size=4))
        for j, method in enumerate(by_method)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title, weight="bold", fontsize="medium")
    style.save_png(figure, path)


@style.page_style()
def volumes_figure(rows: Sequence[SubjectScores], path: Path, *, title: str = "") -> None:
    """Tissue volumes of every subject, predicted minus true against their mean, in ml.

    After Bland and Altman (Lancet 1986): with three or more subjects a solid line is the mean
    difference, dashed ones are 1.96 sample standard deviations away from it. A row of panels for
    each method, a panel for each tissue; every panel has its own range. Rows as for
    ``scores_figure``.
    """
    by_method = _by_method(rows)
    tissues, title = _shown(by_method, title)
    size = (style.PAGE_WIDTH * max(1, len(tissues) / 4), _VOLUMES_HEIGHT * len(by_method))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(by_method), len(tissues), squeeze=False)
    for row, (method, scores) in zip(panels, by_method.items(), strict=True):
        for axes, tissue in zip(row, tissues, strict=True):
            colour = tissue_colour(tissue, tissues)
            _draw_volumes(axes, tissue, colour, [score[tissue] for score in scores])
            axes.set_title(f"{shown_name(tissue)}, {method}", loc="left", weight="bold")
        row[0].set_ylabel("predicted − true (ml)")
    for axes in panels[-1]:
        axes.set_xlabel("mean of predicted and true volume (ml)")
    if max(map(len, by_method.values())) >= _FEWEST_FOR_LIMITS:
        styles: dict[str, Any] = {"mean difference": "solid", "mean ± 1.96 sd": style.DASHED}
        lines = [
            Line2D([], [], color="0.3", linewidth=0.9, linestyle=dashes, label=label)
            for label, dashes in styles.items()
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
    figure.suptitle(title, weight="bold", fontsize="medium")
    style.save_png(figure, path)


def _by_method(rows: Sequence[SubjectScores]) -> dict[str, list[Mapping[str, TissueScore]]]:
    """Scores of each method, in the order of the subjects' names."""
    by_method: dict[str, dict[str, Mapping[str, TissueScore]]] = {}
    for row in rows:
        by_method.setdefault(row.method, {})[row.subject] = row.scores.tissues
    return {method: [of[subject] for subject in sorted(of)] for method, of in by_method.items()}


def _shown(
    by_method: Mapping[str, Sequence[Mapping[str, TissueScore]]], title: str
) -> tuple[list[str], str]:
    """The tissues that a figure has room for, and its title, which says so if it lacks any."""
    first = next(iter(by_method.values()))
    tissues = list(first[0])
    if len(tissues) <= _MOST_TISSUES:
        return tissues, title
    worst = {name: np.nan_to_num([s[name].dice for s in first], nan=1).mean() for name in tissues}
    chosen = set(sorted(tissues, key=lambda name: worst[name])[:_MOST_TISSUES])
    note = f"the {_MOST_TISSUES} of {len(tissues)} tissues with the lowest Dice"
    return [name for name in tissues if name in chosen], f"{title}, {note}" if title else note


def _points(method: int, colour: Any, size: float) -> dict[str, Any]:
    """How a method's points look: filled for the first one."""
    return {
        "linestyle": "none",
        "marker": style.MARKERS[method % len(style.MARKERS)],
        "markersize": size,
        "markeredgewidth": 0.7,
        "markeredgecolor": colour,
        "markerfacecolor": "white" if method else colour,
    }


def _draw_dice(
    axes: Axes, x: float, width: float, colour: Any, scores: Sequence[TissueScore], method: int
) -> None:
    """A column of the box plot: a box on the left, if there is one, and the points beside it."""
    dice = np.array([score.dice for score in scores])
    known = dice[~np.isnan(dice)]
    left, right = -0.15, 0.15
    if known.size >= _FEWEST_FOR_A_BOX:
        left, right = 0.05, 0.4
        lines = {part: {"linewidth": 0.6} for part in ("whiskerprops", "capprops")}
        look: dict[str, Any] = {"medianprops": {"color": "black", "linewidth": 1.0}} | lines
        place: dict[str, Any] = {"positions": [x - 0.2 * width], "widths": 0.3 * width}
        box = axes.boxplot(
            known, **place, **look, whis=(0, 100), patch_artist=True, manage_ticks=False
        )
        box["boxes"][0].set(facecolor="white" if method else (*colour, 0.25), linewidth=0.6)
    # Side by side in the order of the subjects: the same place in the columns of all methods.
    shift = left + (right - left) * (np.arange(dice.size) + 0.5) / dice.size
    # Not clipped: a missed structure lies on the lower edge.
    axes.plot(x + shift * width, dice, clip_on=False, zorder=3, **_points(method, colour, size=3))
    missed = sum(score.missed for score in scores)
    deviation = f"\n± {known.std(ddof=1):.3f}" if known.size > 1 else ""
    mean = f"{known.mean():.3f}{deviation}\n" if known.size else ""
    said = f"{mean}n = {known.size}" + (f", {missed} missed" if missed else "")
    above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    above |= {"ha": "center", "va": "bottom", "fontsize": style.SMALL_POINTS}
    axes.annotate(said, (x, 1), (0, 3), **above)


def _draw_volumes(axes: Axes, tissue: str, colour: Any, scores: Sequence[TissueScore]) -> None:
    truth = np.array([score.volume_truth for score in scores])
    predicted = np.array([score.volume_predicted for score in scores])
    difference = predicted - truth
    axes.axhline(0, color="0.6", linewidth=0.6)
    marker: dict[str, Any] = {"marker": _MARKERS.get(tissue, "D"), "markeredgewidth": 0}
    axes.plot((truth + predicted) / 2, difference, ls="none", markersize=4, color=colour, **marker)
    axes.margins(x=0.12, y=0.12)
    if difference.size >= _FEWEST_FOR_LIMITS:
        mean, spread = difference.mean(), _LIMITS * difference.std(ddof=1)
        lines = (mean, mean + spread, mean - spread)
        for height, dashes in zip(lines, ("solid", style.DASHED, style.DASHED), strict=True):
            axes.axhline(height, color=colour, linestyle=dashes, linewidth=0.9)
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
            number = f"{height:+.3g}".replace("-", "−")
            axes.text(1.01, height, number, fontsize=style.SMALL_POINTS, color="0.3", **place)
        axes.update_datalim([(truth[0], height) for height in lines])
        axes.autoscale_view()
    axes.xaxis.set_major_locator(MaxNLocator(5))
