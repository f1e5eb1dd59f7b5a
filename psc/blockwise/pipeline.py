"""Segment a volume block by block: the steps, what they need of each other, and where they write.

An output folder holds ``affinities.zarr``, ``fragments.zarr`` and ``segmentation.zarr`` (OME-Zarr,
see ``psc.blockwise.images``), ``summary.json`` once all is done (what was segmented, by what, and
how many segments there are), ``blockwise.json`` (inputs and options of every stage), and ``work/``:
markers of finished blocks, region graphs, and the table from fragments to segments. ``work/`` may
be removed afterwards; without it a change of options begins with the affinities again.

A fragment id is unique over the volume: block index · voxels of a block + 1, 2, ….
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.blockwise.engine import Engine, Ledger, Stage, disk_errors
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
from psc.blockwise.grid import Block, Box, Grid, chunk_size, within
from psc.blockwise.images import (
    AFFINITIES,
    FRAGMENTS,
    SEGMENTATION,
    StoredArray,
    create_image,
    dequantised,
    quantised,
)
from psc.em.labels import relabel_consecutive
from psc.em.settings import SegmentationConfig
from psc.em.watershed import fragments_of
from psc.errors import ConfigError, DataError
from psc.files import holder, replacing, try_lock
from psc.volumes.metadata import Triple, size3

_Float32 = npt.NDArray[np.float32]
_UInt64 = npt.NDArray[np.uint64]
_VERSION = 1  # raise it whenever the same inputs and options give other results
_GRAPHS, _PLANES, _TABLE = "work/graph", "work/planes", "work/segments.npy"


@dataclass(frozen=True, kw_only=True)
class BlockwiseOptions:
    """How to segment."""

    segmentation: SegmentationConfig  # fragments and scoring; its thresholds are not used
    threshold: float  # of the agglomeration, a score 1 - affinity
    context: int = 16
    """Voxels around a block from which its fragments are made. More than the radius of the thickest
    process makes them those of the whole volume."""
    levels: int = 4  # of the segmentation's pyramid, each half as fine; at least 1

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must lie in [0, 1]")
        if self.context < 1 or self.levels < 1:
            raise ConfigError(f"context={self.context} and levels={self.levels} must be at least 1")


@dataclass(frozen=True)
class Result:
    """What was written."""

    folder: Path
    affinities: StoredArray  # uint8 (3, D, H, W)
    fragments: StoredArray  # uint64 (D, H, W)
    segmentation: list[StoredArray]  # its levels, uint64, the finest first
    counts: dict[str, int]
    """Fragments, joined (fragments that continue one of another block), edges, segments."""


@dataclass(frozen=True)
class Job:
    """A segmentation's steps, each a function of one block that reads, computes and writes.

    Affinities, by a network that sees context around the block; fragments, made with context and
    cut to the core; the region graph of the block's faces, and which fragments continue in the
    blocks before; from the graphs of all blocks the segment of every fragment, in one process; the
    segmentation, and its coarser levels. What is returned are numbers to report (``Work``).
    """

    folder: Path
    grids: Sequence[Grid]  # of the levels
    options: BlockwiseOptions
    affinities_of: Callable[[Box], _Float32]  # (3, D, H, W) in [0, 1] of a box
    affinities: StoredArray  # uint8 (3, D, H, W)
    fragments: StoredArray  # uint64 (D, H, W)
    segmentation: Sequence[StoredArray]  # its levels, uint64 (D, H, W)

    def write_affinities(self, block: Block) -> dict[str, int]:
        """As 0..255; refuse what are no three affinities in [0, 1] for each voxel."""
        affinities = self.affinities_of(block.core)
        lowest, highest = affinities.min(), affinities.max()
        if affinities.shape != (3, *block.shape) or not (lowest >= 0 and highest <= 1):
            raise DataError(
                f"{block}: expected affinities (3, {', '.join(map(str, block.shape))}) in [0, 1],"
                f" the network gave {affinities.shape} from {lowest:g} to {highest:g}; look for NaN"
                " in its weights and in the volume"
            )
        self.affinities.write(block.core, quantised(affinities))
        return {}

    def write_fragments(self, block: Block) -> dict[str, int]:
        """With the block's view of the planes next to its core.

        The latter are arrays uint64 named "before" or "after" and the axis, of the core's shape
        without that axis; 0 where a fragment does not reach into the core. Missing at the volume's
        border.
        """
        grid, context = self.grids[0], self.options.context
        box = grid.extended(block, context, context)
        affinities = dequantised(self.affinities.read(box))
        fragments = fragments_of(affinities, self.options.segmentation)
        core = within(block.core, box)
        local, originals = relabel_consecutive(fragments[core])
        numbers = np.zeros(originals.size, dtype=np.uint64)  # background stays 0
        numbers[1:] = np.arange(1, originals.size, dtype=np.uint64)
        numbers[1:] += np.uint64(block.index * grid.voxels_per_block)
        ids = np.zeros(int(fragments.max()) + 1, dtype=np.uint64)
        ids[originals] = numbers
        seen = {}
        for axis in range(3):
            for side, index in (("before", core[axis].start - 1), ("after", core[axis].stop)):
                if 0 <= index < fragments.shape[axis]:
                    seen[f"{side}{axis}"] = ids[fragments[_plane(core, axis, index)]]
        self._write(_PLANES, block, seen)
        self.fragments.write(block.core, numbers[local])
        return {"fragments": originals.size - 1}

    def write_graph(self, block: Block) -> dict[str, int]:
        """Of the block's faces, with the fragments that continue in the blocks before."""
        box = self.grids[0].extended(block, 1, 0)
        fragments, core = self.fragments.read(box), within(block.core, box)
        start = size3(part.start for part in core)
        graph = region_graph(self.affinities.read(box), fragments, start)
        joined = [self._joined(block, fragments, core, axis) for axis in range(3)]
        self._write(_GRAPHS, block, {**graph._asdict(), "joined": np.concatenate(joined)})
        return {"pairs": len(graph.pairs), "entries": graph.values.size}

    def _joined(self, block: Block, fragments: _UInt64, core: Box, axis: int) -> _UInt64:
        """Fragments of the block before along an axis that continue in this one."""
        before = self.grids[0].predecessor(block, axis)
        if before is None:
            return np.empty((0, 2), dtype=np.uint64)
        with self._arrays(_PLANES, block.index) as ours:
            this_before = ours[f"before{axis}"]
        with self._arrays(_PLANES, before.index) as theirs:
            that_after = theirs[f"after{axis}"]
        first = core[axis].start
        that_last = fragments[_plane(core, axis, first - 1)]
        this_first = fragments[_plane(core, axis, first)]
        return joined_pairs(np.stack([that_last, that_after]), np.stack([this_before, this_first]))

    def write_table(
        self, numbering: Numbering, reports: Mapping[int, Mapping[str, int]]
    ) -> dict[str, int]:
        """Segment ids uint64 (N) by fragment, of the whole volume; ``reports``: of the graphs."""
        scoring = self.options.segmentation.scoring

        def graphs() -> Iterator[Mapping[str, npt.NDArray[Any]]]:
            for index in sorted(reports):
                with self._arrays(_GRAPHS, index) as arrays:
                    yield arrays

        roots = joined_roots(
            numbering.fragments, (numbering.positions(arrays["joined"]) for arrays in graphs())
        )
        graph = assemble(
            roots,
            (
                BlockGraph(
                    numbering.positions(arrays["pairs"]),
                    *(arrays[name] for name in BlockGraph._fields[1:]),
                )
                for arrays in graphs()
            ),
            edges=sum(report["pairs"] for report in reports.values()),
            entries=sum(report["entries"] for report in reports.values()),
            histograms=needs_histograms(scoring),
        )
        edges = int(graph.sizes[0])
        ((_, segments),) = merge_regions(graph, roots, [self.options.threshold], scoring)
        with replacing(self.folder / _TABLE) as unfinished, unfinished.open("wb") as file:
            np.save(file, segments)
        return {
            "fragments": numbering.fragments,
            "joined": int(np.count_nonzero(roots != np.arange(roots.size))),
            "edges": edges,
            "segments": int(segments.max(initial=0)),
        }

    def write_segmentation(self, numbering: Numbering, block: Block) -> dict[str, int]:
        """Look every fragment up, of the table the block's part only; background stays 0."""
        fragments = self.fragments.read(block.core)
        start, stop = numbering.starts[block.index : block.index + 2]
        segments = np.zeros(int(stop - start) + 1, np.uint64)
        segments[1:] = np.load(self.folder / _TABLE, mmap_mode="r")[start:stop]
        first = np.uint64(block.index * numbering.voxels_per_block)
        local = np.where(fragments == 0, np.uint64(0), fragments - first)
        self.segmentation[0].write(block.core, segments[local])
        return {}

    def write_level(self, number: int, block: Block) -> dict[str, int]:
        """A block of a level from the one before, which is twice as fine.

        Chunk by chunk of the file: of the finer level this is eight blocks, too many at once.
        """
        finer, coarser = self.grids[number - 1], self.grids[number]
        for chunk in Grid(block.shape, chunk_size(coarser.core)):
            z, y, x = (
                slice(whole.start + part.start, whole.start + part.stop)
                for whole, part in zip(block.core, chunk.core, strict=True)
            )
            a, b, c = (
                slice(2 * part.start, min(2 * part.stop, size))
                for part, size in zip((z, y, x), finer.shape, strict=True)
            )
            fine = self.segmentation[number - 1].read((a, b, c))
            self.segmentation[number].write((z, y, x), halved_mode(fine))
        return {}

    def _write(self, place: str, block: Block, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a block's arrays to a .npz that appears whole."""
        path = self.folder / place / f"{block.index}.npz"
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's own keyword

    def _arrays(self, place: str, index: int) -> Any:
        return np.load(self.folder / place / f"{index}.npz")


def _plane(core: Box, axis: int, index: int) -> tuple[slice | int, ...]:
    """One plane of a core, or beside it."""
    return tuple(index if a == axis else part for a, part in enumerate(core))


def halved_mode(labels: _UInt64) -> _UInt64:
    """The most frequent id of each 2×2×2 voxels, half the size, rounded up; of several the first.

    Along an odd axis the last voxels count twice, all of them.
    """
    padded = np.pad(labels, [(0, size % 2) for size in labels.shape], mode="edge")
    voxels = np.stack([padded[z::2, y::2, x::2] for z, y, x in np.ndindex(2, 2, 2)])
    votes = np.stack([(voxels == one).sum(axis=0, dtype=np.uint8) for one in voxels])
    halved: _UInt64 = np.take_along_axis(voxels, votes.argmax(axis=0)[np.newaxis], axis=0)[0]
    return halved


def segment_blockwise(
    affinities_of: Callable[[Box], npt.NDArray[np.float32]],
    source: dict[str, Any],
    grid: Grid,
    options: BlockwiseOptions,
    folder: Path,
    *,
    engine: Engine,
    voxel_size: Triple | None = None,
    offset: Triple | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Result:
    """Segment a volume, or go on where an earlier call was interrupted.

    ``affinities_of`` gives float32 (3, D, H, W) in [0, 1] of the core of any block and can be
    pickled. Plain values: ``source``, what affinities depend on (volume, network, tiles), results
    of another are not mixed with these; ``facts``, for ``summary.json``. Voxel size and offset of
    the first voxel, (z, y, x) in nm, are for the metadata; ``overwrite``: see ``Ledger.open``.
    """
    folder = folder.resolve()
    grids = [grid]  # of the levels, down to one block
    while len(grids) < options.levels and len(grids[-1]) > 1:
        grids.append(grids[-1].half_as_fine())
    place = {"voxel_size": voxel_size, **({} if offset is None else {"offset": offset})}
    lock_file = folder.with_name(f".{folder.name}.lock")
    lock = try_lock(lock_file)
    if lock is None:
        raise ConfigError(f"output={folder}: {holder(lock_file)} is at work there; wait for it")
    with lock, disk_errors():
        ledger = Ledger(folder)
        ledger.open(_stages(source | place, grids, options), overwrite=overwrite)

        images: dict[str, Any] = {"voxel_size": voxel_size, "offset": offset}
        (affinities,) = create_image(folder / AFFINITIES, [grid], np.uint8, channels=3, **images)
        (fragments,) = create_image(folder / FRAGMENTS, [grid], np.uint64, label=True, **images)
        levels = create_image(folder / SEGMENTATION, grids, np.uint64, label=True, **images)
        job = Job(folder, grids, options, affinities_of, affinities, fragments, levels)
        counts = _run(job, ledger, engine)
        size = {"blocks": len(grid), "block": list(grid.core)}
        ledger.finish({**(facts or {}), **size, **counts})
        return Result(folder, affinities, fragments, levels, counts)


def _run(job: Job, ledger: Ledger, engine: Engine) -> dict[str, int]:
    """Every step that is not done; returns what the agglomeration reported."""
    blocks = list(job.grids[0])
    engine.run("affinities", job.write_affinities, blocks, ledger)
    engine.run("fragments", job.write_fragments, blocks, ledger)
    found = {i: report["fragments"] for i, report in ledger.done("fragments").items()}
    numbering = Numbering.of_counts(found, job.grids[0].voxels_per_block)
    engine.run("graph", job.write_graph, blocks, ledger)
    if not ledger.has("agglomeration", 0):
        ledger.mark("agglomeration", 0, job.write_table(numbering, ledger.done("graph")))
    engine.run("segmentation", partial(job.write_segmentation, numbering), blocks, ledger)
    for number in range(1, len(job.grids)):
        level = partial(job.write_level, number)
        engine.run(f"level-{number}", level, list(job.grids[number]), ledger)
    return ledger.done("agglomeration")[0]


def _stages(source: dict[str, Any], grids: list[Grid], options: BlockwiseOptions) -> list[Stage]:
    """What each stage's result depends on, for the ledger."""
    fragments = asdict(options.segmentation) | {"context": options.context}
    for key in ("thresholds", "tile_input", "batch_size"):  # not of a segmentation's result
        del fragments[key]
    merging = {"scoring": fragments.pop("scoring"), "threshold": options.threshold}
    geometry = {"version": _VERSION, "volume": grids[0].shape, "block": grids[0].core}
    return [
        Stage("affinities", {**geometry, **source}, (AFFINITIES, f"{AFFINITIES}/0")),
        Stage("fragments", fragments, (FRAGMENTS, f"{FRAGMENTS}/0", _PLANES)),
        Stage("graph", {}, (_GRAPHS,)),
        Stage("agglomeration", merging, (_TABLE,)),
        Stage("segmentation", {"levels": len(grids)}, (SEGMENTATION, f"{SEGMENTATION}/0")),
        *(Stage(f"level-{n}", {}, (f"{SEGMENTATION}/{n}",)) for n in range(1, len(grids))),
    ]
