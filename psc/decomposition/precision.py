"""In which precision kernels are decomposed and fitted, and which kernels cannot be."""

import torch
from torch import Tensor

from psc.errors import ConfigError

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
