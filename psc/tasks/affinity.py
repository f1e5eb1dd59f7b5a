"""Affinity prediction (Section 4.3): loss, optimiser and logging around a network."""

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from psc.config.schema import RecipeConfig
from psc.tasks.divergence import check_finite
from psc.tasks.losses import LOSSES
from psc.tasks.optimization import configure_adam


class AffinityTask(lightning.LightningModule):
    """Trains a network that maps raw EM to logits of affinities (z, y, x).

    Args:
        network: (N, 1, D, H, W) → logits (N, 3, d, h, w).
        recipe: optimiser and schedule.
        loss: a name in ``psc.tasks.losses.LOSSES``.
        iterations: length of the training, for schedules that end.
        channels_last: keep tensors as channels_last_3d, the layout that convolutions prefer.

    Batches are dictionaries of ``psc.datasets.fibsem``: raw, affinities, mask.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: RecipeConfig,
        *,
        loss: str,
        iterations: int,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        self.recipe, self.iterations = recipe, iterations
        self.loss = LOSSES[loss]

    def forward(self, raw: Tensor) -> Tensor:
        """Raw (N, 1, D, H, W) in [0, 1] → logits (N, 3, d, h, w)."""
        logits: Tensor = self.network(raw.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, logged as train/loss."""
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss over the fixed validation patches, logged as validation/loss."""
        size = len(batch["raw"])
        self.log("validation/loss", self._loss(batch), batch_size=size, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """End a training that has diverged (``psc.tasks.divergence``)."""
        check_finite(
            float(self.trainer.callback_metrics["validation/loss"]), self.trainer.global_step
        )

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self(batch["raw"]), batch["affinities"], batch["mask"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam and its schedule, stepped every iteration."""
        return configure_adam(self.network, self.recipe, self.iterations)
