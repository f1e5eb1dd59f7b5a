"""Tissues by intensity: k-means against SciPy's, mixtures value by value and against known ones."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2
from scipy.optimize import brentq
from scipy.stats import norm

from psc.errors import DataError
from psc.mri.baseline import intensity_thresholds, k_means, segment_by_intensity
from psc.mri.tissues import BACKGROUND, CSF, GM, WM

WEIGHTS, MEANS, DEVIATIONS = (0.15, 0.5, 0.35), (30.0, 80.0, 115.0), (10.0, 9.0, 6.0)


def drawn(size, seed=0):
    """Intensities of three tissues, and which tissue each is of (0, 1, 2)."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, size, p=WEIGHTS)
    return rng.normal(np.take(MEANS, which), np.take(DEVIATIONS, which)), which


def a_brain(dtype=np.float32):
    """A volume (12, 14, 16) with the tissues in a box, 0 around it; its mask."""
    image, brain = np.zeros((12, 14, 16)), np.zeros((12, 14, 16), dtype=bool)
    brain[2:11, 1:12, 3:14] = True
    image[brain] = drawn(int(brain.sum()))[0].clip(1)
    return image.astype(dtype), brain


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(20, 400), st.booleans())
def test_k_means_equals_scipy_on_raw_values(seed, size, rounded):
    values = drawn(size, seed)[0]
    values = (values / 10).round() if rounded else values
    start = np.sort(values)[[size // 6, size // 2, 5 * size // 6]]
    assume(np.unique(start).size == 3)
    centres, theirs = kmeans2(values[:, None], start[:, None], iter=100, minit="matrix")
    assume(np.unique(theirs).size == 3)
    middles = (centres[1:, 0] + centres[:-1, 0]) / 2
    assume(np.abs(values[:, None] - middles).min() > 1e-9)  # no voxel belongs to two classes

    found = k_means(np.sort(values), start)

    np.testing.assert_allclose(found, centres[:, 0])


def test_the_mixture_cuts_where_known_tissues_are_equally_likely():
    values, which = drawn(100_000)

    def advantage(value, i):
        one, other = (np.log(WEIGHTS[k]) + norm.logpdf(value, MEANS[k], DEVIATIONS[k])
                      for k in (i, i + 1))  # fmt: skip
        return other - one

    expected = [brentq(advantage, MEANS[i], MEANS[i + 1], args=(i,)) for i in range(2)]
    assert intensity_thresholds(values) == pytest.approx(expected, abs=1.0)
    found = segment_by_intensity(values, np.ones(values.shape, dtype=bool))
    assert (found == which + 1).mean() > 0.965  # the best thresholds are right for 0.97


def value_by_value(values, least_gain):
    """Thresholds of expectation maximisation from k-means, as its definition has it."""
    values = np.sort(values).astype(float)
    start = k_means(values, values[np.array([1, 3, 5]) * values.size // 6])
    dark, bright = (start[1:] + start[:-1]) / 2
    classes = np.digitize(values, (dark, bright), right=True)
    means = np.array([values[classes == k].mean() for k in range(3)])
    weights = np.full(3, 1 / 3)
    deviations = np.full(3, np.sqrt(np.mean((values - means[classes]) ** 2)))
    previous = -np.inf
    while True:
        shares = weights[:, None] * norm.pdf(values, means[:, None], deviations[:, None])
        likelihood = np.log(shares.sum(axis=0)).mean()
        assert likelihood > previous - 1e-12  # a step never makes it worse
        if likelihood - previous < least_gain:
            break
        previous = likelihood
        shares /= shares.sum(axis=0)
        weights = shares.mean(axis=1)
        means = shares @ values / shares.sum(axis=1)
        spread = (values - means[:, None]) ** 2
        deviations = np.sqrt((shares * spread).sum(axis=1) / shares.sum(axis=1))
    grid = np.linspace(values[0], values[-1], 400_001)
    logs = np.log(weights)[:, None] + norm.logpdf(grid, means[:, None], deviations[:, None])
    between = [(grid > means[k]) & (grid < means[k + 1]) for k in range(2)]
    return [grid[between[k] & (logs[k + 1] > logs[k])].min() for k in range(2)]


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_the_mixture_equals_one_fitted_value_by_value(seed):
    values = drawn(300, seed)[0].round()  # some are equal
    assert intensity_thresholds(values) == pytest.approx(value_by_value(values, 1e-4), abs=2e-3)


def test_a_gaussian_on_a_repeated_value_does_not_collapse():
    values = np.concatenate([drawn(500)[0], np.full(400, 110.5)])
    dark, bright = intensity_thresholds(values)
    assert 30 < dark < bright < 130


def test_groups_of_neighbours_stand_for_all_values():
    values = drawn(100_000)[0]
    # Rounded there are fewer distinct values than groups: no approximation.
    exact = intensity_thresholds((values * 20).round())
    assert intensity_thresholds(values * 20) == pytest.approx(exact, rel=2e-3)


def test_tissues_are_named_from_dark_to_bright_and_only_inside_the_brain():
    image, brain = a_brain()
    image[0] = 1000  # scalp that was left
    found = segment_by_intensity(image, brain)
    assert found.dtype == np.uint8
    assert (found[~brain] == BACKGROUND).all()
    assert set(np.unique(found[brain])) == {CSF, GM, WM}
    assert image[found == CSF].max() <= image[found == GM].min()
    assert image[found == GM].max() <= image[found == WM].min()


def test_scale_type_and_memory_order_do_not_matter():
    image, brain = a_brain(np.int16)
    expected = segment_by_intensity(image, brain)
    scaled = ((image - image[brain].mean()) / image[brain].std()).astype(np.float32)
    turned = np.asfortranarray(image), brain[::-1].copy()[::-1]
    np.testing.assert_array_equal(segment_by_intensity(scaled, brain), expected)
    np.testing.assert_array_equal(segment_by_intensity(*turned), expected)


def test_mostly_one_value_still_gives_three_classes():
    values = np.array([5] * 90 + [1] * 5 + [9] * 5)
    found = segment_by_intensity(values, np.ones(values.shape, dtype=bool))
    np.testing.assert_array_equal(found, [GM] * 90 + [CSF] * 5 + [WM] * 5)


def test_an_emptied_class_is_no_division_by_zero():
    # From the values 0, 1 and 22 on, the second class loses all that it has.
    values = np.array([0.0] * 7 + [1.0] * 3 + [21.0] + [22.0] * 9)
    dark, bright = intensity_thresholds(values)
    assert 0 <= dark <= bright <= 22


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([], "0 distinct"),
        ([7, 7, 7], "1 distinct"),
        ([1, 2, 2, 1], "2 distinct intensities, but three tissues"),
    ],
)
def test_degenerate_brains_are_refused(values, match):
    image = np.array([[[*values, 0.0, 5.0, 9.0]]])
    brain = np.zeros(image.shape, dtype=bool)
    brain[..., : len(values)] = True
    with pytest.raises(DataError, match=match):
        segment_by_intensity(image, brain)


@pytest.mark.sample
def test_a_real_subject_is_better_than_chance_and_worse_than_a_network(sample_data):
    import nibabel

    from psc.metrics.tissues import confusion, dice

    folder = sample_data / "mri" / "ibsr18" / "IBSR_03"
    image, labels = (
        np.asarray(nibabel.load(folder / f"IBSR_03{part}.nii.gz").dataobj).squeeze()
        for part in ("", "_seg")
    )
    found = segment_by_intensity(image, image > 0)
    _, csf, gm, wm = dice(confusion(labels.astype(np.uint8), found, 4))
    assert 0.8 < gm < 0.92
    assert 0.8 < wm < 0.92
    assert csf < 0.3  # the labels know the ventricles' fluid only
