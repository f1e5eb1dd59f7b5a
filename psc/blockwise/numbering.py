"""Fragments 0..N-1 of a volume: block by block, without the gaps between the blocks' ids."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Numbering"]


@dataclass(frozen=True, eq=False)
class Numbering:
    """How ids of fragments become positions in tables.

    Attributes:
        voxels_per_block: of ``psc.blockwise.grid.Grid``.
        starts: int64 (blocks + 1): fragments of block b are starts[b], …, starts[b + 1] - 1.
    """

    voxels_per_block: int
    starts: npt.NDArray[np.int64]

    @classmethod
    def of_counts(cls, fragments: Mapping[int, int], voxels_per_block: int) -> "Numbering":
        """From the number of fragments of each block."""
        counts = [fragments[index] for index in range(len(fragments))]
        return cls(voxels_per_block, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @property
    def fragments(self) -> int:
        """N."""
        return int(self.starts[-1])

    def positions(self, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Positions of ids, none of which is 0."""
        block, local = np.divmod(ids - np.uint64(1), np.uint64(self.voxels_per_block))
        positions: npt.NDArray[np.int64] = self.starts[block.astype(np.intp)]
        return positions + local.astype(np.int64)
