"""Where a segmentation errs: variation of information, voxel by voxel.

Variation of information is a mean over voxels of bits of surprise, so it can be drawn: a voxel
that was cut off from the rest of its neuron carries many bits of split, one that was given to the
wrong neuron many bits of merge, and the mean over the map is the published number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.metrics import contingency_table
from psc.segmentation.labels import relabel_consecutive

__all__ = ["Disagreement", "Region", "disagreement", "worst_regions", "worst_slice"]


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Bits by which each voxel adds to variation of information.

    Attributes:
        split: float32, bits of over-segmentation, −log2 p(predicted | truth); 0 where unknown.
        merge: float32, bits of under-segmentation, −log2 p(truth | predicted); 0 where unknown.
        known: bool, False where the truth is 0 = unknown. All three have the labels' shape.
    """

    split: npt.NDArray[np.float32]
    merge: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]

    @property
    def total(self) -> npt.NDArray[np.float32]:
        """Bits of split and merge together, float32, of the labels' shape."""
        return self.split + self.merge

    @property
    def vi_split(self) -> float:
        """VI split in bits: the mean of ``split`` over the known voxels."""
        return float(self.split.sum(dtype=np.float64) / np.count_nonzero(self.known))

    @property
    def vi_merge(self) -> float:
        """VI merge in bits: the mean of ``merge`` over the known voxels."""
        return float(self.merge.sum(dtype=np.float64) / np.count_nonzero(self.known))


@dataclass(frozen=True)
class Region:
    """A box of voxels.

    Attributes:
        start: first index along each axis.
        stop: index after the last along each axis.
        bits: disagreement summed over the box.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    bits: float

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the box in an array of the same axes."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


def disagreement(
    truth: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]]
) -> Disagreement:
    """Spread VI split and VI merge over the voxels that cause them.

    Probabilities are those of the whole volume, so a slice of the maps shows what the volume's
    number is made of. Predicted 0 counts as one segment of its own, as in
    :func:`psc.metrics.variation_of_information`.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape.

    Returns:
        Maps of the same shape whose means over the known voxels are VI split and VI merge.

    Raises:
        DataError: labels are not integers, are negative, differ in shape, or no voxel is known.
    """
    table = contingency_table(truth, predicted)
    truth_sizes, truth_index = table.truth_sizes()
    predicted_sizes, predicted_index = table.predicted_sizes()
    split_bits = np.log2(truth_sizes[truth_index] / table.counts)
    merge_bits = np.log2(predicted_sizes[predicted_index] / table.counts)

    dense_truth, original_truth = relabel_consecutive(truth)
    dense_predicted, original_predicted = relabel_consecutive(predicted)
    # One integer for each pair of labels; the table's pairs in ascending order, to be looked up.
    pairs = _dense_ids(table.truth_ids, original_truth) * original_predicted.size
    pairs += _dense_ids(table.predicted_ids, original_predicted)
    order = np.argsort(pairs)
    pairs = pairs[order]

    known = dense_truth != 0
    split = np.zeros(known.shape, dtype=np.float32)
    merge = np.zeros(known.shape, dtype=np.float32)
    for i in range(known.shape[0]):  # slice by slice: 64-bit pairs of a volume would be 8x its size
        part = slice(i, i + 1)
        here = known[part]
        voxel_pairs = dense_truth[part][here].astype(np.int64) * original_predicted.size
        voxel_pairs += dense_predicted[part][here]
        found = order[np.searchsorted(pairs, voxel_pairs)]
        split[part][here] = split_bits[found]
        merge[part][here] = merge_bits[found]
    return Disagreement(split, merge, known)


def worst_regions(
    bits: npt.NDArray[np.floating[Any]], size: Sequence[int], count: int
) -> list[Region]:
    """Find the boxes that hold the most disagreement, none overlapping another.

    Greedy: the best box, then the best of those that do not touch it, and so on. Boxes without
    any disagreement are not returned, so a perfect prediction has none.

    Args:
        bits: non-negative disagreement of each voxel, e.g. ``Disagreement.total`` or a slice of it.
        size: extent of a box along each axis of ``bits``, voxels; cut to the array's.
        count: number of boxes at most, at least 1.

    Returns:
        At most ``count`` boxes, worst first.

    Raises:
        ConfigError: ``size`` does not fit the array's axes, or an extent or ``count`` is below 1.
        DataError: ``bits`` is empty, or holds a negative or non-finite number.
    """
    if len(size) != bits.ndim or min(size, default=0) < 1:
        raise ConfigError(f"size must hold {bits.ndim} extents of at least 1, found {tuple(size)}")
    if count < 1:
        raise ConfigError(f"count must be at least 1, found {count}")
    if bits.size == 0 or not (np.isfinite(bits).all() and bits.min() >= 0):
        raise DataError(f"bits of shape {bits.shape} must be finite, at least 0, and not empty")
    extent = tuple(min(s, n) for s, n in zip(size, bits.shape, strict=True))
    sums = _box_sums(bits, extent)  # indexed by a box's start
    regions: list[Region] = []
    while len(regions) < count:
        start = tuple(int(i) for i in np.unravel_index(np.argmax(sums), sums.shape))
        stop = tuple(a + e for a, e in zip(start, extent, strict=True))
        region = Region(start, stop, 0.0)
        # Summed again from the voxels: differences of running sums leave rounding errors.
        total = float(bits[region.slices].sum(dtype=np.float64))
        if total == 0 or np.isneginf(sums[start]):
            break
        regions.append(Region(start, stop, total))
        overlapping = tuple(
            slice(max(0, a - e + 1), a + e) for a, e in zip(start, extent, strict=True)
        )
        sums[overlapping] = -np.inf
    return regions


def worst_slice(bits: npt.NDArray[np.floating[Any]]) -> int:
    """Index along the first axis of the slice with the most disagreement.

    Args:
        bits: disagreement of each voxel, (D, H, W).

    Returns:
        The slice with the largest sum, the first of several.

    Raises:
        DataError: ``bits`` is not three-dimensional or is empty.
    """
    if bits.ndim != 3 or bits.size == 0:
        raise DataError(f"bits must have shape (D, H, W) with voxels in it, found {bits.shape}")
    return int(np.argmax(bits.sum(axis=(1, 2), dtype=np.float64)))


def _dense_ids(
    ids: npt.NDArray[np.uint64], original_ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Position of each id in ``original_ids``, whose order is arbitrary."""
    order = np.argsort(original_ids)
    positions = order[np.searchsorted(original_ids, ids, sorter=order)]
    return positions.astype(np.int64)


def _box_sums(
    bits: npt.NDArray[np.floating[Any]], extent: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Sum over the box that starts at each voxel, for the starts whose box fits."""
    padded = [(1, 0)] * bits.ndim
    integral = np.pad(bits.astype(np.float64), padded)
    for axis in range(bits.ndim):
        np.cumsum(integral, axis=axis, out=integral)
    sums = np.zeros(tuple(n - e + 1 for n, e in zip(bits.shape, extent, strict=True)))
    for corner in product((0, 1), repeat=bits.ndim):  # inclusion and exclusion
        window = tuple(
            slice(c * e, c * e + n) for c, e, n in zip(corner, extent, sums.shape, strict=True)
        )
        sums += (-1) ** (bits.ndim - sum(corner)) * integral[window]
    return sums
