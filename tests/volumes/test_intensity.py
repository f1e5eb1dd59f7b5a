"""Which grey values become 0 and 1, and what is said where that is not sure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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
    for values, chosen in (
        (EIGHT.astype(np.uint16) * 257, None),
        (EIGHT.astype(np.uint16) * 16, (0, 255 * 16)),
        (EIGHT.astype(np.int16) - 128, (-128, 127)),
        (EIGHT.astype(np.float32), (0, 255)),
        ((EIGHT / 255).astype(np.float32), None),
    ):
        settled, _ = settle(values, chosen)
        assert np.allclose(scale_intensity(values, settled), expected, atol=1e-6)


class TestScaleIntensity:
    @pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
    def test_full_scale_of_integers(self, dtype, top):
        raw = np.array([[[0, 1, top // 3, top]]], dtype=dtype)
        scaled = scale_intensity(raw)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, [[[0, 1 / top, 1 / 3, 1]]], rtol=1e-6)
        assert scaled.max() <= 1

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_pass(self, dtype):
        raw = np.array([[[0, 0.25, 1]]], dtype=dtype)
        scaled = scale_intensity(raw)
        np.testing.assert_array_equal(scaled, raw)
        assert scaled.dtype == np.float32
        assert not np.shares_memory(scaled, raw)

    @given(
        arrays(np.int16, st.tuples(*[st.integers(1, 4)] * 3)),
        st.integers(-40000, 40000),
        st.integers(1, 70000),
    )
    def test_range_and_clipping(self, raw, low, width):
        expected = np.clip((raw.astype(float) - low) / width, 0, 1)
        np.testing.assert_allclose(scale_intensity(raw, (low, low + width)), expected, atol=1e-6)

    def test_large_integers_lose_nothing(self):
        raw = np.array([[[2**40, 2**40 + 1, 2**40 + 2]]])
        np.testing.assert_allclose(scale_intensity(raw, (2**40, 2**40 + 2)), [[[0, 0.5, 1]]])

    def test_strided_views_come_out_in_order(self):
        raw = np.random.default_rng(0).integers(0, 256, (6, 7, 8), dtype=np.uint8)
        view = raw.transpose(2, 0, 1)[::-1, 1:, ::2]
        scaled = scale_intensity(view)
        np.testing.assert_allclose(scaled, view / 255, rtol=1e-6)
        assert scaled.flags.c_contiguous

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (np.zeros((1, 1, 1), np.int16), "raw is int16.*set intensity_range"),
            (np.zeros((1, 1, 1), np.uint32), "raw is uint32.*set intensity_range"),
            (np.full((1, 1, 1), 1.5), "from 1.5 to 1.5, expected"),
            (np.full((1, 1, 1), -0.5), "set intensity_range"),
            (np.full((1, 1, 1), np.nan), "raw holds NaN; repair"),
        ],
    )
    def test_data_errors(self, raw, problem):
        with pytest.raises(DataError, match=problem):
            scale_intensity(raw)

    @pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
    def test_range_errors(self, bad):
        with pytest.raises(ConfigError, match="must be increasing"):
            scale_intensity(np.zeros((1, 1, 1), np.uint8), bad)
