"""Higher-order singular value decomposition of convolution kernels (Section 3.1, Figure 2a).

A kernel is A (J1, J2, J3, C): three spatial axes and the channels that it reads. Only the spatial
axes are transformed. All functions work on a whole layer at once: any leading axes are a batch. The
kernels of an ``nn.Conv3d`` are ``weight.movedim(1, -1)``, (out, kD, kH, kW, in).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psc.convolutions import AXES
from psc.decomposition.precision import checked_kernel

_TENSOR_AXES = AXES + 1  # spatial ones and channels


@dataclass(frozen=True)
class HOSVD:
    """A = S ×₁ U⁽¹⁾ ×₂ U⁽²⁾ ×₃ U⁽³⁾.

    Attributes:
        core: S (..., I1, I2, I3, C), in the paper the singular value tensor. Its slices along one
            spatial axis are orthogonal to each other; their norms are that axis' singular values.
        factors: U⁽ᵏ⁾ (..., J_k, I_k), one per spatial axis, columns orthonormal.
        singular_values: (..., I_k) per spatial axis, descending.
    """

    core: Tensor
    factors: tuple[Tensor, Tensor, Tensor]
    singular_values: tuple[Tensor, Tensor, Tensor]

    def reconstruct(self) -> Tensor:
        """A (..., J1, J2, J3, C) again."""
        return transform(self.core, self.factors)


def hosvd(kernel: Tensor) -> HOSVD:
    """Decompose kernels by one thin SVD per spatial axis (De Lathauwer et al. 2000).

    I_k is J_k, or less where a kernel is so long and thin that its unfolding has fewer columns than
    rows. Differentiable where singular values differ from each other and from zero.

    Args:
        kernel: (..., J1, J2, J3, C), floating point. Half precision is computed in float32.

    Returns:
        Core, factors and singular values, of the kernel's dtype and on its device.

    Raises:
        ConfigError: if the kernel has fewer than four axes, is empty, not of floating-point
            numbers, or not finite.
    """
    work = checked_kernel(kernel, _TENSOR_AXES, "(..., J1, J2, J3, C)")
    factors: list[Tensor] = []
    singular_values: list[Tensor] = []
    for axis in range(AXES):
        left, values, _ = torch.linalg.svd(unfold(work, axis), full_matrices=False)
        factors.append(left)
        singular_values.append(values)
    core = transform(work, [factor.mT for factor in factors])
    u1, u2, u3 = (factor.to(kernel.dtype) for factor in factors)
    s1, s2, s3 = (values.to(kernel.dtype) for values in singular_values)
    return HOSVD(core.to(kernel.dtype), (u1, u2, u3), (s1, s2, s3))


def unfold(tensor: Tensor, axis: int) -> Tensor:
    """The unfolding along a spatial axis: (..., J1, J2, J3, C) → (..., J_axis, all others)."""
    return tensor.movedim(axis - _TENSOR_AXES, -_TENSOR_AXES).flatten(-AXES)


def mode_product(tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply every line along a spatial axis by a matrix: tensor ×_axis matrix.

    Args:
        tensor: (..., J1, J2, J3, C).
        matrix: (..., I, J_axis), with the same leading axes.
        axis: 0, 1 or 2.

    Returns:
        (..., J1, J2, J3, C) with I in place of J_axis.
    """
    lines = tensor.movedim(axis - _TENSOR_AXES, -1)
    product = lines.flatten(-_TENSOR_AXES, -2) @ matrix.mT
    product = product.reshape(*lines.shape[:-1], matrix.shape[-2])
    return product.movedim(-1, axis - _TENSOR_AXES)


def transform(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply along all spatial axes, one matrix each: tensor ×₁ M⁽¹⁾ ×₂ M⁽²⁾ ×₃ M⁽³⁾."""
    for axis, matrix in enumerate(matrices):
        tensor = mode_product(tensor, matrix, axis)
    return tensor
