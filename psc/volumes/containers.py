"""Arrays by name in HDF5 and Zarr (v2, v3): which there are, their attributes, their values.

Whether something is there is found by opening it, through soft and external links too. Zarr's
consolidated metadata are not used: they may be out of date. What cannot be read says whether it is
damaged, forbidden, being written, or compressed in a way that is not known here.
"""

import contextlib
import errno
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
import zarr

from psc.errors import DataError, first_of
from psc.files import entries
from psc.volumes.metadata import Attributes, plain

Array = npt.NDArray[Any]
Box = tuple[slice | int, ...]
MissingChunks = Literal["fill", "refuse"]

_MOST_LISTED = 30


@dataclass(frozen=True)
class Node:
    """What a name leads to; the shape and the names of the axes are those of an array."""

    kind: Literal["array", "group"]
    attributes: Attributes
    shape: tuple[int, ...] = ()
    names: Sequence[Any] | None = None


class Source(ABC):
    """An array as it is stored, in a container or not; opened anew in each process."""

    where: str  # file and name, for messages
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # in native byte order
    levels: Sequence[tuple[str, Attributes]] = (("", {}),)  # see psc.volumes.metadata.describe
    names: Sequence[Any] | None = None  # of the axes

    @abstractmethod
    def read(self, box: Box) -> Array:
        """The values at a slice with start and stop, or a number, for each axis."""

    @abstractmethod
    def files(self) -> list[Path]:
        """What holds the values."""

    def check(self) -> int:
        """Refuse what can be seen to be damaged without reading; how many parts are filled."""
        return 0

    def values(self) -> Array:
        """All of it."""
        values = self.read(tuple(slice(0, size) for size in self.shape))
        return values.astype(self.dtype, copy=False)


class Container(ABC):
    """Named arrays in groups, of a file or a folder."""

    path: Path

    @abstractmethod
    def look(self, name: str) -> Node | None:
        """What has a name; None: nothing. A link that leads nowhere is an error."""

    @abstractmethod
    def arrays(self, name: str = "") -> dict[str, tuple[int, ...]]:
        """Names, from the root, and shapes of all arrays in a group."""

    @abstractmethod
    def open(self, name: str) -> Source:
        """An array of numbers."""

    def upwards(self, name: str) -> list[tuple[str, Attributes]]:
        """Attributes of an array and of all groups around it, with the path from there."""
        parts = name.split("/") if name else []
        above = [("/".join(parts[i:]), "/".join(parts[:i])) for i in range(len(parts), -1, -1)]
        nodes = [(path, self.look(place)) for path, place in above]
        return [(path, node.attributes) for path, node in nodes if node is not None]

    def listing(self, arrays: Mapping[str, tuple[int, ...]] | None = None) -> str:
        """Arrays with their shapes, all by default, in one line for a message."""
        arrays = arrays or self.arrays()
        listed = [f"{name} {shape}" for name, shape in arrays.items()]
        return first_of(listed, _MOST_LISTED) if listed else "(it holds no dataset)"


# HDF5 ---------------------------------------------------------------------------------------------


class HDF5(Container):
    """A file; links lead to other groups and files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self, name: str) -> Node | None:
        """See ``Container``."""
        with _opened(self.path) as file:
            found = _followed(file, name)
            if found is None:
                return None
            attributes = {}
            for key in found.attrs:
                with contextlib.suppress(OSError, TypeError):  # of types that h5py does not know
                    attributes[key] = plain(found.attrs[key])
            if not isinstance(found, h5py.Dataset):
                return Node("group", attributes)
            names = [dimension.label for dimension in found.dims]
            return Node("array", attributes, found.shape or (), names)

    def arrays(self, name: str = "") -> dict[str, tuple[int, ...]]:
        """See ``Container``."""
        found: dict[str, tuple[int, ...]] = {}

        def walk(group: Any, prefix: str, above: tuple[Any, ...]) -> None:
            info = h5py.h5o.get_info(group.id)
            here = (info.fileno, info.addr)
            for part in group if here not in above else ():  # links may lead in circles
                with contextlib.suppress(KeyError, OSError):  # or nowhere
                    item = group[part]
                    if isinstance(item, h5py.Group):
                        walk(item, f"{prefix}{part}/", (*above, here))
                    elif isinstance(item, h5py.Dataset):
                        found[prefix + part] = item.shape or ()

        with _opened(self.path) as file:
            walk(_followed(file, name), f"{name}/" if name else "", ())
        return found

    def open(self, name: str) -> Source:
        """See ``Container``."""
        return _HDF5Array(self, name)


class _HDF5Array(Source):
    def __init__(self, container: HDF5, name: str) -> None:
        self._path, self._name = container.path, name
        self._data: Any = None  # of this process
        self.where = f"{container.path} ({name})"
        node = container.look(name)
        if node is None or node.kind != "array":
            there = container.listing()
            raise DataError(f"{self._path}: dataset {name!r} does not exist; it holds {there}")
        self.levels, self.names = container.upwards(name), node.names
        with _opened(self._path) as file:
            data = _followed(file, name)
            if data.shape is None or data.dtype.kind not in "biuf":
                held = f"{data.dtype} of shape {data.shape}"
                raise DataError(f"{self.where} holds {held}, not numbers")
            self.shape, self.dtype = data.shape, np.dtype(data.dtype).newbyteorder("=")
            holder = Path(data.file.filename).resolve()  # parts lie beside the file, not a link
            virtual = data.virtual_sources() if data.is_virtual else ()
        parts = {holder.parent / source.file_name for source in virtual if source.file_name != "."}
        self._files = [holder, *sorted(parts - {holder})]
        for path in self._files:
            if not path.exists():  # HDF5 would give its fill value instead
                raise DataError(f"{self.where}: a part of it is in {path}, which does not exist")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": None}

    def read(self, box: Box) -> Array:
        try:
            if self._data is None:
                self._data = h5py.File(self._path, "r")[self._name]
            values: Array = self._data[box]
        except (OSError, RuntimeError, KeyError) as error:
            raise _trouble(self._path, error, self._data) from error
        return values

    def files(self) -> list[Path]:
        return self._files


_MAGIC: Mapping[bytes, str] = {
    b"\x1f\x8b": "a gzip archive; unpack it first (gunzip, or tar xf)",
    b"PK\x03\x04": "a zip archive or a NumPy .npz; unpack it, and write arrays into HDF5",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\x93NUMPY": "a NumPy .npy array; write it into HDF5 with h5py",
    b"\x89PNG": "a PNG image; give the folder of slices instead",
    b"II*\x00": "a TIFF image; give a folder with a slice in each file, or write it into HDF5",
    b"MM\x00*": "a TIFF image; give a folder with a slice in each file, or write it into HDF5",
    b"\x0e\x03\x13\x01": "HDF4; convert it with h4toh5",
    b"version https://git-lfs": "a Git LFS pointer, not the data; run git lfs pull",
    b"<?xml": "an XML document: a server's error message, or a description of data elsewhere",
    b"<": "a web page (the server's error message, perhaps); download it again",
}


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if not h5py.is_hdf5(path):
            raise DataError(f"{path} is not an HDF5 file: {_what_it_is(head)}")
        with h5py.File(path, "r") as opened:
            yield opened
    except (OSError, RuntimeError) as error:  # RuntimeError: broken object headers
        raise _trouble(path, error) from error


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty; download it again"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    known = (f"it is {meaning}" for magic, meaning in _MAGIC.items() if start.startswith(magic))
    return next(known, f"it begins with the bytes {head[:8].hex(' ')}; check where it came from")


def _trouble(path: Path, error: Exception, data: Any = None) -> DataError:
    """What is wrong, and what helps: not every error of HDF5 is damage."""
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return DataError(f"{path}: you have no permission to read it; ask its owner, or chmod")
    if number in (errno.EAGAIN, errno.EWOULDBLOCK):
        return DataError(f"{path} is open for writing in another process; wait until it is closed")
    if number is not None:
        return DataError(f"{path} cannot be read: {error}")
    filters: Any = data.id.get_create_plist() if data else None
    for i in range(filters.get_nfilters() if filters else 0):
        code, _, _, name = filters.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            return DataError(
                f"{path} is compressed by a filter that is not installed here, number {code}"
                f" {name.decode(errors='replace')}; set HDF5_PLUGIN_PATH to where it is, or rewrite"
                " the file where it is (h5repack -f GZIP=1)"
            )
    return DataError(
        f"{path} ({path.stat().st_size} bytes) is truncated, damaged or unreadable (HDF5 says:"
        f" {error}); copy or download it again"
    )


def _followed(file: h5py.File, name: str) -> Any:
    """What a name leads to, None if nothing has it."""
    node: Any = file
    for part in name.split("/") if name else ():
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        try:
            node = node[part]
        except (KeyError, OSError) as error:
            target = " in ".join(filter(None, [link.path, getattr(link, "filename", "")]))
            raise DataError(
                f"{file.filename}: {name} is a link to {target}, which cannot be opened ({error});"
                " put it where the link says, or make the link anew"
            ) from error
    return node


# Zarr ---------------------------------------------------------------------------------------------


class Zarr(Container):
    """A folder; ``path`` is the topmost group."""

    def __init__(self, path: Path, missing_chunks: MissingChunks = "refuse") -> None:
        self.path, self._missing_chunks = path, missing_chunks

    @staticmethod
    def root_of(folder: Path) -> Path | None:
        """The topmost group that a folder belongs to; None if it is no Zarr. N5 is refused."""
        above = (folder, *folder.parents)
        places = [place for place in above if _zarr_node(place) is not None]
        if places[:1] == [folder]:
            return places[-1]
        for place in above:
            if place.suffix == ".n5" or "n5" in (_json(place / "attributes.json") or {}):
                raise DataError(
                    f"{place} is N5, which zarr 3 does not read; where zarr 2 is installed (pip"
                    ' install "zarr<3"), zarr.copy(zarr.open(zarr.N5Store("em.n5"), "r")["raw"],'
                    ' zarr.open("em.zarr", "w"), name="raw", compressor="default",'
                    " without_attrs=True) makes a Zarr of array raw; then give voxel_size=[z,y,x]"
                )
        return None

    def look(self, name: str) -> Node | None:
        """See ``Container``."""
        return _zarr_node(self.path / name)

    def arrays(self, name: str = "") -> dict[str, tuple[int, ...]]:
        """See ``Container``."""
        found: dict[str, tuple[int, ...]] = {}
        for folder in entries(self.path / name):
            below = f"{name}/{folder.name}".lstrip("/")
            if (node := self.look(below)) is not None:
                found |= {below: node.shape} if node.kind == "array" else self.arrays(below)
        return found

    def open(self, name: str) -> Source:
        """See ``Container``."""
        return _ZarrArray(self, name, self._missing_chunks)


class _ZarrArray(Source):
    def __init__(self, container: Zarr, name: str, missing: MissingChunks) -> None:
        self._folder, self._missing = container.path / name, missing
        self.where, self.levels = str(self._folder), container.upwards(name)
        try:
            self._array: Any = zarr.open_array(self.where, mode="r")
        except Exception as error:  # zarr has a dozen ways to say it
            raise DataError(f"{self.where} is not readable as Zarr ({error})") from error
        self.names = getattr(self._array.metadata, "dimension_names", None)
        self.shape, self.dtype = self._array.shape, np.dtype(self._array.dtype).newbyteorder("=")
        if self.dtype.kind not in "biuf":
            raise DataError(f"{self.where} holds {self.dtype}, not numbers")

    def read(self, box: Box) -> Array:
        self._check_chunks(box)
        try:
            return np.asarray(self._array[box])
        except Exception as error:  # codecs raise what they like
            known = "codec not available" not in str(error)
            what = f"is damaged at {box}" if known else "needs a codec that is not installed"
            advice = "copy that chunk again" if known else "install it, or write the array anew"
            raise DataError(f"{self.where} {what} ({error}); {advice}") from error

    def check(self) -> int:
        return self._check_chunks(tuple(slice(0, size) for size in self.shape))

    def files(self) -> list[Path]:
        return [path for path in sorted(self._folder.rglob("*")) if path.is_file()]

    def _check_chunks(self, box: Box) -> int:
        """Refuse chunks that are truncated, or missing; else how many of these are filled."""
        stored, filled = self._array.shards or self._array.chunks, 0
        blosc = not self._array.shards and "blosc" in str(self._array.compressors[-1:]).lower()
        ranges = [
            range(part.start // size, -(-part.stop // size)) if isinstance(part, slice) else (0,)
            for part, size in zip(box, stored, strict=True)
        ]
        for position in itertools.product(*ranges):
            name = self._array.metadata.encode_chunk_key(position)
            path = self._folder / name
            if path.is_file():
                with path.open("rb") as file:
                    header = file.read(16)
                size = path.stat().st_size
                if size == 0 or (blosc and size != int.from_bytes(header[12:], "little")):
                    raise DataError(f"{self.where}: chunk {name} is truncated; copy it again")
            elif self._missing == "refuse":
                raise DataError(
                    f"{self.where}: chunk {name} is missing; copy it, or set missing_chunks=fill"
                    " (in training dataset.missing_chunks=fill) if whoever wrote the array leaves"
                    f" out empty chunks: it is then {self._array.fill_value}"
                )
            else:
                filled += 1
        return filled


def _zarr_node(folder: Path) -> Node | None:
    """What a folder is, by its own metadata."""
    if (v3 := _json(folder / "zarr.json")) is not None:
        kind: Literal["array", "group"] = "array" if v3.get("node_type") == "array" else "group"
        attributes, shape = v3.get("attributes") or {}, tuple(v3.get("shape") or ())
        return Node(kind, attributes, shape)
    array, group = _json(folder / ".zarray"), (folder / ".zgroup").is_file()
    attributes = _json(folder / ".zattrs") or {}
    if array is not None:
        return Node("array", attributes, tuple(array.get("shape") or ()))
    return Node("group", attributes) if group or attributes else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, not readable as Zarr ({error}); copy it again"
        ) from error
    return found
