"""Variation of information (Meila 2007), split into its two halves, in bits.

Conventions, on which published numbers differ:

* Logarithms are to base 2.
* Truth label 0 is unknown, its voxels are ignored (``ignore_truth=(0,)``).
* Predicted label 0 is one segment like any other, so that voxels left unassigned cost something;
  ``ignore_predicted=(0,)`` compares the assigned voxels only.
* ``split`` = H(predicted | truth) grows with over-segmentation, ``merge`` = H(truth | predicted)
  with under-segmentation. The order is that of scikit-image and of the CREMI evaluation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.metrics.contingency import ContingencyTable, contingency_table

__all__ = [
    "VariationOfInformation",
    "variation_of_information",
    "variation_of_information_from_table",
]


class VariationOfInformation(NamedTuple):
    """Variation of information in bits.

    Attributes:
        split: H(predicted | truth), over-segmentation.
        merge: H(truth | predicted), under-segmentation.
    """

    split: float
    merge: float

    @property
    def total(self) -> float:
        """Split plus merge: the variation of information itself, a metric on partitions."""
        return self.split + self.merge


def variation_of_information(
    truth: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.integer[Any]],
    *,
    ignore_truth: Sequence[int] = (0,),
    ignore_predicted: Sequence[int] = (),
) -> VariationOfInformation:
    """Variation of information between two label volumes.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape, 0 = one segment like any other.
        ignore_truth: truth labels whose voxels are not compared.
        ignore_predicted: predicted labels whose voxels are not compared.

    Returns:
        Split and merge in bits; both 0 exactly where the two partitions are equal.

    Raises:
        DataError: as `psc.metrics.contingency_table` does.
    """
    return variation_of_information_from_table(
        contingency_table(
            truth, predicted, ignore_truth=ignore_truth, ignore_predicted=ignore_predicted
        )
    )


def variation_of_information_from_table(table: ContingencyTable) -> VariationOfInformation:
    """Variation of information from a contingency table.

    Args:
        table: the compared voxels, at least one pair.

    Returns:
        Split and merge in bits.
    """
    return VariationOfInformation(
        split=_conditional_entropy(table.counts, *table.truth_sizes()),
        merge=_conditional_entropy(table.counts, *table.predicted_sizes()),
    )


def _conditional_entropy(
    counts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], index: npt.NDArray[np.intp]
) -> float:
    """H(X | Y) = sum of p(x, y) log2(p(y) / p(x, y)); sizes[index] are the voxels of each y."""
    return float(np.sum(counts * np.log2(sizes[index] / counts)) / counts.sum())
