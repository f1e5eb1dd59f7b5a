from dataclasses import replace

import numpy as np
import pytest

from psc.errors import ConfigError
from psc.mri.augmentation import Pose, TissueAugmentation

EVERYTHING = TissueAugmentation(
    reflections=(True, True, True),
    rotation=20.0,
    scaling=(0.9, 1.2),
    contrast=(0.8, 1.1),
    brightness=(-0.3, 0.1),
    noise=0.2,
)


def poses(augmentation, count=400):
    return [augmentation.draw_pose(np.random.default_rng(i)) for i in range(count)]


class TestPose:
    def test_nothing_is_turned_by_default(self):
        assert not Pose().interpolates
        assert not Pose(reflected=(True, True, False)).interpolates
        np.testing.assert_array_equal(Pose().matrix((0.9, 1.5, 1.0)), np.eye(3))

    @pytest.mark.parametrize("pose", [Pose(degrees=(0.0, 1.0, 0.0)), Pose(zoom=0.99)])
    def test_turned_or_enlarged_voxels_lie_between_voxels(self, pose):
        assert pose.interpolates

    def test_in_millimetres_it_is_a_rotation_divided_by_the_zoom(self):
        voxel_size = np.array([0.9, 1.5, 1.0])
        matrix = Pose(degrees=(10.0, -50.0, 120.0), zoom=1.3).matrix(tuple(voxel_size))
        rotation = 1.3 * np.diag(voxel_size) @ matrix @ np.diag(1 / voxel_size)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert not np.allclose(matrix @ matrix.T, np.eye(3) / 1.3**2)  # in voxels it is none

    def test_one_angle_by_hand(self):
        c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
        # content turns from axis 1 to axis 2, so sources lie the other way; y of 2 mm, z of 1 mm
        expected = [[1, 0, 0], [0, c, s / 2], [0, -s * 2, c]]
        matrix = Pose(degrees=(30.0, 0.0, 0.0)).matrix((1.0, 2.0, 1.0))
        np.testing.assert_allclose(matrix, expected, atol=1e-12)


class TestDrawing:
    def test_left_and_right_only_by_default(self):
        drawn = poses(TissueAugmentation())
        assert {pose.reflected for pose in drawn} == {(False,) * 3, (True, False, False)}
        assert 0.4 < np.mean([pose.reflected[0] for pose in drawn]) < 0.6
        assert not any(pose.interpolates for pose in drawn)

    def test_ranges_are_filled_and_kept(self):
        drawn = poses(EVERYTHING)
        assert len({pose.reflected for pose in drawn}) == 8
        degrees = np.array([pose.degrees for pose in drawn])
        zooms = np.array([pose.zoom for pose in drawn])
        assert (np.abs(degrees) <= 20).all()
        assert (degrees.max(axis=0) > 18).all()
        assert (degrees.min(axis=0) < -18).all()
        assert np.abs(np.corrcoef(degrees.T)[np.triu_indices(3, 1)]).max() < 0.2
        assert 0.9 <= zooms.min() < 0.92
        assert 1.18 < zooms.max() <= 1.2

    @pytest.mark.parametrize(
        ("switched_off", "attribute"),
        [
            ({"reflections": (False, False, False)}, "reflected"),
            ({"rotation": 0.0}, "degrees"),
            ({"scaling": (1.0, 1.0)}, "zoom"),
        ],
    )
    def test_settings_do_not_change_each_other(self, switched_off, attribute):
        changed = poses(replace(EVERYTHING, **switched_off), 20)
        nothing = getattr(Pose(), attribute)
        for before, after in zip(poses(EVERYTHING, 20), changed, strict=True):
            assert getattr(after, attribute) == nothing
            assert after == replace(before, **{attribute: nothing})


class TestIntensity:
    BACKGROUND = -2.5

    def image(self, shape=(20, 20, 20)):
        image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        image[:5] = self.BACKGROUND
        return image

    def change(self, image, seed=0, **options):
        changed = image.copy()
        rng = np.random.default_rng(seed)
        TissueAugmentation(**options).change_intensity(changed, self.BACKGROUND, rng)
        return changed

    def test_nothing_by_default(self):
        np.testing.assert_array_equal(self.change(self.image()), self.image())

    def test_contrast_and_brightness_inside_the_brain(self):
        image = self.image()
        changed = self.change(image, contrast=(0.5, 0.5), brightness=(0.25, 0.25))
        np.testing.assert_allclose(changed[5:], image[5:] * 0.5 + 0.25, atol=1e-6)
        np.testing.assert_array_equal(changed[:5], np.float32(self.BACKGROUND))

    def test_every_patch_has_a_contrast_and_a_brightness_of_its_own(self):
        image, pairs = self.image((6, 4, 4)), []
        options = {"contrast": (0.8, 1.1), "brightness": (-0.3, 0.1)}
        for seed in range(200):
            changed = self.change(image, seed, **options)
            pairs.append(np.polyfit(image[5:].ravel(), changed[5:].ravel(), 1))
        slopes, intercepts = np.array(pairs).T
        assert 0.8 - 1e-5 < slopes.min() < 0.82
        assert 1.08 < slopes.max() < 1.1 + 1e-5
        assert -0.3 - 1e-5 < intercepts.min() < -0.28
        assert 0.08 < intercepts.max() < 0.1 + 1e-5
        assert abs(np.corrcoef(slopes, intercepts)[0, 1]) < 0.2

    def test_noise(self):
        image, deviations = self.image(), []
        for seed in range(60):
            noise = self.change(image, seed, noise=0.2) - image
            np.testing.assert_array_equal(noise[:5], 0)
            deviations.append(noise[5:].std())
            # the mean of 6000 values: five times its standard error
            assert abs(noise[5:].mean()) < 5 * deviations[-1] / np.sqrt(noise[5:].size)
        assert max(deviations) < 0.2 * 1.05
        assert min(deviations) < 0.02
        assert np.mean(deviations) == pytest.approx(0.1, abs=0.025)
        assert len(np.unique(noise[5:].round(4))) > 100


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"reflections": (True, False)}, "reflections=.*must be three of true or false"),
        ({"reflections": ("left", False, False)}, "reflections=.*left.*must be three"),
        ({"rotation": -1.0}, "rotation=-1.0: must lie in"),
        ({"rotation": 181.0}, "rotation=.*must lie in"),
        ({"rotation": float("nan")}, "rotation=.*must lie in"),
        ({"scaling": (1.1, 0.9)}, r"scaling=\[1.1, 0.9\]: must be .low, high., finite"),
        ({"scaling": (0.0, 1.0)}, "scaling=.*must be positive"),
        ({"scaling": (1.0,)}, "scaling=.*must be .low, high., finite"),
        ({"contrast": (-0.1, 1.0)}, "contrast=.*must not go below 0"),
        ({"contrast": (1.0, float("inf"))}, "contrast=.*must be .low, high., finite"),
        ({"brightness": (float("nan"), 1.0)}, "brightness=.*must be .low, high., finite"),
        ({"noise": -0.1}, "noise=-0.1: must be at least 0"),
        ({"noise": float("inf")}, "noise=.*must be"),
    ],
)
def test_errors(options, problem):
    with pytest.raises(ConfigError, match=problem):
        TissueAugmentation(**options)
