"""The record that a run leaves: ``result.json``, written once, atomically, when all is done.

A record is sealed: it holds the SHA-256 of its own content, and one whose content has changed since
is refused. The seal guards against slips (a number edited by hand, a merge gone wrong), not against
forgers: whoever can run this code can seal anything.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from psc.errors import DataError
from psc.files import write_json
from psc.training.settings import DatasetConfig

FILE_NAME = "result.json"

SCHEMA_VERSION = 2
"""1: without a seal."""

SEAL = "seal"
"""Key of the seal in the file."""

REAL, SAMPLE, SYNTHETIC, OWN = "real", "real sample", "synthetic", "own"
"""Kinds of data; only the first may fill a cell of the paper's tables."""


def kind_of(dataset: DatasetConfig, *, synthetic: bool, own: bool) -> str:
    """The kind of data that a data set is of."""
    published = SAMPLE if getattr(dataset, "sample", False) else REAL
    return SYNTHETIC if synthetic else OWN if own else published


@dataclass(frozen=True)
class Record:
    """One run's result with everything needed to trust or repeat it."""

    run: str  # name of the run folder
    config: dict[str, Any]  # resolved, plain containers
    metrics: dict[str, Any]  # numbers by name; VI in bits (see ``psc.metrics``)
    parameters: int  # learnable ones of the network
    iterations: int  # how many were trained, not how many were asked for
    # of the training, all attempts of a resumed run together, and of the evaluation
    wall_seconds: dict[str, float]
    throughput: dict[str, float | None]  # see ``psc.training.callbacks.Throughput``
    seed: int  # of weights and patches
    data: dict[str, Any]  # kind ("real", "real sample", "synthetic"); files with size and sha256
    git: dict[str, Any]  # commit, and whether the checkout had changes
    versions: dict[str, str | None]  # of Python and packages
    hardware: dict[str, Any]  # device, processor, cores; of a training its processes, one a device
    finished: str  # when, ISO 8601, UTC
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def seal(self) -> str:
        """The seal that fits this content."""
        return seal_of(asdict(self))


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record's content, as hex digits.

    Of its JSON with sorted keys and without spaces, so that neither the order of keys nor the
    layout of the file counts; a seal in ``content`` is left out.
    """
    as_read = json.loads(json.dumps(content))  # keys become text before they are sorted
    as_read.pop(SEAL, None)
    text = json.dumps(as_read, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def shared(record: Record) -> Record:
    """A record as it is committed: without the places where its files lay on a machine."""
    config = {**record.config, "output_directory": "runs"}
    if config.get("initial_weights") is not None:
        config["initial_weights"] = Path(config["initial_weights"]).name
    return replace(record, config=config)


def write_record(record: Record, folder: Path) -> Path:
    """Seal a record and write ``folder/result.json`` atomically; returns its path."""
    return write_json({**asdict(record), SEAL: record.seal}, folder / FILE_NAME)


def read_record(path: Path) -> Record:
    """Read a result.json, or that of a run folder; any other or changed content is refused."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no record at {path}: the run has not finished") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); it was not written by train.py") from error
    _check_version(content, path)
    seal = content.pop(SEAL, None)
    try:
        record = Record(**content)
    except TypeError as error:
        raise DataError(f"{path} is not a complete record: {error}") from error
    if seal is None:
        raise DataError(f"{path} has no seal: it was not written by train.py or evaluate.py")
    if seal != seal_of(content):
        raise DataError(
            f"the seal of {path} does not fit its content: it was edited by hand. Restore it "
            "(git checkout -- the file) or run it again"
        )
    return record


def _check_version(content: Any, path: Path) -> None:
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found == SCHEMA_VERSION:
        return
    message = f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}; "
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise DataError(f"{message}it is of newer code: update this checkout (git pull)")
    git = content.get("git") if isinstance(content, dict) else None
    commit = git.get("commit") if isinstance(git, dict) else None
    which = f"commit {commit}" if commit else "its git commit is in the file"
    raise DataError(f"{message}use the code version that wrote it ({which})")


def over_attempts(seconds: Iterable[float]) -> list[float]:
    """A clock's readings as those of one that goes on; in older files each attempt began at 0."""
    found: list[float] = []
    before = previous = 0.0
    for reading in seconds:
        if reading < previous:
            before += previous
        previous = reading
        found.append(round(before + reading, 3))
    return found
