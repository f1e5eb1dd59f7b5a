import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psc.blockwise.grid import Grid, block_size, chunk_size, within
from psc.errors import ConfigError

sizes = st.tuples(*[st.integers(1, 40)] * 3)


@given(sizes, sizes)
def test_cores_cover_every_voxel_once_in_order(shape, core):
    grid = Grid(shape, core)
    owner = np.full(shape, -1)
    for number, block in enumerate(grid):
        assert block.index == number
        assert (owner[block.core] == -1).all()
        owner[block.core] = number
        assert block.shape == owner[block.core].shape
        assert grid.at(block.position) == block
    assert (owner >= 0).all()
    assert len(grid) == owner.max() + 1


@given(sizes, sizes, st.integers(0, 9), st.integers(0, 9))
def test_extended_boxes_stay_within_the_volume_and_hold_the_core(shape, core, before, after):
    grid = Grid(shape, core)
    values = np.arange(math.prod(shape)).reshape(shape)
    for block in grid:
        box = grid.extended(block, before, after)
        assert np.array_equal(values[box][within(block.core, box)], values[block.core])
        for part, inner, size in zip(box, block.core, shape, strict=True):
            assert part.start == max(0, inner.start - before)
            assert part.stop == min(size, inner.stop + after)


def test_predecessors():
    grid = Grid((10, 10, 10), (4, 5, 10))
    assert [block.index for block in grid] == list(range(6))
    last = grid.at((2, 1, 0))
    assert grid.predecessor(last, 0) == grid.at((1, 1, 0))
    assert grid.predecessor(last, 1) == grid.at((2, 0, 0))
    assert grid.predecessor(last, 2) is None


@given(sizes, sizes, sizes, st.sampled_from([1, 2, 4, 8]))
def test_blocks_are_whole_tiles_at_multiples_of_the_period(shape, wanted, tile, period):
    tile = tuple(max(size, period) for size in tile)
    core = block_size(shape, wanted, tile, period)
    for size, got, want, output in zip(shape, core, wanted, tile, strict=True):
        step = output // period * period
        assert got % period == 0
        if got >= size:  # one block, no longer than it must be
            assert got - size < period
        else:
            assert want <= got < want + step
            assert got % step == 0
            assert output < size


@given(sizes)
def test_chunks_divide_the_core(core):
    large = tuple(7 * size for size in core)
    chunk = chunk_size(large)
    assert all(size % part == 0 and part <= 128 for size, part in zip(large, chunk, strict=True))
    assert chunk_size((256, 220, 96)) == (128, 110, 96)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="positive"):
        Grid((0, 4, 4), (4, 4, 4))
    with pytest.raises(ConfigError, match="positive"):
        block_size((8, 8, 8), (4, 0, 4))
    side = 2**22
    with pytest.raises(ConfigError, match="64 bits"):
        Grid((side, side, side), (256, 256, 256))
    Grid((2**20, 2**21, 2**21), (256, 256, 256))  # 2**62 voxels: ids just fit
