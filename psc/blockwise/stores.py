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

__all__ = [
    "AFFINITIES",
    "FRAGMENTS",
    "SEGMENTATION",
    "StoredArray",
    "create_image",
    "dequantised",
    "quantised",
]

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
    voxel_size: tuple[float, float, float] | None,
    channels: int | None = None,
    label: bool = False,
) -> list[StoredArray]:
    """Make an OME-Zarr image of zeros; what exists of it already is left as it is.

    Args:
        folder: of the image.
        grids: of each level, the finest first; each level is half as fine as the one before.
        dtype: of its values.
        voxel_size: (z, y, x) in nm; None where it is unknown.
        channels: number of channels, None for no channel axis.
        label: whether values are ids.

    Returns:
        The levels.
    """
    axes: list[dict[str, str]] = [] if channels is None else [{"name": "c", "type": "channel"}]
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    axes += [{"name": name, "type": "space", **unit} for name in "zyx"]
    leading = () if channels is None else (channels,)
    levels = []
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
    finest = voxel_size or (1.0, 1.0, 1.0)
    datasets = [
        {
            "path": level.level,
            "coordinateTransformations": _transformations(finest, i, len(leading)),
        }
        for i, level in enumerate(levels)
    ]
    multiscale = {
        "name": folder.stem,
        "axes": axes,
        "datasets": datasets,
        **({"type": "mode"} if len(levels) > 1 else {}),
    }
    ome: dict[str, Any] = {"version": _OME_VERSION, "multiscales": [multiscale]}
    if label:
        ome["image-label"] = {"version": _OME_VERSION}
    if not (folder / "zarr.json").exists():  # last: with it the image is whole
        zarr.create_group(str(folder), attributes={"ome": ome})
    return levels


def _transformations(
    voxel_size: tuple[float, float, float], level: int, leading: int
) -> list[dict[str, Any]]:
    """Scale of a level, and where its first voxel's centre lies beside that of the finest one."""
    factor = 2**level
    scale = [1.0] * leading + [size * factor for size in voxel_size]
    shift = [0.0] * leading + [size * (factor - 1) / 2 for size in voxel_size]
    translation = [{"type": "translation", "translation": shift}] if level else []
    return [{"type": "scale", "scale": scale}, *translation]
