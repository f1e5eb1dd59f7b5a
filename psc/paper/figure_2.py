"""Figure 2: a real kernel's higher-order SVD and the separable kernels that it is the sum of.

Every grid shows numbers of ``decompose`` (Section 3.1, Eqs. 2, 3); none is a sketch.
"""

from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from psc.block.convolution import AXES
from psc.block.unit import make_unit
from psc.decomposition import HOSVD, hosvd, ownership, separable_terms, split_core
from psc.decomposition.hosvd import core_sizes
from psc.networks.unet import UNet
from psc.paper.drawing import LARGE, NORMAL, STREAM_COLOURS, Page, Point, tint
from psc.paper.style import PAGE_WIDTH, page_style


@dataclass(frozen=True)
class Term:
    """One sub-tensor of the core, and the separable kernel that it leads to."""

    axis: int  # α, along which the kernel separates: 0, 1 or 2 (D, H, W)
    index: int  # β, from 0
    core: Tensor  # S^{α,β} (J1, J2, J3), zero elsewhere (Eq. 2).
    owned: Tensor  # bool (J1, J2, J3), the entries of S that it holds
    rod: Tensor  # A^{l,(α)} (J_α,), of norm 1
    plane: Tensor  # A^l's other factor, over the other two axes in their order
    kernel: Tensor  # A^l (J1, J2, J3), the product of the two (Eq. 3).
    energy: float  # its share of the kernel's sum of squares


@dataclass(frozen=True)
class Decomposition:
    """A kernel of one channel (J1, J2, J3), its HOSVD, and terms whose sum is the kernel."""

    kernel: Tensor
    hosvd: HOSVD
    terms: tuple[Term, ...]


def first_kernel(seed: int = 0) -> Tensor:
    """The first kernel of the EM application's U-Net as a training begins, float64 (3, 3, 3).

    Its first convolution reads one channel, so that C = 1, as in the paper's Figure 2b. The
    caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(make_unit("conv3d"), depth=1)
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv3d))
    return convolution.weight.detach()[0, 0].double()


def decompose(kernel: Tensor) -> Decomposition:
    """HOSVD of a kernel, and sub-tensors of the core along D, H and W in turn.

    In this order the three orientations share the core, and slices of large singular values come
    first. It ends when the slices of one axis are all taken: then the terms' sum is the kernel.
    """
    found = hosvd(kernel.unsqueeze(-1))
    sizes = core_sizes(found.core)
    pairs: list[tuple[int, int]] = []
    for axis, index in ((t % AXES, t // AXES) for t in count()):
        if index < sizes[axis]:
            pairs.append((axis, index))
            if index == sizes[axis] - 1:
                break
    selection = torch.tensor(pairs)
    cores, owned = split_core(found.core, selection), ownership(selection, sizes)
    groups = separable_terms(found, selection)
    total = float(kernel.square().sum()) or 1.0
    terms = tuple(
        Term(
            axis=axis,
            index=index,
            core=core[..., 0],
            owned=own,
            rod=groups[axis].lines[index],
            plane=groups[axis].planes[index, ..., 0],
            kernel=groups[axis].kernels()[index, ..., 0],
            energy=float(core.square().sum()) / total,
        )
        for (axis, index), core, own in zip(pairs, cores, owned, strict=True)
    )
    return Decomposition(kernel, found, terms)


# Inches.
_HEIGHT = 4.74
_LEANING = ((0.15, 0.0), (-0.085, -0.078))  # a voxel of a layer: steps along W and along H
_LAYER = 0.31  # from one layer along D to the next
_WIDE, _TALL = 3 * (0.15 + 0.085), 2 * _LAYER + 3 * 0.078  # what three layers cover
_SQUARE = 0.085  # of rods and planes
_NEUTRAL = "#303030"


@page_style()
def decomposition_figure(seed: int = 0) -> Figure:
    """Figure 2: A and its core, the core's sub-tensors, and the separable kernel of each."""
    found = decompose(first_kernel(seed))
    page = Page(PAGE_WIDTH, _HEIGHT)
    _draw_hosvd(page, found, seed, _HEIGHT - 0.08)
    _draw_terms(page, found, _HEIGHT - 1.52)
    return page.figure


def _head(page: Page, top: float, letter: str, words: str) -> None:
    style = {"ha": "left", "va": "baseline"}
    page.write(0.06, top - 0.1, letter, fontsize=LARGE, weight="bold", **style)
    page.write(0.3, top - 0.1, words, fontsize=NORMAL, **style)


def _draw_hosvd(page: Page, found: Decomposition, seed: int, top: float) -> None:
    words = "Higher-order SVD of a kernel A: the first of the U-Net's first convolution"
    _head(page, top, "(a)", f"{words}, initialised with seed {seed}")
    y = top - 0.25
    middle = y - _TALL / 2
    to_w, to_h = ("W", (0.2, 0.0), (0.06, 0.0)), ("H", (-0.14, -0.128), (-0.04, -0.04))
    page.directions(0.36, middle + 0.1, to_w, to_h, ("D", (0.0, -0.28), (0.0, -0.06)))
    for x, tensor, name in ((0.86, found.kernel, "A"), (2.14, found.hosvd.core[..., 0], "core S")):
        _layers(page, x, y, tensor, _NEUTRAL)
        page.write(x + _WIDE / 2, y - _TALL - 0.1, name)
    page.write(1.85, middle, "=", fontsize=10)
    x, edge = 3.05, 0.15
    for axis, matrix in enumerate(found.hosvd.factors):
        page.write(x, middle, f"×{chr(0x2081 + axis)}", fontsize=9)
        corner = x + 0.13, middle + 1.5 * edge
        _shaded(page, corner, matrix, STREAM_COLOURS[axis], 1.0, _square(edge))
        words = f"U⁽{'¹²³'[axis]}⁾, along {'DHW'[axis]}"
        page.write(x + 0.13 + 1.5 * edge, middle - 1.5 * edge - 0.1, words)
        x += 0.83
    _scale(page, 5.72, middle + 0.14)


def _draw_terms(page: Page, found: Decomposition, top: float) -> None:
    """A column for each term: its sub-tensor of S above, its separable kernel below."""
    shares = [sum(t.energy for t in found.terms if t.axis == axis) for axis in range(AXES)]
    held = ", ".join(f"{a} {100 * s:.0f} %" for a, s in zip("DHW", shares, strict=True))
    below = top - 1.42
    _head(page, top, "(b)", "S as a sum of sub-tensors Sᵅᵝ, each on slice β across axis α")
    words = "A as a sum of separable kernels, each a rod (1D) times a plane (2D)"
    _head(page, below, "(c)", f"{words}; energy by axis: {held}")
    core_scale, kernel_scale = (float(t.abs().max()) for t in (found.hosvd.core, found.kernel))
    pitch = (PAGE_WIDTH - 0.2 - _WIDE) / max(1, len(found.terms) - 1)
    for i, term in enumerate(found.terms):
        colour, x = STREAM_COLOURS[term.axis], 0.1 + i * pitch
        middle = x + _WIDE / 2
        _layers(page, x, top - 0.25, term.core, colour, core_scale, term.owned)
        words = f"α = {'DHW'[term.axis]}, β = {term.index + 1}"
        page.write(middle, top - 0.25 - _TALL - 0.1, words)
        _layers(page, x, below - 0.25, term.kernel, colour, kernel_scale)
        y = below - 0.25 - _TALL - 0.1
        left = middle - 2.75 * _SQUARE
        for x_of, factor in ((left, term.rod[:, None]), (left + 2.5 * _SQUARE, term.plane)):
            largest = float(factor.abs().max()) or 1.0
            _shaded(page, (x_of, y), factor, colour, largest, _square(_SQUARE))
        page.write(left + 1.75 * _SQUARE, y - 1.5 * _SQUARE, "×")
        page.write(middle, y - 0.38, f"{100 * term.energy:.1f} %", weight="bold")
        if i:
            for y in (top, below):
                page.write(x - (pitch - _WIDE) / 2, y - 0.25 - _TALL / 2, "+", fontsize=8)


def _layers(
    page: Page,
    x: float,
    y: float,
    values: Tensor,
    colour: str,
    largest: float | None = None,
    owned: Tensor | None = None,
) -> None:
    """A tensor as layers along D, W to the right, H towards us; faint where it is not ``owned``."""
    largest = largest or float(values.abs().max())
    for k, layer in enumerate(values):
        corner = x - len(layer) * _LEANING[1][0], y - k * _LAYER
        solid = None if owned is None else owned[k]
        _shaded(page, corner, layer, colour, largest, _LEANING, solid)


def _square(edge: float) -> tuple[Point, Point]:
    return (edge, 0.0), (0.0, -edge)


def _shaded(
    page: Page,
    corner: Point,
    values: Tensor,
    colour: str,
    largest: float,
    steps: tuple[Point, Point],
    solid: Tensor | None = None,
) -> None:
    """The roots of a matrix's magnitudes as shades; ``steps``: along a row, along a column."""
    along, down = np.array(steps)
    cells = []
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            start = np.array(corner) + j * along + i * down
            quad = [start, start + along, start + along + down, start + down]
            cells.append((solid is None or bool(solid[i, j]), abs(value), quad))
    # Faint outlines first, so that they do not cross the others.
    solids, magnitudes, quads = zip(*sorted(cells, key=lambda cell: cell[0]), strict=True)
    shades = PowerNorm(0.5, 0, largest, clip=True)(np.array(magnitudes))
    page.polygons(quads, _shades(colour)(shades), ["0.3" if one else "0.82" for one in solids])


def _shades(colour: str) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("magnitude", ["white", tint(colour, 0.5), colour])


def _scale(page: Page, x: float, y: float) -> None:
    """What shades mean."""
    steps = 60
    edge = 0.72 / steps
    for row, colour in enumerate((_NEUTRAL, *STREAM_COLOURS)):
        low = y - 0.075 * row
        lefts = x + edge * np.arange(steps)
        quads = [
            [(a, low), (a + edge, low), (a + edge, low + 0.07), (a, low + 0.07)] for a in lefts
        ]
        fills = _shades(colour)(np.sqrt((np.arange(steps) + 0.5) / steps))
        page.polygons(quads, fills, fills, 0.2, 1)
    page.write(x, y + 0.14, "0")
    page.write(x + 0.72, y + 0.14, "largest")
    words = "magnitudes; A and its terms\nshare a scale, S and its parts\n"
    page.write(x + 0.36, y - 0.46, f"{words}another; rods, planes their own", linespacing=1.1)
