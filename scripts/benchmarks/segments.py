"""The segments that are compared: every width of the paper's U-Net and ResNet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.configurations import block_configuration
from psc.block.folding import Formulation
from psc.block.stream import ConvolutionOptions, Padding, Segment, Triple
from psc.errors import ConfigError
from psc.networks.build import build_segment
from psc.networks.unet import LEAKY_SLOPE

__all__ = ["NETWORKS", "Level", "build_level", "choose_levels"]

NETWORKS = ("unet", "resnet")
_DEPTH = 2  # both networks have pairs of convolutions
_VIDEO_BATCH = {"cuda": 8, "cpu": 1}


@dataclass(frozen=True)
class Level:
    """Where in a network a segment stands.

    Attributes:
        network: "unet" (leaky ReLU, M at most out_channels) or "resnet" (batch norm, no final
            activation, no cap of M but the block's own).
        in_channels: channels that enter.
        out_channels: channels that leave.
        shape: D, H, W of the input.
        batch_size: N of the input.
        padding: "same" or "valid".
    """

    network: str
    in_channels: int
    out_channels: int
    shape: Triple
    batch_size: int = 1
    padding: Padding = "same"

    @property
    def name(self) -> str:
        """Its channels, as the user names it."""
        return f"{self.in_channels}-{self.out_channels}"

    def capped(self, size: int | None) -> "Level":
        """The same with at most ``size`` voxels along each axis; None = no limit."""
        d, h, w = (min(n, size or n) for n in self.shape)
        return replace(self, shape=(d, h, w))


# The U-Net's contracting path and the finest level of the expanding one; the first block of each
# stage of the ResNet that keeps its width. A GPU gets the sizes of the paper (U-Net: what level 0
# to 3 give of 132 voxels). A CPU gets smaller ones, above the size below which PyTorch computes
# plain 3D convolutions with its slow kernels, wherever the paper's are above it: the peer would
# lose by them what it does not lose in the paper's networks.
_UNET_CHANNELS = ((1, 24), (48, 24), (24, 72), (72, 216), (216, 648))
_UNET_VOXELS = {"cuda": (128, 60, 60, 26, 9), "cpu": (64, 48, 40, 26, 9)}
_RESNET_LEVELS = (
    Level("resnet", 64, 64, (32, 32, 32)),
    Level("resnet", 128, 128, (16, 16, 16)),
    Level("resnet", 256, 256, (16, 8, 8)),
    Level("resnet", 512, 512, (8, 4, 4)),
)


def choose_levels(
    segments: Sequence[str],
    device: str,
    *,
    padding: Padding,
    size: int | None,
    batch_size: int | None,
) -> list[Level]:
    """The levels that the user asks for.

    Args:
        segments: names of networks ("unet") or of single levels by their channels ("24-72").
        device: "cuda" or "cpu"; their sizes differ.
        padding: of the U-Net's levels; those of the ResNet have "same".
        size: most voxels per axis; None = no limit.
        batch_size: None = 1, but 8 for the ResNet's levels on a GPU.

    Raises:
        ConfigError: for a segment that does not exist, or where valid padding leaves nothing.
    """
    levels = [
        Level("unet", *channels, (voxels,) * 3, padding=padding)
        for channels, voxels in zip(_UNET_CHANNELS, _UNET_VOXELS[device], strict=True)
    ]
    levels += [replace(level, batch_size=_VIDEO_BATCH[device]) for level in _RESNET_LEVELS]
    known = {*NETWORKS, *(level.name for level in levels)}
    if unknown := [s for s in segments if s not in known]:
        names = ", ".join([*NETWORKS, *(level.name for level in levels)])
        raise ConfigError(f"segments {unknown}: there are {names}")
    chosen = [level for level in levels if level.network in segments or level.name in segments]
    return [
        replace(level.capped(size), batch_size=batch_size or level.batch_size) for level in chosen
    ]


def build_level(
    level: Level, block: str, formulation: Formulation, device: str, seed: int
) -> tuple[Segment, Tensor]:
    """A level's segment and its input; the same weights and values at every call.

    Args:
        level: where it stands.
        block: a name of ``configs/block``.
        formulation: see ``psc.block.folding``; plain 3D convolutions have only one.
        device: where both are to lie, "meta" included.
        seed: of weights and input.
    """
    unet = level.network == "unet"
    if unet:
        activation = partial(nn.LeakyReLU, LEAKY_SLOPE, inplace=True)
        options = ConvolutionOptions(padding=level.padding, activation=activation)
    else:
        options = ConvolutionOptions(norm=nn.BatchNorm3d, final_activation=False)
    torch.manual_seed(seed)
    with torch.device(device):
        segment = build_segment(block_configuration(block))(
            level.in_channels,
            level.out_channels,
            depth=_DEPTH,
            width_limit=level.out_channels if unet else None,
            options=replace(options, formulation=formulation),
        )
        x = torch.randn(level.batch_size, level.in_channels, *level.shape)
    x.requires_grad_(level.in_channels > 1)  # nobody asks for the gradient of an image
    return segment, x
