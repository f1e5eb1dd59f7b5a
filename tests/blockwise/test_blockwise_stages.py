import numpy as np
import pytest
import torch

from psc.block.unit import make_unit
from psc.blockwise.grid import Grid, block_size
from psc.blockwise.images import create_image, dequantised, quantised
from psc.blockwise.pipeline import Job, halved_mode
from psc.em.testing import NetworkAffinities
from psc.networks.unet import UNet
from psc.volumes.intensity import scale_intensity
from psc.volumes.tiling import predict_volume, tile_sizes


@pytest.fixture(scope="module", params=["valid", "same"])
def network(request):
    torch.manual_seed(1)
    built = UNet(make_unit("psc", m=2, n=1), base_width=2, growth=1, depth=1, padding=request.param)
    for parameter in built.parameters():  # so that affinities are not all one half
        parameter.data.mul_(2)
    return built.eval()


@pytest.mark.parametrize(
    ("shape", "wanted", "larger"),
    [((13, 9, 17), (6, 9, 7), 4), ((1, 20, 6), (3, 5, 11), 12)],
)
def test_blocks_give_the_affinities_of_the_whole_volume(network, tmp_path, shape, wanted, larger):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, shape).astype(np.uint8)
    margin = network.receptive_field // 2 if network.padding == "same" else 0
    smallest = network.input_size_for(network.period + 2 * margin)
    tile_input, tile_output = tile_sizes(network, shape, smallest + larger, margin=margin)

    def predict(x):
        return torch.sigmoid(network(x))

    tiles = {"tile_input": tile_input, "tile_output": tile_output, "period": network.period}
    expected = predict_volume(predict, raw, prepare=scale_intensity, **tiles)

    grid = Grid(shape, block_size(shape, wanted, tile_output, network.period))
    source = NetworkAffinities(raw, lambda: (predict, "cpu"), **tiles)
    folder = tmp_path / "a.zarr"
    (target,) = create_image(folder, [grid], np.uint8, voxel_size=None, channels=3)
    job = Job(folder, [grid], None, source, target, None, [])
    for block in grid:
        job.write_affinities(block)
    found = target.read(tuple(slice(0, n) for n in shape))
    assert found.std() > 0 or found.size < 9
    # The last block may end in another tile than the volume's, and sums be rounded otherwise.
    difference = found.astype(int) - quantised(expected)
    assert (difference != 0).mean() < 1e-3 or found.size < 9
    assert abs(difference).max() <= 1


def test_blocks_of_whole_tiles_predict_the_very_bits(network):
    raw = np.random.default_rng(0).integers(0, 256, (21, 17, 19)).astype(np.uint8)
    margin = network.receptive_field // 2 if network.padding == "same" else 0
    tile_input, tile_output = tile_sizes(
        network, raw.shape, network.input_size_for(8 + 2 * margin), margin=margin
    )

    def predict(x):
        return torch.sigmoid(network(x))

    tiles = {"tile_input": tile_input, "tile_output": tile_output, "period": network.period}
    source = NetworkAffinities(raw, lambda: (predict, "cpu"), **tiles)
    expected = predict_volume(predict, raw, prepare=scale_intensity, **tiles)
    grid = Grid(raw.shape, block_size(raw.shape, (9, 11, 7), tile_output, network.period))
    assert len(grid) > 7
    for block in grid:
        assert np.array_equal(source(block.core), expected[(slice(None), *block.core)])


def test_quantisation_is_wrong_by_half_a_step_at_most():
    affinities = np.linspace(0, 1, 10_001, dtype=np.float32)
    assert np.abs(dequantised(quantised(affinities)) - affinities).max() <= 1 / 510 + 1e-6
    assert quantised(np.float32([0, 1])).tolist() == [0, 255]
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantised(dequantised(every)), every)


def test_a_coarse_voxel_is_the_most_frequent_of_its_eight():
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 3, (5, 4, 7)).astype(np.uint64)
    coarse = halved_mode(fine)
    assert coarse.shape == (3, 2, 4)
    for z, y, x in np.ndindex(coarse.shape):
        part = fine[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        votes = {value: part.count(value) for value in part}
        assert votes[int(coarse[z, y, x])] == max(votes.values())


def test_a_coarse_level_is_made_chunk_by_chunk(tmp_path, monkeypatch):
    fine = np.random.default_rng(0).integers(0, 3, (23, 9, 13)).astype(np.uint64)
    monkeypatch.setattr("psc.blockwise.grid._LARGEST_CHUNK", 4)
    grid = Grid(fine.shape, (8, 8, 8))
    grids = [grid, grid.half_as_fine()]
    levels = create_image(tmp_path / "s.zarr", grids, np.uint64, voxel_size=None)
    levels[0].write(tuple(slice(0, n) for n in fine.shape), fine)
    job = Job(tmp_path, grids, None, None, None, None, levels)
    for block in grids[1]:
        job.write_level(1, block)
    everything = tuple(slice(0, n) for n in grids[1].shape)
    assert np.array_equal(levels[1].read(everything), halved_mode(fine))
