"""The recipes of docs/how-it-works.md: a new data set and a new backbone, as written there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(?:python|yaml)\n# (new file: |in )(.+?)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project to which the page's code blocks have been applied, and small data."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("psc", "configs"):
        shutil.copytree(PROJECT / name, folder / name)
    shutil.copy(PROJECT / "train.py", folder)
    blocks = BLOCK.findall((PROJECT / "docs" / "how-it-works.md").read_text())
    assert len(blocks) >= 8
    for kind, target, code in blocks:
        if kind == "new file: ":
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
            continue
        name, place, anchor = re.fullmatch(r'(\S+), (before|after) "(.+)"', target).groups()
        anchor = anchor.replace("\\n", "\n")
        before, found, after = (folder / name).read_text().partition(anchor)
        assert found, f"{name} has no {anchor!r}"
        separator = "\n\n" if code.startswith(("def ", "@")) else ""
        text = code + separator + found if place == "before" else found + "\n" + code.rstrip()
        (folder / name).write_text(before + text + after)
    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    with h5py.File(folder / "data" / "mine.h5", "w") as file:
        file["raw"] = rng.integers(0, 256, (80, 32, 32), dtype=np.uint8)
        labels = np.kron(rng.integers(1, 99, (10, 4, 4), dtype=np.uint64), np.ones((8, 8, 8)))
        file["labels"] = labels.astype(np.uint64)
    return folder


@pytest.mark.slow
def test_a_new_backbone_is_trained_on_a_new_data_set(extended):
    command = [sys.executable, "train.py", "backbone=column", "block=p2sc2", "dataset=mine"]
    command += ["budget=quick", "recipe.iterations=2", "recipe.validate_every=1", "seed=3"]
    command += ["trainer.accelerator=cpu", "trainer.progress_bar=false", "recipe.batch_size=1"]
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = extended.glob("runs/*/result.json")
    assert '"name": "column"' in record.read_text()
    assert '"name": "mine"' in record.read_text()
