"""What training and evaluation ask of an application, whatever it is about."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.errors import DataError, first_of
from psc.training.checkpoints import SEEN_KEY, Checkpoint
from psc.training.data import TrainingData
from psc.training.task import Task

log = logging.getLogger(__name__)


class Application(ABC):
    """One of the paper's applications (Section 4): its data, its loss, its test protocol.

    Made from a checked configuration, it reads the data at once, so that bad data is refused
    before anything is computed.
    """

    measures: tuple[str, ...] = ()
    """What its task logs into metrics.csv beside losses."""

    test_others: ClassVar[str]
    """How to choose other samples to test than those that trained a network."""

    _before: Mapping[str, Any] = {}  # what initial weights have seen

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

    @abstractmethod
    def fingerprints(self, part: str) -> dict[str, str]:
        """Of every sample of a part, by what it holds (hex digits), its name."""

    @abstractmethod
    def without_training(self) -> None:
        """Leave out the training part: nothing is trained on it."""

    @property
    def seen(self) -> dict[str, Any]:
        """What checkpoints keep."""
        parts = {
            part: sorted({*self.fingerprints(part), *self._before.get(part, ())})
            for part in ("train", "validation")
        }
        return {"splits": self.data_record()["splits"], **parts}

    def begin_with(self, initial: Checkpoint) -> None:
        """Refuse initial weights that were trained on what this training will test; keep that."""
        self._before = self._refuse_seen(initial) or {}

    def check_unseen(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Refuse to test what trained the network; returns what the record says of other data."""
        seen = self._refuse_seen(checkpoint)
        if seen is None or {*self.fingerprints("train")} == {*seen["train"]}:
            return {}
        self.without_training()
        parts = {key: value for key, value in seen["splits"].items() if key != "test"}
        return {"trained_on": {"dataset": checkpoint.config.dataset.name, **parts}}

    def _refuse_seen(self, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
        """What a checkpoint has seen, none of which is tested here; None where it does not say.

        Validation too: its scores would be those of a training. What the data set itself has in
        training and test was told there. Checkpoints of earlier versions do not say, which is said.
        """
        dataset = self.config.dataset.name
        seen: Mapping[str, Any] | None = checkpoint.content.get(SEEN_KEY)
        if seen is None:
            if self.config.dataset != checkpoint.config.dataset:
                log.warning(
                    "%s does not say what it was trained on: make sure that dataset=%s tests none"
                    " of it",
                    *(checkpoint.path, dataset),
                )
            return None
        own, trained, chose = {*self.fingerprints("train")}, {*seen["train"]}, seen["validation"]
        for part, known in (("test", trained.union(chose) - own), ("validation", trained - own)):
            marks = self.fingerprints(part).items()
            found = list(dict.fromkeys(name for mark, name in marks if mark in known))
            if found:
                raise DataError(
                    f"dataset={dataset}: {first_of(found)} of the {part} part trained"
                    f" {checkpoint.path}, or chose it; a network is not tested on what it has"
                    f" seen: {self.test_others}"
                )
        return seen
