"""Arrays written into the space of another file, and files compared by their space."""

import errno
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nifti_files import EXTENSION, SHAPE, affine_towards, numbered, put, stored_bytes
from scipy.spatial.transform import Rotation

from psc.errors import DataError
from psc.mri.nifti import check_same_space, read_nifti, write_nifti


@pytest.fixture
def volume(tmp_path):
    content = stored_bytes(
        numbered((*SHAPE, 1)), affine_towards("PIL"), extension=EXTENSION, cal_max=99
    )
    return read_nifti(put(tmp_path / "image.nii.gz", content))


class TestWrite:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_other_values_in_the_space_of_the_image(self, tmp_path, volume, dtype):
        labels = (volume.data % 4).astype(dtype)
        write_nifti(tmp_path / "labels.nii.gz", labels, like=volume, dtype=dtype)
        image, written = nibabel.load(volume.path), nibabel.load(tmp_path / "labels.nii.gz")
        np.testing.assert_array_equal(written.dataobj, np.asarray(image.dataobj) % 4)
        assert written.dataobj.dtype == dtype
        np.testing.assert_array_equal(written.affine, image.affine)
        assert written.shape == image.shape
        before, after = image.header, written.header
        changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
        assert changed <= {"datatype", "bitpix", "cal_max", "scl_slope", "scl_inter"}
        assert written.header["cal_max"] == 0
        assert written.header.get_slope_inter() in ((1, 0), (None, None))
        assert written.header.extensions == image.header.extensions

    def test_labels_of_a_scaled_image_are_not_scaled(self, tmp_path):
        content = stored_bytes(numbered(), slope=0.01, intercept=-7)
        like = read_nifti(put(tmp_path / "v.nii", content))
        labels = (numbered() % 4).astype(np.uint8)
        write_nifti(tmp_path / "l.nii", labels, like=like, dtype=np.uint8)
        np.testing.assert_array_equal(nibabel.load(tmp_path / "l.nii").get_fdata(), labels)

    def test_values_between_two_steps_are_rounded(self, tmp_path):
        content = stored_bytes(numbered(), slope=0.5, intercept=1)
        like = read_nifti(put(tmp_path / "v.nii", content))
        write_nifti(tmp_path / "w.nii", like.data + 0.2, like=like)
        np.testing.assert_array_equal(read_nifti(tmp_path / "w.nii").data, like.data)

    @pytest.mark.parametrize(
        ("values", "dtype", "message"),
        [
            (np.full(SHAPE, 0.5), np.uint8, "60 values are no integers, but uint8"),
            (np.full(SHAPE, 256), np.uint8, r"256 to 256 do not fit into uint8 \(0 to 255\)"),
            (np.full(SHAPE, -1), np.uint8, "do not fit into uint8"),
            (np.full(SHAPE, 40000), None, "do not fit into int16"),
            (np.full(SHAPE, 2.0**63), np.int64, "do not fit into int64"),
            (np.full(SHAPE, 1e39), np.float32, "do not fit into float32"),
            (np.full(SHAPE, np.nan), np.float32, "60 voxels are NaN"),
            (np.full(SHAPE, 1), np.bool_, "bool cannot be written as NIfTI"),
            (np.full(SHAPE, 1), np.float16, "float16 cannot be written as NIfTI"),
            (np.full(SHAPE, 1), np.longdouble, "cannot be written as NIfTI"),
            (np.full((4, 4, 4), 1), None, r"\(4, 4, 4\) cannot be written into the space of"),
        ],
    )
    def test_refused_values(self, tmp_path, values, dtype, message):
        like = read_nifti(put(tmp_path / "v.nii", stored_bytes(numbered())))
        with pytest.raises(DataError, match=message):
            write_nifti(tmp_path / "w.nii", values, like=like, dtype=dtype)
        assert not (tmp_path / "w.nii").exists()

    @pytest.mark.parametrize("name", ["w.mgz", "w", "w.gz", "w.hdr"])
    def test_refused_names(self, tmp_path, volume, name):
        with pytest.raises(DataError, match=r"must end with \.nii or \.nii\.gz"):
            write_nifti(tmp_path / name, volume.data, like=volume)

    def test_a_full_disk_leaves_the_old_file(self, tmp_path, volume, monkeypatch):
        target = tmp_path / "out" / "w.nii.gz"
        write_nifti(target, volume.data, like=volume)
        before = target.read_bytes()

        def write_half(path, content):
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(DataError, match=r"could not write .*w\.nii\.gz.*No space.*free disk"):
            write_nifti(target, volume.data + 1, like=volume)
        assert [file.name for file in target.parent.iterdir()] == ["w.nii.gz"]
        assert target.read_bytes() == before

    def test_an_interruption_leaves_nothing(self, tmp_path, volume, monkeypatch):
        def interrupted(path, target):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_nifti(tmp_path / "out" / "w.nii", volume.data, like=volume)
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_folder_that_is_a_file(self, tmp_path, volume):
        with pytest.raises(DataError, match="could not write"):
            write_nifti(volume.path / "w.nii", volume.data, like=volume)


class TestSameSpace:
    def pair(self, folder, labels, affine, image_affine=None):
        image = read_nifti(put(folder / "image.nii", stored_bytes(numbered(), image_affine)))
        return image, read_nifti(put(folder / "labels.nii", stored_bytes(labels, affine)))

    def test_equal(self, tmp_path):
        pair = self.pair(tmp_path, numbered(dtype="u1"), affine_towards("RAS"))
        check_same_space(*pair)
        np.testing.assert_array_equal(pair[0].affine, pair[1].affine)

    def test_stored_in_another_order(self, tmp_path):
        """Both run to RAS once read, so only the places of voxels count."""
        image = numbered()
        labels = np.transpose(image[::-1, :, ::-1], (2, 0, 1))
        pair = self.pair(tmp_path, labels, affine_towards("ILA"))
        check_same_space(*pair)
        np.testing.assert_array_equal(pair[0].data, pair[1].data)

    def test_rounding_is_allowed(self, tmp_path):
        affine = affine_towards("RAS")
        affine[:3, 3] += 5e-4
        pair = self.pair(tmp_path, numbered(), affine)
        check_same_space(*pair)
        assert 4e-4 < np.abs(pair[0].affine - pair[1].affine).max() < 1e-3

    def test_another_shape(self, tmp_path):
        pair = self.pair(tmp_path, numbered((3, 4, 6)), affine_towards("RAS"))
        with pytest.raises(DataError, match=r"image\.nii.*\(3, 4, 5\).*labels\.nii.*\(3, 4, 6\)"):
            check_same_space(*pair)

    @pytest.mark.parametrize("change", ["origin", "size", "rotation"])
    def test_another_affine(self, tmp_path, change):
        affine = affine_towards("RAS")
        if change == "origin":
            affine[1, 3] += 0.01
        elif change == "size":
            affine[0, 0] *= 1.01
        else:
            affine = affine_towards("RAS", rotation=Rotation.from_rotvec([0, 0, 0.01]))
        pair = self.pair(tmp_path, numbered(), affine)
        with pytest.raises(DataError, match=r"affines of .*image\.nii and .*labels\.nii differ"):
            check_same_space(*pair)
