"""A whole 3D layer as m parallel streams, concatenated (the paper's block) or summed (Eq. 3).

Concatenated, every output channel lives in ONE stream, so it must be decided in which, and the
result has the channels in another order. Summed, every stream contributes to all output channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from psc.block.block import check_streams
from psc.block.stream import AXES, Merge, stream_channels
from psc.decomposition.composition import checked_kernel, leading_singular_vectors
from psc.errors import ConfigError

# ----------------------------------------
# Higher-order singular value decomposition of convolution kernels (Section 3.1, Figure 2a).
#
# A kernel is A (J1, J2, J3, C): three spatial axes and the channels that it reads. Only the spatial
# axes are transformed. All functions work on a whole layer at once: any leading axes are a batch.
# The kernels of an ``nn.Conv3d`` are ``weight.movedim(1, -1)``, (out, kD, kH, kW, in).


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


# ----------------------------------------
# A whole 3D layer as one stream: a 2D convolution to M channels, then a 1D convolution.
#
# W[o,i,d,h,w] ≈ Σ_μ line[o,μ,d] · plane[μ,i,h,w], here for the orientation D. Unfolded into a
# matrix
# of rows (in × plane) and columns (axis × out), the right side is any matrix of rank M, so the best
# factorisation in the least-squares sense is the truncated SVD (Eckart and Young 1936). It shares
# its 2D filters among all output channels, which the sum of Eq. 3, one kernel at a time, does not.


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


@dataclass(frozen=True)
class Factorisation:
    """m streams that together approximate one 3D layer.

    Attributes:
        streams: stream s along axis s.
        combination: whether their results are concatenated over channels or summed.
        order: (out,) int64: channel j of the streams' result is channel order[j] of the layer. The
            next layer's weight becomes ``weight[:, order]``; ``result[:, order.argsort()]`` has the
            layer's own order.
        relative_error: ‖W − approximation‖ / ‖W‖, a scalar.
    """

    streams: tuple[StreamFactors, ...]
    combination: Merge
    order: Tensor
    relative_error: Tensor

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW) that they make, channels in the layer's order."""
        weights = [stream.weight() for stream in self.streams]
        if self.combination == "sum":
            return torch.stack(weights).sum(0)
        return torch.cat(weights)[self.order.argsort()]


def factorise_streams(weight: Tensor, m: int, width: int) -> Factorisation:
    """Concatenation of m streams near to a 3D kernel, each output channel where it fits best.

    Every stream takes as many output channels as in ``PSCBlock``. Channels are shared out by the
    error that each has in the best stream of each orientation for the whole layer, with the least
    sum of these errors (an assignment problem, solved exactly by
    ``scipy.optimize.linear_sum_assignment``). Then each stream is fitted to its channels alone (a
    truncated SVD, the best for this sharing out). The best sharing out of all is not searched for:
    on small layers, where all can be tried, its error is up to 5 % lower. Fitting and sharing out
    in turns was tried and left out: no channel moved.

    Beside a few times the kernel's size, m > 1 needs memory for out² numbers.

    Args:
        weight: (out, in, kD, kH, kW), floating point. Half precision is computed in float32.
        m: number of streams, 1 to 3.
        width: M of each stream, at least 1; see ``factorise``.

    Returns:
        Streams (stream s along axis s), order of channels and relative error. For m = 1 the order
        is the layer's own; within a stream channels keep their order.

    Raises:
        ConfigError: as ``factorise``; or for m outside 1–3, or fewer output channels than streams.
    """
    work = _checked(weight, m, width)
    out = work.shape[0]
    if out < m:
        raise ConfigError(f"{out} output channels cannot be shared out to m={m} streams")
    counts = stream_channels(out, m, "concatenate")  # as PSCBlock
    groups = [torch.arange(out, device=work.device)]
    if m > 1:
        groups = _assign(_errors(work.detach(), m, width), counts)
    streams, dropped = [], []
    for s, channels in enumerate(groups):
        factors, energy = truncated(work[channels], s, width)
        streams.append(_cast(factors, weight.dtype))
        dropped.append(energy)
    error = relative_error(torch.stack(dropped).sum(), work)
    return Factorisation(tuple(streams), "concatenate", torch.cat(groups), error)


def factorise_sum(weight: Tensor, m: int, width: int, sweeps: int = 20) -> Factorisation:
    """Sum of m streams near to a 3D kernel (Eq. 3 for a layer), by alternating least squares.

    Streams are added one by one; after each, ``sweeps`` times, every stream in turn is fitted anew
    to what the others leave (a truncated SVD). So the error never rises with m.

    Args:
        weight: (out, in, kD, kH, kW), floating point. Half precision is computed in float32.
        m: number of streams, 1 to 3.
        width: M of each stream, at least 1; see ``factorise``.
        sweeps: rounds of fitting after each added stream.

    Returns:
        Streams (stream s along axis s, each with all output channels), channels in the layer's
        order, and the relative error.

    Raises:
        ConfigError: as ``factorise``; or for m outside 1–3, or sweeps below 0.
    """
    work = _checked(weight, m, width)
    if sweeps < 0:
        raise ConfigError(f"sweeps must not be negative, got {sweeps}")
    streams = [truncated(work, 0, width)[0]]
    residual = work - streams[0].weight()
    for added in range(1, m):
        factors, _ = truncated(residual, added, width)
        streams.append(factors)
        residual = residual - factors.weight()
        for _ in range(sweeps):
            for s in range(added + 1):
                target = residual + streams[s].weight()
                streams[s], _ = truncated(target, s, width)
                residual = target - streams[s].weight()
    order = torch.arange(work.shape[0], device=work.device)
    error = relative_error(residual.square().sum(), work)
    return Factorisation(tuple(_cast(s, weight.dtype) for s in streams), "sum", order, error)


def _errors(weight: Tensor, m: int, width: int) -> Tensor:
    """(out, m): energy that each channel loses in the layer's best stream along each axis.

    From the eigenvectors of the unfolding's smaller Gram matrix: only the channels' order matters
    here, and that takes a fraction of an SVD's time and memory.
    """
    out = weight.shape[0]
    energy = weight.square().flatten(1).sum(1)
    errors = []
    for axis in range(m):
        rows = unfold_layer(weight, axis).flatten(0, 1)  # (out · k, in · plane)
        if rows.shape[0] <= rows.shape[1]:
            values, left = torch.linalg.eigh(rows @ rows.mT)  # ascending
            kept = values[-width:] * left[:, -width:].square()
        else:
            right = torch.linalg.eigh(rows.mT @ rows).eigenvectors[:, -width:]
            kept = (rows @ right).square()
        errors.append(energy - kept.reshape(out, -1).sum(1))
    return torch.stack(errors, 1)


def _assign(errors: Tensor, counts: list[int]) -> list[Tensor]:
    """Share channels out to streams of fixed sizes with the least total error; (out, m) errors."""
    places = np.repeat(np.arange(len(counts)), counts)
    channels, chosen = linear_sum_assignment(errors.double().cpu().numpy()[:, places])
    stream = places[chosen]
    return [torch.from_numpy(channels[stream == s]).to(errors.device) for s in range(len(counts))]


def _checked(weight: Tensor, m: int, width: int) -> Tensor:
    check_streams(m, 1)
    check_axis_and_width(0, width)
    return checked_layer(weight)


def _cast(factors: StreamFactors, dtype: torch.dtype) -> StreamFactors:
    return StreamFactors(factors.axis, factors.plane.to(dtype), factors.line.to(dtype))
