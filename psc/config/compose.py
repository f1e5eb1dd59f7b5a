"""From the command line's overrides to a typed, checked configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.config import choices, schema
from psc.config.checks import check_train
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

# ----------------------------------------
# A stored configuration, plain containers, back into the typed schema.


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


CONFIG_DIRECTORY = choices.PROJECT / "configs"


def register() -> None:
    """Make the schema and the machine-dependent choices known to Hydra (idempotent)."""
    choices.register()
    store = ConfigStore.instance()
    for name, node in (
        ("train", schema.TrainConfig),
        ("evaluate", schema.EvaluateConfig),
        ("account", schema.AccountConfig),
        ("unet", schema.UNetConfig),
        ("resnet", schema.ResNetConfig),
        ("densenet", schema.DenseNetConfig),
        ("fibsem", schema.FibsemConfig),
        ("affinity_recipe", schema.AffinityRecipeConfig),
        ("ucf101", schema.UCF101Config),
        ("video_recipe", schema.VideoRecipeConfig),
        ("ibsr", schema.IBSRConfig),
        ("tissue_recipe", schema.TissueRecipeConfig),
        ("segment", schema.SegmentConfig),
        ("view", schema.ViewConfig),
    ):
        store.store(group="schema", name=name, node=node)


def to_typed(config: DictConfig) -> TrainConfig:
    """The resolved dataclass of a composed configuration, checked.

    Raises:
        ConfigError: if a value or a combination cannot work.
    """
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    check_train(typed)
    return typed


def compose(overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose configs/train.yaml as ``python train.py *overrides`` would.

    Args:
        overrides: as typed on the command line, e.g. ``["block=p1sc1", "seed=3"]``.

    Raises:
        ConfigError: if a value or a combination cannot work.
        hydra.errors.HydraException: for an unknown group, choice or key.
    """
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return to_typed(hydra_compose("train", overrides=list(overrides)))
