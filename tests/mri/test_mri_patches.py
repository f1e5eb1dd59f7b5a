import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from psc.errors import ConfigError
from psc.mri.augmentation import Pose, TissueAugmentation
from psc.mri.data import Subject, read_subject
from psc.mri.finding import find_subjects
from psc.mri.patches import GridPatches, TissuePatches, read_turned
from psc.mri.tissues import CLASSES
from psc.volumes.patches import read_padded

BACKGROUND = -2.5
KERNEL_COUNTERS = Path("/proc/self/io")
EVERYTHING = TissueAugmentation(
    rotation=20.0, scaling=(0.9, 1.2), contrast=(0.8, 1.1), brightness=(-0.3, 0.1), noise=0.2
)


def make_subject(shape=(20, 18, 16), *, name="IBSR_01", seed=0, brain=None, **changes):
    """A subject whose image numbers its voxels from 1, so that a patch tells where it is from."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(shape, bool)
    inside[brain or tuple(slice(n // 4, n - n // 4) for n in shape)] = True
    parts = {
        "name": name,
        "image": np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape),
        "labels": rng.integers(0, CLASSES, shape, dtype=np.uint8),
        "brain": inside,
        "background": BACKGROUND,
        "voxel_size": (0.9, 1.5, 1.0),
        "native": None,  # patches are cut from what the network sees
        "native_brain": inside,
        "native_labels": None,
        "label_kind": "unfilled",
        "became_fluid": 0,
        "files": ({"name": f"{name}.nii.gz", "bytes": 1, "sha256": "0"},),
        "synthetic": False,
    }
    return Subject(**(parts | changes))


def training(subjects, **changes):
    return TissuePatches(subjects, **({"patch_size": 6, "seed": 1, "length": 60} | changes))


def assert_equal(first, second):
    assert first.keys() == second.keys() == {"image", "labels"}
    for name in first:
        assert torch.equal(first[name], second[name]), name


def start_of(patch, shape):
    """Where a plain patch that lies inside the volume begins."""
    return np.unravel_index(int(patch["image"][0, 0, 0, 0]) - 1, shape)


def starts_of(patches, shape):
    return np.array([start_of(patches[i], shape) for i in range(len(patches))])


IDENTITY = np.eye(3)


def resample(volume, start, shape, matrix, *, order, fill):
    """As an image (order 1) or as labels (order 0), what lies outside of which is background."""
    image = volume if order else np.zeros(volume.shape, np.float32)
    turned = read_turned(image, volume, start, shape, matrix, fill)
    return turned[0] if order else turned[1]


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
        shape, fill = (9, 8, 7), -1 if order else 0
        plain = read_padded(volume, start, shape, fill)
        found = resample(volume, start, shape, IDENTITY, order=order, fill=fill)
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
        np.testing.assert_allclose(found, expected, atol=1e-5)  # sources are float32

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


class TestDeterminism:
    def test_a_patch_depends_on_seed_and_index_only(self):
        subjects = [make_subject(), make_subject((9, 8, 30), name="IBSR_02")]
        patches = training(subjects, augmentation=EVERYTHING)
        forwards = [patches[i] for i in range(10)]
        for i in (7, 2, 9):
            assert_equal(patches[i], forwards[i])
            assert_equal(training(subjects, augmentation=EVERYTHING, length=99)[i], forwards[i])
        other = training(subjects, augmentation=EVERYTHING, seed=2)
        assert all(not torch.equal(other[i]["image"], forwards[i]["image"]) for i in range(10))
        assert len({patch["image"].numpy().tobytes() for patch in forwards}) == 10

    def test_workers_change_nothing(self):
        patches = training([make_subject()], augmentation=EVERYTHING, length=6)
        alone, shared = DataLoader(patches), DataLoader(patches, num_workers=2)
        for first, second in zip(alone, shared, strict=True):
            assert_equal(first, second)

    def test_augmentation_does_not_change_where_patches_are(self):
        subject = make_subject()
        flips = TissueAugmentation(reflections=(True, True, True))
        plain, flipped = training([subject]), training([subject], augmentation=flips)
        for i in range(30):
            first, second = plain[i]["image"], flipped[i]["image"]
            assert torch.equal(first.flatten(), second.flatten().sort().values)

    def test_very_long_data_sets(self):
        patches = training([make_subject()], length=2**62)
        assert len(patches) == 2**62
        assert patches[2**62 - 1]["image"].shape == (1, 6, 6, 6)

    @pytest.mark.parametrize("index", [-1, 60])
    def test_no_other_index(self, index):
        with pytest.raises(IndexError, match=f"patch {index} of 60"):
            training([make_subject()])[index]


class TestCrops:
    @pytest.mark.parametrize("size", [6, (7, 4, 5)])
    def test_voxel_by_voxel(self, size):
        subject = make_subject()
        patches = training([subject], patch_size=size, foreground_share=0.5)
        shape = (size,) * 3 if isinstance(size, int) else size
        for i in range(5):
            patch = patches[i]
            assert patch["image"].dtype == torch.float32
            assert patch["labels"].dtype == torch.uint8
            assert patch["image"].shape == (1, *shape)
            assert patch["labels"].shape == shape
            d, h, w = start_of(patch, subject.image.shape)
            for z, y, x in itertools.product(*map(range, shape)):
                assert patch["image"][0, z, y, x] == subject.image[d + z, h + y, w + x]
                assert patch["labels"][z, y, x] == subject.labels[d + z, h + y, w + x]

    def test_a_volume_that_is_smaller_is_all_in_the_patch(self):
        subject = make_subject((5, 30, 7))
        seen = set()
        for share in (0, 1):
            patches = training([subject], patch_size=(12, 12, 8), foreground_share=share)
            for i in range(40):
                image, labels = patches[i]["image"][0].numpy(), patches[i]["labels"].numpy()
                # in an ocean of background, the window is found by its first known voxel
                z, y, x = np.argwhere(image != BACKGROUND)[0]
                first = np.array(np.unravel_index(int(image[z, y, x]) - 1, (5, 30, 7)))
                start = first - (z, y, x)
                ocean = np.full((5 + 40, 30 + 40, 7 + 40), BACKGROUND, np.float32)
                ocean[20:25, 20:50, 20:27] = subject.image
                tissues = np.zeros(ocean.shape, np.uint8)
                tissues[20:25, 20:50, 20:27] = subject.labels
                box = tuple(
                    slice(a + 20, a + 20 + n) for a, n in zip(start, image.shape, strict=True)
                )
                np.testing.assert_array_equal(image, ocean[box])
                np.testing.assert_array_equal(labels, tissues[box])
                assert (image != BACKGROUND).sum() == 5 * 12 * 7
                seen.add(tuple(int(a) for a in start))
        assert len({start[0] for start in seen}) > 3
        assert {start[2] for start in seen} == {-1, 0}

    def test_the_subjects_memory_is_not_touched(self):
        subject = make_subject()
        before = subject.image.copy(), subject.labels.copy()
        size = subject.image.shape  # the whole volume: nothing has to be copied to cut it
        for augmentation in (None, EVERYTHING, replace(EVERYTHING, rotation=0, scaling=(1, 1))):
            patches = training([subject], patch_size=size, augmentation=augmentation)
            for i in range(4):
                patch = patches[i]
                patch["image"].zero_()
                patch["labels"].zero_()
        np.testing.assert_array_equal(subject.image, before[0])
        np.testing.assert_array_equal(subject.labels, before[1])

    def test_the_order_of_memory_does_not_matter(self):
        subject = make_subject()
        fortran = replace(
            subject,
            image=np.asfortranarray(subject.image),
            labels=np.asfortranarray(subject.labels),
            brain=np.asfortranarray(subject.brain),
        )
        for augmentation in (None, EVERYTHING):
            first, second = (training([s], augmentation=augmentation) for s in (subject, fortran))
            for i in range(10):
                assert_equal(first[i], second[i])

    @pytest.mark.skipif(not KERNEL_COUNTERS.exists(), reason="Linux counts what a process reads")
    def test_no_patch_reads_a_file(self, tmp_path):
        def reads_of(action):
            def counter():
                lines = KERNEL_COUNTERS.read_text().splitlines()
                return dict(line.split(": ") for line in lines)["syscr"]

            before = int(counter())
            action()
            return int(counter()) - before

        own = reads_of(lambda: None)  # the counter is a file, too
        path = tmp_path / "volume"
        path.write_bytes(b"0")
        assert reads_of(path.read_bytes) > own

        patches = training([make_subject()], augmentation=EVERYTHING)
        grid = GridPatches([make_subject()], patch_size=6)
        assert patches[0].keys() == grid[0].keys()  # whatever is imported late is now
        assert reads_of(lambda: [patches[i] for i in range(60)]) == own
        assert reads_of(lambda: [grid[i] for i in range(len(grid))]) == own


class TestPositions:
    def test_every_voxel_of_the_volume_is_a_centre(self):
        shape = (10, 6, 9)
        starts = starts_of(training([make_subject(shape)], foreground_share=0, length=4000), shape)
        for axis, whole in enumerate(shape):
            # centres 0 … whole − 1, three voxels before the centre, shifted into the volume
            expected = np.zeros(whole - 6 + 1)
            for centre in range(whole):
                expected[min(max(centre - 3, 0), whole - 6)] += 4000 / whole
            counts = np.bincount(starts[:, axis], minlength=len(expected))
            np.testing.assert_allclose(counts, expected, rtol=0.15)

    def test_every_voxel_of_the_brain_is_a_centre(self):
        shape = (20, 18, 16)
        brain = np.zeros(shape, bool)
        brain[8:11, 7:9, 6:8] = True
        brain[3, 13, 12] = True  # near the border, but the window fits
        subject = make_subject(shape, brain=brain.nonzero())
        starts = starts_of(training([subject], length=1300), shape)
        centres, counts = np.unique(starts + 3, axis=0, return_counts=True)
        np.testing.assert_array_equal(centres, np.argwhere(brain))
        assert counts.min() > 70  # of 100
        assert counts.max() < 130

    def test_a_brain_at_the_border_shifts_the_window_inside(self):
        corner = (slice(0, 1), slice(17, 18), slice(0, 1))
        subject = make_subject(brain=corner)
        starts = starts_of(training([subject]), subject.image.shape)
        np.testing.assert_array_equal(np.unique(starts, axis=0), [[0, 12, 0]])

    @pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
    def test_the_foreground_share(self, share):
        shape = (20, 18, 16)
        subject = make_subject(shape, brain=(slice(8, 11), slice(7, 10), slice(6, 9)))
        starts = starts_of(training([subject], foreground_share=share, length=800), shape)
        found = np.mean(subject.brain[tuple((starts + 3).T)])
        # the others hit the brain, too, as often as it is large
        assert found == pytest.approx(share + (1 - share) * subject.brain.mean(), abs=0.05)

    def test_subjects_are_equally_likely_whatever_their_size(self):
        shapes = [(6, 6, 6), (20, 18, 16), (6, 20, 7)]
        subjects = [
            make_subject(shape, image=np.full(shape, i, np.float32))
            for i, shape in enumerate(shapes)
        ]
        patches = training(subjects, length=900)
        counts = np.bincount([int(patches[i]["image"].mean()) for i in range(900)])
        np.testing.assert_allclose(counts, [300, 300, 300], atol=45)


class TestAugmentation:
    @pytest.mark.parametrize("axes", list(itertools.product((False, True), repeat=3)))
    def test_reflections_along_the_allowed_axes_only(self, axes):
        subject = make_subject()
        augmented = training([subject], augmentation=TissueAugmentation(reflections=axes))
        plain = training([subject])
        allowed = set(itertools.product(*((False, True) if axis else (False,) for axis in axes)))
        seen = set()
        for i in range(60):
            image, labels = augmented[i]["image"][0], augmented[i]["labels"]
            # numbers grow along every axis, but for those that are reversed
            first = image[0, 0, 0]
            flips = tuple(bool(image[tuple(e)] < first) for e in np.eye(3, dtype=int))
            dims = [axis for axis in range(3) if flips[axis]]
            assert torch.equal(image, plain[i]["image"][0].flip(dims))
            assert torch.equal(labels, plain[i]["labels"].flip(dims))
            seen.add(flips)
        assert seen == allowed

    @pytest.mark.parametrize("shape", [(20, 18, 16), (7, 18, 16)])
    def test_turned_patches_are_windows_of_the_whole_volume(self, shape):
        """The pose is what the augmentation draws; the patch is that window, then reflected."""

        class Recorded(TissueAugmentation):
            def draw_pose(self, rng):
                drawn.append(super().draw_pose(rng))
                return drawn[-1]

        drawn: list[Pose] = []
        subject = make_subject(shape)
        turn = Recorded(reflections=(True, True, True), rotation=30.0, scaling=(0.8, 1.3))
        augmented = training([subject], patch_size=8, augmentation=turn)
        plain = training([subject], patch_size=8)
        for i in range(20):
            patch, image = augmented[i], plain[i]["image"][0].numpy()
            z, y, x = np.argwhere(image != BACKGROUND)[0]
            first = np.unravel_index(int(image[z, y, x]) - 1, shape)
            start = tuple(int(a) - int(b) for a, b in zip(first, (z, y, x), strict=True))
            matrix = drawn[i].matrix(subject.voxel_size)
            flipped = [axis for axis in range(3) if drawn[i].reflected[axis]]
            for name, volume, order, fill in (
                ("image", subject.image, 1, BACKGROUND),
                ("labels", subject.labels, 0, 0),
            ):
                expected = resample(volume, start, (8, 8, 8), matrix, order=order, fill=fill)
                found = patch[name].numpy().reshape(8, 8, 8)
                np.testing.assert_array_equal(found, np.flip(expected, flipped))
        assert len({pose.reflected for pose in drawn}) > 4

    def test_labels_get_no_new_values_and_stay_where_the_image_is(self):
        """The image is a smooth bump and the labels where it is high: so they are afterwards."""
        shape, middle = (48, 40, 44), (20.0, 22.0, 21.0)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - middle
        bump = np.exp(-((grid / (9, 5, 7)) ** 2).sum(axis=-1)).astype(np.float32)
        labels = np.where(bump > 0.5, 3, np.where(bump > 0.2, 1, 0)).astype(np.uint8)
        subject = make_subject(shape, image=bump, labels=labels, background=0.0)
        turn = TissueAugmentation(rotation=40.0, scaling=(0.8, 1.25))
        patches = training([subject], patch_size=32, augmentation=turn, length=12)
        for i in range(len(patches)):
            image, found = patches[i]["image"][0].numpy(), patches[i]["labels"].numpy()
            assert set(np.unique(found)) <= {0, 1, 3}
            expected = np.where(image > 0.5, 3, np.where(image > 0.2, 1, 0))
            for tissue in (1, 3):
                both = np.sum((found == tissue) & (expected == tissue))
                assert 2 * both > 0.9 * (np.sum(found == tissue) + np.sum(expected == tissue))
            # no systematic shift: centres of mass agree to a fraction of a voxel
            distance = np.argwhere(image > 0.5).mean(axis=0) - np.argwhere(found == 3).mean(axis=0)
            assert np.abs(distance).max() < 0.15

    def test_no_turn_is_a_plain_crop(self):
        subject = make_subject()
        nothing = TissueAugmentation(reflections=(False, False, False))
        for i in range(10):
            assert_equal(training([subject], augmentation=nothing)[i], training([subject])[i])

    def test_intensity_changes_the_image_only(self):
        subject = make_subject((20, 5, 16))  # padded: background must stay background
        bright = TissueAugmentation(reflections=(False,) * 3, brightness=(0.5, 0.5))
        for i in range(10):
            first, second = training([subject])[i], training([subject], augmentation=bright)[i]
            padding = first["image"] == BACKGROUND
            assert padding.any()
            torch.testing.assert_close(
                second["image"], (first["image"] + 0.5).where(~padding, -2.5)
            )
            assert torch.equal(first["labels"], second["labels"])


class TestGrid:
    def test_the_patches_cover_the_brains_box(self):
        shape = (40, 30, 26)
        subject = make_subject(shape, brain=(slice(5, 33), slice(8, 21), slice(2, 8)))
        patches = GridPatches([subject], patch_size=10)
        starts = [tuple(int(a) for a in start) for start in starts_of(patches, shape)]
        # 28 voxels: three patches, evenly from 5 to 23; 13: two; 6: one, centred on 2 … 7
        assert starts == list(itertools.product((5, 14, 23), (8, 11), (0,)))
        covered = np.zeros(shape, bool)
        for start in starts:
            covered[tuple(slice(a, a + 10) for a in start)] = True
        assert covered[subject.brain].all()
        for i, (d, h, w) in enumerate(starts):
            box = (slice(d, d + 10), slice(h, h + 10), slice(w, w + 10))
            np.testing.assert_array_equal(patches[i]["image"][0], subject.image[box])
            np.testing.assert_array_equal(patches[i]["labels"], subject.labels[box])
            assert_equal(patches[i], GridPatches([subject], patch_size=10)[i])

    def test_a_short_brain_is_centred(self):
        subject = make_subject(brain=(slice(9, 11), slice(4, 10), slice(7, 12)))
        patches = GridPatches([subject], patch_size=6)
        np.testing.assert_array_equal(starts_of(patches, subject.image.shape), [[7, 4, 6]])

    def test_a_brain_as_long_as_the_patch_and_one_voxel_longer(self):
        subject = make_subject(brain=(slice(3, 9), slice(3, 10), slice(3, 9)))
        patches = GridPatches([subject], patch_size=6)
        expected = [[3, 3, 3], [3, 4, 3]]
        np.testing.assert_array_equal(starts_of(patches, subject.image.shape), expected)

    def test_a_small_volume_is_padded(self):
        subject = make_subject((4, 18, 16))
        (patch,) = list(GridPatches([subject], patch_size=(8, 18, 16)))
        assert (patch["image"] != BACKGROUND).sum() == 4 * 18 * 16
        assert patch["labels"].sum() == subject.labels.sum()

    @pytest.mark.parametrize("maximum", [1, 2, 3, 5, 12, 1000])
    def test_at_most_so_many_evenly_over_the_subjects(self, maximum):
        shape = (40, 30, 26)
        brain = (slice(5, 33), slice(8, 21), slice(2, 8))
        offsets = (0, 100_000)
        numbers = make_subject(shape).image
        subjects = [make_subject(shape, brain=brain, image=numbers + o) for o in offsets]
        everything = GridPatches(subjects, patch_size=10)
        assert len(everything) == 12
        chosen = GridPatches(subjects, patch_size=10, maximum=maximum)
        assert len(chosen) == min(maximum, 12)
        positions = [
            next(j for j in range(12) if torch.equal(everything[j]["image"], patch["image"]))
            for patch in chosen
        ]
        assert positions == sorted(set(positions))
        steps = np.diff(positions)
        assert steps.size == 0 or steps.max() - steps.min() <= 1
        # as much before the first as after the last, and neither end preferred
        assert abs(positions[0] - (11 - positions[-1])) <= 1

    def test_subjects_follow_each_other(self):
        first, second = make_subject(), make_subject(seed=1, name="IBSR_02")
        both = GridPatches([first, second], patch_size=6)
        assert len(both) == 2 * len(GridPatches([first], patch_size=6))
        assert_equal(both[len(both) // 2], GridPatches([second], patch_size=6)[0])

    @pytest.mark.parametrize("index", [-1, 8])
    def test_no_other_index(self, index):
        patches = GridPatches([make_subject()], patch_size=6)
        with pytest.raises(IndexError, match=f"patch {index} of {len(patches)}"):
            patches[index]


@pytest.mark.parametrize("size", [0, (6, 6)])
def test_impossible_sizes(size):
    with pytest.raises(ConfigError, match=r"patch_size=.*must be one or three positive"):
        training([make_subject()], patch_size=size)


@pytest.mark.sample
def test_the_papers_patch_size_on_a_real_subject(sample_data):
    found = find_subjects(sample_data / "mri" / "ibsr18")
    subject = read_subject(found["IBSR_01"], labels="unfilled")

    patches = TissuePatches(
        [subject],
        patch_size=64,
        seed=0,
        length=3,
        augmentation=replace(EVERYTHING, brightness=(0, 0), noise=0),
    )
    for i in range(len(patches)):
        image, labels = patches[i]["image"][0], patches[i]["labels"]
        assert image.shape == labels.shape == (64, 64, 64)
        assert set(labels.unique().tolist()) <= set(range(CLASSES))
        # white matter is bright and grey matter darker, wherever and however a patch lies
        assert image[labels == 3].mean() > image[labels == 2].mean() + 0.3
        outside = labels[image == np.float32(subject.background)]
        assert outside.numel() < 1000 or (outside == 0).float().mean() > 0.95

    grid = GridPatches([subject], patch_size=64)
    tissues = sum(np.bincount(patch["labels"].flatten(), minlength=CLASSES) for patch in grid)
    assert len(grid) <= 18
    # overlapping patches: every labelled voxel at least once
    assert (tissues[1:] >= np.bincount(subject.labels.ravel(), minlength=CLASSES)[1:]).all()
