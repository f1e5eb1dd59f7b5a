"""Grey values of a volume that stays on disk: HDF5, Zarr (v2 and v3) or a stack of images.

Every kind is an object with a shape (D, H, W) and a dtype that slices like an array and reads only
what is asked for. It can be pickled: each process opens the file for itself.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psc.blockwise.hdf5_volume import HDF5Volume
from psc.blockwise.image_stack import ImageStack, stack_slices
from psc.blockwise.zarr_volume import MissingChunks, ZarrVolume
from psc.errors import ConfigError, DataError
from psc.tiling import Size3

__all__ = ["LazyVolume", "fingerprint", "open_volume"]

_SAMPLE = 32  # voxels along each axis of what is compared of a volume


class LazyVolume(Protocol):
    """A volume on disk."""

    @property
    def shape(self) -> Size3:
        """Voxels along z, y, x."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the grey values."""

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """(z, y, x) in nm; None if the file does not say."""

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a box: slices along z, y, x without steps."""


def open_volume(
    path: Path, key: str | None = None, *, missing_chunks: MissingChunks = "refuse"
) -> LazyVolume:
    """Open a volume without reading its voxels.

    Args:
        path: an HDF5 file, a Zarr folder (also OME-Zarr), or a folder of PNG or TIFF slices.
        key: name of the dataset in HDF5 or Zarr, where it is not recognised.
        missing_chunks: what a chunk of a Zarr array means that is not there: "fill" = the array's
            fill value, as writers leave out empty chunks; "refuse" = an incomplete copy.

    Returns:
        The volume.

    Raises:
        DataError: it is missing, damaged or not a volume of grey values.
        ConfigError: a key is given for images, or ``missing_chunks`` is unknown.
    """
    if missing_chunks not in ("fill", "refuse"):
        raise ConfigError(f"missing_chunks={missing_chunks}: allowed are fill, refuse")
    path = path.resolve()
    volume: LazyVolume
    if path.is_dir() and any(_is_zarr(folder) for folder in (path, *path.parents)):
        volume = ZarrVolume(path, key, missing_chunks)
    elif path.is_dir():
        if key is not None:
            raise ConfigError(f"input_key={key}, but {path} is a folder of images; leave it out")
        volume = ImageStack(stack_slices(path))
    else:
        volume = HDF5Volume(path, key)
    if volume.dtype.kind not in "uif":
        raise DataError(f"{path} holds {volume.dtype}; grey values must be integers or floats")
    return volume


def fingerprint(volume: LazyVolume) -> dict[str, Any]:
    """What tells one volume from another: shape, dtype, and the voxels of nine small boxes.

    The path is no part of it, so that a volume may be moved; reading all of it would take as long
    as segmenting it.
    """
    digest = hashlib.sha256()
    starts = [sorted({0, max(0, (n - _SAMPLE) // 2), max(0, n - _SAMPLE)}) for n in volume.shape]
    corners = [(z, y, x) for z in starts[0][::2] for y in starts[1][::2] for x in starts[2][::2]]
    middle = (starts[0][len(starts[0]) // 2], starts[1][len(starts[1]) // 2])
    for z, y, x in [*corners, (*middle, starts[2][len(starts[2]) // 2])]:
        box = (slice(z, z + _SAMPLE), slice(y, y + _SAMPLE), slice(x, x + _SAMPLE))
        clipped = tuple(
            slice(s.start, min(s.stop, n)) for s, n in zip(box, volume.shape, strict=True)
        )
        digest.update(np.ascontiguousarray(volume[clipped]).tobytes())
    return {
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxels": digest.hexdigest(),
    }


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))
