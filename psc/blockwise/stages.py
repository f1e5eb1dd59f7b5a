"""Second stage: fragments of every block, computed with context and cut to the core.

A fragment id is unique over the volume: block index · voxels of a block + 1, 2, …. What a block saw
one voxel outside its core is kept beside them, for ``psc.blockwise.stages``.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from psc.blockwise.graph import GraphPart, assemble, joined_roots, merge_regions, needs_histograms
from psc.blockwise.grid import Block, Box, Grid, within
from psc.em.augmentation import scale_intensity
from psc.em.labels import relabel_consecutive
from psc.em.settings import SegmentationOptions
from psc.em.watershed import seeded_watershed, waterz_watershed
from psc.errors import DataError
from psc.volumes.stores import LazyVolume, StoredArray, dequantised, quantised
from psc.volumes.tiling import Size3, predict_volume

# ----------------------------------------
# Fragments 0..N-1 of a volume: block by block, without the gaps between the blocks' ids.


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


# ----------------------------------------
# Which fragments of two neighbouring blocks are pieces of one.
#
# Both blocks computed fragments on either side of their common face, since each has context beyond
# it. Where they agree about a fragment they found the one that the whole volume would have: two
# fragments are joined if on the two planes next to the face they share more than half of the voxels
# that either has (intersection over union above 1/2, so that each has one partner at most).


_UInt64 = npt.NDArray[np.uint64]


def joined_pairs(first_view: _UInt64, second_view: _UInt64) -> _UInt64:
    """Pairs of fragments that two blocks saw alike.

    Args:
        first_view: ids that the block before the face gave to any voxels near it, 0 = none.
        second_view: the ids that the block after it gave to the same voxels.

    Returns:
        uint64 (pairs, 2): an id of the first view and the one of the second that it is joined to.
    """
    first_ids, first = np.unique(first_view, return_inverse=True)
    second_ids, second = np.unique(second_view, return_inverse=True)
    code = first.reshape(-1).astype(np.int64) * second_ids.size + second.reshape(-1)
    pairs, common = np.unique(code, return_counts=True)
    i, j = np.divmod(pairs, second_ids.size)
    either = np.bincount(first.reshape(-1))[i] + np.bincount(second.reshape(-1))[j] - common
    alike = (2 * common > either) & (first_ids[i] != 0) & (second_ids[j] != 0)
    return np.stack([first_ids[i[alike]], second_ids[j[alike]]], axis=1).reshape(-1, 2)


# ----------------------------------------
# First stage: affinities of every block, by a network that sees context around it.


_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory.

    Attributes:
        predict: (N, 1, d, h, w) on ``device`` → affinities (N, 3, d', h', w') in [0, 1].
        device: where it is.
    """

    predict: Callable[[Tensor], Tensor]
    device: torch.device


@dataclass(frozen=True)
class NetworkAffinities:
    """Affinities of any box of a volume, from a network.

    Attributes:
        raw: grey values.
        load: gives the network; called once for every box, so it must remember what it loaded.
        tile_input: see ``psc.volumes.tiling.predict_volume``, as all that follow.
        tile_output: likewise.
        period: likewise.
        intensity_range: grey values that become 0 and 1; None = by the dtype.
        batch_size: tiles at once.
    """

    raw: LazyVolume
    load: Callable[[], LoadedNetwork]
    tile_input: Size3
    tile_output: Size3
    period: int
    intensity_range: tuple[float, float] | None = None
    batch_size: int = 1

    def __call__(self, box: Box) -> _Float32:
        """Affinities float32 (3, D, H, W) of a box that starts at multiples of the period."""
        network = self.load()
        return predict_volume(
            network.predict,
            self.raw,
            tile_input=self.tile_input,
            tile_output=self.tile_output,
            period=self.period,
            region=box,
            prepare=self._prepare,
            device=network.device,
            batch_size=self.batch_size,
        )

    def _prepare(self, tile: npt.NDArray[Any]) -> _Float32:
        return scale_intensity(tile, self.intensity_range)


@dataclass(frozen=True)
class AffinityStage:
    """Writes the affinities of a block, as 0..255.

    Attributes:
        affinities_of: float32 (3, D, H, W) in [0, 1] of a box.
        target: uint8 (3, D, H, W).
    """

    affinities_of: Callable[[Box], _Float32]
    target: StoredArray

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``.

        Raises:
            DataError: the network gives no three affinities in [0, 1] for each voxel.
        """
        affinities = self.affinities_of(block.core)
        lowest, highest = affinities.min(), affinities.max()
        if affinities.shape != (3, *block.shape) or not (lowest >= 0 and highest <= 1):
            raise DataError(
                f"{block}: expected affinities (3, {', '.join(map(str, block.shape))}) in [0, 1],"
                f" the network gave {affinities.shape} from {lowest:g} to {highest:g}; look for NaN"
                " in its weights and in the volume"
            )
        self.target.write(block.core, quantised(affinities))
        return {}


@dataclass(frozen=True)
class FragmentStage:
    """Writes the fragments of a block, and its view of the planes outside the core.

    Attributes:
        grid: of the volume.
        affinities: uint8 (3, D, H, W), complete.
        target: uint64 (D, H, W).
        planes: folder for what is seen outside.
        options: how fragments are made.
        context: voxels around the core from which they are made.
    """

    grid: Grid
    affinities: StoredArray
    target: StoredArray
    planes: Path
    options: SegmentationOptions
    context: int

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``; reports how many fragments there are."""
        box = self.grid.extended(block, self.context, self.context)
        fragments = make_fragments(dequantised(self.affinities.read(box)), self.options)
        core = within(block.core, box)
        local, originals = relabel_consecutive(fragments[core])
        count = originals.size - 1
        ids = np.zeros(int(fragments.max()) + 1, dtype=np.uint64)
        first = np.uint64(block.index * self.grid.voxels_per_block)
        ids[originals[1:]] = first + np.arange(1, count + 1, dtype=np.uint64)
        seen = {
            f"{side}{axis}": ids[plane]
            for axis in range(3)
            for side, plane in _outside(fragments, core, axis)
        }
        write_arrays(outside_planes(self.planes, block), seen)
        values = local.astype(np.uint64)
        values[local != 0] += first
        self.target.write(block.core, values)
        return {"fragments": count}


def make_fragments(affinities: npt.NDArray[np.float32], options: SegmentationOptions) -> _UInt64:
    """Fragments uint64 (D, H, W) of affinities float32 (3, D, H, W), as the options say."""
    if options.fragments == "waterz":
        return waterz_watershed(affinities, options.low, options.high)
    return seeded_watershed(
        affinities,
        boundary_threshold=options.boundary_threshold,
        seed_smoothing=options.seed_smoothing,
        minimum_seed_distance=options.minimum_seed_distance,
    )


def outside_planes(folder: Path, block: Block) -> Path:
    """Where a block's ids of the planes next to its core are.

    Arrays uint64 named "before" or "after" and the axis, of the core's shape without that axis; 0
    where a fragment does not reach into the core. Missing at the volume's border.
    """
    return folder / f"{block.index}.npz"


def write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a .npz that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's own keyword
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _outside(
    fragments: _UInt64, core: tuple[slice, slice, slice], axis: int
) -> list[tuple[str, _UInt64]]:
    """The planes before and after a core, where the context has them."""
    planes = []
    for side, index in (("before", core[axis].start - 1), ("after", core[axis].stop)):
        if 0 <= index < fragments.shape[axis]:
            place: list[Any] = list(core)
            place[axis] = index
            planes.append((side, fragments[tuple(place)]))
    return planes


# ----------------------------------------
# Third stage: which fragments touch, and how high the affinities between them are.
#
# A block owns the faces between its voxels and their predecessors, those in the block before
# included: where affinities are stored, and every face of the volume once. For each pair of
# fragments
# all their affinities are kept, as a histogram over the 256 values that stored ones can have; from
# it follows every quantile, the mean and the maximum.


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


# ----------------------------------------
# Fourth stage: the segment of every fragment, from the graphs of all blocks, in one process.


@dataclass(frozen=True, eq=False)
class AgglomerationStage:
    """Writes one table for the whole volume: segment ids uint64 (N) by fragment.

    Attributes:
        graphs: folder that ``GraphStage`` wrote.
        numbering: of the fragments.
        scoring: see ``psc.em.watershed.SCORING_FUNCTIONS``.
        threshold: up to which regions merge.
        target: the table, a .npy.
    """

    graphs: Path
    numbering: Numbering
    scoring: str
    threshold: float
    target: Path

    def __call__(self, reports: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
        """Merge, write, and count.

        Args:
            reports: what ``GraphStage`` reported of each block.
        """
        blocks = sorted(reports)
        roots = joined_roots(self.numbering.fragments, self._joined(blocks))
        graph = assemble(
            roots,
            self._parts(blocks),
            edges=sum(report["pairs"] for report in reports.values()),
            entries=sum(report["entries"] for report in reports.values()),
            histograms=needs_histograms(self.scoring),
        )
        edges = int(graph.sizes[0])
        ((_, segments),) = merge_regions(graph, roots, [self.threshold], self.scoring)
        partial = self.target.with_name(f".{self.target.name}.tmp")
        with partial.open("wb") as file:
            np.save(file, segments)
        partial.replace(self.target)
        return {
            "fragments": self.numbering.fragments,
            "joined": int(np.count_nonzero(roots != np.arange(roots.size))),
            "edges": edges,
            "segments": int(segments.max(initial=0)),
        }

    def _joined(self, blocks: list[int]) -> Iterator[npt.NDArray[np.int64]]:
        for index in blocks:
            with np.load(graph_file(self.graphs, index)) as arrays:
                yield self.numbering.positions(arrays["joined"])

    def _parts(self, blocks: list[int]) -> Iterator[GraphPart]:
        for index in blocks:
            with np.load(graph_file(self.graphs, index)) as arrays:
                yield GraphPart(
                    pairs=self.numbering.positions(arrays["pairs"]),
                    offsets=arrays["offsets"],
                    values=arrays["values"],
                    counts=arrays["counts"],
                )


# ----------------------------------------
# Last stages: the segmentation block by block, then its coarser levels.


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
