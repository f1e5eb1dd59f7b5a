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
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.em.labels import relabel_consecutive
from psc.em.settings import FibsemConfig, SlabConfig
from psc.em.synthetic import write_synthetic_volume
from psc.errors import ConfigError, DataError, first_of
from psc.files import entries, locate, matching, nearest
from psc.training.records import kind_of
from psc.training.settings import PARTS
from psc.volumes.containers import MissingChunks, Zarr
from psc.volumes.intensity import full_scale, settled_range
from psc.volumes.metadata import Size3, Triple, in_nm, size3
from psc.volumes.reading import (
    OWN_LABELS,
    FileRecord,
    Volume,
    fingerprint,
    open_container,
    open_volume,
    sample,
)

log = logging.getLogger(__name__)

_RAW_FILES = ("grayscale_maps.h5", "raw.h5")
_RAW_FOLDER = "grayscale_maps"
_LABELS_FILE = "groundtruth.h5"
_CONTEXT = 128  # voxels read around labels of a part: more than a network sees around its output
_RESERVED = np.uint64(2**64 - 3)
"""From here on ids are no bodies: outside, invalid and transparent of imglib2's labels (CREMI)."""


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """An image volume in memory; voxel size and offset (z, y, x) in nm, None if it is not said."""

    raw: npt.NDArray[Any]
    """Grey values (D, H, W), in the file's dtype: where labels are, and some context around."""
    labels: npt.NDArray[np.uint64]  # instance ids (d, h, w), 0 = background or unknown
    voxel_size: Triple | None
    name: str  # for records and messages
    synthetic: bool  # the file says that it was generated
    files: tuple[FileRecord, ...]  # every file that was read
    offset: Triple | None = None  # where the file's first voxel lies
    start: Size3 = (0, 0, 0)  # voxel of the file at which raw begins
    first: Size3 = (0, 0, 0)  # voxel of the file at which the labels begin
    source: str = ""  # file and dataset of raw
    content: str = ""  # the same in every copy of raw, in whichever file: its fingerprint
    reserved: int = 0  # voxels of ids that are no bodies, which became 0
    said: tuple[str, ...] = ()  # what was read and what it is taken for, a line each


@dataclass(frozen=True, eq=False)
class Region:
    """The sections ``z_start <= z < z_stop`` of a volume's labels, counted as in its file of raw.

    Labels are used from inside the slab only. Grey values carry no annotation, so a network's
    context may reach across the slab's border; without ``raw_context`` it is reflected there.
    """

    volume: LabelledVolume
    z_start: int | None = None  # None = from the first
    z_stop: int | None = None  # None = up to the end
    raw_context: bool = True

    def __post_init__(self) -> None:
        low, high = self.volume.first[0], self.volume.first[0] + len(self.volume.labels)
        if not low <= self.start < self.stop <= high:
            raise ConfigError(
                f"{self.volume.name}: slab z = {self.start} to {self.z_stop} is empty or not"
                f" inside the volume; give {low} <= start < stop <= {high}"
            )

    @property
    def start(self) -> int:
        """The first section, as a number."""
        return self.volume.first[0] if self.z_start is None else self.z_start

    @property
    def stop(self) -> int:
        """One after the last section, as a number."""
        end = self.volume.first[0] + len(self.volume.labels)
        return end if self.z_stop is None else self.z_stop

    @property
    def shape(self) -> Size3:
        """Shape of the slab in voxels (z, y, x)."""
        return size3(self.labels.shape)

    @property
    def first(self) -> Size3:
        """Its first voxel, in the file."""
        return self.start, *self.volume.first[1:]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where it lies in the volume's raw."""
        begin = (a - b for a, b in zip(self.first, self.volume.start, strict=True))
        z, y, x = (slice(a, a + n) for a, n in zip(begin, self.shape, strict=True))
        return z, y, x

    @property
    def raw(self) -> npt.NDArray[Any]:
        """Its grey values (D, H, W), without context."""
        return self.volume.raw[self.box]

    @property
    def labels(self) -> npt.NDArray[np.uint64]:
        """Its labels (D, H, W), with the file's ids: pieces that connect outside stay one body."""
        first = self.volume.first[0]
        return self.volume.labels[self.start - first : self.stop - first]

    def __str__(self) -> str:
        """Name and sections, for messages."""
        return f"{self.volume.name}[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Splits:
    """Regions to train on, to choose checkpoints and thresholds on, and to test on."""

    parts: Mapping[str, tuple[Region, ...]]
    kind: str  # "real", "real sample" or "synthetic"
    files: tuple[Mapping[str, Any], ...]  # name, bytes and sha256 of every file read

    def record(self) -> dict[str, Any]:
        """What result.json says about the data."""
        return {
            "kind": self.kind,
            "splits": {name: [str(region) for region in part] for name, part in self.parts.items()},
            "files": [dict(file) for file in self.files],
        }

    def reads(self) -> list[str]:
        """What was read, and how it is split, a line each."""
        volumes = {id(r.volume): r.volume for part in self.parts.values() for r in part}
        lines = [f"read: {line}" for volume in volumes.values() for line in volume.said]
        for name, part in self.parts.items():
            voxels = sum(math.prod(region.shape) for region in part)
            slabs = ", ".join(map(str, part))
            lines.append(f"{name}: {slabs} (sections along z), {voxels:,} voxels with labels")
        return lines


def prepare_synthetic(config: FibsemConfig) -> None:
    """Write the data set's synthetic volumes where they are not on disk yet."""
    for slab in (*config.train, *config.validation, *config.test):
        if slab.synthetic is not None:
            depth, height, width = slab.synthetic.shape
            write_synthetic_volume(locate(slab.raw), (depth, height, width), slab.synthetic.seed)


def read_splits(config: FibsemConfig) -> Splits:
    """Read every volume once and cut it into the configured slabs."""
    volumes: dict[str, LabelledVolume] = {}

    def read(slab: SlabConfig) -> LabelledVolume:
        key = str(replace(slab, z=None))
        if key not in volumes:
            volumes[key] = _read(slab, config)
        return volumes[key]

    parts: dict[str, list[Region]] = {name: [] for name in PARTS}
    context = config.context_across_border
    if config.raw is not None:
        for slab in _expanded(config.volume):
            volume = read(slab)
            for regions, sections in zip(parts.values(), _cut(volume, config.shares), strict=True):
                regions.append(Region(volume, *sections, raw_context=context))
    for name, regions in parts.items():
        for slab in itertools.chain(*map(_expanded, getattr(config, name))):
            start, stop = slab.z or (None, None)
            regions.append(Region(read(slab), start, stop, raw_context=context))
    check_disjoint(parts)
    for region in itertools.chain(*parts.values()):
        if not region.labels.any():
            raise DataError(
                f"{region}: every label is 0 there, and teaches and tests nothing; choose sections"
                " with labels"
            )
        if (region.raw == region.raw.flat[0]).all():
            raise DataError(f"{region}: every grey value is {region.raw.flat[0]}; choose others")
    synthetic = any(volume.synthetic for volume in volumes.values())
    own = config.raw is not None or config.name == "own_em"
    kind = kind_of(config, synthetic=synthetic, own=own)
    files = {file["sha256"]: file for volume in volumes.values() for file in volume.files}
    return Splits({name: tuple(p) for name, p in parts.items()}, kind, tuple(files.values()))


def _cut(volume: LabelledVolume, shares: Sequence[float]) -> list[tuple[int, int]]:
    """Sections of the three parts of a volume, in this order along z."""
    sections = len(volume.labels)
    ends = [round(sections * end) for end in itertools.accumulate(shares, initial=0.0)]
    if len(set(ends)) < len(ends):
        raise DataError(
            f"{volume.source} has {sections} sections with labels, too few for"
            f" dataset.shares={list(shares)}"
        )
    first = volume.first[0]
    return [(first + start, first + stop) for start, stop in itertools.pairwise(ends)]


def _expanded(slab: SlabConfig) -> list[SlabConfig]:
    """One slab for each volume that a pattern with * stands for.

    A * in the path of the labels is what the same * of raw stands for.
    """
    if "*" not in slab.raw:
        return [slab]
    pattern = locate(slab.raw)
    found: list[SlabConfig] = []
    regex = re.compile(re.escape(str(pattern)).replace(r"\*", "([^/]*)"))
    there = matching(pattern)
    for path in there:
        names = regex.fullmatch(path)
        labels, stars = slab.labels, (slab.labels or "").count("*")
        if labels is not None and names is not None and stars == slab.raw.count("*"):
            for name in names.groups():
                labels = labels.replace("*", name, 1)
        elif labels is not None and len(there) > 1:
            raise ConfigError(
                f"labels={slab.labels} stands for one file, raw={slab.raw} for {len(there)}; give"
                " labels as many * as raw has"
            )
        found.append(replace(slab, raw=path, labels=labels))
    if not found:
        raise DataError(f"{slab.raw} matches nothing; {nearest(pattern)}")
    return found


def _read(slab: SlabConfig, config: FibsemConfig) -> LabelledVolume:
    raw = locate(slab.raw)
    if config.name.startswith("fibsem") and not raw.exists():
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
        labels_offset=slab.labels_offset,
        missing_chunks=config.missing_chunks,  # type: ignore[arg-type]  # read_volume checks it
    )
    return _settled(volume, config)


def _settled(volume: LabelledVolume, config: FibsemConfig) -> LabelledVolume:
    """With the data set's voxel size where the file has none; says what everything is taken for."""
    name, said = volume.name, list(volume.said)
    _, bodies = relabel_consecutive(volume.labels)
    unknown = 1 - np.count_nonzero(volume.labels) / volume.labels.size
    meaning = "unknown, not learned" if config.zero_label == "ignore" else "cell boundary"
    said.append(
        f"{name}: {bodies.size - 1:,} bodies; {unknown:.1%} of the voxels have label 0, {meaning}"
        f" (dataset.zero_label={config.zero_label})"
    )
    if volume.reserved and config.zero_label == "boundary":
        raise DataError(
            f"{volume.source}: its labels have {volume.reserved:,} voxels of CREMI's transparent or"
            " outside, which nobody knows, and dataset.zero_label=boundary would teach them as"
            " boundary; set zero_label=ignore, or give them to bodies"
        )
    if bodies.size == 2:
        log.warning(
            "%s: all labels are %d: if they are a mask, they teach no borders between neurons",
            *(volume.source, bodies[-1]),
        )
    found, given = volume.voxel_size, config.voxel_size
    if found is None and given is None:
        said.append(
            f"{name}: voxel size unknown, taken as the same along z, y and x"
            " (dataset.voxel_size=[z,y,x] in nm settles it)"
        )
    elif found is None and given is not None:
        found = given[0], given[1], given[2]
        said.append(f"{name}: voxels of {in_nm(found)} (dataset.voxel_size)")
    elif found is not None and given is not None and list(found) != given:
        log.warning(
            "%s: its voxels are %s, as it says itself; dataset.voxel_size=%s is for files that say"
            " nothing, and not used",
            *(volume.source, in_nm(found), given),
        )
    # Of floats every value counts: one beyond [0, 1] would be refused only when it is predicted
    extremes = [volume.raw.min(), volume.raw.max()] if volume.raw.dtype.kind == "f" else []
    chosen, note = settled_range(
        [*sample(volume.raw), np.array(extremes, volume.raw.dtype)],
        config.intensity_range,
        where=volume.source,
        setting="dataset.intensity_range",
        strict=False,
    )
    if note:
        log.warning("%s", note)
    dark, bright = chosen or (0, full_scale(volume.raw.dtype))
    origin = "dataset.intensity_range" if chosen else f"the range of {volume.raw.dtype}"
    said.append(f"{name}: grey values {dark:g} to {bright:g} become 0 to 1 ({origin})")
    return replace(volume, voxel_size=found, said=tuple(said))


def check_disjoint(splits: Mapping[str, Sequence[Region]]) -> None:
    """Make sure that no section of labelled raw data belongs to two splits, regions by name.

    A copy of the volume in another file or another layout is found by its content. Of a part of it
    sections are compared, which finds them if the labels are of the same columns; those of one
    constant grey value are left out of that.
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
    """Sections of a that b has too, as z in a's file; ``digests`` keeps what was computed."""
    one, two = a.volume, b.volume
    if one is two or (one.content and one.content == two.content):
        edges = zip(a.first, a.shape, b.first, b.shape, strict=True)
        common = [range(max(p, q), min(p + n, q + m)) for p, n, q, m in edges]
        return list(common[0]) if all(common) else []
    for volume, region in ((one, a), (two, b)):
        if id(volume) not in digests:
            _, y, x = region.box
            digests[id(volume)] = [digest_of(plane[y, x]) for plane in volume.raw]
    theirs = set(digests[id(two)][b.box[0]]) - {None}
    ours = digests[id(one)]
    return [z for z in range(a.start, a.stop) if ours[z - one.start[0]] in theirs]


def digest_of(plane: npt.NDArray[Any]) -> bytes | None:
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
    labels_offset: Sequence[int] | None = None,
    missing_chunks: MissingChunks = "refuse",
) -> LabelledVolume:
    """Read a volume into memory; of raw with labels of a part, that part and context around it.

    Both are what ``psc.volumes.reading.open_volume`` reads, or a folder in NeuroProof's or FIB-25's
    layout; labels None are beside the raw data in the same file, or in ``groundtruth.h5`` of the
    folder. Keys are for what is not recognised. ``labels_offset``: voxel (z, y, x) of raw at which
    the labels begin; None: as their file says, by CREMI's attribute ``offset`` or a translation of
    OME-Zarr, else at the first one.
    """
    source = _source_of(raw)
    grey = open_volume(source, raw_key, missing_chunks=missing_chunks, setting="raw_key")
    truth = _labels_of(raw, source, labels, labels_key, missing_chunks)
    parts = [grey, truth]
    said = [note for part in parts for note in part.notes]
    shape = " × ".join(map(str, grey.shape))
    voxels = next((part for part in parts if part.voxel_size), None)
    size = "" if voxels is None else f", {in_nm(voxels.voxel_size)} ({voxels.voxel_size_source})"
    said.append(f"{grey.where}: {shape} voxels (z, y, x) of {grey.dtype}{size}")
    box = _box_of(grey, truth, labels_offset)
    read = tuple(
        slice(max(0, b.start - _CONTEXT), min(b.stop + _CONTEXT, n))
        for b, n in zip(box, grey.shape, strict=True)
    )
    bodies, reserved, notes = _bodies(truth)
    said += [f"{truth.where}: labels of {span(box)}", *notes]
    return LabelledVolume(
        raw=_finite(grey, read),
        labels=bodies,
        voxel_size=None if voxels is None else voxels.voxel_size,
        name=raw.parent.name if raw.name in _RAW_FILES else raw.stem,
        synthetic=any(bool(part.attribute("synthetic")) for part in parts),
        files=tuple(p.file_record() for p in {tuple(p.files()): p for p in parts}.values()),
        offset=grey.offset or (None if truth.offset is None else (0.0, 0.0, 0.0)),
        start=size3(part.start for part in read),
        first=size3(part.start for part in box),
        source=grey.where,
        content=str(fingerprint(grey)),
        reserved=reserved,
        said=tuple(said),
    )


def span(box: Sequence[slice]) -> str:
    """A box in words."""
    return ", ".join(f"{a} {part.start}:{part.stop}" for a, part in zip("zyx", box, strict=True))


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
            f" (*.png, *.tif) in this folder, found {first_of(there)}; give"
            " the path of the raw data itself"
        )
    return candidates[0]


def _labels_of(
    raw: Path, source: Path, labels: Path | None, key: str | None, missing: MissingChunks
) -> Volume:
    """The labels that were given, else those that the layout of ``raw`` has."""
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
    raise DataError(f"{raw} has no labels; set dataset.*.labels and labels_key to where they are")


def _box_of(raw: Volume, labels: Volume, given: Sequence[int] | None) -> list[slice]:
    """The voxels of raw that have labels; ``given``: where they begin, as the user says."""
    if raw.where == labels.where:
        raise DataError(f"{raw.where} would be raw and labels; set labels_key to another dataset")
    one, two = raw.voxel_size, labels.voxel_size
    if one is not None and two is not None and not np.allclose(one, two, rtol=1e-4):
        raise DataError(
            f"{raw.where} has a resolution of {one} nm, but {labels.where} of {two} nm; resample"
            " one of them or correct the attribute"
        )
    first, voxel = np.zeros(3), one or two
    remedy = "correct the attribute offset of one of them, or say it by labels_offset=[z,y,x]"
    if given is not None:
        first, remedy = np.array(given, dtype=np.float64), "correct labels_offset, voxels (z, y, x)"
    elif labels.offset is not None:
        shift = np.subtract(labels.offset, raw.offset or (0.0, 0.0, 0.0))
        if voxel is None and shift.any():
            raise DataError(
                f"{labels.where} begins {shift.tolist()} nm behind {raw.where}, but neither says a"
                " voxel size; say where the labels begin: labels_offset=[z,y,x] in voxels of raw"
            )
        first = shift / (voxel or (1.0, 1.0, 1.0))
    elif raw.shape != labels.shape:
        raise DataError(
            f"{raw.where} has shape {raw.shape}, but {labels.where} has shape {labels.shape}; crop"
            " both to the same region, or say where the labels begin: labels_offset=[z,y,x] in"
            " voxels of raw, or their attribute offset in nm"
        )
    start = first.round().astype(int)
    stop = start + labels.shape
    if abs(first - start).max() > 0.01 or start.min() < 0 or (stop > raw.shape).any():
        raise DataError(
            f"{labels.where}: shape {labels.shape} at an offset of {first.tolist()} voxels does not"
            f" lie in {raw.where}, shape {raw.shape}; {remedy}"
        )
    return [slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)]


def _finite(volume: Volume, box: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Grey values; refuses floats that are none, plane by plane: no mask as large as the volume."""
    values = np.ascontiguousarray(volume[box])
    for z, plane in enumerate(values if values.dtype.kind == "f" else ()):
        if not np.isfinite(plane).all():
            where = f"{volume.where}: NaN or infinity in slice z = {z}"
            raise DataError(f"{where}; repair the volume first")
    return values


def _bodies(labels: Volume) -> tuple[npt.NDArray[np.uint64], int, list[str]]:
    """Ids of bodies, also where the file holds supervoxels; how many were none; what changed."""
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
        where = f"{labels.container.path} ({name})"
        bodies = bodies_from_supervoxels(ids, rows, where)
        return bodies, 0, [f"{where}: supervoxels became bodies"]
    ids = ids.astype(np.uint64, copy=False)
    reserved = ids >= _RESERVED
    if not (count := int(np.count_nonzero(reserved))):
        return ids, 0, []
    ids = np.where(reserved, np.uint64(0), ids)
    note = f"{labels.where}: {count:,} voxels of CREMI's transparent or outside became 0"
    return ids, count, [note]


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
        twice = first_of(repeated.tolist())
        raise DataError(f"{where}: supervoxels with two bodies: {twice}; keep one row for each")
    dense, supervoxel_ids = relabel_consecutive(supervoxels)
    present = supervoxel_ids[1:]
    missing = present[~np.isin(present, known)]
    if missing.size:
        raise DataError(
            f"{where}: {missing.size} supervoxels have no body: {first_of(missing.tolist())}; the"
            " map belongs to another segmentation, or the file is incomplete"
        )
    bodies = np.zeros(supervoxel_ids.size, dtype=np.uint64)
    bodies[1:] = rows[first[np.searchsorted(known, present)], 1]
    return bodies[dense]
