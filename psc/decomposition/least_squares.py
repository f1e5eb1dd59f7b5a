"""A whole 3D layer as one stream: a 2D convolution to M channels, then a 1D convolution.

W[o,i,d,h,w] ≈ Σ_μ line[o,μ,d] · plane[μ,i,h,w], here for the orientation D. Unfolded into a matrix
of rows (in × plane) and columns (axis × out), the right side is any matrix of rank M, so the best
factorisation in the least-squares sense is the truncated SVD (Eckart and Young 1936). It shares its
2D filters among all output channels, which the sum of Eq. 3, one kernel at a time, does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from psc.convolutions import AXES
from psc.decomposition.precision import checked_kernel, leading_singular_vectors
from psc.errors import ConfigError

_FIRST_SPATIAL = 2
_WEIGHT_AXES = _FIRST_SPATIAL + AXES


@dataclass(frozen=True)
class StreamFactors:
    """Weights of one stream of P_mSC_1, as its two ``nn.Conv3d`` have them.

    Attributes:
        axis: 0, 1 or 2 (D, H, W): along it the 1D convolution.
        plane: (M, in, kD, kH, kW) with extent 1 along the axis.
        line: (out, M, kD, kH, kW) with extent 1 but along the axis.
    """

    axis: int
    plane: Tensor
    line: Tensor

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW) that both make."""
        out, width = self.line.shape[:2]
        line = self.line.reshape(out, width, -1).mT  # (out, k, M)
        plane_shape = self.plane.squeeze(_FIRST_SPATIAL + self.axis).shape[1:]
        product = line @ self.plane.flatten(1)  # (out, k, in · plane)
        whole = product.reshape(*product.shape[:2], *plane_shape)
        return whole.movedim(1, _FIRST_SPATIAL + self.axis)


def full_width(weight: Tensor, axis: int) -> int:
    """The M from which on a stream along an axis has any kernel of this shape exactly.

    min(in · plane, axis · out), the rank of a general unfolding; (out, in, kD, kH, kW) → M.
    """
    out, channels = weight.shape[:2]
    along = weight.shape[_FIRST_SPATIAL + axis]
    return min(channels * weight.shape[_FIRST_SPATIAL:].numel() // along, along * out)


def factorise(weight: Tensor, axis: int, width: int) -> tuple[StreamFactors, Tensor]:
    """The stream along one axis that is nearest to a 3D kernel.

    The singular values are shared equally between both factors. Differentiable where singular
    values differ from each other and from zero, the error where it is not zero.

    Args:
        weight: (out, in, kD, kH, kW), floating point. Half precision is computed in float32.
        axis: 0, 1 or 2 (D, H, W).
        width: M, at least 1. Above ``full_width`` the rest would be zero and is left out.

    Returns:
        The factors, with min(width, full_width) filters and the weight's dtype and device; and the
        relative error ‖W − W_M‖ / ‖W‖, a scalar (0 for a kernel that is zero).

    Raises:
        ConfigError: if the weight is no 3D kernel, not of finite floating-point numbers, the axis
            is none of 0, 1, 2, or the width is below 1.
    """
    work = checked_layer(weight)
    check_axis_and_width(axis, width)
    factors, dropped = truncated(work, axis, width)
    error = relative_error(dropped, work)
    plane, line = factors.plane.to(weight.dtype), factors.line.to(weight.dtype)
    return StreamFactors(axis, plane, line), error


def unfold_layer(weight: Tensor, axis: int) -> Tensor:
    """(out, in, kD, kH, kW) → (out, k_axis, in · plane).

    Its first two axes merged, it is the transpose of the unfolding above.
    """
    return weight.movedim(_FIRST_SPATIAL + axis, 1).flatten(2)


def truncated(weight: Tensor, axis: int, width: int) -> tuple[StreamFactors, Tensor]:
    """The nearest stream with at most ``width`` filters, and the energy that it drops.

    For checked arguments only: float32 or float64 (out, in, kD, kH, kW).
    """
    out, channels = weight.shape[:2]
    unfolded = unfold_layer(weight, axis)
    left, values, right, dropped = leading_singular_vectors(unfolded.flatten(0, 1), width)
    width, root = len(values), values.sqrt()
    plane_shape = list(weight.shape[_FIRST_SPATIAL:])
    plane_shape[axis] = 1
    line_shape = [1] * AXES
    line_shape[axis] = unfolded.shape[1]
    plane = (root[:, None] * right).reshape(width, channels, *plane_shape)
    lines = (left * root).reshape(out, -1, width).mT  # (out, M, k)
    factors = StreamFactors(axis, plane, lines.reshape(out, width, *line_shape))
    return factors, dropped


def relative_error(dropped: Tensor, weight: Tensor) -> Tensor:
    """√(dropped energy / energy of the kernel); 0 where the kernel is zero."""
    energy = weight.square().sum()
    return (dropped / torch.where(energy > 0, energy, torch.ones_like(energy))).sqrt()


def checked_layer(weight: Tensor) -> Tensor:
    """The weight of a Conv3d in the precision to decompose it in.

    Raises:
        ConfigError: if it is no 3D kernel, or not of finite floating-point numbers.
    """
    meaning = "(out, in, kD, kH, kW)"
    if weight.ndim != _WEIGHT_AXES:
        raise ConfigError(f"the weight of a Conv3d must be {meaning}; got {tuple(weight.shape)}")
    return checked_kernel(weight, _WEIGHT_AXES, meaning)


def check_axis_and_width(axis: int, width: int) -> None:
    """Refuse an axis that a volume lacks, and a stream without filters.

    Raises:
        ConfigError: naming it.
    """
    if axis not in range(AXES):
        raise ConfigError(f"axis must be 0, 1 or 2 (D, H, W), got {axis}")
    if width < 1:
        raise ConfigError(f"width must be at least 1, got {width}")
