"""The augmentations that recipes describe; refused where a value cannot work."""

from collections.abc import Iterator
from contextlib import contextmanager

from psc.config.schema import AugmentationConfig, TissueAugmentationConfig
from psc.datasets.em_augmentation import Deformation, SectionDefects
from psc.datasets.mri.augmentation import TissueAugmentation
from psc.datasets.transforms import Augmentation
from psc.errors import ConfigError

__all__ = ["build_affinity_augmentation", "build_tissue_augmentation"]


def build_affinity_augmentation(config: AugmentationConfig) -> Augmentation:
    """The augmentation of EM patches.

    Raises:
        ConfigError: if a value is impossible.
    """
    moving, defects = config.deformation, config.defects
    # Lists of another length than the tuples' are refused by the classes themselves.
    with _keys_below("recipe.augmentation.deformation."):
        deformation = Deformation(
            spacing=tuple(moving.spacing),  # type: ignore[arg-type]
            jitter=tuple(moving.jitter),  # type: ignore[arg-type]
            rotation=moving.rotation,
            offset=moving.offset,
            slip=moving.slip,
            shift=moving.shift,
        )
    with _keys_below("recipe.augmentation.defects."):
        section_defects = SectionDefects(
            missing=defects.missing,
            low_contrast=defects.low_contrast,
            contrast=tuple(defects.contrast),  # type: ignore[arg-type]
            blur=defects.blur,
            blur_sd=defects.blur_sd,
        )
    with _keys_below("recipe.augmentation: "):
        return Augmentation(
            reflections=config.reflections,
            axis_swaps=config.axis_swaps,  # type: ignore[arg-type]  # checked by the class
            contrast=(config.contrast[0], config.contrast[1]),
            brightness=(config.brightness[0], config.brightness[1]),
            deformation=deformation,
            defects=section_defects,
        )


def build_tissue_augmentation(config: TissueAugmentationConfig) -> TissueAugmentation:
    """The augmentation of MRI patches.

    Raises:
        ConfigError: if a value is impossible.
    """
    right, anterior, superior = config.reflections
    return TissueAugmentation(
        reflections=(right, anterior, superior),
        rotation=config.rotation,
        scaling=(config.scaling[0], config.scaling[1]),
        contrast=(config.contrast[0], config.contrast[1]),
        brightness=(config.brightness[0], config.brightness[1]),
        noise=config.noise,
    )


@contextmanager
def _keys_below(prefix: str) -> Iterator[None]:
    """Complete the keys that messages begin with."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
