"""Deformation and defects of EM patches."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader

from psc.em.affinities import affinities_from_labels, neighbours
from psc.em.augmentation import (
    Augmentation,
    Deformation,
    Geometry,
    SectionDefects,
    thicken_boundaries,
)
from psc.em.data import LabelledVolume, Region
from psc.em.patches import AffinityPatches, PatchCutter, Slab
from psc.errors import ConfigError

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


PLAIN = Augmentation(reflections=False, axis_swaps="none", contrast=(1, 1), brightness=(0, 0))
ELASTIC = Deformation(spacing=(5, 6, 7), jitter=(1.5, 2.0, 2.5))
MISALIGNED = Deformation(offset=3, slip=0.2, shift=0.2)
EVERYTHING = replace(ELASTIC, rotation=30.0, offset=2, slip=0.2, shift=0.2)
SHAPE = (30, 36, 34)


# Of psc/datasets at commit 883edb0: raw in steps of 2⁻¹² (means may differ in their last bit
# between processors), affinities, mask and labels.
BEFORE = [
    (
        Augmentation(),
        (),
        {},
        ["5a0657daad18e7ef", "1ccf3d48589f370a", "2f9074f460825453", "b4fe73a4f0e4e69e"],
    ),
    (
        Augmentation(),
        (5, 17),
        {"zero_label": "boundary", "boundary_thickness": 1},
        ["a18fd4fbc79784e3", "2eae4b263ba787a1", "42439c0fecbef3f8", "d55aef7dc4a7b3e6"],
    ),
    (
        None,
        (5, 17),
        {},
        ["d9d3dc78d0e1c8f6", "4b83ed9eb8ef124f", "54df255784f531a8", "8966ab308d9ed78f"],
    ),
]


def patches(volume, augmentation, *slab, **changes):
    options = {"input_size": 12, "output_size": 6, "seed": 7, "length": 12}
    options |= {"augmentation": augmentation} | changes
    return AffinityPatches([Region(volume, *slab)], **options)


def deformed(deformation, **changes):
    return replace(PLAIN, deformation=deformation, **changes)


def along(axis, shape=SHAPE):
    """Position along an axis, at every voxel."""
    return np.indices(shape)[axis]


def assert_equal(first, second, *names):
    for name in names or first:
        assert torch.equal(first[name], second[name]), name


class TestOff:
    """The published training draws what it drew before there was any of this."""

    @staticmethod
    def fixed_volume():
        z, y, x = np.indices((24, 20, 22))
        labels = (1 + (z // 5) * 100 + (y // 7) * 10 + x // 6).astype(np.uint64)
        labels[(z + 2 * y + 3 * x) % 11 == 0] = 0
        raw = ((z * z * 31 + y * 17 + x * x * 7 + z * y * x) % 251).astype(np.uint8)
        files = ({"name": "fixed.h5", "bytes": 1, "sha256": "0"},)
        return LabelledVolume(
            raw, labels, voxel_size=None, name="fixed", synthetic=False, files=files
        )

    @staticmethod
    def digest(patch):
        steps = np.round(patch["raw"].numpy() * 4096).astype(np.int16)
        rest = (patch[name].numpy() for name in ("affinities", "mask", "labels"))
        return hashlib.sha256(b"".join(a.tobytes() for a in (steps, *rest))).hexdigest()[:16]

    @pytest.mark.parametrize(("augmentation", "slab", "options", "expected"), BEFORE)
    def test_patches_are_what_they_were(self, augmentation, slab, options, expected):
        drawn = patches(self.fixed_volume(), augmentation, *slab, **options)
        assert [self.digest(drawn[i]) for i in range(4)] == expected

    def test_off_is_the_default_and_moves_nothing(self):
        assert not Deformation().active
        assert not SectionDefects().active
        assert Deformation().reach((50, 60, 70)) == (0, 0, 0)
        sources = Deformation().draw((4, 5, 6), np.random.default_rng(0))
        np.testing.assert_array_equal(sources, np.indices((4, 5, 6)))
        sections = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
        kept = sections.copy()
        SectionDefects().apply(sections, np.random.default_rng(0))
        np.testing.assert_array_equal(sections, kept)

    def test_identity_through_the_resampling(self, make_volume):
        still = deformed(Deformation(jitter=(1e-30, 0, 0)))  # on, but lost in rounding
        assert still.deformation.active
        volume = make_volume(SHAPE)
        volume.labels[::4] = 0
        for start in ((0, 3, 5), (-1, 20, 30), (12, 12, 12)):
            plain, moved = (cut_at(Region(volume, 2, 25), start, a) for a in (PLAIN, still))
            assert_equal(plain, moved)


def cut_at(region, start, augmentation, seed=0, **changes):
    """One patch at a known place."""
    options = {"input_size": (12, 12, 12), "output_size": (6, 6, 6)} | changes
    rng = np.random.default_rng(seed)
    return PatchCutter(**options).cut(Slab(region, None), start, augmentation, rng)


def draws(deformation, shape=(12, 14, 16), count=30):
    return [deformation.draw(shape, np.random.default_rng(seed)) for seed in range(count)]


class TestElastic:
    def test_no_voxel_moves_further_than_the_jitter(self):
        grid = np.indices((12, 14, 16))
        moved = np.abs(np.stack(draws(ELASTIC)) - grid)
        for axis, most in enumerate(ELASTIC.jitter):
            assert 0.4 * most < moved[:, axis].max() <= most + 1e-5

    def test_it_is_smooth_and_folds_nothing(self):
        for sources in draws(replace(ELASTIC, jitter=(2.0, 2.4, 2.8))):
            gradient = np.stack([np.stack(np.gradient(axis)) for axis in sources])
            assert np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1))).min() > 0
            for axis in range(3):  # steps between neighbours change by little
                assert np.abs(np.diff(sources, n=2, axis=axis + 1)).max() < 1

    def test_an_axis_without_jitter_stays(self):
        for sources in draws(Deformation(spacing=(5, 6, 7), jitter=(0, 2.0, 0)), count=3):
            np.testing.assert_array_equal(sources[[0, 2]], np.indices((12, 14, 16))[[0, 2]])

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("deformation", [ELASTIC, MISALIGNED, EVERYTHING])
    def test_raw_and_labels_come_from_the_same_place(self, make_volume, deformation, axis):
        """Grey values and labels both say where they were; interpolation keeps linear ramps."""
        augmentation = deformed(deformation, reflections=True, axis_swaps="all")
        ramp = along(axis)
        volume = make_volume(SHAPE, raw=ramp / 64, labels=(ramp + 1).astype(np.uint64))
        for seed in range(5):
            patch = cut_at(Region(volume), (12, 15, 14), augmentation, seed)
            position = patch["raw"][0, 3:9, 3:9, 3:9].double().numpy() * 64
            # dense ids are given in order of appearance, here that of the ramp
            assert np.abs(patch["labels"].numpy() - 1 - position).max() <= 0.5 + 1e-4
            assert patch["labels"].unique().numel() > 2

    def test_labels_get_no_new_values(self, make_volume):
        volume = make_volume(SHAPE)
        volume.labels[...] = np.where(volume.labels > 4000, 7 * 10**18, 0)
        drawn = patches(volume, deformed(EVERYTHING))
        for i in range(len(drawn)):
            assert set(drawn[i]["labels"].unique().tolist()) <= {0, 1}

    def test_turning(self):
        """All voxels keep their distance from the centre, and angles reach both limits."""
        angles = []
        for sources in draws(Deformation(rotation=40.0), (3, 21, 21), 60):
            z, y, x = sources.astype(np.float64)
            np.testing.assert_array_equal(z, np.indices((3, 21, 21))[0])
            here = np.indices((21, 21)) - 10
            np.testing.assert_allclose(np.hypot(y[1] - 10, x[1] - 10), np.hypot(*here), atol=1e-5)
            angles.append(np.degrees(np.arctan2(y[1, 10, 20] - 10, x[1, 10, 20] - 10)))
            back = np.arctan2(x[1, 20, 10] - 10, y[1, 20, 10] - 10)  # the same way round
            assert np.degrees(back) == pytest.approx(-angles[-1], abs=1e-3)
        assert -40 - 1e-3 <= min(angles) < -30
        assert 30 < max(angles) <= 40 + 1e-3


class TestMisalignment:
    def offsets(self, deformation, sections=40, count=40):
        """(draws, sections, 2), after a look at the rest of the sources."""
        shape = (sections, 5, 6)
        found = []
        for sources in draws(deformation, shape, count):
            moved = sources - np.indices(shape)
            assert not moved[0].any()
            assert (np.ptp(moved[1:], axis=(2, 3)) == 0).all()  # sections stay whole
            found.append(moved[1:, :, 0, 0].T)
        return np.stack(found)

    def test_a_slip_moves_one_section(self):
        offsets = self.offsets(Deformation(offset=4, slip=0.25))
        assert set(np.unique(offsets)) == set(range(-4, 5))
        moved = offsets.any(axis=2)
        # of all slips 1 in 81 is one by nothing
        assert moved.mean() == pytest.approx(0.25 * 80 / 81, abs=0.03)

    def test_a_shift_moves_all_sections_below(self):
        offsets = self.offsets(Deformation(offset=4, shift=0.1))
        assert np.abs(offsets).max() == 4
        steps = np.diff(offsets, axis=1, prepend=0)
        assert np.abs(steps).max() == 4
        assert steps.any(axis=2).mean() == pytest.approx(0.1, abs=0.02)
        assert offsets[:, -1].any(axis=1).mean() > 0.8  # and there they stay

    def test_both(self):
        offsets = self.offsets(MISALIGNED)
        assert np.abs(offsets).max() == 3

    def test_sections_are_read_where_they_were_moved_to(self, make_volume):
        """Nothing is invented: every grey value and label is the volume's, at another y and x."""
        number = np.arange(np.prod(SHAPE)).reshape(SHAPE)
        volume = make_volume(SHAPE, raw=number / 2**16, labels=(number + 1).astype(np.uint64))
        drawn = patches(volume, deformed(MISALIGNED), length=40)
        moved = 0
        for i in range(len(drawn)):
            patch = drawn[i]
            source = (patch["raw"][0].double() * 2**16).round().long().numpy()
            z, y, x = np.unravel_index(source, SHAPE)
            assert (z == z[:, :1, :1]).all()
            assert (np.diff(z[:, 0, 0]) == 1).all()
            assert (np.diff(y, axis=1) == 1).all()  # a reflection would run backwards
            assert (np.diff(x, axis=2) == 1).all()
            np.testing.assert_array_equal(patch["labels"], source[3:9, 3:9, 3:9] + 1)
            moved += len(np.unique(y[:, 0, 0])) > 1
        assert moved > 30

    def test_where_there_is_no_room_raw_is_reflected_and_labels_are_unknown(self, make_volume):
        volume = make_volume((13, 13, 13))
        drawn = patches(volume, deformed(replace(MISALIGNED, slip=0.0, shift=1.0)), output_size=12)
        masked = 0
        for i in range(len(drawn)):
            patch = drawn[i]
            assert patch["raw"].min() >= 0
            unknown = patch["labels"] == 0  # the file has no 0
            assert not (patch["mask"] & unknown).any()
            masked += int(unknown.any())
        assert masked


class TestReach:
    @pytest.mark.parametrize(
        "deformation",
        [
            ELASTIC,
            MISALIGNED,
            EVERYTHING,
            Deformation(rotation=10.0),
            Deformation(rotation=180.0),
            replace(EVERYTHING, rotation=90.0),
        ],
    )
    def test_no_source_lies_beyond_it(self, deformation):
        shape = (6, 12, 30)
        reach = deformation.reach(shape)
        lowest, highest = np.full(3, np.inf), np.full(3, -np.inf)
        for sources in draws(deformation, shape, 200):
            flat = sources.reshape(3, -1)
            lowest = np.minimum(lowest, flat.min(axis=1))
            highest = np.maximum(highest, flat.max(axis=1))
        for axis in range(3):
            beyond = max(-lowest[axis], highest[axis] - (shape[axis] - 1))
            assert beyond <= reach[axis] + 1e-4
            assert beyond > 0.3 * reach[axis] - 1  # nor is it far too large

    def test_by_hand(self):
        assert Deformation(rotation=90.0).reach((5, 9, 13)) == (0, 4, 2)  # half diagonal 7.2
        assert replace(ELASTIC, offset=5, slip=0.1).reach((5, 9, 9)) == (2, 7, 8)
        assert replace(ELASTIC, offset=5).reach((5, 9, 9)) == (2, 2, 3)

    def test_windows_stay_inside_the_volume(self, make_volume):
        """On a ramp, reading beyond the border would show as a value that turns back."""
        deformation = replace(EVERYTHING, rotation=20.0)
        for axis in range(3):
            ramp = along(axis)
            volume = make_volume(SHAPE, raw=ramp / 64, labels=(ramp + 1).astype(np.uint64))
            drawn = patches(volume, deformed(deformation), input_size=10)
            for i in range(len(drawn)):
                box = drawn[i]["raw"][0, 2:8, 2:8, 2:8].double().numpy() * 64
                assert np.abs(drawn[i]["labels"].numpy() - 1 - box).max() <= 0.5 + 1e-4
                assert drawn[i]["mask"].any()


class TestDefects:
    def sections(self, shape=(200, 9, 11)):
        return np.random.default_rng(1).random(shape, dtype=np.float32)

    def apply(self, defects, sections, seed=0):
        changed = sections.copy()
        defects.apply(changed, np.random.default_rng(seed))
        return changed

    def test_missing(self):
        sections = self.sections()
        changed = self.apply(SectionDefects(missing=0.3), sections)
        gone = (changed == 0).all(axis=(1, 2))
        np.testing.assert_array_equal(changed[~gone], sections[~gone])
        assert 40 < gone.sum() < 80

    def test_low_contrast(self):
        sections = self.sections()
        changed = self.apply(SectionDefects(low_contrast=0.3, contrast=(0.2, 0.4)), sections)
        scale = changed.std(axis=(1, 2)) / sections.std(axis=(1, 2))
        faint = scale < 0.9
        np.testing.assert_array_equal(changed[~faint], sections[~faint])
        assert 40 < faint.sum() < 80
        assert 0.2 <= scale[faint].min() < 0.23
        assert 0.37 < scale[faint].max() <= 0.4 + 1e-5
        means = sections.mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(
            changed, means + (sections - means) * scale[:, None, None], atol=1e-5
        )

    def test_blur(self):
        """Each section by a Gaussian of its own, in its plane; the widths fill the range."""
        sections = np.zeros((200, 41, 43), np.float32)
        sections[:, 20, 21] = 1
        changed = self.apply(SectionDefects(blur=0.3, blur_sd=3.0), sections)
        variance = (changed.sum(axis=2) * (np.arange(41) - 20) ** 2).sum(axis=1)
        blurred = (changed != sections).any(axis=(1, 2))
        assert 40 < blurred.sum() < 80
        assert not variance[~blurred].any()
        assert 2.7 < np.sqrt(variance.max()) <= 3.0
        np.testing.assert_allclose(changed.sum(axis=(1, 2)), 1, rtol=1e-4)

    def test_blur_sees_the_patch_reflected(self):
        texture = np.random.default_rng(0).random((3, 20, 20), dtype=np.float32)
        changed = self.apply(SectionDefects(blur=1.0, blur_sd=2.0), texture)
        found = []
        for before, after in zip(texture, changed, strict=True):
            widths = np.arange(0, 2, 0.002)
            errors = [
                np.abs(gaussian_filter(before, sd, mode="mirror") - after).max() for sd in widths
            ]
            assert min(errors) < 2e-3
            found.append(widths[np.argmin(errors)])
        assert max(found) > 1

    def test_several_at_once_and_missing_wins(self):
        sections = self.sections()
        all_of_them = SectionDefects(missing=0.3, low_contrast=0.5, blur=0.5)
        changed = self.apply(all_of_them, sections)
        gone = (changed == 0).all(axis=(1, 2))
        expected = (self.apply(SectionDefects(missing=0.3), sections) == 0).all(axis=(1, 2))
        np.testing.assert_array_equal(gone, expected)  # whatever else is on

    @pytest.mark.parametrize("swaps", ["none", "yx", "all"])
    def test_only_raw_of_the_volumes_own_sections_changes(self, make_volume, swaps):
        """z is where a grey value says it is, wherever reflections and swaps have taken it."""
        volume = make_volume(SHAPE, raw=(along(0) + 1) / 64)
        before = replace(PLAIN, reflections=True, axis_swaps=swaps, contrast=(0.9, 0.9))
        after = replace(before, defects=SectionDefects(missing=0.3))
        directions = set()
        for i in range(12):
            plain, damaged = (patches(volume, a)[i] for a in (before, after))
            assert_equal(plain, damaged, "affinities", "mask", "labels")
            here, there = plain["raw"][0].numpy(), damaged["raw"][0].numpy()
            lost = here[there == 0]
            assert len(lost) % 144 == 0  # whole sections
            assert not np.isin(np.round(here[there != 0], 4), np.round(lost, 4)).any()
            np.testing.assert_array_equal(here[there != 0], there[there != 0])
            directions.add(int(np.argmax([np.ptp(here, axis=axis).max() for axis in range(3)])))
        assert directions == ({0, 1, 2} if swaps == "all" else {0})


class TestAffinities:
    @pytest.mark.parametrize("margin", [0, 3])
    def test_longer_ones_are_those_of_the_whole_volume(self, make_volume, margin):
        """Also where the partner lies outside the patch; and none is known outside the slab."""
        offsets = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0), (0, 5, -2))
        volume = make_volume(SHAPE)
        slab = Slab(Region(volume, 6, 20), None)
        sizes = {"input_size": 4 + 2 * margin, "output_size": 4, "zero_label": "boundary"}
        cutter = PatchCutter(**sizes, offsets=offsets)
        whole, known = affinities_from_labels(slab.labels, zero_label="boundary", offsets=offsets)
        still = Augmentation(
            reflections=False, axis_swaps="none", deformation=Deformation(slip=1e-9)
        )
        for start in ((0, 0, 0), (5, 6, 4), (10, 9, 8)):
            box = (slice(None), *(slice(s, s + 4) for s in start))
            for augmentation in (None, still):
                patch = cutter.cut(slab, start, augmentation, np.random.default_rng(0))
                np.testing.assert_array_equal(patch["affinities"].numpy(), whole[box])
                np.testing.assert_array_equal(patch["mask"].numpy(), known[box])

    @pytest.mark.parametrize("zero_label", ["ignore", "boundary"])
    def test_they_are_those_of_the_labels_beside_them(self, make_volume, zero_label):
        volume = make_volume(SHAPE)
        volume.labels[::5, ::3] = 0
        augmentation = Augmentation(deformation=EVERYTHING, defects=SectionDefects(missing=0.2))
        drawn = patches(volume, augmentation, 6, 20, zero_label=zero_label)
        for i in range(len(drawn)):
            patch = drawn[i]
            labels = patch["labels"].numpy()
            affinities, mask = affinities_from_labels(labels, zero_label=zero_label)
            known = patch["mask"].numpy()
            for axis in range(3):
                here, _ = neighbours(axis)
                pairs = (axis, *here)
                np.testing.assert_array_equal(
                    patch["affinities"].numpy()[pairs][known[pairs]],
                    affinities[pairs][known[pairs]],
                )
                if zero_label == "ignore":
                    np.testing.assert_array_equal(known[pairs], mask[pairs])

    def test_labels_outside_the_slab_are_never_read_and_masked(self, make_volume):
        volume = make_volume(SHAPE)
        poisoned = replace(volume, labels=volume.labels.copy())
        poisoned.labels[:8], poisoned.labels[14:] = 2**63, 5
        options = {"zero_label": "boundary", "boundary_thickness": 1}
        clean, dirty = (
            patches(v, Augmentation(deformation=ELASTIC), 8, 14, **options)
            for v in (volume, poisoned)
        )
        for i in range(len(clean)):
            assert_equal(clean[i], dirty[i])
        # The output is as thick as the slab, and its sources reach out of it along z.
        assert any(not clean[i]["mask"].all() for i in range(len(clean)))

    def test_boundaries_stay_thick(self, make_volume):
        """Two slabs of labels, a boundary of two voxels between them, whatever moves them."""
        volume = make_volume(SHAPE, labels=(1 + (along(2) >= 17)).astype(np.uint64))
        drawn = patches(
            volume,
            deformed(replace(ELASTIC, jitter=(0, 0, 2.5))),
            zero_label="boundary",
            boundary_thickness=1,
            input_size=20,
            output_size=18,
        )
        for i in range(len(drawn)):
            labels = drawn[i]["labels"].numpy()
            before, here = labels[:, :, :-1], labels[:, :, 1:]
            assert (labels == 0).any()
            assert not ((before == 1) & (here == 2)).any()


class TestReproducible:
    EVERYWHERE = Augmentation(
        deformation=EVERYTHING, defects=SectionDefects(missing=0.1, low_contrast=0.1, blur=0.1)
    )

    def test_a_patch_is_a_function_of_seed_and_index(self, make_volume):
        volume = make_volume(SHAPE)
        drawn = patches(volume, self.EVERYWHERE)
        forwards = [drawn[i] for i in range(6)]
        for i in (4, 1, 5):
            assert_equal(drawn[i], forwards[i])
            assert_equal(patches(volume, self.EVERYWHERE, length=99)[i], forwards[i])
        other = patches(volume, self.EVERYWHERE, seed=8)
        assert all(not torch.equal(other[i]["raw"], forwards[i]["raw"]) for i in range(6))

    def test_workers_change_nothing(self, make_volume):
        drawn = patches(make_volume(SHAPE), self.EVERYWHERE, length=4)
        alone, shared = DataLoader(drawn), DataLoader(drawn, num_workers=2)
        for first, second in zip(alone, shared, strict=True):
            assert_equal(first, second)

    def test_what_is_switched_on_changes_nothing_else(self, make_volume):
        volume = make_volume(SHAPE)
        volume.raw[volume.raw == 0] = 1  # black is what is missing
        region, options = Region(volume), {"reflections": True, "axis_swaps": "all"}
        for seed in range(5):
            both, moved, damaged = (
                cut_at(region, (12, 14, 13), replace(PLAIN, **options, **parts), seed)
                for parts in (
                    {"deformation": ELASTIC, "defects": SectionDefects(missing=0.3)},
                    {"deformation": ELASTIC},
                    {"defects": SectionDefects(missing=0.3)},
                )
            )
            assert_equal(both, moved, "affinities", "mask", "labels")
            gone = both["raw"] == 0
            assert torch.equal(both["raw"][~gone], moved["raw"][~gone])
            assert torch.equal(gone, damaged["raw"] == 0)  # of the same sections

    def test_the_elastic_field_stays_when_sections_move(self):
        for seed in range(5):
            alone, together = (
                d.draw((12, 14, 16), np.random.default_rng(seed))
                for d in (ELASTIC, replace(ELASTIC, offset=3, slip=0.5))
            )
            difference = together - alone
            np.testing.assert_allclose(difference, np.round(difference), atol=1e-5)
            assert not difference[0].any()


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"spacing": (40, 40)}, r"spacing=\[40, 40\]: must be three"),
            ({"spacing": (0, 40, 40)}, "spacing"),
            ({"spacing": (1.5, 40, 40)}, "whole numbers"),
            ({"jitter": (1.0, 1.0)}, "jitter=.*three"),
            ({"jitter": (-1.0, 0, 0)}, "≥ 0"),
            ({"jitter": (0, float("nan"), 0)}, "finite"),
            ({"jitter": (0, 0, 16.1)}, r"more than 0.4 of spacing=\(40, 40, 40\) can fold"),
            ({"rotation": -1.0}, "rotation=-1.0: must lie in"),
            ({"rotation": 181.0}, "rotation"),
            ({"offset": 0}, "offset=0: .*≥ 1"),
            ({"offset": 1.5}, "offset"),
            ({"slip": 1.1}, "slip=1.1: must lie in"),
            ({"shift": float("nan")}, "shift"),
            ({"slip": 0.6, "shift": 0.6}, "together with shift=0.6"),
        ],
    )
    def test_deformation(self, change, problem):
        with pytest.raises(ConfigError, match=problem):
            Deformation(**change)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"missing": -0.1}, "missing=-0.1: must lie in"),
            ({"low_contrast": 2.0}, "low_contrast"),
            ({"blur": float("nan")}, "blur"),
            ({"contrast": (0.5, 0.1)}, r"contrast=\[0.5, 0.1\]: must be \[low, high\]"),
            ({"contrast": (0.5, 1.5)}, "contrast"),
            ({"contrast": (0.5,)}, "contrast"),
            ({"blur_sd": -1.0}, "blur_sd=-1.0"),
            ({"blur_sd": float("inf")}, "finite"),
        ],
    )
    def test_defects(self, change, problem):
        with pytest.raises(ConfigError, match=problem):
            SectionDefects(**change)

    def test_turning_needs_equal_voxels(self, make_volume):
        turning = replace(PLAIN, deformation=Deformation(rotation=5.0))
        thick = make_volume(SHAPE, voxel_size=(40.0, 4.0, 4.0))
        assert patches(thick, turning)[0]
        with pytest.raises(ConfigError, match=r"cremi are \(4.0, 4.0, 8.0\) nm"):
            patches(make_volume(SHAPE, voxel_size=(4.0, 4.0, 8.0), name="cremi"), turning)
