"""Training pairs: where they are cut, what they say; patch i is a function of (seed, i)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from psc.em.augmentation import Augmentation
from psc.em.data import Region, read_volume
from psc.em.patches import AffinityPatches, PatchCutter, Slab, ValidationPatches
from psc.errors import ConfigError, DataError
from psc.volumes.tiling import size_triple


def training(regions, **changes):
    options = {"input_size": 10, "output_size": 4, "seed": 1, "length": 60}
    return AffinityPatches(regions, **(options | changes))


def validation(regions, **changes):
    return ValidationPatches(regions, **({"input_size": 10, "output_size": 4} | changes))


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def coordinates(shape):
    """Raw data that tell where they were cut from: voxel number, scaled to [0, 1]."""
    size = np.prod(shape)
    return (np.arange(size, dtype=np.float64) / size).reshape(shape)


def origin(patch, shape):
    """Where the input window of a plain patch begins, for raw data made by ``coordinates``."""
    first = patch["raw"][0, 0, 0, 0].double().item()
    return np.unravel_index(round(first * np.prod(shape)), shape)


class TestDeterminism:
    def test_a_patch_depends_on_seed_and_index_only(self, make_volume):
        region = Region(make_volume())
        patches = training([region], augmentation=Augmentation())
        forwards = [patches[i] for i in range(10)]
        for i in (7, 2, 9):
            assert_equal(patches[i], forwards[i])
            assert_equal(training([region], augmentation=Augmentation(), length=99)[i], forwards[i])
        other = training([region], augmentation=Augmentation(), seed=2)
        assert all(not torch.equal(other[i]["raw"], forwards[i]["raw"]) for i in range(10))
        assert len({patch["raw"].numpy().tobytes() for patch in forwards}) == 10

    def test_workers_change_nothing(self, make_volume):
        patches = training([Region(make_volume())], augmentation=Augmentation(), length=6)
        alone, shared = DataLoader(patches), DataLoader(patches, num_workers=2)
        for first, second in zip(alone, shared, strict=True):
            assert_equal(first, second)

    def test_very_long_data_sets(self, make_volume):
        patches = training([Region(make_volume())], length=2**62)
        assert len(patches) == 2**62
        assert patches[2**62 - 1]["raw"].shape == (1, 10, 10, 10)

    @pytest.mark.parametrize("index", [-1, 60])
    def test_no_other_index(self, make_volume, index):
        with pytest.raises(IndexError, match=f"patch {index} of 60"):
            training([Region(make_volume())])[index]


class TestPositions:
    SHAPE = (20, 14, 16)

    def test_every_position_where_the_window_fits_is_used_equally(self, make_volume):
        volume = make_volume(self.SHAPE, raw=coordinates(self.SHAPE))
        patches = training([Region(volume, 4, 12)], length=3000)
        starts = np.array([origin(patches[i], self.SHAPE) for i in range(len(patches))])
        # Output box = window + 3 … + 7: inside z = 4 … 12, window inside the volume.
        for axis, (low, high) in enumerate([(1, 5), (0, 4), (0, 6)]):
            values, counts = np.unique(starts[:, axis], return_counts=True)
            assert values.tolist() == list(range(low, high + 1))
            assert counts.min() > 0.8 * counts.mean()
            assert counts.max() < 1.2 * counts.mean()

    def test_regions_are_drawn_by_their_positions(self, make_volume):
        # 2·1·1 and 6·1·1 positions
        small = make_volume((11, 10, 10), raw=np.zeros((11, 10, 10), np.uint8))
        large = make_volume((15, 10, 10), raw=np.full((15, 10, 10), 255, np.uint8))
        patches = training([Region(small), Region(large)], length=800)
        share = np.mean([patches[i]["raw"].mean() for i in range(800)])
        assert share == pytest.approx(0.75, abs=0.05)

    def test_reflection_where_the_window_does_not_fit(self, make_volume):
        volume = make_volume((20, 7, 16))
        patches = training([Region(volume)])
        for i in range(20):
            raw = patches[i]["raw"][0]
            # y = -3 … 7 with the output at y = 0 … 3, so plane 3 is the axis of reflection, or
            # the output begins at 1, 2 or 3.
            reflected = [torch.equal(raw[:, k - 1], raw[:, k + 1]) for k in range(1, 9)]
            assert any(reflected)

    def test_a_slab_at_the_border_is_reflected_rather_than_empty(self, make_volume):
        volume = make_volume(self.SHAPE, raw=coordinates(self.SHAPE))
        patches = training([Region(volume, 0, 4)])
        raw = patches[0]["raw"][0]
        torch.testing.assert_close(raw[:3], raw[4:7].flip(0))
        assert patches[0]["mask"][1:].all()
        assert not patches[0]["mask"][0, 0].any()

    def test_without_context_the_slab_is_all_there_is(self, make_volume):
        volume = make_volume(self.SHAPE)
        other = replace(volume, raw=volume.raw.copy())
        other.raw[:4] = other.raw[12:] = 0
        inside = [Region(v, 4, 12, raw_context=False) for v in (volume, other)]
        across = [Region(v, 4, 12) for v in (volume, other)]
        for i in range(10):
            assert_equal(*(training([region])[i] for region in inside))
        assert any(
            not torch.equal(*(training([region])[i]["raw"] for region in across)) for i in range(10)
        )


class TestLabels:
    @pytest.mark.parametrize("zero_label", ["ignore", "boundary"])
    def test_labels_outside_the_slab_are_never_read(self, make_volume, zero_label):
        volume = make_volume()
        poisoned = replace(volume, labels=volume.labels.copy())
        poisoned.labels[:6] = np.random.default_rng(9).integers(0, 9, poisoned.labels[:6].shape)
        poisoned.labels[12:] = 2**63
        options = {"zero_label": zero_label}
        if zero_label == "boundary":
            options["boundary_thickness"] = 2
        for make, more in (
            (training, {"augmentation": Augmentation()}),
            (validation, {"output_size": 8}),
        ):
            clean, dirty = (make([Region(v, 6, 12)], **options, **more) for v in (volume, poisoned))
            for i in range(min(len(clean), 40)):
                assert_equal(clean[i], dirty[i])

    @pytest.mark.parametrize("slab", [(0, None), (6, 11)])
    def test_affinities_of_augmented_patches(self, make_volume, slab):
        """Undo nothing: cut plainly, transform labels, and take affinities pair by pair."""
        shape = (20, 20, 20)
        volume = make_volume(shape, raw=coordinates(shape))
        volume.labels[::4, 1::5, ::3] = 0
        augmentation = Augmentation(contrast=(1, 1), brightness=(0, 0))
        patches = training([Region(volume, *slab)], augmentation=augmentation, length=200)
        inside = volume.labels.astype(np.int64)
        inside[: slab[0]] = inside[slab[1] or 20 :] = -1  # unknown
        voxel = np.arange(8000).reshape(shape)
        seen = set()
        for i in range(len(patches)):
            patch = patches[i]
            numbers = (patch["raw"][0].double() * 8000).round().long().numpy()
            np.testing.assert_array_equal(np.sort(numbers, None), np.unique(numbers))
            labels = inside.reshape(-1)[voxel.reshape(-1)[numbers]]
            for channel in range(3):
                here = labels[3:7, 3:7, 3:7]
                before = np.roll(labels, 1, axis=channel)[3:7, 3:7, 3:7]
                known = (here > 0) & (before > 0)
                np.testing.assert_array_equal(patch["mask"][channel], known)
                np.testing.assert_array_equal(
                    patch["affinities"][channel].numpy()[known], (here == before)[known]
                )
            steps = [int(numbers[tuple(e)] - numbers[0, 0, 0]) for e in np.eye(3, dtype=int)]
            seen.add(tuple(steps))
        assert len(seen) > 40  # of 48 symmetries, in 200 patches

    def test_intensity_changes_raw_only(self, make_volume):
        region = Region(make_volume())
        plain = Augmentation(
            reflections=False, axis_swaps="none", contrast=(1, 1), brightness=(0, 0)
        )
        bright = replace(plain, brightness=(0.1, 0.1))
        for i in range(5):
            first, second, third = (
                training([region], augmentation=a)[i] for a in (None, plain, bright)
            )
            torch.testing.assert_close(first, second)
            torch.testing.assert_close(first["raw"] + 0.1, third["raw"])
            assert torch.equal(first["affinities"], third["affinities"])


class TestSizes:
    def test_anisotropic_sizes(self, make_volume):
        patches = training(
            [Region(make_volume((6, 18, 16)))],
            input_size=(4, 12, 10),
            output_size=(2, 6, 6),
            augmentation=Augmentation(axis_swaps="none"),
        )
        patch = patches[0]
        assert patch["raw"].shape == (1, 4, 12, 10)
        assert patch["affinities"].shape == patch["mask"].shape == (3, 2, 6, 6)

    def test_yx_swaps_need_equal_y_and_x_only(self, make_volume):
        options = {"input_size": (4, 10, 10), "output_size": (2, 6, 6)}
        region = Region(make_volume())
        assert training([region], augmentation=Augmentation(axis_swaps="yx"), **options)[0]
        with pytest.raises(ConfigError, match=r"input size \(4, 10, 10\).*'yx' or 'none'"):
            training([region], augmentation=Augmentation(), **options)

    def test_swaps_need_equal_voxels(self, make_volume):
        region = Region(make_volume(voxel_size=(40.0, 4.0, 4.0), name="cremi"))
        with pytest.raises(ConfigError, match=r"cremi are \(40.0, 4.0, 4.0\) nm"):
            training([region], augmentation=Augmentation())
        assert training([region], augmentation=Augmentation(axis_swaps="yx"))[0]

    def test_a_slab_thinner_than_the_output(self, make_volume):
        region = Region(make_volume(name="fib"), 5, 8)
        with pytest.raises(DataError, match=r"fib\[5:8\]: .*\(3, 18, 16\).*\(4, 4, 4\)"):
            training([region])

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"input_size": 11}, "every difference even"),
            ({"output_size": [4, 4]}, r"output_size=\[4, 4\]: must be one or three"),
        ],
    )
    def test_errors(self, make_volume, change, problem):
        with pytest.raises(ConfigError, match=problem):
            training([Region(make_volume())], **change)


class TestValidation:
    def test_the_boxes_cover_the_slab(self, make_volume):
        shape = (20, 14, 16)
        volume = make_volume(shape, raw=coordinates(shape))
        patches = validation([Region(volume, 3, 13)])
        covered = np.zeros(shape, bool)
        for i in range(len(patches)):
            # every input window but those at the border lies inside; read the centre voxel
            centre = patches[i]["raw"][0, 3, 3, 3].double().item()
            z, y, x = np.unravel_index(round(centre * covered.size), shape)
            covered[z : z + 4, y : y + 4, x : x + 4] = True
        assert covered[3:13].all()
        assert covered.sum() == covered[3:13].sum()
        assert len(patches) == 3 * 4 * 4

    def test_plain_crops_at_known_places(self, make_volume):
        volume = make_volume((8, 8, 8))
        patches = validation([Region(volume)], input_size=4)
        assert len(patches) == 8
        for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
            box = (slice(4 * z, 4 * z + 4), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            np.testing.assert_allclose(
                patches[i]["raw"][0], volume.raw[box] / np.float32(255), rtol=1e-6
            )
            assert_equal(patches[i], validation([Region(volume)], input_size=4)[i])

    def test_a_thin_slab_is_centred_and_masked(self, make_volume):
        patches = validation([Region(make_volume(), 8, 10)], output_size=6)
        mask = patches[0]["mask"].numpy()
        # slices 6 … 11, known 8 and 9; along z the predecessor must be known too
        assert mask[1, :, 1:].any(axis=(1, 2)).tolist() == [False, False, True, True, False, False]
        assert mask[0].any(axis=(1, 2)).tolist() == [False, False, False, True, False, False]

    @pytest.mark.parametrize(("maximum", "expected"), [(1, 1), (5, 5), (48, 48), (1000, 48)])
    def test_at_most_so_many(self, make_volume, maximum, expected):
        region = Region(make_volume((20, 14, 16)), 3, 13)
        chosen, everything = validation([region], maximum=maximum), validation([region])
        assert len(chosen) == expected
        assert_equal(chosen[0], everything[0])
        if expected > 1:
            assert_equal(chosen[expected - 1], everything[47])
        images = {chosen[i]["raw"].numpy().tobytes() for i in range(expected)}
        assert len(images) == expected

    def test_several_regions(self, make_volume):
        regions = [Region(make_volume((8, 8, 8), seed=s)) for s in (1, 2)]
        both = validation(regions)
        assert len(both) == 16
        assert_equal(both[8], validation(regions[1:])[0])

    def test_errors(self, make_volume):
        with pytest.raises(IndexError, match="patch -1 of"):
            validation([Region(make_volume())])[-1]


@pytest.mark.sample
def test_the_papers_patch_size_on_real_data(sample_em):
    volume = read_volume(sample_em / "fib25" / "training_sample2_z000-207.h5")
    patches = AffinityPatches(
        [Region(volume, 0, 166)],
        input_size=132,
        output_size=44,
        seed=0,
        length=4,
        augmentation=Augmentation(),
    )
    for i in range(4):
        patch = patches[i]
        assert patch["raw"].shape == (1, 132, 132, 132)
        assert patch["mask"].float().mean() > 0.99
        assert 0.85 < patch["affinities"].mean() < 1
        # membranes, where affinities are 0, are darker than the insides of cells
        centre = patch["raw"][0, 44:88, 44:88, 44:88]
        border = (patch["affinities"] == 0).any(dim=0)
        assert centre[border].mean() < centre[~border].mean() - 0.04


class TestCutter:
    def cut(self, volume, start, slab=(0, None), context=True, **options):
        options = {"input_size": (8, 8, 8), "output_size": (4, 4, 4)} | options
        cutter = PatchCutter(**options)
        return cutter.cut(Slab(Region(volume, *slab, raw_context=context), None), start)

    def test_raw_is_the_window_around_the_box(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (3, 5, 7), slab=(6, 16), input_size=(8, 10, 6))
        expected = volume.raw[6 + 1 : 6 + 9, 2:12, 6:12] / np.float32(255)
        np.testing.assert_allclose(patch["raw"][0], expected, rtol=1e-6)

    def test_context_comes_from_across_the_border_or_is_reflected_there(self, make_volume):
        volume = make_volume()
        across = self.cut(volume, (0, 5, 5), slab=(6, 16))
        np.testing.assert_allclose(
            across["raw"][0], volume.raw[4:12, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )
        reflected = self.cut(volume, (0, 5, 5), slab=(6, 16), context=False)
        rows = [8, 7, *range(6, 12)]
        np.testing.assert_allclose(
            reflected["raw"][0], volume.raw[rows, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )

    def test_beyond_the_volume_it_is_reflected(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (0, 5, 5))
        rows = [2, 1, *range(6)]
        np.testing.assert_allclose(
            patch["raw"][0], volume.raw[rows, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )

    @pytest.mark.parametrize("zero_label", ["ignore", "boundary"])
    def test_affinities_and_mask_voxel_by_voxel(self, make_volume, zero_label):
        volume = make_volume()
        volume.labels[::3, ::2, ::5] = 0
        # The box sticks out of the slab on both sides along z and on one side along x.
        shape, start = (8, 4, 6), (-2, 5, 13)
        patch = self.cut(
            volume,
            start,
            slab=(6, 10),
            input_size=(10, 6, 8),
            output_size=shape,
            zero_label=zero_label,
        )
        slab = volume.labels[6:10]

        def label(position):
            inside = all(0 <= p < n for p, n in zip(position, slab.shape, strict=True))
            return int(slab[tuple(position)]) if inside else None

        for channel, *position in np.ndindex(3, *shape):
            here = np.array(start) + position
            before = here - np.eye(3, dtype=int)[channel]
            pair = label(here), label(before)
            known = None not in pair and (zero_label == "boundary" or 0 not in pair)
            assert patch["mask"][channel, *position] == known
            if known:
                expected = pair[0] == pair[1] and 0 not in pair
                assert patch["affinities"][channel, *position] == expected

    def test_labels_are_those_behind_the_affinities(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (-1, 5, 5), slab=(6, 16), zero_label="boundary")
        assert patch["labels"].shape == (4, 4, 4)
        assert (patch["labels"][0] == 0).all()
        truth = volume.labels[6:9, 5:9, 5:9]
        pairs = np.unique(np.stack([patch["labels"][1:].numpy(), truth]).reshape(2, -1), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]

    @pytest.mark.parametrize("thickness", [1, 2])
    def test_thickening_sees_beyond_the_box_but_not_beyond_the_slab(self, make_volume, thickness):
        volume = make_volume((20, 16, 16))
        volume.labels[:8] = 1
        volume.labels[8:] = 2  # a border between z = 7 and z = 8
        options = {"zero_label": "boundary", "boundary_thickness": thickness}
        # Outputs z = 4 … 7, the border just outside: the last planes become boundary.
        patch = self.cut(volume, (4, 5, 5), **options)
        zero = (patch["labels"] == 0).numpy().all(axis=(1, 2))
        assert zero.tolist() == [4 + z >= 8 - thickness for z in range(4)]
        # The slab ends at the border: nothing is known of another body.
        patch = self.cut(volume, (4, 5, 5), slab=(0, 8), **options)
        assert (patch["labels"] != 0).all()
        assert patch["affinities"].all()
        assert patch["mask"].all()

    def test_dtypes_and_shapes(self, make_volume):
        patch = self.cut(make_volume(), (0, 0, 0), input_size=(8, 10, 6), output_size=(2, 4, 6))
        assert {name: (str(t.dtype), tuple(t.shape)) for name, t in patch.items()} == {
            "raw": ("torch.float32", (1, 8, 10, 6)),
            "affinities": ("torch.float32", (3, 2, 4, 6)),
            "mask": ("torch.bool", (3, 2, 4, 6)),
            "labels": ("torch.int32", (2, 4, 6)),
        }
        assert all(tensor.is_contiguous() for tensor in patch.values())

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"input_size": (8, 9, 8)}, r"\(4, 4, 4\) must .* input size \(8, 9, 8\)"),
            ({"input_size": (8, 2, 8)}, "every difference even and not negative"),
            ({"zero_label": "unknown"}, "'ignore' or 'boundary', found 'unknown'"),
            ({"boundary_thickness": -1, "zero_label": "boundary"}, "at least 0 voxels, found -1"),
        ],
    )
    def test_errors(self, make_volume, options, problem):
        with pytest.raises(ConfigError, match=problem):
            self.cut(make_volume(), (0, 0, 0), **options)


class TestSlab:
    def test_labels_are_dense_and_of_the_slab_only(self, make_volume):
        volume = make_volume()
        slab = Slab(Region(volume, 4, 8), None)
        assert slab.labels.dtype == np.int32
        assert slab.labels.shape == (4, 18, 16)
        assert slab.labels.max() == len(np.unique(volume.labels[4:8]))
        assert not np.shares_memory(slab.labels, volume.labels)
        assert np.shares_memory(slab.raw, volume.raw)

    def test_grey_values_without_known_scale(self, make_volume):
        volume = make_volume(dtype=np.int16, name="fib")
        with pytest.raises(DataError, match=r"fib\[0:20\]: raw is int16.*intensity_range"):
            Slab(Region(volume), None)
        assert Slab(Region(volume), (0, 255)).raw is volume.raw

    def test_one_bad_plane_of_floats_is_found(self, make_volume):
        raw = np.zeros((20, 18, 16), np.float32)
        raw[17, 3, 3] = 1.5
        with pytest.raises(DataError, match=r"fib\[0:20\]: .*1.5, expected \[0, 1\]"):
            Slab(Region(make_volume(raw=raw, name="fib")), None)


def test_size_triple():
    assert size_triple(5, "input_size") == (5, 5, 5)
    assert size_triple([1, 2, 3], "input_size") == (1, 2, 3)
    for bad in (0, -1, [1, 2], [1, 2, 3, 4], [1, 2.5, 3], [1, 0, 3], True):
        with pytest.raises(ConfigError, match=r"input_size=.*: must be one or three positive"):
            size_triple(bad, "input_size")
