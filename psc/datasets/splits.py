"""From a data set's configuration to regions in memory, and what a record says about them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psc.config.choices import PROJECT
from psc.config.schema import FibsemConfig, SlabConfig
from psc.datasets.regions import Region, check_disjoint
from psc.datasets.synthetic import write_synthetic_volume
from psc.datasets.volumes import Volume, read_volume
from psc.errors import DataError

REAL, SAMPLE, SYNTHETIC = "real", "real sample", "synthetic"
"""Kinds of data; only the first may fill a cell of the paper's tables."""


@dataclass(frozen=True)
class Splits:
    """Regions to train on, to choose on, and to test on.

    Attributes:
        train: regions for gradient steps.
        validation: regions for checkpoints and thresholds.
        test: regions for the reported numbers.
        kind: "real", "real sample" or "synthetic".
        files: name, bytes and sha256 of every file read.
    """

    train: tuple[Region, ...]
    validation: tuple[Region, ...]
    test: tuple[Region, ...]
    kind: str
    files: tuple[Mapping[str, Any], ...]

    def record(self) -> dict[str, Any]:
        """What result.json says about the data."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "kind": self.kind,
            "splits": {name: [str(region) for region in part] for name, part in parts.items()},
            "files": [dict(file) for file in self.files],
        }


def locate(path: str) -> Path:
    """A configured path as a path: ``$VARIABLE`` expanded, relative ones tried from the checkout.

    Raises:
        DataError: if an environment variable is not set.
    """
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise DataError(f"{path}: the environment variable is not set; export it, or give a path")
    found = Path(expanded).expanduser()
    if not found.is_absolute() and not found.exists():
        return PROJECT / found
    return found


def prepare_synthetic(config: FibsemConfig) -> None:
    """Write the data set's synthetic volumes where they are not on disk yet."""
    for slab in (*config.train, *config.validation, *config.test):
        if slab.synthetic is not None:
            depth, height, width = slab.synthetic.shape
            write_synthetic_volume(locate(slab.raw), (depth, height, width), slab.synthetic.seed)


def read_splits(config: FibsemConfig) -> Splits:
    """Read every volume once and cut it into the configured slabs.

    Raises:
        DataError: for files that are missing, damaged or without labels.
        ConfigError: for slabs outside their volume, or data shared between splits.
    """
    volumes: dict[tuple[Any, ...], Volume] = {}

    def region(slab: SlabConfig) -> Region:
        key = (slab.raw, slab.labels, slab.raw_key, slab.labels_key)
        if key not in volumes:
            volumes[key] = _read(slab, config)
        start, stop = slab.z or (0, None)
        return Region(volumes[key], start, stop, raw_context=config.context_across_border)

    def regions(slabs: Sequence[SlabConfig]) -> tuple[Region, ...]:
        return tuple(region(slab) for slab in slabs)

    train, validation, test = map(regions, (config.train, config.validation, config.test))
    check_disjoint({"train": train, "validation": validation, "test": test})
    synthetic = any(volume.synthetic for volume in volumes.values())
    kind = SYNTHETIC if synthetic else SAMPLE if config.sample else REAL
    files = {file["sha256"]: file for volume in volumes.values() for file in volume.files}
    return Splits(train, validation, test, kind, tuple(files.values()))


def _read(slab: SlabConfig, config: FibsemConfig) -> Volume:
    raw = locate(slab.raw)
    if not raw.exists():
        raise DataError(
            f"{raw} does not exist (dataset={config.name}). data/README.md says how to get the "
            "data; dataset=fibsem_sample uses the sample in $PSC_SAMPLE_DATA, "
            "dataset=fibsem_synthetic needs no data"
        )
    volume = read_volume(
        raw,
        locate(slab.labels) if slab.labels is not None else None,
        raw_key=slab.raw_key,
        labels_key=slab.labels_key,
    )
    if volume.labels is None:
        raise DataError(
            f"{raw} has no labels; set dataset.*.labels and labels_key to where they are"
        )
    if volume.voxel_size is None and config.voxel_size is not None:
        z, y, x = config.voxel_size
        volume = replace(volume, voxel_size=(z, y, x))
    return volume
