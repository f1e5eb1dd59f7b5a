"""What streams share: their channels and their padding."""

import pytest
import torch
from torch import nn

from psc.accounting.account import recorded_layers
from psc.block.block import stream_channels
from psc.block.convolution import conv3d, symmetric_padding


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


def test_accounts_name_it_a_conv3d_and_calls_are_those_of_one():
    conv = conv3d(2, 3, (3, 1, 1), padding="same")
    like = nn.Conv3d(2, 3, (3, 1, 1), padding="same")
    like.load_state_dict(conv.state_dict())
    x = torch.randn(1, 2, 4, 4, 4)
    with recorded_layers(conv) as layers:
        torch.testing.assert_close(conv(x), like(x))
    assert layers[0].kind == "Conv3d"
