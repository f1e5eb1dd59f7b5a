"""Variation of information and adapted Rand error, from one pass over the two label volumes.

Conventions, on which published numbers differ:

* Truth label 0 is unknown, its voxels are ignored (``ignore_truth=(0,)``). Predicted label 0 is one
  segment like any other, so that voxels left unassigned cost something; ``ignore_predicted=(0,)``
  compares the assigned voxels only.
* Variation of information (Meila 2007) is in bits. ``split`` = H(predicted | truth) grows with
  over-segmentation, ``merge`` = H(truth | predicted) with under-segmentation. The order is that of
  scikit-image and of the CREMI evaluation.
* Adapted Rand error is 1 - F1 score of "these two voxels belong together". Two definitions differ
  in whether a voxel counts as joined with itself: subtracted (ours, and scikit-image's), sums of
  n (n - 1); kept (waterz, funlib.evaluate, elf; ``keep_self_pairs=True``), sums of n**2, where
  every voxel brings one pair that no segmentation can get wrong. The difference vanishes as
  segments grow (5e-5 on a volume of 250**3 with 3000 segments) and is large on small ones. The
  error is that of Arganda-Carreras et al. (2015), save that predicted 0 is one segment here, and
  one segment per voxel in their script.

Volumes are integer labels of one shape, one to three axes; what is none is refused with a
``DataError``, as by ``contingency_table``.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.metrics.contingency import ContingencyTable, contingency_table

_Labels = npt.NDArray[np.integer[Any]]


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


def segmentation_scores(truth: _Labels, predicted: _Labels, **ignored: Any) -> SegmentationScores:
    """All scores of a predicted label volume, as plain Python numbers.

    ``ignored``: ``ignore_truth`` and ``ignore_predicted`` of ``contingency_table``.
    """
    table = contingency_table(truth, predicted, **ignored)
    information, rand = variation_of_information_from_table(table), adapted_rand_from_table(table)
    return SegmentationScores(
        *information,
        information.total,
        *rand,
        voxels=table.voxels,
        truth_segments=table.truth_sizes()[0].size,
        predicted_segments=table.predicted_sizes()[0].size,
    )


def variation_of_information(
    truth: _Labels, predicted: _Labels, **ignored: Any
) -> VariationOfInformation:
    """Split and merge in bits; both 0 exactly where the two partitions are equal.

    ``ignored``: ``ignore_truth`` and ``ignore_predicted`` of ``contingency_table``.
    """
    return variation_of_information_from_table(contingency_table(truth, predicted, **ignored))


def variation_of_information_from_table(table: ContingencyTable) -> VariationOfInformation:
    """Variation of information of the voxels that a table holds."""

    def entropy(sizes: npt.NDArray[np.int64], index: npt.NDArray[np.intp]) -> float:
        """H(X | Y) = sum of p(x, y) log2(p(y) / p(x, y)); sizes[index] are the voxels of each y."""
        bits = table.counts * np.log2(sizes[index] / table.counts)
        return float(np.sum(bits) / table.voxels)

    return VariationOfInformation(entropy(*table.truth_sizes()), entropy(*table.predicted_sizes()))


def adapted_rand(
    truth: _Labels, predicted: _Labels, *, keep_self_pairs: bool = False, **ignored: Any
) -> AdaptedRand:
    """Adapted Rand error, precision and recall.

    ``ignored``: ``ignore_truth`` and ``ignore_predicted`` of ``contingency_table``.
    """
    table = contingency_table(truth, predicted, **ignored)
    return adapted_rand_from_table(table, keep_self_pairs=keep_self_pairs)


def adapted_rand_from_table(
    table: ContingencyTable, *, keep_self_pairs: bool = False
) -> AdaptedRand:
    """Adapted Rand error, precision and recall of the voxels that a table holds.

    Where nothing is joined, nothing is joined wrongly: a ratio without pairs in its denominator is
    1, and the error of two equal partitions is 0.
    """

    def joined(sizes: npt.NDArray[np.int64]) -> float:
        """Ordered pairs of voxels in the same segment.

        In float64, because int64 overflows from 3e9 voxels in one segment on; as a sum of
        n (n - 1), not as a difference of sums, because then no digits cancel: each term is right to
        2**-52.
        """
        voxels = sizes.astype(np.float64)
        return float(np.sum(voxels * (voxels if keep_self_pairs else voxels - 1.0)))

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else 1.0

    both = joined(table.counts)
    in_truth, in_prediction = joined(table.truth_sizes()[0]), joined(table.predicted_sizes()[0])
    return AdaptedRand(
        error=1.0 - ratio(2.0 * both, in_truth + in_prediction),
        precision=ratio(both, in_prediction),
        recall=ratio(both, in_truth),
    )
