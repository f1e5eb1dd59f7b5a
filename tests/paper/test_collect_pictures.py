"""scripts/collect_pictures.py writes what may be shown, where nothing is yet."""

import importlib.util
from pathlib import Path

import numpy as np
import picture_runs
import pytest

from psc.errors import ConfigError
from psc.paper.pictures import read_picture

SCRIPT = Path(__file__).parents[2] / "scripts" / "collect_pictures.py"
spec = importlib.util.spec_from_file_location("collect_pictures", SCRIPT)
collect_pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(collect_pictures)


def write_runs(folder, **data):
    raw, truth = picture_runs.em_volumes()
    return [
        picture_runs.write_em_run(
            folder, block, (raw, truth, labels), data=picture_runs.em_data(**data)
        )
        for block, labels in (("3d", truth), ("p2sc2", np.ones_like(truth)))
    ]


def test_synthetic_runs_are_collected_once(tmp_path):
    runs, place = write_runs(tmp_path / "runs"), tmp_path / "experiments"
    collect_pictures.collect(runs, place)
    picture = read_picture(place / "figure-6")
    assert list(picture.predictions) == ["3D", "P₂SC₂"]
    assert "fibsem_synthetic" in picture.provenance["attribution"]
    (runs[0] / "evaluation" / "test-0.h5").unlink()  # refused before volumes are read
    with pytest.raises(ConfigError, match="--overwrite"):
        collect_pictures.collect(runs, place)


def test_real_data_only_if_known_to_be_publishable(tmp_path):
    place = tmp_path / "experiments"
    private = write_runs(tmp_path / "private", kind="real")
    with pytest.raises(ConfigError, match=r"volume\.h5.*not known to be publishable"):
        collect_pictures.collect(private, place)
    assert not place.exists()
    known = next(iter(collect_pictures.PUBLISHABLE))
    collect_pictures.collect(write_runs(tmp_path / "open", kind="real", sha256=known), place)
    assert "CC BY" in read_picture(place / "figure-6").provenance["attribution"]
    pdf, png = collect_pictures.draw(private, tmp_path / "drawn")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [pdf.name, png.name]


def test_videos_have_no_picture(tmp_path):
    data = {
        "kind": "synthetic",
        "splits": {"split": "1", "classes": 6, "videos": {"train": 1, "test": 1}},
        "files": [],
    }
    scores = {"top1": 0.5, "top5": 1.0, "clip_top1": 0.5}
    runs = [
        picture_runs.write_run(
            tmp_path, block, picture_runs.config_of(block, "backbone=resnet18"), scores, data
        )
        for block in ("3d", "p2sc2")
    ]
    with pytest.raises(ConfigError, match="no figure shows pictures of video"):
        collect_pictures.collect(runs, tmp_path / "experiments")
