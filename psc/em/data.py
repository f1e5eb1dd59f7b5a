"""The EM data sets: slabs of volumes, random training patches, fixed validation patches."""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from psc.em.augmentation import Augmentation
from psc.em.settings import FibsemConfig, SlabConfig
from psc.em.synthetic import write_synthetic_volume
from psc.errors import ConfigError, DataError
from psc.files import PROJECT
from psc.volumes.intensity import settled_range
from psc.volumes.labelled import LabelledVolume, Region, check_disjoint, read_volume
from psc.volumes.patches import PatchCutter, Slab, Triple, size_triple
from psc.volumes.reading import sample

log = logging.getLogger(__name__)

REAL, SAMPLE, SYNTHETIC = "real", "real sample", "synthetic"
"""Kinds of data; only the first may fill a cell of the paper's tables."""


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
    """A configured path: ``$VARIABLE`` expanded, relative ones tried from the checkout too."""
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise DataError(f"{path}: the environment variable is not set; export it, or give a path")
    found = Path(expanded).expanduser()
    if not found.is_absolute() and not found.exists():
        return PROJECT / found
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


class AffinityPatches(Dataset[dict[str, torch.Tensor]]):
    """Random patches with the affinities the network shall predict.

    Patch i is a function of (seed, i) and of nothing else: not of workers, not of what was drawn
    before, so a resumed run goes on with the patches it would have seen. All positions of all
    regions are equally likely. The output box lies inside the slab; along each axis the input
    window stays inside the volume if it fits, as in the published training, else it is reflected;
    with a deformation it keeps the distance from the border that its sources reach beyond it, where
    there is room. Labels that come from outside the slab are unknown and masked.

    Args:
        regions: slabs with labels.
        seed: seed of all randomness.
        length: how many patches there are.
        augmentation: None for plain crops.
        cutting: ``input_size`` and ``output_size``, grey values and affinities (one number or z, y,
            x), in voxels; ``zero_label``: "ignore": label 0 is unknown and masked, "boundary": it
            is cell boundary, affinity 0, and counts; ``boundary_thickness``: voxels within this
            many steps of another label become boundary; ``intensity_range``: grey values that
            become 0 and 1, None for uint8, uint16 and [0, 1] floats.

    Items are dictionaries of tensors: ``raw`` float32 (1, D, H, W), ``affinities`` float32
    (3, d, h, w), ``mask`` bool (3, d, h, w) and ``labels`` int32 (d, h, w).
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        seed: int,
        length: int,
        augmentation: Augmentation | None = None,
        **cutting: Any,
    ) -> None:
        if length < 1 or seed < 0:
            raise ConfigError(f"need length >= 1 and seed >= 0, found {length} and {seed}")
        if not regions:
            raise ConfigError("no regions to draw patches from; give at least one")
        self.cutter = _cutter(**cutting)
        reach = (0, 0, 0)
        if augmentation is not None:
            _check_axes(augmentation, self.cutter, regions)
            reach = augmentation.deformation.reach(self.cutter.input_size)
        self._starts = [_start_ranges(region, self.cutter, reach) for region in regions]
        self._slabs = [Slab(region, self.cutter.intensity_range) for region in regions]
        counts = [int(np.prod([len(axis) for axis in starts])) for starts in self._starts]
        self._cumulative = np.cumsum(counts)
        self._seed, self._length, self._augmentation = seed, length, augmentation

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch ``index``, always the same."""
        if not 0 <= index < self._length:
            raise IndexError(f"patch {index} of {self._length}")
        rng = np.random.default_rng([self._seed, index])
        position = rng.integers(self._cumulative[-1])
        which = int(np.searchsorted(self._cumulative, position, side="right"))
        position -= self._cumulative[which - 1] if which else 0
        ranges = self._starts[which]
        z, y, x = np.unravel_index(position, [len(axis) for axis in ranges])
        start = ranges[0][z], ranges[1][y], ranges[2][x]
        return self.cutter.cut(self._slabs[which], start, self._augmentation, rng)


class ValidationPatches(Dataset[dict[str, torch.Tensor]]):
    """Plain patches on a regular grid whose output boxes cover every slab.

    Along an axis longer than the box, boxes are spread evenly and may overlap; along a shorter one
    there is one box, centred, and masked where it sticks out. Raw is reflected beyond the volume.

    Args:
        regions: slabs with labels.
        maximum: if the grid has more boxes, this many of them, evenly chosen; None = all.

    All else, and the items, are as for ``AffinityPatches``.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        maximum: int | None = None,
        **cutting: Any,
    ) -> None:
        if maximum is not None and maximum < 1:
            raise ConfigError(f"maximum must be at least 1 patch, found {maximum}")
        if not regions:
            raise ConfigError("no regions to cut patches from; give at least one")
        self.cutter = _cutter(**cutting)
        grid = [
            (slab, start)
            for slab in (Slab(region, self.cutter.intensity_range) for region in regions)
            for start in _grid_starts(slab.labels.shape, self.cutter.output_size)
        ]
        chosen = min(len(grid), maximum or len(grid))
        self._boxes = [grid[i] for i in np.linspace(0, len(grid) - 1, chosen).round().astype(int)]

    def __len__(self) -> int:
        return len(self._boxes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch ``index`` of the grid."""
        if not 0 <= index < len(self._boxes):
            raise IndexError(f"patch {index} of {len(self._boxes)}")
        return self.cutter.cut(*self._boxes[index])


def _cutter(
    *, input_size: int | Sequence[int], output_size: int | Sequence[int], **options: Any
) -> PatchCutter:
    sizes = size_triple(input_size, "input_size"), size_triple(output_size, "output_size")
    return PatchCutter(*sizes, **options)


def _start_ranges(region: Region, cutter: PatchCutter, reach: Triple) -> tuple[range, range, range]:
    """Where an output box may begin, for each axis, in the slab's coordinates.

    ``reach``: how far beyond the input window a deformation may read.
    """
    slab = region.shape
    readable = region.volume.raw.shape if region.raw_context else slab
    before = (region.z_start if region.raw_context else 0, 0, 0)
    if any(part > size for part, size in zip(cutter.output_size, slab, strict=True)):
        raise DataError(
            f"{region}: the slab has {slab} voxels (z, y, x), fewer than the output size"
            f" {cutter.output_size}; choose a thicker slab or a smaller output_size"
        )
    ranges = []
    for axis in range(3):
        last = slab[axis] - cutter.output_size[axis]
        starts = range(0)
        for margin in (cutter.margin[axis] + reach[axis], cutter.margin[axis]):
            # In the slab's coordinates grey values reach from -before to readable - before.
            low = max(0, margin - before[axis])
            high = min(last, readable[axis] - before[axis] - cutter.output_size[axis] - margin)
            starts = starts or range(low, high + 1)
        ranges.append(starts or range(last + 1))
    z, y, x = ranges
    return z, y, x


def _grid_starts(slab: Triple, size: Triple) -> list[Triple]:
    axes = []
    for whole, part in zip(slab, size, strict=True):
        count = -(-whole // part)
        spread = np.linspace(0, whole - part, count).round().astype(int).tolist()
        axes.append(spread if whole > part else [(whole - part) // 2])
    return list(itertools.product(*axes))


def _check_axes(augmentation: Augmentation, cutter: PatchCutter, regions: Sequence[Region]) -> None:
    """Axes may be swapped, and turned, only if they are equally long and equally sampled."""
    swapped = {"all": (0, 1, 2), "yx": (1, 2), "none": ()}[augmentation.axis_swaps]
    swaps = f"axis_swaps = {augmentation.axis_swaps!r}"
    remedy = "set axis_swaps to 'yx' or 'none'"
    for name, size in (("input", cutter.input_size), ("output", cutter.output_size)):
        if len({size[axis] for axis in swapped}) > 1:
            raise ConfigError(
                f"{swaps} needs equal sizes along the swapped axes, found {name} size {size} "
                f"(z, y, x); {remedy}"
            )
    mixed = [(swaps, swapped, remedy)]
    if augmentation.deformation.rotation:
        mixed.append((f"rotation={augmentation.deformation.rotation}:", (1, 2), "set it to 0"))
    for region in regions:
        voxel = region.volume.voxel_size
        for what, axes, cure in mixed:
            if voxel is not None and len({voxel[axis] for axis in axes}) > 1:
                raise ConfigError(
                    f"{what} mixes axes of different resolution: voxels of {region.volume.name} "
                    f"are {voxel} nm (z, y, x); {cure}"
                )
