"""Eq. 4: consecutive separable convolutions are one separable convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from psc import ConvolutionOptions, PSCBlock
from psc.decomposition import compose, compose_chain
from psc.errors import ConfigError

extents = st.tuples(*[st.integers(1, 3)] * 3)
channels = st.integers(1, 3)


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(max_examples=10)
@given(extents, extents, channels, channels, channels, st.integers(0, 2**31))
def test_eq4_the_composed_kernel_is_both_convolutions(first, second, c_in, c_mid, c_out, seed):
    a = normal(c_mid, c_in, *first, seed=seed)
    b = normal(c_out, c_mid, *second, seed=seed + 1)
    x = normal(1, c_in, 6, 6, 6, seed=seed + 2)
    composed = compose(a, b)
    assert composed.shape[2:] == tuple(i + j - 1 for i, j in zip(first, second, strict=True))
    difference = F.conv3d(x, composed) - F.conv3d(F.conv3d(x, a), b)
    assert difference.abs().max() <= 1e-12 * (1 + composed.abs().sum())


def along(axis, line):
    """A line (k,) as a kernel of one channel."""
    return line.reshape([1, 1, *(len(line) if a == axis else 1 for a in range(3))])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 3])
def test_eq4_lines_compose_with_lines_and_planes_with_planes(axis, width):
    lines = [along(axis, normal(size, seed=size)) for size in (3, 5)]
    planes = [normal(width, 2, 3, 5, seed=1), normal(4, width, 1, 3, seed=2)]
    planes = [plane.unsqueeze(2 + axis) for plane in planes]
    line, plane = compose(*lines), compose(*planes)
    assert line.numel() == 7
    assert plane.squeeze(2 + axis).shape == (4, 2, 3, 7)
    expected = compose(*(p * one for p, one in zip(planes, lines, strict=True)))
    assert (plane * line - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_eq4_convolutions_of_one_channel_commute():
    a, b = normal(1, 1, 3, 1, 2, seed=0), normal(1, 1, 2, 3, 3, seed=1)
    assert (compose(a, b) - compose(b, a)).abs().max() <= 1e-12


@pytest.mark.parametrize("n", [1, 2, 3])
def test_eq4_the_line_of_n_kernels_is_as_long_as_the_blocks(n):
    kernels = [along(0, normal(3, seed=i)) * torch.ones(1, 1, 1, 3, 3) for i in range(n)]
    composed = compose_chain(kernels, [(1, 1, 1)] * n)
    block = PSCBlock(1, 1, m=1, n=n)
    assert composed.shape[2] == block.streams[0].axis.conv.kernel_size[0] == n * 2 + 1
    assert composed.shape[2:] == block.receptive_field
    assert torch.linalg.matrix_rank(composed.reshape(n * 2 + 1, -1)) == 1


def test_eq4_does_not_hold_where_lines_mix_channels():
    # Two layers of rank 1 in their unfoldings, lines (M, M): the composed unfolding has full rank,
    # so that no separable convolution with as few filters equals it.
    planes = [normal(2, 2, 1, 3, 3, seed=i) for i in range(2)]
    lines = [normal(2, 2, 3, 1, 1, seed=i + 2) for i in range(2)]
    layers = [compose(plane, line) for plane, line in zip(planes, lines, strict=True)]
    composed = compose(*layers)  # (2, 2, 5, 5, 5)
    rank = torch.linalg.matrix_rank(composed.movedim(2, 1).reshape(2 * 5, -1))
    assert torch.linalg.matrix_rank(layers[0].movedim(2, 1).reshape(2 * 3, -1)) == 2
    assert rank > 2
    separable = compose(compose(planes[0], planes[1]), compose(lines[0], lines[1]))
    assert (separable - composed).norm() > 0.1 * composed.norm()


def test_eq4_does_not_hold_with_a_relu_in_between():
    a, b, x = (
        normal(2, 1, 3, 3, 3, seed=0),
        normal(1, 2, 3, 3, 3, seed=1),
        normal(1, 1, 7, 7, 7, seed=2),
    )
    with_relu = F.conv3d(F.conv3d(x, a).relu(), b)
    assert (F.conv3d(x, compose(a, b)) - with_relu).norm() > 0.1 * with_relu.norm()
    # Without it, P_1SC_2 is one convolution by its composed kernel.
    options = ConvolutionOptions(activation=None, padding="valid", bias=False)
    block = PSCBlock(1, 3, m=1, n=2, options=options).double()
    stream = block.streams[0]
    kernel = compose(
        compose(stream.plane_1.conv.weight, stream.plane_2.conv.weight), stream.axis.conv.weight
    )
    assert (block(x) - F.conv3d(x, kernel)).abs().max() <= 1e-12


def test_eq4_with_zero_padding_holds_in_the_interior_only():
    a, b, x = (normal(1, 1, *[k] * 3, seed=i) for i, k in enumerate((3, 3, 9)))
    chain = F.conv3d(F.conv3d(x, a, padding=1), b, padding=1)
    difference = (F.conv3d(x, compose(a, b), padding=2) - chain).abs()[0, 0]
    assert difference[1:-1, 1:-1, 1:-1].max() <= 1e-12 * 100
    assert difference.max() > 1e-2


def test_kernels_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="reads 3 channels, the first writes 2"):
        compose(torch.zeros(2, 1, 3, 3, 3), torch.zeros(1, 3, 3, 3, 3))
    with pytest.raises(ConfigError, match="out, in, kD, kH, kW"):
        compose(torch.zeros(2, 3, 3, 3), torch.zeros(1, 2, 3, 3, 3))
