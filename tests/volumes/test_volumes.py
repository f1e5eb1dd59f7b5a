import hashlib

import h5py
import numpy as np
import pytest
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.volumes.reading import read_volume

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

    def test_folder_of_slices(self, tmp_path):
        folder = write_pngs(tmp_path / "slices")
        assert read_volume(folder).labels is None
        truth = write(tmp_path / "gt.h5", mine=LABELS)
        volume = read_volume(folder, truth, labels_key="mine")
        np.testing.assert_array_equal(volume.labels, LABELS)

    def test_any_keys(self, tmp_path):
        raw = write(tmp_path / "em.h5", em__grey=RAW, em__ids=LABELS, em__transforms=SUPERVOXELS)
        volume = read_volume(raw, raw_key="em/grey", labels_key="em/ids")
        np.testing.assert_array_equal(volume.labels, BODIES)
        assert len(volume.files) == 1

    def test_labels_key_in_a_folder_means_its_labels_file(self, tmp_path):
        write(tmp_path / "v" / "raw.h5", raw=RAW)
        write(tmp_path / "v" / "groundtruth.h5", stack=0 * LABELS, proofread=LABELS)
        volume = read_volume(tmp_path / "v", labels_key="proofread")
        np.testing.assert_array_equal(volume.labels, LABELS)

    def test_labels_are_optional(self, tmp_path):
        assert read_volume(write(tmp_path / "raw.h5", raw=RAW)).labels is None
        path = cremi(tmp_path / "a.h5")
        volume = read_volume(path, tmp_path / "none.h5", read_labels=False)
        assert volume.labels is None
        assert volume.files == (record(path),)

    def test_synthetic_files_say_so(self, tmp_path):
        marked = cremi(tmp_path / "a.h5", file_attributes={"synthetic": True})
        assert read_volume(marked).synthetic
        raw = write(tmp_path / "raw.h5", raw=RAW)
        assert read_volume(raw, marked).synthetic

    @pytest.mark.parametrize("shape", [(1, 4, 6, 5), (4, 6, 5, 1)])
    def test_one_channel_is_dropped(self, tmp_path, shape):
        path = write(tmp_path / "a.h5", raw=RAW.reshape(shape))
        np.testing.assert_array_equal(read_volume(path).raw, RAW)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
    def test_raw_keeps_its_dtype(self, tmp_path, dtype):
        volume = read_volume(write(tmp_path / "a.h5", raw=RAW.astype(dtype)))
        assert volume.raw.dtype == dtype
        np.testing.assert_array_equal(volume.raw, RAW)


class TestErrors:
    @pytest.mark.parametrize(
        "shape", [(6, 5), (2, 4, 6, 5), (1, 1, 4, 6, 5), (1, 6, 5, 1), (0, 6, 5)]
    )
    def test_not_three_dimensional(self, tmp_path, shape):
        path = write(tmp_path / "a.h5", raw=np.zeros(shape, np.uint8))
        with pytest.raises(DataError, match=r"a\.h5 \(raw\): expected shape \(D, H, W\), found"):
            read_volume(path)

    def test_shapes_differ(self, tmp_path):
        raw = write(tmp_path / "raw.h5", raw=RAW)
        truth = write(tmp_path / "gt.h5", stack=LABELS[1:])
        with pytest.raises(DataError, match=r"\(4, 6, 5\), but .*gt\.h5 .*\(3, 6, 5\)"):
            read_volume(raw, truth)

    def test_resolutions_differ(self, tmp_path):
        raw = write(tmp_path / "raw.h5", resolution=(8, 8, 8), raw=RAW)
        truth = write(tmp_path / "gt.h5", resolution=(16, 8, 8), stack=LABELS)
        with pytest.raises(DataError, match=r"\(8.0, 8.0, 8.0\) nm, but .*\(16.0, 8.0, 8.0\)"):
            read_volume(raw, truth)

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
            read_volume(write(tmp_path / "raw.h5", raw=raw))

    def test_raw_is_a_mask(self, tmp_path):
        with pytest.raises(DataError, match="boolean"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW > 100))

    def test_no_recognised_key(self, tmp_path):
        path = write(tmp_path / "a.h5", grey__values=RAW)
        with pytest.raises(DataError, match=r"set raw_key to one of grey/values \(4, 6, 5\)"):
            read_volume(path)
        raw = write(tmp_path / "raw.h5", raw=RAW)
        with pytest.raises(DataError, match="set labels_key to one of grey/values"):
            read_volume(raw, path)

    def test_two_recognised_keys(self, tmp_path):
        path = write(tmp_path / "a.h5", raw=RAW, stack=RAW)
        with pytest.raises(DataError, match="raw and stack could be meant; set raw_key"):
            read_volume(path)
        assert read_volume(path, raw_key="raw").raw.shape == RAW.shape

    def test_supervoxel_without_body(self, tmp_path):
        truth = write(tmp_path / "gt.h5", stack=LABELS, transforms=SUPERVOXELS[:2])
        with pytest.raises(DataError, match=r"gt\.h5 \(transforms\): 1 supervoxels .* body: 3;"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), truth)

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.h5 does not exist"):
            read_volume(tmp_path / "none.h5")
        with pytest.raises(DataError, match=r"gt\.h5 does not exist"):
            read_volume(write(tmp_path / "raw.h5", raw=RAW), tmp_path / "gt.h5")

    def test_labels_folder(self, tmp_path):
        raw = write(tmp_path / "raw.h5", raw=RAW)
        with pytest.raises(DataError, match="must be an HDF5 file"):
            read_volume(raw, tmp_path)

    def test_empty_folders(self, tmp_path):
        with pytest.raises(DataError, match=r"expected exactly one of .*found nothing"):
            read_volume(tmp_path)
        (tmp_path / "grayscale_maps").mkdir()
        with pytest.raises(DataError, match="no PNG slices"):
            read_volume(tmp_path)

    def test_folder_with_two_candidates(self, tmp_path):
        write(tmp_path / "raw.h5", raw=RAW)
        write_pngs(tmp_path / "grayscale_maps")
        with pytest.raises(DataError, match=r"found grayscale_maps, raw\.h5"):
            read_volume(tmp_path)

    def test_keys_that_cannot_apply(self, tmp_path):
        folder = write_pngs(tmp_path / "slices")
        with pytest.raises(ConfigError, match="remove raw_key"):
            read_volume(folder, raw_key="raw")
        with pytest.raises(DataError, match="labels_key is 'x', but no labels file"):
            read_volume(folder, labels_key="x")


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
