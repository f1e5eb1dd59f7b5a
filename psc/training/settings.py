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

    name: str = MISSING

    def outputs(self) -> tuple[str, ...] | None:
        """What a network must tell apart, where the data set decides it; in the network's order."""
        return None


@dataclass
class OptimizerConfig:
    """Adam; the learning rate of biases is ``bias_learning_rate_factor`` times the weights'."""

    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    bias_learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        at_least(self, 0, "weight_decay", "bias_learning_rate_factor")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas}: must be two numbers in [0, 1)")


@dataclass
class ScheduleConfig:
    """Learning rate over iterations; see ``psc.training.task``."""

    name: str = "constant"
    gamma: float = 0.0
    power: float = 0.0
    step_size: int = 1

    def __post_init__(self) -> None:
        require(self, "name", ("constant", "inverse", "step", "cosine"))
        if self.name == "step":
            at_least(self, 1, "step_size")
            if not 0 < self.gamma <= 1:
                raise ConfigError(f"gamma={self.gamma}: must lie in (0, 1]")


@dataclass
class RecipeConfig:
    """How long, how fast and on what a network is trained; each application has its own kind."""

    name: str = MISSING
    iterations: int = MISSING
    max_minutes: float | None = None
    """Stop there even if ``iterations`` are not reached; null: never."""
    validate_every: int = MISSING
    batch_size: int = MISSING
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

    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: Any = "auto"
    channels_last: bool = True
    deterministic: bool = False
    workers: Any = "auto"
    progress_bar: bool = True
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

    wandb: bool = False
    project: str = "psc"
    mode: str = "auto"
    group: str | None = None
    """What runs are grouped by, such as a table; null: the data set."""

    def __post_init__(self) -> None:
        require(self, "mode", ("auto", "online", "offline"))
