"""One stream of P_mSC_n: 2D convolutions in a plane, then one 1D convolution across it."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from psc.convolutions import AXES, ConvolutionOptions, Triple, convolution
from psc.formulations import (
    Formulation,
    fold,
    folded_axis_convolution,
    folded_plane_convolution,
    folds,
    unfold,
)

Merge = Literal["concatenate", "sum"]
"""What becomes of parallel streams: each gives a part of the channels (the paper's block), or all
of them, which are added up (Eq. 3)."""

MERGES: tuple[Merge, ...] = ("concatenate", "sum")


class Stream(nn.Sequential):
    """n 2D convolutions (d×d) across ``axis``, then a 1D convolution along it.

    Its parts are named ``plane_1`` … ``plane_n`` and ``axis``, each with its ``conv`` and, as the
    options say, ``norm`` and ``activation``. Parameters are those of ``nn.Conv3d`` whatever
    ``formulation`` computes them, so that checkpoints do not depend on it; it may be set anew.

    Args:
        in_channels: channels that enter.
        width: M, channels of every 2D convolution.
        out_channels: channels that leave.
        axis: 0, 1 or 2 (D, H, W).
        n: number of 2D convolutions.
        stride: in all three axes: the first 2D convolution takes it in the plane, the 1D
            convolution along the axis.
        options: kernel size, padding, normalisation, activation, formulation.
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
            parts[f"plane_{i + 1}"] = convolution(
                channels,
                width,
                _across(axis, d),
                _across(axis, stride if i == 0 else 1),
                options,
                last=False,
                build=_StreamConv3d,
            )
            channels = width
        parts["axis"] = convolution(
            channels,
            out_channels,
            _along(axis, n * (d - 1) + 1),
            _along(axis, stride),
            line or options,
            last=True,
            build=_StreamConv3d,
        )
        super().__init__(parts)
        self._axis = axis
        self.formulation: Formulation = options.formulation

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        if not folds(x, self.formulation):
            for part in self:
                x = part(x)
            return x
        # Everything between the convolutions treats all voxels alike, in whatever order they lie.
        x = fold(x, self._axis)
        for part in self:
            x = self._folded(dict(part.named_children()), x)
        return unfold(x, self._axis)

    def _folded(self, layers: dict[str, nn.Module], x: Tensor) -> Tensor:
        """One part's layers, in their order, on a folded volume."""
        fused = list(layers) == ["conv", "activation"]
        for name, layer in layers.items():
            if name == "conv":
                x = layer(x, self._axis, layers["activation"] if fused else None)
            elif not fused:
                x = layer(x)
        return x


class _StreamConv3d(nn.Conv3d):
    """``nn.Conv3d`` with a 2D or 1D kernel, which also computes on a folded volume."""

    def forward(
        self, x: Tensor, folded_axis: int | None = None, activation: nn.Module | None = None
    ) -> Tensor:
        """(N, C, D, H, W), or (N, C, L, P, Q) folded along ``folded_axis``; so is the result.

        ``activation`` follows the folded convolution.
        """
        if folded_axis is None:
            return super().forward(x)
        if self.kernel_size[folded_axis] == 1:
            in_plane = next(a for a in range(AXES) if a != folded_axis)
            weight = self.weight.select(2 + folded_axis, 0)
            stride, padding = self.stride[in_plane], self.padding[in_plane]
            return folded_plane_convolution(x, weight, self.bias, stride, int(padding), activation)
        weight = self.weight.flatten(2)
        stride, padding = self.stride[folded_axis], self.padding[folded_axis]
        return folded_axis_convolution(x, weight, self.bias, stride, int(padding), activation)


def _along(axis: int, size: int) -> Triple:
    """``size`` along the axis, 1 along the others: the shape of a 1D kernel."""
    return tuple(size if a == axis else 1 for a in range(AXES))  # type: ignore[return-value]


def _across(axis: int, size: int) -> Triple:
    """1 along the axis, ``size`` along the others: the shape of a 2D kernel."""
    return tuple(1 if a == axis else size for a in range(AXES))  # type: ignore[return-value]
