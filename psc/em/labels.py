"""Make label volumes dense and connected, as every later step of the pipeline wants them.

Body ids of EM volumes are sparse 64-bit numbers, and a crop cuts one body into several pieces.
Tables indexed by id want ids 1..N; a segmentation that grows from local evidence can only
recover connected pieces.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.measure
from numba import njit

from psc.errors import DataError

_INITIAL_SLOTS = 1024
_FIBONACCI = np.uint64(11400714819323198485)  # 2**64 / golden ratio: spreads neighbouring ids

# scikit-image has no types
_connected_components: Callable[..., npt.NDArray[np.integer[Any]]] = skimage.measure.label


def relabel_consecutive(
    labels: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Replace the ids of a label volume by 1..N, in order of first appearance; 0 stays 0.

    Labels are piecewise constant, so ids are looked up once per run of equal voxels. Apart from
    the result, memory grows with the number of ids, never with their values.

    Args:
        labels: integer array of any shape, no negative ids.

    Returns:
        The relabelled array, int32 and of the same shape, and the original ids, uint64 (N + 1),
        such that ``original_ids[relabelled] == labels``; ``original_ids[0]`` is 0.

    Raises:
        DataError: labels are not integers, or some are negative.
    """
    labels = np.ascontiguousarray(_checked(labels))
    relabelled = np.empty(labels.shape, dtype=np.int32)
    original_ids = _relabel_runs(labels.reshape(-1), relabelled.reshape(-1))
    return relabelled, original_ids


def split_disconnected(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Give every connected piece of every body an id of its own.

    Two voxels are connected if they share a face (6-connectivity in 3D) and have the same id;
    bodies that touch are not merged.

    Args:
        labels: integer array (D, H, W) or (H, W), 0 = background.

    Returns:
        Array of the same shape, int32, ids 1..N in order of first appearance; 0 stays 0.

    Raises:
        DataError: labels are not integers, some are negative, or dimensions are not two or three.
    """
    if labels.ndim not in (2, 3):
        raise DataError(f"labels must have two or three dimensions, found shape {labels.shape}")
    if labels.size == 0:
        return np.zeros(labels.shape, dtype=np.int32)
    dense, _ = relabel_consecutive(labels)
    return _connected_components(dense, background=0, connectivity=1).astype(np.int32, copy=False)


def _checked(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    labels = np.asarray(labels)  # also turns a memmap into an array that numba takes
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"labels must be integers, found {labels.dtype}; convert them with .astype, after"
            " checking that no id is lost"
        )
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise DataError(
            f"labels must not be negative, found {labels.min()}; set unknown voxels to 0"
        )
    return labels.astype(labels.dtype.newbyteorder("="), copy=False)


@njit(nogil=True, cache=True)
def _find_slot(
    table: npt.NDArray[np.int32], original_ids: npt.NDArray[np.uint64], key: np.uint64
) -> int:
    """Open addressing: the slot that holds the new id of ``key``, or the free slot it would get."""
    slot = np.int64((key * _FIBONACCI) >> np.uint64(32)) & (table.size - 1)
    while table[slot] != 0 and original_ids[table[slot]] != key:
        slot = (slot + 1) & (table.size - 1)
    return int(slot)


@njit(nogil=True, cache=True)
def _relabel_runs(
    labels: npt.NDArray[np.integer[Any]], relabelled: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint64]:
    """Fill ``relabelled`` (flat, like ``labels``) and return the original ids."""
    table = np.zeros(_INITIAL_SLOTS, dtype=np.int32)  # hash of an id -> new id, 0 = free
    original_ids = np.zeros(_INITIAL_SLOTS // 2 + 1, dtype=np.uint64)
    count = 0
    previous = np.uint64(0)
    new_id = 0
    for i in range(labels.size):
        current = np.uint64(labels[i])
        if current != previous:
            previous = current
            new_id = 0
            if current != 0:
                slot = _find_slot(table, original_ids, current)
                new_id = table[slot]
                if new_id == 0:
                    count += 1
                    new_id = count
                    table[slot] = count
                    original_ids[count] = current
                    if 2 * count == table.size:
                        table, original_ids = _doubled(table, original_ids)
        relabelled[i] = new_id
    return original_ids[: count + 1].copy()


@njit(nogil=True, cache=True)
def _doubled(
    table: npt.NDArray[np.int32], original_ids: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """A table twice as large, with the same ids, called when half the slots are taken."""
    larger_table = np.zeros(2 * table.size, dtype=np.int32)
    larger_ids = np.zeros(table.size + 1, dtype=np.uint64)
    larger_ids[: original_ids.size] = original_ids
    for new_id in range(1, original_ids.size):
        larger_table[_find_slot(larger_table, larger_ids, original_ids[new_id])] = new_id
    return larger_table, larger_ids
