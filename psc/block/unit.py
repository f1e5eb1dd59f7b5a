"""Units of consecutive 3D convolutions, as plain convolutions or as P_mSC_n (Section 3).

A backbone never builds a 3×3×3 convolution itself. It asks a *unit factory* for a unit: a
run of ``depth`` consecutive convolutions with no pooling in between. ``make_unit`` gives the two
factories that the paper compares:

- ``conv3d_unit``: ``depth`` full 3D convolutions;
- ``psc_unit``: P_mSC_n blocks. With n = 1 each block replaces one 3D convolution (Figure 3a);
  with n ≥ 2 one block replaces the n consecutive convolutions (Figures 3b and 3c).

All tensors are (N, C, D, H, W).
"""

import math
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Literal, Protocol

from torch import Tensor, nn

from psc.block.block import PUBLISHED_MAXIMUM_WIDTH, Merge, PSCBlock, check_streams, stream_width
from psc.block.convolution import AXES, ConvolutionOptions, Unit, check_positive, convolution
from psc.errors import ConfigError


class UnitFactory(Protocol):
    """What a backbone is handed: builds a unit of ``depth`` consecutive convolutions."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 1,
        stride: int = 1,
        width_limit: int | None = None,
        filters: int | None = None,
        options: ConvolutionOptions = ...,
    ) -> Unit:
        """Build the unit.

        Args:
            in_channels: channels that enter.
            out_channels: channels of every convolution's result, and of the unit's.
            depth: number of consecutive 3D convolutions that the unit stands for.
            stride: of the unit, in all three axes (taken by its first convolution).
            width_limit: the backbone's own cap of M (U-Net: out_channels); ignored by 3D.
            filters: k_i of Eq. 5, the filters of ONE replaced convolution, where that is not
                out_channels (a unit that stands for several dense layers); ignored by 3D.
            options: kernel size, padding, normalisation, activation.
        """
        ...


class Conv3dUnit(Unit):
    """``depth`` consecutive d×d×d convolutions: the networks' original form ("3d").

    Input (N, in_channels, D, H, W); result (N, out_channels, D', H', W') with each axis d−1
    shorter per convolution under valid padding.

    Raises:
        ConfigError: for a depth or stride below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 1,
        stride: int = 1,
        options: ConvolutionOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ConvolutionOptions()
        check_positive(in_channels, out_channels, depth=depth, stride=stride)
        d = options.kernel_size
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i in range(depth):
            step = stride if i == 0 else 1
            layers[f"conv_{i + 1}"] = convolution(
                channels, out_channels, (d,) * 3, (step,) * 3, options, last=i == depth - 1
            )
            channels = out_channels
        self.layers = nn.Sequential(layers)
        extent = 1 + (d - 1) * (1 + (depth - 1) * stride)
        self.receptive_field = (extent,) * 3

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        y: Tensor = self.layers(x)
        return y


class PSCUnit(Unit):
    """A run of P_mSC_n blocks that stands for ``depth`` consecutive 3D convolutions.

    n = 1 takes ``depth`` blocks; n ≥ 2 takes ⌈depth / n⌉ (one P_2SC_2, and one P_2SC_3 with its
    larger reach, for the pair of a U-Net level or of a basic residual block). All blocks of a
    unit share the M that Eq. 5 gives for the channels entering the UNIT, as the authors'
    files have it: the U-Net's first level, 1→24→24 with P_1SC_1, has M = 8 in both blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        m: int,
        n: int,
        *,
        depth: int = 1,
        stride: int = 1,
        filters: int | None = None,
        maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
        width_divisor: int | None = None,
        merge: Merge = "concatenate",
        options: ConvolutionOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ConvolutionOptions()
        check_streams(m, n, merge)
        check_positive(in_channels, out_channels, depth=depth, stride=stride)
        count = math.ceil(depth / n)
        width = stream_width(
            in_channels,
            out_channels if filters is None else filters,
            m if width_divisor is None else width_divisor,
            kernel_size=options.kernel_size,
            maximum=maximum_width,
        )
        blocks = []
        for i in range(count):
            inner = options if i == count - 1 else replace(options, final_activation=True)
            blocks.append(
                PSCBlock(
                    in_channels if i == 0 else out_channels,
                    out_channels,
                    m,
                    n,
                    stride=stride if i == 0 else 1,
                    width=width,
                    merge=merge,
                    options=inner,
                )
            )
        self.blocks = nn.Sequential(*blocks)
        later = [b.receptive_field for b in blocks[1:]]
        self.receptive_field = tuple(  # type: ignore[assignment]
            blocks[0].receptive_field[a] + stride * sum(r[a] - 1 for r in later)
            for a in range(AXES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        y: Tensor = self.blocks(x)
        return y


def conv3d_unit(
    in_channels: int,
    out_channels: int,
    *,
    depth: int = 1,
    stride: int = 1,
    width_limit: int | None = None,
    filters: int | None = None,
    options: ConvolutionOptions | None = None,
) -> Unit:
    """Plain 3D convolutions as a UnitFactory; what concerns M has no meaning here."""
    del width_limit, filters
    return Conv3dUnit(in_channels, out_channels, depth=depth, stride=stride, options=options)


def psc_unit(
    in_channels: int,
    out_channels: int,
    *,
    m: int,
    n: int,
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
    width_divisor: int | None = None,
    merge: Merge = "concatenate",
    depth: int = 1,
    stride: int = 1,
    width_limit: int | None = None,
    filters: int | None = None,
    options: ConvolutionOptions | None = None,
) -> Unit:
    """P_mSC_n as a UnitFactory, once its own arguments are bound (``make_unit``)."""
    caps = [cap for cap in (maximum_width, width_limit) if cap is not None]
    return PSCUnit(
        in_channels,
        out_channels,
        m,
        n,
        depth=depth,
        stride=stride,
        filters=filters,
        maximum_width=min(caps, default=None),
        width_divisor=width_divisor,
        merge=merge,
        options=options,
    )


def make_unit(
    kind: Literal["conv3d", "psc"] = "psc",
    *,
    m: int = 2,
    n: int = 2,
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
    width_divisor: int | None = None,
    merge: Merge = "concatenate",
) -> UnitFactory:
    """The unit factory that a backbone is built with.

    Args:
        kind: "conv3d" for plain 3D convolutions, "psc" for P_mSC_n.
        m: streams of P_mSC_n, 1 to 3.
        n: 2D convolutions per stream, at least 1.
        maximum_width: the block's cap of M; the backbone may ask for a lower one.
        width_divisor: what Eq. 5 is divided by; None: m, as published. Another number is a
            calibration of ours and no published network, except that 3 with a cap of 256 meets
            the count that the paper gives for ResNet-34 with P_2SC_3 (33 M).
        merge: "concatenate" the streams of a block, as published, or "sum" them (Eq. 3).

    Raises:
        ConfigError: for an unknown kind or merge, m outside 1–3, n < 1 or a divisor below 1.
    """
    if kind == "conv3d":
        return conv3d_unit
    if kind != "psc":
        raise ConfigError(f"unknown kind of block {kind!r}; known: 'conv3d', 'psc'")
    check_streams(m, n, merge)
    if width_divisor is not None and width_divisor < 1:
        raise ConfigError(f"width_divisor must be at least 1 or None, got {width_divisor}")
    return partial(
        psc_unit,
        m=m,
        n=n,
        maximum_width=maximum_width,
        width_divisor=width_divisor,
        merge=merge,
    )
