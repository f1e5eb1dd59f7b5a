"""How a volume is cut into blocks: cores that tile it, and the context around each.

Cores start at multiples of one size, so that what a network predicts (it commutes with shifts by
its period only) and where chunks of a file end are the same for every block.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from psc.errors import ConfigError
from psc.volumes.metadata import Size3, size3

Box = tuple[slice, slice, slice]
"""Voxels of a volume along z, y and x: slices with start and stop."""

_LARGEST_CHUNK = 128


@dataclass(frozen=True)
class Block:
    """One block; all coordinates in voxels of the volume."""

    index: int  # in the grid, x running fastest
    position: Size3  # the same as (z, y, x) in units of blocks
    core: Box  # the voxels that are this block's alone

    @property
    def shape(self) -> Size3:
        """Voxels of the core along z, y, x."""
        return size3(part.stop - part.start for part in self.core)

    def __str__(self) -> str:
        """Where it is, for messages."""
        spans = ", ".join(f"{part.start}:{part.stop}" for part in self.core)
        return f"block {self.index} [{spans}]"


@dataclass(frozen=True)
class Grid:
    """Blocks of a volume; those at its end are smaller, and a core may exceed the volume."""

    shape: Size3  # of the volume
    core: Size3  # of a block

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.core) < 1:
            raise ConfigError(
                f"a volume of {self.shape} voxels cannot be cut into blocks of {self.core}; both"
                " need three positive sizes"
            )
        if len(self) * self.voxels_per_block > np.iinfo(np.uint64).max:
            raise ConfigError(
                f"{len(self)} blocks of {self.core} voxels have more voxels than 64 bits can"
                " number, and fragments could not be told apart; segment parts of the volume"
            )

    @property
    def counts(self) -> Size3:
        """Blocks along z, y, x."""
        return size3(-(-n // core) for n, core in zip(self.shape, self.core, strict=True))

    @property
    def voxels_per_block(self) -> int:
        """Voxels of a whole core: ids of block b are b · this + 1, …, b · this + this."""
        return math.prod(self.core)

    def __len__(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Block]:
        """All blocks in the order of their index."""
        for position in itertools.product(*(range(count) for count in self.counts)):
            yield self.at(position)

    def at(self, position: tuple[int, ...]) -> Block:
        """The block at a position in units of blocks."""
        z, y, x = position
        starts = [p * core for p, core in zip(position, self.core, strict=True)]
        a, b, c = (
            slice(start, min(start + core, size))
            for start, core, size in zip(starts, self.core, self.shape, strict=True)
        )
        index = (z * self.counts[1] + y) * self.counts[2] + x
        return Block(index, (z, y, x), (a, b, c))

    def predecessor(self, block: Block, axis: int) -> Block | None:
        """The block before this one along an axis; None at the volume's first plane."""
        position = list(block.position)
        position[axis] -= 1
        return None if position[axis] < 0 else self.at(tuple(position))

    def half_as_fine(self) -> "Grid":
        """The grid of the next coarser level; its blocks have as many voxels."""
        return Grid(size3(-(-size // 2) for size in self.shape), self.core)

    def extended(self, block: Block, before: int, after: int) -> Box:
        """A core with so many more voxels on either side of each axis, as far as they exist."""
        z, y, x = (
            slice(max(0, part.start - before), min(part.stop + after, size))
            for part, size in zip(block.core, self.shape, strict=True)
        )
        return z, y, x


def within(part: Box, whole: Box) -> Box:
    """The slices that cut ``part`` out of an array that holds ``whole``."""
    z, y, x = (slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))
    return z, y, x


def block_size(
    shape: Size3, wanted: Size3, tile_output: Size3 = (1, 1, 1), period: int = 1
) -> Size3:
    """Cores of whole tiles, so that blocks predict with the very tiles of the whole volume.

    ``wanted`` voxels are rounded up to a multiple of the tiles' step, which is one of the network's
    period; along an axis that one tile or block covers, to the volume's size, up to the period.
    ``tile_output``: voxels that one tile predicts (``psc.volumes.tiling.tile_sizes``).
    """
    if len(wanted) != 3 or min(wanted) < 1:
        raise ConfigError(f"block_size={wanted} must be three positive numbers of voxels (z, y, x)")
    sizes = []
    for size, want, tile in zip(shape, wanted, tile_output, strict=True):
        step = max(tile // period, 1) * period
        core = -(-want // step) * step
        sizes.append(-(-size // period) * period if size <= max(tile, core) else core)
    return size3(sizes)


def chunk_size(core: Size3) -> Size3:
    """Chunks of a file such that no two blocks write into one: divisors of the core up to 128."""
    return size3(max(d for d in range(1, min(n, _LARGEST_CHUNK) + 1) if n % d == 0) for n in core)
