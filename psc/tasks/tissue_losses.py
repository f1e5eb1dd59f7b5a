"""Losses on tissue labels: pure functions of logits and labels."""

import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over voxels, the published loss (Bui et al. 2017)."""
    # In float32 whatever the network ran in: a mean over 10^6 voxels needs more than 8 bits.
    return F.cross_entropy(logits.float(), labels.long())


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, averaged over the tissues; background is left out.

    Overlaps are summed over the batch before they are divided: a tissue that a single patch lacks
    has no defined overlap there (MONAI's DiceLoss).
    """
    loss: Tensor = _dice()(logits.float(), labels.long().unsqueeze(1))
    return loss


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of both, equally weighted."""
    return dice(logits, labels) + cross_entropy(logits, labels)


@functools.cache
def _dice() -> nn.Module:
    from monai.losses.dice import (
        DiceLoss,  # late: a machine without MONAI trains with cross-entropy
    )

    loss: nn.Module = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, reduction="mean"
    )
    return loss


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "dice_cross_entropy": dice_cross_entropy,
}
"""Name → loss(logits (N, classes, D, H, W), labels (N, D, H, W) of an integer type), a scalar."""

__all__ = ["LOSSES", "cross_entropy", "dice", "dice_cross_entropy"]
