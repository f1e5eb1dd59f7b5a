"""The networks that are compared: every backbone with every block, and other libraries'."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.configurations import backbone_configuration, block_configuration
from psc.block.block import PSCBlock
from psc.block.folding import Formulation
from psc.config.schema import BackboneConfig, DenseNetConfig, ResNetConfig, UNetConfig
from psc.errors import ConfigError
from psc.networks.build import build_network

__all__ = ["BACKBONES", "Candidate", "Input", "candidates_for", "default_input"]

BACKBONES = ("unet", "resnet18", "resnet34", "densenet")

# N, D, H, W. On a GPU the paper's inputs; the U-Net's 132 voxels become 128, which "same" padding
# needs. Batches: the paper's 1, that of Bui et al. (whom it follows) for DenseNet, ours for video.
_INPUTS: dict[str, dict[type[BackboneConfig], tuple[int, ...]]] = {
    "cuda": {
        UNetConfig: (1, 128, 128, 128),
        DenseNetConfig: (4, 64, 64, 64),
        ResNetConfig: (8, 64, 64, 64),
    },
    "cpu": {
        UNetConfig: (1, 48, 48, 48),
        DenseNetConfig: (1, 32, 32, 32),
        ResNetConfig: (1, 16, 64, 64),
    },
}
_CLASSES = 101
_AFFINITIES = 3


@dataclass(frozen=True)
class Input:
    """What a network is given.

    Attributes:
        shape: (N, C, D, H, W).
        video: whether a sample is one clip; else its voxels are counted.
    """

    shape: tuple[int, ...]
    video: bool

    @property
    def units(self) -> tuple[str, int]:
        """What throughput counts, and how many of them there are."""
        n, _, d, h, w = self.shape
        return ("clips", n) if self.video else ("voxels", n * d * h * w)


@dataclass(frozen=True)
class Candidate:
    """A network that can be built.

    Attributes:
        network: the backbone's name, or the other library's.
        block: the block's name; None for other libraries' networks.
        build: builds it on the current default device.
    """

    network: str
    block: str | None
    build: Callable[[], nn.Module]

    def cost(self, shape: Sequence[int]) -> tuple[int, int]:
        """Parameters, and FLOPs (two per multiply-add) of a forward pass, computing nothing.

        Raises:
            ConfigError: if the network cannot take the input, or its library is not installed.
        """
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            network = self.build().eval()
            network(torch.zeros(*shape))
        return sum(p.numel() for p in network.parameters()), counter.get_total_flops()

    def ready(self, shape: Sequence[int], device: str, seed: int) -> tuple[nn.Module, Tensor]:
        """The network and an input on the device; the same weights and values at every call."""
        torch.manual_seed(seed)
        with torch.device(device):
            return self.build(), torch.randn(*shape)


def default_input(backbone: str, device: str, *, size: int | None, batch_size: int | None) -> Input:
    """A backbone's input, and that of the networks that it is compared with.

    Args:
        backbone: a name of ``configs/backbone``.
        device: "cuda" (the paper's inputs) or "cpu" (smaller ones).
        size: voxels, or frames, along each axis; None = the default.
        batch_size: None = the default.

    Raises:
        ConfigError: if there is no such backbone.
    """
    configuration = _configuration(backbone)
    batch, *volume = _INPUTS[device][type(configuration)]
    channels: int = configuration.in_channels  # type: ignore[attr-defined]
    shape = (batch_size or batch, channels, *([size] * 3 if size else volume))
    return Input(shape, video=isinstance(configuration, ResNetConfig))


def candidates_for(
    backbone: str, blocks: Sequence[str], formulation: Formulation
) -> list[Candidate]:
    """A backbone with each block, then the networks of other libraries for the same input.

    Raises:
        ConfigError: if there is no such backbone.
    """

    def ours(block: str) -> Candidate:
        return Candidate(backbone, block, lambda: _build(backbone, block, formulation))

    return [*map(ours, blocks), *_PEERS.get(type(_configuration(backbone)), ())]


def _configuration(backbone: str) -> BackboneConfig:
    configuration = backbone_configuration(backbone)
    if isinstance(configuration, UNetConfig):  # one input size for all blocks and for MONAI
        return replace(configuration, padding="same")
    return configuration


def _build(backbone: str, block: str, formulation: Formulation) -> nn.Module:
    network = build_network(_configuration(backbone), block_configuration(block))
    for module in network.modules():
        if isinstance(module, PSCBlock):
            module.formulation = formulation  # no configuration has it: "auto" is for users
    return network


def _r3d_18() -> nn.Module:
    from torchvision.models.video import r3d_18

    network: nn.Module = r3d_18(num_classes=_CLASSES)
    return network


def _r2plus1d_18() -> nn.Module:
    from torchvision.models.video import r2plus1d_18

    network: nn.Module = r2plus1d_18(num_classes=_CLASSES)
    return network


def _basic_unet() -> nn.Module:
    """MONAI's, at its default widths (32 to 256): equal input and output, not equal size."""
    try:
        from monai.networks.nets.basic_unet import BasicUNet
    except ImportError:
        raise ConfigError("monai is not installed: pip install monai") from None
    network: nn.Module = BasicUNet(spatial_dims=3, in_channels=1, out_channels=_AFFINITIES)
    return network


_PEERS: dict[type[BackboneConfig], tuple[Candidate, ...]] = {
    UNetConfig: (Candidate("MONAI BasicUNet", None, _basic_unet),),
    ResNetConfig: (
        Candidate("torchvision r3d_18", None, _r3d_18),
        Candidate("torchvision r2plus1d_18", None, _r2plus1d_18),
    ),
}
