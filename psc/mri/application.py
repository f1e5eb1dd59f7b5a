"""Brain tissue segmentation from MRI (Section 4.2): subjects, patches, whole-volume Dice."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.errors import ConfigError
from psc.mri.data import prepare_synthetic, read_cohort
from psc.mri.patches import GridPatches, TissuePatches
from psc.mri.settings import IBSRConfig, TissueRecipeConfig
from psc.mri.task import TissueTask
from psc.mri.testing import evaluate_tissues
from psc.mri.tissues import TISSUES
from psc.training.application import Application
from psc.training.data import TrainingData


class TissueApplication(Application):
    """Reads subjects with tissue labels, trains on patches, scores whole test subjects.

    Raises:
        ConfigError: for a data set without tissues.
        DataError: for files that are missing, damaged or without labels.
    """

    measures = tuple(f"validation/dice_{tissue}" for tissue in TISSUES)

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not isinstance(config.dataset, IBSRConfig):
            raise ConfigError(f"dataset={config.dataset.name} cannot be read as brain volumes")
        assert isinstance(config.recipe, TissueRecipeConfig)  # psc.config.checks
        self._recipe = config.recipe
        prepare_synthetic(config.dataset)
        self._cohort = read_cohort(config.dataset)

    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Random patches, and fixed ones to validate on."""
        recipe = self._recipe
        return TrainingData(
            TissuePatches(
                self._cohort.train,
                patch_size=recipe.patch_size,
                seed=self.config.seed,
                length=2**62,
                foreground_share=recipe.foreground_share,
                augmentation=recipe.augmentation,
            ),
            GridPatches(
                self._cohort.validation,
                patch_size=recipe.patch_size,
                maximum=recipe.validation_patches,
            ),
            recipe,
            workers=workers,
            validation_batch_size=recipe.evaluation_batch_size,
        )

    def task(self, network: nn.Module, iterations: int) -> TissueTask:
        """The loss that the recipe names, over all voxels."""
        return TissueTask(
            network,
            self._recipe,
            iterations=iterations,
            channels_last=self.config.trainer.channels_last,
        )

    def evaluate(
        self, network: nn.Module, folder: Path, *, device: torch.device, source: dict[str, str]
    ) -> dict[str, Any]:
        """Dice, surface distance and volumes of validation and test subjects."""
        del source  # NIfTI has no place for it; the labels lie beside the record
        return evaluate_tissues(
            network,
            {"validation": self._cohort.validation, "test": self._cohort.test},
            folder,
            recipe=self._recipe,
            device=device,
            title=f"{self.config.dataset.name} ({self._cohort.kind})",
            progress=self.config.trainer.progress_bar,
        )

    def data_record(self) -> dict[str, Any]:
        """Kind, split, kind of labels, and files."""
        return self._cohort.record()
