"""The layers whose kernels are factorised: random ones of known sizes, and trained ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.segments import choose_levels
from psc.block.stream import Triple
from psc.config.compose import from_plain
from psc.conversion import convert
from psc.errors import ConfigError
from psc.training.checkpoints import checkpoint_network, load_checkpoint, stored_config

__all__ = ["LAYERS", "Layer", "random_layers", "trained_layers"]

_LEVELS = ("24-72", "64-64", "128-128", "256-256")
_STEM = "stem"
LAYERS = (*_LEVELS, _STEM)
"""Of the paper's U-Net and ResNet, 3x3x3, and r3d_18's first: 3 to 64 channels, 3x7x7."""

_STEM_INPUT: Triple = (16, 64, 64)  # a small clip; r3d_18's own are 16 x 112 x 112
_TRAINED_INPUT: Triple = (32, 32, 32)


@dataclass(frozen=True)
class Layer:
    """A 3D convolution and the size of its input.

    Attributes:
        name: channels ("24-72"), "stem", or its path in the trained network.
        kernels: "random" or "trained".
        convolution: without bias, which no factorisation touches.
        shape: (N, C, D, H, W) of the input.
    """

    name: str
    kernels: str
    convolution: nn.Conv3d
    shape: tuple[int, ...]

    def input(self, seed: int) -> Tensor:
        """The same values at every call."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape, generator=generator).to(self.convolution.weight.device)


def random_layers(names: Sequence[str], device: str, size: int | None, seed: int) -> list[Layer]:
    """Layers as PyTorch initialises them, same padding.

    Args:
        names: of ``LAYERS``.
        device: "cuda" or "cpu"; the inputs are those of the benchmark of segments.
        size: most voxels per axis of the input; None = no limit.
        seed: of the kernels.

    Raises:
        ConfigError: for a name that there is not.
    """
    if unknown := [name for name in names if name not in LAYERS]:
        raise ConfigError(f"layers {unknown}: there are {', '.join(LAYERS)}")
    levels = choose_levels(
        [name for name in names if name != _STEM], device, padding="same", size=size, batch_size=1
    )
    torch.manual_seed(seed)
    layers = []
    for level in levels:
        conv = nn.Conv3d(level.in_channels, level.out_channels, 3, padding=1, bias=False)
        layers.append(_layer(level.name, "random", conv, level.shape, device, None))
    if _STEM in names:
        stem = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        layers.append(_layer(_STEM, "random", stem, _STEM_INPUT, device, size))
    return layers


def trained_layers(checkpoint: Path, device: str, size: int | None) -> list[Layer]:
    """What ``psc.convert`` would convert in a trained network, one layer per shape of kernel.

    Args:
        checkpoint: of train.py, with 3D convolutions (``block=3d``).
        device: "cuda" or "cpu".
        size: most voxels per axis of the input; None = no limit.

    Returns:
        The first layer of each shape, with same padding.

    Raises:
        CheckpointError: if it cannot be read.
        ConfigError: if it has no 3D convolution to convert.
    """
    content = load_checkpoint(checkpoint)
    config = from_plain(stored_config(content, checkpoint), checkpoint)
    network = checkpoint_network(config, content, checkpoint)
    rows = convert(network, init="random").report.converted
    if not rows:
        raise ConfigError(
            f"checkpoint={checkpoint} has no 3D convolution to convert; only networks of block=3d "
            "have"
        )
    first = {(r.out_channels, r.in_channels, r.kernel_size): r.name for r in reversed(rows)}
    layers = []
    for name in sorted(first.values(), key=[r.name for r in rows].index):
        trained = network.get_submodule(name)
        assert isinstance(trained, nn.Conv3d)
        padding = tuple(k // 2 for k in trained.kernel_size)
        conv = nn.Conv3d(
            trained.in_channels,
            trained.out_channels,
            trained.kernel_size,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            bias=False,
        )
        conv.weight.data.copy_(trained.weight.detach())
        layers.append(_layer(name, "trained", conv, _TRAINED_INPUT, device, size))
    return layers


def _layer(
    name: str, kernels: str, conv: nn.Conv3d, voxels: Triple, device: str, size: int | None
) -> Layer:
    shape = (1, conv.in_channels, *(min(n, size or n) for n in voxels))
    return Layer(name, kernels, conv.to(device).requires_grad_(False), shape)
