"""Shapes against distances to points on their surface; fast fields against the slow ones."""

import numpy as np
import pytest

from psc.mri.synthetic import (
    ellipsoid,
    random_field,
    random_waves,
    smooth_union,
    tube,
    world_points,
)

OBLIQUE = np.array(
    [[1.8, -0.4, 0.1, -20.0], [0.45, 1.9, 0.2, -15.0], [-0.2, -0.15, 1.7, 3.0], [0, 0, 0, 1]]
)


def grid(half_width, step):
    """Points of a cube about the origin."""
    axis = np.arange(-half_width, half_width + step / 2, step, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def directions(count):
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_world_points_are_the_affine_s():
    shape = (3, 4, 5)
    points = np.stack(world_points(shape, OBLIQUE))
    for index in np.ndindex(shape):
        expected = OBLIQUE[:3, :3] @ index + OBLIQUE[:3, 3]
        np.testing.assert_allclose(points[(slice(None), *index)], expected, atol=1e-4)


class TestEllipsoid:
    CENTRE, RADII = (2.0, -3.0, 1.0), (20.0, 12.0, 9.0)

    def test_distance_near_the_surface(self):
        directed = directions(200)
        on_surface = self.CENTRE + directed * self.RADII
        normals = directed / np.array(self.RADII)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        for away in (-2.0, -0.5, 0.0, 0.5, 2.0):
            points = (on_surface + away * normals).astype(np.float32).T
            # Points at a distance along the normal, inwards less than the least curvature radius.
            np.testing.assert_allclose(
                ellipsoid(tuple(points), self.CENTRE, self.RADII),
                -away,
                atol=0.12 * abs(away) + 1e-3,
            )

    def test_a_sphere_is_exact_but_at_its_centre(self):
        points = grid(14, 2)
        distance = 10 - np.sqrt(sum(axis**2 for axis in points))
        found = ellipsoid(points, (0, 0, 0), (10, 10, 10))
        away = distance < 9
        np.testing.assert_allclose(found[away], distance[away], atol=1e-4)
        assert np.isfinite(found).all()
        assert (found[~away] > 5).all()


class TestTube:
    def test_a_capsule(self):
        points = grid(12, 1.5)
        found = tube(points, [((-5, 2, 0), 3), ((6, -1, 4), 3)])
        along = np.linspace(0, 1, 400)[:, None]
        line = (1 - along) * [-5, 2, 0] + along * [6, -1, 4]
        flat = np.stack(points, -1).reshape(-1, 1, 3)
        nearest = np.linalg.norm(flat - line, axis=2).min(1).reshape(points[0].shape)
        np.testing.assert_allclose(found, 3 - nearest, atol=0.02)

    def test_its_radius_goes_from_point_to_point(self):
        line = [((0, 0, -8), 1), ((0, 0, 0), 5), ((0, 0, 8), 2)]
        middle = [np.zeros(5, np.float32), np.zeros(5, np.float32)]
        z = np.array([-8, -4, 0, 4, 8], np.float32)
        np.testing.assert_allclose(tube((*middle, z), line), [1, 3, 5, 3.5, 2], atol=1e-5)


def test_smooth_union():
    one = np.array([5, -3, 0, 1, 1], np.float32)
    other = np.array([-5, 4, 0, 0, 3], np.float32)
    # Far apart the larger; equal distances gain a quarter of the blend.
    np.testing.assert_allclose(smooth_union(one, other, 4), [5, 4, 1, 1 + 9 / 16, 3.25])


class TestRandomField:
    @pytest.mark.parametrize("affine", [np.diag([2.0, 1.5, 1.0, 1.0]), OBLIQUE])
    def test_it_is_the_sum_of_waves(self, affine):
        shape = (9, 12, 10)
        fast = random_field(shape, affine, 25, np.random.default_rng(3), count=7)
        waves = random_waves(25, np.random.default_rng(3), count=7)
        np.testing.assert_allclose(fast, waves.at(world_points(shape, affine)), atol=1e-4)
        assert fast.dtype == np.float32

    def test_its_mean_deviation_and_length(self):
        rng = np.random.default_rng(0)
        length, steps = 24.0, np.diag([4.0, 4.0, 4.0, 1.0])
        fields = np.stack([random_field((25, 25, 25), steps, length, rng) for _ in range(40)])
        assert abs(fields.mean()) < 0.05
        assert fields.std() == pytest.approx(1, abs=0.05)

        def correlation(lag):
            return (fields[:, lag:] * fields[:, :-lag]).mean()

        # In three dimensions waves of one length L correlate as sin(2πr/L)/(2πr/L).
        for lag in (1, 2, 3, 4, 5):
            assert correlation(lag) == pytest.approx(np.sinc(2 * 4 * lag / length), abs=0.06)

    def test_shifted_waves_resemble_the_first(self):
        points = world_points((20, 20, 20), np.diag([3.0, 3.0, 3.0, 1.0]))
        rng = np.random.default_rng(5)
        waves = random_waves(20, rng)
        values = waves.at(points)
        similar = waves.shifted(rng.normal(0, 0.3, 24)).at(points)
        other = waves.shifted(rng.uniform(0, 2 * np.pi, 24)).at(points)
        assert np.corrcoef(values.ravel(), similar.ravel())[0, 1] > 0.85
        assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.6
