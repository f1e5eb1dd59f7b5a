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
