"""One Conv3d as a separable module with the same arguments: what ``convert`` puts in its place."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from psc.conversion.parallel_streams import ParallelStreams, checked_channels, initial_order
from psc.convolutions import Triple
from psc.errors import ConfigError
from psc.streams import FoldableStream, Merge, stream_convolution


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
            streams.append(FoldableStream(layers, axis))
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


def triple(values: Sequence[int]) -> Triple:
    """Three numbers, which the types of ``nn.Conv3d`` leave open."""
    d, h, w = values
    return d, h, w


def _where(kept: Triple, values: Triple, otherwise: int) -> Triple:
    a, b, c = (v if k else otherwise for k, v in zip(kept, values, strict=True))
    return a, b, c


def stream_part(initialise: bool) -> Callable[..., nn.Conv3d]:
    """What builds the convolutions of a stream, with or without weights to start from."""
    if initialise:
        return stream_convolution
    return partial(uninitialised, build=stream_convolution)


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
