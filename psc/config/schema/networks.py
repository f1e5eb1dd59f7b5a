"""Schema of networks: backbones and blocks."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class BackboneConfig:
    """A network without its blocks; one subclass per file in ``psc/backbones``."""

    name: str = MISSING


@dataclass
class UNetConfig(BackboneConfig):
    """``psc.backbones.UNet``: Section 4.3; defaults as published."""

    name: str = "unet"
    in_channels: int = 1
    out_channels: int = 3
    base_width: int = 24
    growth: int = 3
    depth: int = 3
    padding: str = "valid"


@dataclass
class ResNetConfig(BackboneConfig):
    """``psc.backbones.ResNet``: Section 4.1; defaults as published."""

    name: str = "resnet34"
    in_channels: int = 3
    classes: int = 101
    layers: int = 34
    base_width: int = 64
    stem: str = "conv3d"
    shortcut: str = "projection"
    dropout: float = 0.0
    weights: str | None = None
    """File of weights to start from: torchvision's r3d_18 or r2plus1d_18, or a run's checkpoint."""


@dataclass
class DenseNetConfig(BackboneConfig):
    """``psc.backbones.DenseNet``: Section 4.2; defaults: the paper's reproduction."""

    name: str = "densenet"
    in_channels: int = 1
    classes: int = 4
    initial_channels: int = 32
    growth: int = 16
    layers_per_block: int = 4
    dense_blocks: int = 4
    bottleneck: int = 0
    compression: float = 1.0
    upsampling: str = "interpolation"
    dropout: float = 0.2
    layers_per_segment: int | None = None
    """Dense layers that one segment stands for; null: 2 for blocks with n ≥ 2, else 1."""


@dataclass
class BlockConfig:
    """How segments of consecutive convolutions are realised: ``psc.make_segment``."""

    name: str = MISSING
    kind: str = MISSING
    m: int | None = None
    n: int | None = None
    maximum_width: int | None = None
    width_divisor: int | None = None
    """What Eq. 5 is divided by; null: m, as published."""
    merge: str = "concatenate"
    """What becomes of the m streams: concatenate, as published, or sum (Eq. 3)."""
