"""Confusion matrix against a count voxel by voxel, Dice against MONAI's DiceMetric."""

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psc.errors import ConfigError, DataError
from psc.metrics.tissues import confusion, dice

CLASSES = 4


@st.composite
def pairs(draw):
    """Truth and prediction of one shape, of dtypes of their own; classes may be absent."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))

    def volume():
        dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint64]))
        return draw(hnp.arrays(dtype, shape, elements=st.integers(0, CLASSES - 1)))

    return volume(), volume()


def monai_dice(truth, prediction, *, ignore_empty):
    from monai.metrics import DiceMetric

    def one_hot(labels):
        planes = [labels == value for value in range(CLASSES)]
        return torch.from_numpy(np.ascontiguousarray(np.stack(planes)))[None]

    metric = DiceMetric(include_background=True, reduction="none", ignore_empty=ignore_empty)
    return metric(one_hot(prediction), one_hot(truth)).numpy()[0]


@settings(max_examples=40)
@given(pairs())
def test_confusion_equals_counting_every_voxel(volumes):
    truth, prediction = volumes
    expected = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for index in np.ndindex(truth.shape):
        expected[truth[index], prediction[index]] += 1

    found = confusion(truth, prediction, CLASSES)

    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    # A reader that brings axes into order hands out views in any memory order.
    turned = confusion(np.asfortranarray(truth), prediction[::-1].copy()[::-1], CLASSES)
    np.testing.assert_array_equal(turned, expected)


@settings(max_examples=60)
@given(pairs())
def test_dice_equals_monai(volumes):
    truth, prediction = volumes

    found = dice(confusion(truth, prediction, CLASSES))

    theirs = monai_dice(truth, prediction, ignore_empty=True)
    for value in range(CLASSES):
        if (truth == value).any():
            assert found[value] == pytest.approx(theirs[value], abs=1e-6)  # theirs is float32
        elif (prediction == value).any():
            # MONAI ignores what only the prediction has; told not to, it says 0 as we do.
            assert np.isnan(theirs[value])
            assert found[value] == monai_dice(truth, prediction, ignore_empty=False)[value] == 0
        else:
            assert np.isnan(theirs[value])
            assert np.isnan(found[value])


def test_missed_invented_and_absent():
    truth = np.array([0, 0, 1, 1, 1, 1], dtype=np.uint8)
    prediction = np.array([0, 2, 1, 1, 1, 0], dtype=np.uint8)

    found = dice(confusion(truth, prediction, 4))

    assert found[:3].tolist() == [0.5, 6 / 7, 0]
    assert np.isnan(found[3])
    swapped = dice(confusion(prediction, truth, 4))  # 2 is now missed, not invented
    assert swapped[:3].tolist() == found[:3].tolist()


@pytest.mark.sample
def test_dice_of_two_real_subjects_equals_monai(sample_data):
    folder = sample_data / "mri" / "ibsr18"
    one, other = (
        np.asarray(nibabel.load(folder / name / f"{name}_seg.nii.gz").dataobj).squeeze()
        for name in ("IBSR_01", "IBSR_05")
    )

    found = dice(confusion(one.astype(np.uint8), other.astype(np.uint8), CLASSES))

    np.testing.assert_allclose(found, monai_dice(one, other, ignore_empty=True), atol=1e-6)
    assert 0.1 < found[1:].min() < found[1:].max() < 0.8  # different people, both in the middle


@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (np.uint8([0, 4]), np.uint8([0, 1]), "labels holds the value 4, but there are 4 classes"),
        (np.uint8([0, 1]), np.uint8([9, 0]), "prediction holds the value 9"),
        (np.zeros(3, int), np.full(3, -1), "prediction holds the value -1"),
        (np.zeros(3, int), np.zeros(4, int), "shape"),
        (np.zeros(3), np.zeros(3, int), "labels must hold integers, found float64"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), "at least one"),
    ],
)
def test_wrong_labels_are_refused(truth, prediction, match):
    with pytest.raises(DataError, match=match):
        confusion(truth, prediction, 4)


def test_a_number_of_classes_below_one_is_refused():
    with pytest.raises(ConfigError, match="classes must be at least 1, found 0"):
        confusion(np.zeros(3, int), np.zeros(3, int), 0)
