"""Ranges and combinations of a data set's configuration, checked before any data is read."""

from collections.abc import Sequence
from itertools import combinations

from psc.config.check_values import at_least, require
from psc.config.schema import (
    DatasetConfig,
    FibsemConfig,
    IBSRConfig,
    SlabConfig,
    UCF101Config,
)
from psc.errors import ConfigError


def check_dataset(dataset: DatasetConfig) -> None:
    """Ranges and choices; slabs of EM volumes well-formed and disjoint between splits.

    Raises:
        ConfigError: naming the key, or the split and the slab.
    """
    if isinstance(dataset, UCF101Config):
        require("dataset.split", dataset.split, (1, 2, 3))
        for key, minimum in (("classes", 2), ("validation_groups", 1), ("short_side", 1)):
            at_least(f"dataset.{key}", getattr(dataset, key), minimum)
    if isinstance(dataset, IBSRConfig):
        _check_ibsr(dataset)
    if isinstance(dataset, FibsemConfig):
        _check_fibsem(dataset)


def _check_ibsr(dataset: IBSRConfig) -> None:
    require("dataset.labels", dataset.labels, ("filled", "unfilled"))
    voxel = dataset.voxel_size
    if voxel is not None and not (len(voxel) == 3 and min(voxel) > 0):
        raise ConfigError(f"dataset.voxel_size={voxel}: must be three positive mm, or null")
    if dataset.folds is not None:
        at_least("dataset.folds", dataset.folds, 2)
        at_least("dataset.validation_subjects", dataset.validation_subjects, 1)
        if not 0 <= dataset.fold < dataset.folds:
            raise ConfigError(
                f"dataset.fold={dataset.fold}: must lie in [0, {dataset.folds}), the number of "
                "dataset.folds"
            )


def _check_fibsem(dataset: FibsemConfig) -> None:
    require("dataset.zero_label", dataset.zero_label, ("ignore", "boundary"))
    at_least("dataset.boundary_thickness", dataset.boundary_thickness, 0)
    bounds = dataset.intensity_range
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ConfigError(
            f"dataset.intensity_range={bounds}: must be [low, high] with low < high, or null"
        )
    voxel = dataset.voxel_size
    if voxel is not None and not (len(voxel) == 3 and min(voxel) > 0):
        raise ConfigError(f"dataset.voxel_size={voxel}: must be three positive nm, or null")
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, slabs in splits.items():
        if not slabs:
            raise ConfigError(f"dataset.{name} is empty: name at least one volume or slab")
        for i, slab in enumerate(slabs):
            _check_slab(f"dataset.{name}[{i}]", slab)
    for (name, slabs), (other, others) in combinations(splits.items(), 2):
        for a in slabs:
            for b in others:
                if a.raw == b.raw and a.raw_key == b.raw_key and _overlap(a.z, b.z):
                    raise ConfigError(
                        f"dataset.{name} and dataset.{other} overlap: both hold {a.raw}, "
                        f"z={a.z} and z={b.z}; give them slabs that share no slice"
                    )


def _check_slab(key: str, slab: SlabConfig) -> None:
    if slab.z is not None and not (len(slab.z) == 2 and 0 <= slab.z[0] < slab.z[1]):
        raise ConfigError(f"{key}.z={slab.z}: must be [start, stop] with 0 ≤ start < stop")
    synthetic = slab.synthetic
    if synthetic is not None and (len(synthetic.shape) != 3 or min(synthetic.shape) < 1):
        raise ConfigError(f"{key}.synthetic.shape={synthetic.shape}: must be three sizes ≥ 1")


def _overlap(a: Sequence[int] | None, b: Sequence[int] | None) -> bool:
    """Whether two ranges [start, stop) share a slice; None is the whole volume."""
    return a is None or b is None or (a[0] < b[1] and b[0] < a[1])
