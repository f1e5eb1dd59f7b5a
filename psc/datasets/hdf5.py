"""One array out of an HDF5 file, or an error that says what the file is instead.

EM volumes travel as HDF5 under many names and half-finished downloads. Each of these is told apart
here, before anything else sees the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from psc.errors import DataError

__all__ = [
    "HDF5Array",
    "attribute_vector",
    "datasets_in",
    "find_key",
    "list_datasets",
    "read_array",
]

_MAGIC: Mapping[bytes, str] = {
    b"\x1f\x8b": "a gzip archive; unpack it first (gunzip, or tar xf)",
    b"PK\x03\x04": "a zip archive or a NumPy .npz; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\x93NUMPY": "a NumPy .npy array; write it into HDF5 with h5py",
    b"\x89PNG": "a PNG image; give the folder of slices instead",
    b"II*\x00": "a TIFF image; write it into HDF5 first",
    b"MM\x00*": "a TIFF image; write it into HDF5 first",
    b"\x0e\x03\x13\x01": "HDF4; convert it with h4toh5",
    b"version https://git-lfs": "a Git LFS pointer, not the data; run git lfs pull",
    b"<": "a web page (the server's error message, perhaps); download it again",
}
_MOST_LISTED = 30


@dataclass(frozen=True, eq=False)
class HDF5Array:
    """An array with the name it was found under and its HDF5 attributes."""

    values: npt.NDArray[Any]
    key: str
    attributes: Mapping[str, Any]
    file_attributes: Mapping[str, Any]


def read_array(path: Path, key: str) -> HDF5Array:
    """Read one numeric dataset into memory.

    Args:
        path: HDF5 file.
        key: name of the dataset, as in ``"volumes/raw"``.

    Returns:
        The values in the file's dtype (native byte order), with the attributes of dataset and file.

    Raises:
        DataError: the file is missing, not HDF5, truncated or damaged, has no such dataset, or the
            dataset is not numeric.
    """
    with _opened(path) as file:
        dataset = file.get(key)
        if not isinstance(dataset, h5py.Dataset):
            what = "is a group" if isinstance(dataset, h5py.Group) else "does not exist"
            raise DataError(
                f"{path}: dataset {key!r} {what}; set the key to one of {_listing(_shapes(file))}"
            )
        if dataset.shape is None or dataset.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: dataset {key!r} holds {dataset.dtype} of shape {dataset.shape}, not"
                f" numbers; set the key to one of {_listing(_shapes(file))}"
            )
        values = dataset[...]
        return HDF5Array(
            values=values.astype(values.dtype.newbyteorder("="), copy=False),
            key=key,
            attributes=dict(dataset.attrs),
            file_attributes=dict(file.attrs),
        )


def datasets_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all datasets of an HDF5 file.

    Raises:
        DataError: the file is missing, not HDF5, truncated or damaged.
    """
    with _opened(path) as file:
        return _shapes(file)


def find_key(path: Path, recognised: Sequence[str], setting: str) -> str | None:
    """The one dataset of a file that has a recognised name.

    Args:
        path: HDF5 file.
        recognised: names to look for.
        setting: configuration key that resolves an ambiguity, for the message.

    Returns:
        The name, or None if the file has none of them.

    Raises:
        DataError: the file cannot be read, or has several of them.
    """
    present = datasets_in(path)
    found = [name for name in recognised if name in present]
    if len(found) > 1:
        raise DataError(f"{path}: both {' and '.join(found)} could be meant; set {setting} to one")
    return found[0] if found else None


def list_datasets(path: Path) -> str:
    """All datasets of a file with their shapes, in one line for a message."""
    return _listing(datasets_in(path))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; correct the path, or download the data first")
    try:
        if not h5py.is_hdf5(path):
            raise DataError(f"{path} is not an HDF5 file: {_what_it_is(path)}")
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        # h5py raises RuntimeError for broken object headers, OSError for everything else.
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is truncated, damaged or unreadable"
            f" (HDF5 says: {error}); copy or download it again"
        ) from error


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "it is empty; download it again"
    for magic, meaning in _MAGIC.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
            return f"it is {meaning}"
    return f"it begins with the bytes {head[:8].hex(' ')}; check where it came from"


def _shapes(file: h5py.File) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[name] = item.shape or ()

    file.visititems(note)
    return shapes


def _listing(shapes: Mapping[str, tuple[int, ...]]) -> str:
    listed = [f"{name} {shape}" for name, shape in list(shapes.items())[:_MOST_LISTED]]
    if len(shapes) > _MOST_LISTED:
        listed.append(f"… ({len(shapes) - _MOST_LISTED} more)")
    return ", ".join(listed) or "(the file holds no dataset)"


def attribute_vector(
    attributes: Mapping[str, Any], name: str, where: str
) -> tuple[float, float, float] | None:
    """A (z, y, x) triple of positive numbers among HDF5 attributes, None if it is absent.

    Args:
        attributes: attributes of a dataset.
        name: the attribute's name.
        where: file and dataset, for the message.

    Raises:
        DataError: the attribute is there but is not three positive finite numbers.
    """
    if name not in attributes:
        return None
    value = np.asarray(attributes[name])
    if value.shape != (3,) or value.dtype.kind not in "iuf" or not (value > 0).all():
        raise DataError(
            f"{where}: attribute {name!r} must be three positive numbers (z, y, x), found"
            f" {attributes[name]!r}; correct or delete it"
        )
    z, y, x = (float(number) for number in value)
    return z, y, x
