"""What all tasks share: memory layout, optimiser, and the end of a training that diverges."""

from abc import abstractmethod

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from psc.config.schema import RecipeConfig
from psc.tasks.divergence import check_finite
from psc.tasks.optimization import configure_adam


class Task(lightning.LightningModule):
    """A network in training; subclasses say what a batch is and what it costs.

    Args:
        network: what is trained.
        recipe: optimiser and schedule.
        iterations: length of the training, for schedules that end.
        channels_last: keep tensors as channels_last_3d, the layout that convolutions prefer.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: RecipeConfig,
        *,
        iterations: int,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        self.recipe, self.iterations = recipe, iterations

    def forward(self, x: Tensor) -> Tensor:
        """The network's result for (N, C, D, H, W), which is brought into its layout."""
        result: Tensor = self.network(x.contiguous(memory_format=self.memory_format))
        return result

    @abstractmethod
    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """What the network is given of a batch, (N, C, D, H, W)."""

    def log_training(self, loss: Tensor) -> None:
        """Log a training step's loss, and the learning rate that it goes with."""
        self.log("train/loss", loss, prog_bar=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_end(self) -> None:
        """End a training that has diverged (``psc.tasks.divergence``)."""
        check_finite(
            float(self.trainer.callback_metrics["validation/loss"]), self.trainer.global_step
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam and its schedule, stepped every iteration."""
        return configure_adam(self.network, self.recipe, self.iterations)
