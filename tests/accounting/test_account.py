"""Accounts against counts by hand and torch's counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psc import make_segment
from psc.accounting import account, activation_memory
from psc.errors import ConfigError
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet

BLOCKS = {
    "3d": make_segment("conv3d"),
    "p2sc2": make_segment(m=2, n=2),
}


def on_meta(network, block, **options):
    with torch.device("meta"):
        return network(BLOCKS[block], **options)


def test_layers_by_hand():
    network = nn.Sequential(
        nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), groups=2),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.ConvTranspose3d(6, 9, 2, 2, groups=3, bias=False),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
    )
    result = account(network, (2, 4, 3, 7, 9))
    conv, norm, transposed, linear = result.layers
    assert (conv.name, conv.kind, conv.kernel, conv.stride) == ("0", "Conv3d", (1, 3, 3), (1, 2, 2))
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 6, 2)
    assert conv.output_shape == (2, 6, 3, 3, 4)
    assert conv.parameters == 6 * 2 * 9 + 6
    assert conv.multiply_adds == 6 * 2 * 9 * 2 * 3 * 3 * 4
    assert (norm.kind, norm.kernel, norm.parameters, norm.multiply_adds) == (
        "BatchNorm3d",
        None,
        12,
        0,
    )
    assert transposed.multiply_adds == 6 * 3 * 8 * 2 * 3 * 3 * 4  # positions of its input
    assert transposed.output_shape == (2, 9, 6, 6, 8)
    assert (linear.in_channels, linear.out_channels, linear.multiply_adds) == (9, 5, 2 * 45)
    assert result.buffers == 6 + 6 + 1
    assert result.output_shape == (2, 5)
    assert result.flops == result.counted_flops


def test_counted_flops_are_those_of_a_real_forward_pass():
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=2, depth=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 1, 20, 20, 20))
    result = account(network, (2, 1, 20, 20, 20))
    assert result.counted_flops == result.flops == counter.get_total_flops()


class Twice(nn.Module):
    """Calls one layer twice, shares a weight, never calls another layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.tied, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.tied.weight = self.layer.weight

    def forward(self, x):
        return self.tied(self.layer(self.layer(x)))


def test_shared_parameters_count_once_and_calls_every_time():
    result = account(Twice(), (5, 4))
    layer, tied, idle = result.layers
    assert (layer.parameters, layer.multiply_adds) == (16 + 4, 2 * 5 * 16)
    assert (tied.parameters, tied.multiply_adds) == (4, 5 * 16)
    assert (idle.parameters, idle.multiply_adds, idle.output_shape) == (15, 0, None)
    assert result.parameters == 16 + 4 + 4 + 15
    assert result.flops == result.counted_flops


class Outside(nn.Module):
    """Multiplies without a layer."""

    def forward(self, x):
        return x @ x.mT


def test_work_outside_of_layers_shows_as_a_difference():
    result = account(Outside(), (3, 5))
    assert (result.flops, result.counted_flops) == (0, 2 * 3 * 3 * 5)


def test_the_module_is_not_changed():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).double()
    before = {name: (id(t), t.clone()) for name, t in network.state_dict(keep_vars=True).items()}
    hooks = len(network[0]._forward_hooks)
    memory = activation_memory(network, (2, 1, 5, 5, 5))
    account(network, (2, 1, 5, 5, 5))
    after = network.state_dict(keep_vars=True)
    assert all(id(after[name]) == identity for name, (identity, _) in before.items())
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    assert network.training
    assert len(network[0]._forward_hooks) == hooks
    assert memory == activation_memory(network.float(), (2, 1, 5, 5, 5))  # always of float32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 8, 8, 8), r"\(1, 2, 8, 8, 8\) in evaluation mode \(.*channel"),
        ((1, 1, 2, 8, 8), r"\(1, 1, 2, 8, 8\)"),
        ((1, 1, 0, 8, 8), "at least 1"),
        ((), "at least 1"),
    ],
)
def test_a_shape_that_the_module_cannot_take_is_refused(shape, message):
    with pytest.raises(ConfigError, match=message):
        account(nn.Sequential(nn.Conv3d(1, 2, 3)), shape)


def test_a_networks_own_refusal_is_kept():
    with pytest.raises(ConfigError, match="nearest valid sizes: 124"):
        account(on_meta(UNet, "3d"), (1, 1, 131, 131, 131))


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (on_meta(UNet, "3d", base_width=1, depth=1), (1, 1, 20, 20, 20), (18, 18, 18)),
        (on_meta(ResNet, "3d", base_width=1), (1, 3, 8, 16, 16), (225, 451, 451)),
        (nn.Conv3d(1, 1, 3), (1, 1, 3, 3, 3), None),
    ],
)
def test_receptive_field_is_what_the_module_says(module, shape, expected):
    assert account(module, shape).receptive_field == expected
