"""Training pairs cut out of slabs: grey values with context, affinities where they are known.

The network's valid convolutions make its output smaller than its input: an output box of labels,
and around it a margin of grey values. Patch i is a function of (seed, i); validation patches lie on
a grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from psc.em.affinities import NEAREST, affinities_from_labels, pairs
from psc.em.augmentation import Augmentation, Geometry, thicken_boundaries
from psc.em.data import Region
from psc.em.labels import relabel_consecutive
from psc.errors import ConfigError, DataError
from psc.volumes.intensity import scale_intensity
from psc.volumes.metadata import Size3, size3
from psc.volumes.patches import (
    ChosenPatches,
    Patch,
    RandomPatches,
    grid_starts,
    read_padded,
)
from psc.volumes.resampling import Sources, sample_linear, sample_nearest, source_box
from psc.volumes.tiling import read_reflected, size_triple

_Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
_UNKNOWN = -1  # label of voxels outside the slab; 0 is a label of the file


class AffinityPatches(RandomPatches):
    """Random patches with the affinities the network shall predict.

    All positions of all regions are equally likely. The output box lies inside the slab; along each
    axis the input window stays inside the volume if it fits, as in the published training, else it
    is reflected; with a deformation it keeps the distance from the border that its sources reach
    beyond it, where there is room. Labels that come from outside the slab are unknown and masked.

    ``cutting`` are the fields of ``PatchCutter``, whose ``cut`` says what an item is.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        seed: int,
        length: int = 2**62,
        augmentation: Augmentation | None = None,
        **cutting: Any,
    ) -> None:
        super().__init__(seed, length)
        self.cutter, reach = PatchCutter(**cutting), (0, 0, 0)
        if augmentation is not None:
            _check_axes(augmentation, self.cutter, regions)
            reach = augmentation.deformation.reach(self.cutter.input_size)
        self._slabs = [Slab(region, self.cutter.intensity_range) for region in regions]
        largest = np.max([slab.shape for slab in self._slabs], axis=0)
        for offset in self.cutter.offsets:
            if (np.abs(offset) >= largest).any():
                raise ConfigError(
                    f"recipe.offsets: {list(offset)} is longer than any slab (z, y, x"
                    f" {largest.tolist()}), so that nothing would teach its affinity; shorten it"
                )
        self._starts = [_start_ranges(slab, self.cutter, reach) for slab in self._slabs]
        counts = [int(np.prod([len(axis) for axis in starts])) for starts in self._starts]
        self._cumulative, self._augmentation = np.cumsum(counts), augmentation

    def draw(self, rng: np.random.Generator) -> Patch:
        """See ``RandomPatches``."""
        position = rng.integers(self._cumulative[-1])
        which = int(np.searchsorted(self._cumulative, position, side="right"))
        position -= self._cumulative[which - 1] if which else 0
        ranges = self._starts[which]
        places = np.unravel_index(position, [len(axis) for axis in ranges])
        start = size3(axis[place] for axis, place in zip(ranges, places, strict=True))
        return self.cutter.cut(self._slabs[which], start, self._augmentation, rng)


class ValidationPatches(ChosenPatches):
    """Plain patches on a regular grid whose output boxes cover every slab (``grid_starts``).

    Boxes are masked where they stick out. Raw is reflected beyond the volume. If the grid has more
    boxes than ``maximum``, that many are evenly chosen.
    """

    def __init__(
        self, regions: Sequence[Region], *, maximum: int | None = None, **cutting: Any
    ) -> None:
        self.cutter = PatchCutter(**cutting)
        grid = [
            (slab, start)
            for slab in (Slab(region, self.cutter.intensity_range) for region in regions)
            for start in grid_starts(map(slice, (0, 0, 0), slab.shape), self.cutter.output_size)
        ]
        chosen = np.linspace(0, len(grid) - 1, min(len(grid), maximum or len(grid)))
        super().__init__([grid[i] for i in chosen.round().astype(int)], self.cutter.cut)


def _start_ranges(slab: "Slab", cutter: "PatchCutter", reach: Size3) -> list[range]:
    """Where an output box may begin, for each axis, in the slab's coordinates.

    ``reach``: how far beyond the input window a deformation may read.
    """
    if any(part > size for part, size in zip(cutter.output_size, slab.shape, strict=True)):
        raise DataError(
            f"{slab.name}: the slab has {slab.shape} voxels (z, y, x), fewer than the output size"
            f" {cutter.output_size}; choose a thicker slab, or recipe.output_size={min(slab.shape)}"
            " at most"
        )
    ranges = []
    for axis in range(3):
        before, size = slab.first[axis], cutter.output_size[axis]
        last = slab.shape[axis] - size
        starts = range(last + 1)
        for margin in (cutter.margin[axis], cutter.margin[axis] + reach[axis]):
            # In the slab's coordinates grey values reach from -before on.
            high = min(last, slab.raw.shape[axis] - before - size - margin)
            starts = range(max(0, margin - before), high + 1) or starts
        ranges.append(starts)
    return ranges


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
    """A region in memory, read in its own coordinates, also beyond its border.

    ``raw`` (D, H, W) are the grey values that may be read, of the whole volume or of the slab;
    ``labels`` int32 (d, h, w), dense ids of the slab alone, begin at voxel ``first`` of it.
    """

    def __init__(self, region: Region, intensity_range: tuple[float, float] | None) -> None:
        self.raw = region.volume.raw if region.raw_context else region.raw
        self.labels, _ = relabel_consecutive(region.labels)
        self.shape = region.shape
        self.first = size3(part.start if region.raw_context else 0 for part in region.box)
        self.name = str(region)
        # Only floats can be out of range; for them every plane is looked at now, not in a worker.
        for plane in self.raw if self.raw.dtype.kind == "f" else self.raw[:1]:
            try:
                scale_intensity(plane, intensity_range)
            except DataError as error:
                raise DataError(f"{region}: {error}") from error

    def read_raw(self, start: Size3, size: Size3) -> npt.NDArray[Any]:
        """Grey values of a box, reflected beyond what may be read."""
        return read_reflected(self.raw, _plus(start, self.first), size)

    def read_labels(self, start: Size3, size: Size3, thickness: int) -> npt.NDArray[np.int32]:
        """Labels of a box with boundaries made so thick, unknown outside the slab."""
        # Thickening looks further than the result reaches.
        low = size3(max(0, a - thickness) for a in start)
        box = (
            slice(a, max(a, b + n + thickness)) for a, b, n in zip(low, start, size, strict=True)
        )
        near = thicken_boundaries(self.labels[tuple(box)], thickness)
        return read_padded(near, _plus(start, low, -1), size, _UNKNOWN)


@dataclass(frozen=True)
class PatchCutter:
    """Cuts pairs of fixed size; sizes in voxels, one number or (z, y, x)."""

    input_size: Size3  # grey values
    output_size: Size3  # affinities, centred in the input
    zero_label: Literal["ignore", "boundary"] = "ignore"
    """Label 0 is unknown and masked out, or it is cell boundary: affinities 0, which count."""
    boundary_thickness: int = 0  # steps from a change of label that become boundary (label 0)
    intensity_range: tuple[float, float] | None = None  # as for scale_intensity
    offsets: Sequence[Sequence[int]] = NEAREST  # of the affinities, channel by channel

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
        return size3(n // 2 for n in _plus(self.input_size, self.output_size, -1))

    @property
    def ring(self) -> int:
        """Labels needed on every side of the output box: reflections and swaps exchange sides."""
        return max(abs(o) for offset in self.offsets for o in offset)

    def cut(
        self,
        slab: Slab,
        start: Size3,
        augmentation: Augmentation | None = None,
        rng: np.random.Generator | None = None,
    ) -> Patch:
        """Cut one pair, augmented if an augmentation and its source of randomness are given.

        ``start`` is the first voxel of the output box, in the slab's coordinates; the box may stick
        out. ``raw`` is float32 (1, D, H, W), ``affinities`` float32 and ``mask``, True where they
        are known, bool (C, d, h, w); ``labels`` int32 (d, h, w) are the ids behind them (for
        MALIS), 0 where unknown or boundary.
        """
        if augmentation is None or rng is None:
            raw, labels = self._read(slab, start, Geometry())
        else:
            raw, labels = self._read_augmented(slab, start, augmentation, rng)
        known = labels != _UNKNOWN
        labels = np.maximum(labels, 0)
        affinities, mask = affinities_from_labels(
            labels, zero_label=self.zero_label, offsets=self.offsets
        )
        for channel, offset in enumerate(self.offsets if not known.all() else ()):
            here, there = pairs(offset)
            mask[channel][here] &= known[here] & known[there]
        inner = (slice(self.ring, -self.ring),) * 3
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
            window = _ringed(self.input_size, self._beyond)
            sources = augmentation.deformation.draw(window, of_deformation)
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
        """Raw of the input window, scaled, and labels of the output box with its ring."""
        window = slab.read_raw(_plus(start, self.margin, -1), self.input_size)
        # Bring bytes into order before they become four times as many.
        raw = scale_intensity(np.ascontiguousarray(geometry(window)), self.intensity_range)
        ring, size = _plus(start, (-self.ring,) * 3), _ringed(self.output_size, self.ring)
        return raw, geometry(slab.read_labels(ring, size, self.boundary_thickness))

    def _read_deformed(self, slab: Slab, start: Size3, sources: Sources) -> _Pair:
        """As ``_read``, from the sources of the input window and of ``_beyond`` around it.

        Every value is read from the volume, wherever a source lies; raw is interpolated, labels
        are the nearest voxel's.
        """
        beyond, ring = self._beyond, self.ring
        first = size3(s - m - beyond for s, m in zip(start, self.margin, strict=True))
        inner = sources[:, beyond:-beyond, beyond:-beyond, beyond:-beyond]
        origin, size = source_box(inner)
        box = scale_intensity(slab.read_raw(_plus(first, origin), size), self.intensity_range)
        raw = sample_linear(box, inner, origin)
        ends = zip(self.margin, self.output_size, strict=True)
        places = (slice(beyond + m - ring, beyond + m + n + ring) for m, n in ends)
        ringed = sources[:, *places]
        origin, size = source_box(ringed)
        labels = slab.read_labels(_plus(first, origin), size, self.boundary_thickness)
        return raw, sample_nearest(labels, ringed, origin)

    @property
    def _beyond(self) -> int:
        """Voxels around the input window that a deformation must place, too, for the ring."""
        return max(1, self.ring - min(self.margin))


def _plus(one: Iterable[int], other: Iterable[int], sign: int = 1) -> Size3:
    return size3(a + sign * b for a, b in zip(one, other, strict=True))


def _ringed(size: Size3, ring: int) -> Size3:
    """With so many voxels more on every side."""
    return size3(n + 2 * ring for n in size)
