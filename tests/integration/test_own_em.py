"""The recipe "EM" of docs/your-own-data.md, as typed there, on files as other tools write them."""

import json
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from psc.config import compose
from psc.em.synthetic import synthetic_fibsem
from psc.training.records import read_record

PROJECT = Path(__file__).parents[2]
EM = re.split(r"^## ", (PROJECT / "docs/your-own-data.md").read_text("utf-8"), flags=re.MULTILINE)
SECTION = next(section for section in EM if section.startswith("EM\n"))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
RECIPE, BY_VOLUME = (text.strip().splitlines() for language, text in BLOCKS if not language)
SAID = next(text for language, text in BLOCKS if language == "text").strip().splitlines()

SMALL = [
    *("budget=quick", "recipe.iterations=18", "recipe.validate_every=9", "recipe.output_size=16"),
    *("backbone.base_width=4", "backbone.depth=1", "segmentation.thresholds=[0.3,0.7]"),
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.progress_bar=false"),
]


def write_files(folder):
    """An OME-Zarr by zarr, and labels of a part of it by h5py."""
    raw, labels = synthetic_fibsem((72, 64, 64), 0)
    scale = [{"type": "scale", "scale": [8, 8, 8]}]
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    group = zarr.open_group(str(folder / "em.zarr"), mode="w", attributes={"ome": ome})
    group.create_array("0", data=raw, chunks=(32, 32, 32))
    with h5py.File(folder / "labels.h5", "w") as file:
        file["bodies"] = labels[8:68, :, 4:60]
    return raw, labels


def typed(command, run=""):
    program, *arguments = shlex.split(command.replace("<run>", run).removeprefix("python "))
    return program, arguments


@pytest.mark.slow
def test_the_recipe(program, tmp_path):
    raw, labels = write_files(tmp_path)
    train, view_run, segment, view_neurons = RECIPE

    script, arguments = typed(train)
    result = program(script, *arguments, *SMALL, folder=tmp_path)
    assert result.code == 0, result.errors
    told = result.output.replace(f"{tmp_path}/", "")
    assert all(line in told for line in SAID), told
    assert "trains 5,037 parameters: 18 iterations of 2 × (1 × 16 × 16 × 16) voxels" in told
    assert re.search(r"s per iteration: about .* for the 3 that are left", told)
    (folder,) = (tmp_path / "runs").glob("own_em-*")
    record = read_record(folder)
    assert record.data["kind"] == "own"
    assert {file["name"] for file in record.data["files"]} == {"em.zarr/0", "labels.h5"}
    with h5py.File(folder / "evaluation" / "test-0.h5") as file:
        part = slice(56, 68), slice(0, 64), slice(4, 60)
        assert np.array_equal(file["volumes/raw"], raw[part])
        assert np.array_equal(file["volumes/labels/neuron_ids"], labels[part])
        assert file["volumes/raw"].attrs["offset_voxels"].tolist() == [56, 0, 4]

    for command, page in ((view_run, "evaluation"), (segment, None), (view_neurons, "neurons")):
        script, arguments = typed(command, folder.name)
        more = ["progress=false", "block_size=32"] if page is None else []
        result = program(script, *arguments, *more, folder=tmp_path)
        assert result.code == 0, result.errors
        assert page is None or (tmp_path / f"{page}.html").stat().st_size > 25_000
    summary = json.loads((tmp_path / "neurons" / "summary.json").read_text())
    assert summary["input"] == str(tmp_path / "em.zarr")
    assert summary["checkpoint"] == str(folder / "checkpoints" / "best.ckpt")
    assert summary["threshold"] == record.metrics["threshold"]
    assert summary["intensity_range"] == "the range of uint8"
    html = (tmp_path / "neurons.html").read_text(encoding="utf-8")
    assert summary["checkpoint"] in html
    assert html.count("<figcaption>raw") or html.count(">raw<"), "raw is found by itself"


@pytest.mark.parametrize("command", [RECIPE[0], *BY_VOLUME])
def test_every_training_command_composes(command):
    _, arguments = typed(command)
    assert compose(arguments).dataset.name == "own_em"


def test_cremi_as_it_is(program, tmp_path):
    raw, labels = synthetic_fibsem((64, 48, 48), 1)
    with h5py.File(tmp_path / "sample_A.hdf", "w") as file:
        for name, values in (("raw", raw), ("labels/neuron_ids", labels[4:60, 8:40, 8:40])):
            dataset = file.create_dataset(f"volumes/{name}", data=values)
            dataset.attrs["resolution"] = (40.0, 4.0, 4.0)
        dataset.attrs["offset"] = (160.0, 32.0, 32.0)
    typed = ["dataset=own_em", "dataset.raw=sample_A.hdf", "block=3d"]
    result = program("train.py", *typed, *SMALL, folder=tmp_path)
    assert result.code == 0, result.errors
    assert "40 × 4 × 4 nm (attribute resolution)" in result.output
    assert "labels of z 4:60, y 8:40, x 8:40" in result.output
    assert "augmentation swaps axes yx, not all" in result.output
    (folder,) = (tmp_path / "runs").glob("own_em-*")
    with h5py.File(folder / "evaluation" / "test-0.h5") as file:
        assert file["volumes/raw"].attrs["offset_voxels"].tolist() == [49, 8, 8]
        assert file["volumes/raw"].attrs["offset"].tolist() == [1960, 32, 32]
