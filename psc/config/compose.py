"""From the command line's overrides, or from a checkpoint, to a typed, checked configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.config import choices, schema
from psc.config.choices import CONFIG_DIRECTORY as CONFIG_DIRECTORY
from psc.config.overrides import as_hydra_reads
from psc.config.schema import DenseNetConfig, ResNetConfig, TrainConfig, UNetConfig
from psc.em.affinities import NEAREST
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.errors import CheckpointError, ConfigError
from psc.mri.settings import IBSRConfig, OwnMRIConfig, TissueRecipeConfig
from psc.training.settings import DatasetConfig, RecipeConfig
from psc.video.settings import OwnVideoConfig, UCF101Config, VideoRecipeConfig

_Parts = tuple[type[schema.BackboneConfig], type[RecipeConfig], tuple[type[DatasetConfig], ...]]
_EM: _Parts = (UNetConfig, AffinityRecipeConfig, (FibsemConfig,))
_VIDEO: _Parts = (ResNetConfig, VideoRecipeConfig, (UCF101Config, OwnVideoConfig))
_MRI: _Parts = (DenseNetConfig, TissueRecipeConfig, (IBSRConfig, OwnMRIConfig))
TYPES = {
    "unet": _EM,
    "resnet18": _VIDEO,
    "resnet34": _VIDEO,
    "densenet": _MRI,
    "densenet_bui": _MRI,
}
"""Backbone → types of its own, its recipe's and its data sets' configurations."""

_PROGRAMS = ("Train", "Evaluate", "Segment", "Classify", "Account", "View")


@cache
def register() -> None:
    """Make the tree and the machine-dependent choices known to Hydra, once."""
    choices.register()
    store = ConfigStore.instance()
    programs = {getattr(schema, f"{name}Config") for name in _PROGRAMS}
    for kind in programs.union(*((*parts[:2], *parts[2]) for parts in TYPES.values())):
        name = kind.__name__.removesuffix("Config").lower().replace("recipe", "_recipe")
        store.store(group="schema", name=name, node=kind)


def compose(overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose configs/train.yaml as ``python train.py *overrides`` would.

    ConfigError is raised if a value or a combination cannot work, Hydra's own for unknown keys.
    """
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return to_typed(hydra_compose("train", overrides=as_hydra_reads(overrides)))


def from_arguments(kind: type, arguments: Sequence[str]) -> Any:
    """The dataclass of a program that has no file in ``configs/``, from its command line."""
    node = OmegaConf.structured(kind)
    for override in OverridesParser.create().parse_overrides(as_hydra_reads(arguments, kind)):
        if override.type is not OverrideType.CHANGE or override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: give one value, as key=value")
        OmegaConf.update(node, override.key_or_group, override.value())
    return typed_node(node)


def to_typed(config: DictConfig) -> TrainConfig:
    """The dataclass of a composed configuration, checked as a whole."""
    typed = typed_node(config)
    assert isinstance(typed, TrainConfig)
    _count_outputs(typed)
    # Not above: it builds networks, and a wrong key is to be refused before torch is loaded.
    from psc.config.checks import check_train

    check_train(typed)
    return typed


def _count_outputs(config: TrainConfig) -> None:
    """What the network must tell apart, where nothing says how much that is."""
    backbone, outputs = config.backbone, config.dataset.outputs()
    if isinstance(backbone, UNetConfig) and backbone.out_channels is None:
        backbone.out_channels = len(getattr(config.recipe, "offsets", NEAREST))
    elif isinstance(backbone, DenseNetConfig | ResNetConfig) and backbone.classes is None:
        count = getattr(config.dataset, "classes", None) if outputs is None else len(outputs)
        backbone.classes = count


def typed_node(node: Container, key: str = "") -> Any:
    """The object of a node; whatever is impossible in it is refused by its whole key."""
    refuse_unread(node, key)
    names = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        if not OmegaConf.is_missing(node, name) and isinstance(child := node[name], Container):
            below = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}".lstrip(".")
            typed_node(child, below)
    try:
        return OmegaConf.to_object(node)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}" if key else str(error)) from error


def refuse_unread(node: Container, key: str) -> None:
    """Refuse keys that a node's dataclass lacks, which ``+key=…`` adds: nothing reads them."""
    if is_dataclass(kind := OmegaConf.get_type(node)):
        known = sorted(field.name for field in fields(kind))
        for name in sorted(set(map(str, node)) - set(known)):
            whole = f"{key}.{name}".lstrip(".")
            raise ConfigError(
                f"{whole}: nothing reads this key; known keys there: {', '.join(known)}"
            )


def from_plain(plain: Mapping[str, Any], path: Path) -> TrainConfig:
    """The typed configuration that a checkpoint holds, as ``dataclasses.asdict`` made it."""
    try:
        backbone, recipe, datasets = TYPES[plain["backbone"]["name"]]
        own = plain["dataset"].keys()
        fitting = (kind for kind in datasets if own <= {field.name for field in fields(kind)})
        dataset = next(fitting, datasets[0])
        tree = OmegaConf.structured(TrainConfig)
        for key, kind in (("backbone", backbone), ("dataset", dataset), ("recipe", recipe)):
            tree[key] = OmegaConf.structured(kind)
        config = typed_node(OmegaConf.merge(tree, dict(plain)))
    except (KeyError, TypeError, ValueError, AttributeError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"{path} was written by another version of this code: {error}"
        ) from error
    assert isinstance(config, TrainConfig)
    _count_outputs(config)
    return config
