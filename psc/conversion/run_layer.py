"""n consecutive Conv3d as one P_mSC_n: what ``convert`` puts in place of a run of them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from psc.conversion.layer import stream_part, triple
from psc.conversion.parallel_streams import ParallelStreams, checked_channels, initial_order
from psc.convolutions import Triple
from psc.errors import ConfigError
from psc.streams import FoldableStream, Merge, symmetric_padding


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
            streams.append(FoldableStream(parts, axis))
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
