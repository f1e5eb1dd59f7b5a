"""Units: how many blocks stand for a run of convolutions, their reach and their M."""

import pytest
import torch
from torch import nn

from psc import ConvolutionOptions, PSCBlock, make_unit
from psc.block.block import separable_width
from psc.block.unit import Conv3dUnit, PSCUnit
from psc.errors import ConfigError


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_units_reach_as_far_as_the_convolutions_they_replace(depth, reach_of_gradient):
    plain = Conv3dUnit(1, 2, depth=depth)
    assert plain.receptive_field == (2 * depth + 1,) * 3
    assert reach_of_gradient(plain, (1, 1, 21, 21, 21)) == plain.receptive_field
    for m in (1, 2):
        for n in (1, depth):
            unit = PSCUnit(1, 2, m, n, depth=depth)
            assert unit.receptive_field == plain.receptive_field


def test_n1_takes_one_block_per_convolution_and_n2_one_per_pair():
    assert len(PSCUnit(4, 8, 1, 1, depth=2).blocks) == 2
    assert len(PSCUnit(4, 8, 2, 2, depth=2).blocks) == 1
    assert len(PSCUnit(4, 8, 2, 3, depth=2).blocks) == 1
    assert len(PSCUnit(4, 8, 2, 2, depth=4).blocks) == 2


def modules(unit, kind):
    return [module for module in unit.modules() if isinstance(module, kind)]


def test_activation_follows_every_convolution_unless_the_last_is_left_bare():
    for kind, activations in (("conv3d", 2), ("psc", 5)):  # one after both streams' 1D convolutions
        build = make_unit(kind, m=2, n=2)
        whole = build(4, 8, depth=2)
        assert len(modules(whole, nn.ReLU)) == activations
        bare = build(4, 8, depth=2, options=ConvolutionOptions(final_activation=False))
        assert len(modules(bare, nn.ReLU)) == activations - 1
        assert bare(torch.randn(2, 4, 6, 6, 6)).min() < 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.PReLU, lambda: nn.Softmax(dim=-4)])
def test_an_activation_that_looks_at_channels_stays_with_its_stream(activation):
    block = PSCBlock(4, 8, 2, 1, activation=activation)
    alone = [nn.Sequential(*(p for p in stream.children())) for stream in block.streams]
    x = torch.randn(1, 4, 5, 6, 7)
    y = torch.cat([stream(x) for stream in alone], dim=1)
    if activation is nn.ReLU:
        y = y.relu()
    assert torch.equal(block(x), y)
    assert (block.activation is None) == (activation is not nn.ReLU)


def test_n1_inner_blocks_keep_their_activation_when_the_last_is_left_bare():
    unit = PSCUnit(4, 8, 1, 1, depth=2, options=ConvolutionOptions(final_activation=False))
    assert [len(modules(block, nn.ReLU)) for block in unit.blocks] == [2, 1]


def test_normalisation_replaces_the_bias():
    options = ConvolutionOptions(norm=nn.BatchNorm3d)
    for build in (make_unit("conv3d"), make_unit("psc")):
        unit = build(4, 8, depth=2, options=options)
        assert all(conv.bias is None for conv in modules(unit, nn.Conv3d))
        assert len(modules(unit, nn.BatchNorm3d)) == len(modules(unit, nn.Conv3d))


def test_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'conv3d', 'psc'"):
        make_unit("2d")


def test_eq5_takes_the_filters_of_one_replaced_convolution():
    whole = PSCUnit(96, 32, 2, 2, depth=2)
    layer = PSCUnit(96, 32, 2, 2, depth=2, filters=16)
    assert whole.blocks[0].width == separable_width(96, 32) // 2
    assert layer.blocks[0].width == separable_width(96, 16) // 2
    x = torch.zeros(1, 96, 4, 4, 4)
    assert layer(x).shape == whole(x).shape == (1, 32, 4, 4, 4)


@pytest.mark.parametrize(("n", "blocks"), [(1, 2), (2, 1)])
def test_streams_of_every_block_are_summed(n, blocks):
    build = make_unit(m=2, n=n, merge="sum")
    bare = ConvolutionOptions(final_activation=False)
    unit = build(4, 8, depth=2, options=bare)
    assert [block.merge for block in unit.blocks] == ["sum"] * blocks
    # One ReLU per 2D convolution and per sum, but for the last sum
    assert [len(modules(block, nn.ReLU)) for block in unit.blocks] == ([3, 2] if n == 1 else [4])
    assert unit(torch.randn(1, 4, 6, 6, 6)).shape == (1, 8, 6, 6, 6)
    with pytest.raises(ConfigError, match=r"merge='mean': .*concatenate or sum"):
        make_unit(m=2, n=n, merge="mean")


def test_a_calibrated_divisor_takes_the_place_of_m():
    unit = make_unit(m=2, n=3, maximum_width=256, width_divisor=3)
    assert unit(128, 128, depth=2).blocks[0].width == separable_width(128, 128) // 3
    assert unit(512, 512, depth=2).blocks[0].width == 256
    with pytest.raises(ConfigError, match="width_divisor must be at least 1"):
        make_unit(m=2, n=3, width_divisor=0)
