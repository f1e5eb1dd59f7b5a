"""docs/tutorial.ipynb runs from its first cell to its last, with the sample and without.

Its cells are Python without magics, so they are executed as such: a kernel, and the dozen packages
that bring one, would test Jupyter.
"""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

import psc

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("sample", [True, False])
def test_every_cell_runs(sample, request, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    mpl.use("agg")
    if sample:
        request.getfixturevalue("sample_data")
    else:
        monkeypatch.delenv("PSC_SAMPLE_DATA", raising=False)
    told = {}
    for number, cell in enumerate(CELLS):
        exec(compile(cell, f"cell {number}", "exec"), told)
    assert ("FIB-25" in told["shown"]) == sample
    assert told["segmentation"].shape == told["truth"].shape == (36, 128, 128)
    assert told["affinities"].shape == (3, 36, 128, 128)
    assert told["parameters"]["p2sc2"] < 0.65 * told["parameters"]["3d"]
    network = psc.create("unet_p2sc2", weights="fib25")
    assert told["parameters"]["p2sc2"] == sum(p.numel() for p in network.parameters())
    if sample:  # one segment for all of the 37 bodies: 3.22 bits
        assert told["scores"].total < 2.2


def test_it_shows_what_it_computes_and_no_more():
    outputs = [c["outputs"] for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    pictures = [o for each in outputs for o in each if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
    assert len(json.dumps(NOTEBOOK)) < 400_000
    assert not any(o["output_type"] == "error" for each in outputs for o in each)
