"""The paper's three backbones, one network a file; the block is handed to them. By name: create."""

from psc.networks.densenet import DenseNet
from psc.networks.named import create, list_networks
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.networks.weights import list_weights

__all__ = ["DenseNet", "ResNet", "UNet", "create", "list_networks", "list_weights"]
