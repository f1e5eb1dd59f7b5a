"""From the command line's overrides, or from a checkpoint, to a typed, checked configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.config import choices, schema
from psc.config.schema import DenseNetConfig, ResNetConfig, TrainConfig, UNetConfig
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.errors import CheckpointError, ConfigError
from psc.files import PROJECT
from psc.mri.settings import IBSRConfig, TissueRecipeConfig
from psc.training.settings import DatasetConfig, RecipeConfig
from psc.video.settings import UCF101Config, VideoRecipeConfig

CONFIG_DIRECTORY = PROJECT / "configs"

_Parts = tuple[type[schema.BackboneConfig], type[DatasetConfig], type[RecipeConfig]]
_EM: _Parts = (UNetConfig, FibsemConfig, AffinityRecipeConfig)
_VIDEO: _Parts = (ResNetConfig, UCF101Config, VideoRecipeConfig)
_MRI: _Parts = (DenseNetConfig, IBSRConfig, TissueRecipeConfig)
TYPES = {
    "unet": _EM,
    "resnet18": _VIDEO,
    "resnet34": _VIDEO,
    "densenet": _MRI,
    "densenet_bui": _MRI,
}
"""Backbone → types of its own, its data set's and its recipe's configuration."""

_PROGRAMS = ("Train", "Evaluate", "Segment", "Account", "View")


def register() -> None:
    """Make the tree and the machine-dependent choices known to Hydra (idempotent)."""
    choices.register()
    store = ConfigStore.instance()
    programs = {getattr(schema, f"{name}Config") for name in _PROGRAMS}
    for kind in programs.union(*TYPES.values()):
        name = kind.__name__.removesuffix("Config").lower().replace("recipe", "_recipe")
        store.store(group="schema", name=name, node=kind)


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


def to_typed(config: DictConfig) -> TrainConfig:
    """The dataclass of a composed configuration, checked as a whole."""
    typed = typed_node(config)
    assert isinstance(typed, TrainConfig)
    # Not above: it builds networks, and a wrong key is to be refused before torch is loaded.
    from psc.config.checks import check_train

    check_train(typed)
    return typed


def typed_node(node: Container, key: str = "") -> Any:
    """The object of a node; whatever is impossible in it is refused by its whole key."""
    names = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        if not OmegaConf.is_missing(node, name) and isinstance(child := node[name], Container):
            below = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}".lstrip(".")
            typed_node(child, below)
    try:
        return OmegaConf.to_object(node)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}" if key else str(error)) from error


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
        tree = OmegaConf.structured(TrainConfig)
        for key, kind in zip(("backbone", "dataset", "recipe"), types, strict=True):
            tree[key] = OmegaConf.structured(kind)
        config = typed_node(OmegaConf.merge(tree, dict(plain)))
    except (KeyError, TypeError, ConfigError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"{path} was written by another version of this code: {error}"
        ) from error
    assert isinstance(config, TrainConfig)
    return config
