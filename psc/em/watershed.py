"""From affinities to a segmentation, and the choice of the one number that it hangs on.

The pipeline of Funke et al. (TPAMI 2019) that the paper adopts. First fragments, small pieces that
lie within one object each. They can be merged later but never split, so a fragment that crosses a
boundary is an error for good. The seeded watershed gives a few hundred voxels per fragment, that of
waterz a few; the latter crosses fewer boundaries, and its agglomeration takes some 50 times longer
and gigabytes. Then agglomeration: waterz merges the pair of adjacent regions with the lowest score
1 - q, where q is a statistic of the affinities between them, until no score is below a threshold.

The threshold is chosen on a validation volume by ``threshold_scores``; a test volume is then
segmented with ``segment`` at that threshold, whatever its own best would be.
"""

import contextlib
import ctypes
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.segmentation
from scipy import ndimage

from psc.em.affinities import checked_affinities, neighbours
from psc.em.labels import relabel_consecutive
from psc.em.settings import SCORING_FUNCTIONS, SegmentationConfig
from psc.errors import DataError
from psc.metrics import SegmentationScores, segmentation_scores

log = logging.getLogger(__name__)

_UInt64 = npt.NDArray[np.uint64]
_Float32 = npt.NDArray[np.float32]
_STDOUT = 1
# scikit-image has no types
_watershed: Callable[..., npt.NDArray[np.int32]] = skimage.segmentation.watershed


# Regions are merged in the order of their scores, rounded to as many bins as the histogram has:
# an exact queue gives nearly the same segmentation and takes longer.
_QUEUE_BINS = 256


def threshold_scores(
    affinities: npt.NDArray[Any], truth: npt.NDArray[np.integer[Any]], options: SegmentationConfig
) -> dict[float, SegmentationScores]:
    """Score every threshold of the options on a validation volume, in ascending order.

    Never on the volume that is reported: its score would then be that of a threshold which was
    fitted to it. Voxels with truth 0 are not scored.
    """
    if np.shape(truth) != np.shape(affinities)[1:]:
        raise DataError(
            f"truth has shape {np.shape(truth)}, affinities {np.shape(affinities)}; they must cover"
            " the same voxels: crop the truth to the region that was predicted"
        )
    return {t: segmentation_scores(truth, s) for t, s in segment(affinities, options)}


def segment(
    affinities: npt.NDArray[Any],
    options: SegmentationConfig,
    thresholds: Sequence[float] | None = None,
) -> Iterator[tuple[float, _UInt64]]:
    """Segment a volume: fragments once, at the call, then agglomeration up to each threshold.

    ``thresholds`` take the place of those of the options, such as the one that validation chose.
    Yields (threshold, segmentation) as ``agglomerate`` does; every voxel has a positive id.
    """
    chosen = options.thresholds if thresholds is None else thresholds
    return agglomerate(
        affinities, fragments_of(affinities, options), chosen, scoring=options.scoring
    )


def fragments_of(affinities: npt.NDArray[Any], options: SegmentationConfig) -> _UInt64:
    """Fragments uint64 (D, H, W) of affinities (3, D, H, W), ids 1..N, as the options say."""
    watershed = waterz_watershed if options.fragments == "waterz" else seeded_watershed
    return watershed(checked_affinities(affinities), options)


def seeded_watershed(affinities: _Float32, options: SegmentationConfig) -> _UInt64:
    """Watershed of the mean affinity, from seeds far away from any boundary.

    Voxels whose mean affinity exceeds ``boundary_threshold`` are interior; seeds are the maxima of
    the distance to the boundary, smoothed, among voxels up to ``minimum_seed_distance`` away along
    each axis (a plateau is one seed); the mean affinity is then flooded from its high values down.
    True affinities (0 and 1) need a threshold above 5/6, which is what a flat boundary leaves to
    the voxels at either side; a network's boundaries are wider and lower. Without any boundary, or
    without any interior (as an untrained network may have it), one fragment covers all.
    """
    mean = voxel_affinities(affinities)
    interior = mean > options.boundary_threshold
    if interior.all() or not interior.any():
        return np.ones(mean.shape, dtype=np.uint64)
    fast = _bioimage_cpp()
    if fast is None:
        distance = ndimage.distance_transform_edt(interior).astype(np.float32)
    else:
        distance = fast.distance.distance_transform(interior)
    if options.seed_smoothing > 0:
        ndimage.gaussian_filter(distance, options.seed_smoothing, output=distance)
    highest = ndimage.maximum_filter(distance, size=2 * options.minimum_seed_distance + 1)
    peaks = (distance == highest) & interior
    if fast is None:
        seeds, _ = ndimage.label(peaks, structure=np.ones((3, 3, 3), dtype=np.bool_))
        return _watershed(-mean, seeds).astype(np.uint64)
    fragments: _UInt64 = fast.segmentation.watershed(-mean, fast.segmentation.label(peaks))
    return fragments


@cache
def _bioimage_cpp() -> Any:
    """The library, or None where there is no wheel of it: said once in each process."""
    try:
        import bioimage_cpp
    except ImportError:
        log.warning(
            "bioimage-cpp is not installed: watersheds take four times as long with scikit-image, "
            "and give segments that differ where boundaries are flat (pip install bioimage-cpp)"
        )
        return None
    return bioimage_cpp


def voxel_affinities(affinities: _Float32) -> _Float32:
    """Mean affinity (D, H, W) of every voxel to its face neighbours inside the volume.

    Up to six edges count, not only the three to the predecessors: their mean alone is shifted by
    half a voxel and not defined at the volume's first planes. A lone voxel has mean 1.
    """
    total = np.zeros(affinities.shape[1:], dtype=np.float32)
    edges = np.zeros(affinities.shape[1:], dtype=np.float32)
    for axis in range(3):
        here, before = neighbours(axis)
        for side in (here, before):
            total[side] += affinities[axis][here]
            edges[side] += 1
    return np.divide(total, edges, out=np.ones_like(total), where=edges > 0)


def waterz_watershed(affinities: _Float32, options: SegmentationConfig) -> _UInt64:
    """Fragments by waterz's own watershed, which follows the strongest affinity of each voxel.

    A voxel without any affinity above ``low`` is background to waterz (label 0). Here it becomes a
    fragment of one voxel, so that nothing is lost silently: affinities that are all 0 give as many
    fragments as voxels.

    Voxels with an affinity of at least ``high`` are in one fragment, unconditionally: slightly too
    low, and one fragment percolates through the volume.
    """
    import waterz  # here, so that a machine without it can still train

    with silent_stdout():
        # No score, 1 - mean affinity, is below a negative threshold: nothing is agglomerated.
        steps: Iterator[Any] = waterz.agglomerate(
            affinities, [-1.0], aff_threshold_low=options.low, aff_threshold_high=options.high
        )
        fragments: _UInt64 = next(steps)
    background = fragments == 0
    first = fragments.max() + np.uint64(1)
    fragments[background] = first + np.arange(np.count_nonzero(background), dtype=np.uint64)
    return fragments


def agglomerate(
    affinities: npt.NDArray[Any],
    fragments: npt.NDArray[np.integer[Any]],
    thresholds: Sequence[float],
    *,
    scoring: str = "aff50_his256",
) -> Iterator[tuple[float, _UInt64]]:
    """Merge fragments, once up to every threshold.

    Yields (threshold, segmentation) in ascending order: two regions merge if their score 1 - q is
    below. A segmentation is a new uint64 array (D, H, W), each segment with the id of one of its
    fragments, and is computed when it is asked for, out of the previous one; arguments are checked
    at the call. Of affinities (3, D, H, W) the first plane of each channel is not used; fragments
    are not changed, and their 0 is background, never merged. waterz holds the GIL and prints:
    standard output is silent while it works, but not in between.
    """
    affinities = checked_affinities(affinities)
    if np.shape(fragments) != affinities.shape[1:]:
        raise DataError(
            f"fragments must have the shape of the affinities {affinities.shape[1:]}, found"
            f" {np.shape(fragments)}"
        )
    ascending = SegmentationConfig(scoring=scoring, thresholds=list(thresholds)).ascending
    return _merge_steps(affinities, fragments, ascending, SCORING_FUNCTIONS[scoring])


def _merge_steps(
    affinities: _Float32,
    fragments: npt.NDArray[np.integer[Any]],
    thresholds: tuple[float, ...],
    scoring_function: str,
) -> Iterator[tuple[float, _UInt64]]:
    import waterz  # here, so that a machine without it can still train

    # waterz's tables are as long as the largest id, so ids must be dense.
    dense, original_ids = relabel_consecutive(fragments)
    with silent_stdout():
        steps: Iterator[Any] = waterz.agglomerate(
            affinities,
            thresholds,
            fragments=dense.astype(np.uint64),  # overwritten by waterz
            scoring_function=scoring_function,
            discretize_queue=_QUEUE_BINS,
        )
    del dense
    for threshold in thresholds:
        with silent_stdout():
            segmentation = next(steps)
        # waterz yields the same array for all thresholds; this look-up also makes the copy.
        yield threshold, original_ids[segmentation]


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard everything that Python or C++ writes to standard output in the with block.

    C++ does not know ``sys.stdout``, so file descriptor 1 itself is pointed at the null device and
    restored afterwards, also after an exception. The descriptor belongs to the whole process:
    what other threads print meanwhile is lost as well, so keep the block short.
    """
    sys.stdout.flush()  # what was written before the block must not end up in the null device
    saved = os.dup(_STDOUT)
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _STDOUT)
        os.close(null)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        # Through a pipe the C library buffers whole blocks; unflushed, they would come out later.
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, _STDOUT)
        os.close(saved)
