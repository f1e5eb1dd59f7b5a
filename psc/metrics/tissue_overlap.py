"""Overlap of two tissue label volumes: their confusion matrix, and Dice per class.

All that follows from counts of voxels (Dice, volumes) is taken from one pass over the volume.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError

__all__ = ["confusion", "dice"]


_Labels = npt.NDArray[np.integer[Any]]


def confusion(labels: _Labels, prediction: _Labels, classes: int) -> npt.NDArray[np.int64]:
    """Count the voxels of each pair of a true and a predicted class, in one pass.

    Args:
        labels: true classes, integers 0 … classes − 1, at least one axis, any memory order.
        prediction: predicted classes, of the same shape.
        classes: number of classes, background included; at least 1.

    Returns:
        int64 (classes, classes): voxels by true class (row) and predicted class (column).

    Raises:
        DataError: a label is no integer or outside 0 … classes − 1, there are none, or the shapes
            differ.
        ConfigError: ``classes`` is less than 1.
    """
    if classes < 1:
        raise ConfigError(f"classes must be at least 1, found {classes}")
    _check(labels, prediction, classes)
    # Planes of what lies together in memory: no copy as large as the volume, in any axis order.
    order = np.argsort(labels.strides)[::-1]
    planes = zip(labels.transpose(order), prediction.transpose(order), strict=True)
    counts = np.zeros(classes**2, dtype=np.int64)
    for true, predicted in planes:
        pairs = true.astype(np.intp) * classes + predicted.astype(np.intp)
        counts += np.bincount(pairs.ravel(), minlength=classes**2)
    return counts.reshape(classes, classes)


def _check(labels: _Labels, prediction: _Labels, classes: int) -> None:
    if labels.shape != prediction.shape or labels.size == 0:
        raise DataError(
            f"labels have shape {labels.shape}, the prediction {prediction.shape}; both must cover"
            " the same voxels, at least one"
        )
    for name, volume in (("labels", labels), ("prediction", prediction)):
        if volume.dtype.kind not in "iu":
            raise DataError(f"{name} must hold integers, found {volume.dtype}; convert explicitly")
        lowest, highest = int(volume.min()), int(volume.max())
        if lowest < 0 or highest >= classes:
            wrong = lowest if lowest < 0 else highest
            raise DataError(
                f"{name} holds the value {wrong}, but there are {classes} classes, 0 to"
                f" {classes - 1}; correct the labels, or the number of classes"
            )


def dice(confusion: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Dice coefficient 2 |A ∩ B| / (|A| + |B|) of each class (Dice, Ecology 1945).

    A class that is absent from both volumes has no Dice: nan. One that only the prediction lacks
    was missed, one that only the truth lacks was invented: 0 for both. MONAI's DiceMetric agrees,
    except that with its default (``ignore_empty=True``) an invented class goes unpunished, as nan.

    Args:
        confusion: (classes, classes), voxels by true (row) and predicted class, of ``confusion``.

    Returns:
        float64 (classes,), in [0, 1] or nan.
    """
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = np.full(len(confusion), np.nan)
    np.divide(2.0 * confusion.diagonal(), both, out=scores, where=both > 0)
    return scores
