"""Figure 3: the three networks with 3D and with P_2SC_2, as their forward passes run.

A network is built on the meta device and run once there, so that order, sizes and connections are
those of its own forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from psc.accounting.forward import forward
from psc.block.convolution import Unit
from psc.networks.resnet import ResidualBlock
from psc.paper.account import built
from psc.paper.drawing import FULL_COLOUR, LARGE, NORMAL, STREAM_COLOURS, Page, tint
from psc.paper.figure_1 import DrawnBlock, stream_colour, walk_unit
from psc.paper.style import PAGE_WIDTH, PURPLE, page_style
from psc.paper.text import block_label, percent

BLOCKS = ("3d", "p2sc2")

ROW = 0.115  # inches, of a stream's row of cells; a 3D convolution is two rows high
MARGIN = 0.08  # inches, left free on both sides of the page
SKIP: dict[str, Any] = {"color": PURPLE, "linewidth": 0.9}
LIGHT = 0.35  # share of the colour in cells of 2D and 3D convolutions; 1D ones have all of it


INPUT = "input"
"""What the first unit is fed from."""


@dataclass(frozen=True)
class DrawnUnit:
    """A unit as a forward pass met it."""

    name: str  # its path in the network
    entered: tuple[int, ...]  # (N, C, D, H, W) of what entered and of what left
    left: tuple[int, ...]
    blocks: tuple[DrawnBlock, ...]  # what it is made of
    # units whose results reached its input with no other unit in between, in the order of
    # their calls; ``INPUT`` for the network's own
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DrawnNetwork:
    """A network as a forward pass found it."""

    network: nn.Module  # itself, for what is no unit
    input_shape: tuple[int, ...]  # (N, C, D, H, W), and that of the result
    output_shape: tuple[int, ...]
    units: tuple[DrawnUnit, ...]  # in the order of their calls
    # units whose results reach the network's with no other in between
    output_sources: tuple[str, ...]
    parameters: int  # all of them


def walk_network(network: nn.Module, input_shape: tuple[int, ...]) -> DrawnNetwork:
    """A network on the meta device, as one forward pass in evaluation mode meets its units."""
    found: list[DrawnUnit] = []

    def in_order(x: Tensor) -> tuple[str, ...]:
        return tuple(unit.name for unit in found if unit.name in _origins(x))

    def watch(name: str) -> Any:
        def record(unit: nn.Module, inputs: tuple[Tensor, ...], result: Any) -> None:
            x = inputs[0]
            blocks, sources = walk_unit(unit), in_order(x) or (INPUT,)
            found.append(DrawnUnit(name, tuple(x.shape), tuple(result.shape), blocks, sources))
            result.origins = {name}

        return record

    outermost: dict[str, Unit] = {}
    for name, module in network.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in outermost)
        if isinstance(module, Unit) and not inner:
            outermost[name] = module
    hooks = [module.register_forward_hook(watch(name)) for name, module in outermost.items()]
    try:
        with torch.no_grad(), _Origins():
            y = forward(network.eval(), input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(p.numel() for p in network.parameters())
    shape = tuple(y.shape)
    return DrawnNetwork(network, input_shape, shape, tuple(found), in_order(y), parameters)


class _Origins(TorchFunctionMode):
    """Notes on every tensor which units' results it was computed from."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            known = [_origins(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            result.origins = set().union(*known)  # type: ignore[attr-defined]
        return result


def _origins(x: Tensor) -> set[str]:
    return getattr(x, "origins", set())


@page_style()
def network_figure() -> Figure:
    """Figure 3: U-Net, ResNet-34 and DenseNet, each with 3D and with P_2SC_2."""
    rows: tuple[tuple[str, str, float, Callable[[Page, DrawnNetwork, float], None]], ...] = (
        ("unet", "U-Net, electron microscopy", 1.8, draw_unet),
        ("resnet34", "ResNet-34, video", 1.06, draw_resnet),
        ("densenet", "DenseNet, MRI", 1.14, draw_densenet),
    )
    height = 2 * sum(row[2] for row in rows) + 0.52
    page = Page(PAGE_WIDTH, height)
    top = height - 0.06
    for letter, (backbone, title, row, diagram) in zip("abc", rows, strict=True):
        if letter != "a":
            _rule(page, top + 0.02)
        full = 0
        for block in BLOCKS:
            walk = walk_network(*built((backbone, block)))
            words, style = f"{walk.parameters:,} parameters", {"va": "top", "fontsize": NORMAL}
            page.write(0.34, top, block_label(block), ha="left", weight="bold", **style)
            if full:
                words += f" ({percent(100 * (walk.parameters / full - 1), 0)})"
            else:
                full = walk.parameters
                page.write(0.34 + 0.25, top, title, ha="left", **style)
                large = {"ha": "left", "va": "top", "fontsize": LARGE, "weight": "bold"}
                page.write(MARGIN, top, f"({letter})", **large)
            page.write(PAGE_WIDTH - MARGIN, top, words, ha="right", **style)
            diagram(page, walk, top - 0.2)
            top -= row
    _draw_key(page, 0.17)
    return page.figure


def _rule(page: Page, y: float) -> None:
    page.line((MARGIN, y), (PAGE_WIDTH - MARGIN, y), color="0.8", linewidth=0.5)


def _draw_key(page: Page, y: float) -> None:
    """What colours and lines mean, along the lower edge."""
    _rule(page, y + 0.2)
    x = 0.12
    for colours, share, words, advance in (
        ((FULL_COLOUR,), LIGHT, "3D convolution", 0.98),
        (STREAM_COLOURS[:2], LIGHT, "2D, a colour for\neach orientation", 1.04),
        (STREAM_COLOURS[:2], 1.0, "1D across it", 0.88),
    ):
        for s, colour in enumerate(colours):
            height = 2 * ROW / len(colours)
            low = y + ROW - (s + 1) * height
            fill = tint(colour, share)
            rectangle(page, x, low, 0.14, height, fill)
        page.write(x + 0.19, y, words, ha="left", linespacing=1.1)
        x += advance
    words = "24 · 128³: channels · voxels;\nin cells: channels that leave;\n÷2, ×2: resolution"
    page.write(x, y, words, ha="left", linespacing=1.1)
    x += 1.52
    page.arrow((x, y + 0.1), (x + 0.22, y + 0.1), **SKIP)
    page.write(x + 0.27, y + 0.1, "concatenated (in c at full resolution)", ha="left")
    page.line((x, y), (x + 0.1, y), **SKIP)
    page.line((x + 0.12, y), (x + 0.22, y), **SKIP | {"linestyle": (0, (2, 1))})
    page.write(x + 0.27, y, "added; dashed: after a 1×1×1 projection", ha="left")
    page.write(x, y - 0.1, "3× 64 → 64", ha="left", color="0.35")
    page.write(x + 0.57, y - 0.1, "blocks, channels along a stream", ha="left")


def _feature(shape: tuple[int, ...]) -> str:
    _, channels, d, h, w = shape
    voxels = f"{d}×{h}×{w}" if h != w else f"{d}×{h}²" if d != h else f"{d}³"
    return f"{channels} · {voxels}"


def _step(before: DrawnUnit, after: DrawnUnit) -> str:
    """How the resolution changes between two units: ÷2 or ×2."""
    left, entered = before.left[-1], after.entered[-1]
    return f"÷{left // entered}" if left > entered else f"×{entered // left}"


def _cell(block: DrawnBlock) -> float:
    """Width of a cell that the block's longest number fits in."""
    digits = max(len(str(c.out_channels)) for stream in block for c in stream)
    return 0.05 + 0.052 * digits


def _width(unit: DrawnUnit, cell: float | None = None) -> float:
    widths = [(cell or _cell(block)) * len(block[0]) for block in unit.blocks]
    return sum(widths) + 0.03 * (len(widths) - 1)


def _draw_unit(
    page: Page, left: float, middle: float, unit: DrawnUnit, cell: float | None = None
) -> float:
    """Cells of a unit's convolutions, a row for each stream, numbered if wide; where it ends."""
    for block in unit.blocks:
        edge = cell or _cell(block)
        row = 2 * ROW if len(block) == 1 else ROW
        for s, stream in enumerate(block):
            y = middle + (len(block) / 2 - s - 1) * row
            for i, convolution in enumerate(stream):
                colour = stream_colour(stream)
                whole = convolution.axes == 1
                fill = colour if whole else tint(colour, LIGHT)
                rectangle(page, left + i * edge, y, edge, row, fill)
                if cell is None:
                    x = left + (i + 0.5) * edge
                    words = str(convolution.out_channels)
                    shade = "white" if whole else "0.1"
                    page.write(x, y + row / 2 - 0.003, words, color=shade)
        left += edge * len(block[0]) + 0.03
    return left - 0.03


def rectangle(page: Page, left: float, low: float, width: float, height: float, fill: str) -> None:
    """A cell, or a layer that no block replaces."""
    box = Rectangle((left, low), width, height)
    box.set(facecolor=fill, edgecolor="0.2", linewidth=0.45, zorder=2)
    page.axes.add_patch(box)


def draw_unet(page: Page, walk: DrawnNetwork, top: float) -> None:
    """A V: each level lower, skip connections across."""
    depth = sum(unit.name.startswith("encoder") for unit in walk.units) - 1
    first, last = 0.78, PAGE_WIDTH - 0.78
    pitch, drop = (last - first) / (2 * depth), 0.385
    places: dict[str, tuple[float, float, float]] = {}
    for column, unit in enumerate(walk.units):
        level = min(column, 2 * depth - column)
        width = _width(unit)
        middle, y = first + column * pitch, top - 0.2 - level * drop
        places[unit.name] = (middle - width / 2, middle + width / 2, y)
        _draw_unit(page, middle - width / 2, y, unit)
        page.write(middle, y + 0.18, _feature(unit.left))
    for column, (before, after) in enumerate(pairwise(walk.units)):
        left, right, y = places[before.name]
        next_left, next_right, next_y = places[after.name]
        if column < depth:  # down and to the right
            x, low, high = (left + right) / 2, next_y, y - ROW
            page.line((x, high), (x, low))
            page.arrow((x, low), (next_left, low))
        else:
            x, low, high = (next_left + next_right) / 2, y, next_y - ROW
            page.line((right, low), (x, low))
            page.arrow((x, low), (x, high))
        page.write(x + 0.04, (low + high) / 2, _step(before, after), ha="left")
        for source in after.sources:
            if source != before.name:
                _, source_right, source_y = places[source]
                page.arrow((source_right, source_y), (next_left, source_y), **SKIP)
    left, _, y = places[walk.units[0].name]
    _, right, _ = places[walk.units[-1].name]
    page.write(left - 0.2, y - 0.09, _feature(walk.input_shape))
    page.arrow((left - 0.4, y), (left, y))
    page.arrow((right, y), (right + 0.4, y))
    page.write(right + 0.22, y - 0.09, _feature(walk.output_shape))


def draw_resnet(page: Page, walk: DrawnNetwork, top: float) -> None:
    """Residual blocks in a row, each with its shortcut; numbers below, by stage."""
    y = top - 0.26
    blocks = {
        f"{name}.segment": module
        for name, module in walk.network.named_modules()
        if isinstance(module, ResidualBlock)
    }
    first = 1.02
    stages = [list(group) for _, group in groupby(walk.units, lambda s: s.name.split(".")[1])]
    stage_gap, gap = 0.22, 0.15
    count = len(walk.units)
    room = PAGE_WIDTH - 0.68 - first - gap * (count - len(stages)) - stage_gap * (len(stages) - 1)
    box = room / count
    x = first
    for stage in stages:
        left = x
        for unit in stage:
            cells = sum(len(block[0]) for block in unit.blocks)
            page.arrow((x - (gap if unit is not stage[0] else stage_gap), y), (x, y))
            _draw_unit(page, x, y, unit, box / cells)
            projects = not isinstance(blocks[unit.name].shortcut, nn.Identity)
            _shortcut(page, x - 0.055, x + box + 0.05, y, projects)
            x += box + gap
        x += stage_gap - gap
        middle = (left + x - stage_gap) / 2
        page.write(middle, y - 0.2, _feature(stage[-1].left))
        for i, words in enumerate(_stage_channels(stage)):
            page.write(middle, y - 0.31 - 0.105 * i, words, color="0.35")
    stem = next(m for m in walk.network.modules() if isinstance(m, nn.Conv3d))
    rectangle(page, 0.46, y - ROW, 0.36, 2 * ROW, "white")
    page.write(0.64, y, "×".join(map(str, stem.kernel_size)))
    page.write(0.25, y + 0.1, _feature(walk.input_shape))
    page.arrow((0.06, y), (0.46, y))
    page.write(0.64, y - 0.2, _feature(walk.units[0].entered))
    page.arrow((x - stage_gap, y), (PAGE_WIDTH - MARGIN, y))
    page.write(PAGE_WIDTH - 0.33, y + 0.09, "pool, linear")
    page.write(PAGE_WIDTH - 0.33, y - 0.09, f"{walk.output_shape[1]} classes")
    page.line((0.82, y), (first - stage_gap, y))


def _stage_channels(stage: list[DrawnUnit]) -> list[str]:
    """The channels along one stream of a stage's blocks, equal blocks together."""
    kinds = [
        " → ".join(str(c.out_channels) for block in unit.blocks for c in block[0]) for unit in stage
    ]
    return [f"{len(list(same))}× {words}" for words, same in groupby(kinds)]


def _shortcut(page: Page, left: float, right: float, y: float, projects: bool) -> None:
    """Around a residual block, to the mark of an addition."""
    top, radius = y + ROW + 0.07, 0.032
    style = SKIP | ({"linestyle": (0, (2, 1))} if projects else {})
    page.line((left, y), (left, top), (right, top), (right, y + radius), **style)
    mark = Circle((right, y), radius, facecolor="white", edgecolor=PURPLE, linewidth=0.7, zorder=4)
    page.axes.add_patch(mark)
    for x, up in ((0.6 * radius, 0.0), (0.0, 0.6 * radius)):
        ends = (right - x, y - up), (right + x, y + up)
        page.line(*ends, color="0.2", zorder=5, linewidth=0.6)


def draw_densenet(page: Page, walk: DrawnNetwork, top: float) -> None:
    """Dense blocks in a row; everything that the head sees is brought up to a line above."""
    y, above = top - 0.56, top - 0.09
    # dense.2.0.segment is of block 2, stem by itself.
    groups = [list(some) for _, some in groupby(walk.units, lambda unit: unit.name.split(".")[1:2])]
    inner = 0.07
    widths = [sum(map(_width, group)) + inner * (len(group) - 1) for group in groups]
    first, last = 0.45, PAGE_WIDTH - 0.56
    gap = (last - first - sum(widths)) / (len(groups) - 1)
    x = first
    for i, (group, width) in enumerate(zip(groups, widths, strict=True)):
        pad = 0.04
        left, right = x - pad, x + width + pad
        roof = y + ROW + (0.2 if len(group) > 1 else pad)
        page.frame(left, y - ROW - pad, width + 2 * pad, roof - y + ROW + pad)
        start = left - (gap - 2 * pad) if i else MARGIN
        page.arrow((start, y), (left, y))
        if i:
            words = _step(groups[i - 1][-1], group[0])
            page.write((start + left) / 2, y - 0.08, words)
        centres = {}
        for unit in group:
            end = _draw_unit(page, x, y, unit)
            centres[unit.name] = (x + end) / 2
            x = end + inner
        middle, (batch, channels, *size) = (left + right) / 2, group[-1].left
        channels += group[-1].entered[1] if len(group) > 1 else 0
        page.write(middle, y - 0.26, _feature((batch, channels, *size)))
        _dense_connections(page, group, centres, y + ROW)
        if any(unit.name in walk.output_sources for unit in group):
            page.arrow((middle, roof), (middle, above - 0.015), **SKIP)
        x += gap - inner
    head = PAGE_WIDTH - 0.5
    page.write(0.24, y + 0.08, _feature(walk.input_shape))
    page.line((first, above), (head, above), linewidth=2.2, color="0.15")
    page.arrow((head, above), (PAGE_WIDTH - MARGIN, above))
    page.write(PAGE_WIDTH - 0.3, above - 0.09, _feature(walk.output_shape))


def _dense_connections(
    page: Page, group: list[DrawnUnit], centres: dict[str, float], y: float
) -> None:
    """Arcs from every unit of a dense block to those later ones that see its result."""
    for unit in group:
        for source in unit.sources:
            if source in centres:
                start, end = centres[source], centres[unit.name]
                # The widest arc just fits under the roof.
                bend = -0.3 / (max(centres.values()) - min(centres.values()))
                style = SKIP | {"linewidth": 0.6, "arrowstyle": "-"}
                page.arrow((start, y), (end, y), bend=bend, **style)
