"""What scripts/segment.py writes (``psc.blockwise.pipeline``) as layers to look at.

Voxels stay on disk, and are read where somebody looks: the volume may be larger than memory.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from psc.blockwise import stores
from psc.blockwise.volumes import open_volume
from psc.blockwise.zarr_volume import ZarrVolume
from psc.errors import ConfigError, DataError
from psc.viewing.layers import AFFINITIES, FRAGMENTS, RAW, SEGMENTATION, Layer, Scene

__all__ = ["is_blockwise_output", "open_blockwise_output"]

_SUMMARY, _FINEST = "summary.json", "0"


def is_blockwise_output(folder: Path) -> bool:
    """Whether a folder holds what scripts/segment.py writes, finished or not."""
    return any((folder / name).exists() for name in (stores.AFFINITIES, stores.SEGMENTATION))


def open_blockwise_output(folder: Path, raw: Path | None, raw_key: str | None) -> Scene:
    """Open an output without reading its voxels.

    Args:
        folder: of the output.
        raw: the volume that was segmented, as its ``input`` was; None to do without.
        raw_key: the dataset within it, where it is not recognised.

    Raises:
        DataError: the output is unfinished or damaged, or ``raw`` is of another shape.
        ConfigError: as ``psc.blockwise.volumes.open_volume``.
    """
    try:
        summary = json.loads((folder / _SUMMARY).read_text())
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not finished (it has no {_SUMMARY}); start the same scripts/segment.py"
            " again, it goes on where it was"
        ) from None
    except ValueError as error:
        raise DataError(f"{folder / _SUMMARY} is damaged ({error}); segment again") from error
    layers: dict[str, Layer] = {}
    if raw is not None:
        layers[RAW] = Layer(RAW, "grey", open_volume(raw, raw_key))
    layers[AFFINITIES] = Layer(
        AFFINITIES, "affinities", _StoredAffinities(_array(folder, stores.AFFINITIES))
    )
    layers[FRAGMENTS] = Layer(FRAGMENTS, "labels", _array(folder, stores.FRAGMENTS))
    layers[SEGMENTATION] = Layer(SEGMENTATION, "labels", _array(folder, stores.SEGMENTATION))
    shape = layers[SEGMENTATION].voxels.shape
    if raw is not None and layers[RAW].voxels.shape != shape:
        raise ConfigError(
            f"raw={raw} has {layers[RAW].voxels.shape} voxels and {folder} {shape}; give the volume"
            " that was segmented"
        )
    return Scene(
        title=folder.resolve().name,
        path=folder,
        layers=layers,
        voxel_size=ZarrVolume(folder / stores.SEGMENTATION, missing_chunks="fill").voxel_size,
        facts={name: str(value) for name, value in summary.items()},
    )


class _Stored:
    """An array of the output; an unreadable chunk says which file it is of."""

    def __init__(self, path: Path, array: Any) -> None:
        self._path, self._array = path, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        try:
            return np.asarray(self._array[index])
        except Exception as error:  # codecs raise what they like
            raise DataError(
                f"{self._path} is damaged at {index} ({error}); segment again with overwrite=true"
            ) from error


class _StoredAffinities:
    """Stored 0..255 as affinities in [0, 1]."""

    dtype = np.dtype(np.float32)

    def __init__(self, stored: _Stored) -> None:
        self._stored, self.shape = stored, stored.shape

    def __getitem__(self, index: Any, /) -> npt.NDArray[np.float32]:
        return stores.dequantised(self._stored[index])


def _array(folder: Path, name: str) -> _Stored:
    path = folder / name / _FINEST
    try:
        array = zarr.open_array(str(path), mode="r")
    except Exception as error:  # zarr has a dozen ways to say it
        raise DataError(
            f"{path} is missing or damaged ({error}); segment again with overwrite=true"
        ) from error
    return _Stored(path, array)
