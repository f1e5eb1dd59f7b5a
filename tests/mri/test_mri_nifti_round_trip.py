"""Any file is read as nibabel reads it, and written back byte by byte."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.spatialimages import SpatialImage
from nifti_files import AXCODES, EXTENSION, affine_towards, numbered, put, stored_bytes, unpacked
from scipy.spatial.transform import Rotation

from psc.mri.nifti import read_nifti, write_nifti

DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def voxel_sizes(affine):
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


@st.composite
def files(draw):
    """Name, content, and whether the way back has no rounding at all."""
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
    scaled = bool(slope) and np.isfinite(slope) and (slope, intercept) != (1, 0)
    if scaled and dtype.itemsize == 8:
        raw = (raw % 2**40).astype(dtype)  # what float64 holds exactly after scaling
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
    return draw(st.sampled_from(["v.nii", "v.nii.gz"])), content, dtype.kind != "f" or not scaled


class TestRoundTrip:
    @settings(max_examples=150)
    @given(files())
    def test_any_file_is_read_as_nibabel_does_and_written_back(self, tmp_path_factory, file):
        name, content, exact = file
        folder = tmp_path_factory.getbasetemp() / "round"
        folder.mkdir(exist_ok=True)
        path = put(folder / name, content)
        volume = read_nifti(path)

        loaded = nibabel.load(path)
        shape = loaded.shape[:3]
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
        written = unpacked(folder / f"back_{name}")
        if exact:
            assert written == content  # header, extensions and voxels
        else:
            again = nibabel.load(folder / f"back_{name}")
            assert written[:348] == content[:348]
            np.testing.assert_allclose(again.get_fdata(), loaded.get_fdata(), rtol=1e-6, atol=1e-9)

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
        assert unpacked(tmp_path / "b.nii.gz") == content
        (extension,) = nibabel.load(tmp_path / "b.nii.gz").header.extensions
        assert extension.get_content() == b"keep me!" * 3

    def test_same_content_makes_the_same_file(self, tmp_path):
        volume = read_nifti(put(tmp_path / "a.nii", stored_bytes(numbered())))
        for name in ("b.nii.gz", "deeper/c.nii.gz"):
            write_nifti(tmp_path / name, volume.data, like=volume)
        assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "deeper/c.nii.gz").read_bytes()

    @pytest.mark.sample
    def test_real_volumes(self, sample_data, tmp_path):
        for path in sorted((sample_data / "mri/ibsr18/IBSR_16").glob("*.nii.gz")):
            volume = read_nifti(path)
            assert volume.data.shape == (256, 128, 256)
            assert volume.data.dtype == np.int16
            assert volume.voxel_size == pytest.approx((0.8370536, 1.5, 0.8370536))
            loaded = nibabel.load(path)
            np.testing.assert_array_equal(volume.data, np.asarray(loaded.dataobj)[..., 0])
            np.testing.assert_array_equal(volume.affine, loaded.affine)
            write_nifti(tmp_path / "back.nii.gz", volume.data, like=volume)
            assert unpacked(tmp_path / "back.nii.gz") == unpacked(path)
