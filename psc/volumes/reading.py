"""Volumes where they lie: HDF5, Zarr (v2, v3, OME-Zarr), or a folder of PNG or TIFF slices.

One reader for training, segmentation, blocks and viewing. ``open_volume`` gives a ``Volume`` that
slices like an array (D, H, W) and reads only what is asked for; ``volume[...]`` is all of it. What
a file says about its axes and voxels is found by ``psc.volumes.metadata``, which array of a file
is meant by ``find``.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from psc.errors import ConfigError, DataError, first_of
from psc.files import entries, nearest
from psc.volumes.containers import HDF5, Box, Container, MissingChunks, Source, Zarr
from psc.volumes.metadata import Triple, describe, multiscales, size3, tidy

RAW = ("volumes/raw", "raw", "stack", "main", "image", "data")
# beside the raw data, in the same file
OWN_LABELS = ("volumes/labels/neuron_ids", "labels", "label", "segmentation", "seg", "groundtruth")
LABELS = (*OWN_LABELS, "stack", "main", "data")

_SAMPLE = 32  # voxels along each axis of the boxes that are looked at of a volume
_GREY_MODES = {"L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16}  # Pillow's
_PHOTOMETRIC, _WHITE_IS_ZERO, _SAMPLE_FORMAT = 262, 0, 339  # tags of TIFF


class FileRecord(TypedDict):
    """What a run's record says about a file that it read; a stack or a Zarr counts as one."""

    name: str
    bytes: int
    sha256: str


class Volume:
    """A volume on disk: ``volume[z, y, x]`` with slices reads a box, ``volume[...]`` all of it.

    ``shape``, ``voxel_size`` and ``offset`` (nm; None if unknown) are those along z, y, x, whatever
    the order of the stored ``axes``; ``voxel_size_source`` says where the voxel size is from, or
    why it is unknown, ``notes`` what was guessed, ``where`` file and dataset. ``container`` is what
    it is in, under ``name``; None for slices.
    """

    def __init__(
        self,
        source: Source,
        notes: Sequence[str] = (),
        container: Container | None = None,
        name: str = "",
    ) -> None:
        self._source, self.where, self.dtype = source, source.where, source.dtype
        self.files, self.check = source.files, source.check
        self.container, self.name = container, name
        found = describe(source.shape, source.levels, source.where, source.names)
        self.axes, self.notes = found.axes, (*notes, *found.notes)
        self.voxel_size: Triple | None = found.voxel_size
        self.voxel_size_source, self.offset = found.source, found.offset
        self.shape = size3(source.shape[found.axes.index(name)] for name in "zyx")

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """The voxels (z, y, x) of a box, given as slices without steps and ``...``."""
        parts = list(index if isinstance(index, tuple) else (index,))
        rest = [slice(None)] * (3 - len(parts) + (Ellipsis in parts))
        gap = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
        parts[gap : gap + 1] = rest
        box = {
            name: slice(*part.indices(size)[:2])
            for name, part, size in zip("zyx", parts, self.shape, strict=True)
        }
        values = self._source.read(tuple(box.get(name, 0) for name in self.axes))
        stored = [name for name in self.axes if name in box]
        values = values.transpose([stored.index(name) for name in "zyx"])
        return values.astype(self.dtype, copy=False)

    def attribute(self, name: str) -> Any:
        """What the array, or else the nearest group around it, says of a name; else None."""
        return next((found[name] for _, found in self._source.levels if name in found), None)

    def file_record(self) -> FileRecord:
        """Size and SHA-256 of all files, one after the other as ``cat`` would give them."""
        files, digest, size = self.files(), hashlib.sha256(), 0
        for path in files:
            with path.open("rb") as file:
                while content := file.read(1 << 20):
                    digest.update(content)
                    size += len(content)
        if self.container is None:
            name = f"{files[0].parent.name}/*{files[0].suffix}"
        elif len(files) > 1:
            name = f"{self.container.path.name}/{self.name}"
        else:
            name = files[0].name
        return FileRecord(name=name, bytes=size, sha256=digest.hexdigest())


def open_volume(
    path: Path,
    key: str | None = None,
    *,
    labels: bool = False,
    missing_chunks: MissingChunks = "refuse",
    setting: str = "input_key",
) -> Volume:
    """Open a volume without reading its voxels.

    Args:
        path: an HDF5 file, a Zarr folder (also OME-Zarr), or a folder of PNG or TIFF slices; also
            a path into one of the former, as in ``em.h5/volumes/raw``.
        key: name of the dataset or image in HDF5 or Zarr; None: a known name, or the only one.
        labels: whether instance labels are looked for, not grey values.
        missing_chunks: what a chunk of a Zarr array means that is not there: "fill" = the array's
            fill value, as writers leave out empty chunks; "refuse" = an incomplete copy.
        setting: what the user calls ``key``, for messages.
    """
    if missing_chunks not in ("fill", "refuse"):
        raise ConfigError(f"missing_chunks={missing_chunks}: allowed are fill, refuse")
    path = path.expanduser().absolute()
    container = open_container(path, missing_chunks)
    if container is not None:
        inside = path.relative_to(container.path).as_posix()
        names, avoid = (LABELS, ()) if labels else (RAW, OWN_LABELS)
        try:
            name, *notes = find(container, f"{inside}/{key or ''}", names, setting, avoid)
            volume = Volume(container.open(name), notes, container, name)
        except (AttributeError, KeyError, TypeError) as error:  # JSON can be anything
            raise DataError(f"{path}: its metadata are not understood ({error!r})") from error
    elif key is not None:
        raise ConfigError(f"{setting}={key}, but {path} is a folder of images; leave it out")
    else:
        volume = Volume(ImageStack(path))
    if not labels and volume.dtype.kind == "b":
        raise DataError(f"{volume.where} holds {volume.dtype}; grey values are integers or floats")
    return volume


def open_container(path: Path, missing_chunks: MissingChunks = "refuse") -> Container | None:
    """The HDF5 or Zarr that a path is or leads into; None: a folder of something else."""
    for place in (path, *path.parents):
        if place.is_file():
            return HDF5(place)
        if place.is_dir():
            if (root := Zarr.root_of(place)) is not None:
                return Zarr(root, missing_chunks)
            if place == path:
                return None
            break
    raise DataError(f"{path} does not exist; {nearest(path)}")


def find(
    container: Container, key: str, names: Sequence[str], setting: str, avoid: Sequence[str] = ()
) -> tuple[str, ...]:
    """Which array is meant by a key ("" = nothing was said), and a line if that is a guess.

    A group means its image: of OME-Zarr the finest level, else what has one of ``names`` in it,
    else the only image in it but for ``avoid`` (as in what bioformats2raw writes), else a level
    called s0 or 0. ``setting`` is what the user calls the key.
    """
    start = tidy(key)
    below, node = f"{start}/".lstrip("/"), container.look(start)
    if node is not None and node.kind == "array":
        return (start,)
    candidates: dict[str, tuple[int, ...]] = {}
    if node is not None:
        if images := multiscales(node.attributes):
            finest = below + next(iter(images[0]), "")
            if container.look(finest) is None:
                raise DataError(f"{container.path}: {finest} of its multiscales is not there")
            note = f"{container.path}: {finest} was taken, the first of {len(images)} images"
            return (finest, note) if len(images) > 1 else (finest,)
        known = [name for name in names if container.look(below + name) is not None]
        if len(known) > 1:
            raise DataError(
                f"{container.path}: both {' and '.join(known)} could be meant; set {setting} to one"
            )
        if known:
            return find(container, below + known[0], (), setting)
        arrays = container.arrays(start)
        for name in (n for n, shape in arrays.items() if len(shape) >= 3 and n not in avoid):
            group = name.rpartition("/")[0]  # levels of an image are one candidate
            above = container.look(group) if group != start else None
            is_level = above is not None and multiscales(above.attributes)
            candidates.setdefault(group if is_level else name, arrays[name])
        if len(candidates) == 1:
            found = find(container, next(iter(candidates)), (), setting)[0]
            return found, f"{container.path}: {found} was taken, the only volume in it"
        for finest in (f"{below}s0", f"{below}0"):
            if finest in candidates and finest in arrays:
                return finest, f"{container.path}: {finest} was taken of {', '.join(candidates)}"
    what = f"no dataset {start!r}" if start else "no dataset of a known name"
    there = container.listing(candidates)
    raise DataError(f"{container.path} has {what}; set {setting} to one of {there}")


def sample(volume: Any) -> Iterator[npt.NDArray[Any]]:
    """Nine small boxes of a volume (D, H, W): its corners and its middle."""
    starts = [sorted({0, max(0, (n - _SAMPLE) // 2), max(0, n - _SAMPLE)}) for n in volume.shape]
    corners = itertools.product(*(axis[::2] for axis in starts))
    for corner in [*corners, tuple(axis[len(axis) // 2] for axis in starts)]:
        box = (slice(a, min(a + _SAMPLE, n)) for a, n in zip(corner, volume.shape, strict=True))
        yield np.ascontiguousarray(volume[tuple(box)])


def fingerprint(volume: Any) -> dict[str, Any]:
    """What tells one volume from another: shape, dtype, and the voxels of ``sample``.

    The path is no part of it, so that a volume may be moved; reading all of it would take as long
    as segmenting it.
    """
    digest = hashlib.sha256()
    for box in sample(volume):
        digest.update(box.tobytes())
    shape, dtype = list(volume.shape), str(volume.dtype)
    return {"shape": shape, "dtype": dtype, "voxels": digest.hexdigest()}


# A folder of slices -------------------------------------------------------------------------------


class ImageStack(Source):
    """The slices of a folder, a grey PNG or TIFF each; a box decodes all of those it touches."""

    def __init__(self, folder: Path) -> None:
        self.where, self._slices = str(folder), _slices(folder)
        first = _grey(self._slices[0])
        self.shape, self.dtype = (len(self._slices), *first.shape), first.dtype

    def read(self, box: Box) -> npt.NDArray[Any]:
        """See ``Source``."""
        z, y, x = (part for part in box if isinstance(part, slice))  # all axes are spatial
        planes = []
        for path in self._slices[z]:
            image = _grey(path)
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                raise DataError(
                    f"{path}: slice is {image.shape} {image.dtype}, but {self._slices[0].name} is"
                    f" {self.shape[1:]} {self.dtype}; all slices of a stack must be alike"
                )
            planes.append(image[y, x])
        return np.stack(planes)

    def files(self) -> list[Path]:
        """See ``Source``."""
        return self._slices


def _slices(folder: Path) -> list[Path]:
    """The images of a folder in natural order; refuses what is not one whole series."""
    there = entries(folder)
    found = [p for p in there if p.suffix.lower() in (".png", ".tif", ".tiff") and p.is_file()]
    pngs = [path for path in found if path.suffix.lower() == ".png"]
    if not found or 0 < len(pngs) < len(found):
        held = "both PNG and TIFF" if found else "neither PNG nor TIFF slices"
        some = first_of([path.name for path in there])
        raise DataError(f"{folder} holds {held}, but {some}; give a folder of the one or the other")
    parts = [re.split(r"([0-9]+)", path.stem) for path in found]
    for one, two in itertools.pairwise(parts):
        if len(one) + len(two) > 2 and one[::2] != two[::2]:
            names = f"{''.join(one)} and {''.join(two)}"
            raise DataError(f"{folder} holds more than one series of images, as {names}; keep one")
    # The slice's number is the first one that changes.
    columns = [[int(n) for n in column] for column in list(zip(*parts, strict=False))[1::2]]
    numbers = next((column for column in columns if len(set(column)) > 1), [])
    steps = np.diff(numbers)
    # A constant step other than 1 is somebody's choice; an uneven one is an unfinished copy.
    if steps.size and (steps.min() < 1 or steps.min() != steps.max()):
        gap = int(np.argmin(steps) if steps.min() < 1 else np.argmax(steps != steps.min()))
        names = f"{found[gap].name} and {found[gap + 1].name}"
        what = f"slices are missing between {names}" if steps.min() > 0 else f"{names} are the same"
        raise DataError(f"{folder}: {what}; copy the folder again, or renumber it without gaps")
    return found


def _grey(path: Path) -> npt.NDArray[Any]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # sections of EM exceed it
    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            pages, kind = getattr(image, "n_frames", 1), tags.get(_SAMPLE_FORMAT, 1)
            # Pillow reads signed bytes as unsigned, and some big-endian numbers wrongly.
            if image.mode not in _GREY_MODES or pages != 1 or kind not in (1, (1,)):
                raise DataError(
                    f"{path}: image mode is {image.mode} with {pages} pages, but a slice must be"
                    " one grey page with 8 or 16 bits, unsigned; convert the images"
                )
            values = np.asarray(image).astype(_GREY_MODES[image.mode], copy=False)
            inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode != "L"  # is done
            return np.iinfo(values.dtype).max - values if inverted else values
    except DataError:
        raise
    except Exception as error:  # Pillow raises what it likes
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        raise DataError(f"{path} is not a readable image ({error}); copy it again") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
