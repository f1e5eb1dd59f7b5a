"""Panels in a grid that is as wide as a column of print, and what is drawn on them."""

import textwrap

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from psc.reporting.canvas import GAP
from psc.reporting.disagreement import worst_regions
from psc.reporting.segmentation_figures import region_ellipse

__all__ = ["COLUMN_WIDTH", "circle_differences", "panel_grid"]

COLUMN_WIDTH = 3.35
"""Inches, of a column of a two-column page."""

_MARGIN = 0.05  # inches around everything
_LINE_HEIGHT = 0.125  # inches, of a line of type
_NOTE_POINTS = 6.0
_NOTE_CHARACTERS = 76  # that fit into a line of the note


def panel_grid(
    count: int,
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    *,
    title: str = "",
    note: str = "",
    columns: int = 2,
) -> tuple[Figure, list[Axes]]:
    """Empty panels in rows, each with room for two lines of titles, and a note below all.

    Args:
        count: number of panels.
        shape: (H, W) of the images, pixels.
        pixel_size: extent of a pixel along (y, x), any unit.
        title: above all panels, in bold.
        note: below all panels, in small type; broken into lines.
        columns: panels in a row.

    Returns:
        The figure and its panels, row by row.
    """
    rows = -(-count // columns)
    lines = textwrap.wrap(note, _NOTE_CHARACTERS)
    width = (COLUMN_WIDTH - 2 * _MARGIN - (columns - 1) * GAP) / columns
    height = width * shape[0] * pixel_size[0] / (shape[1] * pixel_size[1])
    row_height = height + 2.4 * _LINE_HEIGHT
    above = 1.4 * _LINE_HEIGHT if title else 0.0
    below = len(lines) * 0.9 * _LINE_HEIGHT + (_MARGIN if lines else 0.0)
    total = above + rows * row_height + (rows - 1) * GAP + below + 2 * _MARGIN
    figure = Figure(figsize=(COLUMN_WIDTH, total))
    if title:
        figure.text(_MARGIN / COLUMN_WIDTH, 1 - _MARGIN / total, title, va="top", weight="bold")
    if lines:
        figure.text(
            _MARGIN / COLUMN_WIDTH,
            _MARGIN / total,
            "\n".join(lines),
            va="bottom",
            fontsize=_NOTE_POINTS,
            color="0.25",
        )
    panels = []
    for i in range(count):
        row, column = divmod(i, columns)
        left = _MARGIN + column * (width + GAP)
        bottom = total - _MARGIN - above - (row + 1) * row_height - row * GAP
        box = (left / COLUMN_WIDTH, bottom / total, width / COLUMN_WIDTH, height / total)
        panels.append(figure.add_axes(box))
    return figure, panels


def circle_differences(
    panels: list[Axes], difference: npt.NDArray[np.floating], count: int, *, extent: float = 0.2
) -> None:
    """Numbered, dotted ellipses about the regions that hold most of a difference.

    The same ones in every panel, so that one can look up in the truth who is right.

    Args:
        panels: that show images of one shape.
        difference: (H, W), at least 0.
        count: regions at most; fewer where there is no more difference.
        extent: side of a region, of the picture's shorter side.
    """
    side = max(1, round(extent * min(difference.shape)))
    # In float32: sums of float16 overflow.
    bits = difference.astype(np.float32)
    for i, region in enumerate(worst_regions(bits, (side, side), count), start=1):
        (row, column), (rows, columns) = region_ellipse(bits, region)
        for panel in panels:
            ellipse = Ellipse(
                (column, row), 2 * columns, 2 * rows, fill=False, edgecolor="white", linewidth=1.1
            )
            ellipse.set_linestyle((0, (1.2, 0.9)))
            ellipse.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="black")])
            panel.add_patch(ellipse)
            # Beside the upper right of the ellipse, or wherever that is still on the picture.
            x, y = (
                at + sign * 0.85 * radius
                for at, sign, radius in (
                    (column, 1 if column + columns < 0.95 * difference.shape[1] else -1, columns),
                    (row, -1 if row - rows > 0.05 * difference.shape[0] else 1, rows),
                )
            )
            number = panel.text(
                x, y, str(i), color="white", weight="bold", ha="center", va="center"
            )
            number.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="black")])
