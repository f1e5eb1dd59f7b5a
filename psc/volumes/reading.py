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
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from psc.em.labels import relabel_consecutive
from psc.errors import ConfigError, DataError

# ----------------------------------------
# One array out of an HDF5 file, or an error that says what the file is instead.
#
# EM volumes travel as HDF5 under many names and half-finished downloads. Each of these is told
# apart here, before anything else sees the data.


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


# ----------------------------------------
# A volume stored as one grey PNG per slice, as NeuroProof's examples are.


_GREY_MODES: dict[str, np.dtype[Any]] = {"L": np.dtype(np.uint8), "I;16": np.dtype(np.uint16)}


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``slice.10`` after ``slice.9``: digit runs count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def png_slices(folder: Path) -> list[Path]:
    """The PNG files of a folder, in natural order; hidden files (``._1.png``) are left out.

    Raises:
        DataError: the numbers in the names show that slices are missing.
    """
    slices = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")),
        key=lambda path: natural_order(path.name),
    )
    numbers = [int(runs[-1]) for p in slices if (runs := re.findall(r"\d+", p.stem))]
    steps = np.diff(numbers)
    # A constant step other than 1 is somebody's choice; an uneven one is an unfinished copy.
    if len(numbers) == len(slices) and steps.size and (steps != steps.min()).any():
        gap = int(np.argmax(steps != steps.min()))
        raise DataError(
            f"{folder}: slices are missing between {slices[gap].name} and {slices[gap + 1].name};"
            " copy the folder again, or renumber the files without gaps"
        )
    return slices


def read_png_stack(slices: list[Path]) -> tuple[npt.NDArray[Any], int, str]:
    """Read grey PNG slices of equal size as one array.

    Args:
        slices: image files, first slice first; at least one.

    Returns:
        The array, uint8 or uint16 (D, H, W); the total size in bytes; and the SHA-256 of all files
        one after the other, as ``cat`` in slice order would give it.

    Raises:
        DataError: a slice cannot be read, is not a grey image, or differs from the first one in
            size or bit depth.
    """
    digest = hashlib.sha256()
    total_bytes = 0
    volume: npt.NDArray[Any] | None = None
    for z, path in enumerate(slices):
        content = path.read_bytes()
        digest.update(content)
        total_bytes += len(content)
        image = _read_grey(path, content)
        if volume is None:
            volume = np.empty((len(slices), *image.shape), dtype=image.dtype)
        if image.shape != volume.shape[1:] or image.dtype != volume.dtype:
            raise DataError(
                f"{path}: slice is {_describe(image)}, but {slices[0].name} is"
                f" {_describe(volume[0])}; all slices of a stack must be alike"
            )
        volume[z] = image
    if volume is None:
        raise DataError("a PNG stack needs at least one slice")
    return volume, total_bytes, digest.hexdigest()


def _read_grey(path: Path, content: bytes) -> npt.NDArray[Any]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in _GREY_MODES:
                raise DataError(
                    f"{path}: image mode is {image.mode}, but a slice must be grey with 8 or 16"
                    " bits (L or I;16); convert the images, for example with ImageMagick:"
                    " mogrify -colorspace Gray"
                )
            grey: npt.NDArray[Any] = np.asarray(image).astype(_GREY_MODES[image.mode], copy=False)
            return grey
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        # Pillow raises SyntaxError for a broken PNG chunk.
        raise DataError(
            f"{path} ({len(content)} bytes) is not a readable PNG ({error}); copy or"
            " download it again"
        ) from error


def _describe(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[0]} × {image.shape[1]} {image.dtype}"


# ----------------------------------------
# Supervoxels and bodies: labels that come as an over-segmentation and a map that merges it.
#
# NeuroProof's and FIB-25's ground truth is stored this way (dataset ``stack`` beside
# ``transforms``).


_MOST_LISTED_supervoxels = 10


def bodies_from_supervoxels(
    supervoxels: npt.NDArray[np.integer[Any]], transforms: npt.NDArray[Any], where: str
) -> npt.NDArray[np.uint64]:
    """Replace the supervoxel ids of a volume by the ids of the bodies they belong to.

    Args:
        supervoxels: integer array of any shape, no negative ids, 0 = background.
        transforms: integer array (N, 2) of rows (supervoxel, body). Supervoxel 0 needs no row.
        where: file and dataset of the map, for messages.

    Returns:
        Body ids, uint64, same shape as ``supervoxels``; 0 stays 0.

    Raises:
        DataError: the map is not a table of non-negative integers, gives a supervoxel two bodies,
            or gives some supervoxel of the volume none.
    """
    if transforms.ndim != 2 or transforms.shape[1] != 2 or transforms.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected integer rows (supervoxel, body), found {transforms.dtype} of shape"
            f" {transforms.shape}; restore the map that belongs to this volume"
        )
    if transforms.size and transforms.min() < 0:
        raise DataError(f"{where}: negative id {transforms.min()}; ids must be 0 or larger")
    rows = np.unique(transforms.astype(np.uint64), axis=0)  # sorted by supervoxel
    known, first = np.unique(rows[:, 0], return_index=True)
    if known.size != len(rows):
        repeated = rows[1:, 0][rows[1:, 0] == rows[:-1, 0]]
        raise DataError(
            f"{where}: supervoxels with two bodies: {_some(repeated)}; keep one row for each"
        )
    dense, supervoxel_ids = relabel_consecutive(supervoxels)
    present = supervoxel_ids[1:]
    missing = present[~np.isin(present, known)]
    if missing.size:
        raise DataError(
            f"{where}: {missing.size} supervoxels have no body: {_some(missing)}; the map belongs"
            " to another segmentation, or the file is incomplete"
        )
    bodies = np.zeros(supervoxel_ids.size, dtype=np.uint64)
    bodies[1:] = rows[first[np.searchsorted(known, present)], 1]
    return bodies[dense]


def _some(ids: npt.NDArray[np.uint64]) -> str:
    rest = ", …" if ids.size > _MOST_LISTED_supervoxels else ""
    return ", ".join(str(i) for i in np.sort(ids)[:_MOST_LISTED_supervoxels]) + rest


_RAW_KEYS = ("volumes/raw", "raw", "stack")
_OWN_LABELS_KEYS = ("volumes/labels/neuron_ids",)  # beside the raw data, in the same file
_LABELS_KEYS = (*_OWN_LABELS_KEYS, "stack")
_TRANSFORMS_KEY = "transforms"
_RAW_FILES = ("grayscale_maps.h5", "raw.h5")
_RAW_FOLDER = "grayscale_maps"
_LABELS_FILE = "groundtruth.h5"
_MOST_LISTED_volumes = 10


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
        names = ", ".join(sorted(p.name for p in raw.iterdir())[:_MOST_LISTED_volumes]) or "nothing"
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


# ----------------------------------------
# Slabs of volumes, and the check that no slab is used for two purposes.
#
# EM volumes are few, so training, validation and test usually share one and are kept apart along z.


@dataclass(frozen=True, eq=False)
class Region:
    """The slices ``z_start <= z < z_stop`` of a volume.

    Labels are used from inside the slab only. Grey values carry no annotation, so a network's
    context may reach across the slab's border; without ``raw_context`` it is reflected there.

    Attributes:
        volume: the volume.
        z_start: first slice.
        z_stop: one after the last slice; None = up to the end.
        raw_context: whether grey values of the same volume outside the slab may be read.

    Raises:
        ConfigError: the slab is empty or not inside the volume.
    """

    volume: Volume
    z_start: int = 0
    z_stop: int | None = None
    raw_context: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.z_start < self.stop <= self.depth:
            raise ConfigError(
                f"{self.volume.name}: slab z = {self.z_start} to {self.z_stop} is empty or not"
                f" inside the volume; give 0 <= start < stop <= {self.depth}"
            )

    @property
    def depth(self) -> int:
        """Slices of the whole volume."""
        return int(self.volume.raw.shape[0])

    @property
    def stop(self) -> int:
        """One after the last slice, as a number."""
        return self.depth if self.z_stop is None else self.z_stop

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the slab in voxels (z, y, x)."""
        _, height, width = self.volume.raw.shape
        return self.stop - self.z_start, height, width

    def __str__(self) -> str:
        """Name and slices, for messages."""
        return f"{self.volume.name}[{self.z_start}:{self.stop}]"


def check_disjoint(splits: Mapping[str, Sequence[Region]]) -> None:
    """Make sure that no slice of raw data belongs to two splits.

    Slices are compared by content, so a copy of the volume in another file or another layout is
    found as well. Slices of one constant grey value are left out of that comparison.

    Args:
        splits: regions by the name of the split, as in ``{"train": [...], "test": [...]}``.

    Raises:
        ConfigError: two splits share slices; names both regions and the slices.
    """
    digests: dict[int, list[bytes | None]] = {}
    for (first, first_regions), (second, second_regions) in itertools.combinations(
        splits.items(), 2
    ):
        for a, b in itertools.product(first_regions, second_regions):
            if shared := _shared_slices(a, b, digests):
                raise ConfigError(
                    f"splits {first!r} and {second!r} share data: {a} and {b} have"
                    f" {len(shared)} slices in common (z = {shared[0]} to {shared[-1]} of"
                    f" {a.volume.name}); choose slabs that do not overlap"
                )


def _shared_slices(a: Region, b: Region, digests: dict[int, list[bytes | None]]) -> list[int]:
    """Slices of a that b has too, as z in a's volume; ``digests`` keeps what was computed."""
    if a.volume.raw is b.volume.raw:
        return list(range(max(a.z_start, b.z_start), min(a.stop, b.stop)))
    for volume in (a.volume, b.volume):
        if id(volume) not in digests:
            digests[id(volume)] = [_digest(plane) for plane in volume.raw]
    theirs = set(digests[id(b.volume)][b.z_start : b.stop]) - {None}
    ours = digests[id(a.volume)]
    return [z for z in range(a.z_start, a.stop) if ours[z] in theirs]


def _digest(plane: npt.NDArray[Any]) -> bytes | None:
    """Fingerprint of a slice; None if all its grey values are equal, as in padding."""
    if (plane == plane.flat[0]).all():
        return None
    return hashlib.blake2b(np.ascontiguousarray(plane).data, digest_size=16).digest()
