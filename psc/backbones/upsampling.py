"""From a dense block's resolution to the full one in one step: interpolated or transposed."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from psc.errors import ConfigError

Upsampling = Literal["interpolation", "transposed"]
"""The paper's reproduction ("simple up-sampling layers") or Bui et al.'s learned one."""


def upsampler(channels: int, classes: int, factor: int, upsampling: Upsampling) -> nn.Module:
    """(N, channels, D, H, W) → (N, classes, factor·D, factor·H, factor·W), without bias.

    Args:
        channels: channels that enter.
        classes: channels that leave.
        factor: of the resolution; even.
        upsampling: "interpolation" takes the channels to the classes by 1×1×1 and interpolates
            linearly; "transposed" convolves a group of channels for each class.

    Raises:
        ConfigError: if transposed, and the channels do not divide into the classes.
    """
    if upsampling == "interpolation":
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv3d(channels, classes, 1, bias=False)
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
