"""Third stage: which fragments touch, and how high the affinities between them are.

A block owns the faces between its voxels and their predecessors, those in the block before
included: where affinities are stored, and every face of the volume once. For each pair of fragments
all their affinities are kept, as a histogram over the 256 values that stored ones can have; from it
follows every quantile, the mean and the maximum.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.blockwise.fragment_stage import outside_planes, write_arrays
from psc.blockwise.grid import Block, Grid, within
from psc.blockwise.joining import joined_pairs
from psc.blockwise.stores import StoredArray
from psc.segmentation.labels import relabel_consecutive

__all__ = ["BlockGraph", "GraphStage", "graph_file", "region_graph"]

_UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class BlockGraph:
    """Pairs of touching fragments with the histograms of their affinities.

    Attributes:
        pairs: uint64 (E, 2), smaller id first, in ascending order.
        offsets: int64 (E + 1): the histogram of pair e is ``values[offsets[e]:offsets[e + 1]]``
            with as many ``counts``.
        values: uint8, ascending within a pair.
        counts: uint32, faces with that affinity; positive.
    """

    pairs: _UInt64
    offsets: npt.NDArray[np.int64]
    values: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class GraphStage:
    """Writes the graph of a block's faces, and which fragments continue in the blocks before.

    Attributes:
        grid: of the volume.
        affinities: uint8 (3, D, H, W), complete.
        fragments: uint64 (D, H, W), complete.
        planes: folder that ``FragmentStage`` wrote.
        target: folder for the graphs.
    """

    grid: Grid
    affinities: StoredArray
    fragments: StoredArray
    planes: Path
    target: Path

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``; reports pairs and histogram entries."""
        box = self.grid.extended(block, 1, 0)
        fragments = self.fragments.read(box)
        core = within(block.core, box)
        graph = region_graph(
            self.affinities.read(box), fragments, (core[0].start, core[1].start, core[2].start)
        )
        joined = [self._joined(block, fragments, core, axis) for axis in range(3)]
        write_arrays(
            graph_file(self.target, block.index),
            {
                "pairs": graph.pairs,
                "offsets": graph.offsets,
                "values": graph.values,
                "counts": graph.counts,
                "joined": np.concatenate(joined),
            },
        )
        return {"pairs": len(graph.pairs), "entries": graph.values.size}

    def _joined(
        self, block: Block, fragments: _UInt64, core: tuple[slice, slice, slice], axis: int
    ) -> _UInt64:
        """Fragments of the block before along an axis that continue in this one."""
        before = self.grid.predecessor(block, axis)
        with np.load(outside_planes(self.planes, block)) as ours:
            if before is None or f"before{axis}" not in ours:
                return np.empty((0, 2), dtype=np.uint64)
            this_before = ours[f"before{axis}"]
        with np.load(outside_planes(self.planes, before)) as theirs:
            that_after = theirs[f"after{axis}"]
        first = core[axis].start
        place = list(core)
        place[axis] = slice(first - 1, first)
        that_last = fragments[tuple(place)].squeeze(axis)
        place[axis] = slice(first, first + 1)
        this_first = fragments[tuple(place)].squeeze(axis)
        return joined_pairs(np.stack([that_last, that_after]), np.stack([this_before, this_first]))


def graph_file(folder: Path, index: int) -> Path:
    """Where the graph of a block is."""
    return folder / f"{index}.npz"


def region_graph(
    affinities: npt.NDArray[np.uint8], fragments: _UInt64, start: tuple[int, int, int] = (0, 0, 0)
) -> BlockGraph:
    """Touching fragments, from the faces between voxels and their predecessors.

    Args:
        affinities: uint8 (3, D, H, W), channels z, y, x; channel a at v belongs to the face of v
            and its predecessor along a.
        fragments: uint64 (D, H, W); 0 is no fragment.
        start: the first voxel (z, y, x) whose faces count; earlier ones are predecessors only.

    Returns:
        The graph.
    """
    dense, originals = relabel_consecutive(fragments)
    order = np.argsort(originals)  # 0 stays first
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    ranked = rank[dense]
    keys = np.empty(_faces(ranked, np.zeros(0, np.uint64), affinities, start), dtype=np.uint64)
    _faces(ranked, keys, affinities, start)
    entries, counts = np.unique(keys, return_counts=True)
    pair_keys, first = np.unique(entries >> np.uint64(8), return_index=True)
    low, high = np.divmod(pair_keys, np.uint64(originals.size))
    ascending = originals[order]
    return BlockGraph(
        pairs=np.stack([ascending[low], ascending[high]], axis=1),
        offsets=np.append(first, entries.size).astype(np.int64),
        values=(entries & np.uint64(255)).astype(np.uint8),
        counts=counts.astype(np.uint32),
    )


@njit(nogil=True, cache=True)
def _faces(
    ranks: npt.NDArray[np.int64],
    keys: _UInt64,
    affinities: npt.NDArray[np.uint8],
    start: tuple[int, int, int],
) -> int:
    """Fill ``keys`` with (low rank, high rank, affinity) of each face between two fragments.

    Returns:
        Number of such faces; with no room in ``keys`` they are only counted.
    """
    depth, height, width = ranks.shape
    fragments = np.int64(ranks.max()) + 1
    count = 0
    for z in range(start[0], depth):
        for y in range(start[1], height):
            for x in range(start[2], width):
                here = ranks[z, y, x]
                for axis in range(3):
                    dz, dy, dx = axis == 0, axis == 1, axis == 2
                    if z < dz or y < dy or x < dx:
                        continue
                    there = ranks[z - dz, y - dy, x - dx]
                    if here == there or here == 0 or there == 0:
                        continue
                    if keys.size:
                        pair = min(here, there) * fragments + max(here, there)
                        keys[count] = np.uint64((pair << 8) | affinities[axis, z, y, x])
                    count += 1
    return count
