"""Label volumes made dense, cut into connected pieces, and laid over each other.

Body ids of EM volumes are sparse 64-bit numbers, and a crop cuts one body into several pieces.
Tables indexed by id want ids 1..N; a segmentation that grows from local evidence can only
recover connected pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.measure
from numba import njit, types
from numba.typed import Dict

from psc.errors import DataError
from psc.metrics import contingency_table

# scikit-image has no types
_connected_components: Callable[..., npt.NDArray[np.integer[Any]]] = skimage.measure.label


def relabel_consecutive(
    labels: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Replace the ids of a label volume by 1..N, in order of first appearance; 0 stays 0.

    Labels are piecewise constant, so ids are looked up once per run of equal voxels. Apart from
    the result, int32, memory grows with the number of ids, never with their values. The original
    ids, uint64 (N + 1), begin with 0: ``original_ids[relabelled] == labels``.
    """
    labels = np.ascontiguousarray(_checked(labels))
    relabelled = np.empty(labels.shape, dtype=np.int32)
    original_ids = _relabel_runs(labels.reshape(-1), relabelled.reshape(-1))
    return relabelled, original_ids


def split_disconnected(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Give every connected piece of every body of (D, H, W) or (H, W) an id of its own.

    Voxels are connected if they share a face and have the same id. Returns int32, ids 1..N in
    order of first appearance; 0 stays 0.
    """
    if labels.ndim not in (2, 3):
        raise DataError(f"labels must have two or three dimensions, found shape {labels.shape}")
    if labels.size == 0:
        return np.zeros(labels.shape, dtype=np.int32)
    dense, _ = relabel_consecutive(labels)
    return _connected_components(dense, background=0, connectivity=1).astype(np.int32, copy=False)


@dataclass(frozen=True, eq=False)
class Pieces:
    """What a body of the truth and a segment share is a piece, connected or not."""

    volume: npt.NDArray[np.int32]  # 1 + number of the piece, 0 where the truth is unknown
    voxels: npt.NDArray[np.int64]  # of each piece
    body: npt.NDArray[np.int64]  # of each piece, in body_labels
    segment: npt.NDArray[np.int64]  # of each piece, in segment_labels
    body_labels: npt.NDArray[np.uint64]  # ids of the truth
    segment_labels: npt.NDArray[np.uint64]  # ids of the prediction


def pieces_of(
    truth: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]]
) -> Pieces:
    """Lay two label volumes of one shape over each other; segment 0 is one like any other."""
    contingency_table(truth, predicted)  # refuses what are no labels
    bodies, body_labels = relabel_consecutive(truth)
    segments, segment_labels = relabel_consecutive(predicted)
    pairs = bodies.astype(np.int64)
    pairs *= segment_labels.size
    pairs += segments
    pairs[bodies == 0] = 0
    volume, pair_ids = relabel_consecutive(pairs)
    body, segment = np.divmod(pair_ids[1:].astype(np.int64), segment_labels.size)
    voxels = np.bincount(volume.reshape(-1))[1:]
    return Pieces(volume, voxels, body, segment, body_labels, segment_labels)


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
def _relabel_runs(labels: Any, relabelled: Any) -> Any:
    """Fill ``relabelled`` (flat, like ``labels``) and return the original ids."""
    known = Dict.empty(types.uint64, types.int32)
    known[np.uint64(0)] = np.int32(0)
    start = 0
    while start < labels.size:
        current = np.uint64(labels[start])
        stop = start + 1
        while stop < labels.size and labels[stop] == labels[start]:
            stop += 1
        if current not in known:
            known[current] = np.int32(len(known))
        relabelled[start:stop] = known[current]
        start = stop
    original_ids = np.empty(len(known), dtype=np.uint64)
    for current, new_id in known.items():
        original_ids[new_id] = current
    return original_ids
