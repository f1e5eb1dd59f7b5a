"""Read an EM volume and its instance labels, in any of the layouts it is published in.

Recognised without being told any key:

* CREMI: one HDF5 file with ``volumes/raw`` and ``volumes/labels/neuron_ids``, attribute
  ``resolution`` in nm (https://cremi.org/data);
* FIB-25 as published with flood-filling networks (Januszewski et al., Nature Methods 2018): raw in
  ``grayscale_maps.h5`` or ``raw.h5``, labels in ``groundtruth.h5``;
* NeuroProof's examples (Parag et al., PLoS ONE 2015): ``grayscale_maps/*.png`` and
  ``groundtruth.h5``;
* gala's examples (Nunez-Iglesias et al., PLoS ONE 2013): ``stack`` in each of two files.

Where ``stack`` lies beside ``transforms``, ``stack`` holds supervoxels and ``transforms`` maps each
of them to its body; without that map training would learn borders that are not there.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from psc.datasets.hdf5 import (
    HDF5Array,
    attribute_vector,
    datasets_in,
    find_key,
    list_datasets,
    read_array,
)
from psc.datasets.png_stack import png_slices, read_png_stack
from psc.datasets.supervoxels import bodies_from_supervoxels
from psc.errors import ConfigError, DataError

__all__ = ["FileRecord", "Volume", "read_volume"]

_RAW_KEYS = ("volumes/raw", "raw", "stack")
_OWN_LABELS_KEYS = ("volumes/labels/neuron_ids",)  # beside the raw data, in the same file
_LABELS_KEYS = (*_OWN_LABELS_KEYS, "stack")
_TRANSFORMS_KEY = "transforms"
_RAW_FILES = ("grayscale_maps.h5", "raw.h5")
_RAW_FOLDER = "grayscale_maps"
_LABELS_FILE = "groundtruth.h5"
_MOST_LISTED = 10


class FileRecord(TypedDict):
    """What a run's record says about a file it read; a PNG stack counts as one file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Volume:
    """An image volume in memory.

    Attributes:
        raw: grey values (D, H, W), in the file's dtype.
        labels: instance ids, uint64 (D, H, W), 0 = background or unknown; None if there are none.
        voxel_size: (z, y, x) in nm, None if the file does not say.
        name: short name for records and messages.
        synthetic: True if the file says that it was generated.
        files: name, size and SHA-256 of every file read.
    """

    raw: npt.NDArray[Any]
    labels: npt.NDArray[np.uint64] | None
    voxel_size: tuple[float, float, float] | None
    name: str
    synthetic: bool
    files: tuple[FileRecord, ...]


def read_volume(
    raw: Path,
    labels: Path | None = None,
    *,
    raw_key: str | None = None,
    labels_key: str | None = None,
    read_labels: bool = True,
) -> Volume:
    """Read a volume into memory.

    Args:
        raw: an HDF5 file, a folder of PNG slices, or a folder in NeuroProof's or FIB-25's layout.
        labels: HDF5 file of labels. None means where the layout has them: in the raw file itself
            for CREMI, in ``groundtruth.h5`` of the folder for NeuroProof and FIB-25.
        raw_key: dataset of the raw data, if its name is not one of the recognised ones.
        labels_key: the same for the labels.
        read_labels: False leaves labels unread even where there are some.

    Returns:
        The volume; its ``labels`` are None if none were asked for or the layout has none.

    Raises:
        DataError: a file is missing, damaged or not what it should be; raw and labels do not have
            the same three-dimensional shape; raw is not finite; labels are not integers or
            negative; a supervoxel has no body.
        ConfigError: ``raw_key`` is given for PNG slices.
    """
    source = _find_source(raw)
    grey = _read_raw(source, raw_key)
    _check_raw(grey)
    found = None
    if read_labels:
        labels_path = labels if labels is not None else _own_labels(raw, source, labels_key)
        if labels_path is not None:
            found = _read_labels(labels_path, labels_key, same_file=labels_path == source)
            _check_pair(grey, found)
    files = [grey.file]
    if found is not None and found.file != grey.file:
        files.append(found.file)
    sizes = [part.voxel_size for part in (grey, found) if part is not None and part.voxel_size]
    return Volume(
        raw=grey.values,
        labels=None if found is None else found.values,
        voxel_size=sizes[0] if sizes else None,
        name=_short_name(raw),
        synthetic=grey.synthetic or (found is not None and found.synthetic),
        files=tuple(files),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Raw or labels, with what the file says about them."""

    values: npt.NDArray[Any]
    where: str
    voxel_size: tuple[float, float, float] | None
    synthetic: bool
    file: FileRecord


def _find_source(raw: Path) -> Path:
    """The file or the folder of slices that holds the raw data."""
    if not raw.is_dir():
        return raw
    candidates = [raw / name for name in _RAW_FILES if (raw / name).is_file()]
    if (raw / _RAW_FOLDER).is_dir():
        candidates.append(raw / _RAW_FOLDER)
    if any(raw.glob("*.[pP][nN][gG]")):
        candidates.append(raw)
    if len(candidates) != 1:
        names = ", ".join(sorted(p.name for p in raw.iterdir())[:_MOST_LISTED]) or "nothing"
        expected = f"{', '.join(_RAW_FILES)}, {_RAW_FOLDER}/ or *.png"
        raise DataError(
            f"{raw}: expected exactly one of {expected} in this folder, found {names}; give the"
            " path of the raw data itself"
        )
    return candidates[0]


def _own_labels(raw: Path, source: Path, labels_key: str | None) -> Path | None:
    """Where the layout of ``raw`` has its labels, None if it has none."""
    if raw.is_dir() and (raw / _LABELS_FILE).is_file():
        return raw / _LABELS_FILE
    if source.is_file() and (labels_key or find_key(source, _OWN_LABELS_KEYS, "labels_key")):
        return source
    if labels_key:
        raise DataError(f"{raw}: labels_key is {labels_key!r}, but no labels file was given")
    return None


def _read_raw(source: Path, key: str | None) -> _Part:
    if source.is_dir():
        if key is not None:
            raise ConfigError(f"raw_key is {key!r}, but {source} holds PNG slices; remove raw_key")
        slices = png_slices(source)
        if not slices:
            raise DataError(f"{source} holds no PNG slices; correct the path, or download the data")
        values, size, sha256 = read_png_stack(slices)
        record = FileRecord(name=f"{source.name}/*.png", bytes=size, sha256=sha256)
        return _Part(values, str(source), None, False, record)
    return _part(source, read_array(source, key or _recognised(source, _RAW_KEYS, "raw_key")))


def _read_labels(path: Path, key: str | None, *, same_file: bool) -> _Part:
    if path.is_dir():
        raise DataError(f"{path} is a folder; labels must be an HDF5 file")
    if key is None:
        names = _OWN_LABELS_KEYS if same_file else _LABELS_KEYS
        key = _recognised(path, names, "labels_key")
    found = _part(path, read_array(path, key))
    _check_labels(found)
    # The map belongs to the dataset it lies beside.
    transforms_key = f"{key.rpartition('/')[0]}/{_TRANSFORMS_KEY}".lstrip("/")
    if transforms_key in datasets_in(path):
        transforms = read_array(path, transforms_key).values
        bodies = bodies_from_supervoxels(found.values, transforms, f"{path} ({transforms_key})")
    else:
        bodies = found.values.astype(np.uint64, copy=False)
    return _Part(bodies, found.where, found.voxel_size, found.synthetic, found.file)


def _recognised(path: Path, names: tuple[str, ...], setting: str) -> str:
    key = find_key(path, names, setting)
    if key is None:
        raise DataError(
            f"{path}: none of {', '.join(names)} is in this file; set {setting} to one of"
            f" {list_datasets(path)}"
        )
    return key


def _part(path: Path, array: HDF5Array) -> _Part:
    where = f"{path} ({array.key})"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return _Part(
        values=_three_dimensional(array.values, where),
        where=where,
        voxel_size=attribute_vector(array.attributes, "resolution", where),
        synthetic=bool(array.file_attributes.get("synthetic", False)),
        file=FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256),
    )


def _three_dimensional(values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """Drop a leading or a trailing axis of one (channel or batch), never guess more."""
    shape = values.shape
    if len(shape) == 4 and (shape[0] == 1) != (shape[3] == 1):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(
            f"{where}: expected shape (D, H, W), found {shape}; store a single-channel volume"
        )
    return values


def _check_raw(part: _Part) -> None:
    if part.values.dtype.kind == "b":
        raise DataError(f"{part.where}: raw is boolean; store grey values, for example uint8")
    if part.values.dtype.kind == "f":
        for z, plane in enumerate(part.values):  # plane by plane: no mask as large as the volume
            if not np.isfinite(plane).all():
                raise DataError(
                    f"{part.where}: NaN or infinity in slice z = {z}; repair the volume first"
                )


def _check_labels(part: _Part) -> None:
    if part.values.dtype.kind not in "iu":
        raise DataError(
            f"{part.where}: labels are {part.values.dtype}, but instance ids must be integers;"
            " convert them, after checking that no id was rounded"
        )
    if part.values.dtype.kind == "i" and (lowest := part.values.min()) < 0:
        position = tuple(int(i) for i in np.unravel_index(part.values.argmin(), part.values.shape))
        raise DataError(
            f"{part.where}: negative label {lowest} at (z, y, x) = {position}; set unknown voxels"
            " to 0"
        )


def _check_pair(raw: _Part, labels: _Part) -> None:
    if raw.values.shape != labels.values.shape:
        raise DataError(
            f"{raw.where} has shape {raw.values.shape}, but {labels.where} has shape"
            f" {labels.values.shape}; crop both to the same region"
        )
    if raw.voxel_size and labels.voxel_size and raw.voxel_size != labels.voxel_size:
        raise DataError(
            f"{raw.where} has a resolution of {raw.voxel_size} nm, but {labels.where} of"
            f" {labels.voxel_size} nm; resample one of them or correct the attribute"
        )


def _short_name(raw: Path) -> str:
    """A file called like its role says nothing; its folder does."""
    return raw.parent.name if raw.name in _RAW_FILES else raw.stem
