"""Sparse contingency table of two label volumes: the one pass that all overlap metrics share.

Labels are piecewise constant, so the volume is read as runs of equal (truth, predicted) pairs and
only one hash look-up is made per run. Memory grows with the number of distinct pairs, never with
the largest id: neuron ids of 2**60 cost what ids of 60 cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import DataError, extra_needed

_Labels = npt.NDArray[np.integer[Any]]
_LARGEST_LABEL = 2**64 - 1
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class ContingencyTable:
    """How many voxels carry each (truth, predicted) pair of labels.

    Pairs are sorted by truth id, then by predicted id, and every count is positive; so two tables
    of the same labels are equal array by array, whatever the memory order of the volumes.

    Attributes:
        truth_ids: uint64 (P,), truth label of each of the P pairs.
        predicted_ids: uint64 (P,), predicted label of each pair.
        counts: int64 (P,), number of voxels with this pair.
    """

    truth_ids: npt.NDArray[np.uint64]
    predicted_ids: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.int64]

    @property
    def voxels(self) -> int:
        """Number of voxels that were compared."""
        return int(self.counts.sum())

    def truth_sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """Voxels of each truth segment in ascending order of id, and each pair's place there."""
        return _segment_sizes(self.truth_ids, self.counts)

    def predicted_sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """The same of each predicted segment."""
        return _segment_sizes(self.predicted_ids, self.counts)


def contingency_table(
    truth: _Labels,
    predicted: _Labels,
    *,
    ignore_truth: Sequence[int] = (0,),
    ignore_predicted: Sequence[int] = (),
) -> ContingencyTable:
    """Count the voxels of every (truth, predicted) pair of labels.

    Args:
        truth: integer labels, one to three axes, any memory order, ids from 0 to 2**64 - 1.
        predicted: integer labels of the same shape; its dtype may differ.
        ignore_truth: voxels with one of these truth labels are not counted. The default drops
            0 = unknown, as CREMI and SNEMI3D do.
        ignore_predicted: voxels with one of these predicted labels are not counted. Empty by
            default, so that leaving voxels unassigned is not rewarded.

    Returns:
        The table of the remaining voxels, at least one pair.

    Raises:
        DataError: a label is no integer or negative, the arrays are empty, differ in shape or have
            more than three axes, or no voxel remains.
    """
    truth = _checked(np.asarray(truth), "truth")
    predicted = _checked(np.asarray(predicted), "predicted")
    if truth.shape != predicted.shape:
        raise DataError(
            f"truth has shape {truth.shape}, predicted {predicted.shape}; they must cover the same"
            " voxels: crop the larger one, or transpose if the axis orders differ"
        )
    with extra_needed():  # here: all that works on a table does without numba
        from psc.metrics.counting import count_runs, empty_table

    ignored = (
        _ignored_ids(ignore_truth, "ignore_truth"),
        _ignored_ids(ignore_predicted, "ignore_predicted"),
    )
    slots, counts = empty_table()
    for pieces in _pieces(*_in_memory_order(truth, predicted)):
        slots, counts = count_runs(*map(_as_ids, pieces), *ignored, slots, counts)
    occupied = np.flatnonzero(counts)
    if occupied.size == 0:
        raise DataError(
            f"nothing to compare: each of the {truth.size} voxels has a truth label in"
            f" {tuple(ignore_truth)} or a predicted label in {tuple(ignore_predicted)}"
        )
    order = occupied[np.lexsort((slots[1, occupied], slots[0, occupied]))]
    return ContingencyTable(slots[0, order], slots[1, order], counts[order])


def _segment_sizes(
    ids: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    segments, index = np.unique(ids, return_inverse=True)
    sizes = np.zeros(segments.size, dtype=np.int64)
    np.add.at(sizes, index, counts)
    return sizes, index


def _checked(labels: npt.NDArray[Any], name: str) -> _Labels:
    """Refuse what is no label volume or has negative ids; bring it to the machine's byte order."""
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} must hold integer labels, found dtype {labels.dtype};"
            " convert it explicitly, e.g. with .astype(np.uint64)"
        )
    if not 1 <= labels.ndim <= 3:
        raise DataError(f"{name} must have one to three axes, found shape {labels.shape}")
    if labels.size == 0:
        raise DataError(f"{name} is empty: shape {labels.shape}; give at least one voxel")
    if not labels.dtype.isnative:
        labels = labels.astype(labels.dtype.newbyteorder("="))
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise DataError(
            f"{name} holds negative labels, the lowest is {labels.min()}; labels are ids from 0 on:"
            " give unknown voxels the label 0, or relabel"
        )
    return labels


def _in_memory_order(truth: _Labels, predicted: _Labels) -> tuple[_Labels, _Labels]:
    """Views of both with three axes, the one along which truth is densest in memory last.

    Counts do not depend on the order of voxels, so a transposed view replaces the copy that
    ravel() would make of a Fortran-ordered volume, and runs stay long.
    """
    order = sorted(range(truth.ndim), key=lambda axis: -abs(truth.strides[axis]))
    truth, predicted = truth.transpose(order), predicted.transpose(order)
    if truth.flags.c_contiguous and predicted.flags.c_contiguous:
        return truth.reshape(1, 1, -1), predicted.reshape(1, 1, -1)
    missing = (1,) * (3 - truth.ndim)
    return truth.reshape(missing + truth.shape), predicted.reshape(missing + predicted.shape)


def _pieces(truth: _Labels, predicted: _Labels) -> Iterator[tuple[_Labels, _Labels]]:
    """Both whole where they can be read as ids; else in parts, whose copies take little memory."""
    if not (_needs_copy(truth) or _needs_copy(predicted)):
        yield truth, predicted
        return
    for plane in range(truth.shape[0]):
        for start in range(0, truth.shape[2], _PIECE):
            part = (slice(plane, plane + 1), slice(None), slice(start, start + _PIECE))
            yield truth[part], predicted[part]


def _needs_copy(labels: _Labels) -> bool:
    return labels.dtype.itemsize < 8 or not labels.flags.aligned


def _as_ids(labels: _Labels) -> npt.NDArray[np.uint64]:
    return labels.astype(np.uint64) if _needs_copy(labels) else labels.view(np.uint64)


def _ignored_ids(labels: Sequence[int], name: str) -> npt.NDArray[np.uint64]:
    wrong = [label for label in labels if not 0 <= label <= _LARGEST_LABEL]
    if wrong:
        raise DataError(f"{name} must hold labels from 0 to 2**64 - 1, found {wrong}")
    return np.array(labels, dtype=np.uint64)
