"""The 95 % Hausdorff distance against all pairs of surface voxels."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psc.errors import DataError
from psc.metrics.tissues import hausdorff95, volume_diagonal

VOXEL = (0.9375, 1.5, 0.8)


def surface(mask):
    """Voxels, one of whose six neighbours is not of the structure or outside of the volume."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                other = voxel.copy()
                other[axis] += step
                inside = (other >= 0).all() and (other < mask.shape).all()
                if not (inside and mask[tuple(other)]):
                    found.append(voxel)
    return np.unique(np.array(found), axis=0)


def brute_force(truth, prediction, voxel_size):
    one, other = (surface(mask) * np.array(voxel_size) for mask in (truth, prediction))
    distances = np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=-1))
    return max(np.percentile(distances.min(axis=axis), 95) for axis in range(2))


masks = hnp.arrays(np.bool_, (5, 6, 4))


@settings(max_examples=40)
@given(masks, masks, st.integers(1, 3))
def test_equals_all_pairs_of_surface_voxels(truth, prediction, value):
    assume(truth.any() and prediction.any())

    found = hausdorff95(truth * value, prediction * np.uint8(value), value, VOXEL)

    assert found == pytest.approx(brute_force(truth, prediction, VOXEL), rel=1e-5, abs=1e-6)


def balls(shape, centres, radius):
    grid = np.indices(shape)
    return [
        sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2
        for centre in centres
    ]


def test_a_shifted_ball_with_a_far_speck():
    truth, prediction = balls((20, 24, 22), [(9, 10, 10), (9, 12, 10)], 6)
    prediction[19, 23, 21] = True  # less than 5 % of the surface: what the percentile is for

    found = hausdorff95(truth, prediction, 1, VOXEL)

    assert found == pytest.approx(brute_force(truth, prediction, VOXEL), rel=1e-5)
    assert 1.5 < found <= 3.0  # two voxels of 1.5 mm apart


def test_only_the_class_and_its_box_matter():
    truth, prediction = balls((14, 14, 14), [(6, 6, 6), (7, 6, 8)], 4)
    expected = hausdorff95(truth, prediction, 1, VOXEL)
    around = ((3, 9), (20, 1), (5, 5))
    larger = [np.pad(mask * np.uint8(2), around, constant_values=3) for mask in (truth, prediction)]
    assert hausdorff95(*larger, 2, VOXEL) == expected
    assert hausdorff95(*(np.asfortranarray(v) for v in larger), 2, VOXEL) == expected


def test_identical_structures_are_at_no_distance():
    (truth,) = balls((9, 9, 9), [(4, 4, 4)], 3)
    assert hausdorff95(truth, truth, 1, VOXEL) == 0


def test_a_missing_structure_counts_as_the_diagonal_of_the_volume():
    structure, nothing = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    structure[1, 1, 1] = 2
    diagonal = math.sqrt((3 * 2) ** 2 + (4 * 1.5) ** 2 + (5 * 0.5) ** 2)
    assert volume_diagonal((3, 4, 5), (2, 1.5, 0.5)) == pytest.approx(diagonal)
    assert hausdorff95(structure, nothing, 2, (2, 1.5, 0.5)) == pytest.approx(diagonal)
    assert hausdorff95(nothing, structure, 2, (2, 1.5, 0.5)) == pytest.approx(diagonal)
    assert math.isnan(hausdorff95(structure, structure, 1, (2, 1.5, 0.5)))


def test_no_warning_reaches_the_user():
    one, other = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    one[0], other[1] = 1, 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hausdorff95(one, other, 1, VOXEL)
    assert not caught


@pytest.mark.parametrize(
    ("shapes", "voxel_size", "match"),
    [
        (((3, 4, 5), (3, 4, 6)), VOXEL, r"\(3, 4, 5\), the prediction \(3, 4, 6\)"),
        (((4, 5), (4, 5)), VOXEL, r"must be\s+\(D, H, W\)"),
        (((3, 4, 5), (3, 4, 5)), (1, 0, 1), "voxel_size must be 3 positive"),
        (((3, 4, 5), (3, 4, 5)), (1, math.nan, 1), "voxel_size"),
        (((3, 4, 5), (3, 4, 5)), (1, 1), "voxel_size"),
    ],
)
def test_what_is_no_volume_in_mm_is_refused(shapes, voxel_size, match):
    labels, prediction = (np.ones(shape, dtype=np.uint8) for shape in shapes)
    with pytest.raises(DataError, match=match):
        hausdorff95(labels, prediction, 1, voxel_size)
