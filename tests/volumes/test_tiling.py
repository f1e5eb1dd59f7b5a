from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psc.errors import ConfigError
from psc.volumes.tiling import reflected_indices, tile_offsets, tile_sizes


class Valid:
    """Sizes of a U-Net with valid convolutions: multiples of the period plus something."""

    def __init__(self, period=8, context=44):
        self.period, self.context = period, context

    def output_size(self, input_size):
        size = input_size - 2 * self.context
        if size < 1 or (size - 4) % self.period:
            raise ValueError(f"{input_size} voxels do not fit")
        return size

    def valid_input_sizes(self, minimum, maximum):
        smallest = 2 * self.context + 4
        return [n for n in range(smallest, maximum + 1, self.period) if n >= minimum]


class Same:
    """Sizes of a network with padding: what enters leaves, in multiples of the period."""

    period = 4

    def output_size(self, input_size):
        return input_size

    def valid_input_sizes(self, minimum, maximum):
        return [n for n in range(4, maximum + 1, 4) if n >= minimum]


@settings(max_examples=200, deadline=None)
@given(
    region=st.integers(1, 300),
    tile=st.integers(1, 100),
    period=st.sampled_from([1, 2, 4, 8]),
)
def test_tiles_cover_the_region_without_gaps_in_steps_of_the_period(region, tile, period):
    if tile < period and tile < region:
        with pytest.raises(ConfigError, match="without a gap"):
            tile_offsets(region, tile, period)
        return
    offsets = tile_offsets(region, tile, period)
    assert offsets[0] == 0
    assert all(offset % period == 0 for offset in offsets)
    assert all(0 < b - a <= tile for a, b in pairwise(offsets))
    assert offsets[-1] + tile >= region
    assert len(offsets) == 1 or offsets[-2] + tile < region  # none is superfluous


def test_published_tiles_step_by_40():
    # 44 voxels come out, but only multiples of 8 commute with three poolings.
    assert tile_offsets(250, 44, 8) == [0, 40, 80, 120, 160, 200, 240]
    assert tile_offsets(204, 44, 8) == [0, 40, 80, 120, 160]
    assert tile_offsets(44, 44, 8) == [0]


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 9), before=st.integers(0, 30), after=st.integers(0, 30))
def test_reflection_is_that_of_numpy(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(reflected_indices(-before, size + after, size), expected)


def test_reflection_of_a_part():
    assert reflected_indices(2, 5, 9).tolist() == [2, 3, 4]
    assert reflected_indices(-3, 0, 9).tolist() == [3, 2, 1]
    assert reflected_indices(8, 11, 9).tolist() == [8, 7, 6]


def cost(network, region, tile_input, margin=0):
    """Voxels that the network reads to cover the region."""
    total = 1
    for size, length in zip(region, tile_input, strict=True):
        output_size = network.output_size(length) - 2 * margin
        if output_size < min(size, network.period):
            return np.inf
        step = output_size // network.period * network.period
        tiles = 1 if output_size >= size else 1 + -(-(size - output_size) // step)
        total *= tiles * length
    return total


@settings(max_examples=20, deadline=None)
@given(region=st.tuples(*[st.integers(1, 260)] * 3), maximum=st.integers(100, 170))
def test_no_other_tile_is_cheaper(region, maximum):
    network = Valid()
    tile_input, tile_output = tile_sizes(network, region, maximum)
    assert tile_output == tuple(network.output_size(n) for n in tile_input)
    assert np.prod(tile_input) <= maximum**3
    usable = network.valid_input_sizes(1, 2 * maximum)
    assert cost(network, region, tile_input) == min(
        cost(network, region, tile)
        for tile in product(usable, repeat=3)
        if np.prod(tile) <= maximum**3
    )


def test_tiles_take_the_form_of_the_region():
    tile_input, tile_output = tile_sizes(Valid(), (44, 84, 1), 132)
    assert tile_input == (132, 172, 92)  # once, in less memory than 132³ voxels
    assert tile_output == (44, 84, 4)
    assert tile_sizes(Valid(4, 20), (42, 250, 250), 160)[0] == (84, 292, 124)


def test_a_larger_limit_never_costs_more():
    region = (200, 200, 200)
    sizes = [tile_sizes(Valid(), region, limit)[0] for limit in range(100, 320, 8)]
    costs = [cost(Valid(), region, tile) for tile in sizes]
    assert costs == sorted(costs, reverse=True)
    assert sizes[-1] == (292, 292, 292)  # the whole region at once, once it fits


def test_margin_is_left_out_of_padded_networks():
    region = (40, 40, 40)
    tile_input, tile_output = tile_sizes(Same(), region, 32, margin=6)
    assert [i - o for i, o in zip(tile_input, tile_output, strict=True)] == [12, 12, 12]
    assert cost(Same(), region, tile_input, 6) == min(
        cost(Same(), region, tile, 6)
        for tile in product(range(16, 65, 4), repeat=3)
        if np.prod(tile) <= 32**3
    )


def test_refuses_a_limit_that_no_tile_meets():
    with pytest.raises(ConfigError, match="up to 80 voxels"):
        tile_sizes(Valid(), (44, 44, 44), 80)
    with pytest.raises(ConfigError, match="margin 20"):
        tile_sizes(Same(), (44, 44, 44), 32, margin=20)
