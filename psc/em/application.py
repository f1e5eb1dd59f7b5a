"""Neuron segmentation from electron microscopy (Section 4.3): affinities, then agglomeration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.em.augmentation import Augmentation
from psc.em.data import digest_of, prepare_synthetic, read_splits
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

    test_others = "choose other sections, dataset.test=[{raw: …, z: [start, stop]}]"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not isinstance(config.dataset, FibsemConfig):
            raise ConfigError(f"dataset={config.dataset.name} cannot be read as affinities")
        assert isinstance(config.recipe, AffinityRecipeConfig)  # psc.config.checks
        self._dataset, self._recipe = config.dataset, config.recipe
        prepare_synthetic(config.dataset)
        self._splits = read_splits(config.dataset)
        self._augmentation = self._fitting(config.recipe.augmentation)

    def _fitting(self, augmentation: Augmentation) -> Augmentation:
        """The recipe's, with no more axes swapped than the data set allows."""
        allowed = self._dataset.axis_swaps or "all"
        if allowed == "auto":
            regions = self._splits.parts["train"]
            voxels = [region.volume.voxel_size or (1, 1, 1) for region in regions]
            flat = all(y == x for _, y, x in voxels)
            allowed = "all" if all(z == y == x for z, y, x in voxels) else "yx" if flat else "none"
        both = {allowed, augmentation.axis_swaps}
        return replace(augmentation, axis_swaps=next(s for s in ("none", "yx", "all") if s in both))

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
            "offsets": self._recipe.offsets,
        }
        train = AffinityPatches(
            self._splits.parts["train"],
            seed=self.config.seed,
            augmentation=self._augmentation,
            **common,
        )
        validation = ValidationPatches(
            self._splits.parts["validation"], maximum=self._recipe.validation_patches, **common
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

    def fingerprints(self, part: str) -> dict[str, str]:
        """Of the grey values of each section, in the columns that have labels."""
        regions = self._splits.parts[part]
        found = ((digest_of(plane), str(region)) for region in regions for plane in region.raw)
        return {digest.hex(): name for digest, name in found if digest is not None}

    def without_training(self) -> None:
        """The slabs that neither choose nor are tested are let go."""
        self._splits = replace(self._splits, parts={**self._splits.parts, "train": ()})

    def reads(self) -> list[str]:
        """Volumes, their voxels and labels, and the three parts."""
        swaps, wanted = self._augmentation.axis_swaps, self._recipe.augmentation.axis_swaps
        line = f"augmentation swaps axes {swaps}, not {wanted}: see dataset.axis_swaps"
        return [*self._splits.reads(), *([line] if swaps != wanted else [])]

    def data_record(self) -> dict[str, Any]:
        """Kind, slabs and files."""
        return self._splits.record()
