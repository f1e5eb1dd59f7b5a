"""Losses on affinities: pure functions of logits, targets and a mask."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

FRACTION_BOUNDS = (0.01, 0.99)
"""Clipping of a patch's fraction of positive affinities (published training of Funke et al.)."""


def balanced_weights(affinities: Tensor, mask: Tensor) -> Tensor:
    """Class weights per patch: 1/(2f) for affinity 1 and 1/(2(1−f)) for affinity 0.

    f is the fraction of positive affinities among a patch's known ones, all channels together,
    clipped to [0.01, 0.99] (published stage 1).

    Args:
        affinities: targets in {0, 1}, (N, 3, D, H, W).
        mask: which of them are known, bool, same shape.

    Returns:
        Weights, float32, same shape; 0 where unknown.
    """
    axes = (1, 2, 3, 4)
    known = mask.float()
    positive = (affinities * known).sum(axes, keepdim=True)
    fraction = (positive / known.sum(axes, keepdim=True).clamp(min=1)).clamp(*FRACTION_BOUNDS)
    weights = torch.where(affinities > 0.5, 0.5 / fraction, 0.5 / (1 - fraction))
    return weights * known


def _squared_error(logits: Tensor, affinities: Tensor) -> Tensor:
    return (torch.sigmoid(logits) - affinities) ** 2


def _cross_entropy(logits: Tensor, affinities: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, affinities, reduction="none")


def _mean(error: Callable[[Tensor, Tensor], Tensor], *, balanced: bool) -> Loss:
    def loss(logits: Tensor, affinities: Tensor, mask: Tensor) -> Tensor:
        # In float32 whatever the network ran in: a mean over 10^5 voxels needs more than 8 bits.
        affinities = affinities.float()
        weights = balanced_weights(affinities, mask) if balanced else mask.float()
        total = (weights * error(logits.float(), affinities)).sum()
        return total / mask.sum().clamp(min=1)

    return loss


LOSSES: dict[str, Loss] = {
    "balanced_squared_error": _mean(_squared_error, balanced=True),
    "balanced_cross_entropy": _mean(_cross_entropy, balanced=True),
    "squared_error": _mean(_squared_error, balanced=False),
    "cross_entropy": _mean(_cross_entropy, balanced=False),
}
"""Name → loss(logits (N, 3, D, H, W), affinities, mask): mean over known affinities, a scalar.

``balanced_squared_error`` is the published stage 1. A patch without known affinities gives 0.
"""
