"""The paper's three backbones, one network a file; only the U-Net so far."""

from psc.backbones.unet import UNet

__all__ = ["UNet"]
