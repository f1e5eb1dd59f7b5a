"""Consecutive layers as one P_mSC_n, and a plane as a stack of smaller ones."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from psc import PSCBlock
from psc.decomposition import compose_chain, factorise_chain, factorise_streams, factorise_sum
from psc.decomposition.chains import solve_normal_equations, stack_planes
from psc.decomposition.streams import spread
from psc.errors import ConfigError


def pair(normal, c_in=2, middle=3, out=4, **options):
    return [
        normal(middle, c_in, 3, 3, 3, **options),
        normal(out, middle, 3, 3, 3, seed=1, **options),
    ]


def difference(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("strides", [None, [(1, 2, 2), (2, 1, 1)], [(2, 2, 2), (1, 1, 1)]])
def test_eq4_the_composed_kernel_of_layers_with_strides_is_all_of_them(normal, strides):
    weights = [*pair(normal), normal(2, 4, 2, 1, 3, seed=2)]
    steps = [*(strides or [(1, 1, 1)] * 2), (1, 2, 1)]
    x = normal(1, 2, 17, 16, 18, seed=3)
    expected = x
    for weight, stride in zip(weights, steps, strict=True):
        expected = F.conv3d(expected, weight, stride=stride)
    total = tuple(a * b * c for a, b, c in zip(*steps, strict=True))
    assert difference(F.conv3d(x, compose_chain(weights, steps), stride=total), expected) < 1e-12


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_eq4_with_enough_filters_the_papers_block_is_n_layers(normal, m, merge):
    weights = pair(normal, out=6)
    result = factorise_chain(weights, m, 90, merge=merge)
    assert float(result.relative_error) < 1e-6
    block = PSCBlock(2, 6, m=m, n=2, width=90, merge=merge, padding="valid", activation=None)
    block.double()
    for stream, factors in zip(block.streams, result.streams, strict=True):
        for i, plane in enumerate(factors.planes):
            conv = stream.get_submodule(f"plane_{i + 1}.conv")
            filters, channels = plane.shape[:2]
            conv.weight.data.zero_()[:filters, :channels] = plane
            conv.bias.data.zero_()
        line = stream.axis.conv
        line.weight.data.zero_()[:, : factors.line.shape[1]] = factors.line
        if line.bias is not None:
            line.bias.data.zero_()
    x = normal(1, 2, 7, 8, 9, seed=5)
    expected = F.conv3d(F.conv3d(x, weights[0]), weights[1])
    assert difference(block(x)[:, result.order.argsort()], expected) < 1e-6


def test_a_run_of_one_layer_is_the_layer(normal):
    weight = normal(8, 3, 3, 3, 3)
    for merge, single in (("concatenate", factorise_streams), ("sum", factorise_sum)):
        run = factorise_chain([weight], 2, 4, merge=merge, sweeps=20)
        alone = single(weight, 2, 4)
        # Lines are fitted once more in the end.
        assert float(run.relative_error) <= float(alone.relative_error) * (1 + 1e-9)
        assert float(run.relative_error) == pytest.approx(float(alone.relative_error), rel=1e-2)
        assert torch.equal(run.order, alone.order)


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
def test_the_error_is_that_of_the_kernel_and_falls_with_the_width(normal, merge):
    weights = pair(normal, 3, 5, 6)
    whole = compose_chain(weights, [(1, 1, 1)] * 2)
    errors = []
    for width in (2, 4, 6, 8, 10):
        result = factorise_chain(weights, 2, width, merge=merge, sweeps=20)
        kernels = [stream.weight() for stream in result.streams]
        near = torch.stack(kernels).sum(0) if merge == "sum" else torch.cat(kernels)
        near = near[result.order.argsort()]
        errors.append(difference(near, whole))
        assert float(result.relative_error) == pytest.approx(errors[-1], abs=1e-9)
        # No stack is nearer than a plane without that form.
        single = factorise_sum if merge == "sum" else factorise_streams
        assert errors[-1] > float(single(whole, 2, width).relative_error) - 0.01
    assert errors == sorted(errors, reverse=True)


def test_three_layers_dtypes_and_balanced_factors(normal):
    weights = [*pair(normal), normal(5, 4, 3, 3, 3, seed=2)]
    for dtype, other in itertools.product((torch.float16, torch.bfloat16), (torch.float32,)):
        half = factorise_chain([w.to(dtype) for w in weights], 2, 9)
        full = factorise_chain([w.to(dtype).to(other) for w in weights], 2, 9)
        assert {half.streams[0].line.dtype, half.streams[1].planes[2].dtype} == {dtype}
        assert float(half.relative_error) == pytest.approx(float(full.relative_error), rel=1e-5)
    (stream, _) = factorise_chain(weights, 2, 9).streams
    assert tuple(stream.line.shape) == (3, 9, 7, 1, 1)
    norms = torch.stack([factor.norm() for factor in (*stream.planes, stream.line)])
    assert norms.max() < norms.min() * (1 + 1e-9)
    zero = factorise_chain([torch.zeros_like(w) for w in weights], 1, 4)
    assert float(zero.relative_error) == 0
    assert torch.isfinite(zero.streams[0].weight()).all()


def test_impossible_runs_are_refused(normal):
    first, second = pair(normal)
    for arguments, message in (
        (([], 1, 4), "needs a layer"),
        (([second, first], 1, 4), "reads 2 channels, the one before writes 4"),
        (([first, second], 5, 4), "m=5"),
        (([first, second], 1, 0), "width must be at least 1"),
        (([first, second * torch.nan], 1, 4), "not finite"),
    ):
        with pytest.raises(ConfigError, match=message):
            factorise_chain(*arguments)
    with pytest.raises(ConfigError, match="sweeps=0"):
        factorise_chain([first, second], 1, 4, sweeps=0)


def test_kernels_need_not_be_cubic(normal):
    weights = [normal(4, 2, 3, 5, 2), normal(6, 4, 1, 3, 4, seed=1)]
    result = factorise_chain(weights, 3, 80)
    assert float(result.relative_error) < 1e-6
    assert [tuple(s.line.shape[2:]) for s in result.streams] == [(3, 1, 1), (1, 7, 1), (1, 1, 5)]


def in_turn(x, stack, strides):
    for weight, stride in zip(stack, strides, strict=True):
        x = F.conv2d(x, weight, stride=stride)
    return x


def at_once(x, plane, strides):
    whole = [1, 1]
    for p, q in strides:
        whole = [whole[0] * p, whole[1] * q]
    return F.conv2d(x, plane, stride=whole)


CASES = [
    ([(3, 3), (3, 3)], [(1, 1), (1, 1)], (5, 5)),
    ([(3, 3), (3, 3)], [(2, 1), (1, 2)], (7, 5)),
    ([(3, 2), (1, 3)], [(1, 2), (1, 1)], (3, 6)),
    ([(3, 3), (3, 3), (3, 3)], [(1, 1), (2, 2), (1, 1)], (9, 9)),
]


@pytest.mark.parametrize(("sizes", "strides", "whole"), CASES)
def test_with_filters_enough_a_stack_is_the_plane(normal, sizes, strides, whole):
    plane = normal(4, 2, *whole)
    stack = stack_planes(plane, sizes, strides, width=200, sweeps=3)
    assert [tuple(part.shape[2:]) for part in stack] == sizes
    assert stack[0].shape[0] == sizes[0][0] * sizes[0][1] * 2  # these span all; more are none
    x = normal(1, 2, 25, 23, seed=1)
    expected = at_once(x, plane, strides)
    assert (in_turn(x, stack, strides) - expected).norm() < 1e-6 * expected.norm()


def test_a_plane_that_is_a_stack_is_found_again(normal):
    # At stride 2 every window of the whole has its own place, so alternating finds the solution;
    # at stride 1 it creeps towards it.
    first, second = normal(3, 4, 3, 3), normal(5, 3, 3, 3, seed=1)
    for stride, limit in (((2, 2), 1e-6), ((1, 1), 0.2)):
        wide = spread(second, stride)
        padding = [size - 1 for size in wide.shape[2:]]
        plane = F.conv2d(first.transpose(0, 1), wide.flip(2, 3), padding=padding).transpose(0, 1)
        stack = stack_planes(plane, [(3, 3), (3, 3)], [stride, (1, 1)], width=3, sweeps=60)
        x = normal(2, 4, 15, 15, seed=2)
        strides = [stride, (1, 1)]
        expected = in_turn(x, (first, second), strides)
        error = (in_turn(x, stack, strides) - expected).norm() / expected.norm()
        assert error < limit


def test_more_sweeps_and_more_filters_never_hurt(normal):
    plane, x = normal(6, 3, 5, 5), normal(4, 3, 20, 20, seed=1)
    pairs = [(3, 3)] * 2
    ones = [(1, 1)] * 2

    def error(width, sweeps):
        # Independent of the code's own composition: the response to an impulse, channel by channel.
        stack = stack_planes(plane, pairs, ones, width, sweeps)
        impulse = torch.zeros(3, 3, 9, 9, dtype=x.dtype)
        impulse[range(3), range(3), 4, 4] = 1
        response = in_turn(impulse, stack, ones).flip(2, 3).transpose(0, 1)
        return float((response - plane).norm() / plane.norm())

    by_sweeps = [error(8, sweeps) for sweeps in (1, 2, 4, 8, 16)]
    assert by_sweeps == sorted(by_sweeps, reverse=True)
    by_width = [error(width, 16) for width in (2, 6, 9, 12)]
    assert by_width == sorted(by_width, reverse=True)
    assert by_width[0] > 0.1
    assert error(27, 16) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_equations_of_dependent_columns_are_solved(normal, dtype):
    a = normal(20, 4, dtype=dtype)
    a = torch.cat([a, a[:, :2] + a[:, 2:]], 1)  # rank 4 of 6
    x = normal(6, 3, seed=1, dtype=dtype)
    b = a @ x
    found = solve_normal_equations(a.mT @ a, a.mT @ b)
    assert (a @ found - b).norm() < (1e-4 if dtype is torch.float32 else 1e-9) * b.norm()
    assert found.norm() < 2 * x.norm()  # no huge coefficients that cancel
    assert not solve_normal_equations(torch.zeros(3, 3), torch.zeros(3, 2)).any()


def test_strides_of_fewer_layers_are_refused(normal):
    with pytest.raises(ConfigError, match="strides are of 1 layers, weights of 2"):
        factorise_chain(pair(normal), 2, 3, strides=[(1, 1, 1)])
