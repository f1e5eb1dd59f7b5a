"""A whole 3D layer as m parallel streams, concatenated (the paper's block) or summed (Eq. 3).

One stream is a 2D convolution to M channels, then a 1D convolution:
W[o,i,d,h,w] ≈ Σ_μ line[o,μ,d] · plane[μ,i,h,w], here for the orientation D. Unfolded into a matrix
of rows (in × plane) and columns (axis × out), the right side is any matrix of rank M, so the best
factorisation in the least-squares sense is the truncated SVD (Eckart and Young 1936). It shares
its 2D filters among all output channels, which the sum of Eq. 3, one kernel at a time, does not.

Concatenated, every output channel lives in ONE stream, so it must be decided in which, and the
result has the channels in another order. Summed, every stream contributes to all output channels.

Convolutions in a row are one (Eq. 4): PyTorch's is a cross-correlation, and two of them are one
whose kernel is the true convolution of both. This holds for valid padding; with zero padding only
where no kernel reaches the border.

Weights are (out, in, kD, kH, kW), floating point; half precision is computed in float32. M above
``full_width`` would be filled with zeros and is cut. ConfigError is raised for what is no 3D kernel
of finite numbers, does not read what the one before it writes, and for an axis, m, M or number of
sweeps that there is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from psc.block.block import Merge, check_streams, stream_channels
from psc.block.convolution import AXES, Triple
from psc.decomposition.hosvd import checked_kernel
from psc.errors import ConfigError

FIRST_SPATIAL = 2


def compose(first: Tensor, second: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """The kernel of a convolution by ``first`` and then by ``second``, of the product of strides.

    (M, in, kD, kH, kW) and (out, M, lD, lH, lW) → (out, in, kD + sD (lD - 1), ...), s the stride of
    the first convolution: the second one's taps lie that far apart in the input.
    """
    for kernel in (first, second):
        if kernel.ndim != FIRST_SPATIAL + AXES:
            raise ConfigError(f"a kernel must be (out, in, kD, kH, kW); got {tuple(kernel.shape)}")
    if second.shape[1] != first.shape[0]:
        raise ConfigError(
            f"the second kernel reads {second.shape[1]} channels, the first writes {first.shape[0]}"
        )
    second = spread(second, stride)
    padding = [size - 1 for size in second.shape[FIRST_SPATIAL:]]
    composed = F.conv3d(first.transpose(0, 1), second.flip(2, 3, 4), padding=padding)
    return composed.transpose(0, 1)


def compose_chain(weights: Sequence[Tensor], strides: Sequence[Triple]) -> Tensor:
    """The kernel of consecutive convolutions, first to last, of stride ∏ strides."""
    whole = weights[0]
    so_far: Triple = (1, 1, 1)
    for weight, (d, h, w) in zip(weights[1:], strides, strict=False):
        so_far = (so_far[0] * d, so_far[1] * h, so_far[2] * w)
        whole = compose(whole, weight, so_far)
    return whole


def spread(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Zeros between the taps of a kernel (out, in, spatial...), so that they lie apart so far."""
    if all(step == 1 for step in stride):
        return kernel
    sizes = kernel.shape[FIRST_SPATIAL:]
    spaced = [step * (size - 1) + 1 for step, size in zip(stride, sizes, strict=True)]
    wide = kernel.new_zeros(*kernel.shape[:FIRST_SPATIAL], *spaced)
    taps = wide
    for axis, step in enumerate(stride, start=FIRST_SPATIAL):
        taps = taps.unfold(axis, 1, step).squeeze(-1)  # a view of every step-th
    taps.copy_(kernel)
    return wide


@dataclass(frozen=True)
class StreamFactors:
    """Weights of one stream of P_mSC_n, as its ``nn.Conv3d`` have them.

    Each plane strides as its layer but along the axis, the line along the axis by all of them.
    """

    axis: int  # 0, 1 or 2 (D, H, W): along it the 1D convolution
    planes: tuple[Tensor, ...]  # n of (M, in, kD, kH, kW), (M, M, …), …, extent 1 along the axis
    line: Tensor  # (out, M, kD, kH, kW) with extent 1 but along the axis
    strides: tuple[Triple, ...] = ((1, 1, 1),)  # of the layers that it stands for

    @property
    def plane(self) -> Tensor:
        """The planes as one: (M, in, kD, kH, kW)."""
        return compose_chain(self.planes, self.strides)

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW) that all make, of stride ∏ strides."""
        plane, (out, width) = self.plane, self.line.shape[:2]
        line = self.line.reshape(out, width, -1).mT  # (out, k, M)
        product = line @ plane.flatten(1)  # (out, k, in · plane)
        plane_shape = plane.squeeze(FIRST_SPATIAL + self.axis).shape[1:]
        whole = product.reshape(*product.shape[:2], *plane_shape)
        return whole.movedim(1, FIRST_SPATIAL + self.axis)

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another precision."""
        planes = tuple(plane.to(dtype) for plane in self.planes)
        return type(self)(self.axis, planes, self.line.to(dtype), self.strides)


@dataclass(frozen=True)
class Factorisation:
    """m streams that together approximate one 3D layer, or n consecutive ones.

    Channel j of the streams' result is channel ``order[j]`` of the layer. The next layer's weight
    becomes ``weight[:, order]``; ``result[:, order.argsort()]`` has the layer's own order. Within a
    stream channels keep their order.
    """

    streams: tuple[StreamFactors, ...]  # stream s along axis s
    merge: Merge
    order: Tensor  # (out,) int64
    relative_error: Tensor  # ‖W − approximation‖ / ‖W‖, a scalar (0 for a kernel that is zero)

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW) that they make, channels in the layer's order."""
        weights = [stream.weight() for stream in self.streams]
        if self.merge == "sum":
            return torch.stack(weights).sum(0)
        return torch.cat(weights)[self.order.argsort()]


def full_width(weight: Tensor, axis: int) -> int:
    """The M from which on a stream along an axis has any kernel of this shape exactly.

    min(in · plane, axis · out), the rank of a general unfolding; (out, in, kD, kH, kW) → M.
    """
    out, channels = weight.shape[:2]
    along = weight.shape[FIRST_SPATIAL + axis]
    return min(channels * weight.shape[FIRST_SPATIAL:].numel() // along, along * out)


def factorise(weight: Tensor, axis: int, width: int) -> tuple[StreamFactors, Tensor]:
    """The stream along one axis that is nearest to a 3D kernel, and the error ‖W − W_M‖ / ‖W‖.

    It has min(width, full_width) filters of the weight's dtype and device; the singular values are
    shared equally between both factors. Differentiable where singular values differ from each other
    and from zero, the error where it is not zero.
    """
    work = checked_layer(weight, width)
    if axis not in range(AXES):
        raise ConfigError(f"axis must be 0, 1 or 2 (D, H, W), got {axis}")
    factors, dropped = _truncated(work, axis, width)
    return factors.to(weight.dtype), relative_error(dropped, work)


def factorise_streams(weight: Tensor, m: int, width: int) -> Factorisation:
    """Concatenation of m streams near to a 3D kernel, each output channel where it fits best.

    Every stream takes as many output channels as in ``PSCBlock``. Channels are shared out by the
    error that each has in the best stream of each orientation for the whole layer, with the least
    sum of these errors (a transportation problem, solved exactly). Then each stream is fitted to
    its channels alone (a truncated SVD, the best for this sharing out). The best is not sought:
    on small layers, where all can be tried, its error is up to 5 % lower. Fitting and sharing out
    in turns was tried and left out: no channel moved.

    ``weight`` has at least m output channels; ``width`` is M of each stream.
    """
    work = checked_layer(weight, width, m)
    out = work.shape[0]
    if out < m:
        raise ConfigError(f"{out} output channels cannot be shared out to m={m} streams")
    groups = [torch.arange(out, device=work.device)]
    if m > 1:
        counts = stream_channels(out, m, "concatenate")  # as PSCBlock
        groups = _assign(_errors(work.detach(), m, width), counts)
    fitted = [_truncated(work[channels], s, width) for s, channels in enumerate(groups)]
    error = relative_error(torch.stack([dropped for _, dropped in fitted]).sum(), work)
    streams = tuple(factors.to(weight.dtype) for factors, _ in fitted)
    return Factorisation(streams, "concatenate", torch.cat(groups), error)


def factorise_sum(weight: Tensor, m: int, width: int, sweeps: int = 20) -> Factorisation:
    """Sum of m streams near to a 3D kernel (Eq. 3 for a layer), by alternating least squares.

    Streams are added one by one; after each, ``sweeps`` times, every stream in turn is fitted anew
    to what the others leave (a truncated SVD). So the error never rises with m.
    """
    work = checked_layer(weight, width, m)
    if sweeps < 0:
        raise ConfigError(f"sweeps must not be negative, got {sweeps}")
    streams: list[StreamFactors] = []
    residual = work
    for added in range(m):
        streams.append(_truncated(residual, added, width)[0])
        residual = residual - streams[added].weight()
        for s in [*range(added + 1)] * (sweeps if added else 0):
            target = residual + streams[s].weight()
            streams[s], _ = _truncated(target, s, width)
            residual = target - streams[s].weight()
    order = torch.arange(work.shape[0], device=work.device)
    error = relative_error(residual.square().sum(), work)
    return Factorisation(tuple(s.to(weight.dtype) for s in streams), "sum", order, error)


def checked_layer(weight: Tensor, width: int = 1, m: int = 1) -> Tensor:
    """The weight of a Conv3d in the precision to decompose it in, for m streams of M filters."""
    check_streams(m, 1)
    if width < 1:
        raise ConfigError(f"width must be at least 1, got {width}")
    meaning = "(out, in, kD, kH, kW)"
    if weight.ndim != FIRST_SPATIAL + AXES:
        raise ConfigError(f"the weight of a Conv3d must be {meaning}; got {tuple(weight.shape)}")
    return checked_kernel(weight, FIRST_SPATIAL + AXES, meaning)


def relative_error(dropped: Tensor, weight: Tensor) -> Tensor:
    """√(dropped energy / energy of the kernel); 0 where the kernel is zero."""
    energy = weight.square().sum()
    return (dropped / torch.where(energy > 0, energy, torch.ones_like(energy))).sqrt()


def unfold_layer(weight: Tensor, axis: int) -> Tensor:
    """(out, in, kD, kH, kW) → (out, k_axis, in · plane).

    Its first two axes merged, it is the transpose of the unfolding above.
    """
    return weight.movedim(FIRST_SPATIAL + axis, 1).flatten(2)


def _truncated(weight: Tensor, axis: int, width: int) -> tuple[StreamFactors, Tensor]:
    """The nearest stream with at most ``width`` filters, and the energy that it drops."""
    unfolded = unfold_layer(weight, axis)
    left, values, right, dropped = leading_singular_vectors(unfolded.flatten(0, 1), width)
    root = values.sqrt()
    return stream_of(axis, root[:, None] * right, left * root, weight.shape), dropped


def stream_of(axis: int, filters: Tensor, lines: Tensor, shape: Sequence[int]) -> StreamFactors:
    """A stream for a kernel of that shape, of filters (M, in · plane) and lines (out · k, M)."""
    out, channels = shape[:2]
    plane_shape, line_shape = list(shape[FIRST_SPATIAL:]), [1] * AXES
    taps, plane_shape[axis] = plane_shape[axis], 1
    line_shape[axis] = taps
    plane = filters.reshape(-1, channels, *plane_shape)
    line = lines.reshape(out, taps, -1).mT.reshape(out, -1, *line_shape)
    return StreamFactors(axis, (plane,), line)


def leading_singular_vectors(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first part of a thin singular value decomposition, and what the rest of it holds.

    A float32 matrix that needs no gradient is decomposed by the eigenvectors of the smaller of its
    Gram matrices, in float64: all of float32's digits, in a third of the time of a full thin SVD
    (measured: 1,536 × 4,608) and without its memory.

    Returns left vectors (rows, k), values (k,) descending, right vectors (k, columns), and the sum
    of the squares of the other values. Vectors of a value that is zero may be zero.
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
    """Share channels out to streams of fixed sizes with the least total error; (out, m) errors.

    By shortest paths: each channel begins where it fits best; then, one by one, a stream with too
    many gives one to a stream with too few, by way of the third where that costs less.
    """
    cost, m = errors.double().cpu().numpy(), len(counts)
    stream = cost.argmin(1)
    while (surplus := np.bincount(stream, minlength=m) - counts).any():
        price, moved = np.full((m, m), np.inf), np.zeros((m, m), int)
        for a in np.unique(stream):
            own = np.flatnonzero(stream == a)
            rise = cost[own] - cost[own, a, None]
            price[a], moved[a] = rise.min(0), own[rise.argmin(0)]
        ways = [way for size in range(2, m + 1) for way in permutations(range(m), size)]
        ways = [way for way in ways if surplus[way[0]] > 0 > surplus[way[-1]]]
        best = min(ways, key=lambda way: sum(price[step] for step in pairwise(way)))
        for step in pairwise(best):
            stream[moved[step]] = step[1]
    return [torch.from_numpy(np.flatnonzero(stream == s)).to(errors.device) for s in range(m)]
