import itertools

import numpy as np
import pytest
from scipy import ndimage

from psc.mri.augmentation import Pose
from psc.mri.patches import read_padded, resample

IDENTITY = np.eye(3)


def volume_of_numbers(shape):
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


class TestReadPadded:
    @pytest.mark.parametrize(
        ("start", "shape"),
        [
            ((1, 2, 3), (3, 2, 2)),
            ((-2, 0, 1), (4, 5, 4)),
            ((3, 3, 4), (5, 4, 3)),
            ((-3, -1, -2), (12, 9, 10)),
            ((-9, 0, 0), (4, 3, 3)),  # wholly before the volume
            ((0, 20, 0), (2, 2, 2)),  # wholly after it
        ],
    )
    def test_is_a_window_of_the_volume_in_an_ocean_of_fill(self, start, shape):
        volume = volume_of_numbers((6, 5, 7))
        ocean = np.full((66, 65, 67), -7.5, np.float32)
        ocean[30:36, 30:35, 30:37] = volume
        first = [a + 30 for a in start]
        expected = ocean[tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))]
        found = read_padded(volume, start, shape, -7.5)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == volume.dtype

    def test_nothing_is_copied_inside(self):
        volume = volume_of_numbers((6, 5, 7))
        assert np.shares_memory(read_padded(volume, (1, 1, 1), (5, 4, 6), 0), volume)
        assert not np.shares_memory(read_padded(volume, (1, 1, 2), (5, 4, 6), 0), volume)


class TestResample:
    @pytest.mark.parametrize("order", [0, 1])
    @pytest.mark.parametrize("start", [(3, 4, 5), (-2, 1, 13)])
    def test_without_a_turn_it_is_the_plain_window(self, order, start):
        volume = volume_of_numbers((20, 18, 16))
        shape = (9, 8, 7)
        plain = read_padded(volume, start, shape, -1)
        found = resample(volume, start, shape, IDENTITY, order=order, fill=-1)
        np.testing.assert_array_equal(found, plain)

    @pytest.mark.parametrize("order", [0, 1])
    @pytest.mark.parametrize("size", [8, 9])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_quarter_turn_is_rot90(self, axis, size, order):
        volume = volume_of_numbers((20, 18, 16))
        start, shape = (3, 4, 2), (size,) * 3
        degrees = tuple(90.0 if i == axis else 0.0 for i in range(3))
        matrix = Pose(degrees=degrees).matrix((1.5, 1.5, 1.5))
        found = resample(volume, start, shape, matrix, order=order, fill=0)
        # positive: from the next axis to the one after it, as np.rot90 turns its axes
        planes = ((axis + 1) % 3, (axis + 2) % 3)
        expected = np.rot90(read_padded(volume, start, shape, 0), axes=planes)
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(found, np.rot90(expected, 2, axes=planes))

    def test_angles_are_about_the_first_axis_then_the_second_then_the_third(self):
        volume = volume_of_numbers((16, 16, 16))
        matrix = Pose(degrees=(90.0, 90.0, -90.0)).matrix((1.0, 1.0, 1.0))
        found = resample(volume, (4, 4, 4), (8, 8, 8), matrix, order=0, fill=0)
        turned = volume[4:12, 4:12, 4:12]
        for times, axes in ((1, (1, 2)), (1, (2, 0)), (-1, (0, 1))):
            turned = np.rot90(turned, times, axes=axes)
        np.testing.assert_array_equal(found, turned)

    MATRIX = Pose(degrees=(11.0, -23.0, 34.0), zoom=1.1).matrix((0.9, 1.5, 1.0))
    START, SHAPE = (14, 9, 11), (10, 9, 8)

    def sources(self, start=START):
        """Where every voxel of the window comes from, one at a time, by the definition."""
        middle = (np.array(self.SHAPE) - 1) / 2
        for voxel in itertools.product(*map(range, self.SHAPE)):
            yield voxel, np.array(start) + middle + self.MATRIX @ (np.array(voxel) - middle)

    def test_linear_values_are_interpolated_exactly(self):
        slopes = np.array([0.5, -1.25, 2.0])
        grid = np.stack(np.meshgrid(*map(np.arange, (40, 30, 32)), indexing="ij"), axis=-1)
        volume = (grid @ slopes).astype(np.float32)
        found = resample(volume, self.START, self.SHAPE, self.MATRIX, order=1, fill=1e9)
        for voxel, source in self.sources():
            assert found[voxel] == pytest.approx(slopes @ source, abs=1e-4)

    @pytest.mark.parametrize("start", [START, (-4, -3, 27), (34, 0, 11)])
    def test_labels_are_those_of_the_nearest_voxel(self, start):
        volume = np.random.default_rng(0).integers(1, 256, (40, 30, 32), dtype=np.uint8)
        found = resample(volume, start, self.SHAPE, self.MATRIX, order=0, fill=0)
        assert found.dtype == np.uint8
        outside = 0
        for voxel, source in self.sources(start):
            nearest = tuple(int(i) for i in np.floor(source + 0.5))
            inside = all(0 <= i < n for i, n in zip(nearest, volume.shape, strict=True))
            assert found[voxel] == (volume[nearest] if inside else 0)
            outside += not inside
        assert (outside > 0) == (start != self.START)

    @pytest.mark.parametrize("start", [START, (-4, -3, 27)])
    def test_the_box_that_is_read_is_large_enough(self, start):
        """The same from the whole volume in an ocean of fill."""
        volume = np.random.default_rng(0).normal(size=(40, 30, 32)).astype(np.float32)
        ocean = np.pad(volume, 20, constant_values=-3)
        middle = (np.array(self.SHAPE) - 1) / 2
        offset = np.array(start) + 20 + middle - self.MATRIX @ middle
        expected = ndimage.affine_transform(
            ocean, self.MATRIX, offset, self.SHAPE, order=1, mode="nearest"
        )
        found = resample(volume, start, self.SHAPE, self.MATRIX, order=1, fill=-3)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_no_empty_corners_where_the_volume_has_data(self):
        volume = np.full((30, 30, 30), 5, np.float32)
        matrix = Pose(degrees=(45.0, 30.0, 20.0)).matrix((1.0, 1.0, 1.0))
        inside = resample(volume, (10, 10, 10), (10, 10, 10), matrix, order=1, fill=-1)
        np.testing.assert_allclose(inside, 5, rtol=1e-6)
        corner = resample(volume, (0, 0, 0), (10, 10, 10), matrix, order=1, fill=-1)
        assert corner.min() == -1

    def test_a_window_that_misses_the_volume_is_fill(self):
        volume = np.ones((4, 40, 40), np.float32)
        matrix = Pose(zoom=4.0).matrix((1.0, 1.0, 1.0))
        found = resample(volume, (-36, 0, 0), (40, 40, 40), matrix, order=1, fill=-2)
        np.testing.assert_array_equal(found, -2)

    def test_the_order_of_memory_does_not_matter(self):
        volume = np.random.default_rng(0).normal(size=(20, 18, 16)).astype(np.float32)
        arguments = ((4, 4, 4), (8, 8, 8), self.MATRIX)
        np.testing.assert_array_equal(
            resample(np.asfortranarray(volume), *arguments, order=1, fill=0),
            resample(volume, *arguments, order=1, fill=0),
        )

    @pytest.mark.parametrize("zoom", [1.0, 1.25])
    @pytest.mark.parametrize("degrees", [(30.0, 0.0, 0.0), (20.0, -35.0, 50.0), (0.0, 90.0, 45.0)])
    @pytest.mark.parametrize("order", [0, 1])
    def test_a_sphere_in_millimetres_stays_one(self, degrees, zoom, order):
        voxel_size, radius = (0.9, 1.5, 1.1), 9.0
        shape = (48, 32, 40)
        millimetres = [
            (np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel_size, strict=True)
        ]
        x, y, z = np.meshgrid(*millimetres, indexing="ij")
        ball = (x**2 + y**2 + z**2 <= radius**2).astype(np.float32)
        matrix = Pose(degrees=degrees, zoom=zoom).matrix(voxel_size)
        found = resample(ball, (0, 0, 0), shape, matrix, order=order, fill=0) > 0.5
        inside = np.argwhere(found) - (np.array(shape) - 1) / 2
        extent = np.abs(inside * voxel_size).max(axis=0)
        # as far along every axis, and nowhere farther, to within a voxel's diagonal
        np.testing.assert_allclose(extent, radius * zoom, atol=1.5)
        distance = np.linalg.norm(inside * voxel_size, axis=1)
        assert distance.max() < radius * zoom + 1.1
        volume = found.sum() * np.prod(voxel_size)
        assert volume == pytest.approx(4 / 3 * np.pi * (radius * zoom) ** 3, rel=0.03)
