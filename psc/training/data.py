"""Batches of a training: in which order, on which process, in epochs that end with a validation."""

import math
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from psc.training.settings import RecipeConfig


class EpochSampler(Sampler[int]):
    """Indices of one validation interval; every interval and every process has its own.

    Patch i of a data set is a function of i, so a training that resumes at interval e sees exactly
    the patches that it would have seen without the interruption. ``length``: indices per epoch and
    process.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.rank, self.world_size = length, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning when an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Every world_size-th index of the epoch, from the rank on."""
        first = self.epoch * self.length * self.world_size + self.rank
        return iter(range(first, first + self.length * self.world_size, self.world_size))

    def __len__(self) -> int:
        return self.length


def training_epochs(recipe: RecipeConfig) -> tuple[int, int]:
    """Number of epochs (validation intervals) and iterations of each.

    ``iterations`` is divided evenly into intervals of at most ``validate_every``; where it does
    not divide, it is rounded up by less than one iteration per interval.
    """
    epochs = math.ceil(recipe.iterations / recipe.validate_every)
    return epochs, math.ceil(recipe.iterations / epochs)


class TrainingData(lightning.LightningDataModule):
    """Samples to train and to validate on, whatever the task, as batches.

    The training's data set is endless, its sample i a function of i; the validation's is fixed.
    ``workers`` are processes per loader; 0 loads in the training process.
    """

    def __init__(
        self,
        training: Dataset[Any],
        validation: Dataset[Any],
        recipe: RecipeConfig,
        *,
        workers: int,
        validation_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.training, self.validation = training, validation
        self.recipe, self.workers = recipe, workers
        self.validation_batch_size = validation_batch_size or recipe.batch_size
        self.epochs, self.iterations_per_epoch = training_epochs(recipe)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Random samples; the sampler makes the endless data set an epoch."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        length = self.iterations_per_epoch * self.recipe.batch_size
        sampler = EpochSampler(length, rank, world)
        return loader(self.training, self.recipe.batch_size, self.workers, sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The fixed validation samples, all of them on every process: they are few."""
        return loader(self.validation, self.validation_batch_size, self.workers)


def loader(
    samples: Dataset[Any], batch_size: int, workers: int, sampler: Sampler[int] | None = None
) -> DataLoader[dict[str, Tensor]]:
    """Batches of samples, in the order of the sampler, or of the samples."""
    return DataLoader(
        samples,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
