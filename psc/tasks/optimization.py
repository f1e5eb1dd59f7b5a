"""Adam and learning-rate schedules as the published trainings have them."""

import math
from collections.abc import Callable

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from psc.config.schema import OptimizerConfig, RecipeConfig, ScheduleConfig


def configure_adam(
    network: nn.Module, recipe: RecipeConfig, iterations: int
) -> OptimizerLRSchedulerConfig:
    """Adam and its schedule, stepped every iteration, as Lightning wants them."""
    optimizer = build_optimizer(network, recipe.optimizer)
    factor = learning_rate_factor(recipe.schedule, iterations)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over a network's parameters; biases may learn faster than weights.

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
