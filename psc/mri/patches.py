"""Patches of brain MRI: random ones to train on, a fixed grid of them to validate on.

Subjects are in memory, and so is all that is needed to draw from them: no patch reads a file.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from psc.mri.augmentation import Pose, TissueAugmentation
from psc.mri.data import Subject
from psc.mri.tissues import BACKGROUND
from psc.volumes.metadata import Size3, size3
from psc.volumes.patches import (
    ChosenPatches,
    Patch,
    RandomPatches,
    grid_starts,
    read_padded,
)
from psc.volumes.resampling import affine_sources, sample_linear, sample_nearest
from psc.volumes.tiling import size_triple

_Labels = npt.NDArray[np.uint8]


class TissuePatches(RandomPatches):
    """Random patches with their tissue labels; subjects are equally likely, whatever their size.

    A patch is centred on a voxel of the brain with probability ``foreground_share`` (the paper does
    not say which it used), else on any voxel of the volume; then it is shifted into the volume.
    Along an axis that is shorter than the patch, all of the volume is in the patch, and background
    fills the rest. Position and augmentation are drawn apart: another augmentation sees the same
    places.

    Items are dictionaries of tensors: ``image`` float32 (1, D, H, W) and ``labels`` uint8
    (D, H, W), values of ``psc.mri.tissues``.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        *,
        patch_size: int | Sequence[int],
        seed: int,
        length: int = 2**62,
        foreground_share: float = 1.0,
        augmentation: TissueAugmentation | None = None,
    ) -> None:
        super().__init__(seed, length)
        self.patch_size = size_triple(patch_size, "patch_size")
        self._subjects = subjects
        # Positions in C order, whatever the order in memory; int32 up to 2³¹ voxels.
        self._brains = [
            np.flatnonzero(subject.brain).astype(np.min_scalar_type(-subject.brain.size))
            for subject in subjects
        ]
        self._foreground_share, self._augmentation = foreground_share, augmentation

    def draw(self, rng: np.random.Generator) -> Patch:
        """See ``RandomPatches``."""
        which = int(rng.integers(len(self._subjects)))
        subject = self._subjects[which]
        if rng.random() < self._foreground_share:
            brain = self._brains[which]
            position = brain[rng.integers(len(brain))]
        else:
            position = rng.integers(subject.image.size)
        centre = np.unravel_index(position, subject.image.shape)
        corner = (
            int(voxel) - part // 2 for voxel, part in zip(centre, self.patch_size, strict=True)
        )
        start = _shifted_inside(corner, self.patch_size, subject.image.shape)
        return _cut(subject, start, self.patch_size, self._augmentation, rng)


class GridPatches(ChosenPatches):
    """Plain patches on a regular grid over the box of every subject's brain (``grid_starts``).

    They are shifted into the volume; subjects follow each other. If the grid has more patches than
    ``maximum``, this many are evenly chosen over all subjects: the middle ones of as many parts.

    Items are as those of ``TissuePatches``.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        *,
        patch_size: int | Sequence[int],
        maximum: int | None = None,
    ) -> None:
        size = size_triple(patch_size, "patch_size")
        grid = []
        for subject in subjects:
            (box,) = ndimage.find_objects(subject.brain.astype(np.uint8))
            for start in grid_starts(box, size):
                grid.append((subject, _shifted_inside(start, size, subject.image.shape), size))
        chosen = min(len(grid), maximum or len(grid))
        places = [grid[(2 * i + 1) * len(grid) // (2 * chosen)] for i in range(chosen)]
        super().__init__(places, _cut)


def read_turned(
    image: npt.NDArray[np.float32],
    labels: _Labels,
    start: Size3,
    shape: Size3,
    matrix: npt.NDArray[np.float64],
    background: float,
) -> tuple[npt.NDArray[np.float32], _Labels]:
    """A window that is turned about its centre, filled from whatever the volume has there.

    The image is interpolated linearly, labels are the nearest voxel's; beyond them are
    ``background`` and ``BACKGROUND``. ``start`` is the first voxel if nothing is turned; ``matrix``
    (3, 3) leads from distances to the window's centre to those of the sources, in voxels.
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
    start: Size3,
    size: Size3,
    augmentation: TissueAugmentation | None = None,
    rng: np.random.Generator | None = None,
) -> Patch:
    """One item; augmented if an augmentation and its source of randomness are given."""
    labels, pose = subject.labels, Pose()
    assert labels is not None  # read_cohort refuses subjects without
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


def _shifted_inside(start: Iterable[int], size: Size3, shape: Sequence[int]) -> Size3:
    """The nearest start at which the window is inside the volume, or the volume in the window."""
    return size3(
        min(max(first, min(0, whole - part)), max(0, whole - part))
        for first, part, whole in zip(start, size, shape, strict=True)
    )
