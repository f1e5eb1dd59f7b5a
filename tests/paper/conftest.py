"""A small experiment of one's own: two rows, two protocols, no records."""

import pytest

from psc.results import write_record

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
    overrides: [budget=quick, dataset=fibsem_sample]
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
    from psc.results import Record

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
