"""What a DenseNet is made of besides its ends: dense layers, blocks of them, transitions.

Everything here puts batch norm and ReLU before its convolution, as in Huang et al. (2017).
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from psc.convolutions import ConvolutionOptions, Segment
from psc.segments import SegmentFactory

_OPTIONS = ConvolutionOptions(norm=nn.BatchNorm3d, pre_activation=True, bias=False)


class DenseLayer(nn.Module):
    """A dense layer, or several that one segment stands for: new channels join the input.

    Args:
        segment: factory of the 3×3×3 convolutions.
        in_channels: channels that enter.
        growth: channels that each dense layer adds.
        bottleneck: a 1×1×1 convolution to ``bottleneck``·``growth`` channels comes first; 0: none.
        layers: dense layers that the segment stands for.
        dropout: probability with which an added value is zeroed in training.

    Input (N, in_channels, D, H, W), result (N, in_channels + layers·growth, D, H, W): the input,
    then the new channels.
    """

    def __init__(
        self,
        segment: SegmentFactory,
        in_channels: int,
        *,
        growth: int,
        bottleneck: int = 0,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels + layers * growth
        self.bottleneck: nn.Module = nn.Identity()
        if bottleneck:
            self.bottleneck = norm_relu_conv(in_channels, bottleneck * growth)
            in_channels = bottleneck * growth
        self.segment = segment(
            in_channels, layers * growth, depth=layers, filters=growth, options=_OPTIONS
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, in_channels + layers·growth, D, H, W)."""
        return torch.cat([x, self.dropout(self.segment(self.bottleneck(x)))], dim=1)


class DenseBlock(nn.Sequential):
    """Dense layers one after the other: each is given what all before it found.

    Args:
        layer: builds a layer for the channels that enter it.
        in_channels: channels that enter the first.
        count: number of layers, at least 1.
    """

    def __init__(self, layer: Callable[[int], DenseLayer], in_channels: int, count: int) -> None:
        layers = [layer(in_channels)]
        while len(layers) < count:
            layers.append(layer(layers[-1].out_channels))
        super().__init__(*layers)
        self.out_channels = layers[-1].out_channels
        self.reach = sum(reach(layer.segment) for layer in layers)
        """Voxels on either side of its own that an output voxel depends on."""


def reach(segment: Segment) -> int:
    """Voxels on either side of its own that a segment's output voxel depends on.

    Along the axis where it is largest; at stride 1 all axes are alike.
    """
    return max(segment.receptive_field) // 2


def norm_relu_conv(
    in_channels: int, out_channels: int, *, factor: int = 1, bias: bool = False
) -> nn.Sequential:
    """Batch norm, ReLU and the convolution that divides the resolution by ``factor``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["norm"] = nn.BatchNorm3d(in_channels)
    layers["activation"] = nn.ReLU(inplace=True)
    layers["conv"] = nn.Conv3d(in_channels, out_channels, factor, factor, bias=bias)
    return nn.Sequential(layers)


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """Between dense blocks: 1×1×1 to other channels, then 2×2×2 to half the resolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["reduce"] = norm_relu_conv(in_channels, out_channels)
    layers["halve"] = norm_relu_conv(out_channels, out_channels, factor=2, bias=True)
    return nn.Sequential(layers)
