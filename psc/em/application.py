"""Neuron segmentation from electron microscopy (Section 4.3): affinities, then agglomeration."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.em.data import prepare_synthetic, read_splits
from psc.em.patches import AffinityPatches, ValidationPatches
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.em.task import AffinityTask
from psc.em.testing import evaluate_affinities
from psc.errors import ConfigError
from psc.networks.geometry import VolumeNetwork
from psc.training.application import Application
from psc.training.data import TrainingData


class AffinityApplication(Application):
    """Reads volumes with neuron labels, trains on patches, segments and scores the test part."""

    measures = ("train/stage",)

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not isinstance(config.dataset, FibsemConfig):
            raise ConfigError(f"dataset={config.dataset.name} cannot be read as affinities")
        assert isinstance(config.recipe, AffinityRecipeConfig)  # psc.config.checks
        self._dataset, self._recipe = config.dataset, config.recipe
        prepare_synthetic(config.dataset)
        self._splits = read_splits(config.dataset)

    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Random patches, and fixed ones to validate on."""
        assert isinstance(network, VolumeNetwork)
        input_size = self._recipe.patch_input(network)
        common: dict[str, Any] = {
            "input_size": input_size,
            "output_size": network.output_size(input_size),
            "zero_label": self._dataset.zero_label,
            "boundary_thickness": self._dataset.boundary_thickness,
            "intensity_range": self._dataset.intensity_range,
        }
        train = AffinityPatches(
            self._splits.train,
            seed=self.config.seed,
            length=2**62,
            augmentation=self._recipe.augmentation,
            **common,
        )
        validation = ValidationPatches(
            self._splits.validation, maximum=self._recipe.validation_patches, **common
        )
        return TrainingData(train, validation, self._recipe, workers=workers)

    def task(self, network: nn.Module, iterations: int) -> AffinityTask:
        """The affinity loss that the recipe names, then MALIS if it says so."""
        channels_last = self.config.trainer.channels_last
        return AffinityTask(
            network, self._recipe, iterations=iterations, channels_last=channels_last
        )

    def evaluate(
        self, network: nn.Module, folder: Path, *, device: torch.device, source: dict[str, str]
    ) -> dict[str, Any]:
        """Threshold chosen on the validation part; VI and adapted Rand error of the test part."""
        assert isinstance(network, VolumeNetwork)
        return evaluate_affinities(
            network, self._splits, self.config, folder, device=device, source=source
        )

    def data_record(self) -> dict[str, Any]:
        """Kind, slabs and files."""
        return self._splits.record()
