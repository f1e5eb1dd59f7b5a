"""EM data: volumes with instance labels, in the layouts they are published in, cut into slabs.

Recognised without being told any key:

* CREMI: one file with ``volumes/raw`` and ``volumes/labels/neuron_ids`` (https://cremi.org/data);
* FIB-25 as published with flood-filling networks (Januszewski et al., Nature Methods 2018): raw in
  ``grayscale_maps.h5`` or ``raw.h5``, labels in ``groundtruth.h5``;
* NeuroProof's examples (Parag et al., PLoS ONE 2015): ``grayscale_maps/*.png`` and
  ``groundtruth.h5``;
* gala's examples (Nunez-Iglesias et al., PLoS ONE 2013): ``stack`` in each of two files.

Where ``stack`` lies beside ``transforms``, ``stack`` holds supervoxels and ``transforms`` maps each
of them to its body; without that map training would learn borders that are not there.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.em.labels import relabel_consecutive
from psc.em.settings import FibsemConfig, SlabConfig
from psc.em.synthetic import write_synthetic_volume
from psc.errors import ConfigError, DataError
from psc.files import PROJECT, WORKPLACE, entries
from psc.volumes.containers import MissingChunks, Zarr
from psc.volumes.intensity import settled_range
from psc.volumes.metadata import Triple
from psc.volumes.reading import OWN_LABELS, FileRecord, Volume, open_container, open_volume, sample

log = logging.getLogger(__name__)

REAL, SAMPLE, SYNTHETIC = "real", "real sample", "synthetic"
"""Kinds of data; only the first may fill a cell of the paper's tables."""

_RAW_FILES = ("grayscale_maps.h5", "raw.h5")
_RAW_FOLDER = "grayscale_maps"
_LABELS_FILE = "groundtruth.h5"
_MOST_LISTED = 10


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """An image volume in memory; voxel size and offset (z, y, x) in nm, None if it is not said."""

    raw: npt.NDArray[Any]  # grey values (D, H, W), in the file's dtype
    labels: npt.NDArray[np.uint64] | None
    """Instance ids (D, H, W), 0 = background or unknown; None if there are none."""
    voxel_size: Triple | None
    name: str  # for records and messages
    synthetic: bool  # the file says that it was generated
    files: tuple[FileRecord, ...]  # every file that was read
    offset: Triple | None = None  # where the first voxel lies


@dataclass(frozen=True, eq=False)
class Region:
    """The slices ``z_start <= z < z_stop`` of a volume.

    Labels are used from inside the slab only. Grey values carry no annotation, so a network's
    context may reach across the slab's border; without ``raw_context`` it is reflected there.
    """

    volume: LabelledVolume
    z_start: int = 0
    z_stop: int | None = None  # None = up to the end
    raw_context: bool = True

    def __post_init__(self) -> None:
        depth = len(self.volume.raw)
        if not 0 <= self.z_start < self.stop <= depth:
            raise ConfigError(
                f"{self.volume.name}: slab z = {self.z_start} to {self.z_stop} is empty or not"
                f" inside the volume; give 0 <= start < stop <= {depth}"
            )

    @property
    def stop(self) -> int:
        """One after the last slice, as a number."""
        return len(self.volume.raw) if self.z_stop is None else self.z_stop

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the slab in voxels (z, y, x)."""
        _, height, width = self.volume.raw.shape
        return self.stop - self.z_start, height, width

    def __str__(self) -> str:
        """Name and slices, for messages."""
        return f"{self.volume.name}[{self.z_start}:{self.stop}]"


@dataclass(frozen=True)
class Splits:
    """Regions to train on, to choose on, and to test on.

    Attributes:
        train: regions for gradient steps.
        validation: regions for checkpoints and thresholds.
        test: regions for the reported numbers.
        kind: "real", "real sample" or "synthetic".
        files: name, bytes and sha256 of every file read.
    """

    train: tuple[Region, ...]
    validation: tuple[Region, ...]
    test: tuple[Region, ...]
    kind: str
    files: tuple[Mapping[str, Any], ...]

    def record(self) -> dict[str, Any]:
        """What result.json says about the data."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "kind": self.kind,
            "splits": {name: [str(region) for region in part] for name, part in parts.items()},
            "files": [dict(file) for file in self.files],
        }


def locate(path: str) -> Path:
    """A configured path: ``$VARIABLE`` expanded, relative ones tried from the project too."""
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise DataError(f"{path}: the environment variable is not set; export it, or give a path")
    found = Path(expanded).expanduser()
    if not found.is_absolute() and not found.exists():
        return PROJECT / found if (PROJECT / found).exists() else WORKPLACE / found
    return found


def prepare_synthetic(config: FibsemConfig) -> None:
    """Write the data set's synthetic volumes where they are not on disk yet."""
    for slab in (*config.train, *config.validation, *config.test):
        if slab.synthetic is not None:
            depth, height, width = slab.synthetic.shape
            write_synthetic_volume(locate(slab.raw), (depth, height, width), slab.synthetic.seed)


def read_splits(config: FibsemConfig) -> Splits:
    """Read every volume once and cut it into the configured slabs."""
    volumes: dict[tuple[Any, ...], LabelledVolume] = {}

    def region(slab: SlabConfig) -> Region:
        key = (slab.raw, slab.labels, slab.raw_key, slab.labels_key)
        if key not in volumes:
            volumes[key] = _read(slab, config)
        start, stop = slab.z or (0, None)
        return Region(volumes[key], start, stop, raw_context=config.context_across_border)

    def regions(slabs: Sequence[SlabConfig]) -> tuple[Region, ...]:
        return tuple(region(slab) for slab in slabs)

    train, validation, test = map(regions, (config.train, config.validation, config.test))
    check_disjoint({"train": train, "validation": validation, "test": test})
    synthetic = any(volume.synthetic for volume in volumes.values())
    kind = SYNTHETIC if synthetic else SAMPLE if config.sample else REAL
    files = {file["sha256"]: file for volume in volumes.values() for file in volume.files}
    return Splits(train, validation, test, kind, tuple(files.values()))


def _read(slab: SlabConfig, config: FibsemConfig) -> LabelledVolume:
    raw = locate(slab.raw)
    if not raw.exists():
        raise DataError(
            f"{raw} does not exist (dataset={config.name}). data/README.md says how to get the "
            "data; dataset=fibsem_sample uses the sample in $PSC_SAMPLE_DATA, "
            "dataset=fibsem_synthetic needs no data"
        )
    volume = read_volume(
        raw,
        locate(slab.labels) if slab.labels is not None else None,
        raw_key=slab.raw_key,
        labels_key=slab.labels_key,
        missing_chunks=config.missing_chunks,  # type: ignore[arg-type]  # read_volume checks it
    )
    if volume.labels is None:
        raise DataError(
            f"{raw} has no labels; set dataset.*.labels and labels_key to where they are"
        )
    if volume.voxel_size is None and config.voxel_size is not None:
        log.info("%s: no voxel size in it; dataset.voxel_size=%s nm", raw, config.voxel_size)
        z, y, x = config.voxel_size
        volume = replace(volume, voxel_size=(z, y, x))
    _, note = settled_range(
        sample(volume.raw),
        config.intensity_range,
        where=str(raw),
        setting="dataset.intensity_range",
        strict=False,
    )
    if note:
        log.warning("%s", note)
    return volume


def check_disjoint(splits: Mapping[str, Sequence[Region]]) -> None:
    """Make sure that no slice of raw data belongs to two splits.

    Slices are compared by content, so a copy of the volume in another file or another layout is
    found as well. Slices of one constant grey value are left out of that comparison. ``splits`` are
    regions by the name of the split, as in ``{"train": [...], "test": [...]}``.
    """
    digests: dict[int, list[bytes | None]] = {}
    for (first, ours), (second, theirs) in itertools.combinations(splits.items(), 2):
        for a, b in itertools.product(ours, theirs):
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


def read_volume(
    raw: Path,
    labels: Path | None = None,
    *,
    raw_key: str | None = None,
    labels_key: str | None = None,
    read_labels: bool = True,
    missing_chunks: MissingChunks = "refuse",
) -> LabelledVolume:
    """Read a volume into memory; labels of a part, placed by their offset, leave that part of it.

    Args:
        raw: what ``psc.volumes.reading.open_volume`` reads, or a folder in NeuroProof's or FIB-25's
            layout.
        labels: likewise. None means where the layout has them: beside the raw data in the same
            file, or in ``groundtruth.h5`` of the folder.
        raw_key: dataset of the raw data, if it is not recognised.
        labels_key: the same for the labels.
        read_labels: False leaves labels unread even where there are some.
        missing_chunks: see ``psc.volumes.reading.open_volume``.

    Raises:
        DataError: a file is missing, damaged or not what it should be; raw and labels do not lie in
            the same place; raw is not finite; labels are not integers or negative; a supervoxel has
            no body.
    """
    source = _source_of(raw)
    grey = open_volume(source, raw_key, missing_chunks=missing_chunks, setting="raw_key")
    truth = _labels_of(raw, source, labels, labels_key, missing_chunks) if read_labels else None
    parts = [grey] if truth is None else [grey, truth]
    for note in (note for part in parts for note in part.notes):
        log.warning("%s", note)
    return LabelledVolume(
        raw=_finite(grey, (...,) if truth is None else _box_of(grey, truth)),
        labels=None if truth is None else _bodies(truth),
        voxel_size=next((part.voxel_size for part in parts if part.voxel_size), None),
        name=raw.parent.name if raw.name in _RAW_FILES else raw.stem,
        synthetic=any(bool(part.attribute("synthetic")) for part in parts),
        files=tuple(p.file_record() for p in {tuple(p.files()): p for p in parts}.values()),
        offset=parts[-1].offset or grey.offset,
    )


def _source_of(raw: Path) -> Path:
    """The file or the folder of slices that holds the raw data."""
    if not raw.is_dir() or Zarr.root_of(raw) is not None:
        return raw
    there = [path.name for path in entries(raw)]
    candidates = [raw / name for name in (*_RAW_FILES, _RAW_FOLDER) if (raw / name).exists()]
    if any(name.lower().endswith((".png", ".tif", ".tiff")) for name in there):
        candidates.append(raw)
    if len(candidates) != 1:
        raise DataError(
            f"{raw}: expected exactly one of {', '.join(_RAW_FILES)}, {_RAW_FOLDER}/ or slices"
            f" (*.png, *.tif) in this folder, found {', '.join(there[:_MOST_LISTED]) or 'nothing'};"
            " give the path of the raw data itself"
        )
    return candidates[0]


def _labels_of(
    raw: Path, source: Path, labels: Path | None, key: str | None, missing: MissingChunks
) -> Volume | None:
    """The labels that were given, else those that the layout of ``raw`` has, if any."""
    if labels is None and raw.is_dir() and (raw / _LABELS_FILE).exists():
        labels = raw / _LABELS_FILE
    if labels is None and (container := open_container(source.absolute())) is not None:
        own = [name for name in OWN_LABELS if container.look(name) is not None]
        if key or own:
            labels, key = container.path, key or (own[0] if len(own) == 1 else None)
    if labels is not None:
        return open_volume(labels, key, labels=True, missing_chunks=missing, setting="labels_key")
    if key:
        raise DataError(f"{raw}: labels_key is {key!r}, but no labels file was given")
    return None


def _box_of(raw: Volume, labels: Volume) -> tuple[slice, slice, slice]:
    """The voxels of raw that have labels."""
    if raw.where == labels.where:
        raise DataError(f"{raw.where} would be raw and labels; set labels_key to another dataset")
    one, two = raw.voxel_size, labels.voxel_size
    if one is not None and two is not None and not np.allclose(one, two, rtol=1e-4):
        raise DataError(
            f"{raw.where} has a resolution of {one} nm, but {labels.where} of {two} nm; resample"
            " one of them or correct the attribute"
        )
    first, voxel = np.zeros(3), one or two
    if labels.offset is not None and voxel is not None:
        first = (np.array(labels.offset) - (raw.offset or (0, 0, 0))) / voxel
    elif raw.shape != labels.shape:
        raise DataError(
            f"{raw.where} has shape {raw.shape}, but {labels.where} has shape {labels.shape}; crop"
            " both to the same region, or say where the labels begin by their attribute offset"
        )
    start = first.round().astype(int)
    stop = start + labels.shape
    if abs(first - start).max() > 0.01 or start.min() < 0 or (stop > raw.shape).any():
        raise DataError(
            f"{labels.where}: shape {labels.shape} at an offset of {first.tolist()} voxels does not"
            f" lie in {raw.where}, shape {raw.shape}; correct the attribute offset of one of them"
        )
    z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    if raw.shape != labels.shape:
        span = ", ".join(f"{part.start}:{part.stop}" for part in (z, y, x))
        log.warning("%s: labels are of [%s] only, and so is all that is read", raw.where, span)
    return z, y, x


def _finite(volume: Volume, box: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Grey values; refuses floats that are none, plane by plane: no mask as large as the volume."""
    values = np.ascontiguousarray(volume[box])
    for z, plane in enumerate(values if values.dtype.kind == "f" else ()):
        if not np.isfinite(plane).all():
            where = f"{volume.where}: NaN or infinity in slice z = {z}"
            raise DataError(f"{where}; repair the volume first")
    return values


def _bodies(labels: Volume) -> npt.NDArray[np.uint64]:
    """Instance ids, of bodies where the file holds supervoxels and their map."""
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{labels.where}: labels are {labels.dtype}, but instance ids must be integers;"
            " convert them, after checking that no id was rounded"
        )
    ids = labels[...]
    if ids.dtype.kind == "i" and (lowest := ids.min()) < 0:
        position = tuple(int(i) for i in np.unravel_index(ids.argmin(), ids.shape))
        raise DataError(
            f"{labels.where}: negative label {lowest} at (z, y, x) = {position}; set unknown voxels"
            " to 0"
        )
    name = f"{labels.name.rpartition('/')[0]}/transforms".lstrip("/")  # beside its dataset
    if labels.container is not None and labels.container.look(name) is not None:
        rows = labels.container.open(name).values()
        return bodies_from_supervoxels(ids, rows, f"{labels.container.path} ({name})")
    return ids.astype(np.uint64, copy=False)


def bodies_from_supervoxels(
    supervoxels: npt.NDArray[np.integer[Any]], transforms: npt.NDArray[Any], where: str
) -> npt.NDArray[np.uint64]:
    """Replace the supervoxel ids of a volume by the ids of the bodies they belong to; 0 stays 0.

    ``transforms``, named ``where`` in messages, are integer rows (supervoxel, body).
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
    rest = ", …" if ids.size > _MOST_LISTED else ""
    return ", ".join(str(i) for i in np.sort(ids)[:_MOST_LISTED]) + rest
