"""Configuration: schema, machine-dependent choices, checks, composition."""

from psc.config.compose import compose, register, to_typed
from psc.config.schema import EvaluateConfig, SegmentConfig, TrainConfig

__all__ = ["EvaluateConfig", "SegmentConfig", "TrainConfig", "compose", "register", "to_typed"]
