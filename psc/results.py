"""The record that a run leaves: ``result.json``, written once, atomically, when all is done."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psc.errors import DataError

FILE_NAME = "result.json"

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Record:
    """One run's result with everything needed to trust or repeat it.

    Attributes:
        run: name of the run folder.
        config: the resolved configuration, plain containers.
        metrics: numbers by name; VI in bits (see ``psc.metrics``).
        parameters: learnable parameters of the network.
        iterations: how many were trained (not how many were asked for).
        wall_seconds: of the training, all attempts of a resumed run together, and of the
            evaluation.
        throughput: see ``psc.callbacks.Throughput``.
        seed: of weights and patches.
        data: kind ("real", "real sample" or "synthetic") and files with size and sha256.
        git: commit and whether the checkout had changes.
        versions: of Python and packages.
        hardware: device, processor, cores.
        finished: when, ISO 8601, UTC.
    """

    run: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    parameters: int
    iterations: int
    wall_seconds: dict[str, float]
    throughput: dict[str, float | None]
    seed: int
    data: dict[str, Any]
    git: dict[str, Any]
    versions: dict[str, str | None]
    hardware: dict[str, Any]
    finished: str
    schema_version: int = field(default=SCHEMA_VERSION)


def write_record(record: Record, folder: Path) -> Path:
    """Write ``folder/result.json`` atomically; returns its path."""
    return write_json(asdict(record), folder / FILE_NAME)


def write_json(content: Any, path: Path) -> Path:
    """Write JSON to a temporary name beside ``path``, then rename."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    partial.replace(path)
    return path


def read_record(path: Path) -> Record:
    """Read a result.json.

    Args:
        path: the file, or the run folder that holds it.

    Raises:
        DataError: if it is missing, not JSON, of a newer schema, or lacks a field.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"no record at {path}: the run has not finished") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); it was not written by train.py") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}; use the code "
            "version that wrote it (its git commit is in the file)"
        )
    try:
        return Record(**content)
    except TypeError as error:
        raise DataError(f"{path} is not a complete record: {error}") from error
