"""Brain tissue segmentation from MRI (Section 4.2): subjects, patches, whole-volume Dice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.errors import ConfigError, DataError
from psc.mri.data import prepare_synthetic, read_cohort
from psc.mri.patches import GridPatches, TissuePatches
from psc.mri.settings import IBSRConfig, SubjectsConfig, TissueRecipeConfig
from psc.mri.task import TissueTask
from psc.mri.testing import evaluate_tissues
from psc.training.application import Application
from psc.training.data import TrainingData


class TissueApplication(Application):
    """Reads subjects with tissue labels, trains on patches, scores whole test subjects."""

    test_others = (
        'name others, "dataset.split={validation: […], test: […]}" (of a file: a list of each'
        " part), or give the split or fold that it was trained with"
    )

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        dataset = config.dataset
        if not isinstance(dataset, SubjectsConfig):
            raise ConfigError(f"dataset={dataset.name} cannot be read as brain volumes")
        assert isinstance(config.recipe, TissueRecipeConfig)  # psc.config.checks
        self._recipe = config.recipe
        if isinstance(dataset, IBSRConfig):
            prepare_synthetic(dataset)
        self._cohort = read_cohort(dataset)
        self.measures = tuple(f"validation/dice_{name}" for name in self._cohort.codes.tissues)

    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Random patches, and fixed ones to validate on."""
        recipe = self._recipe
        if len(unlearned := self._cohort.unlearned) == len(self._cohort.codes.tissues):
            raise DataError(
                f"no subject that trains has any {' or '.join(unlearned)}; correct dataset.labels,"
                " or choose by dataset.split or dataset.fold others to train"
            )
        return TrainingData(
            TissuePatches(
                self._cohort.parts["train"],
                patch_size=recipe.patch_size,
                seed=self.config.seed,
                foreground_share=recipe.foreground_share,
                augmentation=recipe.augmentation,
            ),
            GridPatches(
                self._cohort.parts["validation"],
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
            self._cohort.codes.tissues,
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
            {part: self._cohort.parts[part] for part in ("validation", "test")},
            folder,
            codes=self._cohort.codes,
            recipe=self._recipe,
            device=device,
            title=f"{self.config.dataset.name} ({self._cohort.kind})",
            progress=self.config.trainer.progress_bar,
        )

    def fingerprints(self, part: str) -> dict[str, str]:
        """Of the voxels of each subject's image."""
        return {subject.fingerprint: subject.name for subject in self._cohort.parts[part]}

    def without_training(self) -> None:
        """The subjects that neither choose nor are tested are let go."""
        self._cohort = replace(self._cohort, parts=self._cohort.parts | {"train": ()})

    def reads(self) -> list[str]:
        """Subjects by part, voxels, what was done to labels, classes."""
        return self._cohort.description()

    def data_record(self) -> dict[str, Any]:
        """Kind, split, kind of labels, and files."""
        return self._cohort.record()
