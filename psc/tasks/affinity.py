"""Affinity prediction (Section 4.3): loss, optimiser and logging around a network."""

from torch import Tensor, nn

from psc.config.schema import AffinityRecipeConfig
from psc.tasks.base import Task
from psc.tasks.losses import LOSSES
from psc.tasks.malis_loss import malis_loss


class AffinityTask(Task):
    """Trains a network that maps raw EM to logits of affinities (z, y, x).

    Args:
        network: (N, 1, D, H, W) → logits (N, 3, d, h, w).
        recipe: optimiser, schedule, and the loss of each stage. Stage 1 has a loss of
            ``psc.tasks.losses``; from iteration ``malis_from`` on stage 2 has MALIS, with the same
            optimiser and its state (Funke et al.: 100,000 and 200,000 iterations).
        iterations: length of the training, for schedules that end.
        channels_last: keep tensors as channels_last_3d, the layout that convolutions prefer.

    Batches are dictionaries of ``psc.datasets.fibsem``: raw, affinities, mask, labels.

    Logged: train/loss, train/stage, and validation/loss, which is the last stage's throughout, so
    that checkpoints of both stages can be compared.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: AffinityRecipeConfig,
        *,
        iterations: int,
        channels_last: bool = True,
    ) -> None:
        super().__init__(network, recipe, iterations=iterations, channels_last=channels_last)
        self.recipe: AffinityRecipeConfig = recipe
        self.first_loss = LOSSES[recipe.loss]

    @property
    def stage(self) -> int:
        """1 or 2."""
        start = self.recipe.malis_from
        return 2 if start is not None and self.global_step >= start else 1

    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """Raw EM (N, 1, D, H, W)."""
        return batch["raw"]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, logged as train/loss."""
        loss = self._loss(batch, self.stage)
        self.log_training(loss)
        self.log("train/stage", float(self.stage))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss over the fixed validation patches, logged as validation/loss."""
        loss = self._loss(batch, 1 if self.recipe.malis_from is None else 2)
        self.log("validation/loss", loss, batch_size=len(batch["raw"]), sync_dist=True)

    def _loss(self, batch: dict[str, Tensor], stage: int) -> Tensor:
        logits = self(self.network_input(batch))
        if stage == 1:
            return self.first_loss(logits, batch["affinities"], batch["mask"])
        return malis_loss(
            logits,
            batch["labels"],
            batch["mask"],
            normalization=self.recipe.malis_normalization,
        )
