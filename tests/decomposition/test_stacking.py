"""A plane as a stack of smaller ones."""

import pytest
import torch
import torch.nn.functional as F

from psc.decomposition.composition import solve_normal_equations, spread
from psc.decomposition.consecutive import stack_planes


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
