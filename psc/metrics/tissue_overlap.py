"""Overlap of two tissue label volumes: their confusion matrix, and Dice per class.

All that follows from counts of voxels (Dice, volumes) is taken from one pass over the volume.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.metrics.contingency import contingency_table

__all__ = ["confusion", "dice"]


def confusion(
    labels: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]], classes: int
) -> npt.NDArray[np.int64]:
    """Count the voxels of each pair of a true and a predicted class, in one pass.

    Args:
        labels: true classes, integers 0 … classes − 1, one to three axes, any memory order.
        prediction: predicted classes, of the same shape.
        classes: number of classes, background included; at least 1.

    Returns:
        int64 (classes, classes): voxels by true class (row) and predicted class (column).

    Raises:
        DataError: a label is no integer or outside 0 … classes − 1, or the shapes differ.
        ConfigError: ``classes`` is less than 1.
    """
    if classes < 1:
        raise ConfigError(f"classes must be at least 1, found {classes}")
    table = contingency_table(labels, prediction, ignore_truth=())
    for name, ids in (("labels", table.truth_ids), ("prediction", table.predicted_ids)):
        if (highest := int(ids.max())) >= classes:
            raise DataError(
                f"{name} holds the value {highest}, but there are {classes} classes, 0 to"
                f" {classes - 1}; correct the labels, or the number of classes"
            )
    counts = np.zeros((classes, classes), dtype=np.int64)
    counts[table.truth_ids.astype(np.intp), table.predicted_ids.astype(np.intp)] = table.counts
    return counts


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
