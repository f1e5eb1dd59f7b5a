"""Tiles, reflection, and dense prediction against one pass over the whole volume."""

from itertools import pairwise, product

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psc.block.unit import make_unit
from psc.errors import ConfigError, DataError
from psc.networks.unet import UNet
from psc.volumes.tiling import (
    predict_volume,
    read_reflected,
    reflected_indices,
    tile_offsets,
    tile_sizes,
)

small = st.integers(1, 6)
triples = st.tuples(small, small, small)
offsets = st.tuples(*[st.integers(-9, 9)] * 3)


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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 9), before=st.integers(0, 30), after=st.integers(0, 30))
def test_reflection_is_that_of_numpy(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(reflected_indices(-before, size + after, size), expected)


def test_reflection_of_a_part():
    assert reflected_indices(2, 5, 9).tolist() == [2, 3, 4]
    assert reflected_indices(-3, 0, 9).tolist() == [3, 2, 1]
    assert reflected_indices(8, 11, 9).tolist() == [8, 7, 6]


class TestReadReflected:
    @given(triples, offsets, triples)
    def test_as_numpy_pads(self, array_shape, start, shape):
        raw = np.arange(np.prod(array_shape)).reshape(array_shape)
        pad = 20  # more than any window sticks out: reflected several times over
        padded = np.pad(raw, pad, mode="reflect")
        box = tuple(slice(a + pad, a + pad + n) for a, n in zip(start, shape, strict=True))
        np.testing.assert_array_equal(read_reflected(raw, start, shape), padded[box])

    def test_inside_it_is_a_view(self):
        raw = np.zeros((5, 6, 7))
        assert np.shares_memory(read_reflected(raw, (0, 1, 2), (5, 5, 5)), raw)


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


@settings(max_examples=6, deadline=None)
@given(region=st.tuples(*[st.integers(1, 260)] * 3), maximum=st.integers(100, 140))
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


class TinyUNet(nn.Module):
    """Two poolings, valid convolutions: the smallest network with the geometry of the real one."""

    period = 4

    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(3)
        self.top = nn.Sequential(nn.Conv3d(channels, 3, 3), nn.ReLU(), nn.MaxPool3d(2))
        self.middle = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.MaxPool3d(2))
        # 1×1×1 leaves the coarsest voxels visible: each covers 4 voxels of the output.
        self.bottom = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Upsample(scale_factor=4))
        self.head = nn.Conv3d(4, 2, 3)

    def forward(self, x):
        return self.head(self.bottom(self.middle(self.top(x))))

    def output_size(self, input_size):
        size = self._trace(input_size)
        if size is None:
            raise ValueError(f"{input_size} voxels do not fit")
        return size

    def valid_input_sizes(self, minimum, maximum):
        return [n for n in range(minimum, maximum + 1) if self._trace(n) is not None]

    def _trace(self, size):
        for _ in range(2):
            size -= 2
            if size < 2 or size % 2:
                return None
            size //= 2
        return size * 4 - 2


# 22 voxels in, 14 out: the context is 4 at either side, and tiles step by 12.
TILE = {"tile_input": (22, 22, 22), "tile_output": (14, 14, 14), "period": 4}
CONTEXT = 4


@pytest.fixture(scope="module")
def network():
    return TinyUNet().eval()


def volume(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(network, raw, region=None, context=CONTEXT):
    """The region in one pass: the volume is padded far beyond all that the network reads."""
    region = region or tuple(slice(0, n) for n in raw.shape)
    size = max(s.stop - s.start for s in region)
    while True:  # the smallest valid output that covers the region along all axes
        try:
            if network.output_size(size + 2 * context) >= size:
                break
        except ValueError:
            pass
        size += 1
    far = size + 2 * context
    padded = raw
    for axis, n in enumerate(raw.shape):
        widths = [(0, 0)] * 3
        widths[axis] = (far, far)
        padded = np.pad(padded, widths, mode="reflect" if n > 1 else "edge")
    start = [s.start + far - context for s in region]
    block = padded[tuple(slice(a, a + size + 2 * context) for a in start)]
    with torch.inference_mode():
        result = network(torch.from_numpy(np.ascontiguousarray(block))[None, None])[0].numpy()
    return result[(slice(None), *(slice(0, s.stop - s.start) for s in region))]


def assert_same(actual, expected):
    assert expected.std() > 0.01  # the network says something
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        (14, 14, 14),  # exactly one tile
        (26, 26, 26),  # exactly two steps
        (27, 40, 17),  # the last tile sticks out
        (9, 5, 12),  # smaller than one tile
        (3, 20, 2),  # thinner than the context: reflected more than once
        (1, 15, 1),  # nothing to reflect
    ],
)
def test_tiles_equal_one_pass_over_the_whole_volume(network, shape):
    raw = volume(shape)
    result = predict_volume(network, raw, **TILE)
    assert result.shape == (2, *shape)
    assert result.dtype == np.float32
    assert_same(result, whole(network, raw))


@pytest.mark.parametrize(
    "region",
    [
        (slice(5, 23), slice(10, 29), slice(0, 30)),
        (slice(0, 1), slice(29, 30), slice(3, 30)),
        (slice(8, 22), slice(8, 22), slice(8, 22)),
    ],
)
def test_region_equals_one_pass_with_context_from_the_volume(network, region):
    raw = volume((30, 30, 30))
    result = predict_volume(network, raw, region=region, **TILE)
    assert_same(result, whole(network, raw, region))


def test_context_beyond_the_region_matters(network):
    raw = volume((30, 30, 30))
    region = (slice(8, 22),) * 3
    expected = predict_volume(network, raw, region=region, **TILE)
    cropped = predict_volume(network, raw[region], **TILE)
    assert np.abs(cropped - expected).max() > 0.01
    # What the outermost predicted voxel sees ends with the context; beyond it nothing matters.
    raw[: 8 - CONTEXT] = 100
    np.testing.assert_array_equal(predict_volume(network, raw, region=region, **TILE), expected)


def test_open_region_slices_reach_to_the_border(network):
    raw = volume((20, 20, 20))
    result = predict_volume(
        network, raw, region=(slice(4, None), slice(None, 9), slice(None)), **TILE
    )
    assert_same(result, whole(network, raw, (slice(4, 20), slice(0, 9), slice(0, 20))))


def test_offsets_that_are_no_multiples_of_the_period_would_be_wrong(network):
    # The reason for ``period``: with period 1 tiles step by 14, and poolings fall differently.
    raw = volume((30, 30, 30))
    wrong = predict_volume(network, raw, **(TILE | {"period": 1}))
    expected = whole(network, raw)
    np.testing.assert_allclose(wrong[:, :14, :14, :14], expected[:, :14, :14, :14], atol=1e-5)
    assert np.abs(wrong - expected).max() > 0.05


def test_tile_sizes_fit_the_network(network):
    raw = volume((31, 18, 40))
    tile_input, tile_output = tile_sizes(network, raw.shape, 30)
    assert np.prod(tile_input) <= 30**3
    result = predict_volume(
        network, raw, tile_input=tile_input, tile_output=tile_output, period=network.period
    )
    assert_same(result, whole(network, raw))


def test_the_real_unet():
    torch.manual_seed(0)
    network = UNet(make_unit("psc", m=2, n=2), base_width=2, growth=2, depth=2).eval()
    raw = volume((21, 15, 18))
    context = (network.valid_input_sizes(1, 60)[0] - 4) // 2
    assert network.output_size(2 * context + 4) == 4
    tile_input, tile_output = tile_sizes(network, raw.shape, 2 * context + 12)
    assert max(tile_output) < 21  # several tiles
    result = predict_volume(
        network, raw, tile_input=tile_input, tile_output=tile_output, period=network.period
    )
    assert_same(result, whole(network, raw, context=context))


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_batches_do_not_change_the_result(network, batch_size):
    raw = volume((30, 20, 17))
    sizes = []

    def predict(x):
        sizes.append(len(x))
        return network(x)

    result = predict_volume(predict, raw, batch_size=batch_size, **TILE)
    assert_same(result, predict_volume(network, raw, **TILE))
    assert sum(sizes) == 12
    assert max(sizes) == min(batch_size, 12)


def test_several_channels():
    network = TinyUNet(channels=2).eval()
    raw = volume((2, 19, 20, 21))
    result = predict_volume(network, raw, **TILE)
    tile = torch.from_numpy(np.pad(raw, ((0, 0), (4, 4), (4, 4), (4, 4)), mode="reflect"))
    with torch.inference_mode():
        expected = network(tile[None, :, :22, :22, :22])[0].numpy()
    assert_same(result[:, :14, :14, :14], expected)
    assert result.shape == (2, 19, 20, 21)


def test_bytes_are_converted_tile_by_tile(network):
    raw = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    seen = []

    def prepare(tile):
        seen.append((tile.shape, tile.dtype))
        return tile / np.float32(255)

    result = predict_volume(network, raw, prepare=prepare, **TILE)
    assert_same(result, whole(network, raw / np.float32(255)))
    assert set(seen) == {((1, 22, 22, 22), np.dtype(np.uint8))}


def test_reads_from_hdf5(network, tmp_path):
    raw = volume((27, 16, 20))
    with h5py.File(tmp_path / "volumes.h5", "w") as file:
        source = file.create_dataset("raw", data=raw)
        assert_same(predict_volume(network, source, **TILE), whole(network, raw))


def test_centre_of_a_padded_network():
    # Output as large as the input; zero padding spoils 2 voxels, which are not used.
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 3, padding=1)
    ).eval()
    raw = volume((15, 13, 9))
    padded = torch.from_numpy(np.pad(raw, 2, mode="reflect"))[None, None]
    with torch.inference_mode():
        expected = network(padded)[0, :, 2:-2, 2:-2, 2:-2].numpy()
    result = predict_volume(network, raw, tile_input=(10, 10, 10), tile_output=(6, 6, 6), period=1)
    assert_same(result, expected)


def test_progress_counts_tiles(network):
    calls = []
    predict_volume(
        network, volume((30, 14, 14)), batch_size=2, progress=lambda *c: calls.append(c), **TILE
    )
    assert calls == [(2, 3), (3, 3)]


def test_no_gradients_and_half_precision_outputs(network):
    def predict(x):
        assert torch.is_inference_mode_enabled()
        return network(x).bfloat16()

    raw = volume((14, 14, 14))
    result = predict_volume(predict, raw, **TILE)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, whole(network, raw), atol=0.01)


def test_raw_is_left_untouched_by_a_prediction_in_place():
    raw = volume((12, 12, 12))
    before = raw.copy()
    predict_volume(
        lambda x: x.mul_(2), raw, tile_input=(12, 12, 12), tile_output=(12, 12, 12), period=1
    )
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_output": (24, 14, 14)}, "must exceed"),
        ({"tile_output": (14, 13, 14)}, "same number of voxels"),  # context of 4.5
        ({"tile_output": (0, 14, 14)}, "must exceed"),
        ({"period": 0}, "period and batch_size"),
        ({"batch_size": 0}, "period and batch_size"),
        ({"period": 16}, "without a gap"),
        ({"tile_output": (16, 16, 16)}, "returned"),  # more than the network gives
    ],
)
def test_refuses_impossible_sizes(network, changes, message):
    with pytest.raises(ConfigError, match=message):
        predict_volume(network, volume((30, 30, 30)), **(TILE | changes))


@pytest.mark.parametrize(
    "region",
    [
        (slice(0, 31), slice(0, 5), slice(0, 5)),
        (slice(5, 5), slice(0, 5), slice(0, 5)),
        (slice(-5, None), slice(0, 5), slice(0, 5)),
        (slice(0, 8, 2), slice(0, 5), slice(0, 5)),
        (slice(0, 5), slice(0, 5)),
    ],
)
def test_refuses_regions_that_are_no_block_of_the_volume(network, region):
    with pytest.raises(DataError, match="region"):
        predict_volume(network, volume((30, 30, 30)), region=region, **TILE)


def test_refuses_bytes_without_a_conversion(network):
    with pytest.raises(DataError, match=r"uint8.*pass prepare="):
        predict_volume(network, np.zeros((30, 30, 30), np.uint8), **TILE)


@pytest.mark.parametrize("shape", [(30, 30), (0, 30, 30), (1, 1, 30, 30, 30)])
def test_refuses_other_dimensions(network, shape):
    with pytest.raises(DataError, match="D, H, W"):
        predict_volume(network, np.zeros(shape, np.float32), **TILE)


def test_refuses_a_network_that_returns_no_volume():
    with pytest.raises(ConfigError, match=r"\(1, 2\)"):
        predict_volume(lambda x: x.mean((2, 3, 4)).repeat(1, 2), volume((14, 14, 14)), **TILE)
