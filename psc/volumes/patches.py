"""Cut a training pair out of a slab: grey values with context, affinities where they are known.

The network's valid convolutions make its output smaller than its input: an output box of labels,
and around it a margin of grey values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from psc.em.affinities import affinities_from_labels, neighbours
from psc.em.augmentation import Augmentation, Geometry, thicken_boundaries
from psc.em.labels import relabel_consecutive
from psc.errors import ConfigError, DataError
from psc.volumes.intensity import scale_intensity
from psc.volumes.labelled import Region
from psc.volumes.resampling import Sources, sample_linear, sample_nearest, source_box
from psc.volumes.tiling import read_reflected

Triple = tuple[int, int, int]
_Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
_UNKNOWN = -1  # label of voxels outside the slab; 0 is a label of the file


class Slab:
    """What cutting needs of a region, in memory.

    ``raw`` (D, H, W) are the grey values that may be read, of the whole volume or of the slab;
    ``labels`` int32 (d, H, W), dense ids of the slab alone, begin at slice ``offset`` of it.
    """

    def __init__(self, region: Region, intensity_range: tuple[float, float] | None) -> None:
        volume = region.volume
        if volume.labels is None:
            raise DataError(
                f"{region}: the volume has no labels ({', '.join(f['name'] for f in volume.files)}"
                " read); give the file of its labels"
            )
        inside = slice(region.z_start, region.stop)
        self.raw = volume.raw if region.raw_context else volume.raw[inside]
        self.labels, _ = relabel_consecutive(volume.labels[inside])
        self.offset = region.z_start if region.raw_context else 0
        self.name = str(region)
        # Only floats can be out of range; for them every plane is looked at now, not in a worker.
        for plane in self.raw if self.raw.dtype.kind == "f" else self.raw[:1]:
            try:
                scale_intensity(plane, intensity_range)
            except DataError as error:
                raise DataError(f"{region}: {error}") from error


@dataclass(frozen=True)
class PatchCutter:
    """Cuts pairs of fixed size."""

    input_size: Triple  # grey values
    output_size: Triple  # affinities, centred in the input
    zero_label: Literal["ignore", "boundary"] = "ignore"
    """Label 0 is unknown and masked out, or it is cell boundary: affinities 0, which count."""
    boundary_thickness: int = 0  # steps from a change of label that become boundary (label 0)
    intensity_range: tuple[float, float] | None = None  # as for scale_intensity

    def __post_init__(self) -> None:
        for whole, part in zip(self.input_size, self.output_size, strict=True):
            if part < 1 or whole < part or (whole - part) % 2:
                raise ConfigError(
                    f"output size {self.output_size} must be positive and fit centred into input"
                    f" size {self.input_size}: every difference even and not negative"
                )
        if self.zero_label not in ("ignore", "boundary"):
            raise ConfigError(
                f"zero_label must be 'ignore' or 'boundary', found {self.zero_label!r}"
            )
        if self.boundary_thickness < 0:
            raise ConfigError(
                f"boundary_thickness must be at least 0 voxels, found {self.boundary_thickness}"
            )
        if self.boundary_thickness and self.zero_label != "boundary":
            # Masking every border would leave nothing but positive affinities to learn from.
            raise ConfigError(
                f"boundary_thickness = {self.boundary_thickness} turns borders into label 0, which"
                " zero_label = 'ignore' then hides; set zero_label = 'boundary' or thickness 0"
            )

    @property
    def margin(self) -> Triple:
        """Context on each side of the output box, in voxels."""
        z, y, x = (
            (whole - part) // 2
            for whole, part in zip(self.input_size, self.output_size, strict=True)
        )
        return z, y, x

    def cut(
        self,
        slab: Slab,
        start: Triple,
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
        self, slab: Slab, start: Triple, augmentation: Augmentation, rng: np.random.Generator
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

    def _read(self, slab: Slab, start: Triple, geometry: Geometry) -> _Pair:
        """Raw of the input window, scaled, and labels of the output box with its ring.

        One voxel on every side, though predecessors lie on one side only: reflection swaps sides.
        """
        z, y, x = (s - m for s, m in zip(start, self.margin, strict=True))
        window = read_reflected(slab.raw, (z + slab.offset, y, x), self.input_size)
        # Bring bytes into order before they become four times as many.
        raw = scale_intensity(np.ascontiguousarray(geometry(window)), self.intensity_range)
        shape = _triple(size + 2 for size in self.output_size)
        return raw, geometry(self._read_labels(slab.labels, _triple(s - 1 for s in start), shape))

    def _read_deformed(self, slab: Slab, start: Triple, sources: Sources) -> _Pair:
        """As ``_read``, from the sources of the input window with a ring of one voxel.

        Every value is read from the volume, wherever a source lies; raw is interpolated, labels
        are the nearest voxel's.
        """
        first = _triple(s - m - 1 for s, m in zip(start, self.margin, strict=True))
        inner = sources[:, 1:-1, 1:-1, 1:-1]
        origin, size = source_box(inner)
        z, y, x = (a + b for a, b in zip(first, origin, strict=True))
        box = read_reflected(slab.raw, (z + slab.offset, y, x), size)
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
        self, labels: npt.NDArray[np.int32], first: Triple, shape: Triple
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


def size_triple(size: int | Sequence[int], name: str) -> Triple:
    """A patch size as (z, y, x), given as such or as one number for all."""
    sizes = (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(sizes) != 3 or any(isinstance(n, bool) or n < 1 or n != int(n) for n in sizes):
        raise ConfigError(f"{name} must be one or three positive integers (z, y, x), found {size}")
    z, y, x = (int(n) for n in sizes)
    return z, y, x


def _mask_unknown(mask: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> None:
    """Mask pairs of which a voxel is outside the slab."""
    if known.all():
        return
    for axis in range(3):
        here, before = neighbours(axis)
        mask[axis][here] &= known[here] & known[before]


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x


def _clip(positions: Sequence[int], shape: Sequence[int]) -> list[int]:
    return [min(max(a, 0), size) for a, size in zip(positions, shape, strict=True)]


def _box(
    first: Sequence[int], last: Sequence[int], origin: Sequence[int] = (0, 0, 0)
) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(first, last, origin, strict=True))
