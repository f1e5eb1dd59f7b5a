"""NIfTI as nibabel reads it, written into its space; what is refused; grids of other voxels."""

import contextlib
import errno
import gzip
import hashlib
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from nibabel.spatialimages import SpatialImage
from nifti_files import (
    AXCODES,
    EXTENSION,
    SHAPE,
    ZOOMS,
    affine_towards,
    numbered,
    put,
    stored_bytes,
    unpacked,
)
from scipy.spatial.transform import Rotation

from psc.errors import ConfigError, DataError
from psc.mri.nifti import (
    LINEAR,
    NEAREST,
    check_same_space,
    read_nifti,
    resampled,
    resampled_shape,
    size_factors,
    write_nifti,
)

DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def voxel_sizes(affine):
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


OF_VALUES = {"datatype", "bitpix", "cal_min", "cal_max", "scl_slope", "scl_inter"}
"""Fields of a header that change with the values; all others stay."""


def changed(before, after):
    """Fields of two files' headers that differ."""
    one, other = before.header, after.header
    return {name for name in one if one[name].tobytes() != other[name].tobytes()}


def is_clear(affine):
    """Whether every axis points to one RAS axis clearly more than to the others."""
    towards = np.sort(np.abs(affine[:3, :3]) / voxel_sizes(affine), axis=0)
    return (towards[2] - towards[1] > 0.02).all()


@st.composite
def files(draw):
    """Name and content."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    spatial = draw(st.tuples(*[st.integers(1, 5)] * 3))
    shape = (*spatial, *[1] * draw(st.integers(0, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.kind == "f":
        raw = rng.normal(0, 1e3, shape).astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        raw = rng.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    slope, intercept = draw(
        st.sampled_from(
            [(np.nan, np.nan), (0, 7), (1, 0), (1, -1024), (0.1, 0), (-2.5, 3e4), (3e-5, 0.7)]
        )
    )
    rotation = draw(
        st.one_of(
            st.none(),
            st.tuples(*[st.floats(-0.6, 0.6)] * 3).map(Rotation.from_rotvec),  # oblique
            st.integers(0, 10**6).map(lambda seed: Rotation.random(rng=seed)),  # any
        )
    )
    affine = affine_towards(draw(st.sampled_from(AXCODES)), spatial, rotation=rotation)
    content = stored_bytes(
        raw,
        affine,
        version=draw(st.sampled_from([1, 2])),
        endianness=draw(st.sampled_from("<>")),
        slope=slope,
        intercept=intercept,
        form=draw(st.sampled_from(["sform", "qform", "both", "neither"])),
        cal_max=draw(st.sampled_from([0, 173])),
    )
    return draw(st.sampled_from(["v.nii", "v.nii.gz"])), content


class TestRoundTrip:
    @settings(max_examples=20)
    @given(files())
    def test_any_file_is_read_as_nibabel_does_and_written_back(self, tmp_path_factory, file):
        name, content = file
        folder = tmp_path_factory.getbasetemp() / "round"
        folder.mkdir(exist_ok=True)
        path = put(folder / name, content)
        volume = read_nifti(path)

        loaded = nibabel.load(path)
        shape = loaded.shape[:3]
        assume(is_clear(loaded.affine))
        stored = loaded.dataobj.get_unscaled().reshape(shape)
        oracle = nibabel.as_closest_canonical(SpatialImage(stored, loaded.affine))
        slope, intercept = loaded.dataobj.slope, loaded.dataobj.inter
        values = np.asarray(oracle.dataobj)
        if (slope, intercept) != (1, 0):
            values = values.astype(np.float64) * slope + intercept
        np.testing.assert_array_equal(volume.data, values)
        assert volume.data.dtype == values.dtype.newbyteorder("=")
        np.testing.assert_allclose(volume.affine, oracle.affine, atol=1e-9)
        np.testing.assert_allclose(volume.voxel_size, voxel_sizes(oracle.affine), rtol=1e-6)

        write_nifti(folder / f"back_{name}", volume.data, like=volume)
        again = nibabel.load(folder / f"back_{name}")
        stored = loaded.dataobj.get_unscaled()
        if (slope, intercept) != (1, 0):
            stored = stored.astype(np.float64) * slope + intercept
        np.testing.assert_array_equal(again.dataobj.get_unscaled(), stored)
        np.testing.assert_array_equal(again.affine, loaded.affine)
        assert changed(loaded, again) <= OF_VALUES

    @pytest.mark.parametrize("axcodes", AXCODES)
    def test_every_voxel_stays_where_it_is(self, tmp_path, axcodes):
        raw = numbered()
        affine = affine_towards(axcodes, rotation=Rotation.from_rotvec([0.1, -0.2, 0.15]))
        assert nibabel.aff2axcodes(affine) == tuple(axcodes)
        volume = read_nifti(put(tmp_path / "v.nii", stored_bytes(raw, affine)))
        assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
        for value in (1, 2, 17, raw.size):
            before = affine @ [*np.argwhere(raw == value)[0], 1]
            after = volume.affine @ [*np.argwhere(volume.data == value)[0], 1]
            np.testing.assert_allclose(after, before, atol=1e-5)  # headers store float32

    def test_there_are_48_orientations(self):
        assert len(set(AXCODES)) == 48

    def test_extensions_and_unusual_fields_stay(self, tmp_path):
        content = stored_bytes(
            numbered((3, 4, 5, 1), "f4"),
            affine_towards("PIL"),
            extension=EXTENSION,
            intent_code=1007,
            aux_file=b"colours.lut",
            dim_info=57,
            toffset=3.5,
        )
        volume = read_nifti(put(tmp_path / "a.nii.gz", content))
        write_nifti(tmp_path / "b.nii.gz", volume.data, like=volume)
        assert unpacked(tmp_path / "b.nii.gz")[348:] == content[348:]
        assert (
            changed(nibabel.load(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "b.nii.gz"))
            <= OF_VALUES
        )
        (extension,) = nibabel.load(tmp_path / "b.nii.gz").header.extensions
        assert extension.get_content() == b"keep me!" * 3

    def test_same_content_makes_the_same_file(self, tmp_path):
        volume = read_nifti(put(tmp_path / "a.nii", stored_bytes(numbered())))
        for name in ("b.nii.gz", "deeper/c.nii.gz"):
            write_nifti(tmp_path / name, volume.data, like=volume)
        assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "deeper/c.nii.gz").read_bytes()

    @pytest.mark.sample
    def test_a_real_volume(self, sample_data, tmp_path):
        path = sample_data / "mri/ibsr18/IBSR_16/IBSR_16_seg.nii.gz"
        volume = read_nifti(path)
        assert volume.data.shape == (256, 128, 256)
        assert volume.data.dtype == np.int16
        assert volume.voxel_size == pytest.approx((0.8370536, 1.5, 0.8370536))
        loaded = nibabel.load(path)
        stored = np.asarray(loaded.dataobj)
        np.testing.assert_array_equal(volume.data, stored[..., 0])
        np.testing.assert_array_equal(volume.affine, loaded.affine)
        write_nifti(tmp_path / "back.nii", volume.data, like=volume)
        again = nibabel.load(tmp_path / "back.nii")
        assert changed(loaded, again) <= OF_VALUES
        np.testing.assert_array_equal(np.asarray(again.dataobj), stored)


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

    @settings(max_examples=20)
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

    @settings(max_examples=30)
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
    "voxels of no size": (
        {"form": "qform", "pixdim": [1, 1, 0, 1, 0, 0, 0, 0]},
        "voxel sizes.*pixdim",
    ),
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


UNUSED = {
    "voxel sizes of zero beside an sform": {"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]},
    "no voxel sizes beside an sform": {"pixdim": [1, *[np.nan] * 7]},
    "negative voxel sizes": {"pixdim": [1, -0.9375, -1.5, -1.25, 0, 0, 0, 0]},
    "no rotation in a quaternion beside an sform": {"qform_code": 1, "quatern_b": 2.0},
    "no handedness": {"form": "qform", "pixdim": [0, *ZOOMS, 0, 0, 0, 0]},
    "an undefined unit": {"xyzt_units": 7},
    "an undefined unit of time": {"xyzt_units": 2 + 56},
    "an undefined code of the sform": {"form": "both", "sform_code": 99},
    "another number of bits": {"bitpix": 7},
    "axes beyond the last": {"dim": [3, *SHAPE, 0, -3, 7, 9]},
    "a gap before the voxels": {"vox_offset": 352},
    "a display range the wrong way round": {"cal_min": 9, "cal_max": -np.inf},
    "slices in no order": {"slice_code": 77, "slice_start": -5, "slice_duration": np.nan},
    "an undefined intent": {"intent_code": 30000, "intent_p1": np.nan},
    "a description in no encoding": {"descrip": bytes(range(176, 256))},
    "Analyze's fields": {"extents": -1, "regular": b"\xff", "glmax": -1, "session_error": 9},
}


@pytest.mark.parametrize("case", UNUSED)
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_what_is_not_used_refuses_no_file(tmp_path, case, name):
    """Real files have such headers; nibabel reads them, and so do we."""
    path = put(tmp_path / name, stored_bytes(numbered(), **UNUSED[case]) + b"and more behind it")
    loaded = nibabel.load(path)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.data, loaded.get_fdata())
    np.testing.assert_array_equal(volume.affine, loaded.affine)
    write_nifti(tmp_path / f"back_{name}", volume.data, like=volume)
    again = nibabel.load(tmp_path / f"back_{name}")
    np.testing.assert_array_equal(again.get_fdata(), loaded.get_fdata())
    assert changed(loaded, again) <= OF_VALUES


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
            (b"", "not a NIfTI file: of its 0 bytes"),
            (b"\n<!DOCTYPE html><html>", "first are.*<!DOCTYPE"),
            (b"\0" * 128 + b"DICM" + b"\0" * 300, "dcm2niix"),
            (b"\x5c\x01\0\0" + b"\0" * 344, "not a NIfTI file"),  # Analyze
            (b"hello", "first are b'hello'"),
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
        with pytest.raises(DataError, match=r"v\.img is not a NIfTI file.*mri_convert of pairs"):
            read_nifti(tmp_path / "v.img")

    def test_mgz(self, tmp_path):
        nibabel.save(nibabel.MGHImage(numbered(dtype="f4"), np.eye(4)), tmp_path / "v.mgz")
        with pytest.raises(DataError, match="mri_convert"):
            read_nifti(tmp_path / "v.mgz")

    def test_missing_or_a_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.nii cannot be read \(No such file"):
            read_nifti(tmp_path / "none.nii")
        with pytest.raises(DataError, match=r"\(Is a directory\); correct the path"):
            read_nifti(tmp_path)


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
        write_nifti(tmp_path / "labels.nii.gz", labels, like=volume)
        image, written = nibabel.load(volume.path), nibabel.load(tmp_path / "labels.nii.gz")
        np.testing.assert_array_equal(written.dataobj, np.asarray(image.dataobj) % 4)
        assert written.dataobj.dtype == dtype
        np.testing.assert_array_equal(written.affine, image.affine)
        assert written.shape == image.shape
        assert changed(image, written) <= OF_VALUES
        assert written.header["cal_max"] == 0
        assert written.header.get_slope_inter() in ((1, 0), (None, None))
        assert written.header.extensions == image.header.extensions

    def test_labels_of_a_scaled_image_are_not_scaled(self, tmp_path):
        content = stored_bytes(numbered(), slope=0.01, intercept=-7)
        like = read_nifti(put(tmp_path / "v.nii", content))
        labels = (numbered() % 4).astype(np.uint8)
        write_nifti(tmp_path / "l.nii", labels, like=like)
        np.testing.assert_array_equal(nibabel.load(tmp_path / "l.nii").get_fdata(), labels)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full(SHAPE, np.nan), "60 voxels are NaN"),
            (np.full(SHAPE, 1, np.bool_), "bool cannot be written as NIfTI"),
            (np.full(SHAPE, 1, np.float16), "float16 cannot be written as NIfTI"),
            (np.full(SHAPE, 1, np.longdouble), "cannot be written as NIfTI"),
            (np.full((4, 4, 4), 1), r"\(4, 4, 4\) cannot be written into the space of"),
        ],
    )
    def test_refused_values(self, tmp_path, values, message):
        like = read_nifti(put(tmp_path / "v.nii", stored_bytes(numbered())))
        with pytest.raises(DataError, match=message):
            write_nifti(tmp_path / "w.nii", values, like=like)
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
        with pytest.raises(DataError, match=r"w\.nii\.gz cannot be written .*No space.*make room"):
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
        with pytest.raises(DataError, match="cannot be written"):
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

    @pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
    @pytest.mark.parametrize("change", ["origin", "size", "rotation"])
    def test_another_affine(self, tmp_path, change, axcodes):
        affine = affine_towards(axcodes)
        if change == "origin":
            affine[1, 3] += 0.01
        elif change == "size":
            affine[0] *= 1.01
        else:
            affine = affine_towards(axcodes, rotation=Rotation.from_rotvec([0, 0, 0.01]))
        pair = self.pair(tmp_path, numbered(), affine, affine_towards(axcodes))
        with pytest.raises(DataError, match=r"affines of .*image\.nii and .*labels\.nii differ"):
            check_same_space(*pair)


def of_a_head(rotation, first=(-120.0, 90.0, 33.0)):
    """An affine of few voxels, as far apart as a head is large."""
    affine = np.eye(4)
    affine[:3, :3] = rotation.as_matrix() @ np.diag([80, 80, 60])
    affine[:3, 3] = first
    return affine


TURNS = {
    "upright": Rotation.identity(),
    "left and posterior": Rotation.from_euler("z", 180, degrees=True),
    "anterior and inferior": Rotation.from_euler("x", 180, degrees=True),
    "nearly left and posterior": Rotation.from_euler("zyx", [178.5, 0.7, -1.2], degrees=True),
    "less than a quaternion tells from it": Rotation.from_euler("z", 179.97, degrees=True),
    "just more": Rotation.from_euler("zx", [179.9, 0.05], degrees=True),
    "sagittal": Rotation.from_euler("zyx", [90, 1, 90], degrees=True),
    "between two axes": Rotation.from_euler("x", 45, degrees=True),
    "between two axes, left and posterior": Rotation.from_euler("xz", [45, 180], degrees=True),
    "any": Rotation.from_rotvec([1.0, -2.0, 0.5]),
}


class TestQuaternions:
    """The same grid, in one header as a matrix and in the other as a quaternion of float32."""

    def pair(self, folder, affine, labels_affine=None, kind=nibabel.Nifti1Image):
        volumes = []
        for name, (sform, qform), there in (
            ("image", (1, 1), affine),
            ("labels", (0, 1), affine if labels_affine is None else labels_affine),
        ):
            image = kind(np.ones((4, 4, 4), np.uint8), there)
            image.set_sform(there, sform)
            image.set_qform(there, qform)
            nibabel.save(image, folder / f"{name}.nii")
            volumes.append(read_nifti(folder / f"{name}.nii"))
        return volumes

    @pytest.mark.parametrize("turn", TURNS)
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_rounding_is_no_other_space(self, tmp_path, turn, mirrored):
        affine = of_a_head(TURNS[turn])
        if mirrored:
            affine[:3, 2] *= -1
        image, labels = self.pair(tmp_path, affine)
        check_same_space(image, labels)
        check_same_space(labels, image)

    def test_it_was_above_the_tolerance_of_a_matrix(self, tmp_path):
        """So that the tests above show something: half a turn less 0.03° becomes half a turn."""
        affine = of_a_head(TURNS["less than a quaternion tells from it"])
        image, labels = self.pair(tmp_path, affine)
        assert np.linalg.norm((image.affine - labels.affine) @ [0, 0, 0, 1]) > 0.1

    @settings(max_examples=30)
    @given(
        st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1),
        st.floats(-7, 0.5),
        st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    )
    def test_any_turn_near_a_half_one(self, tmp_path_factory, axis, exponent, kind):
        angle = np.pi - 10**exponent
        rotation = Rotation.from_rotvec(angle * np.array(axis) / np.linalg.norm(axis))
        folder = tmp_path_factory.getbasetemp() / "turns"
        folder.mkdir(exist_ok=True)
        check_same_space(*self.pair(folder, of_a_head(rotation), kind=kind))

    @pytest.mark.parametrize("turn", TURNS)
    def test_half_a_millimetre_beside_is_refused(self, tmp_path, turn):
        affine = of_a_head(TURNS[turn])
        moved = affine.copy()
        moved[0, 3] += 0.5
        with pytest.raises(DataError, match=r"affines of .* differ"):
            check_same_space(*self.pair(tmp_path, affine, moved))


GRID = (9, 7, 8)


def affine_of(sizes, rotation=(0.0, 0.0, 0.0)):
    affine = np.diag([*sizes, 1.0])
    affine[:3, :3] = Rotation.from_rotvec(rotation).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 4.0, 17.25)
    return affine


OLD = affine_of((0.9375, 1.5, 1.0), (0.2, -0.1, 0.3))


def random_volume(shape=GRID, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def places(shape, affine):
    """World coordinates (D, H, W, 3) of every voxel's centre."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def ramp(shape, affine):
    """A linear function of the place, which linear interpolation reproduces."""
    return places(shape, affine) @ [0.3, -0.7, 1.1] + 5


def inside_centres(shape, affine, old_shape, old_affine):
    """New voxels between the centres of old ones, where nothing is extrapolated."""
    indices = places(shape, np.linalg.inv(old_affine) @ affine)
    return ((indices > 1e-6) & (indices < np.array(old_shape) - 1 - 1e-6)).all(axis=-1)


def to_voxel_size(data, affine, size, order):
    """Resampled data, and their affine: the same directions and first corner."""
    factors = size_factors(tuple(voxel_sizes(affine)), size)
    shape = resampled_shape(data.shape, factors)
    return resampled(data, factors, shape, order=order), resized(affine, size)


def resized(affine, size):
    target = affine.copy()
    target[:3, :3] *= size / voxel_sizes(affine)
    target[:3, 3] += (affine - target)[:3, :3].sum(axis=1) * -0.5
    return target


class TestToVoxelSize:
    @settings(max_examples=30)
    @given(st.tuples(*[st.floats(0.4, 3)] * 3), st.tuples(*[st.floats(0.4, 3)] * 3))
    def test_the_field_of_view_is_covered_and_by_less_than_a_voxel_more(self, old, new):
        shape = resampled_shape(GRID, size_factors(old, new))
        surplus = np.array(shape) * new - np.array(GRID) * old
        assert (surplus >= -2e-3 * np.array(new)).all()
        assert (surplus < np.array(new)).all()

    @pytest.mark.parametrize("size", [(1, 1, 1), (0.6, 2, 1.3), (2.5, 0.7, 3)])
    def test_a_linear_function_of_the_place_is_kept(self, size):
        data, affine = to_voxel_size(ramp(GRID, OLD), OLD, size, LINEAR)
        corner = [-0.5, -0.5, -0.5, 1]
        np.testing.assert_allclose(affine @ corner, OLD @ corner, atol=1e-9)
        inside = inside_centres(data.shape, affine, GRID, OLD)
        assert inside.sum() > 20
        np.testing.assert_allclose(data[inside], ramp(data.shape, affine)[inside], rtol=1e-5)
        assert data.dtype == np.float32

    @pytest.mark.parametrize("order", [LINEAR, NEAREST])
    def test_equals_nibabel_between_old_centres(self, order):
        old = random_volume()
        data, affine = to_voxel_size(old, OLD, (1.1, 1.1, 1.1), order)
        oracle = resample_from_to(SpatialImage(old, OLD), (data.shape, affine), order=order)
        inside = inside_centres(data.shape, affine, GRID, OLD)
        assert inside.sum() > 100
        np.testing.assert_allclose(data[inside], oracle.get_fdata()[inside], atol=1e-5)

    def test_twice_as_fine_repeats_labels(self):
        labels = np.random.default_rng(1).integers(0, 4, GRID, dtype=np.uint8)
        fine, _ = to_voxel_size(labels, affine_of((2, 2, 2)), (1, 2, 1), NEAREST)
        np.testing.assert_array_equal(fine, labels.repeat(2, axis=0).repeat(2, axis=2))
        assert fine.dtype == np.uint8

    def test_twice_as_fine_by_hand(self):
        column = np.array([0, 4, 8], dtype=np.int16).reshape(3, 1, 1)
        fine, _ = to_voxel_size(column, affine_of((2, 1, 1)), (1, 1, 1), LINEAR)
        # New centres lie a quarter of an old voxel beside old ones; the border is repeated.
        np.testing.assert_allclose(fine.ravel(), [0, 1, 3, 5, 7, 8])

    def test_what_lies_outside_is_zero(self):
        column = np.full((5, 1, 1), 7, dtype=np.int16)
        # 5 mm in voxels of 3.2 mm: the centre of the second, at 4.8 mm, is inside ...
        inside, _ = to_voxel_size(column, affine_of((1, 1, 1)), (3.2, 1, 1), LINEAR)
        np.testing.assert_allclose(inside.ravel(), [7, 7])
        # ... that of the second of 3.8 mm, at 5.7 mm, is not.
        outside, _ = to_voxel_size(column, affine_of((1, 1, 1)), (3.8, 1, 1), LINEAR)
        np.testing.assert_allclose(outside.ravel(), [7, 0])

    def test_masks_stay_masks(self):
        mask = random_volume() > 0
        coarse, _ = to_voxel_size(mask, OLD, (2, 2, 2), NEAREST)
        assert coarse.dtype == np.bool_
        numbers, _ = to_voxel_size(mask.astype(np.uint8), OLD, (2, 2, 2), NEAREST)
        np.testing.assert_array_equal(coarse, numbers == 1)

    def test_the_size_that_it_has_changes_nothing(self):
        old = random_volume()
        size = tuple(float(s) for s in np.float32([0.9375, 1.5, 1.0]) * np.float32(1 + 1e-7))
        np.testing.assert_array_equal(to_voxel_size(old, OLD, size, LINEAR)[0], old)

    def test_metres_for_millimetres(self):
        with pytest.raises(ConfigError, match=r"dataset\.voxel_size.*give it in mm"):
            resampled_shape(GRID, size_factors((1, 1, 1), (0.001, 0.001, 0.001)))

    @pytest.mark.parametrize("size", [(1, 1, 1), (0.5, 3, 1.7), (3, 3, 3)])
    def test_no_voxel_of_the_original_is_outside_on_the_way_back(self, size):
        factors = size_factors(tuple(voxel_sizes(OLD)), size)
        ones = np.ones(resampled_shape(GRID, factors))
        np.testing.assert_array_equal(resampled(ones, 1 / factors, GRID, order=LINEAR), 1)

    def test_there_and_back_for_a_linear_function(self):
        original = ramp(GRID, OLD)
        factors = size_factors(tuple(voxel_sizes(OLD)), (0.8, 1.0, 0.8))
        there = resampled(original, factors, resampled_shape(GRID, factors), order=LINEAR)
        again = resampled(there, 1 / factors, GRID, order=LINEAR)
        np.testing.assert_allclose(again[2:-2, 2:-2, 2:-2], original[2:-2, 2:-2, 2:-2], rtol=1e-5)
