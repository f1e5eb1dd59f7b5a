"""A 2D convolution as a stack of smaller ones, by alternating least squares.

Eq. 4 composes the planes of n separable kernels to one plane. This goes the other way: a plane of
5×5 as two of 3×3 with M channels between. There is no closed form, but given either convolution
the best other one solves a linear least-squares problem.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from psc.decomposition.composition import spread
from psc.decomposition.precision import solve_normal_equations

Pair = tuple[int, int]


def stack_planes(
    plane: Tensor, sizes: Sequence[Pair], strides: Sequence[Pair], width: int, sweeps: int
) -> list[Tensor]:
    """2D convolutions that one after the other are near to one larger 2D convolution.

    The first two are fitted to the whole in turns, ``sweeps`` times; of three and more, the first
    and then the others.

    Args:
        plane: (out, in, P, Q), float32 or float64, the kernel to reproduce, with
            P = p₁ + s₁ (p₂ − 1) + s₁ s₂ (p₃ − 1) + …
        sizes: (p, q) of each convolution.
        strides: of each convolution; the last one's does not matter.
        width: channels between the convolutions.
        sweeps: rounds of fitting, at least 1.

    Returns:
        Weights (M, in, p₁, q₁), (M, M, p₂, q₂), …, (out, M, pₙ, qₙ). M is ``width``, or p₁ q₁ in
        where that is less: as many filters span all.
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
    first = _common_windows(target, size, width)
    swapped = target.transpose(0, 1)
    for _ in range(sweeps if first.shape[0] < first[0].numel() else 0):  # else it spans all
        rest = _best_second(target, first, stride)
        # Convolutions commute, so with channels swapped the second one is the first.
        known = spread(rest, stride).transpose(0, 1)
        first = _best_second(swapped, known, (1, 1)).transpose(0, 1)
    return first, _best_second(target, first, stride)


def _common_windows(plane: Tensor, size: Pair, width: int) -> Tensor:
    """The filters (M, in, p, q) that the windows of all of a plane's filters share most."""
    channels = plane.shape[1]
    windows = plane.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (out, in, places, p, q)
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    vectors = torch.linalg.eigh(rows.mT @ rows).eigenvectors  # ascending
    common: Tensor = vectors[:, -width:].flip(1).mT
    return common.reshape(-1, channels, *size)


def _best_second(target: Tensor, first: Tensor, stride: Pair) -> Tensor:
    """The second convolution that, after ``first``, is nearest to the target.

    Args:
        target: (out, in, P, Q).
        first: (M, in, p, q).
        stride: of the first.

    Returns:
        (out, M, p', q').
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
