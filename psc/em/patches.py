"""Training pairs cut out of slabs: grey values with context, affinities where they are known.

The network's valid convolutions make its output smaller than its input: an output box of labels,
and around it a margin of grey values. Patch i is a function of (seed, i); validation patches lie on
a grid.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from psc.em.affinities import affinities_from_labels, neighbours
from psc.em.augmentation import Augmentation, Geometry, thicken_boundaries
from psc.em.data import Region
from psc.em.labels import relabel_consecutive
from psc.errors import ConfigError, DataError
from psc.volumes.intensity import scale_intensity
from psc.volumes.resampling import Sources, sample_linear, sample_nearest, source_box
from psc.volumes.tiling import Size3, read_reflected, size_triple

_Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
_UNKNOWN = -1  # label of voxels outside the slab; 0 is a label of the file


class AffinityPatches(Dataset[dict[str, torch.Tensor]]):
    """Random patches with the affinities the network shall predict.

    Patch i is a function of (seed, i) and of nothing else: not of workers, not of what was drawn
    before, so a resumed run goes on with the patches it would have seen. All positions of all
    regions are equally likely. The output box lies inside the slab; along each axis the input
    window stays inside the volume if it fits, as in the published training, else it is reflected;
    with a deformation it keeps the distance from the border that its sources reach beyond it, where
    there is room. Labels that come from outside the slab are unknown and masked.

    ``cutting`` are the fields of ``PatchCutter``, whose ``cut`` says what an item is.
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
        self.cutter = PatchCutter(**cutting)
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
    If the grid has more boxes than ``maximum``, that many are evenly chosen.
    """

    def __init__(
        self, regions: Sequence[Region], *, maximum: int | None = None, **cutting: Any
    ) -> None:
        self.cutter = PatchCutter(**cutting)
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


def _start_ranges(region: Region, cutter: "PatchCutter", reach: Size3) -> list[range]:
    """Where an output box may begin, for each axis, in the slab's coordinates.

    ``reach``: how far beyond the input window a deformation may read.
    """
    slab = region.shape
    readable = region.volume.raw.shape if region.raw_context else slab
    before = [part.start if region.raw_context else 0 for part in region.box]
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
    return ranges


def _grid_starts(slab: Size3, size: Size3) -> list[Size3]:
    axes = []
    for whole, part in zip(slab, size, strict=True):
        count = -(-whole // part)
        spread = np.linspace(0, whole - part, count).round().astype(int).tolist()
        axes.append(spread if whole > part else [(whole - part) // 2])
    return list(itertools.product(*axes))


def _check_axes(
    augmentation: Augmentation, cutter: "PatchCutter", regions: Sequence[Region]
) -> None:
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


class Slab:
    """What cutting needs of a region, in memory.

    ``raw`` (D, H, W) are the grey values that may be read, of the whole volume or of the slab;
    ``labels`` int32 (d, h, w), dense ids of the slab alone, begin at voxel ``first`` of it.
    """

    def __init__(self, region: Region, intensity_range: tuple[float, float] | None) -> None:
        self.raw = region.volume.raw if region.raw_context else region.raw
        self.labels, _ = relabel_consecutive(region.labels)
        self.first = _triple(part.start for part in region.box) if region.raw_context else (0, 0, 0)
        self.name = str(region)
        # Only floats can be out of range; for them every plane is looked at now, not in a worker.
        for plane in self.raw if self.raw.dtype.kind == "f" else self.raw[:1]:
            try:
                scale_intensity(plane, intensity_range)
            except DataError as error:
                raise DataError(f"{region}: {error}") from error


@dataclass(frozen=True)
class PatchCutter:
    """Cuts pairs of fixed size; sizes in voxels, one number or (z, y, x)."""

    input_size: Size3  # grey values
    output_size: Size3  # affinities, centred in the input
    zero_label: Literal["ignore", "boundary"] = "ignore"
    """Label 0 is unknown and masked out, or it is cell boundary: affinities 0, which count."""
    boundary_thickness: int = 0  # steps from a change of label that become boundary (label 0)
    intensity_range: tuple[float, float] | None = None  # as for scale_intensity

    def __post_init__(self) -> None:
        for name in ("input_size", "output_size"):
            object.__setattr__(self, name, size_triple(getattr(self, name), name))
        for whole, part in zip(self.input_size, self.output_size, strict=True):
            if part < 1 or whole < part or (whole - part) % 2:
                raise ConfigError(
                    f"output size {self.output_size} must be positive and fit centred into input"
                    f" size {self.input_size}: every difference even and not negative"
                )

    @property
    def margin(self) -> Size3:
        """Context on each side of the output box, in voxels."""
        pairs = zip(self.input_size, self.output_size, strict=True)
        return _triple((whole - part) // 2 for whole, part in pairs)

    def cut(
        self,
        slab: Slab,
        start: Size3,
        augmentation: Augmentation | None = None,
        rng: np.random.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Cut one pair, augmented if an augmentation and its source of randomness are given.

        ``start`` is the first voxel of the output box, in the slab's coordinates; the box may
        stick out.

        Returns:
            ``raw`` float32 (1, D, H, W); ``affinities`` float32 (3, d, h, w); ``mask`` bool
            (3, d, h, w), True where the affinity is known; ``labels`` int32 (d, h, w), the ids
            behind the affinities (for MALIS), 0 where unknown or boundary.
        """
        if augmentation is None or rng is None:
            raw, labels = self._read(slab, start, Geometry())
        else:
            raw, labels = self._read_augmented(slab, start, augmentation, rng)
        known = labels != _UNKNOWN
        labels = np.maximum(labels, 0)
        affinities, mask = affinities_from_labels(labels, zero_label=self.zero_label)
        inner = (slice(1, -1),) * 3
        _mask_unknown(mask, known)
        mask = np.ascontiguousarray(mask[:, *inner])
        return {
            "raw": torch.from_numpy(raw[np.newaxis]),
            "affinities": torch.from_numpy(affinities[:, *inner].astype(np.float32)),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(np.ascontiguousarray(labels[inner])),
        }

    def _read_augmented(
        self, slab: Slab, start: Size3, augmentation: Augmentation, rng: np.random.Generator
    ) -> _Pair:
        """Raw of the input window and labels of the output box with its ring, augmented."""
        # Streams of their own: what is on in one changes nothing of the others.
        of_deformation, of_defects = rng.spawn(2)
        geometry = augmentation.draw_geometry(rng)
        if augmentation.deformation.active:
            shape = _triple(size + 2 for size in self.input_size)
            sources = augmentation.deformation.draw(shape, of_deformation)
            raw, labels = self._read_deformed(slab, start, sources)
            raw, labels = np.ascontiguousarray(geometry(raw)), geometry(labels)
        else:
            raw, labels = self._read(slab, start, geometry)
        augmentation.change_intensity(raw, rng, out=raw)
        if augmentation.defects.active:
            # Sections of the volume, wherever the swaps have taken its first axis.
            sections = np.moveaxis(raw, geometry.permutation.index(0), 0)
            augmentation.defects.apply(sections, of_defects)
        return raw, labels

    def _read(self, slab: Slab, start: Size3, geometry: Geometry) -> _Pair:
        """Raw of the input window, scaled, and labels of the output box with its ring.

        One voxel on every side, though predecessors lie on one side only: reflection swaps sides.
        """
        places = zip(start, self.margin, slab.first, strict=True)
        window = read_reflected(slab.raw, _triple(s - m + f for s, m, f in places), self.input_size)
        # Bring bytes into order before they become four times as many.
        raw = scale_intensity(np.ascontiguousarray(geometry(window)), self.intensity_range)
        shape = _triple(size + 2 for size in self.output_size)
        return raw, geometry(self._read_labels(slab.labels, _triple(s - 1 for s in start), shape))

    def _read_deformed(self, slab: Slab, start: Size3, sources: Sources) -> _Pair:
        """As ``_read``, from the sources of the input window with a ring of one voxel.

        Every value is read from the volume, wherever a source lies; raw is interpolated, labels
        are the nearest voxel's.
        """
        first = _triple(s - m - 1 for s, m in zip(start, self.margin, strict=True))
        inner = sources[:, 1:-1, 1:-1, 1:-1]
        origin, size = source_box(inner)
        places = zip(first, origin, slab.first, strict=True)
        box = read_reflected(slab.raw, _triple(a + b + f for a, b, f in places), size)
        raw = sample_linear(scale_intensity(box, self.intensity_range), inner, origin)
        ring = sources[
            :, *(slice(m, m + n + 2) for m, n in zip(self.margin, self.output_size, strict=True))
        ]
        origin, size = source_box(ring)
        box = self._read_labels(
            slab.labels, _triple(a + b for a, b in zip(first, origin, strict=True)), size
        )
        return raw, sample_nearest(box, ring, origin)

    def _read_labels(
        self, labels: npt.NDArray[np.int32], first: Size3, shape: Size3
    ) -> npt.NDArray[np.int32]:
        """Labels of a box with thick boundaries, unknown outside the slab."""
        last = [a + n for a, n in zip(first, shape, strict=True)]
        # Thickening looks further than the result reaches.
        reach = self.boundary_thickness
        low = _clip([a - reach for a in first], labels.shape)
        high = _clip([b + reach for b in last], labels.shape)
        inside = thicken_boundaries(labels[_box(low, high)], reach)
        first_inside, last_inside = _clip(first, labels.shape), _clip(last, labels.shape)
        part = inside[_box(first_inside, last_inside, origin=low)]
        if part.shape == shape:
            return part
        frame = np.full(shape, _UNKNOWN, dtype=np.int32)
        frame[_box(first_inside, last_inside, origin=first)] = part
        return frame


def _mask_unknown(mask: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> None:
    """Mask pairs of which a voxel is outside the slab."""
    if known.all():
        return
    for axis in range(3):
        here, before = neighbours(axis)
        mask[axis][here] &= known[here] & known[before]


def _triple(values: Iterable[int]) -> Size3:
    z, y, x = values
    return z, y, x


def _clip(positions: Sequence[int], shape: Sequence[int]) -> list[int]:
    return [min(max(a, 0), size) for a, size in zip(positions, shape, strict=True)]


def _box(
    first: Sequence[int], last: Sequence[int], origin: Sequence[int] = (0, 0, 0)
) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(first, last, origin, strict=True))
