"""Backbones and blocks by the names that ``train.py`` takes: the files of ``configs/``."""

from collections.abc import Sequence
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, SCMode

from psc.config.compose import CONFIG_DIRECTORY, register
from psc.config.schema import BackboneConfig, BlockConfig
from psc.errors import ConfigError

__all__ = ["BLOCKS", "PEER", "backbone_configuration", "block_configuration", "with_peer"]

PEER = "3d"
"""The block of the original networks, with which all others are compared."""

BLOCKS = (PEER, "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2")
"""The blocks of the paper's tables, and more streams."""


@cache
def backbone_configuration(name: str) -> BackboneConfig:
    """``configs/backbone/<name>.yaml``.

    Raises:
        ConfigError: if there is no such file; those that there are are named.
    """
    found = _compose("backbone", name)
    assert isinstance(found, BackboneConfig)
    return found


@cache
def block_configuration(name: str) -> BlockConfig:
    """``configs/block/<name>.yaml``.

    Raises:
        ConfigError: if there is no such file; those that there are are named.
    """
    found = _compose("block", name)
    assert isinstance(found, dict)
    return BlockConfig(**found)


def with_peer(blocks: Sequence[str]) -> list[str]:
    """The blocks, each once and the peer first: ratios need it."""
    return [PEER, *(block for block in dict.fromkeys(blocks) if block != PEER)]


def _compose(group: str, name: str) -> object:
    known = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{group} {name}: there are {', '.join(known)}")
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = compose(f"{group}/{name}")
    return OmegaConf.to_container(
        config[group], resolve=True, structured_config_mode=SCMode.INSTANTIATE
    )
