"""A mixture of Gaussians over one variable, found by expectation maximisation.

After Dempster, Laird and Rubin (JRSS B 1977). Values come in groups, of which only the moments are
looked at, so that a million voxels take as long as a thousand. All values of a group share their
responsibilities, chosen such that every step still raises a lower bound of the likelihood (the
likelihood itself, where a group holds equal values).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import logsumexp

__all__ = ["GaussianMixture", "Groups", "expectation_maximisation"]

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
