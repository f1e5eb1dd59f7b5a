"""Lightning data modules: which patches a training sees, in which order, on which process."""

import math
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Sampler

from psc.backbones.geometry import VolumeNetwork
from psc.build import patch_input_size
from psc.config.schema import AffinityRecipeConfig, FibsemConfig, RecipeConfig
from psc.datasets.fibsem import AffinityPatches, ValidationPatches
from psc.datasets.splits import Splits
from psc.datasets.transforms import Augmentation


class EpochSampler(Sampler[int]):
    """Indices of one validation interval; every interval and every process has its own.

    Patch i of a data set is a function of i, so a training that resumes at interval e sees exactly
    the patches that it would have seen without the interruption.

    Args:
        length: indices per epoch and process.
        rank: this process.
        world_size: number of processes.
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
    """Batches of a training, in epochs that end with a validation.

    Attributes:
        epochs: number of validation intervals.
        iterations_per_epoch: iterations of each.
    """

    epochs: int
    iterations_per_epoch: int


class AffinityData(TrainingData):
    """Patches of EM volumes for ``psc.tasks.AffinityTask``.

    Args:
        splits: regions to train and validate on.
        dataset: how labels and grey values are to be read.
        recipe: patch and batch size, augmentation.
        network: tells the output size.
        seed: of all patches.
        workers: processes per loader; 0 loads in the training process.
    """

    def __init__(
        self,
        splits: Splits,
        dataset: FibsemConfig,
        recipe: AffinityRecipeConfig,
        network: VolumeNetwork,
        *,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.recipe, self.workers = recipe, workers
        self.epochs, self.iterations_per_epoch = training_epochs(recipe)
        input_size, low_high = patch_input_size(recipe, network), dataset.intensity_range
        common: dict[str, Any] = {
            "input_size": input_size,
            "output_size": network.output_size(input_size),
            "zero_label": dataset.zero_label,
            "boundary_thickness": dataset.boundary_thickness,
            "intensity_range": (low_high[0], low_high[1]) if low_high else None,
        }
        options = recipe.augmentation
        augmentation = Augmentation(
            reflections=options.reflections,
            axis_swaps=options.axis_swaps,  # type: ignore[arg-type]  # checked in psc.config
            contrast=(options.contrast[0], options.contrast[1]),
            brightness=(options.brightness[0], options.brightness[1]),
        )
        self._seed, self._splits, self._common = seed, splits, common
        # Built here and not in setup(): bad data is refused before a trainer starts processes.
        self.train_patches = AffinityPatches(
            splits.train, seed=seed, length=2**62, augmentation=augmentation, **common
        )
        self.validation_patches = ValidationPatches(
            splits.validation, maximum=recipe.validation_patches, **common
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Random patches; the sampler makes the endless data set an epoch."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        length = self.iterations_per_epoch * self.recipe.batch_size
        return self._loader(self.train_patches, sampler=EpochSampler(length, rank, world))

    def val_dataloader(self) -> DataLoader[Any]:
        """The fixed validation patches, all of them on every process: they are few."""
        return self._loader(self.validation_patches)

    def _loader(self, patches: Any, sampler: Sampler[int] | None = None) -> DataLoader[Any]:
        return DataLoader(
            patches,
            batch_size=self.recipe.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
