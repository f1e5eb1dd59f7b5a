"""Walk 1 of docs/how-it-works.md, to the first convolution, as the stack has it."""

import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest
from torch import nn

PROJECT = Path(__file__).parents[2]


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
    page = (PROJECT / "docs/how-it-works.md").read_text()
    walk = page.partition("## Walk 1")[2].partition("\n## ")[0]
    told = [re.findall(r"`([\w/]+\.py)`", line) for line in walk.splitlines() if line[:1].isdigit()]
    expected = [name for names in told for name in names]
    assert modules == expected
    assert len([m for m in modules if m.startswith("psc/")]) <= 7
