"""Tissue labels of brain MRI (Section 4.2): loss, optimiser and logging around a network."""

from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from psc.config.schema import TissueRecipeConfig
from psc.datasets.mri.labels import CLASSES, TISSUES
from psc.tasks.base import Task
from psc.tasks.tissue_losses import LOSSES


class TissueTask(Task):
    """Trains a network that maps T1 volumes to logits of background, CSF, GM and WM.

    Args:
        network: (N, 1, D, H, W) → logits (N, 4, D, H, W).
        recipe: loss, optimiser and schedule.
        iterations: length of the training, for schedules that end.
        channels_last: keep tensors as channels_last_3d, the layout that convolutions prefer.

    Batches are dictionaries of ``psc.datasets.mri.patches``: image float32 (N, 1, D, H, W), labels
    uint8 (N, D, H, W).

    Logged: train/loss, validation/loss and validation/dice_<tissue>, the Dice coefficient over all
    validation patches together. The test protocol scores whole subjects instead.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: TissueRecipeConfig,
        *,
        iterations: int,
        channels_last: bool = True,
    ) -> None:
        super().__init__(network, recipe, iterations=iterations, channels_last=channels_last)
        self.recipe: TissueRecipeConfig = recipe
        self.loss = LOSSES[recipe.loss]
        self.confusion = MulticlassConfusionMatrix(CLASSES)

    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """T1 (N, 1, D, H, W)."""
        return batch["image"]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, logged as train/loss."""
        loss = self.loss(self(self.network_input(batch)), batch["labels"])
        self.log_training(loss)
        return loss

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
        for tissue, label in TISSUES.items():
            self.log(f"validation/dice_{tissue}", overlap[label].float())
        super().on_validation_epoch_end()
