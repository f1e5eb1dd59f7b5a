"""Grey values of a volume that stays on disk: HDF5, Zarr (v2 and v3) or a stack of images.

Every kind is an object with a shape (D, H, W) and a dtype that slices like an array and reads only
what is asked for. It can be pickled: each process opens the file for itself.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import h5py
import numpy as np
import numpy.typing as npt
import zarr
from PIL import Image, UnidentifiedImageError

from psc.blockwise.grid import Box, Grid, chunk_size
from psc.errors import ConfigError, DataError
from psc.volumes.reading import (
    attribute_vector,
    datasets_in,
    find_key,
    list_datasets,
    natural_order,
    png_slices,
)
from psc.volumes.tiling import Size3

# ----------------------------------------
# Time and channel axes of one, which files put before z, y, x.


def volume_axes(shape: Sequence[int], where: str) -> tuple[int, Size3]:
    """How many leading axes of one there are, and the (z, y, x) that follow.

    Raises:
        DataError: it is no single-channel volume.
    """
    leading = len(shape) - 3
    if leading < 0 or any(n != 1 for n in shape[:leading]) or 0 in shape:
        raise DataError(
            f"{where}: expected shape (D, H, W), found {tuple(shape)}; store a single-channel"
            " volume, channels before z, y, x"
        )
    z, y, x = (int(n) for n in shape[leading:])
    return leading, (z, y, x)


# ----------------------------------------
# A dataset of an HDF5 file, read box by box.


_RECOGNISED = ("volumes/raw", "raw", "stack", "main")


class HDF5Volume:
    """See ``psc.volumes.stores.LazyVolume``.

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


# ----------------------------------------
# One grey image per slice, PNG or TIFF, read box by box.
#
# Every box decodes the whole of each slice that it touches; for volumes much wider than a block,
# Zarr or HDF5 are faster to read.


_GREY_MODES: dict[str, np.dtype[Any]] = {
    "L": np.dtype(np.uint8),
    "I;16": np.dtype(np.uint16),
    "I;16B": np.dtype(np.uint16),
}
_TIFF = (".tif", ".tiff")


def stack_slices(folder: Path) -> list[Path]:
    """The slices of a folder, first one first.

    Raises:
        DataError: there are none, PNG and TIFF are mixed, or numbers show that some are missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; correct input=…")
    pngs = png_slices(folder)
    tiffs = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _TIFF and not path.name.startswith(".")
        ),
        key=lambda path: natural_order(path.name),
    )
    if bool(pngs) == bool(tiffs):
        found = "both PNG and TIFF" if pngs else "neither PNG nor TIFF slices"
        raise DataError(f"{folder} holds {found}; give a folder of the one or the other")
    return pngs or tiffs


class ImageStack:
    """See ``psc.volumes.stores.LazyVolume``.

    Args:
        slices: image files of equal size.

    Raises:
        DataError: the first slice is no grey image. (The others are checked when they are read.)
    """

    def __init__(self, slices: Sequence[Path]) -> None:
        self._slices = list(slices)
        first = _read(self._slices[0])
        self.shape: Size3 = (len(self._slices), first.shape[0], first.shape[1])
        self.dtype = first.dtype
        self.voxel_size: tuple[float, float, float] | None = None

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a box.

        Raises:
            DataError: a slice cannot be read, or differs from the first one.
        """
        z, y, x = index[1:] if isinstance(index, tuple) and index[0] is Ellipsis else index
        planes = []
        for path in self._slices[slice(z.start, z.stop)]:
            image = _read(path)
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                raise DataError(
                    f"{path}: slice is {image.shape} {image.dtype}, but {self._slices[0].name} is"
                    f" {self.shape[1:]} {self.dtype}; all slices of a stack must be alike"
                )
            planes.append(image[y, x])
        return np.stack(planes)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.mode not in _GREY_MODES or getattr(image, "n_frames", 1) != 1:
                raise DataError(
                    f"{path}: image mode is {image.mode} with"
                    f" {getattr(image, 'n_frames', 1)} pages, but a slice must be one grey page"
                    " with 8 or 16 bits; convert the images"
                )
            return np.asarray(image).astype(_GREY_MODES[image.mode], copy=False)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error}); copy it again") from error


# ----------------------------------------
# A Zarr array (v2 or v3), plain or in an OME-Zarr group, read box by box.


MissingChunks = Literal["fill", "refuse"]

_NANOMETRES = {"nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "angstrom": 0.1}
_RECOGNISED_zarr_volume = ("volumes/raw", "raw", "0", "s0")


class ZarrVolume:
    """See ``psc.volumes.stores.LazyVolume``.

    Args:
        path: the folder of an array or a group.
        key: the array within a group; None = the finest level of OME-Zarr, else a known name.
        missing_chunks: see ``psc.volumes.stores.open_volume``. Where chunks lie in shards, it
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
        names = [name for name in _RECOGNISED_zarr_volume if name in group]
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


# ----------------------------------------
# The arrays of an output: OME-Zarr 0.5 (Zarr v3), chunks that no two blocks share.
#
# ``affinities.zarr/0`` is uint8 (3, D, H, W), affinity = value / 255; ``fragments.zarr/0`` and
# ``segmentation.zarr/0``, ``/1``, … are uint64 (D, H, W), each level half as fine as the one
# before.


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
