"""The steps of a segmentation, each a function of one block that reads, computes and writes.

Affinities, by a network that sees context around the block; fragments, made with context and cut to
the core; the region graph of the block's faces, and which fragments continue in the blocks before;
from the graphs of all blocks the segment of every fragment, in one process; the segmentation, and
its coarser levels. What the functions return are numbers to report (``psc.blockwise.engine.Work``).

A fragment id is unique over the volume: block index · voxels of a block + 1, 2, ….
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from psc.blockwise.graph import (
    BlockGraph,
    Numbering,
    assemble,
    joined_pairs,
    joined_roots,
    merge_regions,
    needs_histograms,
    region_graph,
)
from psc.blockwise.grid import Block, Box, Grid, within
from psc.blockwise.images import StoredArray, dequantised, quantised
from psc.em.labels import relabel_consecutive
from psc.em.settings import SegmentationOptions
from psc.em.watershed import fragments_of
from psc.errors import DataError
from psc.files import replacing
from psc.volumes.intensity import Range, scale_intensity
from psc.volumes.reading import Volume
from psc.volumes.tiling import Size3, predict_volume

_Float32 = npt.NDArray[np.float32]
_UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory: (N, 1, d, h, w) on ``device`` → affinities (N, 3, …) in [0, 1]."""

    predict: Callable[[Tensor], Tensor]
    device: torch.device


@dataclass(frozen=True)
class NetworkAffinities:
    """Affinities of any box of a volume, from a network; see ``psc.volumes.tiling``."""

    raw: Volume
    load: Callable[[], LoadedNetwork]  # called once for every box: it must remember its network
    tile_input: Size3
    tile_output: Size3
    period: int
    intensity_range: Range | None = None  # grey values that become 0 and 1; None = by the dtype
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
            prepare=lambda tile: scale_intensity(tile, self.intensity_range),
            device=network.device,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class AffinityStage:
    """Writes the affinities of a block, as 0..255."""

    affinities_of: Callable[[Box], _Float32]  # (3, D, H, W) in [0, 1] of a box
    target: StoredArray  # uint8 (3, D, H, W)

    def __call__(self, block: Block) -> dict[str, int]:
        """Refuse what are no three affinities in [0, 1] for each voxel."""
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
    """Writes the fragments of a block, and its view of the planes next to the core.

    The latter are arrays uint64 named "before" or "after" and the axis, of the core's shape without
    that axis; 0 where a fragment does not reach into the core. Missing at the volume's border.
    """

    grid: Grid
    affinities: StoredArray  # uint8 (3, D, H, W), complete
    target: StoredArray  # uint64 (D, H, W)
    planes: Path  # folder for what is seen outside
    options: SegmentationOptions
    context: int  # voxels around the core from which fragments are made

    def __call__(self, block: Block) -> dict[str, int]:
        """Report how many fragments there are."""
        box = self.grid.extended(block, self.context, self.context)
        fragments = fragments_of(dequantised(self.affinities.read(box)), self.options)
        core = within(block.core, box)
        local, originals = relabel_consecutive(fragments[core])
        numbers = np.zeros(originals.size, dtype=np.uint64)  # background stays 0
        numbers[1:] = np.arange(1, originals.size, dtype=np.uint64)
        numbers[1:] += np.uint64(block.index * self.grid.voxels_per_block)
        ids = np.zeros(int(fragments.max()) + 1, dtype=np.uint64)
        ids[originals] = numbers
        seen = {}
        for axis in range(3):
            for side, index in (("before", core[axis].start - 1), ("after", core[axis].stop)):
                if 0 <= index < fragments.shape[axis]:
                    seen[f"{side}{axis}"] = ids[fragments[_plane(core, axis, index)]]
        _write_arrays(_file(self.planes, block.index), seen)
        self.target.write(block.core, numbers[local])
        return {"fragments": originals.size - 1}


@dataclass(frozen=True)
class GraphStage:
    """Writes the graph of a block's faces, and which fragments continue in the blocks before."""

    grid: Grid
    affinities: StoredArray  # uint8 (3, D, H, W), complete
    fragments: StoredArray  # uint64 (D, H, W), complete
    planes: Path  # folder that FragmentStage wrote
    target: Path  # folder for the graphs

    def __call__(self, block: Block) -> dict[str, int]:
        """Report pairs and histogram entries."""
        box = self.grid.extended(block, 1, 0)
        fragments = self.fragments.read(box)
        core = within(block.core, box)
        z, y, x = (part.start for part in core)
        graph = region_graph(self.affinities.read(box), fragments, (z, y, x))
        joined = [self._joined(block, fragments, core, axis) for axis in range(3)]
        arrays = {**graph._asdict(), "joined": np.concatenate(joined)}
        _write_arrays(_file(self.target, block.index), arrays)
        return {"pairs": len(graph.pairs), "entries": graph.values.size}

    def _joined(self, block: Block, fragments: _UInt64, core: Box, axis: int) -> _UInt64:
        """Fragments of the block before along an axis that continue in this one."""
        before = self.grid.predecessor(block, axis)
        if before is None:
            return np.empty((0, 2), dtype=np.uint64)
        with np.load(_file(self.planes, block.index)) as ours:
            this_before = ours[f"before{axis}"]
        with np.load(_file(self.planes, before.index)) as theirs:
            that_after = theirs[f"after{axis}"]
        first = core[axis].start
        that_last = fragments[_plane(core, axis, first - 1)]
        this_first = fragments[_plane(core, axis, first)]
        return joined_pairs(np.stack([that_last, that_after]), np.stack([this_before, this_first]))


@dataclass(frozen=True, eq=False)
class AgglomerationStage:
    """Writes one table for the whole volume: segment ids uint64 (N) by fragment."""

    graphs: Path  # folder that GraphStage wrote
    numbering: Numbering
    scoring: str  # of psc.em.settings.SCORING_FUNCTIONS
    threshold: float  # up to which regions merge
    target: Path  # a .npy

    def __call__(self, reports: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
        """Merge, write, and count, from what ``GraphStage`` reported of each block."""
        roots = joined_roots(
            self.numbering.fragments,
            (self.numbering.positions(arrays["joined"]) for arrays in self._arrays(reports)),
        )
        graph = assemble(
            roots,
            (
                BlockGraph(
                    self.numbering.positions(arrays["pairs"]),
                    *(arrays[name] for name in BlockGraph._fields[1:]),
                )
                for arrays in self._arrays(reports)
            ),
            edges=sum(report["pairs"] for report in reports.values()),
            entries=sum(report["entries"] for report in reports.values()),
            histograms=needs_histograms(self.scoring),
        )
        edges = int(graph.sizes[0])
        ((_, segments),) = merge_regions(graph, roots, [self.threshold], self.scoring)
        with replacing(self.target) as partial, partial.open("wb") as file:
            np.save(file, segments)
        return {
            "fragments": self.numbering.fragments,
            "joined": int(np.count_nonzero(roots != np.arange(roots.size))),
            "edges": edges,
            "segments": int(segments.max(initial=0)),
        }

    def _arrays(self, blocks: Mapping[int, Any]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        for index in sorted(blocks):
            with np.load(_file(self.graphs, index)) as arrays:
                yield arrays


@dataclass(frozen=True, eq=False)
class RelabelStage:
    """Writes the segment of every voxel of a block."""

    fragments: StoredArray  # uint64 (D, H, W), complete
    table: Path  # segments by fragment, a .npy; only the part of one block is read at a time
    numbering: Numbering
    target: StoredArray  # uint64 (D, H, W)

    def __call__(self, block: Block) -> dict[str, int]:
        """Look every fragment up; background stays 0."""
        fragments = self.fragments.read(block.core)
        start, stop = self.numbering.starts[block.index : block.index + 2]
        segments = np.zeros(int(stop - start) + 1, np.uint64)
        segments[1:] = np.load(self.table, mmap_mode="r")[start:stop]
        first = np.uint64(block.index * self.numbering.voxels_per_block)
        local = np.where(fragments == 0, np.uint64(0), fragments - first)
        self.target.write(block.core, segments[local])
        return {}


@dataclass(frozen=True)
class LevelStage:
    """Writes a block of a level from ``finer``, uint64 and complete, which is twice as fine."""

    finer: StoredArray
    finer_shape: Size3
    target: StoredArray

    def __call__(self, block: Block) -> dict[str, int]:
        """Halve what lies there."""
        z, y, x = (
            slice(2 * part.start, min(2 * part.stop, size))
            for part, size in zip(block.core, self.finer_shape, strict=True)
        )
        self.target.write(block.core, halved_mode(self.finer.read((z, y, x))))
        return {}


@njit(nogil=True, cache=True)
def halved_mode(labels: _UInt64) -> _UInt64:
    """The most frequent id of each 2×2×2 voxels, half the size, rounded up; of several the first.

    Along an odd axis the last voxels have fewer beside them.
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


def _plane(core: Box, axis: int, index: int) -> tuple[slice | int, ...]:
    """One plane of a core, or beside it."""
    return tuple(index if a == axis else part for a, part in enumerate(core))


def _file(folder: Path, index: int) -> Path:
    """The arrays of a block."""
    return folder / f"{index}.npz"


def _write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a .npz that appears whole."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's own keyword
