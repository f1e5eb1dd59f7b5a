"""P_mSC_n, the paper's operation (Section 3), for any network.

All tensors are (N, C, D, H, W). ``psc.block.unit`` builds runs of it, and of plain convolutions to
compare with.
"""

import math
import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import Literal, SupportsIndex

import torch
from torch import Tensor, nn

from psc.block.convolution import (
    AXES,
    ConvolutionOptions,
    Triple,
    Unit,
    check_positive,
    convolution,
    has_bias,
    has_norm,
    norm_and_activation,
)
from psc.errors import ConfigError

_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W), which nn.Conv3d takes too

Merge = Literal["concatenate", "sum"]
"""What becomes of parallel streams: each gives a part of the channels (the paper's block), or all
of them, which are added up (Eq. 3)."""

MERGES: tuple[Merge, ...] = ("concatenate", "sum")

_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh)

# What Eq. 5 leaves open (the floor of 3, the division among streams, the caps) follows the authors'
# own network definitions.

MINIMUM_WIDTH = 3
"""Smallest M before it is divided among the streams (the authors' definitions)."""

PUBLISHED_MAXIMUM_WIDTH = 512
"""Largest M of a stream in the authors' networks."""


def separable_width(in_channels: int, out_channels: int, kernel_size: int = 3) -> int:
    """M of Eq. 5, rounded down: k_i·k_{i-1}·d³ / (k_{i-1}·d² + k_i·d).

    Args:
        in_channels: k_{i-1}, the channels that enter.
        out_channels: k_i, the channels that leave.
        kernel_size: d, the extent of the symmetric 3D filter.

    Returns:
        M, at least ``MINIMUM_WIDTH``.

    Raises:
        ConfigError: if an argument is not positive.
    """
    check_positive(in_channels, out_channels, kernel_size=kernel_size)
    d = kernel_size
    numerator = out_channels * in_channels * d**3
    denominator = in_channels * d**2 + out_channels * d
    return max(MINIMUM_WIDTH, numerator // denominator)


def stream_width(
    in_channels: int,
    out_channels: int,
    divisor: int,
    *,
    kernel_size: int = 3,
    maximum: int | None = None,
) -> int:
    """M of each parallel stream: Eq. 5, divided, truncated, then capped.

    Args:
        in_channels: channels that enter the unit (not the single convolution: where a
            unit holds several blocks, all share the M of its first).
        out_channels: k_i, the filters of one of the convolutions that are replaced.
        divisor: m, among whose streams Eq. 5 is divided (Section 3.3: "scaled by 1/s").
        kernel_size: d of Eq. 5.
        maximum: cap of M, None for none. Published: min(out_channels, 512) in the U-Net, 512 in
            the ResNet.

    Returns:
        M per stream, at least 1.

    Raises:
        ConfigError: if an argument is not positive.
    """
    if divisor < 1:
        raise ConfigError(f"divisor must be at least 1, got {divisor}")
    if maximum is not None and maximum < 1:
        raise ConfigError(f"maximum must be at least 1 or None, got {maximum}")
    width = separable_width(in_channels, out_channels, kernel_size) // divisor
    if maximum is not None:
        width = min(width, maximum)
    return max(1, width)


def stream_channels(out_channels: int, m: int, merge: Merge) -> list[int]:
    """Output channels of each of m streams that together have ``out_channels``.

    Concatenated, each stream gives a part; where m does not divide them, the first streams get one
    channel more. Summed, each gives all.
    """
    if merge == "sum":
        return [out_channels] * m
    return [out_channels // m + (s < out_channels % m) for s in range(m)]


class Stream(nn.Sequential):
    """n 2D convolutions (d×d) across ``axis``, then a 1D convolution along it.

    Its parts are named ``plane_1`` … ``plane_n`` and ``axis``, each with its ``conv`` and, as the
    options say, ``norm`` and ``activation``.

    Args:
        in_channels: channels that enter.
        width: M, channels of every 2D convolution.
        out_channels: channels that leave.
        axis: 0, 1 or 2 (D, H, W).
        n: number of 2D convolutions.
        stride: in all three axes: the first 2D convolution takes it in the plane, the 1D
            convolution along the axis.
        options: kernel size, padding, normalisation, activation.
        line: options of the 1D convolution where they are others.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        axis: int,
        n: int,
        stride: int,
        options: ConvolutionOptions,
        line: ConvolutionOptions | None = None,
    ) -> None:
        d = options.kernel_size
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i in range(n):
            step = _across(axis, stride if i == 0 else 1)
            parts[f"plane_{i + 1}"] = convolution(
                channels, width, _across(axis, d), step, options, last=False
            )
            channels = width
        extent, step = _along(axis, n * (d - 1) + 1), _along(axis, stride)
        parts["axis"] = convolution(
            channels, out_channels, extent, step, line or options, last=True
        )
        super().__init__(parts)


class PSCBlock(Unit):
    """Parallel separable 3D convolution P_mSC_n (Section 3, Figure 1a right).

    m parallel streams, each n 2D convolutions (d×d, in the stream's plane) to M channels and one
    1D convolution along the remaining axis, concatenated over channels:

    | stream | 2D plane | 1D axis |
    | ------ | -------- | ------- |
    | 1      | (H, W)   | D       |
    | 2      | (D, W)   | H       |
    | 3      | (D, H)   | W       |

    The 1D kernel spans n·(d−1)+1 voxels, the extent of n composed d-tap kernels (Eq. 4), so that
    the block has the receptive field, and under valid padding the output size, of the n 3D
    convolutions that it replaces. A non-linearity follows every convolution; where it
    looks at single values and no normalisation precedes it, the last one is that of all streams.

    ``merge="sum"`` is Eq. 3 in place of the paper's block: every stream gives all output channels,
    and the block's result is their sum. What would follow each stream's 1D convolution (bias,
    normalisation, activation) then follows the sum, once. One stream is the same either way.

    Use it in any network in place of n consecutive ``nn.Conv3d``:

        block = PSCBlock(32, 64, m=2, n=2)          # same size out: (N, 64, D, H, W)

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave. Concatenated, each stream gives a part; where m does not
            divide them, the first streams get one channel more (33 on two streams: 17 + 16).
        m: number of streams, 1 to 3.
        n: number of 2D convolutions per stream, at least 1.
        stride: in all three axes: the first 2D convolution strides in its plane, the 1D
            convolution along its axis.
        width: M, filters per stream in the 2D sub-space. None: Eq. 5 divided by m, at most
            ``maximum_width``. At n = 1 summed streams then have as many weights as the 3D
            convolution (but for rounding), concatenated ones fewer.
        maximum_width: cap of the M that Eq. 5 gives; None for none.
        merge: "concatenate", as published, or "sum".
        options: kernel size, padding, normalisation, activation. Single fields may be given as
            keywords (``padding="valid"``) instead.

    Input (N, in_channels, D, H, W), result (N, out_channels, D', H', W'), dtype kept.

    Raises:
        ConfigError: for m outside 1–3, n < 1, an unknown merge, fewer output channels than
            concatenated streams, or a stride with valid padding and n ≥ 2 (the streams would differ
            in size).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        m: int = 2,
        n: int = 2,
        *,
        stride: int = 1,
        width: int | None = None,
        maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
        merge: Merge = "concatenate",
        options: ConvolutionOptions | None = None,
        **overrides: object,
    ) -> None:
        super().__init__()
        options = _override(options or ConvolutionOptions(), overrides)
        check_streams(m, n, merge)
        check_positive(in_channels, out_channels, stride=stride)
        if out_channels < m and merge == "concatenate":
            raise ConfigError(
                f"out_channels={out_channels} is less than m={m}: every stream needs at least one "
                "output channel; use fewer streams or more channels, or merge='sum'"
            )
        if stride > 1 and options.padding == "valid" and n > 1 and m > 1:
            raise ConfigError(
                f"stride={stride} with padding='valid', m={m}, n={n}: the streams' sizes would "
                "differ; use padding='same', n=1 or m=1"
            )
        d = options.kernel_size
        if width is None:
            width = stream_width(in_channels, out_channels, m, kernel_size=d, maximum=maximum_width)
        elif not isinstance(width, SupportsIndex) or width < 1:
            raise ConfigError(f"width must be at least 1, a whole number, got {width}")
        self.m, self.n, self.width, self.merge = m, n, width, merge
        summed = merge == "sum" and m > 1
        shared = None if summed or m == 1 else _shared_activation(options)
        line = None if shared is None else replace(options, activation=None)
        self.streams = nn.ModuleList(
            Stream(
                in_channels,
                width,
                channels,
                s,
                n,
                stride,
                options,
                line=_summand(options, first=s == 0) if summed else line,
            )
            for s, channels in enumerate(stream_channels(out_channels, m, merge))
        )
        self.after_sum = _after_sum(out_channels, options) if summed else None
        self.activation = shared
        along_axis = 1 + n * (d - 1)
        in_plane = 1 + (d - 1) * (1 + (n - 1) * stride)
        # Every axis but the first lies in some stream's plane; the first does once m ≥ 2.
        self.receptive_field = (max(along_axis, in_plane if m > 1 else 0), in_plane, in_plane)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        y: Tensor
        results: list[Tensor] = [stream(x) for stream in self.streams]
        if self.after_sum is not None:
            y = self.after_sum(sum(results[1:], start=results[0]))
            return y
        y = results[0] if len(results) == 1 else torch.cat(results, dim=_CHANNELS)
        return y if self.activation is None else self.activation(y)

    def extra_repr(self) -> str:
        """The paper's name of the block, and M."""
        summed = "" if self.after_sum is None else " summed"
        return f"P{self.m}SC{self.n}{summed}, M={self.width}"


def check_streams(m: int, n: int, merge: Merge = "concatenate") -> None:
    """Refuse an (m, n) that P_mSC_n does not have, and an unknown way to merge the streams.

    Raises:
        ConfigError: if m is not 1, 2 or 3 (a volume has three axes), n < 1, or ``merge`` is not one
            of ``MERGES``.
    """
    if m not in (1, 2, 3):
        raise ConfigError(
            f"m={m}: P_mSC_n has 1, 2 or 3 streams, one per orientation of a volume's three axes"
        )
    if n < 1:
        raise ConfigError(f"n={n}: P_mSC_n has at least one 2D convolution per stream")
    if merge not in MERGES:
        raise ConfigError(f"merge={merge!r}: streams can be merged by {' or '.join(MERGES)}")


def balance_sums(network: nn.Module) -> None:
    """Divide the 1D convolutions of summed streams by √m, in place, after He initialisation.

    He's rule keeps the variance by counting the inputs of each convolution. The sum of m has m
    times as many, and without normalisation its standard deviation grows √m-fold with every block.
    """
    for block in network.modules():
        if isinstance(block, PSCBlock) and block.after_sum is not None:
            for stream in block.streams:
                with torch.no_grad():
                    stream.get_parameter("axis.conv.weight").div_(math.sqrt(block.m))


def _shared_activation(options: ConvolutionOptions) -> nn.Module | None:
    """The activation after the streams' 1D convolutions, if it may as well follow their merging.

    There it is given one tensor in place of m, and its gradient is no view of a larger one.
    """
    if options.pre_activation or has_norm(options, last=True):
        return None
    activation = norm_and_activation(1, options, last=True).get("activation")
    return activation if type(activation) in _ELEMENTWISE else None


def _summand(options: ConvolutionOptions, *, first: bool) -> ConvolutionOptions:
    """Options of a summed stream's 1D convolution: without what follows the sum.

    The first one's bias is the block's.
    """
    bias = first and has_bias(options, last=True)
    if options.pre_activation:
        return replace(options, bias=bias)
    return replace(options, bias=bias, norm=None, activation=None)


def _after_sum(channels: int, options: ConvolutionOptions) -> nn.Sequential:
    """What follows the sum; nothing with ``pre_activation``, where it precedes each stream's."""
    if options.pre_activation:
        return nn.Sequential()
    return nn.Sequential(norm_and_activation(channels, options, last=True))


def _override(options: ConvolutionOptions, overrides: dict[str, object]) -> ConvolutionOptions:
    if overrides.pop("formulation", None) is not None:
        warnings.warn(
            "PSCBlock's formulation has no effect any more: on a CPU the fast kernels compute on "
            "nn.Conv3d's own tensors (psc.block.convolution)",
            DeprecationWarning,
            stacklevel=3,
        )
    unknown = overrides.keys() - ConvolutionOptions.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(ConvolutionOptions.__dataclass_fields__)
        raise TypeError(f"PSCBlock got unknown arguments {sorted(unknown)}; options are: {known}")
    return replace(options, **overrides)  # type: ignore[arg-type]


def _along(axis: int, size: int) -> Triple:
    """``size`` along the axis, 1 along the others: the shape of a 1D kernel."""
    return tuple(size if a == axis else 1 for a in range(AXES))  # type: ignore[return-value]


def _across(axis: int, size: int) -> Triple:
    """1 along the axis, ``size`` along the others: the shape of a 2D kernel."""
    return tuple(1 if a == axis else size for a in range(AXES))  # type: ignore[return-value]
