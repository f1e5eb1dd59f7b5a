"""The slice that a panel of Figure 5 or 6 shows, small enough to be committed.

``slices.npz`` holds the pixels, ``provenance.json`` says what they are of: data, runs, their
records and scores, and the checksum of the former. ``scripts/paper.py picture`` writes both, so
that a fresh clone draws the figures without any data. A changed file is refused; that guards
against slips, not against forgers.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.files import replacing
from psc.paper.groups import Group, comparable
from psc.paper.measures import Measures, measures_of
from psc.paper.text import block_label
from psc.training.records import FILE_NAME, SAMPLE, SEAL, Record, read_record, seal_of, shared
from psc.volumes import output

PIXELS = "slices.npz"
PROVENANCE = "provenance.json"
LARGEST = 1_000_000
"""Bytes that the pixels may take in the repository."""

SCHEMA_VERSION = 1

_Labels = npt.NDArray[np.unsignedinteger[Any]]
_REMEDY = "restore both with git, or write them again with scripts/paper.py picture"


@dataclass(frozen=True)
class Run:
    """A finished run whose prediction is shown."""

    label: str  # what its panel is called, such as 3D
    folder: Path  # where its volumes are
    record: Record  # its numbers


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice: what went in, what was wanted, and what each run made of it."""

    raw: npt.NDArray[np.uint8]  # uint8 (H, W)
    truth: _Labels  # labels (H, W); bodies are numbered together with those of ``predictions``
    # labels (H, W) by panel title; the first run is the one compared with
    predictions: Mapping[str, _Labels]
    difference: npt.NDArray[np.float16]  # float16 (H, W), at least 0: how much the runs differ here
    provenance: Mapping[str, Any]  # what is shown; see ``run_entry`` and ``psc.paper.panels``


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], Measures]:
    """Records of the runs that a figure is to compare, and what they are scored by.

    Refused: fewer than two, two of one block, unfinished ones, and runs of different tests.
    """
    if len(folders) < 2:
        raise ConfigError(f"a picture compares at least two runs, found {len(folders)}; name both")
    records = [read_record(folder / FILE_NAME) for folder in folders]
    labels = [block_label(record.config["block"]["name"]) for record in records]
    if len(set(labels)) < len(labels):
        raise ConfigError(
            f"runs of {', '.join(labels)}: a panel for each block, so one run of each"
        )
    tests = comparable([Group((record,)) for record in records])
    if len(tests) > 1:
        apart = tests[1][0].first
        raise DataError(
            f"{records[0].run} and {apart.run} were tested on different data, or in different ways;"
            " a picture compares runs of one test"
        )
    runs = [Run(*each) for each in zip(labels, folders, records, strict=True)]
    return runs, measures_of(records[0])


def run_entry(run: Run, scores: Mapping[str, float]) -> dict[str, Any]:
    """What the provenance says of a run; ``scores``: those that its panel quotes."""
    record = run.record
    return {
        "label": run.label,
        "run": record.run,
        "record": shared(record).seal,
        "commit": record.git.get("commit"),
        "iterations": record.iterations,
        "parameters": record.parameters,
        "scores": dict(scores),
    }


def read_volumes(path: Path, *names: str) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
    """Volumes that an evaluation in EM has left, and the attributes of the raw one."""
    try:
        with h5py.File(path) as file:
            return {name: file[name][:] for name in names}, dict(file[output.RAW].attrs)
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path} is damaged or no evaluation's file ({error}); evaluate.py writes it again"
        ) from error


def data_note(about: Mapping[str, Any]) -> str:
    """Whose data, of which kind, and how long was trained on it: the beginning of a caption."""
    trained = {run["label"]: f"{run['iterations']:,}" for run in about["runs"]}
    if len(set(trained.values())) == 1:
        iterations = next(iter(trained.values()))
    else:
        iterations = ", ".join(f"{label} {count}" for label, count in trained.items())
    kind = "real sample, reduced protocol" if about["kind"] == SAMPLE else about["kind"]
    return f"{about['attribution']}; {kind}, {iterations} iterations."


def smallest(labels: npt.NDArray[np.integer[Any]]) -> _Labels:
    """The same labels in the narrowest unsigned dtype that holds them."""
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that has a picture already; a look before a slice is searched for."""
    there = [folder / name for name in (PIXELS, PROVENANCE) if (folder / name).exists()]
    if there and not overwrite:
        raise ConfigError(f"{there[0]} exists; --overwrite replaces it")


def write_picture(picture: Picture, folder: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write a picture's pixels and provenance, each completely or not at all.

    A kill between the two leaves pixels that do not fit their provenance, which reading refuses.
    """
    check_free(folder, overwrite=overwrite)
    pixels, provenance = folder / PIXELS, folder / PROVENANCE
    arrays = {
        "raw": picture.raw,
        "truth": picture.truth,
        "difference": picture.difference,
        **{f"prediction_{i}": labels for i, labels in enumerate(picture.predictions.values())},
    }
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    content = file.getvalue()
    if len(content) > LARGEST:
        raise DataError(
            f"{pixels} would take {len(content):,} bytes, more than {LARGEST:,}; show a smaller"
            " slice, or fewer runs"
        )
    about = {
        **picture.provenance,
        "schema_version": SCHEMA_VERSION,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    about[SEAL] = seal_of(about)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(provenance) as about_file, replacing(pixels) as pixels_file:
            pixels_file.write_bytes(content)
            about_file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}") from error
    return pixels, provenance


def read_picture(folder: Path) -> Picture:
    """Read and check a picture."""
    about = _read_provenance(folder / PROVENANCE)
    pixels = folder / PIXELS
    try:
        content = pixels.read_bytes()
    except OSError as error:
        raise DataError(f"{pixels} cannot be read: {error.strerror}; {_REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise DataError(f"{pixels} is not the file that {PROVENANCE} describes; {_REMEDY}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names = [run["label"] for run in about["runs"]]
        predictions = {name: arrays[f"prediction_{i}"] for i, name in enumerate(names)}
        return Picture(arrays["raw"], arrays["truth"], predictions, arrays["difference"], about)


def _read_provenance(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {_REMEDY}") from error
    found = about.get("schema_version") if isinstance(about, dict) else None
    if found != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}; {_REMEDY}"
        )
    assert isinstance(about, dict)
    if about.get(SEAL) != seal_of(about):
        raise DataError(f"{path} was changed after it was written; {_REMEDY}")
    return about
