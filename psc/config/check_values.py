"""What every check says when a value cannot work: the key, the value found, the values allowed."""

from collections.abc import Collection, Sequence
from typing import Any

from psc.errors import ConfigError


def require(key: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuse a choice that there is not."""
    if value not in allowed:
        names = ", ".join(str(choice).lower() for choice in allowed)
        raise ConfigError(f"{key}={value}: allowed are {names}")


def at_least(key: str, value: int, minimum: int) -> None:
    """Refuse a number that is too small."""
    if value < minimum:
        raise ConfigError(f"{key}={value}: must be at least {minimum}")


def interval(key: str, value: Sequence[float]) -> None:
    """Refuse what is no interval."""
    if len(value) != 2 or value[0] > value[1]:
        raise ConfigError(f"{key}={list(value)}: must be [low, high] with low ≤ high")
