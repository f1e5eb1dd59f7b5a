"""Eq. 5 and its caps against the widths of the authors' files (reference, section 2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psc.block.block import separable_width, stream_width
from psc.errors import ConfigError

channels = st.integers(1, 1024)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "streams", "expected"),
    [
        # P_1SC_1 of the U-Net, encoder and decoder
        (1, 24, 1, 8),
        (24, 72, 1, 72),
        (72, 216, 1, 216),
        (216, 648, 1, 512),
        (432, 216, 1, 216),
        (144, 72, 1, 72),
        (48, 24, 1, 24),
        # P_2SC_2 of the U-Net, encoder and decoder
        (1, 24, 2, 4),
        (24, 72, 2, 54),
        (72, 216, 2, 162),
        (216, 648, 2, 486),
        (432, 216, 2, 216),
        (144, 72, 2, 72),
        (48, 24, 2, 24),
    ],
)
def test_published_unet_widths(in_channels, out_channels, streams, expected):
    maximum = min(out_channels, 512)
    assert stream_width(in_channels, out_channels, streams, maximum=maximum) == expected


@given(channels, channels, st.sampled_from([1, 3, 5]))
def test_eq5_separable_never_has_more_weights_than_the_full_convolution(k_in, k_out, d):
    m = separable_width(k_in, k_out, d)
    full = k_in * k_out * d**3
    if m > 3:  # at the floor of 3 it may
        assert m * (k_in * d**2 + k_out * d) <= full
        assert (m + 1) * (k_in * d**2 + k_out * d) > full


@given(channels, channels, st.integers(1, 3), st.integers(1, 600))
def test_width_respects_its_cap_and_stays_positive(k_in, k_out, streams, maximum):
    assert 1 <= stream_width(k_in, k_out, streams, maximum=maximum) <= maximum


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(ConfigError, match="at least 1"):
        stream_width(*arguments)
