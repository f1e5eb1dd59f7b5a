"""A whole 3D layer as m parallel streams, concatenated (the paper's block) or summed (Eq. 3).

Concatenated, every output channel lives in ONE stream, so it must be decided in which, and the
result has the channels in another order. Summed, every stream contributes to all output channels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from psc.blocks import check_streams
from psc.decomposition.least_squares import (
    StreamFactors,
    check_axis_and_width,
    checked_layer,
    relative_error,
    truncated,
    unfold_layer,
)
from psc.errors import ConfigError
from psc.streams import Merge, stream_channels


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
