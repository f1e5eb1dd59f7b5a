"""The paper's three backbones, one network a file; the block is handed to them."""

from psc.networks.densenet import DenseNet
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet

__all__ = ["DenseNet", "ResNet", "UNet"]
