"""Distance between the surfaces of a true and a predicted structure, in mm."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import DataError

__all__ = ["hausdorff95", "volume_diagonal"]

_Mask = npt.NDArray[np.bool_]


def hausdorff95(
    labels: npt.NDArray[np.integer[Any]],
    prediction: npt.NDArray[np.integer[Any]],
    value: int,
    voxel_size: Sequence[float],
) -> float:
    """95 % Hausdorff distance between the surfaces of one class, by MONAI.

    A surface are the voxels that share a face with another class or with the outside of the volume;
    a distance is that of voxel centres. Of each surface's distances to the other one the 95th
    percentile is taken, and of these two the larger.

    A structure that one side lacks has no distance to it. Leaving such a subject out would reward
    losing the structure, and infinity would swallow every mean, so it counts as the diagonal of the
    volume, more than which no distance can be (see ``TissueScores.missed``).

    Args:
        labels: true classes, integers (D, H, W).
        prediction: predicted classes of the same shape.
        value: the class.
        voxel_size: mm along D, H and W.

    Returns:
        mm; ``volume_diagonal`` where one of both lacks the class, nan where both do.

    Raises:
        DataError: the shapes differ or are not (D, H, W), or the voxel size is not positive.
    """
    if labels.ndim != 3 or labels.shape != prediction.shape:
        raise DataError(
            f"labels have shape {labels.shape}, the prediction {prediction.shape}; both must be"
            " (D, H, W) and cover the same voxels"
        )
    diagonal = volume_diagonal(labels.shape, voxel_size)
    truth, predicted = labels == value, prediction == value
    boxes = [box for box in (_bounding_box(truth), _bounding_box(predicted)) if box is not None]
    if len(boxes) < 2:
        return diagonal if boxes else math.nan
    both = tuple(
        slice(min(one.start, other.start), max(one.stop, other.stop))
        for one, other in zip(*boxes, strict=True)
    )
    return _percentile95(truth[both], predicted[both], voxel_size)


def volume_diagonal(shape: Sequence[int], voxel_size: Sequence[float]) -> float:
    """Length in mm of the diagonal of a volume.

    Args:
        shape: voxels along D, H and W.
        voxel_size: mm along D, H and W.

    Raises:
        DataError: a voxel size is not positive and finite, or there are not as many as axes.
    """
    if len(voxel_size) != len(shape) or not all(0 < size < math.inf for size in voxel_size):
        raise DataError(
            f"voxel_size must be {len(shape)} positive numbers in mm, found {tuple(voxel_size)};"
            " correct the header"
        )
    return math.hypot(*(count * size for count, size in zip(shape, voxel_size, strict=True)))


def _bounding_box(mask: _Mask) -> tuple[slice, ...] | None:
    """Smallest box around what is True, None if nothing is."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        if occupied.size == 0:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _percentile95(truth: _Mask, predicted: _Mask, voxel_size: Sequence[float]) -> float:
    # It takes seconds to import: only where it is used.
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", "(?s).*always_return_as_numpy", FutureWarning)
        distance = compute_hausdorff_distance(
            y_pred=predicted[None, None],
            y=truth[None, None],
            include_background=True,  # the only channel is the structure
            percentile=95,
            spacing=[float(size) for size in voxel_size],
        )
    return float(distance)
