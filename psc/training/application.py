"""What training and evaluation ask of an application, whatever it is about."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.training.data import TrainingData
from psc.training.task import Task


class Application(ABC):
    """One of the paper's applications (Section 4): its data, its loss, its test protocol.

    Made from a checked configuration, it reads the data at once, so that bad data is refused
    before anything is computed.
    """

    measures: tuple[str, ...] = ()
    """What its task logs into metrics.csv beside losses."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Batches to train and validate on; ``workers`` processes load them."""

    @abstractmethod
    def task(self, network: nn.Module, iterations: int) -> Task:
        """Loss, optimiser and logging around the network; it logs validation/loss."""

    @abstractmethod
    def evaluate(
        self, network: nn.Module, folder: Path, *, device: torch.device, source: dict[str, str]
    ) -> dict[str, Any]:
        """Run the test protocol with a network on ``device``, in evaluation mode.

        Outputs replace those of an earlier evaluation in ``folder`` and name their ``source`` (run,
        checkpoint). Returns metrics for the record; ``test`` holds numbers by name.
        """

    def reads(self) -> list[str]:
        """What was read and what it is taken for, a line each: said when a training starts."""
        return []

    @abstractmethod
    def data_record(self) -> dict[str, Any]:
        """What the record says about the data: its kind, splits and files."""
