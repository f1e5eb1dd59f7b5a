"""What ``convert`` puts in place of convolutions, and what is left where others stood."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from psc.block.block import MINIMUM_WIDTH, Merge, check_streams, stream_channels, stream_width
from psc.block.convolution import AXES, Triple, conv3d, symmetric_padding, triple
from psc.conversion.watching import CHANNELS
from psc.decomposition import full_width
from psc.errors import ConfigError

Width = int | Literal["eq5"] | Callable[[str, nn.Conv3d], int] | Mapping[str, Sequence[int]] | None


@dataclass(frozen=True)
class Geometry:
    """The arguments of one Conv3d that act along the axes, and its groups."""

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple | str = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, layer: nn.Conv3d) -> "Geometry":
        """Those of a layer; "same" and "valid" in numbers where both sides are padded alike."""
        return cls(
            triple(layer.kernel_size),
            triple(layer.stride),
            symmetric_padding(layer) or str(layer.padding),
            triple(layer.dilation),
            layer.groups,
            layer.padding_mode,
        )


class Place(nn.Module):
    """Base of what stands where another module stood: has what others read of that one.

    Its weight and bias are there with shape, dtype and device, for networks that look at these; the
    values are not a number, so that nobody computes with them unseen.
    """

    def stand_for(self, old: nn.Module) -> None:
        """Take over a module's mode and public attributes, and the shapes of its parameters."""
        for name, value in vars(old).items():
            if not name.startswith("_") and name not in vars(self) and not hasattr(self, name):
                setattr(self, name, value)
        tensors = {**old._parameters, **old._buffers}
        self._shapes = {
            name: None if tensor is None else tuple(tensor.shape)
            for name, tensor in tensors.items()
            if tensor is None or tensor.is_floating_point()
        }
        self.train(old.training)

    def __getattr__(self, name: str) -> Any:
        """A stand-in for a parameter of the module that stood here."""
        shapes = self.__dict__.get("_shapes", {})
        if name not in shapes:
            return super().__getattr__(name)
        if shapes[name] is None:
            return None
        like = next(self.parameters(), None)
        like = self._like if like is None else like
        stand_in = like.new_full((), torch.nan).expand(shapes[name])
        return stand_in.requires_grad_(like.requires_grad)


class Absorbed(Place):
    """Where a module stood that a block elsewhere makes superfluous: hands on what it gets.

    ``undone``: what comes is a pair f(y), f(−y), see ``psc.conversion.watching``, and becomes
    (f(y) − f(−y)) · scale = y, the scale kept in checkpoints; ``paired``: a pair goes on again.
    """

    def __init__(self, old: nn.Module, *, undone: bool = False, paired: bool = False) -> None:
        super().__init__()
        like = next((p for p in old.parameters() if p.is_floating_point()), None)
        self.undone, self.paired = undone, paired
        if like is not None:  # moves and changes its type with the network
            self.register_buffer("_like", like.new_zeros(()), persistent=False)
        if undone and like is not None:  # a convolution was here
            self.register_buffer("scale", like.new_ones(()))
        self.stand_for(old)

    def forward(self, x: Tensor) -> Tensor:
        """What came, as it is; of a pair, or as one."""
        if self.undone:
            positive, negative = x.chunk(2, CHANNELS)
            x = (positive - negative) * self.scale
        return pair(x) if self.paired else x

    def extra_repr(self) -> str:
        """What it does, if anything."""
        return ", ".join(name for name in ("undone", "paired") if getattr(self, name))


def pair(y: Tensor) -> Tensor:
    """(y, −y), one after the other over the channels."""
    return torch.cat((y, -y), CHANNELS)


class SeparableConv3d(Place):
    """n consecutive ``nn.Conv3d`` as m streams of n 2D and one 1D convolution each (P_mSC_n).

    Stream s runs its 1D convolution along axis s (D, H, W) and its 2D convolutions in the plane of
    the other two. Unlike ``PSCBlock`` it has every option of ``nn.Conv3d``, layer by layer, and no
    non-linearity of its own unless asked for. Stride, padding and dilation are split by axis: each
    acts along one axis only. The 1D convolution has the extent, stride and padding of all layers
    together along its axis, so that size and receptive field are those of the layers.

    For one layer (n = 1) any padding mode, dilation and groups will do, and without an activation
    the module is linear: a Conv3d whose kernel ``psc.conversion.composed_weight`` tells.

    Args:
        in_channels: of the first layer.
        out_channels: of the last layer.
        layers: the geometry of each layer, their number is n.
        widths: M of every stream, in filters per group; their number is m.
        bias: whether the 1D convolutions have one.
        merge: "concatenate" gives each stream a part of the output channels, of each group as
            many as ``PSCBlock`` does; "sum" (Eq. 3) all of them, and a common bias.
        activation: builds what follows every 2D convolution, which then have a bias if n > 1; None
            for nothing.
        device, dtype: of the parameters.
        initialise: False leaves the weights as the memory has them, to be overwritten.

    Input (N, C, D, H, W) or (C, D, H, W), result as ``nn.Conv3d``'s.

    Attributes:
        channel_order: (out_channels,) int64, concatenation only: channel j of the result is
            channel ``channel_order[j]`` of the streams' concatenation. Kept in checkpoints.
        paired: whether the result y goes on as (y, −y), see ``psc.conversion.watching``.

    Raises:
        ConfigError: for m outside 1–3, a width below 1, or fewer output channels per group than
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
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.layers, self.widths, self.merge = tuple(layers), tuple(widths), merge
        self.paired, self.groups = False, layers[0].groups
        check_streams(len(widths), self.n)
        counts = stream_channels(out_channels // self.groups, len(widths), merge)
        if min(counts) < 1 or min(widths) < 1:
            raise ConfigError(
                f"m={len(widths)} streams of M={list(widths)} with {counts} output channels per "
                "group: each needs at least one filter and one channel"
            )
        build = conv3d if initialise else partial(uninitialised, build=conv3d)
        build = partial(build, groups=self.groups, device=device, dtype=dtype)
        streams = []
        for axis, (width, count) in enumerate(zip(widths, counts, strict=True)):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            entering, filters = in_channels, width * self.groups
            for number, layer in enumerate(layers, start=1):
                place = f"_{number}" if self.n > 1 else ""
                parts[f"plane{place}"] = build(
                    entering,
                    filters,
                    _with(layer.kernel_size, axis, 1),
                    _with(layer.stride, axis, 1),
                    _with(layer.padding, axis, 0),
                    _with(layer.dilation, axis, 1),
                    bias=activation is not None and self.n > 1,
                    padding_mode=layer.padding_mode,
                )
                if activation is not None:
                    parts[f"activation{place}"] = activation().to(device, dtype)
                entering = filters
            extent, stride, padding, dilation = _together(layers, axis)
            parts["line"] = build(
                filters,
                count * self.groups,
                _with((1, 1, 1), axis, extent),
                _with((1, 1, 1), axis, stride),
                padding if isinstance(padding, str) else _with((0, 0, 0), axis, padding),
                _with((1, 1, 1), axis, dilation),
                bias=bias and (merge == "concatenate" or axis == 0),  # summed streams share one
                padding_mode=layers[0].padding_mode,
            )
            streams.append(nn.Sequential(parts))
        self.streams = nn.ModuleList(streams)
        self.channel_order: Tensor | None
        order = _initial_order(out_channels, self.groups, counts, merge)
        self.register_buffer("channel_order", None if order is None else order.to(device))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        y = self._merged(x)
        return pair(y) if self.paired else y

    def _merged(self, x: Tensor) -> Tensor:
        results: list[Tensor] = [stream(x) for stream in self.streams]
        if self.channel_order is None:
            return sum(results[1:], start=results[0])
        y = torch.cat(results, dim=CHANNELS)
        if not isinstance(y, Tensor) or y.is_contiguous():  # torch.fx traces with proxies
            return y.index_select(CHANNELS, self.channel_order)
        # index_select gives channels first; with the channels last in memory, they stay there.
        return y.movedim(CHANNELS, -1).index_select(-1, self.channel_order).movedim(-1, CHANNELS)

    @property
    def n(self) -> int:
        """Number of 2D convolutions per stream, and of the layers that it stands for."""
        return len(self.layers)

    @property
    def is_linear(self) -> bool:
        """Whether nothing stands between the 2D and the 1D convolutions."""
        children = [child for stream in self.streams for child in stream.children()]
        return len(children) == len(self.widths) * (self.n + 1)

    def planes(self, stream: int) -> list[nn.Conv3d]:
        """The 2D convolutions of a stream, in their order."""
        names = ["plane"] if self.n == 1 else [f"plane_{i + 1}" for i in range(self.n)]
        return [self._convolution(stream, name) for name in names]

    def line(self, stream: int) -> nn.Conv3d:
        """The 1D convolution of a stream."""
        return self._convolution(stream, "line")

    def _convolution(self, stream: int, name: str) -> nn.Conv3d:
        part = self.streams[stream].get_submodule(name)
        if not isinstance(part, nn.Conv3d):
            raise ConfigError(f"{name} of a stream is no Conv3d any more but {type(part).__name__}")
        return part

    def extra_repr(self) -> str:
        """The paper's name, the layers that it stands for, and M."""
        shapes = ", ".join("×".join(map(str, layer.kernel_size)) for layer in self.layers)
        joined = " summed" if self.merge == "sum" and len(self.widths) > 1 else ""
        return (
            f"P{len(self.widths)}SC{self.n}{joined} for {self.in_channels}→{self.out_channels} "
            f"{shapes}, M={list(self.widths)}"
        )


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


def _together(layers: Sequence[Geometry], axis: int) -> tuple[int, int, int | str, int]:
    """Extent, stride, padding and dilation along an axis of consecutive layers as one."""
    only = layers[0]
    if isinstance(only.padding, str) or only.dilation[axis] > 1:  # layers by themselves
        padding = only.padding if isinstance(only.padding, str) else only.padding[axis]
        return only.kernel_size[axis], only.stride[axis], padding, only.dilation[axis]
    extent, stride, total = 1, 1, 0
    for layer in layers:
        assert not isinstance(layer.padding, str)  # Geometry.of
        extent += (layer.kernel_size[axis] - 1) * stride
        total += layer.padding[axis] * stride
        stride *= layer.stride[axis]
    return extent, stride, total, 1


def _with(values: Any, axis: int, value: int) -> Any:
    """Three numbers with another one along an axis; a padding in words as it is."""
    if isinstance(values, str):
        return values
    return tuple(value if i == axis else v for i, v in enumerate(values))


def _initial_order(
    out_channels: int, groups: int, counts: Sequence[int], merge: Merge
) -> Tensor | None:
    """The ``channel_order`` if each stream holds a part of every group, one after the other."""
    if merge == "sum" or len(counts) == 1:
        return None
    of_groups = torch.split(torch.arange(out_channels).view(groups, -1), list(counts), dim=1)
    return torch.cat([part.flatten() for part in of_groups]).argsort()


def stream_widths(
    name: str,
    layers: Sequence[nn.Conv3d],
    m: int,
    merge: Merge,
    width: Width,
    *,
    maximum: int | None,
    linear: bool,
) -> tuple[int, ...]:
    """M of each stream, in filters per group of the layers; ``name`` is the first one's.

    By Eq. 5 several layers have the width of one from the first one's input to the last one's
    output, as in ``psc.block.unit``. ``linear``: nothing stands between 2D and 1D convolution. Then
    filters beyond the exact number would be zero for good, and one layer goes without.
    """
    first = layers[0]
    if isinstance(width, Mapping):
        given = width.get(name)
        if not isinstance(given, Sequence) or len(given) != m:
            raise ConfigError(
                f"width must have {m} numbers for {name!r}, one for each stream, got {given!r}"
            )
        return tuple(given)
    if width is None:
        if len(layers) > 1:
            raise ConfigError(
                "width=None, exact, is for n=1: several layers together have no width of which a "
                "block is exact, give 'eq5' or a number"
            )
        return exact_widths(first, m, merge)
    if width == "eq5":
        chosen = _eq5(first, layers[-1].out_channels, m, maximum)
    else:
        chosen = width(name, first) if callable(width) else width
        if not isinstance(chosen, int) or isinstance(chosen, bool) or chosen < 1:
            raise ConfigError(f"width must be a whole number from 1 on, got {chosen!r} for {name}")
    if len(layers) > 1 or not linear:
        return (chosen,) * m
    return tuple(min(chosen, most) for most in exact_widths(first, m, merge))


def exact_widths(layer: nn.Conv3d, m: int, merge: Merge) -> tuple[int, ...]:
    """The M per group from which on each stream has any kernel for its channels exactly."""
    counts = stream_channels(layer.out_channels // layer.groups, m, merge)
    return tuple(full_width(layer.weight[:count], axis) for axis, count in enumerate(counts))


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
    volume = layer.weight[0, 0].numel()
    axes = range(min(m, AXES))
    per_filter = sum(channels * volume // sizes[a] + sizes[a] * filters for a in axes)
    least = MINIMUM_WIDTH if layer.groups == 1 else 1
    width = max(least, volume * channels * filters * len(axes) // per_filter) // m
    return max(1, width if maximum is None else min(width, maximum))
