"""What tissue segmentation may be told (``psc.training.settings`` says how)."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from psc.errors import ConfigError
from psc.mri.augmentation import TissueAugmentation
from psc.training.settings import DatasetConfig, RecipeConfig, at_least, require, share

TISSUE_LOSSES = ("cross_entropy", "dice", "dice_cross_entropy")


@dataclass
class SyntheticBrainsConfig:
    """Phantoms that ``psc.mri.synthetic`` writes where ``dataset.folder`` says."""

    subjects: int = 18
    seed: int = 0
    """Subject n of a seed is the same, however many there are."""

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        if not 1 <= self.subjects <= 99:
            raise ConfigError(f"subjects={self.subjects}: must lie in [1, 99]")


@dataclass
class IBSRConfig(DatasetConfig):
    """T1 volumes with tissue labels, one folder of NIfTI files: ``psc.mri``."""

    folder: str = MISSING
    split: str = MISSING
    """File that says which subjects train, validate and test."""
    folds: int | None = None
    """Cross-validation instead of the file: cut the labelled subjects into this many test parts."""
    fold: int = 0
    validation_subjects: int = 2
    """Of a cross-validation; the file has its own."""
    fold_seed: int = 0
    labels: str = "given"
    """given: as they are in their files; filled, unfilled: IBSR's kinds, see ``psc.mri.data``."""
    voxel_size: list[float] | None = None
    """Resample to so many mm (right, anterior, superior); null: as the files are."""
    brain_above: float | None = None
    """Brighter voxels are brain; null: those that differ from the background."""
    synthetic: SyntheticBrainsConfig | None = None
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""

    def __post_init__(self) -> None:
        require(self, "labels", ("given", "filled", "unfilled"))
        voxel = self.voxel_size
        if voxel is not None and not (len(voxel) == 3 and min(voxel) > 0):
            raise ConfigError(f"voxel_size={voxel}: must be three positive mm, or null")
        if self.folds is not None:
            at_least(self, 2, "folds")
            at_least(self, 1, "validation_subjects")
            if not 0 <= self.fold < self.folds:
                raise ConfigError(f"fold={self.fold}: must lie in [0, {self.folds}), the folds")


@dataclass
class TissueRecipeConfig(RecipeConfig):
    """Tissues in brain MRI: ``psc.mri.task``; windows: ``psc.mri.testing``."""

    patch_size: int = 64
    foreground_share: float = 1.0
    """Share of patches that are centred in the brain; the others anywhere in the volume."""
    loss: str = "cross_entropy"
    validation_patches: int = 32
    overlap: float = 0.5
    """Of the windows of ``patch_size`` that a whole volume is predicted in."""
    blending: str = "gaussian"
    evaluation_batch_size: int = 4
    augmentation: TissueAugmentation = field(
        default_factory=lambda: TissueAugmentation(reflections=(False, False, False))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "loss", TISSUE_LOSSES)
        require(self, "blending", ("constant", "gaussian"))
        at_least(self, 1, "patch_size", "validation_patches", "evaluation_batch_size")
        share(self, "foreground_share")
        share(self, "overlap", whole=False)

    def sample_shape(self, network: Any) -> tuple[int, ...]:
        """(1, 1, D, H, W) of a training patch."""
        return (1, 1, *(network.fitting("recipe.patch_size", self.patch_size),) * 3)
