"""Every score of a segmentation, from one pass over the two label volumes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.metrics.adapted_rand import adapted_rand_from_table
from psc.metrics.contingency import contingency_table
from psc.metrics.variation_of_information import variation_of_information_from_table

__all__ = ["SegmentationScores", "segmentation_scores"]


class SegmentationScores(NamedTuple):
    """Scores of one predicted label volume; ``_asdict()`` gives the entries of a run record.

    Attributes:
        split: H(predicted | truth) in bits, over-segmentation.
        merge: H(truth | predicted) in bits, under-segmentation.
        total: variation of information in bits, split + merge.
        adapted_rand_error: 1 - F1 score of joined voxel pairs, self-pairs subtracted, in [0, 1].
        rand_precision: share of the predicted pairs that are true, in [0, 1].
        rand_recall: share of the true pairs that are predicted, in [0, 1].
        voxels: number of voxels compared.
        truth_segments: number of truth segments among them.
        predicted_segments: number of predicted segments among them, 0 included if it is compared.
    """

    split: float
    merge: float
    total: float
    adapted_rand_error: float
    rand_precision: float
    rand_recall: float
    voxels: int
    truth_segments: int
    predicted_segments: int


def segmentation_scores(
    truth: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.integer[Any]],
    *,
    ignore_truth: Sequence[int] = (0,),
    ignore_predicted: Sequence[int] = (),
) -> SegmentationScores:
    """Variation of information and adapted Rand error of a predicted label volume.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape, 0 = one segment like any other.
        ignore_truth: truth labels whose voxels are not compared.
        ignore_predicted: predicted labels whose voxels are not compared.

    Returns:
        All scores, as plain Python numbers.

    Raises:
        DataError: as `psc.metrics.contingency_table` does.
    """
    table = contingency_table(
        truth, predicted, ignore_truth=ignore_truth, ignore_predicted=ignore_predicted
    )
    information = variation_of_information_from_table(table)
    rand = adapted_rand_from_table(table)
    return SegmentationScores(
        split=information.split,
        merge=information.merge,
        total=information.total,
        adapted_rand_error=rand.error,
        rand_precision=rand.precision,
        rand_recall=rand.recall,
        voxels=table.voxels,
        truth_segments=table.truth_sizes()[0].size,
        predicted_segments=table.predicted_sizes()[0].size,
    )
