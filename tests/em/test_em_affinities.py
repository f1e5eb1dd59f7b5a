import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psc.em.affinities import (
    NEAREST,
    affinities_from_labels,
    checked_affinities,
    intensity_affinities,
)
from psc.errors import ConfigError, DataError


def brute_force(labels, zero_label, offsets):
    """The definition, voxel by voxel."""
    affinities = np.zeros((len(offsets), *labels.shape), np.uint8)
    mask = np.zeros((len(offsets), *labels.shape), bool)
    for v in np.ndindex(labels.shape):
        for channel, offset in enumerate(offsets):
            partner = tuple(p + o for p, o in zip(v, offset, strict=True))
            if not all(0 <= p < n for p, n in zip(partner, labels.shape, strict=True)):
                continue
            a, b = labels[v], labels[partner]
            affinities[(channel, *v)] = a == b and a != 0
            mask[(channel, *v)] = zero_label == "boundary" or (a != 0 and b != 0)
    return affinities, mask


@settings(max_examples=60, deadline=None)
@given(
    labels=hnp.arrays(
        st.sampled_from([np.uint8, np.int64, np.uint64]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.integers(0, 3),
    ),
    zero_label=st.sampled_from(["ignore", "boundary"]),
    offsets=st.just(NEAREST) | st.lists(st.tuples(*[st.integers(-6, 6)] * 3), max_size=4),
)
def test_affinities_are_the_definition(labels, zero_label, offsets):
    more = {} if offsets is NEAREST else {"offsets": offsets}
    affinities, mask = affinities_from_labels(labels, zero_label=zero_label, **more)
    expected, expected_mask = brute_force(labels, zero_label, offsets)
    np.testing.assert_array_equal(affinities, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    assert affinities.dtype == np.uint8
    assert mask.dtype == np.bool_


def test_channels_are_z_y_x():
    labels = np.ones((2, 3, 4), np.uint64)
    labels[1] = 2  # a boundary across z only
    affinities, _ = affinities_from_labels(labels)
    assert affinities[0, 1].sum() == 0
    assert affinities[1, :, 1:].all()
    assert affinities[2, :, :, 1:].all()


def test_huge_ids_are_not_confused():
    # Two ids that a float64 cannot tell apart.
    labels = np.array([[[2**63, 2**63 + 1]]], np.uint64)
    assert affinities_from_labels(labels)[0].sum() == 0


def test_refuses_what_are_no_labels():
    with pytest.raises(DataError, match="float32"):
        affinities_from_labels(np.ones((2, 2, 2), np.float32))
    with pytest.raises(DataError, match=r"\(2, 2\)"):
        affinities_from_labels(np.ones((2, 2), np.uint8))
    with pytest.raises(ConfigError, match="'keep'"):
        affinities_from_labels(np.ones((2, 2, 2), np.uint8), zero_label="keep")


def membrane(dtype=np.uint8):
    """Bright tissue, with a dark sheet at x = 8."""
    raw = np.full((6, 7, 16), 180, dtype)
    raw[:, :, 8] = 40
    return raw


def test_intensity_affinities_are_low_on_both_edges_of_a_membrane():
    affinities = intensity_affinities(membrane(), sigma=0)
    assert affinities.shape == (3, 6, 7, 16)
    assert affinities.dtype == np.float32
    across = affinities[2, 3, 3]
    assert across[[8, 9]].tolist() == [0, 0]  # edges (7, 8) and (8, 9)
    assert across[[0, 7, 10, 15]].tolist() == [1, 1, 1, 1]
    assert affinities[0, 3, 3, 8] == 0  # along the membrane


def test_intensity_affinities_do_not_depend_on_brightness_contrast_or_dtype():
    expected = intensity_affinities(membrane(), sigma=1.0)
    assert 0 <= expected.min() < expected.max() <= 1
    darker = membrane(np.float64) * 0.01 - 3
    before = darker.copy()
    np.testing.assert_allclose(intensity_affinities(darker, sigma=1.0), expected, atol=1e-5)
    np.testing.assert_array_equal(darker, before)


def test_smoothing_spreads_the_membrane():
    sharp, smooth = (intensity_affinities(membrane(), sigma)[2, 3, 3] for sigma in (0, 1.5))
    assert smooth[6] < sharp[6]


def test_smoothing_leaves_a_float32_volume_untouched():
    raw = membrane(np.float32)
    intensity_affinities(raw, sigma=1.0)
    np.testing.assert_array_equal(raw, membrane(np.float32))


def test_intensity_affinities_need_contrast():
    for raw in (np.full((3, 3, 3), 7.0), np.full((3, 3, 3), np.nan)):
        with pytest.raises(DataError, match="no contrast"):
            intensity_affinities(raw, 1.0)


def broken(value):
    affinities = np.full((3, 2, 2, 2), 0.5, np.float32)
    affinities[1, 1, 0, 1] = value
    return affinities


@pytest.mark.parametrize(
    ("affinities", "message"),
    [
        (np.zeros((2, 2, 2), np.float32), r"\(2, 2, 2\)"),
        (np.zeros((9, 2, 2, 2), np.float32), r"\(9, 2, 2, 2\)"),  # long-range channels
        (np.zeros((3, 0, 2, 2), np.float32), r"\(3, 0, 2, 2\)"),
        (broken(np.nan), "nan"),
        (broken(np.inf), "inf"),
        (broken(-0.01), "-0.01"),
        (broken(1.01), "1.01"),
        (np.full((3, 2, 2, 2), 255, np.uint8), "divide 8-bit"),
    ],
)
def test_checked_affinities_refuse(affinities, message):
    with pytest.raises(DataError, match=message):
        checked_affinities(affinities)


def test_checked_affinities_copy_only_to_convert():
    good = broken(0.25)
    assert checked_affinities(good) is good
    assert checked_affinities(good.astype(np.float64)).dtype == np.float32
    assert checked_affinities(good.transpose(0, 3, 2, 1)).flags.c_contiguous
