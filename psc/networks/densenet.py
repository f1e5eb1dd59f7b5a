"""3D DenseNet of the MRI application (Section 4.2), in its two published forms.

The state of the art that the paper starts from is 3D-DenseSeg (Bui, Shin and Moon 2017): three
3×3×3 convolutions at full resolution, then four dense blocks at 1/2, 1/4, 1/8 and 1/16 of it; every
block's output is brought straight to full resolution and meets the first convolutions' result
there. Its authors count those first convolutions as a block, hence the paper's "five dense blocks".

This file holds no block logic: the first convolutions and those of the dense layers come from a
unit factory.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from psc.block.convolution import ConvolutionOptions, Padding, Unit, conv3d
from psc.block.unit import UnitFactory
from psc.errors import ConfigError
from psc.networks.geometry import VolumeNetwork, check_at_least

Upsampling = Literal["interpolation", "transposed"]
"""The paper's reproduction ("simple up-sampling layers") or Bui et al.'s learned one."""


# Batch norm and ReLU come before their convolution, as in Huang et al. (2017).
_OPTIONS = ConvolutionOptions(norm=nn.BatchNorm3d, pre_activation=True, bias=False)


def layers_per_segment(n: int) -> int:
    """Dense layers that one unit stands for if nothing else is said (see ``DenseNet``)."""
    return 2 if n > 1 else 1


class DenseLayer(nn.Module):
    """A dense layer, or several ``layers`` that one unit stands for: new channels join the input.

    A 1×1×1 convolution to ``bottleneck``·``growth`` channels comes first, unless that is 0. The
    result (N, in_channels + layers·growth, D, H, W) is the input, then the new channels.
    """

    def __init__(
        self,
        unit: UnitFactory,
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
        self.segment = unit(
            in_channels, layers * growth, depth=layers, filters=growth, options=_OPTIONS
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, in_channels + layers·growth, D, H, W)."""
        return torch.cat([x, self.dropout(self.segment(self.bottleneck(x)))], dim=1)


class DenseBlock(nn.Sequential):
    """Dense layers one after the other: each is given what all before it found.

    ``layer`` builds one for the channels that enter it; ``count`` is at least 1.
    """

    def __init__(self, layer: Callable[[int], DenseLayer], in_channels: int, count: int) -> None:
        layers = [layer(in_channels)]
        while len(layers) < count:
            layers.append(layer(layers[-1].out_channels))
        super().__init__(*layers)
        self.out_channels = layers[-1].out_channels
        self.reach = sum(reach(layer.segment) for layer in layers)
        """Voxels on either side of its own that an output voxel depends on."""


def reach(unit: Unit) -> int:
    """Voxels on either side of its own that a unit's output voxel depends on.

    Along the axis where it is largest; at stride 1 all axes are alike.
    """
    return max(unit.receptive_field) // 2


def norm_relu_conv(
    in_channels: int, out_channels: int, *, factor: int = 1, bias: bool = False
) -> nn.Sequential:
    """Batch norm, ReLU and the convolution that divides the resolution by ``factor``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["norm"] = nn.BatchNorm3d(in_channels)
    layers["activation"] = nn.ReLU(inplace=True)
    layers["conv"] = conv3d(in_channels, out_channels, factor, factor, bias=bias)
    return nn.Sequential(layers)


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """Between dense blocks: 1×1×1 to other channels, then 2×2×2 to half the resolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["reduce"] = norm_relu_conv(in_channels, out_channels)
    layers["halve"] = norm_relu_conv(out_channels, out_channels, factor=2, bias=True)
    return nn.Sequential(layers)


def upsampler(channels: int, classes: int, factor: int, upsampling: Upsampling) -> nn.Module:
    """(N, channels, D, H, W) → (N, classes, factor·D, factor·H, factor·W), without bias.

    "interpolation" takes the channels to the classes by 1×1×1 and interpolates linearly;
    "transposed" convolves a group of channels for each class. The factor is even.
    """
    if upsampling == "interpolation":
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = conv3d(channels, classes, 1, bias=False)
        layers["interpolate"] = nn.Upsample(
            scale_factor=factor, mode="trilinear", align_corners=False
        )
        return nn.Sequential(layers)
    if channels % classes:
        raise ConfigError(
            f"backbone.upsampling=transposed needs equally many channels for each class, but a "
            f"dense block ends in {channels} channels for {classes} classes; change "
            "backbone.initial_channels, growth or compression, or take "
            "backbone.upsampling=interpolation"
        )
    return nn.ConvTranspose3d(
        channels, classes, factor + 2, factor, padding=1, groups=classes, bias=False
    )


def tent(size: int) -> Tensor:
    """Weights (size, size, size) that fall linearly from the centre, for a transposed one's start.

    The paper mentions "bilinear weight fillers" (Section 4.2). That of Bui et al. lies half a voxel
    off the centre of the kernels of 6, 10 and 18 voxels; ours does not. With 4 voxels both
    interpolate linearly.
    """
    distance = (torch.arange(size) - (size - 1) / 2).abs()
    line = 1 - distance / (size / 2)
    return line[:, None, None] * line[:, None] * line


def sources(position: int, factor: int, upsampling: Upsampling) -> tuple[int, int]:
    """First and last coarse voxel that the upsampled voxel at ``position`` depends on."""
    if upsampling == "interpolation":
        # It lies at (position + 1/2) / factor − 1/2 of the coarse grid, never on one of its voxels.
        low = (2 * position + 1 - factor) // (2 * factor)
        return low, low + 1
    # Coarse voxel j reaches from j·factor − 1 to (j + 1)·factor: one beyond its own on both sides.
    return -((factor - position) // factor), (position + 1) // factor


STEM_CONVOLUTIONS = 3
"""Consecutive 3×3×3 convolutions at full resolution."""

# Nothing follows the stem's last convolution: the head takes its raw result.
_STEM = ConvolutionOptions(
    norm=nn.BatchNorm3d, final_activation=False, final_norm=False, bias=False
)


class DenseNet(VolumeNetwork):
    """DenseNet over volumes; its 3×3×3 convolutions are whatever ``unit`` builds.

    | option          | state of the art (Bui et al. 2017) | the paper's reproduction, our default |
    | --------------- | ---------------------------------- | ------------------------------------- |
    | ``bottleneck``  | 4                                  | 0                                     |
    | ``compression`` | 0.5                                | 1                                     |
    | ``upsampling``  | "transposed"                       | "interpolation"                       |

    With 3D convolutions and four classes the first has 1,551,392 parameters for one input channel
    and 1,552,256 for two; its biases are those of its authors' PyTorch release.

    What the paper says of the second is "basic 3D residual module without compression and simple
    up-sampling layers". Ours keeps the layout; to upsample, a 1×1×1 convolution takes a block's
    channels to the classes, and these are interpolated linearly.

    Nor does it say what a block with n ≥ 2 replaces here, where a dense layer is a single
    convolution. It does say that P_2SC_2 has fewer parameters than P_1SC_1, that P_2SC_3 has 12 %
    fewer than the state of the art, and hints that 3D has more (Figure 5). Candidates, in millions
    of parameters, beside 1.89 for 3D and 1.83 for P_1SC_1:

    | one block stands for                               | P_2SC_2 | P_2SC_3 |
    | -------------------------------------------------- | ------- | ------- |
    | one dense layer                                    | 1.97    | 2.12    |
    | two dense layers, k_i of Eq. 5 the filters of both | 2.04    | 2.33    |
    | two dense layers, k_i of Eq. 5 the filters of one  | 1.36    | 1.44    |

    Only the last agrees, except that P_2SC_3 has 7 % fewer than the state of the art (it is P_2SC_2
    that has 12 %). So ``layers_per_segment`` is to be 2 for n ≥ 2, and 1 for 3D and n = 1.

    Args:
        unit: factory of the 3×3×3 convolutions (``psc.make_unit``).
        in_channels: channels of the input.
        classes: channels of the result: background, CSF, GM and WM in the paper.
        initial_channels: channels of the first convolutions, and into the first dense block.
        growth: channels that a dense layer adds.
        layers_per_block: dense layers in a block.
        dense_blocks: number of dense blocks; before each the resolution is halved.
        bottleneck: 1×1×1 convolutions to ``bottleneck``·``growth`` channels come before the 3×3×3
            ones; 0 for none.
        compression: share of a block's channels that enters the next one, rounded down.
        upsampling: "interpolation", or "transposed" for one grouped transposed convolution per
            block, a group for each class.
        dropout: of every dense layer.
        layers_per_segment: consecutive dense layers that one unit stands for. With 3D, 2 makes
            another network: the second layer of a pair no longer sees what entered the first.

    ``forward`` takes (N, in_channels, D, H, W) with every axis a multiple of 2^``dense_blocks`` and
    returns logits (N, classes, D, H, W).
    """

    padding: Padding = "same"

    def __init__(
        self,
        unit: UnitFactory,
        *,
        in_channels: int = 1,
        classes: int = 4,
        initial_channels: int = 32,
        growth: int = 16,
        layers_per_block: int = 4,
        dense_blocks: int = 4,
        bottleneck: int = 0,
        compression: float = 1.0,
        upsampling: Upsampling = "interpolation",
        dropout: float = 0.2,
        layers_per_segment: int = 1,
    ) -> None:
        super().__init__()
        check_at_least(
            1,
            classes=classes,
            initial_channels=initial_channels,
            growth=growth,
            layers_per_block=layers_per_block,
            dense_blocks=dense_blocks,
            layers_per_segment=layers_per_segment,
        )
        check_at_least(0, bottleneck=bottleneck)
        if not 0 < compression <= 1:
            raise ConfigError(
                f"backbone.compression must be above 0 and at most 1 (keeps all), got {compression}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"backbone.dropout must be at least 0 and below 1, got {dropout}")
        if upsampling not in get_args(Upsampling):
            raise ConfigError(
                f"backbone.upsampling must be one of {', '.join(get_args(Upsampling))}, "
                f"got {upsampling!r}"
            )
        if layers_per_block % layers_per_segment:
            raise ConfigError(
                f"backbone.layers_per_block={layers_per_block} does not divide into units of "
                f"backbone.layers_per_segment={layers_per_segment} layers; make it a multiple"
            )
        self.dense_blocks, self.upsampling = dense_blocks, upsampling
        self.stem = unit(in_channels, initial_channels, depth=STEM_CONVOLUTIONS, options=_STEM)
        dense_layer = partial(
            DenseLayer,
            unit,
            growth=growth,
            bottleneck=bottleneck,
            layers=layers_per_segment,
            dropout=dropout,
        )
        # Fine to coarse, the order in which they run.
        self.down, self.dense, self.upsample = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self._reaches: list[int] = []
        channels = initial_channels
        for level in range(dense_blocks):
            if level == 0:
                self.down.append(norm_relu_conv(channels, channels, factor=2))
            else:
                kept = _compressed(channels, compression)
                self.down.append(transition(channels, kept))
                channels = kept
            block = DenseBlock(dense_layer, channels, layers_per_block // layers_per_segment)
            channels = block.out_channels
            self.dense.append(block)
            self.upsample.append(upsampler(channels, classes, 2 << level, upsampling))
            self._reaches.append(block.reach)
        self.head = norm_relu_conv(initial_channels + dense_blocks * classes, classes, bias=True)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """He initialisation, zero biases; transposed convolutions begin as linear filters."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose3d):
                with torch.no_grad():
                    module.weight.copy_(tent(module.kernel_size[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → logits (N, classes, D, H, W)."""
        self.check_input(x)
        features: Tensor = self.stem(x)
        x = features
        scales = []  # every block's result at full resolution
        for down, block, upsample in zip(self.down, self.dense, self.upsample, strict=True):
            x = block(down(x))
            scales.append(upsample(x))
        y: Tensor = self.head(torch.cat([*scales, features], dim=1))
        return y

    @property
    def period(self) -> int:
        """Shifts by multiples of this many voxels commute with the network (2^dense_blocks)."""
        return 1 << self.dense_blocks

    @property
    def receptive_field(self) -> int:
        """Extent in voxels, along each axis, of the input that one output voxel can depend on.

        Exact: every position within a period is followed back through every dense block.
        """
        widest = max(self._features_behind(position) for position in range(self.period))
        return widest + 2 * reach(self.stem)

    def _features_behind(self, position: int) -> int:
        """Extent of the stem's result that the output voxel at ``position`` depends on."""
        first = last = position
        for level in range(self.dense_blocks):
            low, high = sources(position, 2 << level, self.upsampling)
            for beside in reversed(self._reaches[: level + 1]):
                low, high = 2 * (low - beside), 2 * (high + beside) + 1
            first, last = min(first, low), max(last, high)
        return last - first + 1

    @property
    def _title(self) -> str:
        return f"DenseNet ({self.dense_blocks} dense blocks)"

    def _trace(self, size: int) -> int | None:
        return size if size >= 1 and size % self.period == 0 else None


def _compressed(channels: int, compression: float) -> int:
    kept = int(channels * compression)
    if kept < 1:
        raise ConfigError(
            f"backbone.compression={compression} leaves none of {channels} channels; raise it"
        )
    return kept
