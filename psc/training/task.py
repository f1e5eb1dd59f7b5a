"""What all tasks share: memory layout, optimiser, and the end of a training that diverges."""

import math
from abc import abstractmethod
from collections.abc import Callable

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from psc.errors import DivergenceError
from psc.training.settings import OptimizerConfig, RecipeConfig, ScheduleConfig


class Task(lightning.LightningModule):
    """A network in training; subclasses say what a batch is and what it costs.

    ``iterations``: length of the training, for schedules that end; ``channels_last`` keeps tensors
    as channels_last_3d, the layout that convolutions prefer.
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
        """The network's result for (N, C, D, H, W), brought into its layout; losses are float32."""
        result: Tensor = self.network(x.contiguous(memory_format=self.memory_format))
        return result if result.dtype == torch.float64 else result.float()

    @abstractmethod
    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """What the network is given of a batch, (N, C, D, H, W)."""

    @abstractmethod
    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of one batch; what else it shows is logged here."""

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """The loss, logged as train/loss, and the learning rate that it goes with."""
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_validation_epoch_end(self) -> None:
        """End a training that has diverged instead of computing on."""
        loss = float(self.trainer.callback_metrics["validation/loss"])
        if not math.isfinite(loss):
            raise DivergenceError(
                f"validation/loss is {loss} after iteration {self.trainer.global_step}: the "
                "training has diverged. Checkpoints from before are intact; try a lower "
                "recipe.optimizer.learning_rate"
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam and its schedule, stepped every iteration, as Lightning wants them."""
        optimizer = build_optimizer(self.network, self.recipe.optimizer)
        factor = learning_rate_factor(self.recipe.schedule, self.iterations)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over a network's parameters, in one kernel; biases may learn faster than weights.

    Caffe gives biases their own learning rate (twice the weights' in the published U-Net); its
    weight decay is an L2 term in the gradient, which is Adam's ``weight_decay``, not AdamW's.
    """
    weights = [p for name, p in network.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    rate = config.learning_rate
    return torch.optim.Adam(
        [
            {"params": weights, "lr": rate},
            {"params": biases, "lr": rate * config.bias_learning_rate_factor},
        ],
        betas=(config.betas[0], config.betas[1]),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=all(p.device.type in ("cpu", "cuda") for p in network.parameters()),
    )


def learning_rate_factor(config: ScheduleConfig, iterations: int) -> Callable[[int], float]:
    """Factor of the initial learning rate at a given iteration.

    - constant: 1;
    - inverse: (1 + gamma·iteration)^−power, Caffe's "inv";
    - step: gamma^⌊iteration / step_size⌋;
    - cosine: half a cosine from 1 to 0 over ``iterations``.
    """
    if config.name == "step":
        decay, step_size = config.gamma, config.step_size
        return lambda iteration: float(decay ** (iteration // step_size))
    if config.name == "inverse":
        gamma, power = config.gamma, config.power
        return lambda iteration: float((1 + gamma * iteration) ** -power)
    if config.name == "cosine":
        return lambda iteration: 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / iterations)))
    return lambda iteration: 1.0
