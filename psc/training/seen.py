"""What a network has seen in training: kept in its checkpoint, so that no test is of it."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from psc.errors import DataError, first_of
from psc.training.application import Application
from psc.training.checkpoints import Checkpoint
from psc.training.task import Task

SEEN_KEY = "psc_seen"
"""Where a checkpoint holds the splits' record and, by part, the fingerprints of its training."""

log = logging.getLogger(__name__)


class RememberingTask(Task):
    """Puts into every checkpoint what its application trains on; None where none has said it."""

    seen: Mapping[str, Any] | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning before it writes one."""
        if self.seen is not None:
            checkpoint[SEEN_KEY] = self.seen


class FingerprintedApplication(Application):
    """An application whose samples are told apart by what they hold, whatever they are called."""

    test_others: ClassVar[str]
    """How to choose other samples to test."""

    @abstractmethod
    def fingerprints(self, part: str) -> dict[str, str]:
        """Of every sample of a part (hex digits), with its name."""

    @abstractmethod
    def without_training(self) -> None:
        """Leave out the training part: nothing is trained on it."""

    _before: Mapping[str, Any] = {}  # what initial weights have seen

    @property
    def seen(self) -> dict[str, Any]:
        """What checkpoints keep."""
        parts = {
            part: [*{*self.fingerprints(part), *self._before.get(part, ())}]
            for part in ("train", "validation")
        }
        return {"splits": self.data_record()["splits"], **parts}

    def begins_with(self, initial: Checkpoint) -> None:
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
            found = [name for mark, name in self.fingerprints(part).items() if mark in known]
            if found:
                raise DataError(
                    f"dataset={dataset}: {first_of(found)} of the {part} part trained"
                    f" {checkpoint.path}, or chose it; a network is not tested on what it has"
                    f" seen: {self.test_others}"
                )
        return seen
