"""Second stage: fragments of every block, computed with context and cut to the core.

A fragment id is unique over the volume: block index · voxels of a block + 1, 2, …. What a block saw
one voxel outside its core is kept beside them, for ``psc.blockwise.joining``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.blockwise.grid import Block, Grid, within
from psc.blockwise.stores import StoredArray, dequantised
from psc.segmentation.fragments import seeded_watershed, waterz_watershed
from psc.segmentation.labels import relabel_consecutive
from psc.segmentation.pipeline import SegmentationOptions

__all__ = ["FragmentStage", "make_fragments", "outside_planes", "write_arrays"]

_UInt64 = npt.NDArray[np.uint64]


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
