"""Segment a volume block by block: the stages, what they need of each other, and where they write.

An output folder holds ``affinities.zarr``, ``fragments.zarr`` and ``segmentation.zarr`` (OME-Zarr,
see ``psc.blockwise.images``), ``summary.json`` once all is done (what was segmented, by what, and
how many segments there are), ``blockwise.json`` (inputs and options of every stage), and ``work/``:
markers of finished blocks, region graphs, and the table from fragments to segments. ``work/`` may
be removed afterwards; without it a change of options begins with the affinities again.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.blockwise.engine import Engine, Ledger, Stage, disk_errors
from psc.blockwise.graph import Numbering
from psc.blockwise.grid import Box, Grid
from psc.blockwise.images import AFFINITIES, FRAGMENTS, SEGMENTATION, StoredArray, create_image
from psc.blockwise.stages import (
    AffinityStage,
    AgglomerationStage,
    FragmentStage,
    GraphStage,
    LevelStage,
    RelabelStage,
)
from psc.em.settings import SegmentationOptions
from psc.errors import ConfigError
from psc.files import holder, try_lock
from psc.volumes.metadata import Triple

_VERSION = 1  # raise it whenever the same inputs and options give other results
_GRAPHS, _PLANES, _TABLE = "work/graph", "work/planes", "work/segments.npy"


@dataclass(frozen=True, kw_only=True)
class BlockwiseOptions:
    """How to segment."""

    segmentation: SegmentationOptions  # fragments and scoring; its thresholds are not used
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

    Args:
        affinities_of: float32 (3, D, H, W) in [0, 1] of the core of any block; can be pickled.
        source: what the affinities depend on (volume, network, tiles), plain values. Results of
            another source are not mixed with these.
        grid: blocks of the volume.
        options: how to segment.
        folder: where to write.
        engine: where blocks are worked on.
        voxel_size: (z, y, x) in nm, for the metadata.
        offset: where the first voxel lies, (z, y, x) in nm, for the metadata.
        facts: where the result is from, for ``summary.json``; plain values.
        overwrite: see ``psc.blockwise.engine.Ledger.open``.

    Returns:
        What was written.

    Raises:
        ConfigError: the folder holds something else or is complete, without ``overwrite``; or
            another process is at work in it.
        DataError: as ``psc.blockwise.engine.Engine.run``.
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

        def image(name: str, grids: list[Grid], dtype: Any, **kind: Any) -> list[StoredArray]:
            kind |= {"voxel_size": voxel_size, "offset": offset}
            return create_image(folder / name, grids, dtype, **kind)

        result = _run(affinities_of, grids, options, ledger, engine, image)
        size = {"blocks": len(grid), "block": list(grid.core)}
        ledger.finish({**(facts or {}), **size, **result.counts})
        return result


def _run(
    affinities_of: Callable[[Box], npt.NDArray[np.float32]],
    grids: list[Grid],
    options: BlockwiseOptions,
    ledger: Ledger,
    engine: Engine,
    image: Callable[..., list[StoredArray]],
) -> Result:
    folder, grid, blocks = ledger.folder, grids[0], list(grids[0])
    (affinities,) = image(AFFINITIES, [grid], np.uint8, channels=3)
    engine.run("affinities", AffinityStage(affinities_of, affinities), blocks, ledger)

    (fragments,) = image(FRAGMENTS, [grid], np.uint64, label=True)
    planes, graphs, table = folder / _PLANES, folder / _GRAPHS, folder / _TABLE
    fragment_stage = FragmentStage(
        grid, affinities, fragments, planes, options.segmentation, options.context
    )
    engine.run("fragments", fragment_stage, blocks, ledger)
    counts = {i: report["fragments"] for i, report in ledger.done("fragments").items()}
    numbering = Numbering.of_counts(counts, grid.voxels_per_block)

    engine.run("graph", GraphStage(grid, affinities, fragments, planes, graphs), blocks, ledger)

    if not (report := ledger.done("agglomeration")):
        agglomeration = AgglomerationStage(
            graphs, numbering, options.segmentation.scoring, options.threshold, table
        )
        report = {0: agglomeration(ledger.done("graph"))}
        ledger.mark("agglomeration", 0, report[0])

    levels = image(SEGMENTATION, grids, np.uint64, label=True)
    relabel = RelabelStage(fragments, table, numbering, levels[0])
    engine.run("segmentation", relabel, blocks, ledger)
    for number in range(1, len(grids)):
        level = LevelStage(levels[number - 1], grids[number - 1].shape, levels[number])
        engine.run(f"level-{number}", level, list(grids[number]), ledger)
    return Result(folder, affinities, fragments, levels, report[0])


def _stages(source: dict[str, Any], grids: list[Grid], options: BlockwiseOptions) -> list[Stage]:
    """What each stage's result depends on, for the ledger."""
    fragments = asdict(options.segmentation) | {"context": options.context}
    del fragments["thresholds"]
    merging = {"scoring": fragments.pop("scoring"), "threshold": options.threshold}
    geometry = {"version": _VERSION, "volume": grids[0].shape, "block": grids[0].core}
    return [
        Stage("affinities", {**geometry, **source}, (AFFINITIES,)),
        Stage("fragments", fragments, (FRAGMENTS, _PLANES)),
        Stage("graph", {}, (_GRAPHS,)),
        Stage("agglomeration", merging, (_TABLE,)),
        Stage("segmentation", {"levels": len(grids)}, (SEGMENTATION,)),
        *(Stage(f"level-{number}") for number in range(1, len(grids))),
    ]
