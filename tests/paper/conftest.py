"""A small experiment of one's own: two rows, two protocols, no records."""

from dataclasses import replace

import pytest

from psc.training.records import Record, write_record

RUNS = """
title: "Table 0"
rows:
  - {row: 3d, label: "3D", overrides: [backbone=unet, block=3d]}
  - {row: p2sc2, label: "(2,2)", overrides: [backbone=unet, block=p2sc2]}
  - {row: other, label: "Others_1", quoted: "quoted"}
paper:
  title: "long"
  overrides: [budget=quick, dataset=fibsem, recipe.iterations=7]
  seeds: [0, 1]
reduced:
  - name: cpu
    title: "short"
    overrides: [budget=quick, dataset=fibsem_sample, trainer.precision=32-true]
    seeds: [0, 1]
    rows: [3d, p2sc2]
"""

PUBLISHED = """row,metric,against,value,unit,place
3d,total,,1.5,bits,Table 0
p2sc2,total,,unknown,bits,an image
other,total,,2.5,bits,Table 0
p2sc2,total,3d,-40,%,Section 0
p2sc2,parameters,3d,-38,%,Section 0
"""


@pytest.fixture
def experiment_folder(tmp_path):
    """Its folder; runs.yaml and paper.csv may be changed."""
    folder = tmp_path / "table-0"
    (folder / "records").mkdir(parents=True)
    (folder / "runs.yaml").write_text(RUNS)
    (folder / "paper.csv").write_text(PUBLISHED)
    return folder


@pytest.fixture
def add_record(experiment_folder):
    """Function: write a record of a row, at a protocol; returns the record's file."""
    from dataclasses import asdict

    from psc.paper.experiments import read_experiment
    from psc.training.records import Record

    def add(
        row="3d", protocol="cpu", seed=0, total=2.0, kind="real sample", commit="a" * 40, **other
    ):
        experiment = read_experiment(experiment_folder)
        (planned,) = (p for p in experiment.protocol(protocol).rows if p.row.name == row)
        scores = {"split": total / 4, "merge": 0.75 * total, "total": total}
        scores["adapted_rand_error"] = total / 10
        content = {
            "run": f"{protocol}-{row}-seed{seed}-{commit[:4]}",
            "config": asdict(planned.config) | {"seed": seed},
            "metrics": {"test": scores, "baseline": {"test": dict.fromkeys(scores, 4.0)}},
            "parameters": 309_475 if row == "3d" else 192_559,
            "iterations": planned.config.recipe.iterations,
            "wall_seconds": {},
            "throughput": {},
            "seed": seed,
            "data": {"kind": kind, "files": [{"sha256": "f00"}], "splits": {"test": ["t"]}},
            "git": {"commit": commit, "dirty": False},
            "versions": {},
            "hardware": {"accelerator": "cpu", "device": "some CPU"},
            "finished": "2026-01-01T00:00:00+00:00",
        } | other
        folder = experiment_folder / "records" / content["run"]
        folder.mkdir()
        return write_record(Record(**content), folder)

    return add


def scores(total):
    return {"split": total / 4, "merge": total * 3 / 4, "total": total, "adapted_rand_error": 0.1}


SWEEP = [
    {"threshold": 0.2, "split": 1.0, "merge": 0.5},
    {"threshold": 0.5, "split": 0.5, "merge": 1.5},
]


@pytest.fixture
def make_record():
    """A record with 1,234,567 parameters and a VI of 4 bits without a network.

    ``changes`` go into its configuration: ``trainer={"devices": 2}`` replaces that part.
    """

    def make(
        block="3d", seed=0, total=2.0, kind="synthetic", commit="a" * 40, dirty=False, **changes
    ):
        psc = block.startswith("p")
        config = {
            "backbone": {"name": "unet"},
            "block": {
                "name": block,
                "m": int(block[1]) if psc else None,
                "n": int(block[4]) if psc else None,
            },
            "dataset": {"name": "d", "test": [{"raw": "here.h5"}]},
            "recipe": {"iterations": 5, "batch_size": 2},
            "segmentation": {},
            "seed": seed,
        }
        splits = changes.pop("splits", {"test": ["here[0:9]"]})
        return Record(
            run=f"{block}-{seed}",
            config=config | changes,
            parameters=1234567,
            iterations=(config | changes)["recipe"]["iterations"],
            seed=seed,
            metrics={
                "test": scores(total),
                "sweep": SWEEP,
                "baseline": {"test": scores(4.0), "sweep": SWEEP},
            },
            wall_seconds={"training": 90.0},
            throughput={},
            data={"kind": kind, "files": [{"sha256": "f00"}], "splits": splits},
            git={"commit": commit, "dirty": dirty},
            versions={},
            hardware={"device": "some CPU"},
            finished="2026-01-01T00:00:00+00:00",
        )

    return make


@pytest.fixture
def make_video_record():
    """A record of action recognition: 60 classes, 3,200 training videos in batches of 32.

    ``changes`` go into its configuration, ``splits`` into what it says about the split.
    """

    def make(block="3d", seed=0, top1=0.5, files="f00", commit="a" * 40, splits=None, **changes):
        config = {
            "backbone": {"name": "resnet34"},
            "block": {"name": block, "m": None, "n": None},
            "dataset": {"name": "v", "videos": "here", "lists": "here", "prepared": "here"},
            "recipe": {"iterations": 5, "batch_size": 32, "test_clips": 20},
            "segmentation": {"scoring": "means nothing here"},
            "trainer": {"devices": 1, "num_nodes": 1},
            "seed": seed,
        }
        scores = {"top1": top1, "top5": top1 + 0.125, "clip_top1": top1 / 2}
        split = {
            "split": "split 1",
            "classes": 60,
            "videos": {"train": 3200, "validation": 10, "test": 40},
            "validation_groups": [24, 25],
            "missing_videos": 0,
        }
        return Record(
            run=f"{block}-{seed}",
            config=config | changes,
            parameters=7654321,
            iterations=(config | changes)["recipe"]["iterations"],
            seed=seed,
            metrics={"validation": dict.fromkeys(scores, 0.99), "test": scores},
            wall_seconds={"training": 90.0},
            throughput={},
            data={
                "kind": "synthetic",
                "files": [{"name": "here", "sha256": files}],
                "splits": split | (splits or {}),
            },
            git={"commit": commit, "dirty": False},
            versions={},
            hardware={"device": "some CPU"},
            finished="2026-01-01T00:00:00+00:00",
        )

    return make


@pytest.fixture
def make_tissue_record(make_record):
    """A record of brain tissue segmentation; ``changes`` go into its configuration."""

    def make(dice=0.8, test=("IBSR_04", "IBSR_05"), labels="filled", recipe=None, **changes):
        scores = {f"dice_{name}": dice for name in ("csf", "gm", "wm", "mean")}
        record = make_record(
            backbone={"name": "densenet"},
            dataset={"name": "ibsr", "labels": labels},
            recipe={"iterations": 5, "batch_size": 2, "overlap": 0.5, "blending": "gaussian"}
            | (recipe or {}),
            splits={"test": list(test)},
            **changes,
        )
        baseline = dict.fromkeys(scores, 0.5)
        return replace(
            record,
            metrics={
                "test": scores | {"hd95_gm": 3.0, "missed": 0},
                "baseline": {"method": "k-means", "test": baseline},
            },
        )

    return make
