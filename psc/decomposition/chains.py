"""n consecutive 3D layers as m streams of n 2D convolutions and one 1D convolution (P_mSC_n).

The layers are composed to one kernel (Eq. 4, without its condition on the lines), that kernel is
factorised as a single layer is, and each stream's plane is then taken apart into n small ones: Eq.
4 backwards, a plane of 5×5 as two of 3×3 with M channels between. There is no closed form for that,
but given either convolution the best other one solves a linear least-squares problem.

What stands between the layers is no part of this: ``psc.convert`` makes an affine map of it.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from psc.block.block import Merge
from psc.block.convolution import AXES, Triple
from psc.decomposition.streams import (
    FIRST_SPATIAL,
    Factorisation,
    StreamFactors,
    checked_layer,
    compose_chain,
    factorise_streams,
    factorise_sum,
    relative_error,
    spread,
    unfold_layer,
)
from psc.errors import ConfigError

Pair = tuple[int, int]


def factorise_chain(
    weights: Sequence[Tensor],
    m: int,
    width: int,
    *,
    strides: Sequence[Triple] | None = None,
    merge: Merge = "concatenate",
    sweeps: int = 8,
) -> Factorisation:
    """P_mSC_n near to n consecutive layers with nothing in between.

    The 1D kernel is as long as the composed kernel, n (d − 1) + 1 at stride 1. Not the best of all:
    the composed kernel's streams are (``factorise_streams``, ``factorise_sum``, which one layer
    goes to as it is), each plane's stack is a local optimum for them, and the 1D convolutions are
    the best for what the stacks became.

    Beside the composed kernel, needs memory for a few times the square of M · d² numbers.

    Args:
        weights: of each layer (out, in, kD, kH, kW). Half precision is computed in float32.
        m: number of streams, 1 to 3.
        width: M of every 2D convolution, at least 1.
        strides: of each layer; None: 1.
        merge: "concatenate" or "sum".
        sweeps: rounds of alternating least squares, for the sum and for the stacks.

    Raises:
        ConfigError: as ``factorise_streams``; if a layer does not read what the one before writes;
            for less than one layer, or too few sweeps.
    """
    if not weights or (len(weights) > 1 and sweeps < 1):
        raise ConfigError(f"needs a layer and a sweep; got {len(weights)} and sweeps={sweeps}")
    for before, after in pairwise(weights):
        if after.shape[1] != before.shape[0]:
            raise ConfigError(
                f"a layer reads {after.shape[1]} channels, the one before writes {before.shape[0]}"
            )

    def single(kernel: Tensor) -> Factorisation:
        if merge == "sum":
            return factorise_sum(kernel, m, width, sweeps)
        return factorise_streams(kernel, m, width)

    if len(weights) == 1:
        return single(weights[0])
    steps = [(1, 1, 1)] * len(weights) if strides is None else list(strides)
    if len(steps) != len(weights):
        raise ConfigError(f"strides are of {len(steps)} layers, weights of {len(weights)}")
    whole = compose_chain([checked_layer(weight) for weight in weights], steps)
    wide = single(whole)
    sizes = [(d, h, w) for d, h, w in (weight.shape[FIRST_SPATIAL:] for weight in weights)]
    shares = [stream.line.shape[0] for stream in wide.streams]
    targets = torch.split(whole[wide.order], shares) if merge == "concatenate" else ()
    residual = whole - wide.weight()
    streams: list[StreamFactors] = []
    left = whole.new_zeros(())
    for s, stream in enumerate(wide.streams):
        target = targets[s] if merge == "concatenate" else residual + stream.weight()
        streams.append(_stacked(stream, target, sizes, steps, width, sweeps))
        rest = target - streams[s].weight()
        if merge == "sum":
            residual, left = rest, rest.square().sum()
        else:
            left = left + rest.square().sum()
    error = relative_error(left, whole)
    return Factorisation(tuple(s.to(weights[0].dtype) for s in streams), merge, wide.order, error)


def _stacked(
    stream: StreamFactors,
    target: Tensor,
    sizes: Sequence[Triple],
    strides: Sequence[Triple],
    width: int,
    sweeps: int,
) -> StreamFactors:
    """A stream with its plane as a stack, and the line that suits the stack best."""
    axis = stream.axis
    plane = stream.plane.squeeze(FIRST_SPATIAL + axis)
    # The singular values are shared between plane and line; an error of the plane counts as one of
    # the kernel where the lines are orthonormal, so all of them go to the plane.
    plane = plane * plane.flatten(1).norm(dim=1)[:, None, None, None]
    across, steps = ([_across(values, axis) for values in triples] for triples in (sizes, strides))
    stack = stack_planes(plane, across, steps, width, sweeps)
    planes = tuple(part.unsqueeze(FIRST_SPATIAL + axis) for part in stack)
    composed = compose_chain(planes, strides).flatten(1)  # (M, in · plane)
    wanted = unfold_layer(target, axis)  # (out, k, in · plane)
    lines = solve_normal_equations(composed @ composed.mT, composed @ wanted.flatten(0, 1).mT)
    taps = [1] * AXES
    taps[axis] = wanted.shape[1]
    line = lines.mT.reshape(*wanted.shape[:2], -1).mT  # (out, M, k)
    line = line.reshape(*line.shape[:2], *taps)
    return StreamFactors(axis, *_balanced(planes, line), tuple(strides))


def _balanced(planes: Sequence[Tensor], line: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The same product with factors of equal norm, so that no one learns faster than others."""
    norms = torch.stack([factor.norm() for factor in (*planes, line)])
    scales = norms.log().mean().exp() / norms
    if not bool(torch.isfinite(scales).all()):  # a factor is zero, and so is the product
        return tuple(planes), line
    return tuple(p * scale for p, scale in zip(planes, scales, strict=False)), line * scales[-1]


def _across(values: Triple, axis: int) -> Pair:
    p, q = (value for a, value in enumerate(values) if a != axis)
    return p, q


def stack_planes(
    plane: Tensor, sizes: Sequence[Pair], strides: Sequence[Pair], width: int, sweeps: int
) -> list[Tensor]:
    """2D convolutions that one after the other are near to one larger 2D convolution.

    The first two are fitted to the whole in turns, ``sweeps`` times; of three and more, the first
    and then the others. (out, in, P, Q) with P = p₁ + s₁ (p₂ − 1) + s₁ s₂ (p₃ − 1) + … becomes
    (M, in, p₁, q₁), (M, M, p₂, q₂), …, (out, M, pₙ, qₙ); M is ``width``, or p₁ q₁ in where that is
    less: as many filters span all.
    """
    rest = plane
    stack = []
    for size, stride in zip(sizes[:-1], strides, strict=False):
        first, rest = _split(rest, size, stride, width, sweeps)
        stack.append(first)
    return [*stack, rest]


def _split(
    target: Tensor, size: Pair, stride: Pair, width: int, sweeps: int
) -> tuple[Tensor, Tensor]:
    """(out, in, P, Q) → (M, in, p, q) and (out, M, P', Q') whose composition is near to it."""
    # To begin with, the filters (M, in, p, q) that the windows of all of its filters share most.
    windows = target.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (out, in, places, p, q)
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    vectors = torch.linalg.eigh(rows.mT @ rows).eigenvectors  # ascending
    first = vectors[:, -width:].flip(1).mT.reshape(-1, target.shape[1], *size)
    swapped = target.transpose(0, 1)
    for _ in range(sweeps if first.shape[0] < first[0].numel() else 0):  # else it spans all
        rest = _best_second(target, first, stride)
        # Convolutions commute, so with channels swapped the second one is the first.
        known = spread(rest, stride).transpose(0, 1)
        first = _best_second(swapped, known, (1, 1)).transpose(0, 1)
    return first, _best_second(target, first, stride)


def _best_second(target: Tensor, first: Tensor, stride: Pair) -> Tensor:
    """The convolution (out, M, p', q') that, after ``first``, is nearest to the target.

    (out, in, P, Q) and (M, in, p, q) of that stride.
    """
    size = first.shape[2:]
    right = F.conv2d(target, first, stride=stride)  # (out, M, p', q')
    products = F.conv2d(first, first, padding=[extent - 1 for extent in size])
    taps = torch.cartesian_prod(*(torch.arange(n, device=target.device) for n in right.shape[2:]))
    steps = torch.tensor(stride, device=target.device)
    limits = torch.tensor(size, device=target.device)
    apart = (taps[:, None] - taps) * steps  # how far the filters of two taps lie from each other
    overlap = (apart.abs() < limits).all(-1)
    index = (apart + limits - 1).clamp(min=torch.zeros_like(limits), max=2 * limits - 2)
    gram = products[:, :, index[..., 0], index[..., 1]] * overlap  # (M', M, taps, taps')
    gram = gram.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    return solve_normal_equations(gram, right.flatten(1).mT).mT.reshape(right.shape)


def solve_normal_equations(gram: Tensor, right: Tensor) -> Tensor:
    """A least-squares solution X (n, k) of A X = B, from AᵀA (n, n) and AᵀB (n, k).

    By Cholesky decomposition with a ridge of a few roundings, larger where that is not enough:
    where columns of A depend on each other, a small solution is taken. One step of refinement
    takes most of what the ridge took from the fit.
    """
    scale = gram.diagonal().mean()
    ridge = 10 * torch.finfo(gram.dtype).eps
    failed = True
    while failed and ridge < 1:
        shifted = gram.clone()
        shifted.diagonal().add_(ridge * scale + torch.finfo(gram.dtype).tiny)
        factor, info = torch.linalg.cholesky_ex(shifted)
        failed, ridge = bool(info), 10 * ridge
    solution = torch.cholesky_solve(right, factor)
    return solution + torch.cholesky_solve(right - gram @ solution, factor)
