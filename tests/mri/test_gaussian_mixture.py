"""The mixture against expectation maximisation written value by value, and against known ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from psc.mri.baseline import GaussianMixture, Groups, expectation_maximisation


def mixture(weights, means, deviations):
    return GaussianMixture(np.array(weights), np.array(means), np.square(deviations))


START = mixture([0.2, 0.5, 0.3], [-1.5, 0.0, 1.0], [0.7, 0.5, 0.6])


def value_by_value(values, start, steps):
    weights, means, deviations = start.weights, start.means, np.sqrt(start.variances)
    likelihoods = []
    for _ in range(steps):
        shares = np.array(
            [[w * norm.pdf(v, m, s) for v in values]
             for w, m, s in zip(weights, means, deviations, strict=True)]
        )  # fmt: skip
        likelihoods.append(np.log(shares.sum(axis=0)).mean())
        shares /= shares.sum(axis=0)
        weights = shares.mean(axis=1)
        means = np.array([np.average(values, weights=share) for share in shares])
        deviations = np.sqrt(
            [np.average((values - m) ** 2, weights=share)
             for m, share in zip(means, shares, strict=True)]
        )  # fmt: skip
    return mixture(weights, means, deviations), likelihoods


def steps_of(groups, start, count):
    """That many steps: a step that gains less than infinity is the last one, so one at a time."""
    found = start
    for _ in range(count):
        found = one_step(groups, found)
    return found


def one_step(groups, start):
    gains = iter((-np.inf, np.inf))  # go on after the first likelihood, stop after the second

    class Gain:
        def __gt__(self, gain):
            return gain < next(gains)

    return expectation_maximisation(groups, start, Gain())


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_steps_equal_those_taken_value_by_value(seed, count):
    values = np.sort(np.random.default_rng(seed).normal(size=40).round(1))  # some are equal

    found = steps_of(Groups.of_sorted(values, 1000), START, count)

    expected, likelihoods = value_by_value(values, START, count)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-5)
    assert (np.diff(likelihoods) > -1e-12).all()


def test_groups_are_distinct_values_while_there_are_few():
    groups = Groups.of_sorted(np.array([1.0, 1, 1, 2, 4, 4]), 3)
    assert groups.counts.tolist() == [3, 1, 2]
    assert groups.first.tolist() == [1, 2, 4]
    assert groups.second.tolist() == [1, 4, 16]


def test_groups_of_many_values_keep_their_moments():
    values = np.sort(np.random.default_rng(0).normal(2.0, 3.0, 1001))
    groups = Groups.of_sorted(values, 10)
    assert groups.counts.tolist() == [100] * 9 + [101]
    assert groups.counts @ groups.first == pytest.approx(values.sum())
    assert groups.variance() == pytest.approx(values.var())


TRUE = mixture([0.15, 0.5, 0.35], [-2.0, 0.0, 1.3], [0.5, 0.4, 0.25])


def drawn(size, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.choice(3, size, p=TRUE.weights)
    return np.sort(rng.normal(TRUE.means[which], np.sqrt(TRUE.variances[which])))


@pytest.mark.parametrize("groups", [500, 4096], ids=str)
def test_a_known_mixture_is_recovered(groups):
    found = expectation_maximisation(Groups.of_sorted(drawn(200_000), groups), START, 1e-9)
    np.testing.assert_allclose(found.weights, TRUE.weights, atol=0.01)
    np.testing.assert_allclose(found.means, TRUE.means, atol=0.02)
    np.testing.assert_allclose(np.sqrt(found.variances), np.sqrt(TRUE.variances), atol=0.02)
    assert found.weights.sum() == pytest.approx(1)


def test_crossings_are_where_the_likelier_neighbour_changes():
    order = [2, 0, 1]
    shuffled = GaussianMixture(TRUE.weights[order], TRUE.means[order], TRUE.variances[order])
    grid = np.linspace(-2, 1.3, 100_001)  # between the outer means; only neighbours matter there
    likeliest = np.argmax(
        TRUE.weights[:, None]
        * norm.pdf(grid, TRUE.means[:, None], np.sqrt(TRUE.variances)[:, None]),
        axis=0,
    )
    expected = grid[1:][np.diff(likeliest) == 1]
    np.testing.assert_allclose(shuffled.crossings(), expected, atol=1e-4)


def test_a_gaussian_that_is_nowhere_the_likelier_ends_at_its_mean():
    # The second is weak and wide, so that the first and the third are likelier at its mean.
    hidden = mixture([0.6, 0.01, 0.39], [0.0, 0.5, 1.0], [1.0, 1.0, 1.0])
    assert hidden.crossings().tolist() == [0.5, 0.5]


def test_no_gaussian_collapses_on_a_repeated_value():
    values = np.sort(np.concatenate([drawn(500), np.full(400, 0.9)]))
    start = mixture([0.4, 0.3, 0.3], [-1.0, 0.9, 0.5], [1.0, 1e-3, 0.5])
    found = expectation_maximisation(Groups.of_sorted(values, 10_000), start, 1e-12)
    assert found.variances.min() == pytest.approx(1e-6 * values.var())
    assert np.isfinite(found.means).all()
