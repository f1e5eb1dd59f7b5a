"""Configuration: schema, machine-dependent choices, checks, composition."""

from psc.config.compose import compose, register, to_typed
from psc.config.schema import EvaluateConfig, TrainConfig

__all__ = ["EvaluateConfig", "TrainConfig", "compose", "register", "to_typed"]
