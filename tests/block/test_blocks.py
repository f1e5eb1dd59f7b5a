"""P_mSC_n against hand-placed convolutions, geometry, options and refusals."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psc import ConvolutionOptions, PSCBlock
from psc.errors import ConfigError

GRID = list(itertools.product((1, 2, 3), (1, 2, 3)))
SLOPE = 0.005


def leaky():
    return nn.LeakyReLU(SLOPE)


def explicit_psc(block, x, *, padding, stride=1):
    """The block computed from 2D and 1D convolutions placed by hand, stream by stream."""
    outputs = []
    for axis, stream in enumerate(block.streams):
        y = x
        plane = [a for a in range(3) if a != axis]
        # Bring the stream's axis to the batch: (N, C, D, H, W) → (N·L, C, P, Q).
        for i in range(block.n):
            conv = stream[i].conv
            weight = conv.weight.squeeze(2 + axis)  # (M, C, 3, 3)
            order = (0, 2 + axis, 1, 2 + plane[0], 2 + plane[1])
            y = y.permute(order)
            n, length = y.shape[:2]
            step = stride if i == 0 else 1
            pad = weight.shape[-1] // 2 if padding == "same" else 0
            y = F.conv2d(y.flatten(0, 1), weight, conv.bias, stride=step, padding=pad)
            y = F.leaky_relu(y, SLOPE).unflatten(0, (n, length))
            y = y.permute([order.index(a) for a in range(5)])
        conv = stream[block.n].conv
        weight = conv.weight.flatten(2)  # (out, M, 2n+1)
        order = (0, 2 + plane[0], 2 + plane[1], 1, 2 + axis)
        y = y.permute(order)
        shape = y.shape[:3]
        pad = weight.shape[-1] // 2 if padding == "same" else 0
        y = F.conv1d(y.flatten(0, 2), weight, conv.bias, stride=stride, padding=pad)
        y = F.leaky_relu(y, SLOPE).unflatten(0, shape)
        outputs.append(y.permute([order.index(a) for a in range(5)]))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize(("m", "n"), GRID)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_hand_placed_convolutions_forward_and_gradient(m, n, padding, dtype, tolerance):
    torch.manual_seed(10 * m + n)
    block = PSCBlock(4, 6, m, n, padding=padding, activation=leaky).to(dtype)
    x = torch.randn(2, 4, 9, 8, 10, dtype=dtype, requires_grad=True)
    ours = block(x)
    expected = explicit_psc(block, x, padding=padding)
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)

    parameters = [x, *block.parameters()]
    direction = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * direction).sum(), parameters)
    theirs = torch.autograd.grad((expected * direction).sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=20 * tolerance, atol=20 * tolerance)


@pytest.mark.parametrize(("m", "n"), GRID)
def test_stride_equals_hand_placed_convolutions(m, n):
    block = PSCBlock(3, 6, m, n, stride=2, activation=leaky).double()
    x = torch.randn(1, 3, 9, 8, 7, dtype=torch.float64)
    expected = explicit_psc(block, x, padding="same", stride=2)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert block(x).shape == (1, 6, 5, 4, 4)  # halved, rounded up, in every axis


@pytest.mark.parametrize(("m", "n"), GRID)
@pytest.mark.parametrize("stride", [1, 2])
def test_receptive_field_is_what_the_gradient_reaches(m, n, stride, reach_of_gradient):
    block = PSCBlock(1, 3, m, n, stride=stride, activation=None)
    assert reach_of_gradient(block, (1, 1, 31, 31, 31)) == block.receptive_field
    if stride == 1:
        assert block.receptive_field == (2 * n + 1,) * 3


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(3, 9),
    st.sampled_from(["same", "valid"]),
    st.tuples(*[st.integers(8, 11)] * 3),
)
def test_output_shape(m, n, in_channels, out_channels, padding, size):
    block = PSCBlock(in_channels, out_channels, m, n, padding=padding)
    y = block(torch.zeros(1, in_channels, *size))
    loss = 2 * n if padding == "valid" else 0
    assert y.shape == (1, out_channels, *(s - loss for s in size))


def test_uneven_channels_go_to_the_first_streams():
    block = PSCBlock(4, 16, m=3, n=1)
    assert [stream.axis.conv.out_channels for stream in block.streams] == [6, 5, 5]


def test_pre_activation_normalises_what_enters():
    options = ConvolutionOptions(norm=nn.BatchNorm3d, pre_activation=True)
    block = PSCBlock(4, 8, 1, 1, options=options)
    first = block.streams[0].plane_1
    assert [name for name, _ in first.named_children()] == ["norm", "activation", "conv"]
    assert first.norm.num_features == 4
    assert first.conv.bias is not None
    assert block(torch.randn(2, 4, 6, 6, 6)).min() < 0  # nothing follows the last convolution


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_other_kernel_sizes(kernel_size):
    block = PSCBlock(2, 4, 2, 2, kernel_size=kernel_size, padding="valid")
    assert block.receptive_field == (2 * kernel_size - 1,) * 3
    size = 12 - 2 * (kernel_size - 1)
    assert block(torch.zeros(1, 2, 12, 12, 12)).shape == (1, 4, size, size, size)


def test_compiles_to_the_same_numbers_and_exports():
    block = PSCBlock(3, 6, 2, 2).eval()
    x = torch.randn(1, 3, 6, 6, 6)
    exported = torch.export.export(block, (x,))
    torch.testing.assert_close(exported.module()(x), block(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 8, 4, 1), {}, "m=4"),
        ((4, 8, 0, 1), {}, "m=0"),
        ((4, 8, 2, 0), {}, "n=0"),
        ((4, 2, 3, 1), {}, "out_channels=2 is less than m=3"),
        ((0, 8), {}, "in_channels must be at least 1, got 0"),
        ((4, 8), {"kernel_size": 2}, "kernel_size must be odd"),
        ((4, 8), {"padding": "full"}, "'same' or 'valid'"),
        ((4, 8), {"width": 0}, "width must be at least 1"),
        ((4, 8), {"stride": 2, "padding": "valid"}, "sizes would differ"),
    ],
)
def test_impossible_blocks_are_refused(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        PSCBlock(*arguments, **options)


def test_unknown_options_are_refused_with_the_known_ones():
    with pytest.raises(TypeError, match=r"pading.*kernel_size, padding"):
        PSCBlock(4, 8, pading="same")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (2, 3), (3, 2)])
def test_bf16_on_the_gpu_agrees_with_fp32(m, n):
    """torch 2.9 computed bf16 convolutions with kernel (1, 3, 3) wrongly."""
    assert bf16_error(m, n, "cuda") < 2e-2


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2)])
def test_bf16_on_the_cpu_agrees_with_fp32(m, n):
    # bf16 keeps 8 bits: 4e-3 per rounding, a few roundings deep
    assert 0 < bf16_error(m, n, "cpu") < 2e-2


def bf16_error(m, n, device):
    """Relative error of the block under bf16 autocast against float32."""
    torch.manual_seed(0)
    block = PSCBlock(24, 72, m, n).to(device)
    x = torch.randn(1, 24, 12, 12, 12, device=device)
    expected = block(x)
    with torch.autocast(device, torch.bfloat16):
        ours = block(x)
    assert ours.dtype == torch.bfloat16
    return ((ours.float() - expected).norm() / expected.norm()).item()


def test_a_norm_that_looks_at_its_channels():
    block = PSCBlock(8, 16, m=2, n=2, width=8, norm=lambda channels: nn.GroupNorm(8, channels))
    assert block(torch.zeros(1, 8, 4, 4, 4)).shape == (1, 16, 4, 4, 4)


def test_what_comes_before_does_not_change_the_input_where_the_norm_is_none_in_effect():
    x = torch.randn(1, 4, 4, 4, 4)
    before = x.clone()
    PSCBlock(4, 6, pre_activation=True, norm=nn.Identity)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "option",
    [
        {"activation": nn.ReLU()},
        {"norm": nn.BatchNorm3d(8)},
        {"stride": (1, 2, 2)},
        {"kernel_size": (3, 3, 3)},
        {"width": 2.5},
    ],
)
def test_what_conv3d_would_take_and_no_block_does_is_refused_by_name(option):
    with pytest.raises(ConfigError, match=rf"{next(iter(option))} must"):
        PSCBlock(8, 8, **option)


def test_numbers_of_numpy_are_numbers():
    block = PSCBlock(np.int64(8), np.int32(16), m=2, n=1, width=np.int64(4), stride=np.int64(2))
    assert block(torch.zeros(1, 8, 4, 4, 4)).shape == (1, 16, 2, 2, 2)
