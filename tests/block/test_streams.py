"""What streams share: their channels, their padding, and which of them can be folded."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from psc.accounting.account import recorded_layers
from psc.block.stream import FoldableStream, stream_channels, stream_convolution, symmetric_padding
from psc.errors import ConfigError


@pytest.mark.parametrize(
    ("channels", "m", "merge", "expected"),
    [
        (33, 2, "concatenate", [17, 16]),
        (7, 3, "concatenate", [3, 2, 2]),
        (2, 3, "concatenate", [1, 1, 0]),
        (7, 3, "sum", [7, 7, 7]),
        (5, 1, "concatenate", [5]),
    ],
)
def test_channels_are_shared_out_or_given_by_all(channels, m, merge, expected):
    assert stream_channels(channels, m, merge) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"padding": (0, 1, 2)}, (0, 1, 2)),
        ({"padding": 2}, (2, 2, 2)),
        ({"padding": "valid"}, (0, 0, 0)),
        ({"padding": "same"}, (0, 1, 2)),
        ({"padding": "same", "dilation": (1, 2, 3)}, (0, 2, 6)),
        ({"padding": "same", "kernel_size": (2, 3, 3)}, None),
        ({"padding": "same", "kernel_size": (2, 3, 3), "dilation": (2, 1, 1)}, (1, 1, 1)),
    ],
)
def test_padding_in_numbers_is_what_conv3d_pads(options, expected):
    conv = nn.Conv3d(1, 1, **{"kernel_size": (1, 3, 5), **options})
    assert symmetric_padding(conv) == expected
    if expected is not None:
        like = nn.Conv3d(1, 1, conv.kernel_size, padding=expected, dilation=conv.dilation)
        like.load_state_dict(conv.state_dict())
        x = torch.randn(1, 1, 8, 9, 14)
        torch.testing.assert_close(conv(x), like(x))


@pytest.mark.parametrize(
    ("axes", "options", "kernel"),
    [
        ((0,), {}, (1, 3, 3)),
        ((0, 1, 2), {}, (1, 3, 1)),  # 1D along H; across D and W it is 2D, if thin
        ((0, 1, 2), {}, (1, 1, 1)),
        ((1,), {"stride": (2, 1, 2)}, (1, 1, 1)),  # nothing but strides
        ((1,), {"padding": (1, 0, 0)}, (1, 1, 3)),
        ((), {}, (3, 3, 3)),
        ((), {"groups": 2}, (1, 3, 3)),
        ((), {"dilation": (1, 2, 1)}, (1, 3, 3)),
        ((), {"padding": (0, 1, 1), "padding_mode": "circular"}, (1, 3, 3)),
        ((), {"padding": "same"}, (1, 2, 3)),
    ],
)
def test_convolutions_in_a_plane_or_along_the_axis_fold(axes, options, kernel):
    x = torch.randn(1, 2, 6, 7, 8)
    conv = stream_convolution(2, 2, kernel, **options)
    for axis in range(3):
        stream = FoldableStream(OrderedDict(only=conv), axis, "folded")
        assert stream.folds(x) == (axis in axes)
        torch.testing.assert_close(stream(x), nn.Conv3d.forward(conv, x), rtol=1e-5, atol=1e-5)


def test_accounts_name_it_a_conv3d_and_calls_are_those_of_one():
    conv = stream_convolution(2, 3, (3, 1, 1), padding="same")
    like = nn.Conv3d(2, 3, (3, 1, 1), padding="same")
    like.load_state_dict(conv.state_dict())
    x = torch.randn(1, 2, 4, 4, 4)
    with recorded_layers(conv) as layers:
        torch.testing.assert_close(conv(x), like(x))
    assert layers[0].kind == "Conv3d"


def test_an_unknown_formulation_is_refused():
    with pytest.raises(ConfigError, match="one of auto, plain, folded; got 'quick'"):
        FoldableStream(OrderedDict(conv=stream_convolution(1, 1, 1)), 0, "quick")
