"""Which grey values become 0 and 1, and what is said where that is not sure."""

import numpy as np
import pytest

from psc.errors import ConfigError, DataError
from psc.volumes.intensity import scale_intensity, settled_range

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, 1000).astype(np.uint8)


def settle(values, given=None, trained=None, **more):
    return settled_range([values], given, trained, where="em.h5", setting="intensity_range", **more)


@pytest.mark.parametrize(
    "values",
    [
        EIGHT,
        EIGHT.astype(np.uint16) * 257,
        (EIGHT / 255).astype(np.float32),
        (EIGHT / 255).astype(np.float16),
        np.zeros(1000, np.uint16),  # perhaps padding: nothing can be said
    ],
)
def test_a_type_whose_range_is_used_needs_none(values):
    assert settle(values) == (None, "")


@pytest.mark.parametrize(
    ("values", "likely"),
    [
        (EIGHT.astype(np.uint16) * 16, r"6% of \[0,65535\].*\[0,4095\]"),  # 12 bits
        (EIGHT.astype(np.uint16) * 4, r"2% of \[0,65535\].*\[0,1023\]"),  # 10 bits
        (EIGHT.astype(np.uint16) * 64, r"25% of \[0,65535\].*\[0,16383\]"),  # 14 bits
        (EIGHT.astype(np.uint16), r"0% of \[0,65535\].*\[0,255\]"),
        (EIGHT.astype(np.int16) - 128, r"int16 .* from -128 to 127, .*\[-128,127\]"),
        (EIGHT.astype(np.int32) * 16, r"int32 .* from 0 to 4080, .*\[0,4095\]"),
        (EIGHT.astype(np.float32), r"float32 .* from 0 to 255, .*\[0,255\]"),
        ((EIGHT / 255 - 0.5).astype(np.float64), r"float64 .* from -0.5 to 0.5, .*\[-0.5,0.5\]"),
        (EIGHT.astype(np.uint32) << 24, r"uint32 .*\[0,4294967295\]"),
    ],
)
def test_what_the_type_does_not_say_is_asked_for_by_its_key(values, likely):
    with pytest.raises(DataError, match=rf"em\.h5 holds .*{likely}"):
        settle(values)
    low, high = map(float, values[[values.argmin(), values.argmax()]])
    assert settle(values, [low, high]) == ((low, high), "")  # and can be given


def test_what_the_network_was_trained_with_counts_for_other_types_too():
    assert settle(EIGHT, trained=[0, 255]) == ((0.0, 255.0), "")
    assert settle(EIGHT.astype(np.float32), trained=[0, 255]) == ((0.0, 255.0), "")
    assert settle(EIGHT.astype(np.int16), trained=[0, 255]) == ((0.0, 255.0), "")


@pytest.mark.parametrize(
    ("values", "trained", "said"),
    [
        (EIGHT.astype(np.uint16) * 257, [0, 255], r"100% of them outside \[0,255\]"),
        (EIGHT, [0, 4095], r"reach 6% of \[0,4095\], what the network was trained with"),
        (EIGHT.astype(np.int16) - 128, [0, 255], r"46% of them outside"),
        ((EIGHT / 255).astype(np.float32), [0, 255], r"reach 0% of \[0,255\]"),
        (EIGHT.astype(np.float32), [0, 1], r"outside \[0,1\]"),
    ],
)
def test_values_that_are_not_those_of_training_are_refused_unless_asked_for(values, trained, said):
    with pytest.raises(DataError, match=rf"{said}.*set intensity_range=") as caught:
        settle(values, trained=trained)
    assert f"intensity_range=[{trained[0]},{trained[1]}] if that is meant" in str(caught.value)
    settled, note = settle(values, trained)
    assert settled == tuple(map(float, trained))
    assert "em.h5 holds" in note  # said all the same
    assert settle(values, trained=trained, strict=False)[1]  # training is consistent with itself


def test_dark_bytes_are_said_only():
    settled, note = settle(EIGHT // 8)
    assert settled is None
    assert "reach 12% of [0,255]" in note


@pytest.mark.parametrize("bad", [[5, 3], [1], [0, np.inf], [0, 1, 2], [3, 3]])
def test_ranges_that_are_none(bad):
    with pytest.raises(ConfigError, match=r"intensity_range=.* must be"):
        settle(EIGHT, bad)


def test_the_same_picture_in_any_type_is_the_same_to_the_network():
    expected = scale_intensity(EIGHT)
    for values, given in (
        (EIGHT.astype(np.uint16) * 257, None),
        (EIGHT.astype(np.uint16) * 16, (0, 255 * 16)),
        (EIGHT.astype(np.int16) - 128, (-128, 127)),
        (EIGHT.astype(np.float32), (0, 255)),
        ((EIGHT / 255).astype(np.float32), None),
    ):
        settled, _ = settle(values, given)
        assert np.allclose(scale_intensity(values, settled), expected, atol=1e-6)
