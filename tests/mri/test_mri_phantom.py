"""The phantom: its anatomy on coarse and fine grids, and what the scanner makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from psc.mri.baseline import segment_by_intensity
from psc.mri.synthetic import (
    CORTEX,
    FLUID,
    MATERIALS,
    NUCLEI,
    WHITE,
    Contrast,
    draw_anatomy,
    draw_phantom,
    render,
)
from psc.mri.tissues import BACKGROUND, CSF, GM, TISSUES, WM

SHAPE = (78, 96, 78)
CLEAN = Contrast(texture=0, meninges=0, bias=0, noise=0, peak=1000)


def affine_of(shape, size, middle=(0, -2, 0)):
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = np.array(middle) - size * (np.array(shape) - 1) / 2
    return affine


AFFINE = affine_of(SHAPE, 2.0)
VOXEL = 8e-3  # ml


@pytest.fixture(scope="module")
def anatomy():
    return draw_anatomy(SHAPE, AFFINE, np.random.default_rng(1))


@pytest.fixture(scope="module")
def clean(anatomy):
    """Rendered without noise, bias or texture."""
    return render(anatomy, AFFINE, CLEAN, np.random.default_rng(2))


@pytest.fixture(scope="module")
def phantoms():
    """Three subjects as they are written."""
    return [draw_phantom(SHAPE, AFFINE, np.random.default_rng([9, n])) for n in range(3)]


def faces(mask):
    """Number of voxel faces on the surface of a mask."""
    padded = np.pad(mask, 1).astype(np.int8)
    return sum(np.count_nonzero(np.diff(padded, axis=axis)) for axis in range(3))


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


class TestAnatomy:
    def test_the_shares_of_a_voxel_add_up(self, anatomy):
        assert anatomy.fractions.shape == (MATERIALS, *SHAPE)
        assert anatomy.fractions.min() == 0
        np.testing.assert_array_equal(anatomy.fractions.sum(0), 1)
        assert (anatomy.fractions[FLUID][anatomy.hull < -2] == 1).all()

    def test_every_material_has_about_its_volume(self, anatomy):
        ml = anatomy.fractions.reshape(MATERIALS, -1).sum(1) * VOXEL
        assert 550 < ml[CORTEX] < 950
        assert 25 < ml[NUCLEI] < 70
        assert 350 < ml[WHITE] < 700
        within = (anatomy.fractions[FLUID] * (anatomy.hull > 0)).sum() * VOXEL
        assert 50 < within < 200

    def test_white_matter_lies_within_grey(self, clean):
        """Above the nuclei all its neighbours are grey matter, but for those in the ventricles."""
        upper = slice(int((4 - AFFINE[2, 3]) / 2), None)
        labels = clean.labels[:, :, upper]
        around = [np.roll(labels, step, axis) for axis in range(2) for step in (1, -1)]
        touching = {
            tissue: sum(np.count_nonzero((labels == WM) & (side == tissue)) for side in around)
            for tissue in (BACKGROUND, CSF, GM)
        }
        assert touching[BACKGROUND] < 1e-3 * touching[GM]
        assert touching[GM] > 8 * touching[CSF] > 0

    def test_fluid_is_around_the_brain_and_in_its_ventricles(self, anatomy, clean):
        fluid = clean.labels == CSF
        parts, _ = ndimage.label(fluid, np.ones((3, 3, 3)))
        around = np.unique(parts[fluid & ndimage.binary_dilation(clean.labels == BACKGROUND)])
        assert np.isin(parts[fluid], around).mean() > 0.7
        # Deep inside there are the two lateral ventricles and hardly anything else.
        deep, _ = ndimage.label(fluid & (anatomy.hull > 24))
        sizes = np.bincount(deep.ravel())
        sizes[0] = 0
        first, second = np.argsort(sizes)[-2:]
        assert sizes[second] > sizes[first] > 0.6 * sizes[second]
        assert sizes[first] + sizes[second] > 0.8 * sizes.sum()
        rows = [
            np.argwhere(deep == part)[:, 0].mean() * 2 + AFFINE[0, 3] for part in (first, second)
        ]
        assert min(rows) < -6
        assert max(rows) > 6

    def test_nuclei_are_deep_and_on_both_sides(self, anatomy):
        nuclei = anatomy.fractions[NUCLEI]
        assert (nuclei * (anatomy.hull > 10)).sum() > 0.9 * nuclei.sum()
        right = nuclei[SHAPE[0] // 2 :].sum()
        assert 0.4 < right / nuclei.sum() < 0.6

    def test_the_cortex_is_folded(self, anatomy, clean):
        """Its inner surface is far larger than the hull, as in a brain, not in a ball."""
        assert faces(clean.labels == WM) > 2 * faces(anatomy.hull > 0)

    def test_the_cortex_is_a_ribbon_of_a_few_mm(self, anatomy):
        """No grey matter above the nuclei is further from white matter than cortex is thick."""
        upper = slice(int((15 - AFFINE[2, 3]) / 2), None)
        away = 2 * ndimage.distance_transform_edt(anatomy.fractions[WHITE] < 0.5)[:, :, upper]
        depths = away[anatomy.fractions[CORTEX, :, :, upper] > 0.5]
        assert 2 <= np.median(depths) < 3.5
        assert np.percentile(depths, 95) < 7

    def test_halves_are_alike_but_no_mirror_images(self, clean, phantoms):
        own = dice(clean.labels == WM, clean.labels[::-1] == WM)
        others = [dice(clean.labels == WM, other.labels == WM) for other in phantoms]
        assert max(others) + 0.03 < own < 0.8

    def test_a_finer_grid_shows_the_same_brain(self):
        """Shares of a voxel are what eight voxels of half its size hold: an oracle of sampling."""
        middle = (34.0, 20.0, 28.0)
        coarse = draw_anatomy(
            (20, 20, 20), affine_of((20, 20, 20), 2, middle), np.random.default_rng(3)
        )
        fine = draw_anatomy(
            (40, 40, 40), affine_of((40, 40, 40), 1, middle), np.random.default_rng(3)
        )
        blocks = fine.fractions.reshape(MATERIALS, 20, 2, 20, 2, 20, 2).mean((2, 4, 6))
        # At the faces of a grid slopes are one-sided.
        inner = (slice(None), *[slice(1, -1)] * 3)
        difference = np.abs(blocks[inner] - coarse.fractions[inner])
        mixed = (blocks[inner].max(0) < 1).mean()
        assert 0.3 < mixed < 0.9
        assert difference.mean() < 0.03
        assert dice(blocks[inner][WHITE] > 0.5, coarse.fractions[inner][WHITE] > 0.5) > 0.93

    def test_a_turned_grid_shows_the_same_brain(self):
        """The world is what counts: axes turned by 90° turn the array, no more."""
        shape = (16, 18, 20)
        affine = affine_of(shape, 2, (30, 0, 25))
        turned = affine[:, [1, 0, 2, 3]] @ np.diag([1.0, -1, 1, 1])
        turned[:3, 3] += affine[:3, 0] * (shape[0] - 1)
        one = draw_anatomy(shape, affine, np.random.default_rng(3))
        other = draw_anatomy((18, 16, 20), turned, np.random.default_rng(3))
        back = other.fractions.transpose(0, 2, 1, 3)[:, ::-1]
        # Rounding differs, and may move a sample across a border.
        assert (np.abs(back - one.fractions).max(0) > 0.01).mean() < 0.01
        assert one.fractions[CORTEX].sum() > 100


class TestImage:
    def test_it_is_zero_where_there_is_no_brain(self, phantoms):
        for phantom in phantoms:
            assert phantom.image.dtype == np.int16
            assert phantom.image.min() == 0
            brain = phantom.image > 0
            # The outermost voxels are empty; within there are no holes, and one piece.
            assert not brain[[0, -1]].any()
            assert not brain[:, [0, -1]].any()
            assert not brain[:, :, [0, -1]].any()
            assert ndimage.label(brain)[1] == 1
            np.testing.assert_array_equal(ndimage.binary_fill_holes(brain), brain)
            assert 1150 < np.count_nonzero(brain) * VOXEL < 1850

    def test_a_voxel_of_two_tissues_lies_between_them(self, anatomy, clean):
        """Partial volume: the level is that of the shares."""
        shares = anatomy.fractions
        seen = clean.image > 0
        pure = {
            material: clean.image[seen & (shares[material] == 1)]
            for material in (FLUID, CORTEX, NUCLEI, WHITE)
        }
        level = {material: values[0] for material, values in pure.items()}
        for material, values in pure.items():
            assert (values == level[material]).all()
        expected = {FLUID: 350, CORTEX: 670, NUCLEI: 770, WHITE: 1000}
        assert all(abs(level[material] - expected[material]) <= 1 for material in expected)
        for one, other in ((FLUID, CORTEX), (CORTEX, WHITE), (NUCLEI, WHITE)):
            both = (
                seen & (shares[one] > 0) & (shares[other] > 0) & (shares[one] + shares[other] == 1)
            )
            mixed = level[one] * shares[one][both] + level[other] * shares[other][both]
            assert np.count_nonzero(both) > 200
            assert clean.image[both].min() > level[one]
            assert clean.image[both].max() < level[other]
            np.testing.assert_allclose(clean.image[both], mixed, atol=1.5)

    def test_noise_is_rician(self, anatomy):
        """In white matter as broad as stated, in fluid without signal as Rayleigh's."""
        contrast = replace(CLEAN, fluid=0, noise=0.05, peak=30000)
        image = render(anatomy, AFFINE, contrast, np.random.default_rng(2)).image.astype(float)
        white = image[(anatomy.fractions[WHITE] == 1) & (image > 0)]
        unit = white.mean() / np.hypot(1, 0.05)
        assert white.std() / unit == pytest.approx(0.05, rel=0.03)
        ventricle = image[(anatomy.fractions[FLUID] == 1) & (anatomy.hull > 15)] / unit
        assert ventricle.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.1)
        assert ventricle.min() >= 0

    def test_bias_is_smooth_and_as_large_as_stated(self, anatomy):
        contrast = replace(CLEAN, bias=0.25, peak=30000)
        image = render(anatomy, AFFINE, contrast, np.random.default_rng(2)).image.astype(float)
        white = (anatomy.fractions[WHITE] == 1) & (image > 0)
        ratio = image[white].max() / image[white].min()
        assert 1.25 < ratio <= 1.25 / 0.75 + 0.01
        neighbours = white[1:] & white[:-1]
        assert np.abs(np.diff(np.log(np.maximum(image, 1)), axis=0))[neighbours].max() < 0.03

    def test_the_peak_is_the_maximum(self, anatomy):
        for peak in (80, 1300):
            image = render(anatomy, AFFINE, Contrast(peak=peak), np.random.default_rng(2)).image
            assert image.max() == peak

    def test_meninges_brighten_fluid_around_the_brain_only(self, anatomy, clean):
        bright = render(anatomy, AFFINE, replace(CLEAN, meninges=0.5), np.random.default_rng(2))
        changed = bright.image != clean.image
        assert changed.any()
        assert (anatomy.hull[changed] < 0).all()
        assert (bright.image >= clean.image).all()

    def test_subjects_differ_in_contrast(self):
        rng = np.random.default_rng(0)
        drawn = [Contrast.draw(rng) for _ in range(200)]
        peaks = np.array([contrast.peak for contrast in drawn])
        assert peaks.min() < 100
        assert peaks.max() > 1000
        assert 80 <= np.median(peaks[peaks < 322.5]) < np.median(peaks) < 500
        for contrast in drawn:
            assert 0 < contrast.fluid < contrast.cortex < contrast.nuclei < 1
        assert len({contrast.noise for contrast in drawn}) == 200


class TestLabels:
    def test_a_label_is_the_tissue_that_the_voxel_holds_most_of(self, anatomy, clean):
        fluid, cortex, nuclei, white = anatomy.fractions
        for tissue, share in ((CSF, fluid), (GM, cortex + nuclei), (WM, white)):
            most = (share > 0.5) & (clean.image > 0)
            assert np.count_nonzero(most) > 1000
            assert (clean.labels[most] == tissue).all()

    def test_the_brain_is_labelled_throughout(self, phantoms):
        """As with IBSR's filled labels; and as there, some tissue was stripped from the image."""
        for phantom in phantoms:
            brain = phantom.image > 0
            assert phantom.labels.dtype == np.uint8
            assert set(np.unique(phantom.labels[brain])) == {CSF, GM, WM}
            assert set(np.unique(phantom.labels[~brain])) <= {BACKGROUND, GM, WM}
            stripped = np.count_nonzero(phantom.labels[~brain]) / np.count_nonzero(brain)
            assert 0.001 < stripped < 0.02

    def test_the_stripping_is_imperfect(self, anatomy, clean):
        seen = clean.image > 0
        assert np.count_nonzero(seen & (anatomy.hull < 0)) > 500
        assert np.count_nonzero(~seen & (anatomy.hull > 0)) > 500

    def test_tissues_have_about_ibsr_s_shares(self, phantoms):
        """Of the brain: CSF 8, GM 58 and WM 33 % on average there."""
        shares = np.array(
            [
                [(p.labels[p.image > 0] == tissue).mean() for tissue in TISSUES.values()]
                for p in phantoms
            ]
        )
        np.testing.assert_allclose(shares.mean(0), (0.09, 0.57, 0.34), atol=0.035)
        np.testing.assert_allclose(shares, np.tile((0.09, 0.57, 0.34), (3, 1)), atol=0.07)

    def test_intensity_alone_does_not_tell_tissues(self, clean, phantoms):
        """The mixture's mean Dice over IBSR's 13 subjects is 0.84 in GM and WM."""
        scores = []
        for phantom in phantoms:
            brain = phantom.image > 0
            found = segment_by_intensity(phantom.image, brain)
            scores.append(
                [dice(found == t, (phantom.labels == t) & brain) for t in TISSUES.values()]
            )
        csf, gm, wm = np.mean(scores, axis=0)
        assert 0.4 < csf < 0.8
        assert 0.7 < gm < 0.92
        assert 0.7 < wm < 0.93
        # Yet they are there to be seen: without noise and bias, thresholds tell them.
        seen = clean.image > 0
        assert dice(clean.image > 885, (clean.labels == WM) & seen) > wm + 0.05
        between = (clean.image > 510) & (clean.image <= 885)
        assert dice(between, (clean.labels == GM) & seen) > gm + 0.05


def test_the_same_source_draws_the_same_phantom():
    shape = (16, 16, 16)
    affine = affine_of(shape, 8)
    one, same, other = (draw_phantom(shape, affine, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert (one.labels != other.labels).any()
    assert one.image.max() != other.image.max()
