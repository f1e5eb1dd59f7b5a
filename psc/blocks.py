"""Segments of consecutive 3D convolutions, as plain convolutions or as P_mSC_n (Section 3).

A backbone never builds a 3×3×3 convolution itself. It asks a *segment factory* for a segment: a
run of ``depth`` consecutive convolutions with no pooling in between. ``make_segment`` gives the two
factories that the paper compares:

- ``conv3d_segment``: ``depth`` full 3D convolutions;
- ``psc_segment``: P_mSC_n blocks. With n = 1 each block replaces one 3D convolution (Figure 3a);
  with n ≥ 2 one block replaces the n consecutive convolutions (Figures 3b and 3c).

``PSCBlock`` is the paper's operation alone, for any network. All tensors are (N, C, D, H, W).
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from psc.errors import ConfigError
from psc.widths import PUBLISHED_MAXIMUM_WIDTH, stream_width

Padding = Literal["same", "valid"]
Triple = tuple[int, int, int]

AXES = 3
"""Spatial axes: D (z, or time), H (y), W (x). Stream s runs its 1D convolution along axis s."""


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class ConvolutionOptions:
    """What every convolution of a segment has in common.

    Attributes:
        kernel_size: extent d of the 3D filter that is realised or replaced; odd.
        padding: "same" (zero padding, size kept at stride 1) or "valid" (none).
        norm: builds a normalisation for a number of channels; convolutions then have no bias,
            unless ``pre_activation``.
        activation: builds the non-linearity that follows every convolution, 2D and 1D alike.
        final_activation: whether it follows the segment's last convolution too (a residual block
            adds its shortcut first).
        pre_activation: norm and activation come before each convolution (DenseNet) instead of
            after it; ``final_activation`` then has no meaning and nothing follows the last one.
    """

    kernel_size: int = 3
    padding: Padding = "same"
    norm: Callable[[int], nn.Module] | None = None
    activation: Callable[[], nn.Module] | None = _relu
    final_activation: bool = True
    pre_activation: bool = False

    def __post_init__(self) -> None:
        """Refuse what no convolution of ours can do."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if self.padding not in ("same", "valid"):
            raise ConfigError(f"padding must be 'same' or 'valid', got {self.padding!r}")


class Segment(nn.Module):
    """Base of both kinds of segment: a module that knows how far it looks."""

    receptive_field: Triple
    """Extent of the input, in voxels along (D, H, W), that one output voxel depends on."""


class SegmentFactory(Protocol):
    """What a backbone is handed: builds a segment of ``depth`` consecutive convolutions."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 1,
        stride: int = 1,
        width_limit: int | None = None,
        options: ConvolutionOptions = ...,
    ) -> Segment:
        """Build the segment.

        Args:
            in_channels: channels that enter.
            out_channels: channels of every convolution's result, and of the segment's.
            depth: number of consecutive 3D convolutions that the segment stands for.
            stride: of the segment, in all three axes (taken by its first convolution).
            width_limit: the backbone's own cap of M (U-Net: out_channels); ignored by 3D.
            options: kernel size, padding, normalisation, activation.
        """
        ...


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: Triple,
    stride: Triple,
    options: ConvolutionOptions,
    *,
    last: bool,
) -> nn.Sequential:
    """One convolution with its normalisation and activation, in the order that options say."""
    same = options.padding == "same"
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if same else (0, 0, 0)
    bias = options.norm is None or options.pre_activation
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if not options.pre_activation:
        layers["conv"] = convolution
    if options.norm is not None:
        layers["norm"] = options.norm(in_channels if options.pre_activation else out_channels)
    active = options.pre_activation or options.final_activation or not last
    if options.activation is not None and active:
        layers["activation"] = options.activation()
    if options.pre_activation:
        layers["conv"] = convolution
    return nn.Sequential(layers)


class Conv3dSegment(Segment):
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
        _check_positive(in_channels, out_channels, depth=depth, stride=stride)
        d = options.kernel_size
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i in range(depth):
            step = stride if i == 0 else 1
            layers[f"conv_{i + 1}"] = _convolution(
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


class PSCBlock(Segment):
    """Parallel separable 3D convolution P_mSC_n (Section 3, Figure 1a right).

    m parallel streams, each n 2D convolutions (d×d, in the stream's plane) to M channels and one
    1D convolution along the remaining axis, concatenated over channels:

    ====== ============== =============
    stream 2D plane       1D axis
    ====== ============== =============
    1      (H, W)         D
    2      (D, W)         H
    3      (D, H)         W
    ====== ============== =============

    The 1D kernel spans n·(d−1)+1 voxels, the extent of n composed d-tap kernels (Eq. 4), so that
    the block has the receptive field, and under valid padding the output size, of the n 3D
    convolutions that it replaces. A non-linearity follows every convolution.

    Use it in any network in place of n consecutive ``nn.Conv3d``::

        block = PSCBlock(32, 64, m=2, n=2)          # same size out: (N, 64, D, H, W)

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave, all streams together. Where m does not divide them, the
            first streams get one channel more than the others (33 on two streams: 17 + 16).
        m: number of streams, 1 to 3.
        n: number of 2D convolutions per stream, at least 1.
        stride: in all three axes: the first 2D convolution strides in its plane, the 1D
            convolution along its axis.
        width: M, filters per stream in the 2D sub-space. None: Eq. 5 divided by m, at most
            ``maximum_width``.
        maximum_width: cap of the M that Eq. 5 gives; None for none.
        options: kernel size, padding, normalisation, activation. Single fields may be given as
            keywords (``padding="valid"``) instead.

    Input (N, in_channels, D, H, W), result (N, out_channels, D', H', W'), dtype kept.

    Raises:
        ConfigError: for m outside 1–3, n < 1, fewer output channels than streams, or a stride with
            valid padding and n ≥ 2 (the streams would differ in size).
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
        options: ConvolutionOptions | None = None,
        **overrides: object,
    ) -> None:
        super().__init__()
        options = _override(options or ConvolutionOptions(), overrides)
        check_streams(m, n)
        _check_positive(in_channels, out_channels, stride=stride)
        if out_channels < m:
            raise ConfigError(
                f"out_channels={out_channels} is less than m={m}: every stream needs at least one "
                "output channel; use fewer streams or more channels"
            )
        if stride > 1 and options.padding == "valid" and n > 1 and m > 1:
            raise ConfigError(
                f"stride={stride} with padding='valid', m={m}, n={n}: the streams' sizes would "
                "differ; use padding='same', n=1 or m=1"
            )
        d = options.kernel_size
        if width is None:
            width = stream_width(in_channels, out_channels, m, kernel_size=d, maximum=maximum_width)
        elif width < 1:
            raise ConfigError(f"width must be at least 1, got {width}")
        self.m, self.n, self.width = m, n, width
        self.streams = nn.ModuleList(
            _stream(
                in_channels,
                width,
                out_channels // m + (s < out_channels % m),
                s,
                n,
                stride,
                options,
            )
            for s in range(m)
        )
        along_axis = 1 + n * (d - 1)
        in_plane = 1 + (d - 1) * (1 + (n - 1) * stride)
        # Every axis but the first lies in some stream's plane; the first does once m ≥ 2.
        self.receptive_field = (max(along_axis, in_plane if m > 1 else 0), in_plane, in_plane)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        if len(self.streams) == 1:
            y: Tensor = self.streams[0](x)
            return y
        return torch.cat([stream(x) for stream in self.streams], dim=1)

    def extra_repr(self) -> str:
        """The paper's name of the block, and M."""
        return f"P{self.m}SC{self.n}, M={self.width}"


def _stream(
    in_channels: int,
    width: int,
    out_channels: int,
    axis: int,
    n: int,
    stride: int,
    options: ConvolutionOptions,
) -> nn.Sequential:
    """2D convolutions (n of them) in the plane across ``axis``, then one 1D along it."""
    d = options.kernel_size
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for i in range(n):
        step = stride if i == 0 else 1
        layers[f"plane_{i + 1}"] = _convolution(
            channels, width, _across(axis, d), _across(axis, step), options, last=False
        )
        channels = width
    layers["axis"] = _convolution(
        channels,
        out_channels,
        _along(axis, n * (d - 1) + 1),
        _along(axis, stride),
        options,
        last=True,
    )
    return nn.Sequential(layers)


def _along(axis: int, size: int) -> Triple:
    """``size`` along the axis, 1 along the others: the shape of a 1D kernel."""
    return tuple(size if a == axis else 1 for a in range(AXES))  # type: ignore[return-value]


def _across(axis: int, size: int) -> Triple:
    """1 along the axis, ``size`` along the others: the shape of a 2D kernel."""
    return tuple(1 if a == axis else size for a in range(AXES))  # type: ignore[return-value]


class PSCSegment(Segment):
    """A run of P_mSC_n blocks that stands for ``depth`` consecutive 3D convolutions.

    n = 1 takes ``depth`` blocks; n ≥ 2 takes ⌈depth / n⌉ (one P_2SC_2, and one P_2SC_3 with its
    larger reach, for the pair of a U-Net level or of a basic residual block). All blocks of a
    segment share the M that Eq. 5 gives for the channels entering the SEGMENT, as the authors'
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
        maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
        options: ConvolutionOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ConvolutionOptions()
        check_streams(m, n)
        _check_positive(in_channels, out_channels, depth=depth, stride=stride)
        count = math.ceil(depth / n)
        width = stream_width(
            in_channels, out_channels, m, kernel_size=options.kernel_size, maximum=maximum_width
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


def conv3d_segment(
    in_channels: int,
    out_channels: int,
    *,
    depth: int = 1,
    stride: int = 1,
    width_limit: int | None = None,
    options: ConvolutionOptions | None = None,
) -> Segment:
    """Plain 3D convolutions as a SegmentFactory; ``width_limit`` has no meaning here."""
    del width_limit
    return Conv3dSegment(in_channels, out_channels, depth=depth, stride=stride, options=options)


def psc_segment(
    in_channels: int,
    out_channels: int,
    *,
    m: int,
    n: int,
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
    depth: int = 1,
    stride: int = 1,
    width_limit: int | None = None,
    options: ConvolutionOptions | None = None,
) -> Segment:
    """P_mSC_n as a SegmentFactory, once m, n and the cap are bound (see ``make_segment``)."""
    caps = [cap for cap in (maximum_width, width_limit) if cap is not None]
    return PSCSegment(
        in_channels,
        out_channels,
        m,
        n,
        depth=depth,
        stride=stride,
        maximum_width=min(caps, default=None),
        options=options,
    )


def make_segment(
    kind: Literal["conv3d", "psc"] = "psc",
    *,
    m: int = 2,
    n: int = 2,
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
) -> SegmentFactory:
    """The segment factory that a backbone is built with.

    Args:
        kind: "conv3d" for plain 3D convolutions, "psc" for P_mSC_n.
        m: streams of P_mSC_n, 1 to 3.
        n: 2D convolutions per stream, at least 1.
        maximum_width: the block's cap of M; the backbone may ask for a lower one.

    Raises:
        ConfigError: for an unknown kind, m outside 1–3 or n < 1.
    """
    if kind == "conv3d":
        return conv3d_segment
    if kind != "psc":
        raise ConfigError(f"unknown kind of block {kind!r}; known: 'conv3d', 'psc'")
    check_streams(m, n)
    return partial(psc_segment, m=m, n=n, maximum_width=maximum_width)


def check_streams(m: int, n: int) -> None:
    """Refuse an (m, n) that P_mSC_n does not have.

    Raises:
        ConfigError: if m is not 1, 2 or 3 (a volume has three axes), or n < 1.
    """
    if m not in (1, 2, 3):
        raise ConfigError(
            f"m={m}: P_mSC_n has 1, 2 or 3 streams, one per orientation of a volume's three axes"
        )
    if n < 1:
        raise ConfigError(f"n={n}: P_mSC_n has at least one 2D convolution per stream")


def _check_positive(in_channels: int, out_channels: int, **values: int) -> None:
    values = {"in_channels": in_channels, "out_channels": out_channels, **values}
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _override(options: ConvolutionOptions, overrides: dict[str, object]) -> ConvolutionOptions:
    unknown = overrides.keys() - ConvolutionOptions.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(ConvolutionOptions.__dataclass_fields__)
        raise TypeError(f"PSCBlock got unknown arguments {sorted(unknown)}; options are: {known}")
    return replace(options, **overrides)  # type: ignore[arg-type]
