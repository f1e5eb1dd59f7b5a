"""What all figures share: colours, type, panels, scale bars, and how a figure reaches the disk.

Figures are matplotlib ``Figure`` objects, never pyplot's: no window, no state left behind, and
nothing to close. Sizes are those of the printed page, so that type is readable without scaling.
"""

import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from psc.errors import ConfigError

PAGE_WIDTH = 6.9  # inches, the text width of a two-column page
COLUMN_WIDTH = 3.35  # inches, of one of its columns
GAP = 0.05  # inches between panels
MARGIN = 0.05  # inches around them
LINE_HEIGHT = 0.125  # inches, of a line of type
SMALL_POINTS = 6.0  # nothing is smaller
DOTS_PER_INCH = 300
DASHED = (0.0, (4.0, 1.5))

_FONT_POINTS = 7.0
_SMALLEST_PANEL = 1.3  # inches; below it titles collide, so the figure grows wider than asked for
_SCALE_BAR_EXTENT = 0.3  # of the panel's width, at most

# Okabe and Ito (2008), told apart with any colour vision.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY_BLUE, BLACK = "#E69F00", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
MARKERS = "osD^vPX"
"""Of points, so that colours are not the only distinction."""

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
    "pdf.fonttype": 42,  # type that publishers take
}


@contextmanager
def page_style() -> Iterator[None]:
    """Settings for a printed page while axes are made, and the caller's own again afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a figure
        mpl.rcParams.update(_STYLE)
        yield


def colour(i: int) -> str:
    """Of the i-th curve."""
    return PALETTE[i % len(PALETTE)]


def marker(i: int) -> str:
    """Of the i-th curve; they go round out of step with the colours, so that 49 curves differ."""
    return MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]


def checked_png(path: Path | str) -> Path:
    """The path of a figure, refused before anything is computed unless it ends in ``.png``."""
    path = Path(path)
    if path.suffix != ".png":
        raise ConfigError(f"figures are written as PNG; name the file *.png, found {path}")
    return path


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 300 dots per inch, completely or not at all; missing folders are made."""
    _save(figure, path)


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.pdf`` and ``name.png``, both or neither; equal figures give equal bytes."""
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    with page_style():
        _save(figure, pdf, png)
    return pdf, png


def _save(figure: Figure, *paths: Path) -> None:
    unfinished = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        for path, partial in zip(paths, unfinished, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".pdf":
                dateless = {"CreationDate": None}
                FigureCanvasPdf(figure).print_figure(partial, format="pdf", metadata=dateless)
            else:
                FigureCanvasAgg(figure).print_figure(partial, format="png", dpi=DOTS_PER_INCH)
        for path, partial in zip(paths, unfinished, strict=True):
            partial.replace(path)
    finally:
        for partial in unfinished:
            partial.unlink(missing_ok=True)


def panel_grid(
    count: int,
    shape: tuple[int, ...],
    pixel_size: tuple[float, float],
    *,
    columns: int | None = None,
    title_lines: int = 2,
    title: str = "",
    note: str = "",
    right: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """A figure of empty panels, row by row, for images (H, W) of pixels that extend so far in y, x.

    As wide as a column of a page; without ``columns`` all side by side, as wide as the page. It
    grows wider where panels would be too small for their titles, lines of type that
    :func:`show_image` writes. ``title`` stands above all panels, ``note`` below, broken into lines;
    ``right``: inches beside the last panel.
    """
    width = PAGE_WIDTH if columns is None else COLUMN_WIDTH
    columns = columns or count
    around = 2 * MARGIN + (columns - 1) * GAP + right
    panel = max(_SMALLEST_PANEL, (width - around) / columns)
    width = columns * panel + around
    rows = -(-count // columns)
    lines = textwrap.wrap(note, round(76 * width / COLUMN_WIDTH))
    height = panel * shape[0] * pixel_size[0] / (shape[1] * pixel_size[1])
    row_height = height + (title_lines + (0.4 if rows > 1 else 0)) * LINE_HEIGHT
    above = 1.4 * LINE_HEIGHT if title else 0.0
    below = len(lines) * 0.9 * LINE_HEIGHT + (MARGIN if lines else 0.0)
    total = above + rows * row_height + (rows - 1) * GAP + below + 2 * MARGIN
    figure = Figure(figsize=(width, total))
    edge = MARGIN / width
    figure.text(edge, 1 - MARGIN / total, title, va="top", weight="bold")
    small: dict[str, Any] = {"fontsize": SMALL_POINTS, "color": "0.25"}
    figure.text(edge, MARGIN / total, "\n".join(lines), va="bottom", **small)
    panels = []
    for i in range(count):
        row, column = divmod(i, columns)
        left = MARGIN + column * (panel + GAP)
        bottom = total - MARGIN - above - (row + 1) * row_height - row * GAP
        box = (left / width, bottom / total, panel / width, height / total)
        panels.append(figure.add_axes(box))
    return figure, panels


def show_image(
    panel: Axes, image: npt.NDArray[Any], titles: Sequence[str], cmap: str = "gray"
) -> None:
    """Fill a panel with an image, (H, W) or (H, W, 3) in [0, 1], and write its titles above it.

    Titles are lines of type from the top, the first in bold; empty ones leave their space.
    """
    panel.imshow(image, cmap=cmap, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    panel.set_axis_off()
    for i, text in enumerate(titles):
        panel.annotate(
            text,
            (0, 1),
            (0, 72 * (MARGIN / 2 + (len(titles) - 1 - i) * LINE_HEIGHT)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            weight="normal" if i else "bold",
            color="0.25" if i else "black",
        )


def outline(artist: Artist, linewidth: float = 1.6) -> None:
    """A black line around something white, to be seen on any image."""
    artist.set_path_effects([patheffects.withStroke(linewidth=linewidth, foreground="black")])


def scale_bar(width: float, unit: str) -> tuple[float, str]:
    """Length and label of a bar: the longest of 1, 2, 5, 10, … that fits into 0.3 of a width."""
    longest = _SCALE_BAR_EXTENT * width
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step == 1 or step * power <= longest)
    shown, unit = (length / 1000, "µm") if unit == "nm" and length >= 1000 else (length, unit)
    return length, f"{shown:g} {unit}"


def add_scale_bar(panel: Axes, width: float, unit: str = "nm") -> None:
    """Draw a bar in the lower left of a panel whose image is ``width`` nm (or ``unit``) wide."""
    length, label = scale_bar(width, unit)
    place: dict[str, Any] = {"transform": panel.transAxes, "color": "white"}
    bar = Rectangle((0.04, 0.05), length / width, 0.015, linewidth=0, **place)
    panel.add_patch(bar)
    outline(bar, 1.2)
    outline(panel.text(0.04, 0.077, label, va="bottom", **place))


def bounding_box(mask: npt.NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...] | None:
    """The box around all that is true, and ``margin`` more where there is more; None: all false."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(
        slice(max(0, side.start - margin), min(length, side.stop + margin))
        for side, length in zip(found[0], mask.shape, strict=True)
    )
