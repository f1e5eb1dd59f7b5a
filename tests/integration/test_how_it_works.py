"""The walks of docs/how-it-works.md as they are taken: to the first convolution, to a cell."""

import inspect
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from torch import nn

from psc.paper.experiments import RecordedRun
from psc.paper.groups import Group
from psc.paper.table import Line, Table, results, tables_of
from psc.training.records import Record, read_record

PROJECT = Path(__file__).parents[2]


def told(walk):
    """The modules that the page names in the numbered lines of a walk."""
    page = (PROJECT / "docs/how-it-works.md").read_text(encoding="utf-8")
    lines = page.partition(f"## {walk}")[2].partition("\n## ")[0].splitlines()
    found = [re.findall(r"`([\w/]+\.py)`", line) for line in lines if line[:1].isdigit()]
    return [name for names in found for name in names]


class ArrivedError(Exception):
    """The first convolution of a stream is being built."""


def test_the_page_tells_the_modules_on_the_stack(tiny_run, monkeypatch):
    modules = []
    built = nn.Conv3d.__init__

    def arrive(self, *arguments, **options):
        built(self, *arguments, **options)
        files = [Path(frame.filename) for frame in reversed(inspect.stack())]
        if not self.weight.is_meta and PROJECT / "psc/training/training.py" in files:
            own = [str(f.relative_to(PROJECT)) for f in files if f.is_relative_to(PROJECT)]
            modules.extend(dict.fromkeys(m for m in own if m.startswith(("psc/", "train.py"))))
            raise ArrivedError

    monkeypatch.setattr(nn.Conv3d, "__init__", arrive)
    monkeypatch.setattr(sys, "argv", ["train.py", "backbone=unet", "block=p2sc2", *tiny_run])
    with pytest.raises(ArrivedError):
        runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
    assert modules == told("Walk 1")
    assert len([m for m in modules if m.startswith("psc/")]) <= 7


RUNS = """
title: "One row of table 6d"
rows:
  - {row: 3d, label: "3D", overrides: [backbone=unet, block=3d]}
paper:
  title: "long"
  overrides: [budget=paper, dataset=fibsem]
  seeds: [0]
reduced:
  - name: quick
    title: "short"
    overrides: [budget=quick, dataset=fibsem_sample, trainer.precision=32-true]
    seeds: [0]
    rows: [3d]
"""


def test_a_record_passes_through_the_modules_that_the_page_tells(tmp_path):
    committed = PROJECT / "experiments/table-6d/records/fibsem_sample-unet-3d-seed0-43cdf3e6"
    shutil.copytree(committed, tmp_path / "records" / committed.name)
    (tmp_path / "runs.yaml").write_text(RUNS)
    (tmp_path / "paper.csv").write_text("row,metric,against,value,unit,place\n")
    holders = (Record, RecordedRun, Group, Line, Table)
    modules = {}

    def watch(frame, event, value):
        """Note the modules whose functions are given, or give back, what holds the record."""
        name = frame.f_code.co_filename
        if event in ("call", "return") and name.startswith(f"{PROJECT}/psc/"):
            seen = frame.f_locals.values() if event == "call" else [value]
            if any(isinstance(one, holders) for one in seen):
                modules.setdefault(str(Path(name).relative_to(PROJECT)))

    sys.setprofile(watch)
    try:
        header, line, _ = results(tables_of(tmp_path)[1])
    finally:
        sys.setprofile(None)
    total = read_record(committed).metrics["test"]["total"]
    assert dict(zip(header, line, strict=True))["VI sum [bits]"] == f"{total:.3f}"
    assert list(modules) == told("Walk 2")
    assert len(modules) <= 5
