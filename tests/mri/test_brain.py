"""Which voxels are brain where the background is not exactly zero; written and read by nibabel."""

import logging

import nibabel
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from tiny_brains import labels_of

from psc.errors import DataError
from psc.mri.brain import find_brain
from psc.mri.data import read_subject
from psc.mri.finding import SubjectFiles
from psc.mri.nifti import read_nifti

LABELS = labels_of(1)
TRUE = LABELS != 0
RNG = np.random.default_rng(1)
NOISE = RNG.normal(0, 1, LABELS.shape)
CLEAN = np.where(TRUE, np.array([0, 45, 70, 95.0])[LABELS] + 4 * NOISE, 0).astype(np.float32)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def saved(path, data, slope=None):
    image = nibabel.Nifti1Image(data, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


def brain_of(folder, data, **options):
    return find_brain(read_nifti(saved(folder / "t1.nii.gz", data)), **options)


def rician(sigma):
    return np.hypot(CLEAN + sigma * NOISE, sigma * RNG.normal(0, 1, CLEAN.shape))


def scattered(share):
    return np.where(~TRUE & (RNG.random(TRUE.shape) < share), 1, np.rint(CLEAN)).astype(np.int16)


EXACT = {
    "as stripping leaves it": CLEAN,
    "integers": np.rint(CLEAN).astype(np.uint8),
    "negative zeros": np.where(TRUE, CLEAN, np.float32(-0.0)),
    "a dark hole in the middle": np.where(LABELS == 3, CLEAN, CLEAN * (LABELS == 2)),
    "standardised inside": np.where(TRUE, (CLEAN - 75) / 20, 0).astype(np.float32),
    "cropped into the brain": CLEAN[4:-4, 3:-3, 4:-4],
    "a slab of it": CLEAN[:, :, 9:15],
    "cut to its box": CLEAN[2:-2, :, 4:-4],
}


@pytest.mark.parametrize("case", EXACT)
def test_where_the_background_is_zero_everything_else_is_brain(tmp_path, case, caplog):
    found = brain_of(tmp_path, EXACT[case])
    np.testing.assert_array_equal(found.mask, EXACT[case] != 0)
    assert found.is_exact
    assert found.level == 0
    assert not caplog.records


OTHER = {
    "noise of 1e-4, as bias correction leaves it": np.where(TRUE, CLEAN, 1e-4 * NOISE),
    "1e-4 more everywhere": CLEAN + 1e-4,
    "shifted as CT is": CLEAN - 1024,
    "shifted integers": (np.rint(CLEAN) - 1024).astype(np.int16),
    "another constant": np.where(TRUE, np.rint(CLEAN), 7).astype(np.uint8),
    "standardised as a whole": (CLEAN - CLEAN.mean()) / CLEAN.std(),
    "a magnitude's noise": rician(1.5).astype(np.float32),
    "a magnitude's noise in integers": np.rint(rician(1.0)).astype(np.int16),
    "noise that is zero mostly": scattered(0.3),
    "noise in most integers": scattered(0.7),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_background_is_found_and_said(tmp_path, case, caplog):
    found = brain_of(tmp_path, np.asarray(OTHER[case], dtype=OTHER[case].dtype))
    np.testing.assert_array_equal(found.mask, TRUE)
    assert not found.is_exact
    (record,) = caplog.records
    message = record.getMessage()
    assert str(tmp_path / "t1.nii.gz") in message
    assert f"{100 * TRUE.mean():.1f} % of the voxels" in message
    assert "dataset.brain_above" in message


def test_scaling_may_move_the_background(tmp_path):
    """Zero in the file need not be zero: the header adds an intercept."""
    path = tmp_path / "t1.nii"
    nibabel.Nifti1Image(np.rint(CLEAN).astype(np.int16), AFFINE).to_filename(path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.1, -3.3], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    assert nibabel.load(path).get_fdata().min() == pytest.approx(-3.3)
    found = find_brain(read_nifti(path))
    np.testing.assert_array_equal(found.mask, TRUE)
    assert found.level == pytest.approx(-3.3)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("degrees", [(4, 0, 0), (7, -3, 11)])
def test_a_spline_s_ringing_is_no_brain(tmp_path, rounded, degrees, caplog):
    """Against the nearest voxel's mask, by nibabel's own resampling."""
    turned = AFFINE.copy()
    turned[:3, :3] = nibabel.eulerangles.euler2mat(*np.deg2rad(degrees))
    big, mask = np.pad(CLEAN, 9), np.pad(TRUE, 9).astype(np.uint8)
    space = (big.shape, turned)
    splined = resample_from_to(nibabel.Nifti1Image(big, AFFINE), space, order=3).get_fdata()
    true = resample_from_to(nibabel.Nifti1Image(mask, AFFINE), space, order=0).get_fdata() > 0
    data = np.rint(splined).astype(np.int16) if rounded else splined.astype(np.float32)
    found = brain_of(tmp_path, data)
    assert np.count_nonzero(data) > 1.3 * np.count_nonzero(true)  # what differs from zero is more
    assert np.count_nonzero(found.mask ^ true) < 0.12 * np.count_nonzero(true)
    assert "as noise or a spline leaves it" in caplog.text


def test_specks_far_from_the_brain_are_dropped_and_counted(tmp_path, caplog):
    found = brain_of(tmp_path, scattered(0.04))
    assert not (TRUE & ~found.mask).any()
    assert np.count_nonzero(found.mask) < 1.03 * np.count_nonzero(TRUE)
    assert "voxels that differ from it lie apart from the brain" in caplog.text


UNDECIDED = {
    "all of it is brain": CLEAN[8:14, 6:12, 8:16],
    "noise as bright as fluid": rician(20).astype(np.float32),
    "nothing but noise": NOISE.astype(np.float32),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_what_cannot_be_told_is_refused_with_the_key_that_settles_it(tmp_path, case, caplog):
    data = UNDECIDED[case]
    with pytest.raises(DataError, match=r"t1\.nii\.gz: the brain cannot be told.*brain_above="):
        brain_of(tmp_path, data)
    caplog.clear()
    found = brain_of(tmp_path, data, above=0.5)
    np.testing.assert_array_equal(found.mask, data > 0.5)
    assert not caplog.records


@pytest.mark.parametrize("value", [0, -3, 7])
def test_no_brain_at_all(tmp_path, value):
    with pytest.raises(DataError, match=f"every voxel is {value}"):
        brain_of(tmp_path, np.full((4, 5, 6), value, np.int16))
    with pytest.raises(DataError, match="no voxel is above brain_above=9"):
        brain_of(tmp_path, np.full((4, 5, 6), value, np.int16), above=9)


class TestSubjects:
    """What a network sees, and what is filled, is that of the clean volume."""

    UNFILLED = np.where((LABELS == 1) & (np.indices(LABELS.shape).sum(0) % 7 > 0), 0, LABELS)

    def subject(self, folder, image, **options):
        name = folder.name
        saved(folder / f"{name}.nii.gz", image)
        saved(folder / f"{name}_seg.nii.gz", self.UNFILLED.astype(np.uint8))
        files = SubjectFiles(
            name, folder / f"{name}.nii.gz", unfilled=folder / f"{name}_seg.nii.gz"
        )
        return read_subject(files, **({"labels": "filled"} | options))

    @pytest.mark.parametrize("voxel_size", [None, (1.5, 1.0, 1.25)])
    @pytest.mark.parametrize(
        ("change", "options"),
        [
            (lambda x: np.where(TRUE, x, 1e-4 * NOISE).astype(np.float32), {}),
            (lambda x: x - 1024, {}),
            (lambda x: x + 1e-4, {}),
            (lambda x: np.where(TRUE, x, 1e-4 * NOISE), {"brain_above": 1}),
        ],
    )
    def test_equal_the_clean_ones(self, tmp_path, change, options, voxel_size):
        for name in ("clean", "other"):
            (tmp_path / name).mkdir()
        clean = self.subject(tmp_path / "clean", CLEAN, voxel_size=voxel_size)
        other = self.subject(tmp_path / "other", change(CLEAN), voxel_size=voxel_size, **options)
        np.testing.assert_array_equal(other.brain, clean.brain)
        np.testing.assert_array_equal(other.native_brain, TRUE)
        np.testing.assert_array_equal(other.labels, clean.labels)
        assert other.label_kind == clean.label_kind.replace("clean", "other")
        assert other.became_fluid == clean.became_fluid > 500
        np.testing.assert_allclose(other.image, clean.image, atol=1e-4)
        assert other.background == pytest.approx(clean.background, abs=1e-4)
        if voxel_size is None:  # a constant again, which augmentation leaves alone
            assert set(other.image[~other.brain]) == {np.float32(other.background)}


@pytest.mark.sample
def test_real_brains_are_what_is_not_zero_and_stay_so_with_noise(sample_data, caplog):
    path = sample_data / "mri/ibsr18/IBSR_07/IBSR_07.nii.gz"
    volume = read_nifti(path)
    with caplog.at_level(logging.WARNING):
        found = find_brain(volume)
    np.testing.assert_array_equal(found.mask, volume.data != 0)
    assert not caplog.records
