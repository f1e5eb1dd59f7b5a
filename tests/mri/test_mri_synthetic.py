"""The stand-in: phantoms like brains, headers as nibabel reads them, a whole folder or none."""

import json
import zlib

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from psc.errors import ConfigError, DataError
from psc.mri import synthetic
from psc.mri.baseline import segment_by_intensity
from psc.mri.data import read_subject
from psc.mri.finding import find_subjects
from psc.mri.settings import SyntheticBrainsConfig as SyntheticBrains
from psc.mri.synthetic import MARKER, draw_phantom, write_synthetic_brains
from psc.mri.tissues import BACKGROUND, CSF, GM, TISSUES, WM

FEW = SyntheticBrains(subjects=5)
SIZES = [(1.875, 2, 1.875), (2, 2, 2), (1.674, 2, 1.674)]


def load(folder, number, role="ana_strip"):
    name = f"PHANTOM_{number:02d}"
    return nibabel.load(folder / name / f"{name}_{role}.nii.gz")


def ramp(shape, first):
    """A number that tells each voxel's place, and zeros around it."""
    values = np.zeros(shape, np.int16)
    inside = (slice(1, -1),) * 3
    values[inside] = first + np.arange(np.prod(shape)).reshape(shape)[inside]
    return values


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """Every written phantom is a small ramp, drawn at once; returns the affines."""
    affines = []

    def draw(shape, affine, rng):
        affines.append(affine.copy())
        image = ramp(shape, int(rng.integers(1, 100)))
        return image, np.where(image > 0, 1 + image % 3, 0).astype(np.uint8)

    small = [(size, tuple(n // 8 for n in shape)) for size, shape in synthetic._GRIDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_phantom", draw)
        patch.setattr(synthetic, "_GRIDS", small)
        yield affines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five subjects: every voxel size, orientation and kind of header; not to be changed."""
    path = tmp_path_factory.mktemp("synthetic") / "new" / "brains"
    assert write_synthetic_brains(path, FEW)
    return path


SIZE = np.array([2.0, 2.0, 2.0])


def phantom(seed, size=2.0):
    """A real one, upright, in cubic voxels of so many mm."""
    shape = tuple(round(mm / size) for mm in (156, 192, 156))
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = (0, -2, 0) - size * (np.array(shape) - 1) / 2
    return draw_phantom(shape, affine, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def phantoms():
    """Image and labels of two."""
    return [phantom(seed) for seed in (1, 2)]


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


class TestPhantoms:
    def test_the_brain_is_one_piece_with_zeros_around_it(self, phantoms):
        for image, _ in phantoms:
            brain = image > 0
            assert image.min() == 0
            assert not brain[[0, -1]].any()
            assert not brain[:, [0, -1]].any()
            assert not brain[:, :, [0, -1]].any()
            assert ndimage.label(brain)[1] == 1
            assert 900 < np.count_nonzero(brain) * SIZE.prod() / 1000 < 1850  # ml

    def test_the_brain_is_labelled_throughout(self, phantoms):
        """As with IBSR's filled labels; and as there, some tissue was stripped from the image."""
        for image, labels in phantoms:
            brain = image > 0
            assert set(np.unique(labels[brain])) == {CSF, GM, WM}
            assert set(np.unique(labels[~brain])) <= {BACKGROUND, GM, WM}
            stripped = np.count_nonzero(labels[~brain]) / np.count_nonzero(brain)
            assert 0.001 < stripped < 0.03

    def test_tissues_have_about_ibsr_s_shares(self, phantoms):
        """Of the brain: CSF 8, GM 58 and WM 33 % on average there."""
        for image, labels in phantoms:
            shares = [(labels[image > 0] == tissue).mean() for tissue in TISSUES.values()]
            np.testing.assert_allclose(shares, (0.08, 0.52, 0.40), atol=0.07)

    def test_the_cortex_is_a_folded_ribbon(self, phantoms):
        """Above the nuclei: grey matter is a few mm from white, whose surface is much folded."""
        for image, labels in phantoms:
            upper = slice(labels.shape[2] // 2 + 12, None)
            white = labels[:, :, upper] == WM
            away = ndimage.distance_transform_edt(~white, sampling=SIZE)
            depths = away[labels[:, :, upper] == GM]
            assert np.percentile(depths, 95) < 8
            filled = ndimage.binary_fill_holes((image > 0)[:, :, upper])
            surfaces = [
                sum(np.count_nonzero(np.diff(mask.astype(int), axis=axis)) for axis in range(3))
                for mask in (white, filled)
            ]
            assert surfaces[0] > 1.5 * surfaces[1]

    def test_ventricles_are_deep_and_on_both_sides(self, phantoms):
        for image, labels in phantoms:
            depth = ndimage.distance_transform_edt(image > 0, sampling=SIZE)
            deep = np.argwhere((labels == CSF) & (depth > 30))[:, 0] - (labels.shape[0] - 1) / 2
            assert deep.size > 100
            assert 0.3 < np.mean(deep > 0) < 0.7

    def test_a_head_is_upright(self, phantoms):
        """The stem is lowest and behind, the brain longest from back to front."""
        for image, labels in phantoms:
            occupied = np.argwhere(image > 0)
            lengths = np.ptp(occupied, axis=0) * SIZE
            assert lengths.argmax() == 1
            assert lengths[1] > 150
            lowest = occupied[:, 2] <= occupied[:, 2].min() + 3
            stem = labels[tuple(occupied[lowest].T)]
            assert np.count_nonzero(stem == WM) > 10 * np.count_nonzero(stem == GM)
            assert occupied[lowest][:, 1].mean() < occupied[:, 1].mean()

    def test_subjects_differ_in_scale_and_shape(self, phantoms):
        maxima = sorted(image.max() for image, _ in phantoms)
        assert maxima[1] > 1.2 * maxima[0]
        assert 80 <= maxima[0] < maxima[1] <= 1300
        assert len({np.count_nonzero(image) for image, _ in phantoms}) == 2

    def test_a_phantom_depends_on_its_source_of_randomness_only(self):
        one, again, other = (phantom(seed, size=8.0) for seed in (1, 1, 2))
        np.testing.assert_array_equal(again, one)
        assert (other[1] != one[1]).any()

    def test_no_brain_is_the_mirror_image_of_itself_or_another(self, phantoms):
        (_, one), (_, other) = phantoms
        assert dice(one == WM, one[::-1] == WM) < 0.8
        assert dice(one == WM, other == WM) < 0.8

    def test_intensity_alone_does_not_tell_tissues(self, phantoms):
        """White matter's mean is the brightest, fluid's the darkest; but they overlap."""
        for image, labels in phantoms:
            brain = image > 0
            means = [image[brain & (labels == tissue)].mean() for tissue in (CSF, GM, WM)]
            assert means == sorted(means)
            assert means[1] < 0.8 * means[2]
            found = segment_by_intensity(image, brain)
            scores = [dice(found == t, (labels == t) & brain) for t in TISSUES.values()]
            assert 0.3 < np.mean(scores) < 0.85


class TestFiles:
    @pytest.mark.parametrize("number", range(1, 6))
    def test_headers(self, folder, number):
        image, labels = load(folder, number), load(folder, number, "segTRI_fill_ana")
        assert image.ndim == labels.ndim == 4
        assert image.shape == labels.shape
        assert image.shape[3] == 1
        np.testing.assert_array_equal(image.affine, labels.affine)
        for header in (image.header, labels.header):
            assert header.get_data_dtype() == np.int16
            assert header.get_xyzt_units()[0] == "mm"
            assert header["descrip"].item() == b"psc synthetic phantom, seed 0"
            assert np.isnan(header["scl_slope"])  # no scaling, as in IBSR's files
            assert header["qform_code"] == 1
            assert header["sform_code"] == (0 if number == 5 else 1)
            # Both transforms, where both are set, are the same.
            np.testing.assert_allclose(header.get_qform(), image.affine, atol=1e-3)
        assert set(np.unique(labels.dataobj)) == {0, CSF, GM, WM}

    def test_orientations_and_voxel_sizes(self, folder):
        images = [load(folder, number) for number in range(1, 6)]
        assert ["".join(nibabel.aff2axcodes(i.affine)) for i in images] == [
            "RAS",
            "LAS",
            "PSR",
            "RAS",
            "RAS",
        ]
        for number, image in enumerate(images):
            sizes = nibabel.as_closest_canonical(image).header.get_zooms()[:3]
            np.testing.assert_allclose(sizes, SIZES[number % 3], atol=1e-5)
            angles = np.rad2deg(nibabel.affines.obliquity(image.affine))
            if number == 3:
                assert 1.5 < angles.max() < 10
            else:
                assert angles.max() < 1e-3
        origins = {
            tuple(np.round(nibabel.affines.apply_affine(i.affine, [0, 0, 0]))) for i in images
        }
        assert len(origins) == 5

    def test_our_reader_finds_and_reads_them(self, folder):
        found = find_subjects(folder)
        assert list(found) == [f"PHANTOM_{number:02d}" for number in range(1, 6)]
        for number, files in enumerate(found.values()):
            assert files.unfilled is None
            subject = read_subject(files, labels="filled")
            assert subject.synthetic
            assert subject.voxel_size == pytest.approx(SIZES[number % 3], abs=1e-5)
            assert subject.image.shape == subject.labels.shape
            assert (subject.labels[subject.brain] > 0).all()

    @pytest.mark.parametrize("number", range(1, 5))
    def test_the_order_of_axes_changes_no_voxel(self, tmp_path, drawn, number):
        """What was drawn in RAS order is what nibabel makes of the file, where it was drawn."""
        drawn.clear()
        write_synthetic_brains(tmp_path / "brains", SyntheticBrains(subjects=4, seed=3))
        image = nibabel.as_closest_canonical(load(tmp_path / "brains", number))
        values = np.asarray(image.dataobj)[..., 0]
        first = values[1, 1, 1] - np.ravel_multi_index((1, 1, 1), values.shape)
        np.testing.assert_array_equal(values, ramp(values.shape, first))
        # The head lies anywhere in the scanner, but as it was drawn.
        np.testing.assert_allclose(image.affine[:3, :3], drawn[number - 1][:3, :3], atol=1e-5)
        shift = image.affine[:3, 3] - drawn[number - 1][:3, 3]
        assert 1 < np.abs(shift).max() <= 20

    def test_the_phantom_s_middle_is_the_grid_s(self, tmp_path, drawn):
        drawn.clear()
        write_synthetic_brains(tmp_path / "brains", FEW)
        for number, affine in enumerate(drawn, 1):
            shape = nibabel.as_closest_canonical(load(tmp_path / "brains", number)).shape[:3]
            middle = nibabel.affines.apply_affine(affine, (np.array(shape) - 1) / 2)
            np.testing.assert_allclose(middle, (0, -2, 0), atol=1e-6)
            # A rotation times voxel sizes: columns at right angles, nothing mirrored.
            axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
            np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
            assert np.linalg.det(axes) > 0


class TestReproducibility:
    def test_a_subject_depends_on_seed_and_number_only(self, folder, tmp_path):
        write_synthetic_brains(tmp_path / "one", SyntheticBrains(subjects=1))
        for path in (tmp_path / "one").glob("PHANTOM_01/*"):
            assert path.read_bytes() == (folder / "PHANTOM_01" / path.name).read_bytes()

    def test_seeds_differ(self, folder, tmp_path):
        write_synthetic_brains(tmp_path / "other", SyntheticBrains(subjects=1, seed=1))
        image, other = load(folder, 1), load(tmp_path / "other", 1)
        assert (np.asarray(image.dataobj) != np.asarray(other.dataobj)).any()
        assert other.header["descrip"].item() == b"psc synthetic phantom, seed 1"


class TestFolder:
    def test_the_same_request_is_kept(self, folder):
        path = folder / "PHANTOM_02" / "PHANTOM_02_ana_strip.nii.gz"
        before = path.stat().st_mtime_ns
        assert not write_synthetic_brains(folder, FEW)
        assert path.stat().st_mtime_ns == before

    @pytest.mark.parametrize("other", [SyntheticBrains(), SyntheticBrains(subjects=5, seed=1)])
    def test_another_request_overwrites_nothing(self, folder, other):
        with pytest.raises(ConfigError, match=r"something else .* not overwritten"):
            write_synthetic_brains(folder, other)

    def test_another_generator_overwrites_nothing(self, folder, monkeypatch):
        monkeypatch.setattr(synthetic, "_VERSION", 99)
        with pytest.raises(ConfigError, match="not overwritten"):
            write_synthetic_brains(folder, FEW)

    @pytest.mark.parametrize("marker", [None, "{", "[1, 2]", '{"files": 3}', '{"seed": 0}'])
    def test_a_folder_of_somebody_else_is_left_alone(self, tmp_path, marker):
        (tmp_path / "notes").write_text("mine")
        if marker is not None:
            (tmp_path / MARKER).write_text(marker)
        with pytest.raises(ConfigError, match="not overwritten"):
            write_synthetic_brains(tmp_path, FEW)
        assert (tmp_path / "notes").read_text() == "mine"

    def test_a_file_of_that_name_is_left_alone(self, tmp_path):
        (tmp_path / "brains").write_text("mine")
        with pytest.raises(ConfigError, match="not overwritten"):
            write_synthetic_brains(tmp_path / "brains", FEW)
        assert (tmp_path / "brains").read_text() == "mine"

    def test_a_missing_file_is_noticed(self, tmp_path):
        write_synthetic_brains(tmp_path / "brains", FEW)
        (tmp_path / "brains/PHANTOM_04/PHANTOM_04_segTRI_fill_ana.nii.gz").unlink()
        with pytest.raises(DataError, match=r"PHANTOM_04_segTRI.* is missing.*remove .*brains"):
            write_synthetic_brains(tmp_path / "brains", FEW)

    def test_a_damaged_file_is_noticed(self, tmp_path):
        write_synthetic_brains(tmp_path / "brains", FEW)
        path = tmp_path / "brains/PHANTOM_03/PHANTOM_03_ana_strip.nii.gz"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"PHANTOM_03_ana_strip.* is damaged.*remove .*brains"):
            write_synthetic_brains(tmp_path / "brains", FEW)

    def test_the_marker_says_what_there_is(self, folder):
        marker = json.loads((folder / MARKER).read_text())
        assert (marker["subjects"], marker["seed"]) == (5, 0)
        there = {str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")}
        assert set(marker["files"]) == there
        assert len(there) == 10

    def test_nothing_is_left_by_a_failure(self, tmp_path, monkeypatch):
        packed = []

        def full(content, **_options):
            packed.append(content)
            if len(packed) == 4:
                raise OSError(28, "No space left on device")
            return zlib.compress(content)

        monkeypatch.setattr(synthetic.gzip, "compress", full)
        with pytest.raises(DataError, match=r"brains cannot be written .*No space left on device"):
            write_synthetic_brains(tmp_path / "brains", FEW)
        assert len(packed) == 4
        assert not list(tmp_path.iterdir())

    def test_what_an_interrupted_job_left_does_not_matter(self, tmp_path):
        """A killed process leaves its temporary folder; the next one writes its own."""
        left = tmp_path / ".brains.1.tmp" / "PHANTOM_01"
        left.mkdir(parents=True)
        (left / "PHANTOM_01_ana_strip.nii.gz").write_bytes(b"half")
        assert write_synthetic_brains(tmp_path / "brains", FEW)
        assert not write_synthetic_brains(tmp_path / "brains", FEW)
        assert list(find_subjects(tmp_path / "brains")) == [f"PHANTOM_0{n}" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": 0}, r"subjects=0: must lie in \[1, 99\]"),
        ({"subjects": 100}, r"subjects=100: must lie in \[1, 99\]"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
    ],
)
def test_impossible_requests(changes, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticBrains(**changes)


def test_the_default_is_as_many_as_ibsr_has():
    assert SyntheticBrains() == SyntheticBrains(subjects=18, seed=0)
