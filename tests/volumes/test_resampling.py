"""Spline fields and sampling, against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from psc.volumes.resampling import (
    control_points,
    sample_linear,
    sample_nearest,
    smooth_field,
    source_box,
)

SHAPE = (9, 12, 7)
SPACING = (3, 5, 40)


def field(controls, phase, shape=SHAPE, spacing=SPACING):
    return smooth_field(controls, spacing, np.array(phase), shape)


def controls_for(rng, shape=SHAPE, spacing=SPACING):
    return rng.uniform(-1, 1, [control_points(*pair) for pair in zip(shape, spacing, strict=True)])


class TestSmoothField:
    @pytest.mark.parametrize("phase", [(0, 0, 0), (0.25, 0.5, 0.999)])
    def test_as_scipy_evaluates_splines(self, phase):
        controls = controls_for(np.random.default_rng(0))
        steps = [np.arange(n) / h + p for n, h, p in zip(SHAPE, SPACING, phase, strict=True)]
        # Coefficient 1 is the one above the first voxel where the phase is 0.
        positions = np.stack(np.meshgrid(*steps, indexing="ij")) + 1
        expected = map_coordinates(controls, positions, order=3, prefilter=False)
        np.testing.assert_allclose(field(controls, phase), expected, atol=1e-6)

    def test_constants_stay_and_nothing_exceeds_the_coefficients(self):
        rng = np.random.default_rng(1)
        controls = controls_for(rng)
        np.testing.assert_allclose(
            field(np.full_like(controls, 3.0), (0.3, 0.3, 0.3)), 3, rtol=1e-6
        )
        for _ in range(20):
            signs = np.sign(controls_for(rng))
            assert np.abs(field(signs, rng.uniform(size=3))).max() <= 1 + 1e-6

    def test_the_last_phase_still_finds_its_control_points(self):
        for size in range(1, 12):
            controls = controls_for(np.random.default_rng(2), (size,) * 3, (4,) * 3)
            assert field(controls, (0.99999,) * 3, (size,) * 3, (4,) * 3).shape == (size,) * 3

    def test_the_largest_jitter_folds_nothing(self):
        """Jacobian determinants of v + u(v), coefficients at the extremes of 0.4 of the spacing."""
        rng = np.random.default_rng(3)
        spacing, shape = (5, 5, 5), (20, 20, 20)
        lowest = np.inf
        for _ in range(60):
            extremes = [0.4 * 5 * np.sign(controls_for(rng, shape, spacing)) for _ in range(3)]
            moved = np.stack([field(c, (0, 0, 0), shape, spacing) for c in extremes])
            gradient = np.stack([np.stack(np.gradient(u)) for u in moved])  # ∂u_a / ∂x_b
            jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3)
            lowest = min(lowest, np.linalg.det(jacobian).min())
        assert 0 < lowest < 0.5  # and the tissue was moved a good deal


@st.composite
def sources_in_a_box(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    sources = rng.uniform(-7, 9, (3, *shape)).astype(np.float32)
    if draw(st.booleans()):
        sources = np.round(sources)
    low, size = source_box(sources)
    return sources, low, rng.random(size, dtype=np.float32)


class TestSampling:
    @settings(deadline=None)
    @given(sources_in_a_box())
    def test_as_scipy_interpolates(self, drawn):
        sources, low, box = drawn
        inside = sources.astype(np.float64) - np.reshape(low, (3, 1, 1, 1))
        assert inside.min() >= 0
        assert all((np.max(p) <= n - 1) for p, n in zip(inside, box.shape, strict=True))
        expected = map_coordinates(box.astype(np.float64), inside, order=1)
        np.testing.assert_allclose(sample_linear(box, sources, low), expected, atol=1e-5)

    @settings(deadline=None)
    @given(sources_in_a_box())
    def test_the_nearest_voxel(self, drawn):
        sources, low, box = drawn
        labels = np.arange(box.size, dtype=np.int32).reshape(box.shape)
        found = np.stack(np.unravel_index(sample_nearest(labels, sources, low), box.shape))
        distance = np.abs(found + np.reshape(low, (3, 1, 1, 1)) - sources)
        assert distance.max() <= 0.5 + 1e-6

    def test_whole_numbers_are_exact_and_read_no_further(self):
        rng = np.random.default_rng(4)
        volume = rng.random((6, 7, 8), dtype=np.float32)
        grid = np.stack(np.meshgrid(*map(np.arange, (4, 5, 6)), indexing="ij"))
        sources = (grid + np.reshape([1, 2, 1], (3, 1, 1, 1))).astype(np.float32)
        low, size = source_box(sources)
        assert (low, size) == ((1, 2, 1), (5, 6, 7))
        box = np.full(size, np.nan, dtype=np.float32)
        box[:-1, :-1, :-1] = volume[1:5, 2:7, 1:7]
        box[np.isnan(box)] = 1e30  # times 0
        np.testing.assert_array_equal(sample_linear(box, sources, low), volume[1:5, 2:7, 1:7])

    def test_any_order_in_memory(self):
        rng = np.random.default_rng(5)
        box = rng.random((6, 7, 8), dtype=np.float32)
        sources = rng.uniform(0, 4, (3, 5, 5, 5)).astype(np.float32)
        expected = sample_linear(box, sources, (0, 0, 0))
        strided = np.asfortranarray(sources)
        np.testing.assert_array_equal(
            sample_linear(np.asfortranarray(box), strided, (0, 0, 0)), expected
        )
        part = sample_linear(box, sources[:, 1:4, 1:, :2], (0, 0, 0))
        np.testing.assert_array_equal(part, expected[1:4, 1:, :2])
