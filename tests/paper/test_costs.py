"""Costs of a recorded network, against a count made while a real one computes."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from psc.config import compose
from psc.networks.build import build_network
from psc.paper.account import recorded_cost


def multiply_adds(network, size):
    """Count them by watching every convolution of a forward pass."""
    counted = []

    def watch(module, inputs, output):
        # Each weight meets every voxel that a convolution computes, or a transposed one reads.
        voxels = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        counted.append(module.weight.numel() * voxels[0, 0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(watch)
    with torch.no_grad():
        network(torch.zeros(1, 1, size, size, size))
    return sum(counted)


TINY = ("backbone.base_width=4", "backbone.growth=2", "backbone.depth=1", "recipe.output_size=16")


@pytest.fixture(scope="module")
def network():
    """A small network and the configuration that builds it."""
    config = compose(["dataset=fibsem_synthetic", "budget=quick", "block=p2sc2", *TINY])
    return build_network(config.backbone, config.block), config


@pytest.fixture
def record(network, make_record):
    built, config = network
    parameters = sum(p.numel() for p in built.parameters())
    return replace(make_record(), config=asdict(config), parameters=parameters)


def test_a_record_s_network_is_built_again_and_counted(record, network):
    cost = recorded_cost(record)
    assert cost.input_shape == (1, 1, 16, 16, 16)
    assert cost.multiply_adds == multiply_adds(network[0], 16)
    assert cost.flops == 2 * cost.multiply_adds


def test_a_network_that_this_code_would_build_otherwise_has_no_known_cost(record):
    assert recorded_cost(replace(record, parameters=record.parameters + 1)).multiply_adds is None


@pytest.mark.parametrize(
    "part", [{"backbone": {"name": "other"}}, {"block": {"name": "x", "kind": "of another time"}}]
)
def test_a_configuration_that_this_code_does_not_know_has_no_known_cost(record, part):
    assert recorded_cost(replace(record, config=record.config | part)).multiply_adds is None
