import hashlib
import logging

import nibabel
import numpy as np
import pytest

from psc.errors import ConfigError, DataError
from psc.mri.data import SubjectFiles, read_subject
from psc.mri.nifti import NEAREST, SYNTHETIC_STAMP, to_voxel_size

SHAPE = (12, 10, 9)
AFFINE = np.diag([1.0, 1.5, 1.0, 1.0])
RNG = np.random.default_rng(0)

# A ball of brain, with a hole (as ventricles of intensity zero) and zeros around it.
DISTANCE = np.linalg.norm(np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2, axis=-1).T
INTENSITIES = np.where(DISTANCE < 4, RNG.integers(20, 200, SHAPE), 0).astype(np.int16)
INTENSITIES[6, 5, 4] = 0
BRAIN = INTENSITIES != 0
# Labels reach a voxel beyond the brain, as some do, and leave its outer shell unlabelled.
UNFILLED = np.where(DISTANCE < 3, 1 + INTENSITIES % 3, 0).astype(np.uint8)
UNFILLED[6, 5, 4] = 1
UNFILLED[0, 0, 0] = 2
FILLED = np.where(DISTANCE < 3, UNFILLED, np.where(DISTANCE < 4.2, 1, 0)).astype(np.uint8)


def save(path, values, affine=AFFINE, description=""):
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = description
    nibabel.save(image, path)
    return path


def files(folder, image=INTENSITIES, filled=None, unfilled=None, **image_options):
    def labels(name, values):
        return None if values is None else save(folder / f"IBSR_01_{name}.nii.gz", values)

    return SubjectFiles(
        name="IBSR_01",
        image=save(folder / "IBSR_01_ana_strip.nii.gz", image, **image_options),
        filled=labels("segTRI_fill_ana", filled),
        unfilled=labels("segTRI_ana", unfilled),
    )


class TestImage:
    def test_mean_and_deviation_inside_the_brain(self, tmp_path):
        subject = read_subject(files(tmp_path, unfilled=UNFILLED), labels="unfilled")
        inside = INTENSITIES[INTENSITIES != 0].tolist()
        mean = sum(inside) / len(inside)
        deviation = (sum((value - mean) ** 2 for value in inside) / len(inside)) ** 0.5
        np.testing.assert_allclose(subject.image, (INTENSITIES - mean) / deviation, rtol=1e-5)
        assert subject.image.dtype == np.float32
        assert subject.background == pytest.approx(-mean / deviation)
        np.testing.assert_allclose(subject.image[~BRAIN], subject.background, rtol=1e-6)
        np.testing.assert_array_equal(subject.brain, BRAIN)

    def test_the_scale_of_intensities_does_not_matter(self, tmp_path):
        (tmp_path / "other").mkdir()
        one = read_subject(files(tmp_path, unfilled=UNFILLED), labels="unfilled")
        scaled = (INTENSITIES * 6.5).astype(np.float32)
        other = read_subject(
            files(tmp_path / "other", scaled, unfilled=UNFILLED), labels="unfilled"
        )
        np.testing.assert_allclose(other.image, one.image, rtol=1e-4, atol=1e-5)

    def test_what_is_known_of_it(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled")
        assert subject.name == "IBSR_01"
        assert subject.voxel_size == (1, 1.5, 1)
        np.testing.assert_array_equal(subject.affine, AFFINE)
        np.testing.assert_array_equal(subject.native.data, INTENSITIES)
        digests = [
            hashlib.sha256(p.read_bytes()).hexdigest() for p in (found.image, found.unfilled)
        ]
        assert [file["sha256"] for file in subject.files] == digests
        assert not subject.synthetic

    @pytest.mark.parametrize(
        ("description", "synthetic"), [(f"{SYNTHETIC_STAMP}, seed 3", True), ("a scan", False)]
    )
    def test_phantoms_say_so(self, tmp_path, description, synthetic):
        found = files(tmp_path, unfilled=UNFILLED, description=description)
        assert read_subject(found, labels="unfilled").synthetic is synthetic

    def test_negative_intensities_are_brain(self, tmp_path, caplog):
        image = np.where(BRAIN, INTENSITIES - 100, 0).astype(np.int16)
        image[BRAIN & (image == 0)] = 1
        with caplog.at_level(logging.WARNING):
            subject = read_subject(files(tmp_path, image, unfilled=UNFILLED), labels="unfilled")
        np.testing.assert_array_equal(subject.brain, BRAIN)
        assert not caplog.records

    def test_a_volume_with_its_skull_is_said_aloud(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            read_subject(files(tmp_path, INTENSITIES + 1, unfilled=UNFILLED), labels="unfilled")
        assert "100 % of its voxels" in caplog.text

    def test_nothing_but_zeros(self, tmp_path):
        with pytest.raises(DataError, match=r"ana_strip\.nii\.gz: every voxel is zero"):
            read_subject(files(tmp_path, 0 * INTENSITIES, unfilled=UNFILLED), labels="unfilled")

    @pytest.mark.parametrize("value", [1, 1e-3])
    def test_a_mask_is_no_image(self, tmp_path, value):
        mask = (value * BRAIN).astype(np.float32)
        with pytest.raises(DataError, match=r"brain voxels have the same intensity.*mask"):
            read_subject(files(tmp_path, mask, unfilled=UNFILLED), labels="unfilled")


class TestLabels:
    def test_unfilled_as_they_are(self, tmp_path):
        found = files(tmp_path, filled=FILLED, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)
        np.testing.assert_array_equal(subject.native_labels, UNFILLED)
        assert subject.labels.dtype == np.uint8
        assert subject.label_kind == "unfilled (IBSR_01_segTRI_ana.nii.gz)"

    def test_filled_as_they_are(self, tmp_path):
        found = files(tmp_path, filled=FILLED, unfilled=UNFILLED)
        subject = read_subject(found, labels="filled")
        np.testing.assert_array_equal(subject.labels, FILLED)
        assert subject.label_kind == "filled (IBSR_01_segTRI_fill_ana.nii.gz)"
        assert [file["name"] for file in subject.files] == [found.image.name, found.filled.name]

    def test_filled_from_unfilled(self, tmp_path):
        subject = read_subject(files(tmp_path, unfilled=UNFILLED), labels="filled")
        expected, became_fluid = UNFILLED.copy(), 0
        for index in np.ndindex(SHAPE):
            if INTENSITIES[index] != 0 and UNFILLED[index] == 0:
                expected[index] = 1
                became_fluid += 1
        assert became_fluid > 50
        np.testing.assert_array_equal(subject.labels, expected)
        np.testing.assert_array_equal(subject.native_labels, expected)
        assert subject.label_kind == (
            f"filled from IBSR_01_segTRI_ana.nii.gz; {became_fluid} unlabelled brain voxels"
            " became CSF"
        )

    def test_stored_in_another_order(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        image = nibabel.load(found.unfilled)
        turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
        assert nibabel.aff2axcodes(turned.affine) != ("R", "A", "S")
        nibabel.save(turned, found.unfilled)
        subject = read_subject(found, labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)

    def test_rounding_of_scaled_labels_is_no_fraction(self, tmp_path):
        almost = UNFILLED * np.float32(0.99999)
        subject = read_subject(files(tmp_path, unfilled=almost), labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)

    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (4, "u1", r"outside 0 to 3: 4 \(2 voxels\).*seg_ana"),
            (-1, "i2", r"outside 0 to 3: -1 \(2 voxels\)"),
            (1.5, "f4", r"no integers: 1\.5 \(2 voxels\)"),
            (0.99, "f8", r"no integers: 0\.99 \(2 voxels\)"),
            (255, "u1", r"255 \(2 voxels\)"),
            (np.nan, "f4", "2 voxels are NaN"),
        ],
    )
    def test_other_values(self, tmp_path, value, dtype, message):
        labels = UNFILLED.astype(dtype)
        labels[1, 2, 3:5] = value
        found = files(tmp_path, unfilled=labels)
        for kind in ("filled", "unfilled"):
            with pytest.raises(DataError, match=rf"segTRI_ana\.nii\.gz.*{message}"):
                read_subject(found, labels=kind)

    def test_nothing_labelled(self, tmp_path):
        with pytest.raises(DataError, match="no voxel is labelled"):
            read_subject(files(tmp_path, unfilled=0 * UNFILLED), labels="filled")

    def test_another_shape(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED[1:])
        with pytest.raises(DataError, match=r"ana_strip.*\(12, 10, 9\).*segTRI.*\(11, 10, 9\)"):
            read_subject(found, labels="unfilled")

    def test_another_affine(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED, affine=np.diag([1, 1, 1, 1]))
        with pytest.raises(DataError, match="affines of"):
            read_subject(found, labels="unfilled")


class TestMissingLabels:
    def test_refused_for_training(self, tmp_path):
        with pytest.raises(DataError, match=r"IBSR_01: no tissue labels.*add its labels"):
            read_subject(files(tmp_path), labels="filled")

    def test_usable_for_prediction(self, tmp_path):
        subject = read_subject(files(tmp_path), labels="filled", labels_required=False)
        assert subject.labels is None
        assert subject.native_labels is None
        assert subject.label_kind == "none"
        assert subject.image[BRAIN].mean() == pytest.approx(0, abs=1e-5)
        assert len(subject.files) == 1

    @pytest.mark.parametrize("required", [True, False])
    def test_filled_ones_cannot_be_unfilled(self, tmp_path, required):
        found = files(tmp_path, filled=FILLED)
        with pytest.raises(DataError, match=r"segTRI_fill_ana.*dataset\.labels=filled"):
            read_subject(found, labels="unfilled", labels_required=required)

    def test_a_file_that_went_away(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        found.unfilled.unlink()
        with pytest.raises(DataError, match=r"segTRI_ana\.nii\.gz does not exist"):
            read_subject(found, labels="unfilled", labels_required=False)


class TestResampled:
    SIZE = (0.8, 0.8, 1.25)

    def test_the_grid(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled", voxel_size=self.SIZE)
        assert subject.voxel_size == self.SIZE
        # 12 mm, 15 mm, 9 mm
        shape = (15, 19, 8)
        assert subject.image.shape == subject.labels.shape == subject.brain.shape == shape
        labels, affine = to_voxel_size(UNFILLED, AFFINE, self.SIZE, order=NEAREST)
        np.testing.assert_array_equal(subject.labels, labels)
        np.testing.assert_allclose(subject.affine, affine)
        brain, _ = to_voxel_size(BRAIN, AFFINE, self.SIZE, order=NEAREST)
        np.testing.assert_array_equal(subject.brain, brain)
        np.testing.assert_array_equal(subject.native.data, INTENSITIES)
        np.testing.assert_array_equal(subject.native_labels, UNFILLED)

    def test_normalised_on_that_grid(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled", voxel_size=self.SIZE)
        inside = subject.image[subject.brain].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-6)
        assert inside.std() == pytest.approx(1, abs=1e-6)
        assert subject.image[0, 0, 0] == pytest.approx(subject.background)

    def test_impossible_sizes(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        with pytest.raises(ConfigError, match="three positive mm"):
            read_subject(found, labels="unfilled", voxel_size=(1, 0, 1))
        with pytest.raises(DataError, match=r"no brain voxel is left.*smaller dataset\.voxel_size"):
            read_subject(found, labels="unfilled", voxel_size=(100, 100, 100))


@pytest.mark.sample
class TestRealSubjects:
    def test_filled_from_the_unfilled_labels(self, sample_data):
        folder = sample_data / "mri/ibsr18/IBSR_01"
        found = SubjectFiles(
            "IBSR_01", folder / "IBSR_01.nii.gz", None, folder / "IBSR_01_seg.nii.gz"
        )
        subject = read_subject(found, labels="filled")
        image = np.asarray(nibabel.load(found.image).dataobj)[..., 0]
        labels = np.asarray(nibabel.load(found.unfilled).dataobj)[..., 0]
        unlabelled = int(((image != 0) & (labels == 0)).sum())
        assert 60_000 < unlabelled < 95_000
        assert f"; {unlabelled} unlabelled brain voxels became CSF" in subject.label_kind
        assert (subject.labels == 1).sum() == (labels == 1).sum() + unlabelled
        assert not subject.synthetic
        inside = subject.image[subject.brain].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-4)

    def test_a_subject_without_labels(self, sample_data):
        image = sample_data / "mri/ibsr18/IBSR_02/IBSR_02.nii.gz"
        found = SubjectFiles("IBSR_02", image, None, None)
        subject = read_subject(found, labels="filled", labels_required=False)
        assert subject.labels is None
        assert subject.image.shape == (256, 128, 256)
