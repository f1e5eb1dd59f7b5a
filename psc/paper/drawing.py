"""What drawings are made of: a page in inches, boxes of voxels, arrows, marks, type."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from psc.block.convolution import Triple
from psc.paper.style import BLUE, GREEN, VERMILLION, page_style

STREAM_COLOURS = (BLUE, VERMILLION, GREEN)
"""Of the streams whose 1D convolution runs along D, H and W."""

FULL_COLOUR = "#8C8C8C"
"""Of 3D convolutions."""

SMALL, NORMAL, LARGE = 6.0, 7.0, 8.0
"""Points; nothing is smaller than the first."""

Point = tuple[float, float]
_Vector = npt.NDArray[np.float64]

_DEPTH_STEP = np.array((0.55, 0.42))  # of a voxel's edge: where the next voxel along D lies


def tint(colour: str, share: float) -> str:
    """The colour mixed with white; ``share`` 1 leaves it as it is, 0 makes it white."""
    mixed = [1 - share * (1 - channel) for channel in to_rgb(colour)]
    return str(to_hex((mixed[0], mixed[1], mixed[2])))


def kernel_size(kernel: Triple, voxel: float) -> Point:
    """Inches that :func:`kernel_box` covers, across and up."""
    d, h, w = kernel
    return (w + _DEPTH_STEP[0] * d) * voxel, (h + _DEPTH_STEP[1] * d) * voxel


def kernel_reach(kernel: Triple, voxel: float) -> Point:
    """Inches from its centre to where a vertical line enters above and leaves below: it leans."""
    d, h, w = kernel
    width, height = kernel_size(kernel, voxel)
    back, up, across = d * _DEPTH_STEP[0] * voxel, d * _DEPTH_STEP[1] * voxel, w * voxel
    above = np.interp(width / 2, [0, back, width], [h * voxel, height, height])
    below = np.interp(width / 2, [0, across, width], [0, 0, up])
    return float(above) - height / 2, height / 2 - float(below)


def _quad(origin: _Vector, first: _Vector, second: _Vector) -> _Vector:
    return np.stack([origin, origin + first, origin + first + second, origin + second])


class Page:
    """A white page whose coordinates are inches from its lower left."""

    @page_style()
    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def write(self, x: float, y: float, words: str, **style: Any) -> None:
        """Type, centred at a point unless ``style`` says otherwise."""
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "color": "0.15"}
        self.axes.text(x, y, words, zorder=5, **look | style)

    def arrow(self, start: Point, end: Point, *, bend: float = 0.0, **style: Any) -> None:
        """A thin arrow between two points; ``bend``: its height over its length."""
        look: dict[str, Any] = {"color": "0.25", "linewidth": 0.7, "arrowstyle": "-|>"}
        look |= {"mutation_scale": 5, "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"} | style
        curve = f"arc3,rad={bend}"
        self.axes.add_patch(FancyArrowPatch(start, end, connectionstyle=curve, **look))

    def line(self, *points: Point, **style: Any) -> None:
        """A thin line through the points."""
        look: dict[str, Any] = {"color": "0.25", "linewidth": 0.7, "solid_capstyle": "butt"}
        self.axes.plot([x for x, _ in points], [y for _, y in points], **look | style)

    def frame(self, left: float, bottom: float, width: float, height: float) -> None:
        """A rounded box behind what belongs together."""
        rounded = "round,pad=0,rounding_size=0.05"
        box = FancyBboxPatch((left, bottom), width, height, boxstyle=rounded)
        box.set(facecolor="0.955", edgecolor="0.75", linewidth=0.5, zorder=0.5)
        self.axes.add_patch(box)

    def rectifier(self, x: float, y: float, radius: float = 0.052) -> None:
        """The mark of an activation: a small circle with a rectifier's curve."""
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.25", "linewidth": 0.6}
        self.axes.add_patch(Circle((x, y), radius, zorder=3, **look))
        r = radius * 0.6
        self.line((x - r, y - r / 2), (x, y - r / 2), (x + r, y + r * 0.8), zorder=4)

    def kernel_box(self, centre: Point, kernel: Triple, colour: str, voxel: float) -> None:
        """A kernel as a box of voxels, seen from the front, above and the right.

        Voxels along D go into the page, H down, W to the right; ``colour`` is that of the front, of
        which the other faces are a shade; ``voxel``: an edge in inches.
        """
        d, h, w = kernel
        size = np.array(kernel_size(kernel, voxel))
        corner = np.array(centre) - size / 2
        right, up, back = np.array((voxel, 0.0)), np.array((0.0, voxel)), voxel * _DEPTH_STEP
        faces = (
            (corner, right, w, up, h, tint(colour, 0.75)),
            (corner + h * up, right, w, back, d, tint(colour, 0.4)),
            (corner + w * right, back, d, up, h, colour),
        )
        for origin, first, count, second, other_count, fill in faces:
            quads = [
                _quad(origin + i * first + j * second, first, second)
                for i in range(count)
                for j in range(other_count)
            ]
            self.polygons(quads, fill, "white", 0.35, 2)
            whole = [_quad(origin, count * first, other_count * second)]
            self.polygons(whole, "none", "0.15", 0.45, 2.1)

    def polygons(
        self, quads: Any, fills: Any, edges: Any, linewidth: float = 0.4, zorder: float = 2
    ) -> None:
        """Polygons whose fills and edges are colours, one for all or one each."""
        look: dict[str, Any] = {"facecolors": fills, "edgecolors": edges}
        cells = PolyCollection(quads, linewidths=linewidth, zorder=zorder, **look)
        self.axes.add_collection(cells, autolim=False)

    def directions(self, x: float, y: float, *steps: tuple[str, Point, Point]) -> None:
        """Where D, H and W point: name, step of the arrow, and where the name stands beyond it."""
        for name, (across, up), (right, above) in steps:
            end = (x + across, y + up)
            self.arrow((x, y), end, linewidth=0.6)
            self.write(end[0] + right, end[1] + above, name)
