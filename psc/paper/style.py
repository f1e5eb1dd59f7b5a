"""What all figures share: type, resolution, and how they reach the disk.

Figures are matplotlib ``Figure`` objects, never pyplot's: no window, no state left behind, and
nothing to close. Sizes are those of the printed page, so that type is readable without scaling.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from psc.errors import ConfigError, DataError

# ----------------------------------------
# Generated parts of a text file, between two comments that name them.


def markers(name: str) -> tuple[str, str]:
    """The lines before and after a generated part of a Markdown file."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def insert_between(path: Path, name: str, content: str) -> None:
    """Replace what lies between the markers of a file.

    Raises:
        DataError: if the file does not have both markers, in order.
    """
    first, last = markers(name)
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise DataError(f"{path} has no place for it; add the lines {first} and {last}")
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(f"{before}{first}\n\n{content}\n\n{last}{after}", encoding="utf-8")
    partial.replace(path)


PAGE_WIDTH = 6.9  # inches, the text width of a two-column page
_FONT_POINTS = 7.0
DOTS_PER_INCH = 300
GAP = 0.05  # inches between panels
_MARGIN = 0.05  # inches around the row, half a line of type
_LINE_HEIGHT = 0.125  # inches, of a line of type in the titles
_SMALLEST_PANEL = 1.3  # inches; below it titles collide, so the figure grows wider than the page
_SCALE_BAR_EXTENT = 0.3  # of the image's width, at most

_STYLE: dict[Any, Any] = {
    "font.size": _FONT_POINTS,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look alike on every machine
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": _FONT_POINTS,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.alpha": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
}


@contextmanager
def page_style() -> Iterator[None]:
    """Settings for a printed page while axes are made, and the caller's own again afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a figure
        mpl.rcParams.update(_STYLE)
        yield


def checked_png(path: Path | str) -> Path:
    """The path of a figure, refused before anything is computed unless it ends in ``.png``.

    Raises:
        ConfigError: the name ends otherwise.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ConfigError(f"figures are written as PNG; name the file *.png, found {path}")
    return path


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 300 dots per inch, completely or not at all.

    Missing folders are made. The file appears under its name only when it is complete, so a reader
    or an interrupted run never sees half of one.

    Args:
        figure: the figure, in inches.
        path: where to; an existing file is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        FigureCanvasAgg(figure).print_figure(unfinished, format="png", dpi=DOTS_PER_INCH)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def row_of_panels(
    count: int,
    image_shape: tuple[int, ...],
    pixel_size: tuple[float, float],
    *,
    title_lines: int,
    right: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Empty panels side by side, as wide as a page if they fit and in the images' proportions.

    Args:
        count: number of panels.
        image_shape: (H, W) of the images, pixels.
        pixel_size: extent of a pixel along (y, x), any unit.
        title_lines: lines of type that :func:`show_image` is going to write above a panel.
        right: inches to leave free beside the last panel.

    Returns:
        The figure and its panels, left to right.
    """
    around = 2 * _MARGIN + (count - 1) * GAP + right
    panel = max(_SMALLEST_PANEL, (PAGE_WIDTH - around) / count)
    panel_height = panel * (image_shape[0] * pixel_size[0]) / (image_shape[1] * pixel_size[1])
    width = count * panel + around
    height = panel_height + 2 * _MARGIN + title_lines * _LINE_HEIGHT
    figure = Figure(figsize=(width, height))
    panels = []
    for i in range(count):
        left = _MARGIN + i * (panel + GAP)
        box = (left / width, _MARGIN / height, panel / width, panel_height / height)
        panels.append(figure.add_axes(box))
    return figure, panels


def show_image(
    panel: Axes, image: npt.NDArray[Any], titles: Sequence[str], cmap: str = "gray"
) -> None:
    """Fill a panel with an image and write its titles above it.

    Args:
        panel: one of :func:`row_of_panels`.
        image: (H, W) in [0, 1], or (H, W, 3) red, green, blue in [0, 1].
        titles: lines of type from the top, the first in bold; empty ones leave their space.
        cmap: matplotlib colour map of an (H, W) image.
    """
    panel.imshow(image, cmap=cmap, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    panel.set_axis_off()
    for i, text in enumerate(titles):
        panel.annotate(
            text,
            (0, 1),
            (0, 72 * (_MARGIN / 2 + (len(titles) - 1 - i) * _LINE_HEIGHT)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            weight="normal" if i else "bold",
            color="0.25" if i else "black",
        )


def add_scale_bar(panel: Axes, image_shape: tuple[int, ...], nanometres: float) -> None:
    """Draw a bar in a panel's lower left, of the longest of 1, 2, 5, 10 ... nm that fits.

    Args:
        panel: a panel that shows an image.
        image_shape: (H, W) of the image, pixels.
        nanometres: extent of a pixel along x.
    """
    rows, columns = image_shape
    longest = _SCALE_BAR_EXTENT * columns * nanometres
    power = 10.0 ** np.floor(np.log10(longest))
    length = float(power * max(step for step in (1, 2, 5) if step == 1 or step * power <= longest))
    label = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    left, bottom, thickness = 0.04 * columns, 0.95 * rows, 0.015 * rows
    bar = Rectangle(
        (left, bottom - thickness), length / nanometres, thickness, color="white", linewidth=0
    )
    bar.set_path_effects([patheffects.withStroke(linewidth=1.2, foreground="black")])
    panel.add_patch(bar)
    text = panel.text(left, bottom - 1.8 * thickness, label, color="white", va="bottom")
    text.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="black")])
