"""Values of a YAML file, checked; errors name the file, the place in it and the key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from psc.errors import DataError


def read_yaml(path: Path) -> Any:
    """The content of a file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def check_keys(
    entry: Any, where: object, *, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """All required keys, and no other than these and the optional ones."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must have the keys {', '.join(required)}")
    known = (*required, *optional)
    for key in entry:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    for key in required:
        if key not in entry:
            raise DataError(f"{where}: the key {key} is missing")


def text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """A value that must be text with something in it."""
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be text, not {value!r}; quote it")
    return value.strip()


def texts(values: Any, where: str) -> tuple[str, ...]:
    """Values that must be a list of texts."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: must be a list of texts, not {values!r}")
    return tuple(values)


def seeds(values: Any, where: str) -> tuple[int, ...]:
    """Values that must be seeds, each once."""
    valid = (
        isinstance(values, list)
        and values
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
        and len(set(values)) == len(values)
    )
    if not valid:
        raise DataError(f"{where}: seeds must be a list of different numbers, not {values!r}")
    return tuple(values)
