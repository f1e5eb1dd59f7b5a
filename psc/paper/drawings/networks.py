"""Figure 3: the three networks with 3D and with P_2SC_2, as their forward passes run."""

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from psc.backbones import DenseNet, ResNet, UNet
from psc.paper.drawings.block_structure import block_name
from psc.paper.drawings.network_rows import (
    LIGHT,
    MARGIN,
    ROW,
    SKIP,
    draw_densenet,
    draw_resnet,
    draw_unet,
    rectangle,
)
from psc.paper.drawings.primitives import (
    FULL_COLOUR,
    LARGE,
    NORMAL,
    STREAM_COLOURS,
    arrow,
    line,
    page,
    tint,
    write,
)
from psc.paper.drawings.walks import DrawnNetwork, walk_network
from psc.reporting.canvas import PAGE_WIDTH, page_style
from psc.segments import SegmentFactory, make_segment

VOLUME, CLIP, PATCH = (1, 1, 132, 132, 132), (1, 3, 64, 64, 64), (1, 1, 64, 64, 64)
"""What enters the U-Net, the ResNet and the DenseNet, as published."""

BLOCK = (2, 2)
"""(m, n) of the networks that are shown beside 3D."""


def draw_network(backbone: str, m: int | None = None, n: int | None = None) -> DrawnNetwork:
    """Walk a published network: "unet", "resnet34" or "densenet", with 3D or P_mSC_n.

    In the DenseNet a block with n ≥ 2 stands for two dense layers (``psc.backbones.densenet``).

    Raises:
        ConfigError: for an (m, n) that no block has.
        KeyError: for another backbone.
    """
    segment = make_segment("conv3d") if m is None or n is None else make_segment(m=m, n=n)
    pairs = 2 if n is not None and n > 1 else 1
    builders: dict[str, tuple[Callable[[SegmentFactory], nn.Module], tuple[int, ...]]] = {
        "unet": (UNet, VOLUME),
        "resnet34": (ResNet, CLIP),
        "densenet": (lambda s: DenseNet(s, layers_per_segment=pairs), PATCH),
    }
    build, shape = builders[backbone]
    with torch.device("meta"):
        network = build(segment)
    return walk_network(network, shape)


def network_figure() -> Figure:
    """Figure 3: U-Net, ResNet-34 and DenseNet, each with 3D and with P_2SC_2."""
    rows: tuple[tuple[str, str, float, Callable[[Axes, DrawnNetwork, float], None]], ...] = (
        ("unet", "U-Net, electron microscopy", 1.8, draw_unet),
        ("resnet34", "ResNet-34, video", 1.06, draw_resnet),
        ("densenet", "DenseNet, MRI", 1.14, draw_densenet),
    )
    height = 2 * sum(row[2] for row in rows) + 0.52
    with page_style():
        figure, axes = page(PAGE_WIDTH, height)
        top = height - 0.06
        for letter, (backbone, title, row, draw) in zip("abc", rows, strict=True):
            full = 0
            for block in ((None, None), BLOCK):
                walk = draw_network(backbone, *block)
                parameters = walk.parameters
                full = full or parameters
                _head(axes, top, f"({letter})" if block[0] is None else "", title, block)
                _count(axes, top, parameters, full)
                draw(axes, walk, top - 0.2)
                top -= row
            if letter != "c":
                y = top + 0.02
                line(axes, (MARGIN, y), (PAGE_WIDTH - MARGIN, y), color="0.8", linewidth=0.5)
        _draw_key(axes, 0.17)
    return figure


def _head(
    axes: Axes, y: float, letter: str, title: str, block: tuple[int | None, int | None]
) -> None:
    left = {"ha": "left", "va": "top"}
    write(axes, MARGIN, y, letter, fontsize=LARGE, weight="bold", **left)
    write(axes, 0.34, y, block_name(*block), fontsize=NORMAL, weight="bold", **left)
    if letter:
        write(axes, 0.34 + 0.25, y, title, fontsize=NORMAL, **left)


def _count(axes: Axes, y: float, parameters: int, full: int) -> None:
    words = f"{parameters:,} parameters"
    if parameters != full:
        words += f" ({100 * (parameters / full - 1):+.0f} %)".replace("-", "−")
    write(axes, PAGE_WIDTH - MARGIN, y, words, fontsize=NORMAL, ha="right", va="top")


def _draw_key(axes: Axes, y: float) -> None:
    """What colours and lines mean, along the lower edge."""
    line(axes, (MARGIN, y + 0.2), (PAGE_WIDTH - MARGIN, y + 0.2), color="0.8", linewidth=0.5)
    x = 0.12
    for colours, share, words, advance in (
        ((FULL_COLOUR,), LIGHT, "3D convolution", 0.98),
        (STREAM_COLOURS[: BLOCK[0]], LIGHT, "2D, a colour for\neach orientation", 1.04),
        (STREAM_COLOURS[: BLOCK[0]], 1.0, "1D across it", 0.88),
    ):
        for s, colour in enumerate(colours):
            height = 2 * ROW / len(colours)
            low = y + ROW - (s + 1) * height
            fill = tint(colour, share)
            rectangle(axes, x, low, 0.14, height, fill)
        write(axes, x + 0.19, y, words, ha="left", linespacing=1.1)
        x += advance
    write(
        axes,
        x,
        y,
        "24 · 128³: channels · voxels;\nin cells: channels that leave;\n÷2, ×2: resolution",
        ha="left",
        linespacing=1.1,
    )
    x += 1.52
    arrow(axes, (x, y + 0.1), (x + 0.22, y + 0.1), **SKIP)
    write(axes, x + 0.27, y + 0.1, "concatenated (in c at full resolution)", ha="left")
    line(axes, (x, y), (x + 0.1, y), **SKIP)
    line(axes, (x + 0.12, y), (x + 0.22, y), **SKIP | {"linestyle": (0, (2, 1))})
    write(axes, x + 0.27, y, "added; dashed: after a 1×1×1 projection", ha="left")
    write(axes, x, y - 0.1, "3× 64 → 64", ha="left", color="0.35")
    write(axes, x + 0.57, y - 0.1, "blocks, channels along a stream", ha="left")
