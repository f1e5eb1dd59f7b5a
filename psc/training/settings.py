"""What every training may be told: optimiser, schedule, length, machine, loggers.

The dataclasses of the rooms' ``settings`` modules are the nodes of the configuration's tree
(``psc.config``): a field is a key of the command line, and ``__post_init__`` refuses what cannot
work, naming its field; the key above it is added where the tree is made. They import no torch, so
that a mistake is told at once.
"""

import math
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from psc.errors import ConfigError

PARTS = ("train", "validation", "test")
"""Of every data set: to learn from, to choose the checkpoint by, to report."""


def require(config: object, key: str, allowed: Collection[Any]) -> None:
    """Refuse a choice that there is not."""
    if (value := getattr(config, key)) not in allowed:
        names = ", ".join(str(choice).lower() for choice in allowed)
        raise ConfigError(f"{key}={value}: allowed are {names}")


def at_least(config: object, minimum: float, *keys: str) -> None:
    """Refuse numbers that are too small, or none."""
    for key in keys:
        if not minimum <= (value := getattr(config, key)) < math.inf:
            finite = "finite and " if value == math.inf else ""
            raise ConfigError(f"{key}={value}: must be {finite}at least {minimum}")


def positive(config: object, *keys: str) -> None:
    """Refuse numbers that are 0 or less, or none."""
    for key in keys:
        if not 0 < (value := getattr(config, key)) < math.inf:
            raise ConfigError(f"{key}={value}: must be positive")


def share(config: object, *keys: str, whole: bool = True) -> None:
    """Refuse what does not lie in [0, 1], or in [0, 1) where the ``whole`` is too much."""
    for key in keys:
        value = getattr(config, key)
        if not (0 <= value <= 1 and (whole or value < 1)):
            raise ConfigError(f"{key}={value}: must lie in [0, 1{']' if whole else ')'}")


def between(config: object, low: float, high: float, *keys: str) -> None:
    """Refuse what does not lie in [low, high]."""
    for key in keys:
        if not low <= (value := getattr(config, key)) <= high:
            raise ConfigError(f"{key}={value}: must lie in [{low:g}, {high:g}]")


def sizes(config: object, key: str, unit: str) -> None:
    """Refuse what is neither null nor three positive lengths."""
    value = getattr(config, key)
    if value is not None and not (len(value) == 3 and all(0 < size < math.inf for size in value)):
        raise ConfigError(f"{key}={value}: must be three positive {unit}, or null")


def shares(config: object, key: str, *, zero: bool = False) -> None:
    """Refuse what does not divide a data set; parts but the test's may be ``zero``."""
    given = getattr(config, key)
    if not (
        len(given) == 3 and min(given) >= 0 and given[2] > 0 and abs(sum(given) - 1) < 1e-6
    ) or (min(given) == 0 and not zero):
        raise ConfigError(
            f"{key}={given}: must be three {'from 0' if zero else 'above 0'} to 1 that make 1"
            " (train, validation, test)"
        )


def interval(config: object, *keys: str, lowest: float = -math.inf) -> None:
    """Refuse what is no finite range [low, high] from ``lowest`` on."""
    for key in keys:
        value = getattr(config, key)
        if len(value) != 2 or not -math.inf < value[0] <= value[1] < math.inf:
            raise ConfigError(f"{key}={list(value)}: must be [low, high], finite, with low ≤ high")
        if value[0] < lowest:
            raise ConfigError(f"{key}={list(value)}: must not go below {lowest:g}")


@dataclass
class DatasetConfig:
    """A data set; each application has its own kinds."""

    name: str = MISSING  # what tables and folders call it; chosen by dataset=…

    def outputs(self) -> tuple[str, ...] | None:
        """What a network must tell apart, where the data set decides it; in the network's order."""
        return None

    def fitted(self, trained: "DatasetConfig") -> "DatasetConfig":
        """As a network that was trained on another data set can be evaluated on it."""
        del trained
        return self


@dataclass
class OptimizerConfig:
    """Adam; the learning rate of biases is ``bias_learning_rate_factor`` times the weights'."""

    learning_rate: float = 1e-3  # at the first iteration
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of Adam's means of the gradient and of its square."""
    epsilon: float = 1e-8  # added to Adam's divisor
    weight_decay: float = 0.0  # L2 term in the gradient, as in Caffe
    bias_learning_rate_factor: float = 1.0  # 2 in the published U-Net

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        at_least(self, 0, "weight_decay", "bias_learning_rate_factor")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas}: must be two numbers in [0, 1)")


@dataclass
class ScheduleConfig:
    """Learning rate over iterations; see ``psc.training.task``."""

    name: str = "constant"
    """Inverse: (1 + gamma·i)^−power; step: gamma^⌊i / step_size⌋; cosine: to 0 at the end."""
    gamma: float = 0.0  # of inverse and step
    power: float = 0.0  # of inverse
    step_size: int = 1  # iterations, of step

    def __post_init__(self) -> None:
        require(self, "name", ("constant", "inverse", "step", "cosine"))
        if self.name == "step":
            at_least(self, 1, "step_size")
            if not 0 < self.gamma <= 1:
                raise ConfigError(f"gamma={self.gamma}: must lie in (0, 1]")


@dataclass
class RecipeConfig:
    """How long, how fast and on what a network is trained; each application has its own kind."""

    name: str = MISSING  # which one: <backbone>/<budget>, or chosen by recipe=…
    iterations: int = MISSING  # optimiser steps
    max_minutes: float | None = None
    """Stop there even if ``iterations`` are not reached; null: never."""
    validate_every: int = MISSING
    """Iterations; the checkpoint of the lowest validation loss is kept."""
    batch_size: int = MISSING  # samples of a step, on each device
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "iterations", "validate_every", "batch_size")
        if self.max_minutes is not None:
            positive(self, "max_minutes")

    @abstractmethod
    def sample_shape(self, network: Any) -> tuple[int, ...]:
        """(1, C, D, H, W) of one training sample's input; one that the network takes."""


@dataclass
class TrainerConfig:
    """Where and how to run; passed on to Lightning's Trainer. "auto" decides by the device.

    ``devices`` is 1 by default: each more is another patch per iteration, another experiment.
    """

    accelerator: str = "auto"  # what computes
    devices: Any = 1  # how many, or which as [0,2]; each takes a batch of its own
    num_nodes: int = 1  # machines, each with so many devices
    strategy: str = "auto"  # Lightning's, of several devices: ddp, fsdp, …
    precision: str = "auto"  # auto: bf16-mixed if the device is fast at it
    compile: Any = "auto"  # torch.compile; auto: on a GPU
    channels_last: bool = True
    """Keep tensors as channels_last_3d, the layout that convolutions prefer."""
    deterministic: bool = False  # only algorithms that repeat bit by bit, where there are such
    workers: Any = "auto"  # processes that load; auto: by the cores
    progress_bar: bool = True  # show one
    test_every: int | None = None
    """Also keep a checkpoint every so many iterations, and test each after the training."""

    def __post_init__(self) -> None:
        require(self, "accelerator", ("auto", "cpu", "gpu", "mps"))
        require(self, "precision", ("auto", "32-true", "bf16-mixed", "16-mixed"))
        require(self, "compile", ("auto", True, False))
        at_least(self, 1, "num_nodes")
        if self.test_every is not None:
            at_least(self, 1, "test_every")
        if self.workers != "auto":
            if isinstance(self.workers, bool) or not isinstance(self.workers, int):
                raise ConfigError(
                    f"workers={self.workers!r}: allowed are auto or a number of processes"
                )
            at_least(self, 0, "workers")


@dataclass
class LoggerConfig:
    """metrics.csv is always written; Weights & Biases on request."""

    wandb: bool = False  # also log to Weights & Biases
    project: str = "psc"  # where there
    mode: str = "auto"  # auto: online with a login, else offline
    group: str | None = None
    """What runs are grouped by, such as a table; null: the data set."""

    def __post_init__(self) -> None:
        require(self, "mode", ("auto", "online", "offline"))
