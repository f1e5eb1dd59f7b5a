"""Fragments: small pieces that lie within one object each, where agglomeration starts.

Fragments can be merged later but never split, so a fragment that crosses a boundary is an error for
good. The seeded watershed gives a few hundred voxels per fragment, waterz's own a few; the latter
crosses fewer boundaries, and its agglomeration takes some 50 times longer and gigabytes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.segmentation
from scipy import ndimage

from psc.errors import ConfigError
from psc.segmentation.affinities import checked_affinities, neighbours
from psc.segmentation.quiet import silent_stdout

__all__ = [
    "check_seed_options",
    "check_watershed_options",
    "seeded_watershed",
    "voxel_affinities",
    "waterz_watershed",
]

_UInt64 = npt.NDArray[np.uint64]
_Float32 = npt.NDArray[np.float32]
# scikit-image has no types
_watershed: Callable[..., npt.NDArray[np.int32]] = skimage.segmentation.watershed


def seeded_watershed(
    affinities: npt.NDArray[Any],
    *,
    boundary_threshold: float = 0.5,
    seed_smoothing: float = 1.0,
    minimum_seed_distance: int = 1,
) -> _UInt64:
    """Watershed of the mean affinity, from seeds far away from any boundary.

    Voxels whose mean affinity exceeds the threshold are interior; seeds are the maxima of the
    smoothed distance to the boundary (a plateau is one seed); the mean affinity is then flooded
    from its high values down. Deterministic, and every voxel gets a fragment.

    Without any boundary, or without any interior (such as affinities that are all 0, what an
    untrained network may say), there is nothing to tell objects apart: one fragment covers all.

    Args:
        affinities: (3, D, H, W) in [0, 1], channels z, y, x.
        boundary_threshold: mean affinity in [0, 1] up to which a voxel is boundary. True
            affinities (0 and 1) need more than 5/6, which is what a flat boundary leaves to the
            voxels at either side; a network's boundaries are wider and lower.
        seed_smoothing: standard deviation in voxels of the Gaussian on the distance; 0 = none.
            Larger gives fewer fragments.
        minimum_seed_distance: a seed is the maximum of the voxels up to so many away along each
            axis; at least 1. Larger gives fewer fragments.

    Returns:
        uint64 (D, H, W), ids 1..N.

    Raises:
        DataError: affinities are not as above.
        ConfigError: an option is impossible.
    """
    affinities = checked_affinities(affinities)
    check_seed_options(boundary_threshold, seed_smoothing, minimum_seed_distance)
    mean = voxel_affinities(affinities)
    interior = mean > boundary_threshold
    if interior.all() or not interior.any():
        return np.ones(mean.shape, dtype=np.uint64)
    distance = ndimage.distance_transform_edt(interior).astype(np.float32)
    if seed_smoothing > 0:
        ndimage.gaussian_filter(distance, seed_smoothing, output=distance)
    highest = ndimage.maximum_filter(distance, size=2 * minimum_seed_distance + 1)
    plateau = np.ones((3, 3, 3), dtype=np.bool_)
    seeds, _ = ndimage.label((distance == highest) & interior, structure=plateau)
    return _watershed(-mean, seeds).astype(np.uint64)


def voxel_affinities(affinities: _Float32) -> _Float32:
    """Mean affinity of every voxel to its face neighbours inside the volume.

    Up to six edges count, not only the three to the predecessors: their mean alone is shifted by
    half a voxel and not defined at the volume's first planes. A lone voxel has mean 1.

    Args:
        affinities: float32 (3, D, H, W).

    Returns:
        float32 (D, H, W).
    """
    total = np.zeros(affinities.shape[1:], dtype=np.float32)
    edges = np.zeros(affinities.shape[1:], dtype=np.float32)
    for axis in range(3):
        here, before = neighbours(axis)
        for side in (here, before):
            total[side] += affinities[axis][here]
            edges[side] += 1
    return np.divide(total, edges, out=np.ones_like(total), where=edges > 0)


def waterz_watershed(
    affinities: npt.NDArray[Any], low: float = 0.0001, high: float = 0.9999
) -> _UInt64:
    """Fragments by waterz's own watershed, which follows the strongest affinity of each voxel.

    A voxel without any affinity above ``low`` is background to waterz (label 0). Here it becomes a
    fragment of one voxel, so that nothing is lost silently: affinities that are all 0 give as many
    fragments as voxels.

    Args:
        affinities: (3, D, H, W) in [0, 1], channels z, y, x.
        low: see above.
        high: voxels with an affinity of at least this are in one fragment, unconditionally.
            Slightly too low, and one fragment percolates through the volume.

    Returns:
        uint64 (D, H, W), ids 1..N.

    Raises:
        DataError: affinities are not as above.
        ConfigError: not 0 <= low < high <= 1.
    """
    import waterz  # here, so that a machine without it can still train

    affinities = checked_affinities(affinities)
    check_watershed_options(low, high)
    with silent_stdout():
        # No score, 1 - mean affinity, is below a negative threshold: nothing is agglomerated.
        steps: Iterator[Any] = waterz.agglomerate(
            affinities, [-1.0], aff_threshold_low=low, aff_threshold_high=high
        )
        fragments: _UInt64 = next(steps)
    background = fragments == 0
    first = fragments.max() + np.uint64(1)
    fragments[background] = first + np.arange(np.count_nonzero(background), dtype=np.uint64)
    return fragments


def check_seed_options(
    boundary_threshold: float, seed_smoothing: float, minimum_seed_distance: int
) -> None:
    """Refuse impossible options of ``seeded_watershed``.

    Raises:
        ConfigError: one of them is out of its range.
    """
    if not 0 <= boundary_threshold <= 1:
        raise ConfigError(f"boundary_threshold must be in [0, 1], found {boundary_threshold}")
    if not 0 <= seed_smoothing < np.inf:
        raise ConfigError(
            f"seed_smoothing must be a finite number of voxels, at least 0, found {seed_smoothing}"
        )
    if minimum_seed_distance < 1:
        raise ConfigError(
            f"minimum_seed_distance must be at least 1 voxel, found {minimum_seed_distance}"
        )


def check_watershed_options(low: float, high: float) -> None:
    """Refuse impossible options of ``waterz_watershed``.

    Raises:
        ConfigError: not 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError(
            f"waterz's watershed needs affinities 0 <= low < high <= 1, found {low} and {high}"
        )
