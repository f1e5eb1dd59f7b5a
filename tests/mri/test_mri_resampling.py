"""Oracles: nibabel's own resampling, what linear interpolation leaves exact, and whole factors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from nibabel.spatialimages import SpatialImage
from scipy.spatial.transform import Rotation

from psc.errors import ConfigError, DataError
from psc.mri.nifti import LINEAR, NEAREST, back, resized_affine, to_voxel_size

SHAPE = (9, 7, 8)


def affine_of(sizes, rotation=(0.0, 0.0, 0.0)):
    affine = np.diag([*sizes, 1.0])
    affine[:3, :3] = Rotation.from_rotvec(rotation).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 4.0, 17.25)
    return affine


OLD = affine_of((0.9375, 1.5, 1.0), (0.2, -0.1, 0.3))
WITHIN = (11, 5, 9)
"""As many of OLD's voxels as lie within SHAPE voxels of 1.2 mm."""


def random_volume(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def places(shape, affine):
    """World coordinates (D, H, W, 3) of every voxel's centre."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def ramp(shape, affine):
    """A linear function of the place, which linear interpolation reproduces."""
    return places(shape, affine) @ [0.3, -0.7, 1.1] + 5


def inside_centres(shape, affine, old_shape, old_affine):
    """New voxels between the centres of old ones, where nothing is extrapolated."""
    indices = places(shape, np.linalg.inv(old_affine) @ affine)
    return ((indices > 1e-6) & (indices < np.array(old_shape) - 1 - 1e-6)).all(axis=-1)


class TestToVoxelSize:
    @settings(max_examples=60)
    @given(
        st.tuples(*[st.floats(0.4, 3)] * 3),
        st.tuples(*[st.floats(0.4, 3)] * 3),
        st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    )
    def test_field_of_view_and_directions_stay(self, old, new, rotation):
        affine = affine_of(old, rotation)
        data, target = to_voxel_size(random_volume(), affine, new, order=LINEAR)
        sizes = np.linalg.norm(target[:3, :3], axis=0)
        np.testing.assert_allclose(sizes, new, rtol=2e-6)
        np.testing.assert_allclose(target[:3, :3] / sizes, affine[:3, :3] / old, atol=1e-9)
        corner = [-0.5, -0.5, -0.5, 1]
        np.testing.assert_allclose(target @ corner, affine @ corner, atol=1e-9)
        # The last corner covers the old one by less than a voxel.
        surplus = np.array(data.shape) * new - np.array(SHAPE) * old
        assert (surplus >= -2e-3 * np.array(new)).all()
        assert (surplus < np.array(new)).all()

    @pytest.mark.parametrize("size", [(1, 1, 1), (0.6, 2, 1.3), (2.5, 0.7, 3)])
    def test_a_linear_function_of_the_place_is_kept(self, size):
        data, affine = to_voxel_size(ramp(SHAPE, OLD), OLD, size, order=LINEAR)
        inside = inside_centres(data.shape, affine, SHAPE, OLD)
        assert inside.sum() > 20
        np.testing.assert_allclose(data[inside], ramp(data.shape, affine)[inside], rtol=1e-5)
        assert data.dtype == np.float32

    @pytest.mark.parametrize("order", [LINEAR, NEAREST])
    def test_equals_nibabel_between_old_centres(self, order):
        old = random_volume()
        data, affine = to_voxel_size(old, OLD, (1.1, 1.1, 1.1), order=order)
        oracle = resample_from_to(SpatialImage(old, OLD), (data.shape, affine), order=order)
        inside = inside_centres(data.shape, affine, SHAPE, OLD)
        assert inside.sum() > 100
        np.testing.assert_allclose(data[inside], oracle.get_fdata()[inside], atol=1e-5)

    def test_twice_as_fine_repeats_labels(self):
        labels = np.random.default_rng(1).integers(0, 4, SHAPE, dtype=np.uint8)
        fine, _ = to_voxel_size(labels, affine_of((2, 2, 2)), (1, 2, 1), order=NEAREST)
        np.testing.assert_array_equal(fine, labels.repeat(2, axis=0).repeat(2, axis=2))
        assert fine.dtype == np.uint8

    def test_twice_as_fine_by_hand(self):
        column = np.array([0, 4, 8], dtype=np.int16).reshape(3, 1, 1)
        fine, _ = to_voxel_size(column, affine_of((2, 1, 1)), (1, 1, 1), order=LINEAR)
        # New centres lie a quarter of an old voxel beside old ones; the border is repeated.
        np.testing.assert_allclose(fine.ravel(), [0, 1, 3, 5, 7, 8])

    def test_what_lies_outside_is_filled(self):
        column = np.full((5, 1, 1), 7, dtype=np.int16)
        # 5 mm in voxels of 3.2 mm: the centre of the second, at 4.8 mm, is inside ...
        inside, _ = to_voxel_size(column, affine_of((1, 1, 1)), (3.2, 1, 1), order=LINEAR, fill=-1)
        np.testing.assert_allclose(inside.ravel(), [7, 7])
        # ... that of the second of 3.8 mm, at 5.7 mm, is not.
        outside, _ = to_voxel_size(column, affine_of((1, 1, 1)), (3.8, 1, 1), order=LINEAR, fill=-1)
        np.testing.assert_allclose(outside.ravel(), [7, -1])

    def test_masks_stay_masks(self):
        mask = random_volume() > 0
        coarse, _ = to_voxel_size(mask, OLD, (2, 2, 2), order=NEAREST)
        assert coarse.dtype == np.bool_
        numbers, _ = to_voxel_size(mask.astype(np.uint8), OLD, (2, 2, 2), order=NEAREST)
        np.testing.assert_array_equal(coarse, numbers == 1)

    def test_the_size_that_it_has_changes_nothing(self):
        old = random_volume()
        size = tuple(float(s) for s in np.float32([0.9375, 1.5, 1.0]) * np.float32(1 + 1e-7))
        data, affine = to_voxel_size(old, OLD, size, order=LINEAR)
        np.testing.assert_array_equal(data, old)
        np.testing.assert_array_equal(affine, OLD)

    @pytest.mark.parametrize("size", [(0, 1, 1), (1, -1, 1), (1, np.nan, 1), (1, 1, np.inf)])
    def test_impossible_sizes(self, size):
        with pytest.raises(ConfigError, match=r"dataset\.voxel_size.*three positive mm"):
            to_voxel_size(random_volume(), OLD, size, order=LINEAR)
        with pytest.raises(ConfigError, match="three positive mm"):
            resized_affine(OLD, size)

    def test_metres_for_millimetres(self):
        with pytest.raises(ConfigError, match=r"dataset\.voxel_size=\[0\.001.*give it in mm"):
            to_voxel_size(random_volume(), OLD, (0.001, 0.001, 0.001), order=LINEAR)


class TestBack:
    def test_probabilities_stay_probabilities(self):
        classes = np.random.default_rng(2).random((4, *SHAPE)).astype(np.float32)
        classes /= classes.sum(axis=0)
        affine = resized_affine(OLD, (1.2, 1.2, 1.2))
        result = back(classes, affine, WITHIN, OLD)
        assert result.shape == (4, *WITHIN)
        np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-6)
        assert result.min() >= 0

    def test_channels_are_apart(self):
        channels = np.stack([random_volume(seed=seed) for seed in range(3)])
        affine = resized_affine(OLD, (1.2, 1.2, 1.2))
        inside = inside_centres(WITHIN, OLD, SHAPE, affine)
        assert inside.sum() > 100
        for channel, found in zip(channels, back(channels, affine, WITHIN, OLD), strict=True):
            oracle = resample_from_to(SpatialImage(channel, affine), (WITHIN, OLD), order=1)
            np.testing.assert_allclose(found[inside], oracle.get_fdata()[inside], atol=1e-5)

    @pytest.mark.parametrize("size", [(1, 1, 1), (0.5, 3, 1.7), (3, 3, 3)])
    def test_no_voxel_of_the_original_is_outside(self, size):
        ones, affine = to_voxel_size(np.ones(SHAPE), OLD, size, order=LINEAR, fill=1)
        np.testing.assert_array_equal(back(ones[None], affine, SHAPE, OLD, fill=9)[0], 1)

    def test_there_and_back_for_a_linear_function(self):
        original = ramp(SHAPE, OLD)
        there, affine = to_voxel_size(original, OLD, (0.8, 1.0, 0.8), order=LINEAR)
        again = back(there[None], affine, SHAPE, OLD)[0]
        np.testing.assert_allclose(again[2:-2, 2:-2, 2:-2], original[2:-2, 2:-2, 2:-2], rtol=1e-5)

    def test_there_and_back_for_labels(self):
        labels = np.random.default_rng(1).integers(0, 4, SHAPE, dtype=np.uint8)
        there, affine = to_voxel_size(labels, OLD, (0.5, 0.5, 0.4), order=NEAREST)
        again = back(there[None], affine, SHAPE, OLD, order=NEAREST)[0]
        np.testing.assert_array_equal(again, labels)
        assert again.dtype == np.uint8

    def test_outside_is_filled(self):
        result = back(np.ones((1, 2, 2, 2)), np.eye(4), (4, 2, 2), np.eye(4), fill=-3)
        np.testing.assert_array_equal(result[0, :, 0, 0], [1, 1, -3, -3])

    @pytest.mark.parametrize(
        "target",
        [affine_of((1, 1, 1), (0, 0, 0.1)), affine_of((1, 1, 1))[:, [1, 0, 2, 3]], -np.eye(4)],
    )
    def test_other_directions(self, target):
        target[3] = (0, 0, 0, 1)
        with pytest.raises(DataError, match="different directions"):
            back(np.ones((1, *SHAPE)), affine_of((1, 1, 1)), SHAPE, target)

    def test_channels_are_needed(self):
        with pytest.raises(DataError, match=r"\(C, D, H, W\)"):
            back(np.ones(SHAPE), OLD, SHAPE, OLD)
