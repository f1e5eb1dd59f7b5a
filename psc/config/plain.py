"""A stored configuration, plain containers, back into the typed schema."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.config.schema import (
    AffinityRecipeConfig,
    BackboneConfig,
    DatasetConfig,
    DenseNetConfig,
    FibsemConfig,
    IBSRConfig,
    RecipeConfig,
    ResNetConfig,
    TissueRecipeConfig,
    TrainConfig,
    UCF101Config,
    UNetConfig,
    VideoRecipeConfig,
)
from psc.errors import CheckpointError

TYPES: dict[str, tuple[type[BackboneConfig], type[DatasetConfig], type[RecipeConfig]]] = {
    "unet": (UNetConfig, FibsemConfig, AffinityRecipeConfig),
    "resnet18": (ResNetConfig, UCF101Config, VideoRecipeConfig),
    "resnet34": (ResNetConfig, UCF101Config, VideoRecipeConfig),
    "densenet": (DenseNetConfig, IBSRConfig, TissueRecipeConfig),
    "densenet_bui": (DenseNetConfig, IBSRConfig, TissueRecipeConfig),
}
"""Backbone → types of its own, its data set's and its recipe's configuration."""


def from_plain(plain: Mapping[str, Any], path: Path) -> TrainConfig:
    """The typed configuration that a checkpoint holds.

    Args:
        plain: as ``dataclasses.asdict`` made it.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: if it does not fit the schema of this version of the code.
    """
    try:
        types = TYPES[plain["backbone"]["name"]]
        schema = OmegaConf.structured(TrainConfig)
        for key, kind in zip(("backbone", "dataset", "recipe"), types, strict=True):
            schema[key] = OmegaConf.structured(kind)
        config = OmegaConf.to_object(OmegaConf.merge(schema, dict(plain)))
    except (KeyError, TypeError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"{path} was written by another version of this code: {error}"
        ) from error
    assert isinstance(config, TrainConfig)
    return config
