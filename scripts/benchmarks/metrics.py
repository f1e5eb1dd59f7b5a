"""Variation of information and adapted Rand error: one table against scikit-image's two calls."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from skimage import metrics

from benchmarks.report import Report, Row
from benchmarks.timing import Timing, interleave, peak_python_memory
from psc.metrics import segmentation_scores

__all__ = ["run"]

Labels = npt.NDArray[np.uint64]
Scores = tuple[float, float, float]

_SCIKIT_IMAGE: Any = metrics  # its functions carry no types
_VOXELS_PER_SEGMENT = 250**3 / 3000
_PEER = "scikit-image"
_RELABELLED = "scikit-image, relabelled first"
_OURS = "psc"


def run(*, size: int = 250, repeats: int = 5, seed: int = 0) -> Report:
    """Compare on two label volumes of ``size``**3 voxels, with dense and with sparse ids.

    Args:
        size: voxels per axis; 250 gives 3000 true and about 1400 predicted segments.
        repeats: rounds per contestant.
        seed: of the volumes and of the sparse ids.

    Returns:
        CPU and wall seconds, peak extra memory, speed relative to scikit-image, and the scores.
    """
    truth, predicted = label_volumes(size, seed)
    rows = _compare("dense", truth, predicted, [_OURS, _PEER], repeats)
    sparse = (_sparse_ids(truth, seed), _sparse_ids(predicted, seed + 1))
    rows += _compare("2**50 to 2**51", *sparse, [_OURS, _PEER, _RELABELLED], repeats)
    settings = {
        "size": size,
        "repeats": repeats,
        "seed": seed,
        "dtype": str(truth.dtype),
        "truth_segments": int(truth.max()),
        "unknown_fraction": float(np.mean(truth == 0)),
    }
    return Report("metrics", settings, {"variation of information and adapted Rand error": rows})


def label_volumes(size: int, seed: int) -> tuple[Labels, Labels]:
    """True and predicted segments: Voronoi cells; then cells merged, and some of those cut.

    Args:
        size: voxels per axis.
        seed: of all positions.

    Returns:
        truth: uint64 (size, size, size), 0 on both sides of every boundary.
        predicted: the same shape and dtype, no 0.
    """
    rng = np.random.default_rng(seed)
    cells = max(2, round(size**3 / _VOXELS_PER_SEGMENT))
    centres = rng.choice(size**3, cells, replace=False)
    cell_of = np.zeros(size**3, dtype=np.uint64)
    cell_of[centres] = np.arange(1, cells + 1)
    nearest = distance_transform_edt(
        cell_of.reshape((size,) * 3) == 0, return_distances=False, return_indices=True
    )
    truth = cell_of.reshape((size,) * 3)[tuple(nearest)]

    groups = max(1, round(0.4 * cells))
    points = np.stack(np.unravel_index(centres, (size,) * 3), axis=1)
    group_of = cKDTree(rng.uniform(0, size, (groups, 3))).query(points)[1]
    merged = np.concatenate([[0], group_of + 1]).astype(np.uint64)[truth]
    axis = np.arange(size)
    in_band = (axis[:, None, None] + axis[:, None] + axis) // 20 % 2 == 1
    predicted = np.where(in_band & (merged % 6 == 1), merged + np.uint64(groups), merged)
    return np.where(_on_boundary(truth), np.uint64(0), truth), predicted


def _on_boundary(labels: Labels) -> npt.NDArray[np.bool_]:
    boundary = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(labels.ndim):
        lower, upper = np.moveaxis(boundary, axis, 0)[:-1], np.moveaxis(boundary, axis, 0)[1:]
        change = np.moveaxis(np.diff(labels, axis=axis) != 0, axis, 0)
        lower |= change
        upper |= change
    return boundary


def _sparse_ids(labels: Labels, seed: int) -> Labels:
    """The same partition under random ids; 0 stays 0."""
    ids = np.random.default_rng(seed).integers(2**50, 2**51, int(labels.max()) + 1, dtype=np.uint64)
    ids[0] = 0
    renamed: Labels = ids[labels]
    return renamed


def _ours(truth: Labels, predicted: Labels) -> Scores:
    scores = segmentation_scores(truth, predicted)
    return scores.split, scores.merge, scores.adapted_rand_error


def _scikit_image(truth: Any, predicted: Any) -> Scores:
    split, merge = _SCIKIT_IMAGE.variation_of_information(truth, predicted, ignore_labels=(0,))
    rand = _SCIKIT_IMAGE.adapted_rand_error(truth, predicted, ignore_labels=(0,))
    return float(split), float(merge), float(rand[0])


def _scikit_image_relabelled(truth: Labels, predicted: Labels) -> Scores:
    # The smallest id becomes 0. That is right for truth, which has 0; of the prediction it only
    # changes names.
    dense = [
        np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        for labels in (truth, predicted)
    ]
    return _scikit_image(*dense)


_CONTESTANTS = {_OURS: _ours, _PEER: _scikit_image, _RELABELLED: _scikit_image_relabelled}


def _compare(
    ids: str, truth: Labels, predicted: Labels, names: list[str], repeats: int
) -> list[Row]:
    calls = {name: functools.partial(_CONTESTANTS[name], truth, predicted) for name in names}
    timings = interleave(calls, repeats)
    return [_row(ids, name, calls[name], timings) for name in names]


def _row(ids: str, name: str, call: Any, timings: dict[str, Timing]) -> Row:
    mine, ours = timings[name], timings[_OURS]
    split, merge, rand = call() if mine.failure is None else (None, None, None)
    return {
        "ids": ids,
        "contestant": name,
        "cpu_seconds": mine.cpu_median,
        "wall_seconds": mine.wall_median,
        "cpu_seconds_relative_to_psc": mine.cpu_median
        and ours.cpu_median
        and mine.cpu_median / ours.cpu_median,
        "peak_extra_mb": None if mine.failure else peak_python_memory(call) / 1e6,
        "split": split,
        "merge": merge,
        "adapted_rand_error": rand,
        "fails": mine.failure,
    }
