"""A dataset of an HDF5 file, read box by box."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from psc.blockwise.leading_axes import volume_axes
from psc.datasets.hdf5 import attribute_vector, datasets_in, find_key, list_datasets
from psc.errors import DataError
from psc.tiling import Size3

_RECOGNISED = ("volumes/raw", "raw", "stack", "main")


class HDF5Volume:
    """See ``psc.blockwise.volumes.LazyVolume``.

    Args:
        path: the file.
        key: the dataset; None = one of CREMI's, FIB-25's or gala's names.

    Raises:
        DataError: the file or the dataset is missing, damaged or no volume.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        present = datasets_in(path)
        key = key or find_key(path, _RECOGNISED, "input_key")
        if key is None or key not in present:
            found = "no dataset of a known name" if key is None else f"no dataset {key!r}"
            raise DataError(f"{path} has {found}; set input_key to one of {list_datasets(path)}")
        self._path, self._key = path, key
        self._file: h5py.File | None = None
        dataset = self._dataset()
        where = f"{path} ({key})"
        self._leading, self.shape = volume_axes(dataset.shape, where)
        self.dtype: np.dtype[Any] = np.dtype(dataset.dtype).newbyteorder("=")
        self.voxel_size = attribute_vector(dict(dataset.attrs), "resolution", where)

    shape: Size3

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a box.

        Raises:
            DataError: the file is damaged there.
        """
        box = index[1:] if isinstance(index, tuple) and index[0] is Ellipsis else index
        try:
            values = self._dataset()[(*(0,) * self._leading, *box)]
        except OSError as error:
            raise DataError(
                f"{self._path} ({self._key}) cannot be read at {box} ({error}); copy or download"
                " it again"
            ) from error
        return np.asarray(values, dtype=self.dtype)

    def _dataset(self) -> Any:
        if self._file is None:
            self._file = h5py.File(self._path, "r")
        return self._file[self._key]

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, which belongs to one process."""
        return self.__dict__ | {"_file": None}
