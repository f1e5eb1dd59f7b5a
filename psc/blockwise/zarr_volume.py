"""A Zarr array (v2 or v3), plain or in an OME-Zarr group, read box by box."""

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from psc.blockwise.leading_axes import volume_axes
from psc.errors import DataError
from psc.tiling import Size3

MissingChunks = Literal["fill", "refuse"]

_NANOMETRES = {"nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "angstrom": 0.1}
_RECOGNISED = ("volumes/raw", "raw", "0", "s0")


class ZarrVolume:
    """See ``psc.blockwise.volumes.LazyVolume``.

    Args:
        path: the folder of an array or a group.
        key: the array within a group; None = the finest level of OME-Zarr, else a known name.
        missing_chunks: see ``psc.blockwise.volumes.open_volume``. Where chunks lie in shards, it
            is shards that are missed.

    Raises:
        DataError: there is no such array, its metadata are damaged, or it is no volume.
    """

    def __init__(
        self, path: Path, key: str | None = None, missing_chunks: MissingChunks = "refuse"
    ) -> None:
        self._path, self._missing_chunks = path, missing_chunks
        self.voxel_size: tuple[float, float, float] | None = None
        try:
            node: Any = zarr.open(str(path), mode="r")
        except Exception as error:  # zarr has a dozen ways to say it
            raise DataError(f"{path} is not readable as Zarr ({error}); copy it again") from error
        name = ""
        if isinstance(node, zarr.Group):
            name = key or self._choose(node)
            try:
                array: Any = node[name]
            except KeyError:
                array = None
            self._read_voxel_size(node, name)
        else:
            array = node
        if not isinstance(array, zarr.Array):
            names = [name for name, _ in node.arrays()]
            raise DataError(f"{path} has no array {name!r}; set input_key to one of {names}")
        self._array: Any = array
        self._folder = path / name if name else path
        self._leading, self.shape = volume_axes(array.shape, str(self._folder))
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")

    shape: Size3

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a box.

        Raises:
            DataError: a chunk is damaged, or missing where that is refused.
        """
        box = index[1:] if isinstance(index, tuple) and index[0] is Ellipsis else index
        if self._missing_chunks == "refuse":
            self._require_chunks(box)
        try:
            values = self._array[(*(0,) * self._leading, *box)]
        except Exception as error:  # codecs raise what they like
            raise DataError(
                f"{self._folder} is damaged at {box} ({error}); copy that chunk again"
            ) from error
        return np.asarray(values, dtype=self.dtype)

    def _require_chunks(self, box: tuple[slice, slice, slice]) -> None:
        stored = self._array.shards or self._array.chunks
        ranges = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(box, stored[self._leading :], strict=True)
        ]
        for coordinates in itertools.product(*ranges):
            name = self._array.metadata.encode_chunk_key((*(0,) * self._leading, *coordinates))
            if not (self._folder / name).exists():
                raise DataError(
                    f"{self._folder}: chunk {name} is missing; copy it, or set"
                    " missing_chunks=fill if whoever wrote the array leaves out empty chunks: it"
                    f" is then {self._array.fill_value}"
                )

    def _choose(self, group: Any) -> str:
        names = [name for name in _RECOGNISED if name in group]
        if scales := _multiscales(group):
            return str(scales["datasets"][0]["path"])
        if not names:
            raise DataError(
                f"{self._path} is a Zarr group without multiscales; set input_key to one of"
                f" {[name for name, _ in group.arrays()] or 'its arrays'}"
            )
        return names[0]

    def _read_voxel_size(self, group: Any, name: str) -> None:
        scales = _multiscales(group)
        for level in scales.get("datasets", ()):
            if str(level.get("path")) == name:
                scale = [
                    t["scale"]
                    for t in level.get("coordinateTransformations", ())
                    if t.get("type") == "scale"
                ]
                units = [axis.get("unit") for axis in scales.get("axes", ())][-3:]
                if scale and len(units) == 3 and all(unit in _NANOMETRES for unit in units):
                    z, y, x = (
                        float(s) * _NANOMETRES[unit]
                        for s, unit in zip(scale[0][-3:], units, strict=True)
                    )
                    self.voxel_size = (z, y, x)


def _multiscales(group: Any) -> dict[str, Any]:
    """OME's description of an image, in version 0.5 under "ome", before on its own; or nothing."""
    attributes = dict(group.attrs)
    found = attributes.get("ome", attributes).get("multiscales") or [{}]
    return dict(found[0])
