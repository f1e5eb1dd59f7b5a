"""The paper's three backbones, one network a file."""

from psc.backbones.densenet import DenseNet
from psc.backbones.resnet import ResNet
from psc.backbones.unet import UNet

__all__ = ["DenseNet", "ResNet", "UNet"]
