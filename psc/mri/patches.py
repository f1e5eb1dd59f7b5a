"""Patches of brain MRI: random ones to train on, a fixed grid of them to validate on.

Subjects are in memory, and so is all that is needed to draw from them: no patch reads a file.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch.utils.data import Dataset

from psc.errors import ConfigError, DataError
from psc.mri.augmentation import Pose, TissueAugmentation
from psc.mri.data import Subject
from psc.mri.tissues import BACKGROUND
from psc.volumes.patches import Triple, size_triple
from psc.volumes.resampling import trilinear

# ----------------------------------------
# Windows of a volume: plain ones, continued by a constant, and turned ones, interpolated.


_ScalarT = TypeVar("_ScalarT", bound=np.generic)


def read_padded(
    volume: npt.NDArray[_ScalarT], start: Triple, shape: Triple, fill: float
) -> npt.NDArray[_ScalarT]:
    """A window of an array, continued beyond its border by a constant.

    Args:
        volume: array (D, H, W).
        start: first voxel of the window; may be negative, or beyond the array.
        shape: size of the window.
        fill: value of what lies outside.

    Returns:
        Array of shape ``shape``: a view where the window is inside, else a copy.
    """
    box = tuple(slice(max(a, 0), max(a + n, 0)) for a, n in zip(start, shape, strict=True))
    inside = volume[box]
    if inside.shape == tuple(shape):
        return inside
    window = np.full(shape, fill, dtype=volume.dtype)
    first = (max(-a, 0) for a in start)
    window[tuple(slice(a, a + n) for a, n in zip(first, inside.shape, strict=True))] = inside
    return window


def resample(
    volume: npt.NDArray[_ScalarT],
    start: Triple,
    shape: Triple,
    matrix: npt.NDArray[Any],
    *,
    order: Literal[0, 1],
    fill: float,
) -> npt.NDArray[_ScalarT]:
    """A window that is turned about its centre, filled from whatever the volume has there.

    Args:
        volume: array (D, H, W).
        start: first voxel that the window would have if it were not turned.
        shape: size of the window.
        matrix: (3, 3), from distances to the window's centre to those of the sources, in voxels.
        order: 0 takes the nearest voxel (labels), 1 interpolates linearly.
        fill: value of what lies outside the volume.

    Returns:
        New array of shape ``shape`` and of the volume's dtype.
    """
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    middle = (np.asarray(shape) - 1) / 2
    centre = np.asarray(start) + middle
    # Only the box that the turned window reaches, and a voxel around it against rounding; where it
    # leaves the volume it is filled, so that values fade into it instead of ending at the border.
    reach = np.abs(matrix) @ middle
    low = np.floor(centre - reach).astype(int) - 1
    size = np.ceil(centre + reach).astype(int) + 2 - low
    box = read_padded(volume, _triple(low), _triple(size), fill)
    turned = np.empty(shape, dtype=volume.dtype)
    sample = _interpolate if order else _take_nearest
    # One order in memory, so that one version is compiled.
    sample(np.ascontiguousarray(box), matrix, centre - low - matrix @ middle, turned)
    return turned


def _triple(values: npt.NDArray[np.int_]) -> Triple:
    d, h, w = (int(value) for value in values)
    return d, h, w


# Six times as fast as scipy.ndimage.affine_transform, which is their oracle in the tests. Nothing
# checks that sources lie in the box: it is made so that they do, with a voxel to spare.


@njit(nogil=True, cache=True)
def _interpolate(box: Any, matrix: Any, offset: Any, turned: Any) -> Any:
    """turned[v] = box at matrix · v + offset, trilinear."""
    depth, height, width = turned.shape
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                z = matrix[0, 0] * d + matrix[0, 1] * h + matrix[0, 2] * w + offset[0]
                y = matrix[1, 0] * d + matrix[1, 1] * h + matrix[1, 2] * w + offset[1]
                x = matrix[2, 0] * d + matrix[2, 1] * h + matrix[2, 2] * w + offset[2]
                turned[d, h, w] = trilinear(box, z, y, x)


@njit(nogil=True, cache=True)
def _take_nearest(box: Any, matrix: Any, offset: Any, turned: Any) -> Any:
    """turned[v] = box at matrix · v + offset, rounded; halves are rounded up."""
    depth, height, width = turned.shape
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                z = matrix[0, 0] * d + matrix[0, 1] * h + matrix[0, 2] * w + offset[0]
                y = matrix[1, 0] * d + matrix[1, 1] * h + matrix[1, 2] * w + offset[1]
                x = matrix[2, 0] * d + matrix[2, 1] * h + matrix[2, 2] * w + offset[2]
                turned[d, h, w] = box[int(z + 0.5), int(y + 0.5), int(x + 0.5)]


_Labels = npt.NDArray[np.uint8]
_MOST_INT32 = 2**31


class TissuePatches(Dataset[dict[str, torch.Tensor]]):
    """Random patches with their tissue labels.

    Patch i is a function of (seed, i) and of nothing else, as those of ``psc.em.data``: a
    resumed run goes on with the patches it would have seen. Position and augmentation are drawn
    apart: another augmentation sees the same places.

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

    Raises:
        ConfigError: a size, seed, length or share that cannot work.
        DataError: a subject without labels or without a brain.
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
        self._brains = [_flat_indices(subject.brain) for subject in subjects]
        self._seed, self._length = seed, length
        self._foreground_share, self._augmentation = foreground_share, augmentation

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch ``index``, always the same.

        Raises:
            IndexError: index is negative or not below ``len(self)``.
        """
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

    Raises:
        ConfigError: a size or maximum that cannot work.
        DataError: a subject without labels or without a brain.
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
        """Patch ``index`` of the grid.

        Raises:
            IndexError: index is negative or not below ``len(self)``.
        """
        if not 0 <= index < len(self._patches):
            raise IndexError(f"patch {index} of {len(self._patches)}")
        return _cut(*self._patches[index], self.patch_size)


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
        image = resample(subject.image, start, size, matrix, order=1, fill=subject.background)
        tissues = resample(labels, start, size, matrix, order=0, fill=BACKGROUND)
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
            read = ", ".join(file["name"] for file in subject.files)
            raise DataError(
                f"{subject.name} has no tissue labels (read: {read}); add the file of its labels,"
                " or leave the subject out of training and validation"
            )
        if not subject.brain.any():
            raise DataError(
                f"{subject.name} has no brain: every voxel of its volume is zero; replace the file,"
                " or leave the subject out"
            )
        pairs.append((subject, subject.labels))
    return pairs


def _flat_indices(brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32 | np.int64]:
    """Positions of the brain's voxels in C order, whatever the order in memory."""
    dtype = np.int32 if brain.size <= _MOST_INT32 else np.int64
    return np.flatnonzero(brain).astype(dtype)


def _grid_starts(brain: npt.NDArray[np.bool_], size: Triple) -> list[Triple]:
    axes = []
    for axis, part in enumerate(size):
        others = tuple(other for other in range(3) if other != axis)
        (occupied,) = np.nonzero(brain.any(axis=others))
        low, high = int(occupied[0]), int(occupied[-1]) + 1
        if high - low > part:
            count = -(-(high - low) // part)
            axes.append(np.linspace(low, high - part, count).round().astype(int).tolist())
        else:
            axes.append([_shift_inside((low + high - part) // 2, part, brain.shape[axis])])
    return list(itertools.product(*axes))


def _shift_inside(start: int, part: int, whole: int) -> int:
    """The nearest start at which the window is inside the volume, or the volume in the window."""
    low, high = sorted((0, whole - part))
    return min(max(start, low), high)
