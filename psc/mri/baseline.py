"""Tissues by intensity alone: what a network must beat on T1 volumes of the brain.

Every voxel inside the brain is judged by its grey value: three classes, by a mixture of Gaussians
(expectation maximisation; Dempster, Laird and Rubin, JRSS B 1977) or by k-means (Lloyd, IEEE
Transactions on Information Theory 1982), without training, smoothing, or knowledge of where a
voxel lies. On T1 fluid is dark, grey matter brighter and white matter brightest, so the classes
are named by the order of their means.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import logsumexp

from psc.errors import ConfigError, DataError
from psc.mri.tissues import BACKGROUND, CSF, GM, WM

# ----------------------------------------
# A mixture of Gaussians over one variable, found by expectation maximisation.
#
# After Dempster, Laird and Rubin (JRSS B 1977). Values come in groups, of which only the moments
# are
# looked at, so that a million voxels take as long as a thousand. All values of a group share their
# responsibilities, chosen such that every step still raises a lower bound of the likelihood (the
# likelihood itself, where a group holds equal values).


_Vector = npt.NDArray[np.float64]

_MOST_STEPS = 10_000
# A Gaussian on a single repeated value would grow infinitely narrow and likely.
_SMALLEST_VARIANCE = 1e-6  # of the variance of all values


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of values, by their moments.

    Attributes:
        counts: float64 (G,), number of values in each group, positive.
        first: float64 (G,), mean of each group's values.
        second: float64 (G,), mean of their squares.
    """

    counts: _Vector
    first: _Vector
    second: _Vector

    @classmethod
    def of_sorted(cls, values: _Vector, most: int) -> "Groups":
        """Group sorted values.

        Args:
            values: (n,), ascending, not empty.
            most: number of groups.

        Returns:
            A group for each distinct value, as in volumes of integers; if these are more than
            ``most``, as many groups of neighbours, equally large.
        """
        starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
        if starts.size > most:
            starts = np.linspace(0, values.size, most, endpoint=False).astype(np.intp)
        counts = np.diff(starts, append=values.size).astype(np.float64)
        first = np.add.reduceat(values, starts) / counts
        second = np.add.reduceat(values**2, starts) / counts
        return cls(counts, first, second)

    def variance(self) -> float:
        """Variance of all values."""
        mean = np.average(self.first, weights=self.counts)
        return float(np.average(self.second, weights=self.counts) - mean**2)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Gaussians, and their shares of the values.

    Attributes:
        weights: float64 (K,), positive, sum 1.
        means: float64 (K,).
        variances: float64 (K,), positive.
    """

    weights: _Vector
    means: _Vector
    variances: _Vector

    def log_densities(self, groups: Groups) -> _Vector:
        """Logarithm of weight times density, averaged over each group's values; (K, G)."""
        squared = groups.second - 2 * np.outer(self.means, groups.first) + self.means[:, None] ** 2
        peak = np.log(self.weights) - 0.5 * np.log(2 * np.pi * self.variances)
        return peak[:, None] - 0.5 * squared / self.variances[:, None]

    def crossings(self) -> _Vector:
        """Where neighbouring Gaussians, in the order of their means, are equally likely; (K − 1,).

        Between two means the ratio of the two likelihoods rises, so there is one such place at
        most; where one of both is the likelier even at the other's mean, it is that mean.
        """
        order = np.argsort(self.means, kind="stable")
        return np.array([self._crossing(low, high) for low, high in pairwise(order.tolist())])

    def _crossing(self, low: int, high: int) -> float:
        def advantage(value: float) -> float:
            here = Groups(np.ones(1), np.array([value]), np.array([value**2]))
            densities = self.log_densities(here)[:, 0]
            return float(densities[high] - densities[low])

        left, right = float(self.means[low]), float(self.means[high])
        if advantage(left) >= 0:
            return left
        if advantage(right) <= 0:
            return right
        return float(brentq(advantage, left, right))


def expectation_maximisation(
    groups: Groups, start: GaussianMixture, least_gain: float
) -> GaussianMixture:
    """Fit a mixture to values.

    Args:
        groups: the values; those of a standardised variable, so that no digits cancel.
        start: the mixture to begin with; another one may end in another local optimum.
        least_gain: a step that adds less than this to the mean log-likelihood per value is the
            last.

    Returns:
        The mixture. No variance is below a millionth of that of all values.
    """
    voxels = groups.counts.sum()
    smallest_variance = _SMALLEST_VARIANCE * groups.variance()
    mixture = replace(start, variances=np.maximum(start.variances, smallest_variance))
    previous = -np.inf
    for _ in range(_MOST_STEPS):
        densities = mixture.log_densities(groups)
        of_groups = logsumexp(densities, axis=0)
        likelihood = float(groups.counts @ of_groups / voxels)
        if likelihood - previous < least_gain:
            break
        previous = likelihood
        shares = np.exp(densities - of_groups) * groups.counts
        # A class that no value belongs to must not divide by zero.
        sizes = np.maximum(shares.sum(axis=1), np.finfo(np.float64).tiny)
        means = shares @ groups.first / sizes
        variances = shares @ groups.second / sizes - means**2
        mixture = GaussianMixture(
            sizes / sizes.sum(), means, np.maximum(variances, smallest_variance)
        )
    return mixture


Method = Literal["gaussian mixture", "k-means"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Ways to find three classes of grey values."""


_CLASSES = 3
_MOST_STEPS_intensity_tissues = 1000  # of k-means; some dozens are usual
_MOST_GROUPS = 4096  # of voxels, that the mixture is fitted to; volumes of integers need fewer
# Later steps gain ever less and lead away from the tissues: over the 13 labelled subjects of IBSR
# the mean Dice of grey and white matter is 0.84 with 1e-3 (where scikit-learn stops) and with 1e-4,
# and 0.82 with 1e-8. The baseline is to be a strong one.
_LEAST_GAIN = 1e-4


def segment_by_intensity(
    image: npt.NDArray[Any], brain: npt.NDArray[np.bool_], method: Method = "gaussian mixture"
) -> npt.NDArray[np.uint8]:
    """Label every voxel of the brain as fluid, grey or white matter by its grey value.

    Args:
        image: T1 intensities (D, H, W), any real dtype and scale.
        brain: bool (D, H, W), the voxels to label.
        method: "gaussian mixture" or "k-means".

    Returns:
        uint8 (D, H, W), values of ``psc.mri.tissues``; background outside ``brain``.

    Raises:
        DataError: ``brain`` is no mask of the image's shape, or holds fewer than three distinct
            values or one that is not finite.
        ConfigError: an unknown method.
    """
    if brain.dtype != np.bool_ or brain.shape != image.shape:
        raise DataError(
            f"brain must be a bool mask of the image's shape {image.shape}, found {brain.dtype} of"
            f" shape {brain.shape}"
        )
    # In the order in which they lie in memory: several times faster where that is not C's.
    order = np.argsort(image.strides)[::-1]
    values = image.transpose(order)[brain.transpose(order)]
    dark, bright = intensity_thresholds(values, method)
    labels = np.full_like(image, CSF, dtype=np.uint8, subok=False)
    np.copyto(labels, np.uint8(GM), where=image > dark)
    np.copyto(labels, np.uint8(WM), where=image > bright)
    np.copyto(labels, np.uint8(BACKGROUND), where=~brain)
    return labels


def intensity_thresholds(
    values: npt.NDArray[Any], method: Method = "gaussian mixture"
) -> tuple[float, float]:
    """Grey values up to which the first, and above which the third of three classes lies.

    Deterministic. k-means starts from the values at 1/6, 1/2 and 5/6 of their order (of that of the
    distinct values, should two of the three be equal), the mixture from k-means.

    Args:
        values: (n,), real and finite, in any order.
        method: "gaussian mixture" or "k-means".

    Returns:
        dark, bright: with "k-means" half-way between neighbouring means; with "gaussian mixture"
        where neighbouring classes are equally likely. Beyond the outer means there is only the
        outer class, even where a wide Gaussian of another one is the likelier.

    Raises:
        DataError: fewer than three distinct values, or one that is not finite.
        ConfigError: an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}; found {method!r}")
    if not np.isfinite(values).all():
        raise DataError("the brain holds NaN or infinite intensities; repair the volume first")
    ordered = np.sort(values.astype(np.float64))  # faster than to sort integers
    distinct = np.count_nonzero(np.diff(ordered)) + 1 if ordered.size else 0
    if distinct < _CLASSES:
        raise DataError(
            f"the brain holds {distinct} distinct intensities, but three tissues need at least"
            f" {_CLASSES}; check the volume and its brain mask"
        )
    means = _k_means(ordered)
    return _half_way(means) if method == "k-means" else _mixture_thresholds(ordered, means)


def _k_means(ordered: _Vector) -> _Vector:
    """Means of three classes, ascending."""
    means = _at_sixths(ordered)
    if np.unique(means).size < _CLASSES:  # most voxels have the same value
        means = _at_sixths(np.unique(ordered))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    bounds = np.zeros(_CLASSES + 1, dtype=np.intp)
    for _ in range(_MOST_STEPS_intensity_tissues):
        inner = np.searchsorted(ordered, _half_way(means), side="right")
        previous, bounds = bounds, np.array([0, *inner, ordered.size], dtype=np.intp)
        if np.array_equal(bounds, previous):
            break
        voxels = np.diff(bounds)
        # A class that lost all its voxels keeps its mean.
        means = np.divide(np.diff(sums[bounds]), voxels, out=means.copy(), where=voxels > 0)
    return means


def _at_sixths(ordered: _Vector) -> _Vector:
    sixths: _Vector = ordered[np.array([1, 3, 5]) * ordered.size // 6]
    return sixths


def _half_way(means: _Vector) -> tuple[float, float]:
    dark, bright = (means[1:] + means[:-1]) / 2
    return float(dark), float(bright)


def _mixture_thresholds(ordered: _Vector, means: _Vector) -> tuple[float, float]:
    """Thresholds of a mixture that starts from k-means, with equal weights and variances."""
    middle, scale = float(ordered.mean()), float(ordered.std())
    start = GaussianMixture(
        weights=np.full(_CLASSES, 1 / _CLASSES),
        means=(means - middle) / scale,
        variances=np.full(_CLASSES, _variance_around(means, ordered) / scale**2),
    )
    groups = Groups.of_sorted((ordered - middle) / scale, _MOST_GROUPS)
    mixture = expectation_maximisation(groups, start, _LEAST_GAIN)
    dark, bright = middle + scale * mixture.crossings()
    return float(dark), float(bright)


def _variance_around(means: _Vector, ordered: _Vector) -> float:
    """Mean square of the values' distances to the mean of their class."""
    nearest = means[np.searchsorted(_half_way(means), ordered)]
    return float(np.mean((ordered - nearest) ** 2))
