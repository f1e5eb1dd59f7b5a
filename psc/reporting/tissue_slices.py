"""Slices of a tissue segmentation: what went in, what was wanted, what came out, where they differ.

Axes run to the subject's right, anterior and superior (RAS), and pictures follow the neurological
convention: the subject's left is on the left, anterior is at the top of an axial slice and at the
right of a sagittal one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from psc.datasets.mri.labels import CLASSES, TISSUES
from psc.errors import ConfigError, DataError
from psc.reporting.canvas import GAP, PAGE_WIDTH, checked_png, page_style, save_png
from psc.reporting.tissue_style import DIFFERENCE_COLOUR, tissue_colour

__all__ = ["slices_figure"]

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
        labels: true tissues (D, H, W), values of ``psc.datasets.mri.labels``.
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
