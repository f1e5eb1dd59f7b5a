"""Folded and plain formulations: the same numbers, gradients, parameters; which is taken when."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psc import PSCBlock
from psc.block.folding import (
    add,
    concatenate,
    fold,
    folded_axis_convolution,
    folded_plane_convolution,
    folds,
    unfold,
)
from psc.errors import ConfigError

GRID = list(itertools.product((1, 2, 3), (1, 2, 3)))


def both(in_channels, out_channels, m, n, **options):
    """A plain block and a folded one with the same parameters."""
    plain = PSCBlock(in_channels, out_channels, m, n, formulation="plain", **options)
    folded = PSCBlock(in_channels, out_channels, m, n, formulation="folded", **options)
    folded.load_state_dict(plain.state_dict())  # strict: one layout of parameters
    return plain, folded


@pytest.mark.parametrize(("m", "n"), GRID)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": "same", "stride": 2},
        {"norm": nn.BatchNorm3d},
        {"norm": nn.BatchNorm3d, "pre_activation": True},
        {"kernel_size": 5},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},  # the 1D convolution has one tap, and strides
        {"merge": "sum", "norm": nn.BatchNorm3d},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_folded_equals_plain_forward_and_gradient(m, n, options, layout):
    torch.manual_seed(10 * m + n)
    plain, folded = (b.double().to(memory_format=layout) for b in both(4, 7, m, n, **options))
    x = torch.randn(2, 4, 14, 13, 15, dtype=torch.float64).to(memory_format=layout)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    expected, ours = plain(inputs[0]), folded(inputs[1])
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(folded(x.detach()), expected)  # without a gradient of the input

    direction = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * direction).sum(), [inputs[0], *plain.parameters()])
    mine = torch.autograd.grad((ours * direction).sum(), [inputs[1], *folded.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_inference_and_frozen_weights_give_the_same():
    torch.manual_seed(0)
    plain, folded = both(3, 6, 2, 2)
    x = torch.randn(1, 3, 9, 8, 7)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), plain(x))
    for block in (plain, folded):
        block.requires_grad_(False)
    gradients = []
    for block in (plain, folded):
        y = x.clone().requires_grad_()
        block(y).square().sum().backward()
        gradients.append(y.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (5, 2), (7, 3), (1, 0)])
def test_gradients_of_the_axis_convolution_are_numerically_right(length, taps, padding):
    """Against finite differences, second derivatives too; also where the kernel is the longer."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, length, 2, 3, dtype=torch.float64).to(
        memory_format=torch.channels_last_3d
    )
    for filters in (2, 4):  # either side of the product may be the wider
        weight = torch.randn(filters, 3, taps, dtype=torch.float64)
        bias = torch.randn(filters, dtype=torch.float64)
        inputs = [t.requires_grad_() for t in (x.detach(), weight, bias)]

        def function(x, weight, bias):
            return folded_axis_convolution(x, weight, bias, 1, padding)

        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=length < 7)  # slow
        assert torch.autograd.gradgradcheck(function, inputs)


def triples(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


@given(
    kernel=triples(1, 5),
    stride=triples(1, 3),
    padding=triples(0, 6),
    spare=triples(0, 6),
    channels=st.integers(1, 3),
    with_bias=st.booleans(),
    plane=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_folded_convolutions_equal_conv3d(
    kernel, stride, padding, spare, channels, with_bias, plane
):
    """Any kernel, stride and padding per axis, more padding than the kernel's reach too."""
    torch.manual_seed(0)
    size = [max(1, k - 2 * p) + s for k, p, s in zip(kernel, padding, spare, strict=True)]
    x = fold(torch.randn(2, channels, *size, dtype=torch.float64), 0).requires_grad_()
    shape = (1, *kernel[1:]) if plane else (kernel[0], 1, 1)
    weight = torch.randn(4, channels, *shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True) if with_bias else None
    if plane:
        steps, zeros = (1, *stride[1:]), (0, *padding[1:])
        y = folded_plane_convolution(x, weight.squeeze(2), bias, stride[1:], padding[1:])
    else:
        steps, zeros = (stride[0], 1, 1), (padding[0], 0, 0)
        y = folded_axis_convolution(x, weight.flatten(2), bias, stride[0], padding[0])
    expected = F.conv3d(x, weight, bias, steps, zeros)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    direction = torch.randn_like(expected)
    inputs = [x, weight] if bias is None else [x, weight, bias]
    ours = torch.autograd.grad((y * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fold_moves_the_axis_and_unfold_undoes_it(axis):
    x = torch.arange(2 * 3 * 4 * 5 * 6.0).view(2, 3, 4, 5, 6)
    folded = fold(x, axis)
    assert folded.is_contiguous(memory_format=torch.channels_last_3d)
    assert folded.shape[2] == x.shape[2 + axis]
    assert torch.equal(unfold(folded, axis), x)
    assert unfold(folded, axis).data_ptr() == folded.data_ptr()


def test_folding_the_first_axis_of_channels_last_copies_nothing():
    x = torch.randn(1, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    assert fold(x, 0).data_ptr() == x.data_ptr()


def test_concatenation_keeps_the_channels_last():
    streams = [unfold(fold(torch.randn(1, 4, 5, 6, 7), axis), axis) for axis in range(3)]
    y = concatenate(streams, folded=True)
    assert torch.equal(y, torch.cat(streams, dim=1))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("m", [2, 3])
def test_a_sum_of_streams_keeps_the_channels_last_and_changes_none_of_them(m):
    streams = [unfold(fold(torch.randn(2, 4, 5, 6, 7), axis), axis) for axis in range(m)]
    before = [x.clone() for x in streams]
    y = add(streams)
    torch.testing.assert_close(y, torch.stack(before).sum(0))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(map(torch.equal, streams, before))


def test_auto_folds_where_pytorch_would_be_slow():
    x = torch.zeros(1, 1, 9, 8, 8)
    assert folds(x)
    assert not folds(x.to(torch.bfloat16))
    assert not folds(x.to("meta"))
    assert not folds(x, "plain")
    assert folds(x.double(), "folded")
    with torch.autocast("cpu", torch.bfloat16):
        assert not folds(x)


def test_volumes_without_a_batch_are_never_folded_and_go_through_a_block():
    torch.manual_seed(0)
    _, folded = both(2, 4, 2, 2)
    x = torch.randn(2, 9, 8, 7)
    assert not folds(x, "folded")
    torch.testing.assert_close(folded(x), folded(x[None])[0], rtol=1e-5, atol=1e-5)


def test_forced_to_fold_a_block_trains_under_autocast():
    torch.manual_seed(0)
    plain, folded = both(2, 4, 2, 1)
    x = torch.randn(1, 2, 9, 8, 7)
    gradients = []
    for block in (plain, folded):
        with torch.autocast("cpu", torch.bfloat16):
            y = block(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        gradients.append([p.grad for p in block.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max().item())


def test_a_few_voxels_are_folded_in_inference_only():
    x = torch.zeros(1, 1, 8, 8, 8)
    assert not folds(x)
    assert folds(x.expand(2, -1, -1, -1, -1))  # the voxels of the whole batch count
    with torch.no_grad():
        assert folds(x)


def test_hooks_see_every_convolution_of_a_folded_block():
    _, folded = both(2, 4, 2, 2)
    seen = []
    for module in folded.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    folded(torch.zeros(1, 2, 5, 6, 7))
    assert [shape[1] for shape in seen] == [folded.width, folded.width, 2] * 2
    assert {shape.numel() // shape[1] for shape in seen} == {5 * 6 * 7}


def test_compiles_in_one_graph():
    torch.manual_seed(0)
    plain, folded = both(2, 4, 2, 2)
    x = torch.randn(1, 2, 6, 6, 6)
    compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x))
    compiled(x).sum().backward()
    plain(x).sum().backward()
    for (name, ours), theirs in zip(folded.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_formulation_set_later_reaches_the_streams():
    block = PSCBlock(2, 4, m=2, n=1)
    assert block.formulation == "auto"
    block.formulation = "plain"
    assert [stream.formulation for stream in block.streams] == ["plain", "plain"]


def test_an_unknown_formulation_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="formulation must be one of auto, plain, folded"):
        PSCBlock(2, 4, formulation="fast")
    block = PSCBlock(2, 4)
    with pytest.raises(ConfigError, match="formulation must be one of auto, plain, folded"):
        block.formulation = "fast"
