"""Tissue labels of brain MRI (Section 4.2): loss, optimiser and logging around a network."""

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from psc.config.schema import TissueRecipeConfig
from psc.datasets.mri.labels import CLASSES, TISSUES
from psc.tasks.divergence import check_finite
from psc.tasks.optimization import configure_adam
from psc.tasks.tissue_losses import LOSSES


class TissueTask(lightning.LightningModule):
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
        super().__init__()
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        self.recipe, self.iterations = recipe, iterations
        self.loss = LOSSES[recipe.loss]
        self.confusion = MulticlassConfusionMatrix(CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised T1 (N, 1, D, H, W) → logits (N, 4, D, H, W)."""
        logits: Tensor = self.network(image.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, logged as train/loss."""
        loss = self.loss(self(batch["image"]), batch["labels"])
        self.log("train/loss", loss, prog_bar=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss and confusion over the fixed validation patches."""
        logits = self(batch["image"])
        loss = self.loss(logits, batch["labels"])
        self.log("validation/loss", loss, batch_size=len(batch["image"]), sync_dist=True)
        self.confusion.update(logits.argmax(dim=1), batch["labels"].long())

    def on_validation_epoch_end(self) -> None:
        """Log Dice; end a training that has diverged (``psc.tasks.divergence``)."""
        confusion = self.confusion.compute().double()
        self.confusion.reset()
        overlap = 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))
        for tissue, label in TISSUES.items():
            self.log(f"validation/dice_{tissue}", overlap[label].float())
        check_finite(
            float(self.trainer.callback_metrics["validation/loss"]), self.trainer.global_step
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam and its schedule, stepped every iteration."""
        return configure_adam(self.network, self.recipe, self.iterations)
