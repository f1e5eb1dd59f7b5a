"""Whether a copy of IBSR is complete and in order, on tiny volumes."""

import nibabel
import numpy as np
import pytest

from psc.errors import DataError
from psc.mri.data import EXPECTED, SubjectFiles, find_subjects, incomplete, table, verify

AFFINE = np.diag([0.9375, 1.5, 0.9375, 1.0])


@pytest.fixture
def volumes(tmp_path):
    """Function: write an image and labels under course or NITRC names; returns what is found."""
    image = np.zeros((6, 4, 5, 1), dtype=np.int16)
    image[1:5, 1:3, 1:4] = np.random.default_rng(0).integers(20, 99, (4, 2, 3, 1))

    def write(**changes):
        by_name = {
            "IBSR_01_ana_strip": image,
            "IBSR_01_segTRI_fill_ana": (image > 0).astype(np.uint8),
            "IBSR_01_segTRI_ana": (image > 40).astype(np.uint8),
            **changes,
        }
        for name, data in by_name.items():
            if data is not None:
                nifti = nibabel.Nifti1Image(data, AFFINE)
                nifti.header["descrip"] = "psc synthetic phantom" if "PHANTOM" in name else ""
                nibabel.save(nifti, tmp_path / f"{name}.nii.gz")
        return find_subjects(tmp_path)

    return write


def test_what_is_missing_by_name(tmp_path):
    def files(name, *, filled=None, unfilled=None):
        return SubjectFiles(name, tmp_path / name, filled, unfilled)

    found = {name: files(name, filled=tmp_path) for name in EXPECTED}
    assert len(found) == 18
    assert incomplete(found) == {}
    del found["IBSR_12"]
    found |= {"IBSR_02": files("IBSR_02"), "IBSR_18": files("IBSR_18", unfilled=tmp_path)}
    found["PHANTOM_01"] = files("PHANTOM_01")
    assert incomplete(found) == {"IBSR_02": "no labels", "IBSR_12": "no image"}


def test_facts_of_a_subject(volumes, capfd):
    found = volumes()
    (subject,) = verify(list(found.values()))
    assert (subject.name, subject.shape, subject.brain_voxels) == ("IBSR_01", (6, 4, 5), 24)
    assert subject.voxel_size == pytest.approx((0.9375, 1.5, 0.9375))
    assert subject.labels == ("filled", "unfilled")
    assert [path.name for path in subject.paths] == [
        "IBSR_01_ana_strip.nii.gz",
        "IBSR_01_segTRI_fill_ana.nii.gz",
        "IBSR_01_segTRI_ana.nii.gz",
    ]
    assert table([subject]) == (
        "subject  shape  voxel size [mm]    labels            brain voxels\n"
        "IBSR_01  6×4×5  0.9375×1.5×0.9375  filled, unfilled  24"
    )
    assert capfd.readouterr().out == ""
    verify(list(found.values()), progress=True)
    assert "verifying: 100%" in capfd.readouterr().err


def test_a_subject_without_labels_is_verified_without(volumes):
    found = volumes(IBSR_01_segTRI_ana=None, IBSR_01_segTRI_fill_ana=None)
    (subject,) = verify(list(found.values()))
    assert subject.labels == ()
    assert table([subject]).splitlines()[1].split()[3] == "none"


@pytest.mark.parametrize("labels", ["IBSR_01_segTRI_fill_ana", "IBSR_01_segTRI_ana"])
def test_both_kinds_of_labels_are_read(volumes, labels):
    found = volumes(**{labels: np.full((6, 4, 5), 4, dtype=np.uint8)})
    with pytest.raises(DataError, match=rf"1 of 1 subjects .*\n.*{labels}\.nii\.gz.* 4 "):
        verify(list(found.values()))


def test_all_problems_are_reported(volumes):
    found = volumes(
        IBSR_01_segTRI_ana=np.ones((6, 4, 4), dtype=np.uint8),
        IBSR_02=np.zeros((6, 4, 5), dtype=np.int16),
        IBSR_03=np.full((6, 4, 5), 1.5, dtype=np.float32) * np.arange(5, dtype=np.float32),
    )
    with pytest.raises(DataError) as caught:
        verify(list(found.values()))
    first, *problems = str(caught.value).splitlines()
    assert first == "2 of 3 subjects cannot be used:"
    assert "IBSR_01_segTRI_ana.nii.gz" in problems[0]
    assert "IBSR_02.nii.gz" in problems[1]


def test_a_phantom_is_not_ibsr(volumes):
    found = volumes(PHANTOM_02=np.arange(120, dtype=np.int16).reshape(6, 4, 5))
    with pytest.raises(DataError, match=r"PHANTOM_02\.nii\.gz is a phantom"):
        verify([found["PHANTOM_02"]])
    assert verify([found["IBSR_01"]])
