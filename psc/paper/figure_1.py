"""Figure 1: what P_mSC_n puts in the place of a pair of 3D convolutions, read from the modules.

Figures 1–3 are drawings of what this project really builds and computes. None repeats a list by
hand: channels, kernels, sizes and connections are read from modules, so that a drawing changes when
the code does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from matplotlib.figure import Figure
from torch import nn

from psc.block.block import PSCBlock
from psc.block.convolution import AXES, Triple, Unit
from psc.block.unit import make_unit
from psc.paper.drawing import (
    FULL_COLOUR,
    LARGE,
    NORMAL,
    STREAM_COLOURS,
    Page,
    kernel_reach,
    kernel_size,
)
from psc.paper.style import PAGE_WIDTH, page_style
from psc.paper.text import block_label, percent

BLOCKS = ((1, 1), (2, 2), (2, 3), (3, 2))
"""(m, n) of the blocks that Figure 1 shows beside 3D."""

DEPTH = 2
"""Consecutive 3D convolutions that each column stands for."""


@dataclass(frozen=True)
class DrawnConvolution:
    """A convolution as found in a module."""

    in_channels: int  # that enter and leave
    out_channels: int
    kernel: Triple  # its extent along (D, H, W)
    active: bool  # whether a non-linearity follows it

    @property
    def axes(self) -> int:
        """Along how many axes it looks further than one voxel: 3, 2 or 1."""
        return sum(extent > 1 for extent in self.kernel)


DrawnStream = tuple[DrawnConvolution, ...]
DrawnBlock = tuple[DrawnStream, ...]


def walk_unit(unit: nn.Module) -> tuple[DrawnBlock, ...]:
    """The blocks of a unit, each with its streams of convolutions; 3D ones are a single stream."""
    blocks = [part for part in unit.modules() if isinstance(part, PSCBlock)]
    if not blocks:
        return ((_convolutions(unit),),)
    return tuple(
        tuple(_convolutions(s, after=block.activation is not None) for s in block.streams)
        for block in blocks
    )


def _convolutions(part: nn.Module, *, after: bool = False) -> DrawnStream:
    """Those of a stream; ``after``: an activation follows the merging of several."""
    found = []
    for unit in part.modules():
        layers = dict(unit.named_children())
        if isinstance(conv := layers.get("conv"), nn.Conv3d):
            names = list(layers)
            active = "activation" in names[names.index("conv") :]
            d, h, w = conv.kernel_size
            found.append(DrawnConvolution(conv.in_channels, conv.out_channels, (d, h, w), active))
    if after:
        found[-1] = replace(found[-1], active=True)
    return tuple(found)


def stream_axis(stream: DrawnStream) -> int | None:
    """The axis across which a stream's planes lie, and its 1D kernel runs; None for 3D."""
    return next((c.kernel.index(1) for c in stream if c.axes == AXES - 1), None)


def stream_colour(stream: DrawnStream) -> str:
    """The colour of a stream's orientation."""
    axis = stream_axis(stream)
    return FULL_COLOUR if axis is None else STREAM_COLOURS[axis]


# Inches.
_HEIGHT, _MARGIN, _UNIT = 4.82, 0.05, 0.68
_INPUT, _OUTPUT = 4.25, 0.90  # heights of the lines at which the columns begin and end
_VOXEL = 0.055
_JOIN = 0.33  # from where streams join to the block's end
_MARK = 0.16  # below a kernel, for its activation
_CENTRE = 0.18  # of a stream's kernels, from the left of its strip; the rest is for their type
_THICK = {"linewidth": 2.2, "color": "0.15"}


@page_style()
def block_figure(
    in_channels: int = 24, out_channels: int = 72, blocks: Sequence[tuple[int, int]] = BLOCKS
) -> Figure:
    """Figure 1: a pair of 3D convolutions and the blocks that replace it, side by side.

    The default is the second level of the EM application's U-Net. M is capped at the channels that
    leave, as there. ``blocks``: (m, n) of each column after the first.
    """
    names = ["3D", *(block_label(f"p{m}sc{n}") for m, n in blocks)]
    units = [drawn_unit(mn, in_channels, out_channels) for mn in (None, *blocks)]
    walks = [walk_unit(unit) for unit in units]
    counts = [sum(p.numel() for p in unit.parameters()) for unit in units]
    widths = [_UNIT * max(len(block) for block in walk) for walk in walks]
    gaps = len(widths) - 1
    page_width = max(PAGE_WIDTH, 2 * _MARGIN + sum(widths) + gaps * 0.14)
    gap = (page_width - 2 * _MARGIN - sum(widths)) / max(1, gaps)
    page = Page(page_width, _HEIGHT)
    left = _MARGIN
    for name, walk, width, parameters in zip(names, walks, widths, counts, strict=True):
        middle = left + width / 2
        for y, beside, channels in ((_INPUT, 0.08, in_channels), (_OUTPUT, -0.09, out_channels)):
            page.line((left + 0.04, y), (left + width - 0.04, y), linewidth=1.0, color="0.15")
            page.write(middle, y + beside, f"{channels} channels")
        height = (_INPUT - _OUTPUT) / len(walk)
        for i, block in enumerate(walk):
            top, last = _INPUT - i * height, i == len(walk) - 1
            _draw_block(page, left, width, top, top - height, block, last=last)
        page.write(middle, _HEIGHT - 0.13, name, fontsize=LARGE, weight="bold")
        page.write(middle, _HEIGHT - 0.28, _composition(walk))
        page.write(middle, _OUTPUT - 0.26, f"{parameters:,}", fontsize=NORMAL, weight="bold")
        saved = percent(100 * (parameters / counts[0] - 1), 0)
        page.write(middle, _OUTPUT - 0.38, "parameters" if name == "3D" else saved)
        left += width + gap
    _draw_key(page, page_width)
    return page.figure


def drawn_unit(mn: tuple[int, int] | None, in_channels: int, out_channels: int) -> Unit:
    """What a column of Figure 1 shows, on the meta device; ``mn`` None: 3D convolutions."""
    factory = make_unit("conv3d") if mn is None else make_unit("psc", m=mn[0], n=mn[1])
    with torch.device("meta"):
        return factory(in_channels, out_channels, depth=DEPTH, width_limit=out_channels)


def _composition(walk: tuple[DrawnBlock, ...]) -> str:
    streams = len(walk[0])
    if walk[0][0][0].axes == AXES:
        return f"{len(walk[0][0])} convolutions"
    blocks = "1 block" if len(walk) == 1 else f"{len(walk)} blocks"
    return f"{blocks}, " + ("1 stream" if streams == 1 else f"{streams} streams")


def _draw_block(
    page: Page, left: float, width: float, top: float, bottom: float, block: DrawnBlock, last: bool
) -> None:
    """A block between two heights: its streams side by side, and where they join."""
    pad = 0.06
    if block[0][0].axes < AXES:
        page.frame(left, bottom + pad, width, top - bottom - 2 * pad)
    joined = len(block) > 1
    end = bottom + _JOIN if joined else bottom
    # Room of each kernel, the same in all streams, so that they align.
    rows = zip(*block, strict=True)
    heights = [max(kernel_size(c.kernel, _VOXEL)[1] for c in row) for row in rows]
    for i, stream in enumerate(block):
        x = left + i * width / len(block) + _CENTRE
        _draw_stream(page, x, top, end, stream, heights, arrives=last or joined)
    if joined:
        page.line((left + 0.08, end), (left + width - 0.08, end), **_THICK)
        middle = left + width / 2
        page.arrow((middle, end), (middle, bottom + 0.012))
        total = sum(stream[-1].out_channels for stream in block)
        page.write(middle + 0.05, (end + bottom + pad) / 2, str(total), ha="left")


def _draw_stream(
    page: Page,
    x: float,
    top: float,
    bottom: float,
    stream: DrawnStream,
    heights: Sequence[float],
    arrives: bool,
) -> None:
    """Convolutions one below the other, channels beside; ``arrives``: no block follows directly."""
    free = top - bottom - sum(heights) - _MARK * sum(c.active for c in stream)
    between = free / (len(stream) + 1)
    y, start = top, top
    for convolution, height in zip(stream, heights, strict=True):
        page.write(x + 0.05, y - between / 2 + 0.01, str(convolution.in_channels), ha="left")
        y -= between + height / 2
        above, below = kernel_reach(convolution.kernel, _VOXEL)
        page.arrow((x, start), (x, y + above))
        page.kernel_box((x, y), convolution.kernel, stream_colour(stream), _VOXEL)
        beside = x + kernel_size(convolution.kernel, _VOXEL)[0] / 2 + 0.02
        page.write(beside, y, "×".join(map(str, convolution.kernel)), ha="left")
        start = y - below
        y -= height / 2
        if convolution.active:
            page.line((x, start), (x, y - _MARK * 0.6))
            page.rectifier(x, y - _MARK * 0.6)
            y -= _MARK
            start = y + _MARK * 0.4 - 0.052
    if arrives:
        page.arrow((x, start), (x, bottom + 0.012))
    else:
        page.line((x, start), (x, bottom))
    page.write(x + 0.05, (y + bottom) / 2 + 0.01, str(stream[-1].out_channels), ha="left")


def _draw_key(page: Page, width: float) -> None:
    """What colours and marks mean, along the lower edge."""
    y = 0.17
    page.line((_MARGIN, 0.37), (width - _MARGIN, 0.37), color="0.8", linewidth=0.5)
    to_w, to_h = ("W", (0.17, 0.0), (0.06, 0.0)), ("H", (0.0, -0.13), (0.06, 0.02))
    page.directions(0.15, y + 0.01, to_w, to_h, ("D", (0.1, 0.076), (0.06, 0.01)))
    x = 0.6
    for colour, kernel, words, advance in (
        (FULL_COLOUR, (3, 3, 3), "3D", 0.56),
        (STREAM_COLOURS[0], (1, 3, 3), "planes H×W,\nrods along D", 1.0),
        (STREAM_COLOURS[1], (3, 1, 3), "planes D×W,\nrods along H", 1.0),
        (STREAM_COLOURS[2], (3, 3, 1), "planes D×H,\nrods along W", 1.0),
    ):
        page.kernel_box((x + 0.12, y), kernel, colour, 0.042)
        page.write(x + 0.27, y, words, ha="left", linespacing=1.1)
        x += advance
    page.rectifier(x + 0.08, y)
    page.write(x + 0.17, y, "activation", ha="left")
    x += 0.76
    page.line((x, y), (x + 0.2, y), **_THICK)
    page.write(x + 0.26, y, "concatenation", ha="left")
    x += 1.03
    page.arrow((x, y + 0.09), (x, y - 0.1))
    page.write(x + 0.05, y, "k", ha="left")
    page.write(x + 0.16, y, "channels", ha="left")
