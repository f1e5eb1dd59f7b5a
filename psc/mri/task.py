"""Tissue labels of brain MRI (Section 4.2): losses, and optimiser and logging around a network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from psc.mri.settings import TissueRecipeConfig
from psc.mri.tissues import TISSUES
from psc.training.task import Task

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
    from monai.losses.dice import DiceLoss  # a machine without MONAI trains with cross-entropy

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


class TissueTask(Task):
    """Trains a network that maps T1 (N, 1, D, H, W) to logits (N, 1 + tissues, D, H, W).

    ``tissues`` has the class of each by name: 1, 2, … Batches are those of ``psc.mri.patches``.

    Logged: train/loss, validation/loss and validation/dice_<tissue>, the Dice coefficient over all
    validation patches together. The test protocol scores whole subjects instead.
    """

    recipe: TissueRecipeConfig

    def __init__(
        self,
        network: nn.Module,
        recipe: TissueRecipeConfig,
        tissues: Mapping[str, int] = TISSUES,
        **how: Any,
    ) -> None:
        super().__init__(network, recipe, **how)
        self.loss, self.tissues = LOSSES[recipe.loss], tissues
        self.confusion = MulticlassConfusionMatrix(1 + len(tissues))

    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """T1 (N, 1, D, H, W)."""
        return batch["image"]

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Over all voxels."""
        return self.loss(self(self.network_input(batch)), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss and confusion over the fixed validation patches."""
        logits = self(self.network_input(batch))
        loss = self.loss(logits, batch["labels"])
        self.log("validation/loss", loss, batch_size=len(batch["image"]), sync_dist=True)
        self.confusion.update(logits.argmax(dim=1), batch["labels"].long())

    def on_validation_epoch_end(self) -> None:
        """Log Dice over all validation patches."""
        confusion = self.confusion.compute().double()
        self.confusion.reset()
        overlap = 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))
        for tissue, label in self.tissues.items():
            self.log(f"validation/dice_{tissue}", overlap[label].float())
        super().on_validation_epoch_end()
