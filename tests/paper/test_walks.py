"""What drawings read from modules, against the published layer lists written out by hand."""

import pytest
import torch
from torch import nn

from psc.block.convolution import ConvolutionOptions
from psc.block.unit import make_unit
from psc.paper.account import built
from psc.paper.figure_1 import BLOCKS, drawn_unit, stream_axis, walk_unit
from psc.paper.figure_3 import INPUT, walk_network

# Each stream as its first channels, then (kernel, channels that leave): the U-Net's second level.
PLANES = {0: (1, 3, 3), 1: (3, 1, 3), 2: (3, 3, 1)}
RODS = {(0, 3): (3, 1, 1), (0, 5): (5, 1, 1), (1, 5): (1, 5, 1), (2, 5): (1, 1, 5)}
RODS |= {(0, 7): (7, 1, 1), (1, 7): (1, 7, 1)}


def stream(axis, rod, *channels):
    kernels = [PLANES[axis]] * (len(channels) - 2) + [RODS[axis, rod]]
    return list(zip(channels[:-1], channels[1:], kernels, strict=True))


LEVEL = {
    None: [[[(24, 72, (3, 3, 3)), (72, 72, (3, 3, 3))]]],
    (1, 1): [[stream(0, 3, 24, 72, 72)], [stream(0, 3, 72, 72, 72)]],
    (2, 2): [[stream(0, 5, 24, 54, 54, 36), stream(1, 5, 24, 54, 54, 36)]],
    (2, 3): [[stream(0, 7, 24, 54, 54, 54, 36), stream(1, 7, 24, 54, 54, 54, 36)]],
    (3, 2): [[stream(a, 5, 24, 36, 36, 24) for a in range(3)]],
}


@pytest.mark.parametrize("mn", [None, *BLOCKS])
def test_a_block_is_drawn_as_published(mn):
    walk = walk_unit(drawn_unit(mn, 24, 72))
    found = [
        [[(c.in_channels, c.out_channels, c.kernel) for c in s] for s in block] for block in walk
    ]
    assert found == LEVEL[mn]
    assert all(c.active for block in walk for s in block for c in s)
    if mn is not None:
        assert [stream_axis(s) for s in walk[0]] == list(range(mn[0]))


def test_activations_are_those_that_follow():
    for options, expected in (
        (ConvolutionOptions(final_activation=False), [True, True, False]),
        (ConvolutionOptions(activation=None), [False] * 3),
        (ConvolutionOptions(pre_activation=True), [False] * 3),
    ):
        unit = make_unit("psc", m=1, n=2)(2, 4, depth=2, options=options)
        assert [c.active for c in walk_unit(unit)[0][0]] == expected


# ../shared/reference/networks.md, section 2: level by level, per stream.
UNET = {
    "encoder.0": (1, [4, 4, 12]),
    "encoder.1": (24, [54, 54, 36]),
    "encoder.2": (72, [162, 162, 108]),
    "encoder.3": (216, [486, 486, 324]),
    "decoder.0": (432, [216, 216, 108]),
    "decoder.1": (144, [72, 72, 36]),
    "decoder.2": (48, [24, 24, 12]),
}


def test_the_unet_is_drawn_as_published():
    walk = walk_network(*built(("unet", "p2sc2")))
    found = {
        s.name: (s.entered[1], [[c.out_channels for c in stream] for stream in s.blocks[0]])
        for s in walk.units
    }
    assert found == {name: (k, [list(widths)] * 2) for name, (k, widths) in UNET.items()}
    assert list(found) == list(UNET)
    assert [s.left[2] for s in walk.units] == [128, 60, 26, 9, 14, 24, 44]
    assert walk.output_shape == (1, 3, 44, 44, 44)
    assert walk.parameters == 15_698_611


def test_connections_of_the_unet_are_its_skips():
    walk = walk_network(*built(("unet", "3d")))
    assert walk.parameters == 25_178_811
    assert {s.name: set(s.sources) for s in walk.units} == {
        "encoder.0": {INPUT},
        "encoder.1": {"encoder.0"},
        "encoder.2": {"encoder.1"},
        "encoder.3": {"encoder.2"},
        "decoder.0": {"encoder.2", "encoder.3"},
        "decoder.1": {"encoder.1", "decoder.0"},
        "decoder.2": {"encoder.0", "decoder.1"},
    }
    assert walk.output_sources == ("decoder.2",)


def test_resnet_34_and_its_shortcuts():
    walk = walk_network(*built(("resnet34", "p2sc2")))
    names = [s.name for s in walk.units]
    blocks = [(stage, block) for stage, count in enumerate((3, 4, 6, 3)) for block in range(count)]
    assert names == [f"stages.{stage}.{block}.segment" for stage, block in blocks]
    # Identities and projections pass on what all blocks before have added.
    assert [list(s.sources) for s in walk.units[1:]] == [names[:i] for i in range(1, 16)]
    assert [s.left[1] for s in walk.units] == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    assert walk.units[-1].left[2:] == (8, 4, 4)
    assert walk.output_shape == (1, 101)
    assert walk.parameters == 50_048_535


def test_densenet_layers_see_all_before_them():
    walk = walk_network(*built(("densenet", "3d")))
    names = [s.name for s in walk.units]
    assert names == ["stem", *(f"dense.{i}.{j}.segment" for i in range(4) for j in range(4))]
    assert [list(s.sources) for s in walk.units[1:]] == [names[:i] for i in range(1, 17)]
    assert list(walk.output_sources) == names
    entering = [s.entered[1] for s in walk.units]
    assert entering == [1, *range(32, 32 + 16 * 16, 16)]
    # With n = 2 a unit stands for two layers.
    pairs = walk_network(*built(("densenet", "p2sc2")))
    assert [s.entered[1] for s in pairs.units] == [1, *range(32, 32 + 16 * 16, 32)]
    assert pairs.parameters == 1_362_542


class Branches(nn.Module):
    """Two units side by side, their sum through a third; the first also reaches the end."""

    def __init__(self):
        super().__init__()
        build = make_unit("conv3d")
        self.one, self.two, self.three = build(1, 2), build(1, 2), build(2, 2)

    def forward(self, x):
        a, b = self.one(x), self.two(x)
        y = self.three(torch.nn.functional.relu_(a + b))
        return torch.stack([y, a]).mean(0)


def test_connections_are_those_of_the_forward_pass():
    walk = walk_network(Branches().to("meta"), (1, 1, 4, 4, 4))
    assert [s.sources for s in walk.units] == [(INPUT,), (INPUT,), ("one", "two")]
    assert walk.output_sources == ("one", "three")
