"""Activation memory against sums by hand and what a CPU really saves."""

import math

import pytest
import torch
from torch import nn

from psc import make_unit
from psc.accounting import account, activation_memory
from psc.errors import ConfigError
from psc.networks.densenet import DenseNet
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet

UNIT = make_unit("conv3d")


def on_meta(network, **options):
    with torch.device("meta"):
        return network(UNIT, **options)


def test_activation_memory_by_hand():
    network = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU(inplace=True), nn.MaxPool3d(2)
    )
    voxels, pooled = 2 * 4**3, 2 * 2**3
    memory = activation_memory(network, (2, 1, 4, 4, 4))
    saved = 4 * voxels  # the input, for the convolution's weights
    saved += 4 * 3 * voxels  # what entered batch norm
    saved += 4 * 3 + 4 * 3  # its mean and deviation
    saved += 4 * 3 * voxels  # ReLU's result, in batch norm's place; pooling saves the same
    saved += 8 * 3 * pooled  # where the maxima were
    assert memory.saved == saved
    assert memory.largest == 4 * 3 * voxels


def test_the_largest_tensor_may_be_a_concatenation():
    network = on_meta(DenseNet, dense_blocks=1, layers_per_block=1, growth=4)
    memory = activation_memory(network, (1, 1, 8, 8, 8))
    assert memory.largest == 4 * (32 + 4) * 8**3  # the head's input


@pytest.mark.parametrize(
    ("network", "options", "shape"),
    [
        (UNet, {"base_width": 2, "growth": 2, "depth": 1}, (1, 1, 20, 20, 20)),
        (ResNet, {"base_width": 2, "layers": 18}, (2, 3, 8, 16, 16)),
        (DenseNet, {"growth": 2, "initial_channels": 2, "dense_blocks": 2}, (2, 1, 8, 8, 8)),
    ],
)
def test_activation_memory_is_what_a_cpu_saves(network, options, shape):
    module = network(UNIT, **options)
    saved = {}
    constant = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (tensor, storage.nbytes())  # the tensor keeps the address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(torch.rand(shape))
    assert y.requires_grad
    total = sum(size for address, (_, size) in saved.items() if address not in constant)
    # The U-Net's shared pooling keeps the positions of its maxima once more, on a CPU only.
    assert activation_memory(module, shape).saved == pytest.approx(total, rel=0.01)
    assert total > math.prod(shape)


def test_a_shape_that_cannot_train_has_an_account_but_no_memory():
    network = on_meta(ResNet, base_width=2)
    assert account(network, (1, 3, 8, 16, 16)).output_shape == (1, 101)
    with pytest.raises(ConfigError, match=r"\(1, 3, 8, 16, 16\) in training mode"):
        activation_memory(network, (1, 3, 8, 16, 16))
