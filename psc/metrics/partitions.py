"""Every score of a segmentation, from one pass over the two label volumes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.metrics.contingency import ContingencyTable, contingency_table

# ----------------------------------------
# Variation of information (Meila 2007), split into its two halves, in bits.
#
# Conventions, on which published numbers differ:
#
# * Logarithms are to base 2.
# * Truth label 0 is unknown, its voxels are ignored (``ignore_truth=(0,)``).
# * Predicted label 0 is one segment like any other, so that voxels left unassigned cost something;
#   ``ignore_predicted=(0,)`` compares the assigned voxels only.
# * ``split`` = H(predicted | truth) grows with over-segmentation, ``merge`` = H(truth | predicted)
#   with under-segmentation. The order is that of scikit-image and of the CREMI evaluation.


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


# ----------------------------------------
# Adapted Rand error: 1 - F1 score of "these two voxels belong together".
#
# Two definitions are in use. They differ in whether a voxel counts as joined with itself:
#
# * subtracted (ours, and scikit-image's): pairs of two different voxels, sums of n (n - 1);
# * kept (waterz, funlib.evaluate, elf; ``keep_self_pairs=True``): sums of n**2, where every voxel
#   brings one pair that no segmentation can get wrong.
#
# The difference vanishes as segments grow (5e-5 on a volume of 250**3 with 3000 segments) and is
# large on small ones. The error is that of Arganda-Carreras et al. (2015), save that predicted 0 is
# one segment here, as in the variation of information, and one segment per voxel in their script.


class AdaptedRand(NamedTuple):
    """Adapted Rand error with the two ratios it is made of, all in [0, 1].

    Attributes:
        error: 1 - 2 precision recall / (precision + recall).
        precision: of the pairs joined in the prediction, the share joined in the truth too; falls
            with under-segmentation. scikit-image (up to 0.26 at least, its issue 6485) returns
            this value as its recall.
        recall: of the pairs joined in the truth, the share joined in the prediction too; falls
            with over-segmentation.
    """

    error: float
    precision: float
    recall: float


def adapted_rand(
    truth: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.integer[Any]],
    *,
    ignore_truth: Sequence[int] = (0,),
    ignore_predicted: Sequence[int] = (),
    keep_self_pairs: bool = False,
) -> AdaptedRand:
    """Adapted Rand error, precision and recall of a predicted label volume.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape, 0 = one segment like any other.
        ignore_truth: truth labels whose voxels are not compared.
        ignore_predicted: predicted labels whose voxels are not compared.
        keep_self_pairs: count each voxel as joined with itself, as waterz and funlib do.

    Returns:
        Error, precision and recall.

    Raises:
        DataError: as `psc.metrics.contingency_table` does.
    """
    table = contingency_table(
        truth, predicted, ignore_truth=ignore_truth, ignore_predicted=ignore_predicted
    )
    return adapted_rand_from_table(table, keep_self_pairs=keep_self_pairs)


def adapted_rand_from_table(
    table: ContingencyTable, *, keep_self_pairs: bool = False
) -> AdaptedRand:
    """Adapted Rand error, precision and recall from a contingency table.

    Args:
        table: the compared voxels, at least one pair.
        keep_self_pairs: count each voxel as joined with itself, as waterz and funlib do.

    Returns:
        Error, precision and recall. Where nothing is joined, nothing is joined wrongly: a ratio
        without pairs in its denominator is 1, and the error of two equal partitions is 0.
    """
    both = _joined_pairs(table.counts, keep_self_pairs)
    in_truth = _joined_pairs(table.truth_sizes()[0], keep_self_pairs)
    in_prediction = _joined_pairs(table.predicted_sizes()[0], keep_self_pairs)
    return AdaptedRand(
        error=1.0 - _ratio(2.0 * both, in_truth + in_prediction),
        precision=_ratio(both, in_prediction),
        recall=_ratio(both, in_truth),
    )


def _joined_pairs(sizes: npt.NDArray[np.int64], keep_self_pairs: bool) -> float:
    """Ordered pairs of voxels in the same segment.

    In float64, because int64 overflows from 3e9 voxels in one segment on; as a sum of n (n - 1),
    not as a difference of sums, because then no digits cancel: each term is right to 2**-52.
    """
    voxels = sizes.astype(np.float64)
    return float(np.sum(voxels * (voxels if keep_self_pairs else voxels - 1.0)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


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
