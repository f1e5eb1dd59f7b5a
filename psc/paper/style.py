"""What all figures share: colours, type, panels, scale bars, and how a figure reaches the disk.

Figures are matplotlib ``Figure`` objects, never pyplot's: no window, no state left behind, and
nothing to close. Sizes are those of the printed page, so that type is readable without scaling.
"""

import logging
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from psc.files import replacing

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells each glyph of a PDF

PAGE_WIDTH = 6.9  # inches, the text width of a two-column page
COLUMN_WIDTH = 3.35  # inches, of one of its columns
ROW_HEIGHT = 2.4  # inches, of plots in a row
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


def look(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th curve; out of step with each other, so that 49 differ."""
    j = i // len(PALETTE)
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[(i + j) % len(MARKERS)]}


def plots(rows: int, columns: int, **shared: Any) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure as wide as a page, and its axes (rows, columns)."""
    figure = Figure(figsize=(PAGE_WIDTH, ROW_HEIGHT * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def checked_png(path: Path) -> Path:
    """The path of a figure, refused unless it ends in ``.png``."""
    if path.suffix != ".png":
        raise ConfigError(f"figures are written as PNG; name the file *.png, found {path}")
    return path


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 300 dots per inch, completely or not at all; missing folders are made."""
    _save(figure, checked_png(path))


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.pdf`` and ``name.png``, both or neither; equal figures give equal bytes."""
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    _save(figure, pdf, png)
    return pdf, png


@page_style()
def _save(figure: Figure, *paths: Path) -> None:
    with ExitStack() as whole:
        for path in paths:
            partial = whole.enter_context(replacing(path))
            if path.suffix == ".pdf":
                dateless = {"CreationDate": None}
                FigureCanvasPdf(figure).print_figure(partial, format="pdf", metadata=dateless)
            else:
                FigureCanvasAgg(figure).print_figure(partial, format="png", dpi=DOTS_PER_INCH)


def panel_rows(
    ratios: Sequence[float],
    columns: int | Sequence[int],
    *,
    width: float = PAGE_WIDTH,
    title_lines: int = 2,
    title: Sequence[str] = (),
    heads: Sequence[Sequence[str]] = (),
    note: str = "",
    room: tuple[float, float] = (0.0, 0.0),
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of empty panels for images, a row for each ratio of height to width.

    ``columns``: panels of every row, or of each. The figure grows wider where panels would be too
    small for their titles, lines of type that :func:`show_image` writes. Type above all panels
    (``title``) and above each row (``heads``) has its first line in bold; ``note`` stands below,
    broken into lines; ``room``: inches left free beside the last panel and below.
    """
    counts = [columns] * len(ratios) if isinstance(columns, int) else columns
    lead = 0.6 * LINE_HEIGHT if heads else 0.0
    heads = heads or [()] * len(ratios)
    around = 2 * MARGIN + (max(counts) - 1) * GAP + room[0]
    panel = max(_SMALLEST_PANEL, (width - around) / max(counts))
    width = max(counts) * panel + around
    lines = textwrap.wrap(note, round(76 * width / COLUMN_WIDTH))
    spaced = title_lines + (0.4 if len(ratios) > 1 else 0)
    heights = [
        panel * ratio + lead + (spaced + len(head)) * LINE_HEIGHT
        for ratio, head in zip(ratios, heads, strict=True)
    ]
    above = (len(title) + 0.4) * LINE_HEIGHT if title else 0.0
    below = room[1] + len(lines) * 0.9 * LINE_HEIGHT + (MARGIN if lines else 0.0)
    total = above + sum(heights) + (len(ratios) - 1) * GAP + below + 2 * MARGIN
    figure = Figure(figsize=(width, total))
    edge, y = MARGIN / width, total - MARGIN

    def write(lines: Sequence[str], top: float) -> None:
        for i, line in enumerate(lines):
            place = edge, (top - i * LINE_HEIGHT) / total
            figure.text(*place, line, va="top", weight="normal" if i else "bold")

    small: dict[str, Any] = {"fontsize": SMALL_POINTS, "color": "0.25"}
    figure.text(edge, MARGIN / total, "\n".join(lines), va="bottom", **small)
    write(title, y)
    y -= above
    rows = []
    for count, ratio, head, height in zip(counts, ratios, heads, heights, strict=True):
        write(head, y - lead)
        y -= height
        lefts = (MARGIN + column * (panel + GAP) for column in range(count))
        size = panel / width, panel * ratio / total
        rows.append([figure.add_axes((left / width, y / total, *size)) for left in lefts])
        y -= GAP
    return figure, rows


def show_image(
    panel: Axes, image: npt.NDArray[Any], titles: Sequence[str], cmap: str = "gray"
) -> None:
    """Fill a panel with an image, (H, W) or (H, W, 3) in [0, 1], and write its titles above it.

    Titles are lines of type from the top, the first in bold; empty ones leave their space.
    """
    panel.imshow(image, cmap=cmap, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    panel.set_axis_off()
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    for i, text in enumerate(titles):
        above = 72 * (MARGIN / 2 + (len(titles) - 1 - i) * LINE_HEIGHT)
        weight, colour = ("normal", "0.25") if i else ("bold", "black")
        place |= {"weight": weight, "color": colour, "va": "bottom"}
        panel.annotate(text, (0, 1), (0, above), **place)


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


def bounding_box(
    mask: npt.NDArray[np.bool_], margin: int | Sequence[int] = 0
) -> tuple[slice, ...] | None:
    """The box around all that is true, and ``margin`` more where there is more; None: all false."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    return tuple(
        slice(max(0, side.start - more), min(length, side.stop + more))
        for side, length, more in zip(found[0], mask.shape, margins, strict=True)
    )
