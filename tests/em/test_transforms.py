import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from psc.em.augmentation import Augmentation, Geometry, scale_intensity, thicken_boundaries
from psc.errors import ConfigError, DataError

CUBE = np.arange(27).reshape(3, 3, 3)
SYMMETRIES = [
    Geometry(permutation, reflected)
    for permutation in itertools.permutations(range(3))
    for reflected in itertools.product((False, True), repeat=3)
]


class TestGeometry:
    def test_the_48_symmetries_are_different_and_keep_every_voxel(self):
        images = {geometry(CUBE).tobytes() for geometry in SYMMETRIES}
        assert len(images) == 48
        assert all(
            (np.sort(geometry(CUBE), axis=None) == range(27)).all() for geometry in SYMMETRIES
        )

    @pytest.mark.parametrize("geometry", SYMMETRIES[::7])
    def test_each_voxel_goes_where_it_should(self, geometry):
        array = np.arange(24).reshape(2, 3, 4)
        result = geometry(array)
        for position in np.ndindex(result.shape):
            source = [0, 0, 0]
            for axis in range(3):
                size = result.shape[axis]
                at = size - 1 - position[axis] if geometry.reflected[axis] else position[axis]
                source[geometry.permutation[axis]] = at
            assert result[position] == array[tuple(source)]

    def test_the_result_is_a_view_and_leading_axes_stay(self):
        array = np.zeros((2, 3, 4, 5))
        result = Geometry((2, 0, 1), (True, False, True))(array)
        assert result.shape == (2, 5, 3, 4)
        assert np.shares_memory(result, array)


class TestAugmentation:
    @pytest.mark.parametrize(
        ("reflections", "axis_swaps", "expected"),
        [
            (True, "all", 48),
            (True, "yx", 16),
            (True, "none", 8),
            (False, "all", 6),
            (False, "yx", 2),
            (False, "none", 1),
        ],
    )
    def test_all_symmetries_that_are_on_are_reached(self, reflections, axis_swaps, expected):
        augmentation = Augmentation(reflections, axis_swaps)
        rng = np.random.default_rng(0)
        counts = {}
        for _ in range(expected * 60):
            geometry = augmentation.draw_geometry(rng)
            counts[geometry] = counts.get(geometry, 0) + 1
        assert len(counts) == expected
        assert min(counts.values()) > 25  # 60 are expected of each
        if axis_swaps == "yx":
            assert all(geometry.permutation[0] == 0 for geometry in counts)

    def test_intensity_follows_the_published_formula(self):
        raw = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
        kept = raw.copy()
        changed = Augmentation().change_intensity(raw, np.random.default_rng(3))
        rng = np.random.default_rng(3)
        contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
        expected = raw.mean() + (raw - raw.mean()) * contrast + brightness
        np.testing.assert_allclose(changed, expected, atol=1e-6)
        assert changed.dtype == np.float32
        np.testing.assert_array_equal(raw, kept)

    def test_in_place_is_the_same(self):
        raw = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
        expected = Augmentation().change_intensity(raw, np.random.default_rng(3))
        result = Augmentation().change_intensity(raw, np.random.default_rng(3), out=raw)
        assert result is raw
        np.testing.assert_array_equal(raw, expected)

    def test_the_ranges_are_used_and_nothing_is_clipped(self):
        raw = np.array([[[0.0, 1.0]]], dtype=np.float32)
        rng = np.random.default_rng(0)
        drawn = [Augmentation().change_intensity(raw, rng) for _ in range(500)]
        contrast = np.array([x[0, 0, 1] - x[0, 0, 0] for x in drawn])
        brightness = np.array([x.mean() - 0.5 for x in drawn])
        for values, low, high in ((contrast, 0.8, 1.2), (brightness, -0.2, 0.2)):
            assert low - 1e-6 <= values.min() < low + 0.02
            assert high - 0.02 < values.max() <= high + 1e-6
        assert min(x.min() for x in drawn) < 0
        assert max(x.max() for x in drawn) > 1

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"axis_swaps": "zy"}, "axis_swaps=zy: allowed are all, yx, none"),
            ({"contrast": (1.2, 0.8)}, "contrast=.*must be .low, high., finite"),
            ({"contrast": (-0.1, 1)}, "contrast=.*must not go below 0"),
            ({"brightness": (0, float("inf"))}, "brightness=.*must be .low, high., finite"),
            ({"brightness": (float("nan"), 1)}, "brightness=.*must be .low, high., finite"),
        ],
    )
    def test_errors(self, change, problem):
        with pytest.raises(ConfigError, match=problem):
            Augmentation(**change)


class TestScaleIntensity:
    @pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
    def test_full_scale_of_integers(self, dtype, top):
        raw = np.array([[[0, 1, top // 3, top]]], dtype=dtype)
        scaled = scale_intensity(raw)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, [[[0, 1 / top, 1 / 3, 1]]], rtol=1e-6)
        assert scaled.max() <= 1

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_pass(self, dtype):
        raw = np.array([[[0, 0.25, 1]]], dtype=dtype)
        scaled = scale_intensity(raw)
        np.testing.assert_array_equal(scaled, raw)
        assert scaled.dtype == np.float32
        assert not np.shares_memory(scaled, raw)

    @given(
        arrays(np.int16, st.tuples(*[st.integers(1, 4)] * 3)),
        st.integers(-40000, 40000),
        st.integers(1, 70000),
    )
    def test_range_and_clipping(self, raw, low, width):
        expected = np.clip((raw.astype(float) - low) / width, 0, 1)
        np.testing.assert_allclose(scale_intensity(raw, (low, low + width)), expected, atol=1e-6)

    def test_large_integers_lose_nothing(self):
        raw = np.array([[[2**40, 2**40 + 1, 2**40 + 2]]])
        np.testing.assert_allclose(scale_intensity(raw, (2**40, 2**40 + 2)), [[[0, 0.5, 1]]])

    def test_strided_views_come_out_in_order(self):
        raw = np.random.default_rng(0).integers(0, 256, (6, 7, 8), dtype=np.uint8)
        view = raw.transpose(2, 0, 1)[::-1, 1:, ::2]
        scaled = scale_intensity(view)
        np.testing.assert_allclose(scaled, view / 255, rtol=1e-6)
        assert scaled.flags.c_contiguous

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (np.zeros((1, 1, 1), np.int16), "raw is int16.*set intensity_range"),
            (np.zeros((1, 1, 1), np.uint32), "raw is uint32.*set intensity_range"),
            (np.full((1, 1, 1), 1.5), "from 1.5 to 1.5, expected"),
            (np.full((1, 1, 1), -0.5), "set intensity_range"),
            (np.full((1, 1, 1), np.nan), "expected"),
        ],
    )
    def test_data_errors(self, raw, problem):
        with pytest.raises(DataError, match=problem):
            scale_intensity(raw)

    @pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
    def test_range_errors(self, bad):
        with pytest.raises(ConfigError, match="must be increasing"):
            scale_intensity(np.zeros((1, 1, 1), np.uint8), bad)


class TestThickenBoundaries:
    @settings(max_examples=60)
    @given(
        arrays(np.int32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 2)),
        st.integers(1, 4),
    )
    def test_as_measured_voxel_by_voxel(self, labels, thickness):
        positions = np.array(list(np.ndindex(labels.shape)))
        values = labels.reshape(-1)
        steps = np.abs(positions[:, None] - positions).sum(axis=2)  # pairs of voxels
        near = ((steps <= thickness) & (values[:, None] != values)).any(axis=1)
        expected = np.where(near, 0, values).reshape(labels.shape)
        kept = labels.copy()
        np.testing.assert_array_equal(thicken_boundaries(labels, thickness), expected)
        np.testing.assert_array_equal(labels, kept)

    def test_nothing_to_do(self):
        assert thicken_boundaries(CUBE, 0) is CUBE

    def test_dtype_is_kept(self):
        thick = thicken_boundaries(np.array([[[2**40, 1, 1, 1]]], dtype=np.uint64), 2)
        assert thick.dtype == np.uint64
        assert thick.tolist() == [[[0, 0, 0, 1]]]

    def test_error(self):
        with pytest.raises(ConfigError, match="at least 0 voxels, found -1"):
            thicken_boundaries(CUBE, -1)
