"""The nine networks of the paper: gradients of a training step against float64."""

import copy

import pytest
import torch
from torch import nn

from psc import make_unit
from psc.networks import DenseNet, ResNet, UNet

BLOCKS = {"p1sc1": (1, 1), "p2sc2": (2, 2), "p2sc3": (2, 3)}


def unet(unit):
    return UNet(unit, base_width=4, growth=2, depth=2, padding="same"), (1, 12, 8, 16)


def resnet(unit):
    return ResNet(unit, in_channels=3, classes=5, layers=18, base_width=4), (3, 8, 32, 32)


def densenet(unit):
    sizes = {
        "initial_channels": 6,
        "growth": 4,
        "layers_per_block": 2,
        "dense_blocks": 2,
        "dropout": 0.0,
    }
    return DenseNet(unit, in_channels=1, classes=3, **sizes), (1, 12, 8, 16)


def gradients(network, x):
    """Of every parameter, for a random direction of the result."""
    y = network(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    (y * direction.to(y)).sum().backward()
    return {name: p.grad.double() for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("batch", "layout"),
    [(1, torch.contiguous_format), (1, torch.channels_last_3d), (2, torch.channels_last_3d)],
    ids=str,
)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("backbone", [unet, resnet, densenet])
def test_every_gradient_is_that_of_float64(backbone, block, batch, layout):
    torch.manual_seed(0)
    m, n = BLOCKS[block]
    network, shape = backbone(make_unit(m=m, n=n))
    for module in network.modules():  # smooth, so that rounding moves no gradient across a kink
        for name, part in module.named_children():
            if isinstance(part, nn.ReLU | nn.LeakyReLU):
                setattr(module, name, nn.Softplus())
    x = torch.randn(batch, *shape)
    expected = gradients(copy.deepcopy(network).double(), x.double())
    ours = gradients(network.to(memory_format=layout), x.contiguous(memory_format=layout))
    most = max(g.norm() for g in expected.values())
    errors = {
        name: ((ours[name] - g).norm() / (g.norm() + 1e-3 * most)).item()
        for name, g in expected.items()
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < 1e-3, (worst, errors[worst])
