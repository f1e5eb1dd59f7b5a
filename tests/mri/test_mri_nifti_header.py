"""What is read, and what is refused, file by file."""

import contextlib
import gzip
import hashlib
import logging

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import SHAPE, ZOOMS, numbered, put, stored_bytes

from psc.errors import DataError
from psc.mri.nifti import read_nifti


class TestRead:
    def test_what_the_record_says(self, tmp_path):
        path = put(tmp_path / "IBSR_01.nii.gz", stored_bytes(numbered()))
        content = path.read_bytes()
        volume = read_nifti(path)
        digest = hashlib.sha256(content).hexdigest()
        assert volume.file == {"name": path.name, "bytes": len(content), "sha256": digest}
        assert volume.description == "made by a test"
        assert volume.path == path
        assert volume.voxel_size == pytest.approx(ZOOMS)

    def test_scaling(self, tmp_path):
        content = stored_bytes(numbered(), slope=0.5, intercept=-10)
        volume = read_nifti(put(tmp_path / "v.nii", content))
        np.testing.assert_array_equal(volume.data, numbered() * 0.5 - 10)
        assert volume.data.dtype == np.float64

    @pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (0, 5), (1, 0)])
    def test_no_scaling_keeps_the_dtype(self, tmp_path, slope, intercept):
        content = stored_bytes(numbered(), slope=slope, intercept=intercept, endianness=">")
        volume = read_nifti(put(tmp_path / "v.nii", content))
        np.testing.assert_array_equal(volume.data, numbered())
        assert volume.data.dtype == np.dtype("=i2")
        volume.data[0, 0, 0] = 7  # memory of its own

    def test_a_gzip_by_its_content_whatever_its_name(self, tmp_path):
        path = tmp_path / "v.nii"
        path.write_bytes(gzip.compress(stored_bytes(numbered())))
        np.testing.assert_array_equal(read_nifti(path).data, numbered())

    def test_a_single_slice_is_a_volume(self, tmp_path):
        content = stored_bytes(numbered((4, 5, 1)))
        assert read_nifti(put(tmp_path / "v.nii", content)).data.shape == (4, 5, 1)

    def test_no_affine_is_said_aloud(self, tmp_path, caplog):
        path = put(tmp_path / "v.nii", stored_bytes(numbered(), form="neither", pixdim=[1] * 8))
        with caplog.at_level(logging.WARNING):
            volume = read_nifti(path)
        assert "neither qform nor sform" in caplog.text
        assert str(path) in caplog.text
        assert volume.voxel_size == (1, 1, 1)

    def test_a_stated_affine_is_not_warned_about(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            read_nifti(put(tmp_path / "v.nii", stored_bytes(numbered())))
        assert not caplog.records

    @settings(max_examples=200)
    @given(st.data())
    def test_a_flipped_byte_never_changes_a_voxel(self, tmp_path_factory, data):
        content = stored_bytes(numbered((6, 6, 6)))
        packed = bytearray(gzip.compress(content, mtime=0))
        # The first ten bytes are gzip's own header, which no checksum covers.
        position = data.draw(st.integers(10, len(packed) - 1))
        packed[position] ^= data.draw(st.integers(1, 255))
        path = tmp_path_factory.getbasetemp() / "flipped.nii.gz"
        path.write_bytes(packed)
        # Only padding between deflate's last bit and the checksum may change unnoticed.
        if position == len(packed) - 9:
            with contextlib.suppress(DataError):
                np.testing.assert_array_equal(read_nifti(path).data, numbered((6, 6, 6)))
        else:
            with pytest.raises(DataError, match=r"flipped\.nii\.gz.*damaged.*again"):
                read_nifti(path)

    @settings(max_examples=200)
    @given(st.integers(0, 351), st.integers(0, 255), st.sampled_from([1, 2]))
    def test_a_damaged_header_is_a_data_error_or_harmless(
        self, tmp_path_factory, position, value, version
    ):
        content = bytearray(stored_bytes(numbered(), version=version))
        content[position] = value
        path = tmp_path_factory.getbasetemp() / "header.nii"
        path.write_bytes(content)
        with contextlib.suppress(DataError):  # and no other error
            volume = read_nifti(path)
            assert volume.data.ndim == 3
            assert np.isfinite(volume.affine).all()
            assert min(volume.voxel_size) > 0


BAD_HEADERS = {
    "two channels": ({"raw": numbered((3, 4, 5, 2))}, r"\(3, 4, 5, 2\).*one is expected"),
    "a time series": ({"raw": numbered((3, 4, 5, 7))}, "several volumes or channels.*extract"),
    "a vector": ({"raw": numbered((3, 4, 5, 1, 3))}, "several volumes or channels"),
    "two axes": ({"raw": numbered((4, 5))}, "three axes"),
    "complex": ({"raw": numbered(dtype="c8")}, "complex64.*magnitude"),
    "NaN": ({"raw": np.full(SHAPE, np.nan, "f4")}, "60 voxels are NaN or infinite.*repair"),
    "infinity": ({"raw": np.full(SHAPE, -np.inf, "f8")}, "NaN or infinite.*repair"),
    "scaled beyond float64": (
        {"raw": np.full(SHAPE, 1e300), "version": 2, "slope": 1e300, "intercept": 0},
        "infinite",
    ),
    "singular": ({"affine": np.diag([1.0, 1, 0, 1])}, "singular.*sform"),
    "parallel axes": (
        {"affine": np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])},
        "singular",
    ),
    "NaN in the affine": ({"srow_x": [np.nan, 0, 0, 0]}, "singular"),
    "voxels of no size": ({"pixdim": [1, 1, 0, 1, 0, 0, 0, 0]}, "voxel sizes.*pixdim"),
    "metres": ({"xyzt_units": 1}, "metres.*millimetres"),
    "micrometres": ({"xyzt_units": 3 + 8}, "micrometres"),
    "unknown dtype": ({"datatype": 3}, "header is damaged"),
    "no quaternion": ({"form": "qform", "quatern_b": 2.0}, "header is damaged"),
    "endless intercept": ({"slope": 2, "intercept": np.inf}, "header is damaged"),
    "voxels in the header": ({"vox_offset": 8}, "header"),
    "voxels nowhere": ({"vox_offset": np.nan}, "header is damaged"),
    "negative axis": ({"dim": [3, 3, -4, 5, 1, 1, 1, 1]}, "three axes of at least one"),
    "promises more": ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "truncated: the header"),
}


class TestRefused:
    @pytest.mark.parametrize("case", BAD_HEADERS)
    def test_header(self, tmp_path, case):
        changes, message = BAD_HEADERS[case]
        content = stored_bytes(**{"raw": numbered(), **changes})
        path = put(tmp_path / "bad.nii.gz", content)
        with pytest.raises(DataError, match=message) as caught:
            read_nifti(path)
        assert str(path) in str(caught.value)

    def test_colours(self, tmp_path):
        rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "v.nii")
        with pytest.raises(DataError, match=r"v\.nii holds colours.*convert"):
            read_nifti(tmp_path / "v.nii")

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
    @pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
    def test_truncated(self, tmp_path, share, name):
        rng = np.random.default_rng(0)
        raw = rng.integers(0, 999, (9, 9, 9), dtype=np.int16)
        path = put(tmp_path / name, stored_bytes(raw))
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"v\.nii.*(truncated|not a NIfTI)"):
            read_nifti(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"PK\x03\x04" + b"\0" * 400, "zip archive"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"\0" * 128 + b"DICM" + b"\0" * 300, "DICOM.*dcm2niix"),
            (b"\x5c\x01\0\0" + b"\0" * 344, "Analyze"),
            (b"hello", "begins with the bytes 68 65 6c 6c 6f"),
            (b"\x1f\x8b", "truncated or damaged"),
        ],
    )
    def test_other_files(self, tmp_path, content, message):
        path = tmp_path / "v.nii.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"v\.nii\.gz.*{message}"):
            read_nifti(path)

    @pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
    def test_pairs(self, tmp_path, kind):
        kind(numbered(), np.eye(4)).to_filename(tmp_path / "v.hdr")
        with pytest.raises(DataError, match=r"v\.hdr is the header of a NIfTI pair.*convert"):
            read_nifti(tmp_path / "v.hdr")
        with pytest.raises(DataError, match=r"v\.img is not a NIfTI file: it belongs to a pair"):
            read_nifti(tmp_path / "v.img")

    def test_mgz(self, tmp_path):
        nibabel.save(nibabel.MGHImage(numbered(dtype="f4"), np.eye(4)), tmp_path / "v.mgz")
        with pytest.raises(DataError, match="mri_convert"):
            read_nifti(tmp_path / "v.mgz")

    def test_missing_or_a_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.nii does not exist"):
            read_nifti(tmp_path / "none.nii")
        with pytest.raises(DataError, match="is a folder"):
            read_nifti(tmp_path)
