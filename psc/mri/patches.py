"""Patches of brain MRI: random ones to train on, a fixed grid of them to validate on.

Subjects are in memory, and so is all that is needed to draw from them: no patch reads a file.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.utils.data import Dataset

from psc.errors import ConfigError, DataError
from psc.mri.augmentation import Pose, TissueAugmentation
from psc.mri.data import Subject
from psc.mri.tissues import BACKGROUND
from psc.volumes.resampling import affine_sources, sample_linear, sample_nearest
from psc.volumes.tiling import Size3 as Triple
from psc.volumes.tiling import size_triple

_Labels = npt.NDArray[np.uint8]
_ScalarT = TypeVar("_ScalarT", bound=np.generic)


class TissuePatches(Dataset[dict[str, torch.Tensor]]):
    """Random patches with their tissue labels.

    Patch i is a function of (seed, i) and of nothing else, as those of ``psc.em.data``: a resumed
    run goes on with the patches it would have seen. Position and augmentation are drawn apart:
    another augmentation sees the same places.

    A patch is centred on a voxel of the brain with probability ``foreground_share``, else on any
    voxel of the volume; then it is shifted into the volume. Along an axis that is shorter than the
    patch, all of the volume is in the patch, and background fills the rest.

    Args:
        subjects: with labels; equally likely, whatever their size.
        patch_size: one number or (D, H, W), in voxels.
        seed: seed of all randomness.
        length: how many patches there are.
        foreground_share: 0 to 1; the paper does not say which it used.
        augmentation: None for plain crops.

    Items are dictionaries of tensors: ``image`` float32 (1, D, H, W) and ``labels`` uint8
    (D, H, W), values of ``psc.mri.tissues``.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        *,
        patch_size: int | Sequence[int],
        seed: int,
        length: int,
        foreground_share: float = 1.0,
        augmentation: TissueAugmentation | None = None,
    ) -> None:
        if length < 1 or seed < 0:
            raise ConfigError(f"need length >= 1 and seed >= 0, found {length} and {seed}")
        if not 0 <= foreground_share <= 1:
            raise ConfigError(
                f"foreground_share is the share of patches centred on the brain: set it to 0 to 1,"
                f" found {foreground_share}"
            )
        self.patch_size = size_triple(patch_size, "patch_size")
        self._labelled = _labelled(subjects)
        # Positions in C order, whatever the order in memory; int32 up to 2³¹ voxels.
        self._brains = [
            np.flatnonzero(subject.brain).astype(np.min_scalar_type(-subject.brain.size))
            for subject in subjects
        ]
        self._seed, self._length = seed, length
        self._foreground_share, self._augmentation = foreground_share, augmentation

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch ``index``, always the same."""
        if not 0 <= index < self._length:
            raise IndexError(f"patch {index} of {self._length}")
        rng = np.random.default_rng([self._seed, index])
        which = int(rng.integers(len(self._labelled)))
        subject, labels = self._labelled[which]
        shape = subject.image.shape
        if rng.random() < self._foreground_share:
            brain = self._brains[which]
            centre = np.unravel_index(brain[rng.integers(len(brain))], shape)
        else:
            centre = np.unravel_index(rng.integers(subject.image.size), shape)
        d, h, w = (
            _shift_inside(int(voxel) - part // 2, part, whole)
            for voxel, part, whole in zip(centre, self.patch_size, shape, strict=True)
        )
        return _cut(subject, labels, (d, h, w), self.patch_size, self._augmentation, rng)


class GridPatches(Dataset[dict[str, torch.Tensor]]):
    """Plain patches on a regular grid that covers the bounding box of every subject's brain.

    Along an axis on which the brain is longer than the patch, patches are spread evenly and may
    overlap; along another there is one, centred on the brain and shifted into the volume. Subjects
    follow each other.

    Args:
        subjects: with labels.
        patch_size: as for ``TissuePatches``.
        maximum: if the grid has more patches, this many, evenly chosen over all subjects: the
            middle ones of as many parts; None = all.

    Items are as those of ``TissuePatches``.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        *,
        patch_size: int | Sequence[int],
        maximum: int | None = None,
    ) -> None:
        if maximum is not None and maximum < 1:
            raise ConfigError(f"maximum must be at least 1 patch, found {maximum}")
        self.patch_size = size_triple(patch_size, "patch_size")
        grid = [
            (subject, labels, start)
            for subject, labels in _labelled(subjects)
            for start in _grid_starts(subject.brain, self.patch_size)
        ]
        chosen = min(len(grid), maximum or len(grid))
        self._patches = [grid[(2 * i + 1) * len(grid) // (2 * chosen)] for i in range(chosen)]

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch ``index`` of the grid."""
        if not 0 <= index < len(self._patches):
            raise IndexError(f"patch {index} of {len(self._patches)}")
        return _cut(*self._patches[index], self.patch_size)


def read_padded(
    volume: npt.NDArray[_ScalarT], start: Triple, shape: Triple, fill: float
) -> npt.NDArray[_ScalarT]:
    """A window of an array (D, H, W), continued beyond its border by a constant.

    ``start`` may be negative, or beyond the array. A view where the window is inside, else a copy.
    """
    box = tuple(slice(max(a, 0), max(a + n, 0)) for a, n in zip(start, shape, strict=True))
    inside = volume[box]
    if inside.shape == tuple(shape):
        return inside
    window = np.full(shape, fill, dtype=volume.dtype)
    first = (max(-a, 0) for a in start)
    window[tuple(slice(a, a + n) for a, n in zip(first, inside.shape, strict=True))] = inside
    return window


def read_turned(
    image: npt.NDArray[np.float32],
    labels: _Labels,
    start: Triple,
    shape: Triple,
    matrix: npt.NDArray[np.float64],
    background: float,
) -> tuple[npt.NDArray[np.float32], _Labels]:
    """A window that is turned about its centre, filled from whatever the volume has there.

    Args:
        image: (D, H, W), interpolated linearly; ``background`` outside.
        labels: of the same shape, those of the nearest voxel; ``BACKGROUND`` outside.
        start: first voxel that the window would have if it were not turned.
        shape: size of the window.
        matrix: (3, 3), from distances to the window's centre to those of the sources, in voxels.
        background: value of what lies outside.
    """
    middle = (np.asarray(shape) - 1) / 2
    centre = np.asarray(start) + middle
    # Only the box that the turned window reaches, and a voxel around it against rounding; where it
    # leaves the volume it is filled, so that values fade into it instead of ending at the border.
    reach = np.abs(matrix) @ middle
    low = np.floor(centre - reach).astype(int) - 1
    size = np.ceil(centre + reach).astype(int) + 2 - low
    sources = affine_sources(matrix, centre - low - matrix @ middle, shape)
    first, extent = tuple(low.tolist()), tuple(size.tolist())
    return (
        sample_linear(read_padded(image, first, extent, background), sources),
        sample_nearest(read_padded(labels, first, extent, BACKGROUND), sources),
    )


def _cut(
    subject: Subject,
    labels: _Labels,
    start: Triple,
    size: Triple,
    augmentation: TissueAugmentation | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """One item; augmented if an augmentation and its source of randomness are given."""
    pose = Pose()
    if augmentation is not None and rng is not None:
        pose = augmentation.draw_pose(rng)
    if pose.interpolates:
        matrix = pose.matrix(subject.voxel_size)
        image, tissues = read_turned(subject.image, labels, start, size, matrix, subject.background)
    else:
        image = read_padded(subject.image, start, size, subject.background)
        tissues = read_padded(labels, start, size, BACKGROUND)
    flips = tuple(slice(None, None, -1 if flip else None) for flip in pose.reflected)
    # Copies, because a plain window is the subject's own memory.
    image, tissues = image[flips].copy(order="C"), tissues[flips].copy(order="C")
    if augmentation is not None and rng is not None:
        augmentation.change_intensity(image, subject.background, rng)
    return {"image": torch.from_numpy(image[np.newaxis]), "labels": torch.from_numpy(tissues)}


def _labelled(subjects: Sequence[Subject]) -> list[tuple[Subject, _Labels]]:
    """Subjects and their labels."""
    if not subjects:
        raise ConfigError("no subjects to cut patches from; give at least one")
    pairs = []
    for subject in subjects:
        if subject.labels is None:
            raise DataError(
                f"{subject.name} has no tissue labels; add the file of its labels, or leave the"
                " subject out of training and validation"
            )
        pairs.append((subject, subject.labels))
    return pairs


def _grid_starts(brain: npt.NDArray[np.bool_], size: Triple) -> list[Triple]:
    axes = []
    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    for side, part, whole in zip(box, size, brain.shape, strict=True):
        low, high = side.start, side.stop
        if high - low > part:
            count = -(-(high - low) // part)
            axes.append(np.linspace(low, high - part, count).round().astype(int).tolist())
        else:
            axes.append([_shift_inside((low + high - part) // 2, part, whole)])
    return list(itertools.product(*axes))


def _shift_inside(start: int, part: int, whole: int) -> int:
    """The nearest start at which the window is inside the volume, or the volume in the window."""
    low, high = sorted((0, whole - part))
    return min(max(start, low), high)
