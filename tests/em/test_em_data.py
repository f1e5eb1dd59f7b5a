"""From configuration to regions: what is read, how often, and what a record says of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from psc.config import compose
from psc.em.augmentation import Augmentation
from psc.em.data import AffinityPatches, ValidationPatches, locate, prepare_synthetic, read_splits
from psc.errors import ConfigError, DataError
from psc.volumes.labelled import Region, read_volume


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
            ({"length": 0}, "length >= 1"),
            ({"seed": -1}, "seed >= 0"),
            ({"input_size": 11}, "every difference even"),
            ({"output_size": [4, 4]}, "output_size must be one or three"),
            ({"boundary_thickness": 1}, "zero_label = 'boundary'"),
        ],
    )
    def test_errors(self, make_volume, change, problem):
        with pytest.raises(ConfigError, match=problem):
            training([Region(make_volume())], **change)

    def test_no_regions(self):
        for make in (training, validation):
            with pytest.raises(ConfigError, match="at least one"):
                make([])


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
        with pytest.raises(ConfigError, match="maximum must be at least 1"):
            validation([Region(make_volume())], maximum=0)
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


def test_a_volume_in_three_slabs_is_read_once(tiny_run):
    splits = read_splits(compose(tiny_run).dataset)
    assert splits.train[0].volume is splits.validation[0].volume is splits.test[0].volume
    assert [part[0].shape[0] for part in (splits.train, splits.validation, splits.test)] == [
        24,
        12,
        12,
    ]
    record = splits.record()
    assert record["kind"] == "real"
    assert record["splits"]["test"] == [str(splits.test[0])]
    assert len(record["files"]) == 1


def test_a_synthetic_volume_marks_everything_that_it_touches(tmp_path, tiny_run, monkeypatch):
    paths = {name: tmp_path / f"{name}.h5" for name in ("train", "validation", "test")}
    overrides = ["dataset=fibsem_synthetic"]
    for i, (name, path) in enumerate(paths.items()):
        overrides.append(f"dataset.{name}=[{{raw:{path},synthetic:{{shape:[20,24,28],seed:{i}}}}}]")
    dataset = compose(overrides).dataset
    prepare_synthetic(dataset)
    splits = read_splits(dataset)
    assert splits.kind == "synthetic"
    assert splits.test[0].shape == (20, 24, 28)
    # Read as the user's own file, under another data set's name: still synthetic.
    disguised = compose(
        ["dataset=fibsem", *(f"dataset.{name}=[{{raw:{path}}}]" for name, path in paths.items())]
    ).dataset
    assert read_splits(disguised).kind == "synthetic"


def test_a_sample_is_not_the_whole_data_set(tiny_run):
    dataset = compose([*tiny_run, "dataset.sample=true"]).dataset
    assert read_splits(dataset).kind == "real sample"


@pytest.mark.sample
def test_the_real_sample(sample_data):
    splits = read_splits(compose(["dataset=fibsem_sample"]).dataset)
    assert splits.kind == "real sample"
    assert [part[0].shape for part in (splits.train, splits.validation, splits.test)] == [
        (140, 250, 250),
        (26, 250, 250),
        (42, 250, 250),
    ]
    assert splits.train[0].volume.raw.dtype == np.uint8


def test_paths_expand_variables_and_name_the_missing_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert locate("$SOMEWHERE/x.h5") == tmp_path / "x.h5"
    with pytest.raises(DataError, match=r"\$NOT_SET_AT_ALL.*environment variable"):
        locate("$NOT_SET_AT_ALL/x.h5")


def test_volumes_without_labels_are_refused(tiny_run, tmp_path):
    import h5py

    path = tmp_path / "raw_only.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = np.random.default_rng(0).integers(0, 255, (24, 40, 40), np.uint8)
    dataset = compose([*tiny_run, f"dataset.train=[{{raw:{path}}}]"]).dataset
    with pytest.raises(DataError, match="has no labels"):
        read_splits(dataset)
