"""EM volumes with labels as they are published, slabs of them, and what a record says."""

import hashlib
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from psc.config import compose
from psc.em.application import AffinityApplication
from psc.em.data import (
    Region,
    bodies_from_supervoxels,
    check_disjoint,
    prepare_synthetic,
    read_splits,
    read_volume,
)
from psc.errors import ConfigError, DataError
from psc.files import locate
from psc.training.folder import config_hash

RNG = np.random.default_rng(0)
RAW = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (4, 6, 5), dtype=np.int64)
SUPERVOXELS = np.array([[1, 10], [2, 20], [3, 10]])
BODIES = np.array([0, 10, 20, 10], dtype=np.uint64)[LABELS]


def write(path, file_attributes=None, resolution=None, **datasets):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(file_attributes or {})
        for key, values in datasets.items():
            dataset = file.create_dataset(key.replace("__", "/"), data=values)
            if resolution is not None:
                dataset.attrs["resolution"] = resolution
    return path


def write_pngs(folder, raw=RAW):
    folder.mkdir(parents=True)
    for z, plane in enumerate(raw, start=98):  # 98, 99, 100, 101
        Image.fromarray(plane).save(folder / f"iso.{z}.png")
    return folder


def cremi(path, **more):
    return write(
        path, resolution=(40, 4, 4), volumes__raw=RAW, volumes__labels__neuron_ids=LABELS, **more
    )


def record(path):
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": path.name, "bytes": len(content), "sha256": sha256}


class TestLayouts:
    def test_cremi(self, tmp_path):
        path = cremi(tmp_path / "sample_A.h5")
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, LABELS)
        assert volume.raw.dtype == np.uint8
        assert volume.labels.dtype == np.uint64
        assert volume.voxel_size == (40, 4, 4)
        assert volume.name == "sample_A"
        assert not volume.synthetic
        assert volume.files == (record(path),)

    def test_fib25_folder_applies_the_map(self, tmp_path):
        folder = tmp_path / "tstvol"
        raw = write(folder / "raw.h5", raw=RAW)
        truth = write(folder / "groundtruth.h5", stack=LABELS, transforms=SUPERVOXELS)
        volume = read_volume(folder)
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, BODIES)
        assert volume.voxel_size is None
        assert volume.name == "tstvol"
        assert volume.files == (record(raw), record(truth))

    def test_fib25_files(self, tmp_path):
        raw = write(tmp_path / "training_sample2" / "grayscale_maps.h5", raw=RAW)
        truth = write(tmp_path / "truth.h5", stack=LABELS, transforms=SUPERVOXELS)
        volume = read_volume(raw, truth)
        np.testing.assert_array_equal(volume.labels, BODIES)
        assert volume.name == "training_sample2"

    def test_a_map_behind_a_link_is_applied(self, tmp_path):
        write(tmp_path / "maps.h5", map=SUPERVOXELS)
        truth = write(tmp_path / "groundtruth.h5", stack=LABELS)
        with h5py.File(truth, "a") as file:
            file["transforms"] = h5py.ExternalLink("maps.h5", "/map")
        raw = write(tmp_path / "raw.h5", raw=RAW)
        np.testing.assert_array_equal(read_volume(raw, truth).labels, BODIES)
        (tmp_path / "maps.h5").unlink()
        with pytest.raises(DataError, match=r"transforms is a link to /map in maps\.h5"):
            read_volume(raw, truth)

    def test_labels_behind_a_link_are_labels(self, tmp_path):
        write(tmp_path / "big.h5", em=RAW, ids=LABELS)
        with h5py.File(tmp_path / "master.h5", "w") as file:
            file["volumes/raw"] = h5py.ExternalLink("big.h5", "/em")
            file["volumes/labels"] = h5py.SoftLink("/of")
            file["of/neuron_ids"] = h5py.ExternalLink("big.h5", "/ids")
        volume = read_volume(tmp_path / "master.h5")
        np.testing.assert_array_equal(volume.labels, LABELS)
        assert volume.files == (record(tmp_path / "big.h5"),)
        with h5py.File(tmp_path / "master.h5", "a") as file:
            del file["of/neuron_ids"]
            file["of/neuron_ids"] = h5py.ExternalLink("gone.h5", "/ids")
        with pytest.raises(DataError, match=r"neuron_ids is a link to /ids in gone\.h5"):
            read_volume(tmp_path / "master.h5")  # never silently unlabelled

    def test_gala_has_no_map(self, tmp_path):
        raw = write(tmp_path / "train-image.h5", stack=RAW)
        volume = read_volume(raw, write(tmp_path / "gt.h5", stack=LABELS.astype(np.int32)))
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, LABELS)
        assert volume.labels.dtype == np.uint64

    def test_neuroproof(self, tmp_path):
        write_pngs(tmp_path / "training" / "grayscale_maps")
        path = tmp_path / "training" / "groundtruth.h5"
        truth = write(path, stack=LABELS, transforms=SUPERVOXELS)
        volume = read_volume(tmp_path / "training")
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, BODIES)
        assert [file["name"] for file in volume.files] == ["grayscale_maps/*.png", truth.name]

    def test_slices_of_grey_values_and_of_labels(self, tmp_path):
        folder = write_pngs(tmp_path / "slices")
        truth = write(tmp_path / "gt.h5", mine=LABELS, yours=LABELS)
        volume = read_volume(folder, truth, labels_key="mine")
        np.testing.assert_array_equal(volume.labels, LABELS)
        painted = write_pngs(tmp_path / "painted", LABELS.astype(np.uint16))
        np.testing.assert_array_equal(read_volume(folder, painted).labels, LABELS)

    @pytest.mark.parametrize("version", [2, 3])
    def test_zarr_is_read_as_hdf5_is(self, tmp_path, version):
        group = zarr.open_group(str(tmp_path / "em.zarr"), mode="w", zarr_format=version)
        group.create_array("volumes/raw", data=RAW)
        ids = group.create_array("volumes/labels/neuron_ids", data=LABELS)
        ids.attrs["resolution"] = [40, 4, 4]
        volume = read_volume(tmp_path / "em.zarr")
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, LABELS)
        assert (volume.voxel_size, volume.name) == ((40, 4, 4), "em")
        names = ["em.zarr/volumes/raw", "em.zarr/volumes/labels/neuron_ids"]
        assert [file["name"] for file in volume.files] == names
        raw = write(tmp_path / "raw.h5", raw=RAW)
        np.testing.assert_array_equal(read_volume(raw, tmp_path / "em.zarr").labels, LABELS)

    def test_labels_of_an_ome_zarr_lie_beside_its_image(self, tmp_path):
        level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [30, 8, 8]}]}
        axes = [{"name": n, "type": "space", "unit": "nm"} for n in "zyx"]
        described = {"ome": {"multiscales": [{"axes": axes, "datasets": [level]}]}}
        group = zarr.open_group(str(tmp_path / "em.zarr"), mode="w", attributes=described)
        group.create_array("0", data=RAW)
        neurons = group.create_group("labels/neurons", attributes=described)
        neurons.create_array("0", data=LABELS)
        volume = read_volume(tmp_path / "em.zarr")
        np.testing.assert_array_equal(volume.raw, RAW)
        np.testing.assert_array_equal(volume.labels, LABELS)
        assert volume.voxel_size == (30, 8, 8)

    def test_any_keys(self, tmp_path):
        raw = write(tmp_path / "em.h5", em__grey=RAW, em__ids=LABELS, em__transforms=SUPERVOXELS)
        volume = read_volume(raw, raw_key="em/grey", labels_key="em/ids")
        np.testing.assert_array_equal(volume.labels, BODIES)
        assert len(volume.files) == 1

    def test_the_only_volume_of_a_file_needs_no_key(self, tmp_path):
        raw = write(tmp_path / "raw.h5", em__grey=RAW)
        truth = write(tmp_path / "gt.h5", em__ids=LABELS, em__transforms=SUPERVOXELS)
        np.testing.assert_array_equal(read_volume(raw, truth).labels, BODIES)

    def test_labels_key_in_a_folder_means_its_labels_file(self, tmp_path):
        write(tmp_path / "v" / "raw.h5", raw=RAW)
        write(tmp_path / "v" / "groundtruth.h5", stack=0 * LABELS, proofread=LABELS)
        volume = read_volume(tmp_path / "v", labels_key="proofread")
        np.testing.assert_array_equal(volume.labels, LABELS)

    def test_synthetic_files_say_so(self, tmp_path):
        marked = cremi(tmp_path / "a.h5", file_attributes={"synthetic": True})
        assert read_volume(marked).synthetic
        raw = write(tmp_path / "raw.h5", raw=RAW)
        assert read_volume(raw, marked).synthetic

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
    def test_raw_keeps_its_dtype(self, tmp_path, dtype):
        path = write(tmp_path / "a.h5", raw=RAW.astype(dtype), labels=LABELS)
        volume = read_volume(path)
        assert volume.raw.dtype == dtype
        np.testing.assert_array_equal(volume.raw, RAW)


class TestLabelsOfAPart:
    """CREMI's padded files: labels are of a part of raw, which their offset places."""

    def files(self, folder, offset, labels=LABELS[1:3, 2:5, :4], **of_raw):
        raw = write(folder / "raw.h5", raw=RAW, resolution=(40, 4, 4))
        truth = write(folder / "gt.h5", labels=labels, resolution=(40, 4, 4))
        for path, key, value in ((raw, "raw", of_raw.get("raw")), (truth, "labels", offset)):
            if value is not None:
                with h5py.File(path, "a") as file:
                    file[key].attrs["offset"] = value
        return raw, truth

    @pytest.mark.parametrize(
        ("of_raw", "offset"),
        [(None, (40, 8, 0)), ((1000, -8, 4), (1040, 0, 4)), (None, (40, 8.0001, 0))],
    )
    def test_leave_that_part(self, tmp_path, of_raw, offset):
        volume = read_volume(*self.files(tmp_path, offset, raw=of_raw))
        region = Region(volume)
        np.testing.assert_array_equal(region.raw, RAW[1:3, 2:5, :4])
        np.testing.assert_array_equal(region.labels, LABELS[1:3, 2:5, :4])
        assert (region.first, region.shape) == ((1, 2, 0), (2, 3, 4))
        assert volume.offset == (of_raw or (0, 0, 0))
        np.testing.assert_array_equal(volume.raw, RAW)  # of a small volume all is context

    def test_sections_are_those_of_raw(self, tmp_path):
        volume = read_volume(*self.files(tmp_path, (40, 8, 0)))
        np.testing.assert_array_equal(Region(volume, 2, 3).raw, RAW[2:3, 2:5, :4])
        np.testing.assert_array_equal(Region(volume, 2, 3).labels, LABELS[2:3, 2:5, :4])
        assert str(Region(volume, 2)).endswith("[2:3]")
        with pytest.raises(ConfigError, match="give 1 <= start < stop <= 3"):
            Region(volume, 0, 2)

    def test_context_is_what_networks_may_see(self, tmp_path, monkeypatch):
        monkeypatch.setattr("psc.em.data._CONTEXT", 1)
        volume = read_volume(*self.files(tmp_path, (40, 8, 0)))
        np.testing.assert_array_equal(volume.raw, RAW[:4, 1:6, :5])
        assert (volume.start, volume.first) == ((0, 1, 0), (1, 2, 0))
        np.testing.assert_array_equal(Region(volume, 2).raw, RAW[2:3, 2:5, :4])

    def test_the_user_may_say_where_they_are(self, tmp_path):
        files = self.files(tmp_path, None)
        region = Region(read_volume(*files, labels_offset=[1, 2, 0]))
        np.testing.assert_array_equal(region.raw, RAW[1:3, 2:5, :4])
        with pytest.raises(DataError, match=r"\[3.0, 2.0, 0.0\] .*; correct labels_offset"):
            read_volume(*files, labels_offset=[3, 2, 0])

    def test_a_translation_of_ome_zarr_places_them(self, tmp_path):
        raw, _ = self.files(tmp_path, None)
        steps = [{"type": "scale", "scale": [0.04, 0.004, 0.004]}]
        steps.append({"type": "translation", "translation": [0.04, 0.008, 0.0]})
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        level = {"path": "0", "coordinateTransformations": steps}
        ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
        group = zarr.open_group(str(tmp_path / "gt.zarr"), mode="w", attributes={"ome": ome})
        group.create_array("0", data=LABELS[1:3, 2:5, :4])
        region = Region(read_volume(raw, tmp_path / "gt.zarr"))
        np.testing.assert_array_equal(region.raw, RAW[1:3, 2:5, :4])

    def test_of_two_parts_of_one_volume(self, tmp_path):
        one, two = (read_volume(*self.files(tmp_path, (z, 8, 0))) for z in (0, 80))
        check_disjoint({"train": [Region(one)], "test": [Region(two)]})
        three = read_volume(*self.files(tmp_path, (40, 8, 0)))
        with pytest.raises(ConfigError, match=r"have 1 slices in common \(z = 1 to 1 of"):
            check_disjoint({"train": [Region(one)], "test": [Region(three)]})

    @pytest.mark.parametrize(
        ("offset", "said"),
        [
            (None, r"\(4, 6, 5\), but .* \(2, 3, 4\); crop .* or say where the labels begin"),
            ((120, 8, 0), r"offset of \[3.0, 2.0, 0.0\] voxels does not lie in"),
            ((40, 6, 0), r"offset of \[1.0, 1.5, 0.0\] voxels"),
            ((-40, 0, 0), r"offset of \[-1.0, 0.0, 0.0\] voxels"),
        ],
    )
    def test_that_lies_elsewhere_is_refused(self, tmp_path, offset, said):
        with pytest.raises(DataError, match=said):
            read_volume(*self.files(tmp_path, offset))

    def test_an_offset_without_a_voxel_size_is_not_passed_over(self, tmp_path):
        for labels in (LABELS, LABELS[1:3]):
            files = self.files(tmp_path, (40, 0, 0), labels)
            for path, key in zip(files, ("raw", "labels"), strict=True):
                with h5py.File(path, "a") as file:
                    del file[key].attrs["resolution"]
            with pytest.raises(
                DataError, match=r"begins \[40.0, .* nm behind .*raw.h5.*labels_off"
            ):
                read_volume(*files)
        given = read_volume(*files, labels_offset=[1, 0, 0])
        np.testing.assert_array_equal(Region(given).labels, LABELS[1:3])

    def test_of_the_same_shape_must_lie_in_the_same_place(self, tmp_path):
        with pytest.raises(DataError, match="does not lie in"):
            read_volume(*self.files(tmp_path, (40, 0, 0), LABELS))
        assert read_volume(*self.files(tmp_path, (0, 0, 0), LABELS)).raw.shape == (4, 6, 5)


class TestErrors:
    def test_resolutions_differ(self, tmp_path):
        raw = write(tmp_path / "raw.h5", resolution=(8, 8, 8), raw=RAW)
        truth = write(tmp_path / "gt.h5", resolution=(16, 8, 8), stack=LABELS)
        with pytest.raises(DataError, match=r"\(8.0, 8.0, 8.0\) nm, but .*\(16.0, 8.0, 8.0\)"):
            read_volume(raw, truth)
        rounded = write(tmp_path / "gt.h5", resolution=np.float32([8.0001, 8, 8]), stack=LABELS)
        assert read_volume(raw, rounded).voxel_size == (8, 8, 8)

    @pytest.mark.parametrize("dtype", [np.float32, np.bool_])
    def test_labels_are_not_integers(self, tmp_path, dtype):
        truth = write(tmp_path / "gt.h5", stack=LABELS.astype(dtype))
        with pytest.raises(DataError, match=f"labels are {np.dtype(dtype)}, .*must be integers"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), truth)

    def test_negative_labels(self, tmp_path):
        labels = LABELS.copy()
        labels[2, 3, 1] = -5
        truth = write(tmp_path / "gt.h5", stack=labels)
        with pytest.raises(DataError, match=r"negative label -5 at \(z, y, x\) = \(2, 3, 1\)"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), truth)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_raw_is_not_finite(self, tmp_path, value):
        raw = RAW.astype(np.float32)
        raw[3, 2, 1] = value
        with pytest.raises(DataError, match="NaN or infinity in slice z = 3"):
            read_volume(write(tmp_path / "raw.h5", raw=raw, labels=LABELS))

    def test_raw_is_a_mask(self, tmp_path):
        with pytest.raises(DataError, match="holds bool"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW > 100))

    def test_no_recognised_key(self, tmp_path):
        path = write(tmp_path / "a.h5", grey__a=RAW, grey__b=RAW)
        with pytest.raises(DataError, match=r"set raw_key to one of grey/a \(4, 6, 5\), grey/b"):
            read_volume(path)
        raw = write(tmp_path / "raw.h5", raw=RAW)
        with pytest.raises(DataError, match="set labels_key to one of grey/a"):
            read_volume(raw, path)

    def test_several_recognised_keys(self, tmp_path):
        path = write(tmp_path / "a.h5", raw=RAW, stack=RAW, labels=LABELS)
        with pytest.raises(DataError, match="raw and stack could be meant; set raw_key"):
            read_volume(path)
        assert read_volume(path, raw_key="raw").raw.shape == RAW.shape
        path = write(tmp_path / "b.h5", raw=RAW, labels=LABELS, volumes__labels__neuron_ids=LABELS)
        with pytest.raises(DataError, match="labels could be meant; set labels_key"):
            read_volume(path)

    def test_one_dataset_cannot_be_both(self, tmp_path):
        path = write(tmp_path / "a.h5", stack=RAW)
        with pytest.raises(DataError, match="would be raw and labels; set labels_key"):
            read_volume(path, path)

    def test_supervoxel_without_body(self, tmp_path):
        truth = write(tmp_path / "gt.h5", stack=LABELS, transforms=SUPERVOXELS[:2])
        with pytest.raises(DataError, match=r"gt\.h5 \(transforms\): 1 supervoxels .* body: 3;"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), truth)

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.h5 does not exist"):
            read_volume(tmp_path / "none.h5")
        with pytest.raises(DataError, match=r"gt\.h5 does not exist"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), tmp_path / "gt.h5")

    def test_folders_that_hold_no_volume_or_two(self, tmp_path):
        with pytest.raises(DataError, match=r"expected exactly one of .*found nothing"):
            read_volume(tmp_path)
        (tmp_path / "grayscale_maps").mkdir()
        with pytest.raises(DataError, match="neither PNG nor TIFF slices, but nothing"):
            read_volume(tmp_path)
        write(tmp_path / "raw.h5", raw=RAW)
        with pytest.raises(DataError, match=r"found grayscale_maps, raw\.h5"):
            read_volume(tmp_path)

    def test_keys_that_cannot_apply(self, tmp_path):
        folder = write_pngs(tmp_path / "slices")
        with pytest.raises(ConfigError, match=r"raw_key=raw, but .* leave it out"):
            read_volume(folder, raw_key="raw")
        with pytest.raises(DataError, match="labels_key is 'x', but no labels file"):
            read_volume(folder, labels_key="x")

    def test_what_segmentation_refuses(self, tmp_path):
        folder = write_pngs(tmp_path / "slices")
        (folder / "iso.99.png").unlink()
        with pytest.raises(DataError, match="slices are missing between"):
            read_volume(folder)
        zarr.create_array(str(tmp_path / "em.zarr"), data=RAW, chunks=(2, 6, 5))
        (tmp_path / "em.zarr/c/1/0/0").unlink()
        files = tmp_path / "em.zarr", write(tmp_path / "gt.h5", labels=LABELS)
        with pytest.raises(DataError, match="is missing; copy it"):
            read_volume(*files)
        filled = read_volume(*files, missing_chunks="fill")
        assert not filled.raw[2:].any()


class TestSupervoxels:
    STACK = np.array([[[0, 7], [7, 90]]], dtype=np.int32)

    def test_every_supervoxel_becomes_its_body(self):
        transforms = np.array([[90, 5], [7, 2**63], [1, 1]], dtype=np.uint64)
        bodies = bodies_from_supervoxels(self.STACK, transforms, "f")
        assert bodies.dtype == np.uint64
        expected = np.array([[[0, 2**63], [2**63, 5]]], dtype=np.uint64)
        np.testing.assert_array_equal(bodies, expected)

    @given(
        st.dictionaries(st.integers(1, 50), st.integers(0, 2**62), min_size=1, max_size=20),
        st.integers(0, 2**32),
    )
    def test_as_a_dictionary_would(self, table, seed):
        rng = np.random.default_rng(seed)
        stack = rng.choice([0, *table], size=(2, 3, 4))
        rows = np.array(list(table.items()), dtype=np.int64)
        rows = np.concatenate([rows, rows[:1]])  # a repeated row says nothing new
        expected = np.vectorize({0: 0, **table}.get)(stack)
        np.testing.assert_array_equal(bodies_from_supervoxels(stack, rows, "f"), expected)

    def test_supervoxels_without_body_are_listed(self):
        with pytest.raises(DataError, match=r"f: 2 supervoxels have no body: 7, 90;"):
            bodies_from_supervoxels(self.STACK, np.array([[1, 1]]), "f")
        many = np.arange(1, 31, dtype=np.int64).reshape(2, 3, 5)
        with pytest.raises(DataError, match=r"29 supervoxels .*: 2, 3, .*, 11 and 19 more;"):
            bodies_from_supervoxels(many, np.array([[1, 1]]), "f")

    @pytest.mark.parametrize(
        ("transforms", "problem"),
        [
            (np.zeros((3, 3), int), r"integer rows.*\(3, 3\)"),
            (np.zeros(4, int), "integer rows"),
            (np.zeros((3, 2)), "float64"),
            (np.array([[7, -1], [90, 1]]), "negative id -1"),
            (np.array([[7, 1], [90, 2], [7, 3]]), "two bodies: 7;"),
        ],
    )
    def test_maps_that_are_none(self, transforms, problem):
        with pytest.raises(DataError, match=problem):
            bodies_from_supervoxels(self.STACK, transforms, "f")


class TestRegions:
    def test_a_region_knows_its_slab(self, make_volume):
        region = Region(make_volume((20, 18, 16), name="fib"), 4, 9)
        assert region.shape == (5, 18, 16)
        assert str(region) == "fib[4:9]"
        whole = Region(make_volume((20, 18, 16)))
        assert (whole.stop, whole.shape) == (20, (20, 18, 16))

    @pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, 21), (20, None)])
    def test_slabs_outside_the_volume(self, make_volume, start, stop):
        with pytest.raises(ConfigError, match=r"fib: slab .* give 0 <= start < stop <= 20"):
            Region(make_volume(name="fib"), start, stop)

    def test_disjoint_slabs_pass(self, make_volume):
        volume, other = make_volume(), make_volume(seed=1)
        train = [Region(volume, 0, 10), Region(volume, 5, 12), Region(other, 12, 20)]
        splits = {"train": train, "validation": [Region(volume, 12, 15)], "test": []}
        check_disjoint(splits)  # and one slice lower they touch:
        with pytest.raises(ConfigError, match="share data"):
            check_disjoint(splits | {"validation": [Region(volume, 11, 15)]})

    @pytest.mark.parametrize(("start", "stop"), [(9, 12), (0, 20), (3, 4)])
    def test_overlap_names_both_regions(self, make_volume, start, stop):
        volume = make_volume(name="fib")
        splits = {"train": [Region(volume, 0, 10)], "test": [Region(volume, start, stop)]}
        with pytest.raises(ConfigError, match=r"'train' and 'test'") as caught:
            check_disjoint(splits)
        assert "fib[0:10]" in str(caught.value)
        assert f"fib[{start}:{stop}]" in str(caught.value)

    def test_a_copy_in_another_file_is_found_whatever_is_labelled(self, tmp_path):
        write(tmp_path / "raw.h5", raw=RAW)
        write(tmp_path / "copy.h5", image=RAW)
        one, two = (
            Region(
                read_volume(
                    tmp_path / name,
                    write(tmp_path / f"of-{name}", labels=LABELS[:, a:b]),
                    labels_offset=[0, a, 0],
                )
            )
            for name, a, b in (("raw.h5", 0, 4), ("copy.h5", 2, 6))
        )
        with pytest.raises(ConfigError, match="4 slices in common"):
            check_disjoint({"train": [one], "test": [two]})

    def test_a_copy_under_another_name_is_found(self, make_volume):
        volume = make_volume(name="fib")
        # As if slices 6 to 15 had been saved as a file of their own, in another memory order.
        raw, labels = np.asfortranarray(volume.raw[6:16]), volume.labels[6:16]
        part = replace(volume, raw=raw, labels=labels, name="copy")
        check_disjoint({"train": [Region(volume, 0, 6)], "test": [Region(part)]})
        with pytest.raises(ConfigError, match=r"2 slices in common \(z = 6 to 7 of fib\)"):
            check_disjoint({"train": [Region(volume, 0, 8)], "test": [Region(part)]})
        check_disjoint({"train": [Region(volume, 0, 8)], "test": [Region(part, 2)]})

    def test_padding_of_one_grey_value_is_no_copy(self, make_volume):
        first, second = make_volume(seed=1), make_volume(seed=2)
        first.raw[:3] = second.raw[:3] = 0
        check_disjoint({"train": [Region(first)], "test": [Region(second)]})
        # but within one volume it is the same slices
        with pytest.raises(ConfigError, match="1 slices in common"):
            check_disjoint({"train": [Region(first, 0, 2)], "test": [Region(first, 1, 3)]})

    def test_the_voxel_size_makes_no_other_volume(self, make_volume):
        volume = make_volume()
        again = replace(volume, voxel_size=(8.0, 8.0, 8.0))
        with pytest.raises(ConfigError, match="share data"):
            check_disjoint({"train": [Region(volume, 0, 10)], "validation": [Region(again, 9, 12)]})


@pytest.mark.sample
class TestSample:
    def test_neuroproof_and_cremi_layouts_agree(self, sample_em):
        cremi_layout = read_volume(sample_em / "fib25" / "training_sample2_z000-207.h5")
        original = read_volume(sample_em / "neuroproof_layout")
        assert original.raw.shape == (24, 250, 250)
        np.testing.assert_array_equal(original.raw, cremi_layout.raw[:24])
        np.testing.assert_array_equal(original.labels, cremi_layout.labels[:24])
        assert cremi_layout.voxel_size == (8, 8, 8)
        assert not cremi_layout.synthetic

    def test_gala(self, sample_em):
        folder = sample_em / "gala"
        volume = read_volume(folder / "train-image.h5", folder / "train-gt.lzf.h5")
        assert volume.raw.shape == volume.labels.shape == (50, 100, 200)
        assert (volume.labels == 0).mean() == pytest.approx(0.067, abs=0.001)
        # Boundaries are the dark voxels: raw and labels lie in the same axis order.
        dark = volume.raw[volume.labels == 0].mean()
        assert dark < volume.raw[volume.labels != 0].mean() - 50


def test_a_volume_in_three_slabs_is_read_once(tiny_run):
    splits = read_splits(compose(tiny_run).dataset)
    assert len({id(part[0].volume) for part in splits.parts.values()}) == 1
    assert [part[0].shape[0] for part in splits.parts.values()] == [
        24,
        12,
        12,
    ]
    record = splits.record()
    assert record["kind"] == "real"
    assert record["splits"]["test"] == [str(splits.parts["test"][0])]
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
    assert splits.parts["test"][0].shape == (20, 24, 28)
    # Read as the user's own file, under another data set's name: still synthetic.
    disguised = compose(
        ["dataset=fibsem", *(f"dataset.{name}=[{{raw:{path}}}]" for name, path in paths.items())]
    ).dataset
    assert read_splits(disguised).kind == "synthetic"


def test_thick_boundaries_that_would_be_hidden_are_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"dataset.boundary_thickness=1 .*zero_label=boundary"):
        compose([*tiny_run, "dataset.boundary_thickness=1"])


def test_a_sample_is_not_the_whole_data_set(tiny_run):
    dataset = compose([*tiny_run, "dataset.sample=true"]).dataset
    assert read_splits(dataset).kind == "real sample"


@pytest.mark.sample
def test_the_real_sample(sample_data):
    splits = read_splits(compose(["dataset=fibsem_sample"]).dataset)
    assert splits.kind == "real sample"
    assert [part[0].shape for part in splits.parts.values()] == [
        (140, 250, 250),
        (26, 250, 250),
        (42, 250, 250),
    ]
    assert splits.parts["train"][0].volume.raw.dtype == np.uint8


def test_paths_expand_variables_and_name_the_missing_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert locate("$SOMEWHERE/x.h5") == tmp_path / "x.h5"
    with pytest.raises(DataError, match=r"\$NOT_SET_AT_ALL.*environment variable"):
        locate("$NOT_SET_AT_ALL/x.h5")


def test_volumes_without_labels_are_refused(tiny_run, tmp_path):
    path = tmp_path / "raw_only.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = np.random.default_rng(0).integers(0, 255, (24, 40, 40), np.uint8)
    dataset = compose([*tiny_run, f"dataset.train=[{{raw:{path}}}]"]).dataset
    with pytest.raises(DataError, match="has no labels"):
        read_splits(dataset)


class TestOwnData:
    """dataset=own_em: one line for a volume, cut into parts; patterns; what is said."""

    SHAPE = (20, 8, 6)

    def volume(self, path, labels=True, seed=0, **attributes):
        rng = np.random.default_rng(seed)
        with h5py.File(path, "w") as file:
            file["raw"] = rng.integers(0, 256, self.SHAPE, np.uint8)
            file["raw"].attrs.update(attributes)
            if labels:
                file["label"] = rng.integers(1, 5, self.SHAPE)
        return path

    def read(self, *overrides):
        return read_splits(compose(["dataset=own_em", *overrides]).dataset)

    def test_one_volume_is_cut_along_z(self, tmp_path):
        path = self.volume(tmp_path / "em.h5", resolution=(30.0, 4.0, 4.0))
        splits = self.read(f"dataset.raw={path}")
        assert [str(part[0]) for part in splits.parts.values()] == [
            *("em[0:14]", "em[14:16]", "em[16:20]")
        ]
        assert splits.kind == "own"
        said = "\n".join(splits.reads())
        assert "em.h5 (raw): 20 × 8 × 6 voxels (z, y, x) of uint8, 30 × 4 × 4 nm (attribute" in said
        assert "em.h5 (label): labels of z 0:20, y 0:8, x 0:6" in said
        assert "em: 4 bodies; 0.0% of the voxels have label 0, unknown, not learned" in said
        assert "grey values 0 to 255 become 0 to 1 (the range of uint8)" in said
        assert "test: em[16:20] (sections along z), 192 voxels with labels" in said
        shares = self.read(f"dataset.raw={path}", "dataset.shares=[0.5,0.25,0.25]")
        assert str(shares.parts["train"][0]) == "em[0:10]"

    def test_an_unknown_voxel_size_is_said_and_settled(self, tmp_path):
        path = self.volume(tmp_path / "em.h5")
        splits = self.read(f"dataset.raw={path}")
        assert splits.parts["train"][0].volume.voxel_size is None
        assert any("unknown, taken as the same along z, y and x" in s for s in splits.reads())
        splits = self.read(f"dataset.raw={path}", "dataset.voxel_size=[40,4,4]")
        assert splits.parts["train"][0].volume.voxel_size == (40, 4, 4)
        assert any("40 × 4 × 4 nm (dataset.voxel_size)" in line for line in splits.reads())

    def test_what_the_file_says_of_its_voxels_counts(self, tmp_path, caplog):
        path = self.volume(tmp_path / "em.h5", resolution=(30.0, 4.0, 4.0))
        splits = self.read(f"dataset.raw={path}", "dataset.voxel_size=[8,8,8]")
        assert splits.parts["train"][0].volume.voxel_size == (30, 4, 4)
        assert "dataset.voxel_size=[8.0, 8.0, 8.0] is for files that say nothing" in caplog.text

    def test_grey_values_without_contrast_are_refused_and_masks_told(self, tmp_path, caplog):
        path = self.volume(tmp_path / "em.h5")
        with h5py.File(path, "a") as file:
            file["label"][...] = 1
            self.read(f"dataset.raw={path}")
            assert "all labels are 1: if they are a mask, they teach no borders" in caplog.text
            file["raw"][16:] = 7
        with pytest.raises(DataError, match=r"em\[16:20\]: every grey value is 7"):
            self.read(f"dataset.raw={path}")

    def test_a_pattern_stands_for_several_volumes(self, tmp_path):
        for i in (2, 10):
            self.volume(tmp_path / f"cell{i}_raw.h5", labels=False, seed=i)
            with h5py.File(tmp_path / f"cell{i}_gt.h5", "w") as file:
                file["anything"] = np.full(self.SHAPE, i)
        labels = f"dataset.labels={tmp_path}/*_gt.h5"
        splits = self.read(f"dataset.raw={tmp_path}/*_raw.h5", labels)
        assert [str(r) for r in splits.parts["train"]] == ["cell2_raw[0:14]", "cell10_raw[0:14]"]
        assert [int(region.labels[0, 0, 0]) for region in splits.parts["test"]] == [2, 10]
        with pytest.raises(ConfigError, match=r"stands for one file, raw=.* for 2"):
            self.read(f"dataset.raw={tmp_path}/*_raw.h5", f"dataset.labels={tmp_path}/cell2_gt.h5")
        with pytest.raises(DataError, match=r"\*_row.h5 matches nothing; .* holds cell.*_raw.h5"):
            self.read(f"dataset.raw={tmp_path}/*_row.h5", labels)
        (tmp_path / "cell10_gt.h5").unlink()
        with pytest.raises(DataError, match=r"cell10_gt.h5 does not exist; .* holds cell"):
            self.read(f"dataset.raw={tmp_path}/*_raw.h5", labels)

    def test_a_path_that_leads_nowhere_names_its_neighbours(self, tmp_path):
        self.volume(tmp_path / "cortex.h5")
        with pytest.raises(DataError, match=r"kortex.h5 does not exist; .* holds cortex.h5"):
            self.read(f"dataset.raw={tmp_path}/kortex.h5")

    def test_one_or_the_other(self, tmp_path):
        path = self.volume(tmp_path / "em.h5")
        with pytest.raises(ConfigError, match="give raw, or the three by themselves"):
            self.read(f"dataset.raw={path}", f"dataset.test=[{{raw:{path}}}]")
        with pytest.raises(ConfigError, match=r"dataset.train is empty: .* or give raw=…"):
            self.read()
        with pytest.raises(ConfigError, match=r"shares=\[0.9, 0.2, 0.1\]"):
            self.read(f"dataset.raw={path}", "dataset.shares=[0.9,0.2,0.1]")
        with pytest.raises(DataError, match=r"20 sections with labels, too few for"):
            self.read(f"dataset.raw={path}", "dataset.shares=[0.98,0.01,0.01]")
        with pytest.raises(ConfigError, match=r"labels_offset=\[1, -2, 0\]"):
            self.read(f"dataset.raw={path}", "dataset.labels_offset=[1,-2,0]")

    def test_a_float_anywhere_beyond_its_range_is_refused(self, tmp_path):
        values = np.random.default_rng(0).random((100, 8, 6), np.float32)
        values[33, 4, 1] = 7  # where no sample is taken
        labels = np.ones(values.shape, np.uint8)
        path = write(tmp_path / "em.h5", raw=values, labels=labels)
        with pytest.raises(DataError, match=r"em\.h5 .* to 7, .*intensity_range="):
            self.read(f"dataset.raw={path}")

    def test_parts_without_labels_are_refused(self, tmp_path):
        path = self.volume(tmp_path / "em.h5")
        with h5py.File(path, "a") as file:
            file["label"][16:] = 0
        with pytest.raises(DataError, match=r"em\[16:20\]: every label is 0"):
            self.read(f"dataset.raw={path}")

    def test_reserved_ids_of_cremi_are_unknown(self, tmp_path):
        path = self.volume(tmp_path / "em.h5", labels=False)
        labels = np.ones(self.SHAPE, np.uint64)
        labels[0, 0, :3] = 2**64 - 1, 2**64 - 2, 2**64 - 3
        labels[0, 0, 3] = 2**64 - 4
        with h5py.File(path, "a") as file:
            file["volumes/labels/neuron_ids"] = labels
        splits = self.read(f"dataset.raw={path}")
        assert splits.parts["train"][0].labels[0, 0, :4].tolist() == [0, 0, 0, 2**64 - 4]
        assert any("3 voxels of CREMI's transparent or outside" in line for line in splits.reads())
        with pytest.raises(DataError, match=r"em\.h5 .* 3 voxels .* set zero_label=ignore"):
            self.read(f"dataset.raw={path}", "dataset.zero_label=boundary")

    @pytest.mark.parametrize(
        ("voxels", "swaps"), [((8, 8, 8), "all"), ((40, 4, 4), "yx"), ((40, 4, 5), "none")]
    )
    def test_axes_are_swapped_that_are_equally_sampled(self, tmp_path, voxels, swaps):
        path = self.volume(tmp_path / "em.h5", resolution=voxels)
        application = AffinityApplication(compose(["dataset=own_em", f"dataset.raw={path}"]))
        assert application._augmentation.axis_swaps == swaps
        assert any(f"swaps axes {swaps}, not all" in s for s in application.reads()) == (
            swaps != "all"
        )


def test_keys_that_came_later_rename_no_run():
    plain = asdict(compose(["dataset=fibsem_sample", "block=3d", "budget=quick"]))
    before = config_hash(plain)
    for key in ("raw", "labels", "raw_key", "labels_key", "labels_offset", "shares", "axis_swaps"):
        del plain["dataset"][key]
    for part in ("train", "validation", "test"):
        for slab in plain["dataset"][part]:
            del slab["labels_offset"]
    assert config_hash(plain) == before
    own = asdict(compose(["dataset=own_em", "dataset.raw=a.h5", "block=3d", "budget=quick"]))
    other = {**own, "dataset": {**own["dataset"], "raw": "b.h5"}}
    assert config_hash(own) != config_hash(other)
