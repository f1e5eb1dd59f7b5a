"""Whole layers as one stream (the best of its width, Eq. 5's account of it) and as m streams."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from psc import ConvolutionOptions, PSCBlock
from psc.block.block import separable_width, stream_width
from psc.decomposition import (
    all_sub_tensors,
    compose,
    dropped_energy,
    factorise,
    factorise_streams,
    factorise_sum,
    full_width,
    hosvd,
)
from psc.decomposition.streams import _assign
from psc.errors import ConfigError

sizes = st.tuples(*[st.integers(1, 4)] * 3)
channels = st.integers(1, 5)
axes = st.integers(0, 2)


def numpy_unfolding(weight, axis):
    """Rows in × plane, columns axis × out, entry by entry as the definition says."""
    out, c_in, *extent = weight.shape
    plane = [a for a in range(3) if a != axis]
    rows = [
        (i, p, q)
        for i in range(c_in)
        for p in range(extent[plane[0]])
        for q in range(extent[plane[1]])
    ]
    matrix = np.empty((len(rows), extent[axis] * out))
    for r, (i, p, q) in enumerate(rows):
        for k in range(extent[axis]):
            position = [0, 0, 0]
            position[axis], position[plane[0]], position[plane[1]] = k, p, q
            matrix[r, k * out : (k + 1) * out] = weight[(slice(None), i, *position)].numpy()
    return matrix


@settings(max_examples=10)
@given(channels, channels, sizes, axes, st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_stream_is_as_near_as_the_rank_allows(out, c_in, extent, axis, width, seed):
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(out, c_in, *extent)))
    factors, error = factorise(weight, axis, width)
    filters = min(width, full_width(weight, axis))
    assert factors.plane.shape[:2] == (filters, c_in)
    assert factors.line.shape[:2] == (out, filters)
    values = np.linalg.svd(numpy_unfolding(weight, axis), compute_uv=False)
    expected = np.sqrt((values[width:] ** 2).sum() / (values**2).sum())
    assert float(error) == pytest.approx(expected, abs=1e-12)
    approximation = compose(factors.plane, factors.line)  # what the two convolutions do in a row
    assert (factors.weight() - approximation).abs().max() <= 1e-12
    actual = float((weight - approximation).norm() / weight.norm())
    assert actual == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_factors_are_weights_of_two_convolutions(normal, axis, padded):
    weight, x = normal(4, 2, 3, 5, 3), normal(2, 2, 6, 7, 8, seed=1)
    factors, error = factorise(weight, axis, full_width(weight, axis))

    def run(y, kernel):
        return F.conv3d(y, kernel, padding=[s // 2 for s in kernel.shape[2:]] if padded else 0)

    assert float(error) <= 1e-12
    expected = run(x, weight)
    assert (run(run(x, factors.plane), factors.line) - expected).abs().max() <= 1e-12 * 100


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sum_of_r_separable_terms_is_recovered(normal, axis):
    r = 4
    plane_shape, line_shape = [3, 3, 3], [1, 1, 1]
    plane_shape[axis], line_shape[axis] = 1, 3
    weight = compose(normal(r, 8, *plane_shape), normal(8, r, *line_shape, seed=1))
    for width in (r, r + 1, 2 * r):
        factors, error = factorise(weight, axis, width)
        assert float(error) <= 1e-6
        assert (factors.weight() - weight).norm() <= 1e-6 * weight.norm()
    _, too_few = factorise(weight, axis, r - 1)
    assert float(too_few) > 0.05


def test_the_error_falls_monotonically_with_the_width(normal):
    weight = normal(6, 4, 3, 3, 3)
    for axis in range(3):
        errors = [float(factorise(weight, axis, width)[1]) for width in range(1, 19)]
        assert all(later < earlier for earlier, later in itertools.pairwise(errors))
        assert errors[-1] <= 1e-12


def test_a_layer_shares_its_2d_filters_so_it_is_never_worse_than_kernel_by_kernel(normal):
    weight = normal(5, 4, 3, 3, 3)
    core = hosvd(weight.movedim(1, -1)).core
    for axis in range(3):
        for terms in (1, 2):
            dropped = dropped_energy(core, all_sub_tensors((3, 3, 3), [axis])[:terms]).sum()
            _, error = factorise(weight, axis, 5 * terms)  # as many 2D filters as all kernels have
            assert float(error) <= float(dropped.sqrt() / weight.norm()) + 1e-12


@settings(max_examples=10)
@given(st.integers(1, 1024), st.integers(1, 1024), st.sampled_from([3, 5]))
def test_eq5_lies_between_half_of_the_full_width_and_all_of_it(k_in, k_out, d):
    full = min(k_in * d * d, k_out * d)
    # 1/M = 1/(d·k_i) + 1/(d²·k_{i-1}): half the harmonic mean of the unfolding's two sides.
    exact = 1 / (1 / (d * k_out) + 1 / (d * d * k_in))
    width = separable_width(k_in, k_out, d)
    assert width == max(3, int(exact + 1e-9))
    assert full / 2 <= exact + 1e-9
    assert width <= full
    assert full_width(torch.empty(k_out, k_in, d, d, d, device="meta"), 0) == full


@settings(max_examples=10)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([3, 5]))
def test_eq5_uncapped_the_block_has_as_many_weights_as_the_3d_layer(k_in, k_out, d):
    options = ConvolutionOptions(kernel_size=d, bias=False)
    block = PSCBlock(k_in, k_out, m=1, n=1, maximum_width=None, options=options)
    separable = sum(p.numel() for p in block.parameters())
    full = k_in * k_out * d**3
    one_filter = k_in * d * d + k_out * d
    if full // one_filter >= 3:  # at the floor of 3 filters it may have more
        assert full - one_filter < separable <= full


@settings(max_examples=10)
@given(st.integers(8, 24), st.integers(8, 24), st.sampled_from([2, 3]))
def test_eq5_divided_by_m_concatenated_streams_have_fewer_weights(k_in, k_out, m):
    block = PSCBlock(k_in, k_out, m=m, n=1, maximum_width=None, bias=False)
    separable = sum(p.numel() for p in block.parameters())
    width = stream_width(k_in, k_out, m)
    # Each stream has its own 2D filters, but lines to its own output channels only.
    assert separable == width * (m * 9 * k_in + 3 * k_out)
    assert separable < 27 * k_in * k_out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_factors_keep_the_dtype(normal, dtype):
    weight = normal(4, 3, 3, 3, 3, dtype=dtype)
    factors, error = factorise(weight, 1, 12)
    assert factors.plane.dtype == factors.line.dtype == dtype
    assert float(error) <= 1e-5  # of the decomposition; rounding the factors comes on top
    relative = (factors.weight() - weight).double().norm() / weight.double().norm()
    assert relative <= {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.02)


def test_a_zero_kernel_has_no_error():
    factors, error = factorise(torch.zeros(2, 2, 3, 3, 3), 0, 3)
    assert float(error) == 0
    assert factors.weight().abs().max() == 0


def test_the_factorisation_is_differentiable(normal):
    weight = normal(3, 2, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: factorise(w, 0, 2)[0].weight(), (weight,))
    assert torch.autograd.gradcheck(lambda w: factorise(w, 0, 2)[1], (weight,))


@pytest.mark.parametrize(
    ("weight", "axis", "width", "message"),
    [
        (torch.zeros(2, 2, 3, 3), 0, 1, "out, in, kD, kH, kW"),
        (torch.zeros(2, 2, 3, 3, 3), 3, 1, "axis must be 0, 1 or 2"),
        (torch.zeros(2, 2, 3, 3, 3), 0, 0, "width must be at least 1"),
        (torch.zeros(2, 2, 3, 3, 3, dtype=torch.int8), 0, 1, "floating-point"),
        (torch.full((2, 2, 3, 3, 3), torch.inf), 0, 1, "not finite"),
    ],
)
def test_what_cannot_be_factorised_is_refused(weight, axis, width, message):
    with pytest.raises(ConfigError, match=message):
        factorise(weight, axis, width)


def separable(normal, out, c_in, axis, r, seed):
    """A layer that is a sum of r separable terms along an axis."""
    plane_shape, line_shape = [3, 3, 3], [1, 1, 1]
    plane_shape[axis], line_shape[axis] = 1, 3
    return compose(
        normal(r, c_in, *plane_shape, seed=seed), normal(out, r, *line_shape, seed=seed + 1)
    )


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_streams_are_those_of_a_block_but_for_the_order_of_channels(normal, m):
    weight, x = normal(7, 2, 3, 3, 3), normal(1, 2, 5, 6, 7, seed=1)
    result = factorise_streams(weight, m, width=4)
    options = ConvolutionOptions(activation=None, bias=False)
    block = PSCBlock(2, 7, m=m, n=1, width=4, options=options).double()
    for stream, factors in zip(block.streams, result.streams, strict=True):
        assert stream.plane_1.conv.weight.shape == factors.plane.shape
        assert stream.axis.conv.weight.shape == factors.line.shape
        stream.plane_1.conv.weight.data = factors.plane
        stream.axis.conv.weight.data = factors.line
    assert sorted(result.order.tolist()) == list(range(7))
    expected = F.conv3d(x, result.weight(), padding=1)
    assert (block(x)[:, result.order.argsort()] - expected).abs().max() <= 1e-12
    # The permutation folds into the layer that reads the result.
    following = normal(3, 7, 1, 1, 1, seed=2)
    folded = F.conv3d(block(x), following[:, result.order])
    assert (folded - F.conv3d(expected, following)).abs().max() <= 1e-12
    error = (weight - result.weight()).norm() / weight.norm()
    assert float(result.relative_error) == pytest.approx(float(error), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("width", [2, 12])
def test_the_streams_of_a_sum_are_those_of_a_block_that_sums(normal, m, width):
    weight, x = normal(4, 2, 3, 3, 3), normal(1, 2, 5, 6, 7, seed=1)
    result = factorise_sum(weight, m, width)
    options = ConvolutionOptions(activation=None, bias=False)
    block = PSCBlock(2, 4, m=m, n=1, width=width, merge="sum", options=options).double()
    for stream, factors in zip(block.streams, result.streams, strict=True):
        stream.plane_1.conv.weight.data = factors.plane
        stream.axis.conv.weight.data = factors.line
    assert (block(x) - F.conv3d(x, result.weight(), padding=1)).abs().max() <= 1e-12
    expected = F.conv3d(x, weight, padding=1)
    error = (block(x) - expected).norm() / expected.norm()
    # 12 = 3 · 4 filters make any layer to 4 channels, in one stream alone
    assert error <= 1e-12 if width == 12 else error > 0.01


def test_one_stream_is_the_truncated_svd(normal):
    weight = normal(6, 3, 3, 3, 3)
    result = factorise_streams(weight, 1, 5)
    factors, error = factorise(weight, 0, 5)
    assert result.order.tolist() == list(range(6))
    assert torch.equal(result.streams[0].plane, factors.plane)
    assert float(result.relative_error) == float(error)
    assert float(factorise_sum(weight, 1, 5).relative_error) == pytest.approx(float(error))


@pytest.mark.parametrize(("m", "out"), [(2, 9), (3, 10)])
def test_every_channel_finds_the_stream_in_which_it_is_separable(normal, m, out):
    counts = [out // m + (s < out % m) for s in range(m)]
    parts = [separable(normal, c, 6, s, 2, seed=10 * s) for s, c in enumerate(counts)]
    shuffled = torch.randperm(out, generator=torch.Generator().manual_seed(0))
    weight = torch.cat(parts)[shuffled]
    result = factorise_streams(weight, m, width=2)
    assert float(result.relative_error) <= 1e-6
    assert (result.weight() - weight).norm() <= 1e-6 * weight.norm()
    own = torch.arange(m).repeat_interleave(torch.tensor(counts))[shuffled]
    for s, channels in enumerate(result.order.split(counts)):
        assert channels.tolist() == (own == s).nonzero().flatten().tolist()


@pytest.mark.parametrize("m", [2, 3])
def test_channels_are_shared_out_with_the_least_error(normal, m):
    errors = normal(7, m).square()
    counts = [7 // m + (s < 7 % m) for s in range(m)]
    groups = _assign(errors, counts)
    assert [len(group) for group in groups] == counts
    total = sum(float(errors[group, s].sum()) for s, group in enumerate(groups))
    every = itertools.product(range(m), repeat=7)
    shares = [share for share in every if [share.count(s) for s in range(m)] == counts]
    best = min(sum(float(errors[o, s]) for o, s in enumerate(share)) for share in shares)
    assert total == pytest.approx(best, abs=1e-12)


def test_sharing_out_is_near_the_best_of_all(normal):
    for seed in range(2):
        weight = normal(8, 4, 3, 3, 3, seed=seed)
        splits = []
        for first in itertools.combinations(range(8), 4):
            second = [channel for channel in range(8) if channel not in first]
            parts = [(weight[list(first)], 0), (weight[second], 1)]
            errors = [factorise(part, s, 4)[1] * part.norm() for part, s in parts]
            splits.append(float(torch.stack(errors).norm() / weight.norm()))
        found = float(factorise_streams(weight, 2, 4).relative_error)
        assert min(splits) - 1e-12 <= found <= 1.05 * min(splits)
        assert found < sum(splits) / len(splits)


def test_the_error_falls_with_the_width_and_with_the_streams_for_a_general_kernel(normal):
    weight = normal(12, 4, 3, 3, 3)
    widths = range(1, 13, 3)
    errors = [
        [float(factorise_streams(weight, m, w).relative_error) for w in widths] for m in (1, 2, 3)
    ]
    for of_m in errors:
        assert all(later < earlier for earlier, later in itertools.pairwise(of_m))
    for fewer, more in itertools.pairwise(errors):
        assert all(b < a for a, b in zip(fewer, more, strict=True))


def test_concatenation_is_not_monotone_in_m_for_every_kernel(normal):
    weight = separable(normal, 8, 6, 0, 2, seed=0)  # along D, all of it
    assert float(factorise_streams(weight, 1, 2).relative_error) <= 1e-6
    # Half of the channels must go to the stream along H, which cannot have them.
    assert float(factorise_streams(weight, 2, 2).relative_error) > 0.1
    # Summed, the second stream may be zero.
    assert float(factorise_sum(weight, 2, 2).relative_error) <= 1e-6


def test_eq3_summed_streams_never_get_worse_with_m(normal):
    for seed in range(2):
        weight = normal(6, 3, 3, 3, 3, seed=seed)
        results = [factorise_sum(weight, m, 3, sweeps=5) for m in (1, 2, 3)]
        errors = [float(result.relative_error) for result in results]
        assert errors[2] < errors[1] < errors[0]
        for result, error in zip(results, errors, strict=True):
            actual = (weight - result.weight()).norm() / weight.norm()
            assert error == pytest.approx(float(actual), abs=1e-12)


def test_eq3_terms_of_two_orientations_in_every_channel_are_recovered_by_the_sum_alone(normal):
    weight = separable(normal, 6, 4, 0, 2, seed=0) + separable(normal, 6, 4, 1, 2, seed=5)
    assert float(factorise_sum(weight, 2, 2, sweeps=300).relative_error) <= 1e-6
    assert float(factorise_streams(weight, 2, 2).relative_error) > 0.1


@pytest.mark.parametrize("build", [factorise_streams, factorise_sum])
def test_streams_keep_the_dtype(normal, build):
    result = build(normal(6, 3, 3, 3, 3, dtype=torch.bfloat16), 2, 4)
    assert {s.plane.dtype for s in result.streams} == {torch.bfloat16}
    assert result.weight().dtype == torch.bfloat16


@pytest.mark.parametrize("m", [2, 3])
def test_gradients_reach_the_kernel(normal, m):
    weight = normal(6, 2, 3, 3, 3).requires_grad_()
    factorise_streams(weight, m, 2).relative_error.backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("m", "width", "message"),
    [(4, 2, "m=4"), (0, 2, "m=0"), (3, 2, "2 output channels"), (2, 0, "width")],
)
def test_streams_that_there_cannot_be_are_refused(m, width, message):
    with pytest.raises(ConfigError, match=message):
        factorise_streams(torch.zeros(2, 2, 3, 3, 3), m, width)


def test_a_negative_number_of_sweeps_is_refused():
    with pytest.raises(ConfigError, match="sweeps"):
        factorise_sum(torch.zeros(2, 2, 3, 3, 3), 2, 1, sweeps=-1)
