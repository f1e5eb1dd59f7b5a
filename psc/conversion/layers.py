"""One Conv3d as a separable module with the same arguments: what ``convert`` puts in its place."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from psc.block.block import MINIMUM_WIDTH, check_streams, stream_width
from psc.block.convolution import conv3d, symmetric_padding, triple
from psc.block.stream import AXES, Merge, Triple, stream_channels
from psc.errors import ConfigError

# ----------------------------------------
# M of every stream of one layer: Eq. 5 for kernels of any shape, a number, or exact.


Width = int | Literal["eq5"] | Callable[[str, nn.Conv3d], int] | None


def layer_widths(
    name: str,
    layer: nn.Conv3d,
    m: int,
    merge: Merge,
    width: Width,
    *,
    maximum: int | None,
    linear: bool,
) -> tuple[int, ...]:
    """M of each stream, in filters per group of the layer.

    Args:
        name: the layer's, handed to a callable ``width``.
        layer: what is converted.
        m: number of streams.
        merge: how they are merged.
        width: "eq5"; a number; a function of name and layer; or None, for as many filters as make
            the stream exact.
        maximum: cap of what Eq. 5 gives.
        linear: whether nothing stands between 2D and 1D convolution. Then filters beyond the exact
            number would be zero for good, and are left out.

    Raises:
        ConfigError: if a given width is no whole number from 1 on.
    """
    exact = exact_widths(layer, m, merge)
    if width is None:
        return exact
    chosen = _chosen(name, layer, layer.out_channels, m, width, maximum)
    return tuple(min(chosen, most) if linear else chosen for most in exact)


def run_width(
    names: Sequence[str],
    layers: Sequence[nn.Conv3d],
    m: int,
    width: Width,
    *,
    maximum: int | None,
) -> int:
    """M of all 2D convolutions of a block that stands for several layers.

    By Eq. 5 it is that of one layer from the first one's input to the last one's output, as in
    ``psc.block.unit``.

    Args:
        names: of the layers; a callable ``width`` is handed the first one and its layer.
        layers: first to last, each with one group.
        m: number of streams.
        width: "eq5", a number, or a function of name and layer.
        maximum: cap of what Eq. 5 gives.

    Raises:
        ConfigError: for None, and if a given width is no whole number from 1 on.
    """
    if width is None:
        raise ConfigError(
            "width=None, exact, is for n=1: several layers together have no width of which a "
            "block is exact, give 'eq5' or a number"
        )
    return _chosen(names[0], layers[0], layers[-1].out_channels, m, width, maximum)


def _chosen(
    name: str,
    layer: nn.Conv3d,
    out_channels: int,
    m: int,
    width: int | Literal["eq5"] | Callable[[str, nn.Conv3d], int],
    maximum: int | None,
) -> int:
    if width == "eq5":
        return _eq5(layer, out_channels, m, maximum)
    given = width(name, layer) if callable(width) else width
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ConfigError(f"width must be a whole number from 1 on, got {given!r} for {name}")
    return given


def exact_widths(layer: nn.Conv3d, m: int, merge: Merge) -> tuple[int, ...]:
    """The M per group from which on each stream has any kernel for its channels exactly."""
    volume = _volume(layer)
    channels, per_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    counts = stream_channels(per_group, m, merge)
    return tuple(
        min(channels * volume // layer.kernel_size[s], layer.kernel_size[s] * counts[s])
        for s in range(m)
    )


def _eq5(layer: nn.Conv3d, out_channels: int, m: int, maximum: int | None) -> int:
    """Eq. 5 by ``psc.block.block`` for cubic kernels without groups; its idea for the others.

    The idea: one stream has as many weights as the 3D layer (of one group). Where the kernel is
    not cubic that depends on the axis, and we take the mean of the m axes. Groups have no smallest
    width: with the published 3, a depthwise layer would have more weights than before.
    """
    sizes = layer.kernel_size
    channels, filters = layer.in_channels // layer.groups, out_channels // layer.groups
    if layer.groups == 1 and len(set(sizes)) == 1:
        return stream_width(channels, filters, m, kernel_size=sizes[0], maximum=maximum)
    volume = _volume(layer)
    axes = range(min(m, AXES))
    per_filter = sum(channels * volume // sizes[a] + sizes[a] * filters for a in axes)
    least = MINIMUM_WIDTH if layer.groups == 1 else 1
    width = max(least, volume * channels * filters * len(axes) // per_filter) // m
    return max(1, width if maximum is None else min(width, maximum))


def _volume(layer: nn.Conv3d) -> int:
    d, h, w = layer.kernel_size
    return d * h * w


# ----------------------------------------
# Streams side by side whose results are put together in an order of channels of its own.


_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W), which nn.Conv3d takes too


class ParallelStreams(nn.Module):
    """Base of what ``convert`` puts in place of convolutions: m streams, merged.

    Args:
        streams: stream s along axis s (D, H, W), its 1D convolution its last part.
        merge: "concatenate" or "sum" (Eq. 3).
        widths: M of every stream.
        order: (out,) channel j of the result is channel order[j] of the concatenation; None for
            sums, and for a single stream.

    Attributes:
        channel_order: the order, kept in checkpoints.
    """

    def __init__(
        self,
        streams: Sequence[nn.Sequential],
        merge: Merge,
        widths: Sequence[int],
        order: Tensor | None,
    ) -> None:
        super().__init__()
        self.merge, self.widths = merge, tuple(widths)
        self.streams = nn.ModuleList(streams)
        self.channel_order: Tensor | None
        self.register_buffer("channel_order", order)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        results: list[Tensor] = [stream(x) for stream in self.streams]
        if self.channel_order is None:
            return sum(results[1:], start=results[0])
        y = torch.cat(results, dim=_CHANNELS)
        if not isinstance(y, Tensor) or y.is_contiguous():  # torch.fx traces with proxies
            return y.index_select(_CHANNELS, self.channel_order)
        # index_select gives channels first; with the channels last in memory, they stay there.
        return y.movedim(_CHANNELS, -1).index_select(-1, self.channel_order).movedim(-1, _CHANNELS)


def checked_channels(out_channels: int, widths: Sequence[int], n: int, merge: Merge) -> list[int]:
    """Output channels of each stream, of one group's ``out_channels``.

    Raises:
        ConfigError: for an (m, n) that there is not, a width below 1, or a stream without channels.
    """
    check_streams(len(widths), n)
    counts = stream_channels(out_channels, len(widths), merge)
    if min(counts) < 1 or min(widths) < 1:
        raise ConfigError(
            f"m={len(widths)} streams of M={list(widths)} with {counts} output channels per group: "
            "each needs at least one filter and one channel"
        )
    return counts


def initial_order(
    out_channels: int, groups: int, counts: Sequence[int], merge: Merge
) -> Tensor | None:
    """The ``order`` of streams that nothing has been chosen for.

    Each stream holds a part of every group, the first stream the first channels of each.
    """
    if merge == "sum" or len(counts) == 1:
        return None
    per_group = out_channels // groups
    parts: list[Tensor] = []
    start = 0
    for count in counts:
        parts += [torch.arange(count) + g * per_group + start for g in range(groups)]
        start += count
    return torch.cat(parts).argsort()


class SeparableConv3d(ParallelStreams):
    """``nn.Conv3d`` as m streams of one 2D and one 1D convolution each (P_mSC_1).

    Stream s runs its 1D convolution along axis s (D, H, W) and its 2D convolution in the plane of
    the other two. Unlike ``PSCBlock`` it has every option of ``nn.Conv3d``, no non-linearity of
    its own unless asked for, and one bias per output channel: without an activation it is linear,
    a Conv3d whose kernel ``psc.conversion.composed_weight`` tells. Stride, padding of any mode and
    dilation are split by axis, which changes nothing: each acts along one axis only.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: of the Conv3d that it stands for.
        widths: M of every stream, in filters per group; their number is m.
        merge: "concatenate" gives each stream a part of the output channels, of each group as
            many as ``PSCBlock`` does; "sum" (Eq. 3) all of them.
        activation: builds what stands between the 2D and the 1D convolution; None for nothing.
        initialise: False leaves the weights as the memory has them, to be overwritten.

    Input (N, C, D, H, W) or (C, D, H, W), result as ``nn.Conv3d``'s.

    Attributes:
        channel_order: (out_channels,) int64, concatenation only: channel j of the result is
            channel ``channel_order[j]`` of the streams' concatenation. Kept in checkpoints.

    Raises:
        ConfigError: for m outside 1–3, a width below 1, or fewer output channels per group than
            concatenated streams.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        *,
        widths: Sequence[int],
        stride: Triple = (1, 1, 1),
        padding: Triple | str = (0, 0, 0),
        dilation: Triple = (1, 1, 1),
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        merge: Merge = "concatenate",
        activation: Callable[[], nn.Module] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        initialise: bool = True,
    ) -> None:
        counts = checked_channels(out_channels // groups, widths, 1, merge)

        def part(inputs: int, outputs: int, kept: Triple, bias: bool) -> nn.Conv3d:
            return stream_part(initialise)(
                inputs,
                outputs,
                _where(kept, kernel_size, 1),
                _where(kept, stride, 1),
                padding if isinstance(padding, str) else _where(kept, padding, 0),
                _where(kept, dilation, 1),
                groups,
                bias,
                padding_mode,
                device=device,
                dtype=dtype,
            )

        streams = []
        for axis, (width, count) in enumerate(zip(widths, counts, strict=True)):
            along: Triple = (int(axis == 0), int(axis == 1), int(axis == 2))
            across: Triple = (1 - along[0], 1 - along[1], 1 - along[2])
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["plane"] = part(in_channels, groups * width, across, False)
            if activation is not None:
                layers["activation"] = activation().to(device, dtype)
            # Summed streams share one bias.
            own_bias = bias and (merge == "concatenate" or axis == 0)
            layers["line"] = part(groups * width, groups * count, along, own_bias)
            streams.append(nn.Sequential(layers))
        order = initial_order(out_channels, groups, counts, merge)
        super().__init__(streams, merge, widths, None if order is None else order.to(device))
        # Under the names of nn.Conv3d, for networks that look at their layers' shapes.
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding, self.padding_mode = padding, padding_mode

    @property
    def is_linear(self) -> bool:
        """Whether nothing stands between the 2D and the 1D convolutions."""
        names = [[name for name, _ in stream.named_children()] for stream in self.streams]
        return all(own == ["plane", "line"] for own in names)

    def convolutions(self) -> list[tuple[nn.Conv3d, nn.Conv3d]]:
        """The 2D and the 1D convolution of every stream.

        Raises:
            ConfigError: if something else has been put in their place.
        """
        pairs = []
        for stream in self.streams:
            plane, line = stream.get_submodule("plane"), stream.get_submodule("line")
            if not isinstance(plane, nn.Conv3d) or not isinstance(line, nn.Conv3d):
                kinds = f"{type(plane).__name__} and {type(line).__name__}"
                raise ConfigError(f"a stream of a SeparableConv3d must be of Conv3d, not {kinds}")
            pairs.append((plane, line))
        return pairs

    def extra_repr(self) -> str:
        """The paper's name, the Conv3d that it stands for, and M."""
        shape = "×".join(map(str, self.kernel_size))
        joined = " summed" if self.merge == "sum" and len(self.widths) > 1 else ""
        return (
            f"P{len(self.widths)}SC1{joined} for {self.in_channels}→{self.out_channels} {shape}, "
            f"M={list(self.widths)}"
        )


def _where(kept: Triple, values: Triple, otherwise: int) -> Triple:
    a, b, c = (v if k else otherwise for k, v in zip(kept, values, strict=True))
    return a, b, c


def stream_part(initialise: bool) -> Callable[..., nn.Conv3d]:
    """What builds the convolutions of a stream, with or without weights to start from."""
    if initialise:
        return conv3d
    return partial(uninitialised, build=conv3d)


def uninitialised(
    *args: Any,
    build: Callable[..., nn.Conv3d] = nn.Conv3d,
    device: torch.device | None = None,
    **options: Any,
) -> nn.Conv3d:
    """An ``nn.Conv3d`` whose weights are whatever the memory holds; no random number is drawn."""
    with torch.device("meta"):
        layer = build(*args, **options)
    return layer.to_empty(device=device or torch.get_default_device())


# ----------------------------------------
# n consecutive Conv3d as one P_mSC_n: what ``convert`` puts in place of a run of them.


@dataclass(frozen=True)
class Geometry:
    """Kernel size, stride and zero padding of one Conv3d."""

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)

    @classmethod
    def of(cls, layer: nn.Conv3d) -> "Geometry":
        """Those of a layer; "same" and "valid" in numbers.

        Raises:
            ConfigError: if it pads more on one side than on the other.
        """
        padding = symmetric_padding(layer)
        if padding is None:
            raise ConfigError("padding='same' of an even kernel pads more on one side")
        return cls(triple(layer.kernel_size), triple(layer.stride), padding)


class SeparableRun3d(ParallelStreams):
    """m streams of n 2D convolutions and one 1D convolution for n consecutive Conv3d (P_mSC_n).

    Unlike ``PSCBlock`` it takes kernels, strides and zero padding of any size, layer by layer. The
    1D convolution has the extent, stride and padding of all layers together along its axis, so
    that size and receptive field are those of the layers.

    Args:
        in_channels: of the first layer.
        out_channels: of the last layer.
        layers: the geometry of each layer, their number is n.
        widths: M of every stream; their number is m.
        bias: whether the 1D convolutions have one.
        merge: "concatenate" or "sum" (Eq. 3).
        activation: builds what follows every 2D convolution, which then have a bias too; None for
            nothing.
        device, dtype: of the parameters.
        initialise: False leaves the weights as the memory has them, to be overwritten.

    Input (N, C, D, H, W) or (C, D, H, W).

    Raises:
        ConfigError: for m outside 1–3, a width below 1, or fewer output channels than
            concatenated streams.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: Sequence[Geometry],
        *,
        widths: Sequence[int],
        bias: bool = True,
        merge: Merge = "concatenate",
        activation: Callable[[], nn.Module] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        initialise: bool = True,
    ) -> None:
        counts = checked_channels(out_channels, widths, len(layers), merge)
        build = stream_part(initialise)
        streams = []
        for axis, (width, count) in enumerate(zip(widths, counts, strict=True)):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            for i, layer in enumerate(layers):
                parts[f"plane_{i + 1}"] = build(
                    width if i else in_channels,
                    width,
                    _with(layer.kernel_size, axis, 1),
                    _with(layer.stride, axis, 1),
                    _with(layer.padding, axis, 0),
                    bias=activation is not None,
                    device=device,
                    dtype=dtype,
                )
                if activation is not None:
                    parts[f"activation_{i + 1}"] = activation().to(device, dtype)
            extent, stride, padding = _together(layers, axis)
            parts["line"] = build(
                width,
                count,
                _with((1, 1, 1), axis, extent),
                _with((1, 1, 1), axis, stride),
                _with((0, 0, 0), axis, padding),
                bias=bias and (merge == "concatenate" or axis == 0),  # summed streams share one
                device=device,
                dtype=dtype,
            )
            streams.append(nn.Sequential(parts))
        order = initial_order(out_channels, 1, counts, merge)
        super().__init__(streams, merge, widths, None if order is None else order.to(device))
        self.in_channels, self.out_channels = in_channels, out_channels
        self.layers = tuple(layers)

    def planes(self, stream: int) -> list[nn.Conv3d]:
        """The 2D convolutions of a stream, in their order."""
        parts = self.streams[stream]
        return [parts.get_submodule(f"plane_{i + 1}") for i in range(len(self.layers))]  # type: ignore[misc]

    def line(self, stream: int) -> nn.Conv3d:
        """The 1D convolution of a stream."""
        return self.streams[stream].get_submodule("line")  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """The paper's name, the layers that it stands for, and M."""
        shapes = ", ".join("×".join(map(str, layer.kernel_size)) for layer in self.layers)
        joined = " summed" if self.merge == "sum" and len(self.widths) > 1 else ""
        return (
            f"P{len(self.widths)}SC{len(self.layers)}{joined} for {self.in_channels}→"
            f"{self.out_channels} {shapes}, M={list(self.widths)}"
        )


def _together(layers: Sequence[Geometry], axis: int) -> tuple[int, int, int]:
    """Extent, stride and padding along an axis of consecutive layers as one."""
    extent, stride, padding = 1, 1, 0
    for layer in layers:
        extent += (layer.kernel_size[axis] - 1) * stride
        padding += layer.padding[axis] * stride
        stride *= layer.stride[axis]
    return extent, stride, padding


def _with(values: Triple, axis: int, value: int) -> Triple:
    a, b, c = (value if i == axis else v for i, v in enumerate(values))
    return a, b, c
