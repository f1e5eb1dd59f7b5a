"""Consecutive convolutions as one: Eq. 4 of the paper.

Kernels are weights of ``nn.Conv3d`` (out, in, kD, kH, kW). PyTorch's convolution is a
cross-correlation; two of them in a row are one whose kernel is the true convolution of both. This
holds for valid padding; with zero padding only where no kernel reaches the border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from psc.block.stream import AXES, Triple
from psc.errors import ConfigError

# ----------------------------------------
# In which precision kernels are decomposed and fitted, and which kernels cannot be.


_EXACT_ENOUGH = (torch.float32, torch.float64)


def checked_kernel(kernel: Tensor, smallest_dimension: int, meaning: str) -> Tensor:
    """A kernel in the precision in which it is decomposed.

    Args:
        kernel: any floating-point tensor.
        smallest_dimension: how many axes it has at least.
        meaning: its axes, for the message, such as "(..., J1, J2, J3, C)".

    Returns:
        The kernel itself in float32 or float64; a float32 copy of one in half precision, for which
        there is no singular value decomposition.

    Raises:
        ConfigError: if it has too few axes, an empty one, no floating-point numbers, or a value
            that is not finite.
    """
    if kernel.ndim < smallest_dimension or kernel.numel() == 0:
        raise ConfigError(f"a kernel must be {meaning}, none of them 0; got {tuple(kernel.shape)}")
    if not kernel.is_floating_point():
        raise ConfigError(
            f"a kernel must be of floating-point numbers, got {kernel.dtype}; dequantise it first"
        )
    if not bool(torch.isfinite(kernel).all()):
        raise ConfigError("a kernel holds values that are not finite: its training has diverged")
    return kernel if kernel.dtype in _EXACT_ENOUGH else kernel.float()


def solve_normal_equations(gram: Tensor, right: Tensor) -> Tensor:
    """A least-squares solution X of A X = B, from AᵀA and AᵀB.

    By Cholesky decomposition with a ridge of a few roundings, larger where that is not enough:
    where columns of A depend on each other, a small solution is taken. One step of refinement
    takes most of what the ridge took from the fit.

    Args:
        gram: AᵀA (n, n), float32 or float64.
        right: AᵀB (n, k).

    Returns:
        (n, k).
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


def leading_singular_vectors(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first part of a thin singular value decomposition, and what the rest of it holds.

    A float32 matrix that needs no gradient is decomposed by the eigenvectors of the smaller of its
    Gram matrices, in float64: all of float32's digits, in a third of the time of a full thin SVD
    (measured: 1,536 × 4,608) and without its memory.

    Args:
        matrix: (rows, columns), float32 or float64.
        count: of singular values; more than there are gives all.

    Returns:
        Left vectors (rows, k), values (k,) descending, right vectors (k, columns), and the sum of
        the squares of the other values, a scalar. Vectors of a value that is zero may be zero.
    """
    if matrix.dtype == torch.float64 or (matrix.requires_grad and torch.is_grad_enabled()):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        dropped = values[count:].square().sum()
        return left[:, :count], values[:count], right[:count], dropped
    wide = matrix.shape[0] <= matrix.shape[1]
    tall = (matrix if wide else matrix.mT).double()  # its rows are the shorter side
    energies, vectors = torch.linalg.eigh(tall @ tall.mT)  # ascending
    values = energies.clamp(min=0).sqrt().flip(0)[:count]
    vectors = vectors.flip(1)[:, :count]
    smallest = values[0] * torch.finfo(torch.float32).eps
    others = (vectors.mT @ tall) / values.clamp(min=smallest).clamp(min=1e-300)[:, None]
    dropped = energies.clamp(min=0).flip(0)[count:].sum()
    left, right = (vectors, others) if wide else (others.mT, vectors.mT)
    return left.float(), values.float(), right.float(), dropped.float()


_FIRST_SPATIAL = 2


def compose(first: Tensor, second: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """The kernel of a convolution by ``first`` and then by ``second``.

    Args:
        first: (M, in, kD, kH, kW).
        second: (out, M, lD, lH, lW).
        stride: of the first convolution: the second one's taps lie that far apart in the input.

    Returns:
        (out, in, kD + sD (lD - 1), ...): the kernel of one convolution with the product of both
        strides.

    Raises:
        ConfigError: if they are not 3D kernels, or ``second`` does not read what ``first`` writes.
    """
    for kernel in (first, second):
        if kernel.ndim != _FIRST_SPATIAL + AXES:
            raise ConfigError(f"a kernel must be (out, in, kD, kH, kW); got {tuple(kernel.shape)}")
    if second.shape[1] != first.shape[0]:
        raise ConfigError(
            f"the second kernel reads {second.shape[1]} channels, the first writes {first.shape[0]}"
        )
    second = spread(second, stride)
    padding = [size - 1 for size in second.shape[_FIRST_SPATIAL:]]
    composed = F.conv3d(first.transpose(0, 1), second.flip(2, 3, 4), padding=padding)
    return composed.transpose(0, 1)


def spread(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Put zeros between a kernel's taps, so that they lie ``stride`` apart.

    Args:
        kernel: (out, in, spatial...).
        stride: per spatial axis.
    """
    if all(step == 1 for step in stride):
        return kernel
    sizes = [
        step * (size - 1) + 1
        for step, size in zip(stride, kernel.shape[_FIRST_SPATIAL:], strict=True)
    ]
    wide = kernel.new_zeros(*kernel.shape[:_FIRST_SPATIAL], *sizes)
    taps = wide
    for axis, step in enumerate(stride, start=_FIRST_SPATIAL):
        taps = taps.unfold(axis, 1, step).squeeze(-1)  # a view of every step-th
    taps.copy_(kernel)
    return wide


@dataclass(frozen=True)
class SeparableConvolution:
    """A layer that is separable along one axis, with ONE line for all of its channels.

    Attributes:
        axis: 0, 1 or 2 (D, H, W).
        line: A⁽¹⁾ (J_axis,).
        plane: A^{(2,3,4)} of every output channel (out, in, J_p, J_q); p < q are the other axes.
    """

    axis: int
    line: Tensor
    plane: Tensor

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW), their outer product."""
        shape = [1, 1, 1]
        shape[self.axis] = len(self.line)
        return self.plane.unsqueeze(_FIRST_SPATIAL + self.axis) * self.line.reshape(shape)


def compose_separable(
    first: SeparableConvolution, second: SeparableConvolution
) -> SeparableConvolution:
    """Eq. 4: planes with planes and lines with lines, which gives one separable convolution.

    That the first line may pass the second plane needs it to be the same for all channels. Lines
    that mix channels, as those of P_mSC_n do, do not pass.

    Raises:
        ConfigError: if their axes differ, or ``second`` does not read what ``first`` writes.
    """
    if first.axis != second.axis:
        raise ConfigError(
            f"axes {first.axis} and {second.axis} differ: a composition of convolutions that are "
            "separable along different axes is not separable"
        )
    axis = _FIRST_SPATIAL + first.axis
    plane = compose(first.plane.unsqueeze(axis), second.plane.unsqueeze(axis)).squeeze(axis)
    line = compose(first.line[None, None, :, None, None], second.line[None, None, :, None, None])
    return SeparableConvolution(first.axis, line.flatten(), plane)
