"""Last stages: the segmentation block by block, then its coarser levels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.blockwise.grid import Block, Grid
from psc.blockwise.numbering import Numbering
from psc.blockwise.stores import StoredArray

__all__ = ["LevelStage", "RelabelStage", "half_as_fine", "halved_mode"]

_UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class RelabelStage:
    """Writes the segment of every voxel of a block.

    Attributes:
        fragments: uint64 (D, H, W), complete.
        table: segments by fragment, a .npy; only the part of one block is read at a time.
        numbering: of the fragments.
        target: uint64 (D, H, W).
    """

    fragments: StoredArray
    table: Path
    numbering: Numbering
    target: StoredArray

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``."""
        fragments = self.fragments.read(block.core)
        start, stop = self.numbering.starts[block.index : block.index + 2]
        segments = np.zeros(int(stop - start) + 1, np.uint64)  # background stays 0
        segments[1:] = np.load(self.table, mmap_mode="r")[start:stop]
        first = np.uint64(block.index * self.numbering.voxels_per_block)
        local = np.where(fragments == 0, np.uint64(0), fragments - first)
        self.target.write(block.core, segments[local])
        return {}


@dataclass(frozen=True)
class LevelStage:
    """Writes a block of a level from the one that is twice as fine.

    Attributes:
        finer: uint64, complete.
        finer_shape: its voxels.
        target: the level.
    """

    finer: StoredArray
    finer_shape: tuple[int, int, int]
    target: StoredArray

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``."""
        z, y, x = (
            slice(2 * part.start, min(2 * part.stop, size))
            for part, size in zip(block.core, self.finer_shape, strict=True)
        )
        self.target.write(block.core, halved_mode(self.finer.read((z, y, x))))
        return {}


def half_as_fine(grid: Grid) -> Grid:
    """The grid of the next coarser level; its blocks have as many voxels."""
    z, y, x = (-(-size // 2) for size in grid.shape)
    return Grid((z, y, x), grid.core)


@njit(nogil=True, cache=True)
def halved_mode(labels: _UInt64) -> _UInt64:
    """The most frequent id of each 2×2×2 voxels; of several the one that comes first.

    Args:
        labels: uint64 (D, H, W); along an odd axis the last voxels have fewer beside them.

    Returns:
        uint64, half the size, rounded up.
    """
    depth, height, width = labels.shape
    shape = ((depth + 1) // 2, (height + 1) // 2, (width + 1) // 2)
    halved = np.empty(shape, dtype=np.uint64)
    for z in range(shape[0]):
        for y in range(shape[1]):
            for x in range(shape[2]):
                part = labels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                best = 0
                for candidate in part.flat:
                    votes = 0
                    for other in part.flat:
                        votes += other == candidate
                    if votes > best:
                        best = votes
                        halved[z, y, x] = candidate
    return halved
