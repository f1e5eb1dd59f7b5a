"""From the command line's overrides to a typed, checked configuration."""

from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from psc.config import choices, schema
from psc.config.checks import check_train
from psc.config.schema import TrainConfig

CONFIG_DIRECTORY = choices.PROJECT / "configs"


def register() -> None:
    """Make the schema and the machine-dependent choices known to Hydra (idempotent)."""
    choices.register()
    store = ConfigStore.instance()
    for name, node in (
        ("train", schema.TrainConfig),
        ("evaluate", schema.EvaluateConfig),
        ("summary", schema.SummaryConfig),
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
