"""The configuration of scripts/summary.py: a backbone and a block, without data or training."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from psc.config.checks import check_backbone, check_block
from psc.config.compose import CONFIG_DIRECTORY, register
from psc.config.schema import SummaryConfig
from psc.convolutions import AXES
from psc.errors import ConfigError

FORMATS = ("text", "markdown", "json")


def compose_summary(overrides: Sequence[str] = ()) -> SummaryConfig:
    """Compose configs/summary.yaml as ``python scripts/summary.py *overrides`` would.

    Raises:
        ConfigError: if a value cannot work.
        hydra.errors.HydraException: for an unknown group, choice or key.
    """
    register()
    # Within a program of Hydra's its own composition is used: there can be one only.
    running = GlobalHydra.instance().is_initialized()
    with (
        nullcontext()
        if running
        else initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3")
    ):
        return to_summary(hydra_compose("summary", overrides=list(overrides)))


def to_summary(config: DictConfig) -> SummaryConfig:
    """The resolved dataclass of a composed configuration, checked.

    Raises:
        ConfigError: if a value cannot work.
    """
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, SummaryConfig)
    check_block(typed.block)
    check_backbone(typed.backbone, typed.block)
    if typed.format not in FORMATS:
        raise ConfigError(f"format={typed.format}: allowed are {', '.join(FORMATS)}")
    if typed.batch_size < 1:
        raise ConfigError(f"batch_size={typed.batch_size}: must be at least 1")
    if not _is_size(typed.input_size):
        raise ConfigError(
            f"input_size={typed.input_size}: allowed are one size, [D, H, W], or null for the "
            "paper's; sizes are whole numbers from 1 on"
        )
    if typed.into is not None and not typed.table:
        raise ConfigError(f"into={typed.into} needs table=true: only the table has a place there")
    if typed.into is not None and not Path(typed.into).is_file():
        raise ConfigError(f"into={typed.into} is not a file; name the one to change: README.md")
    return typed


def _is_size(value: Any) -> bool:
    if value is None:
        return True
    sizes = value if isinstance(value, list) else [value]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    return whole and len(sizes) in (1, AXES) and min(sizes) >= 1
