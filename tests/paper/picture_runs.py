"""Finished runs of a few voxels: a record, and the volumes or curves that an evaluation leaves."""

import copy
from dataclasses import asdict
from functools import cache

import numpy as np

from psc.config import compose
from psc.training.records import Record, write_record
from psc.volumes import output

SHA = "0" * 64


@cache
def _composed(*overrides):
    return asdict(compose(overrides))


def config_of(block, *overrides):
    """A configuration that names this block; composed once, as that takes most of a test."""
    config = copy.deepcopy(_composed(*overrides))
    config["block"]["name"] = block
    return config


def write_run(folder, name, config, test, data, *, metrics=None, iterations=1200):
    """A run folder with nothing but its record; returns the folder."""
    folder = folder / name
    folder.mkdir(parents=True)
    write_record(
        Record(
            run=name, config=config, metrics={"test": test, **(metrics or {})}, parameters=1000,
            iterations=iterations, wall_seconds={}, throughput={}, seed=0, data=data,
            git={"commit": "abc", "dirty": False}, versions={}, hardware={},
            finished="2026-01-01T00:00:00+00:00",
        ),
        folder,
    )  # fmt: skip
    return folder


def em_data(kind="synthetic", sha256=SHA, test="test[0:5]"):
    files = [{"name": "volume.h5", "bytes": 1, "sha256": sha256}]
    return {"kind": kind, "splits": {"test": [test]}, "files": files}


def write_em_run(folder, block, volumes, *, data=None, split=0.5, voxel_size=(8.0, 8.0, 8.0)):
    """A run on EM; ``volumes`` are (raw, truth, segmentation), or None for a lost evaluation."""
    config = config_of(block, "dataset=fibsem_synthetic")
    test = {"split": split, "merge": 0.25, "total": split + 0.25, "adapted_rand_error": 0.1}
    run = write_run(folder, f"em-{block}", config, test, data or em_data())
    if volumes is not None:
        (run / "evaluation").mkdir()
        keys = (output.RAW, output.TRUTH, output.SEGMENTATION)
        output.write_volumes(
            run / "evaluation" / "test-0.h5",
            dict(zip(keys, volumes, strict=True)),
            voxel_size=voxel_size,
            offset=(100, 0, 0),
            provenance={},
        )
    return run


def em_volumes():
    """Raw and truth: two bodies, left and right of column 12, with sparse ids; (5, 24, 24)."""
    raw = np.random.default_rng(0).integers(0, 256, (5, 24, 24), dtype=np.uint8)
    truth = np.full(raw.shape, 7_000_000_000, dtype=np.uint64)
    truth[:, :, 12:] = 11
    return raw, truth
