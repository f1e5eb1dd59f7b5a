"""The pass over two label volumes itself, compiled by numba: ``psc.metrics.contingency``'s."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

_CHUNK = 1 << 12  # voxels between two looks at how full the hash table is

_LABELS = types.Array(types.uint64, 3, "A", readonly=True)
_IGNORED = types.Array(types.uint64, 1, "C", readonly=True)
_IDS, _COUNTS = types.uint64[:, ::1], types.int64[::1]


def empty_table() -> tuple[Any, Any]:
    """Ids and counts of a hash table without a pair."""
    return np.empty((2, 4 * _CHUNK), dtype=np.uint64), np.zeros(4 * _CHUNK, dtype=np.int64)


@njit(nogil=True, cache=True)
def _count_chunk(
    truth: Any, predicted: Any, ignored_truth: Any, ignored_predicted: Any, ids: Any, counts: Any
) -> Any:
    """Add the runs of two rows to the table; return the number of new pairs."""
    end, new = 0, 0
    while end < truth.size:
        start, a, b = end, truth[end], predicted[end]
        end += 1
        while end < truth.size and truth[end] == a and predicted[end] == b:
            end += 1
        if _is_among(a, ignored_truth) or _is_among(b, ignored_predicted):
            continue
        slot = _slot_of(ids, counts, a, b)
        new += counts[slot] == 0
        ids[0, slot], ids[1, slot] = a, b
        counts[slot] += end - start
    return new


@njit(nogil=True, cache=True)
def _is_among(label: Any, ignored: Any) -> Any:
    for other in ignored:  # noqa: SIM110  numba compiles no generator expressions
        if label == other:
            return True
    return False


@njit(nogil=True, cache=True)
def _slot_of(ids: Any, counts: Any, truth_id: Any, predicted_id: Any) -> Any:
    """The slot that holds this pair, or the free one where it belongs (linear probing)."""
    # The golden ratio and a multiplier of xxHash64, both odd. Ids that differ in their high bits
    # only (bit fields are common) need the shift and the second multiplication to be told apart.
    mixed = truth_id * np.uint64(0x9E3779B97F4A7C15) ^ predicted_id * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
    last = counts.size - 1
    slot = np.int64(mixed >> np.uint64(32)) & last
    while counts[slot] and (ids[0, slot] != truth_id or ids[1, slot] != predicted_id):
        slot = (slot + 1) & last
    return slot


@njit(nogil=True, cache=True)
def _grown(ids: Any, counts: Any) -> Any:
    """The same pairs in four times the slots."""
    new_ids = np.empty((2, 4 * counts.size), dtype=np.uint64)
    new_counts = np.zeros(4 * counts.size, dtype=np.int64)
    for old in range(counts.size):
        if counts[old]:
            slot = _slot_of(new_ids, new_counts, ids[0, old], ids[1, old])
            new_ids[:, slot] = ids[:, old]
            new_counts[slot] = counts[old]
    return new_ids, new_counts


def _count_runs(
    truth: Any, predicted: Any, ignored_truth: Any, ignored_predicted: Any, ids: Any, counts: Any
) -> Any:
    """Add the pairs of two label volumes of three axes, without the ignored labels, to a table.

    Returns ids (2, slots) uint64 and counts (slots,) int64, 0 where the slot is free: those given,
    or larger ones.
    """
    used = 0
    for slot in range(counts.size):
        used += counts[slot] > 0
    for i in range(truth.shape[0]):
        for j in range(truth.shape[1]):
            for start in range(0, truth.shape[2], _CHUNK):
                # Between chunks only: arrays that may be replaced inside the hot loop make it
                # 1.7 times slower (reference counting).
                if 2 * (used + _CHUNK) > counts.size:
                    ids, counts = _grown(ids, counts)
                truth_row = truth[i, j, start : start + _CHUNK]
                predicted_row = predicted[i, j, start : start + _CHUNK]
                used += _count_chunk(
                    truth_row, predicted_row, ignored_truth, ignored_predicted, ids, counts
                )
    return ids, counts


# One signature for all: compiling another for each dtype and layout would take seconds.
_SIGNATURE = (_LABELS, _LABELS, _IGNORED, _IGNORED, _IDS, _COUNTS)
count_runs: Callable[..., Any] = njit(_SIGNATURE, nogil=True, cache=True)(_count_runs)
"""See ``_count_runs``."""
