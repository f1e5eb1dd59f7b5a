"""Affinity prediction (Section 4.3): loss, optimiser and logging around a network."""

from torch import Tensor, nn

from psc.config.schema import RecipeConfig
from psc.tasks.base import Task
from psc.tasks.losses import LOSSES


class AffinityTask(Task):
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
        super().__init__(network, recipe, iterations=iterations, channels_last=channels_last)
        self.loss = LOSSES[loss]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, logged as train/loss."""
        loss = self._loss(batch)
        self.log_training(loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss over the fixed validation patches, logged as validation/loss."""
        size = len(batch["raw"])
        self.log("validation/loss", self._loss(batch), batch_size=size, sync_dist=True)

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self(batch["raw"]), batch["affinities"], batch["mask"])
