"""3D ResNet of the video application (Section 4.1): R(2+1)D's layout of basic residual blocks.

Published form: ResNet-34, a 3×7×7 stem of stride (1, 2, 2) without pooling, stages of 3, 4, 6, 3
residual blocks with 64, 128, 256, 512 channels, the first block of stages 2–4 of stride 2 in t, y
and x, global average pooling, a linear classifier of 101 actions. With ``block=3d`` it has
63,527,717 parameters, with P_1SC_1 39,904,941, with P_2SC_2 50,048,535 (paper: 64, 39, 49 M).

This file holds no block logic: both convolutions of a residual block are ONE unit of a unit
factory, so that P_mSC_n with n ≥ 2 replaces the pair, its stride included. D is time.
"""

from collections import OrderedDict
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from psc.block.convolution import ConvolutionOptions, Triple, Unit, convolution
from psc.block.unit import UnitFactory
from psc.errors import ConfigError
from psc.networks.geometry import check_at_least

Stem = Literal["conv3d", "factorised"]
Shortcut = Literal["projection", "identity"]

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Residual blocks of each stage, by the number of layers that names the network."""

CONVOLUTIONS_PER_BLOCK = 2
"""A basic residual block spans two consecutive convolutions."""

STEM_KERNEL: Triple = (3, 7, 7)
STEM_STRIDE: Triple = (1, 2, 2)

FACTORISED_STEM_WIDTH = 45
"""Channels between the two convolutions of the factorised stem, at 64 base channels.

A constant of the R(2+1)D code, not Eq. 5: that would give ⌊64·3·3·7²/(3·7² + 64·3)⌋ = 83.
"""
FACTORISED_STEM_BASE = 64

CLASSIFIER_STD = 0.01
"""Standard deviation of the classifier's initial weights (torchvision's VideoResNet)."""

_OPTIONS = ConvolutionOptions(norm=nn.BatchNorm3d, final_activation=False)


class ResNet(nn.Module):
    """Video classifier; the convolutions of its residual blocks are whatever ``unit`` builds.

    Args:
        unit: factory of a residual block's convolutions (``psc.make_unit``).
        in_channels: channels of the input, 3 for RGB.
        classes: number of classes.
        layers: 34 (published) or 18.
        base_width: channels of the stem and the first stage; each later stage doubles them.
        stem: "conv3d" (3×7×7), or "factorised" (1×7×7, then 3×1×1) as in R(2+1)D. The channels
            between the latter's two are 45 at a base width of 64, and in proportion, rounded down,
            at others.
        shortcut: where a block changes the shape, "projection" (1×1×1 convolution and batch norm,
            as in R(2+1)D) or "identity" (subsampling and zero channels, no parameters; He et al.
            2016, option A).
        dropout: share of the pooled features that is zeroed before the classifier in training.

    ``forward`` takes (N, in_channels, D, H, W) and returns logits (N, classes). Every axis may
    have any size from 1 on: padding keeps it, a stride s leaves ⌈size/s⌉ voxels, so D shrinks
    8-fold and H, W 16-fold, to 1 at least. Small clips then see little but padding, and in training
    mode batch norm (a ValueError of torch) refuses a single clip whose last feature map is one
    voxel: D ≤ 8 and H, W ≤ 16.
    """

    def __init__(
        self,
        unit: UnitFactory,
        *,
        in_channels: int = 3,
        classes: int = 101,
        layers: int = 34,
        base_width: int = 64,
        stem: Stem = "conv3d",
        shortcut: Shortcut = "projection",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"backbone.dropout={dropout}: must lie in [0, 1)")
        check_at_least(1, in_channels=in_channels, classes=classes, base_width=base_width)
        if layers not in BLOCKS_PER_STAGE:
            known = ", ".join(map(str, BLOCKS_PER_STAGE))
            raise ConfigError(f"backbone.layers={layers}: known are {known}")
        if shortcut not in ("projection", "identity"):
            raise ConfigError(f"backbone.shortcut={shortcut}: known are projection, identity")
        self.stem = _stem(stem, in_channels, base_width)
        stages, channels = [], base_width
        for stage, count in enumerate(BLOCKS_PER_STAGE[layers]):
            width = base_width * 2**stage
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(ResidualBlock(unit, channels, width, stride, shortcut))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """He initialisation by fan-out, normal classifier: torchvision's VideoResNet."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, 0, CLASSIFIER_STD)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → logits (N, classes)."""
        x = self.stages(self.stem(x))
        y: Tensor = self.classifier(self.dropout(self.pool(x).flatten(1)))
        return y

    @property
    def receptive_field(self) -> Triple:
        """Extent of the input, in voxels along (D, H, W), that one voxel before the pooling sees.

        Residual blocks add theirs in steps of the product of the strides before them; their own
        stride is in their unit's extent already. Shortcuts see less.
        """
        extent, jump = list(STEM_KERNEL), list(STEM_STRIDE)
        for module in self.stages.modules():
            if isinstance(module, ResidualBlock):
                for axis, reach in enumerate(module.segment.receptive_field):
                    extent[axis] += (reach - 1) * jump[axis]
                    jump[axis] *= module.stride
        return cast(Triple, tuple(extent))


class ResidualBlock(nn.Module):
    """Basic residual block: one unit of two convolutions, plus the shortcut, then ReLU.

    Input (N, in_channels, D, H, W), result (N, out_channels, ⌈D/stride⌉, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(
        self,
        unit: UnitFactory,
        in_channels: int,
        out_channels: int,
        stride: int,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.segment: Unit = unit(
            in_channels, out_channels, depth=CONVOLUTIONS_PER_BLOCK, stride=stride, options=_OPTIONS
        )
        if stride == 1 and in_channels == out_channels:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = convolution(
                in_channels, out_channels, (1, 1, 1), (stride,) * 3, _OPTIONS, last=True
            )
        else:
            self.shortcut = ZeroPaddedShortcut(out_channels - in_channels, stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        y: Tensor = self.activation(self.segment(x) + self.shortcut(x))
        return y


class ZeroPaddedShortcut(nn.Module):
    """Every stride-th voxel, and zeros for the channels that are new: no parameters."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, D, H, W) → (N, C + new_channels, ⌈D/stride⌉, ⌈H/stride⌉, ⌈W/stride⌉)."""
        s = self.stride
        return F.pad(x[:, :, ::s, ::s, ::s], (0, 0, 0, 0, 0, 0, 0, self.new_channels))


def _stem(kind: Stem, in_channels: int, width: int) -> nn.Sequential:
    """The first convolution, whole or factorised, each part with batch norm and ReLU."""

    def part(channels: int, out: int, kernel: Triple, stride: Triple) -> nn.Sequential:
        return convolution(channels, out, kernel, stride, _OPTIONS, last=False)

    if kind == "conv3d":
        return part(in_channels, width, STEM_KERNEL, STEM_STRIDE)
    if kind != "factorised":
        raise ConfigError(f"backbone.stem={kind}: known are conv3d, factorised")
    between = max(1, FACTORISED_STEM_WIDTH * width // FACTORISED_STEM_BASE)
    kernel, stride = STEM_KERNEL, STEM_STRIDE
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        plane=part(in_channels, between, (1, *kernel[1:]), (1, *stride[1:])),
        axis=part(between, width, (kernel[0], 1, 1), (stride[0], 1, 1)),
    )
    return nn.Sequential(layers)
