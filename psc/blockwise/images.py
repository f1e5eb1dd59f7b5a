"""The arrays of an output: OME-Zarr 0.5 (Zarr v3), chunks that no two blocks share.

``affinities.zarr/0`` is uint8 (3, D, H, W), affinity = value / 255; ``fragments.zarr/0`` and
``segmentation.zarr/0``, ``/1``, … are uint64 (D, H, W), each level half as fine as the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from psc.blockwise.grid import Box, Grid, chunk_size
from psc.volumes.metadata import Triple

AFFINITIES = "affinities.zarr"
FRAGMENTS = "fragments.zarr"
SEGMENTATION = "segmentation.zarr"
_OME_VERSION = "0.5"


def quantised(affinities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Affinities in [0, 1] as 0..255, rounded to the nearest: wrong by 1/510 at most."""
    stored: npt.NDArray[np.uint8] = np.rint(affinities * np.float32(255)).astype(np.uint8)
    return stored


def dequantised(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The affinities that 0..255 stand for."""
    return stored.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class StoredArray:
    """An array of an image, opened anew in each process; the last three axes are z, y, x."""

    folder: Path
    level: str = "0"

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box, all channels."""
        return np.asarray(self._open("r")[(..., *box)])

    def write(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Write the voxels of a box that consists of whole chunks."""
        self._open("r+")[(..., *box)] = values

    def _open(self, mode: str) -> Any:
        return zarr.open_array(str(self.folder / self.level), mode=mode)


def create_image(
    folder: Path,
    grids: Sequence[Grid],
    dtype: type[np.unsignedinteger[Any]],
    *,
    voxel_size: Triple | None,
    offset: Triple | None = None,
    channels: int | None = None,
    label: bool = False,
) -> list[StoredArray]:
    """Make an OME-Zarr image of zeros, and return its levels; what exists already stays as it is.

    ``grids`` are those of the levels, each half as fine as the one before; ``voxel_size`` and
    ``offset`` of the finest, in nm, None where unknown; ``channels`` None is no channel axis;
    ``label`` says that values are ids.
    """
    axes: list[dict[str, str]] = [] if channels is None else [{"name": "c", "type": "channel"}]
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    axes += [{"name": name, "type": "space", **unit} for name in "zyx"]
    leading = () if channels is None else (channels,)
    levels, datasets = [], []
    for number, grid in enumerate(grids):
        level = StoredArray(folder, str(number))
        if not (folder / level.level / "zarr.json").exists():
            zarr.create_array(
                str(folder / level.level),
                shape=(*leading, *grid.shape),
                chunks=(*leading, *chunk_size(grid.core)),
                dtype=dtype,
                fill_value=0,
                dimension_names=[axis["name"] for axis in axes],
            )
        levels.append(level)
        finest, factor = voxel_size or (1.0, 1.0, 1.0), 2**number
        scale = [1.0] * len(leading) + [size * factor for size in finest]
        # The centre of a coarse voxel is that of the 2**number finest ones along each axis.
        first = offset or (0.0, 0.0, 0.0)
        shift = [a + size * (factor - 1) / 2 for a, size in zip(first, finest, strict=True)]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(shift):
            steps.append({"type": "translation", "translation": [0.0] * len(leading) + shift})
        datasets.append({"path": level.level, "coordinateTransformations": steps})
    multiscale: dict[str, Any] = {"name": folder.stem, "axes": axes, "datasets": datasets}
    if len(levels) > 1:
        multiscale["type"] = "mode"
    ome: dict[str, Any] = {"version": _OME_VERSION, "multiscales": [multiscale]}
    if label:
        ome["image-label"] = {"version": _OME_VERSION}
    if not (folder / "zarr.json").exists():  # last: with it the image is whole
        zarr.create_group(str(folder), attributes={"ome": ome})
    return levels
