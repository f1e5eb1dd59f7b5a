"""What an evaluation leaves, opened: the same voxels, places and scores; and what is refused."""

import csv
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from psc.errors import ConfigError, DataError
from psc.training.records import read_record, write_record
from psc.viewing.scene import Layer, Scene, evaluation_folder, open_evaluation
from psc.volumes import output


@pytest.fixture(scope="module")
def scene(finished_run):
    return open_evaluation(evaluation_folder(finished_run[1]), 0)


@pytest.fixture
def copied(finished_run, tmp_path):
    """A copy of a run that may be damaged."""
    shutil.copytree(finished_run[1], tmp_path / "run")
    return tmp_path / "run"


def test_layers_are_the_datasets_of_the_file(scene, finished_run):
    expected = {
        "raw": "volumes/raw",
        "affinities": "volumes/affinities",
        "segmentation": "volumes/labels/segmentation",
        "no network": "volumes/labels/baseline_segmentation",
        "ground truth": "volumes/labels/neuron_ids",
    }
    assert list(scene.layers) == list(expected)
    with h5py.File(finished_run[1] / "evaluation" / "test-0.h5") as file:
        for name, key in expected.items():
            assert np.array_equal(scene.layers[name].voxels[...], file[key][...])
    assert scene.shape == (12, 40, 40)
    assert scene.offset == (36, 0, 0)
    assert scene.voxel_size == (8.0, 8.0, 8.0)


def test_stored_fragments_are_a_layer_too(copied):
    with h5py.File(copied / "evaluation" / "test-0.h5", "r+") as file:
        file[output.FRAGMENTS] = file[output.SEGMENTATION][...]
    assert "fragments" in open_evaluation(copied / "evaluation", 0).layers


def test_places_are_those_of_the_table(scene, finished_run):
    with (finished_run[1] / "evaluation" / "test-0_bodies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scene.errors) > 0
    for row, error in zip(rows, scene.errors, strict=True):
        assert (row["kind"], int(row["label"]), float(row["bits"])) == (
            error.kind,
            error.label,
            error.bits,
        )
        assert tuple(int(row[axis]) for axis in "zyx") == error.location
    first = tuple(int(rows[0][axis]) for axis in "zyx")
    assert scene.start == (first[0] - 36, first[1], first[2])
    assert all(0 <= a < b for a, b in zip(scene.start, scene.shape, strict=True))


def test_scores_are_those_of_the_record(scene, finished_run):
    metrics = finished_run[0].metrics
    assert list(scene.scores["network"].values()) == [
        *(metrics["test"][key] for key in ("split", "merge", "total", "adapted_rand_error")),
        metrics["threshold"],
    ]
    assert scene.scores["no network"]["VI split"] == metrics["baseline"]["test"]["split"]
    for kind in ("split", "merge"):  # the only test region: its errors are the whole score
        assert scene.bits(kind) == pytest.approx(metrics["test"][kind])
        assert {error.kind for error in scene.worst(kind, 3)} <= {kind}
    assert scene.facts["run"] == finished_run[0].run
    assert scene.facts["code"].startswith(finished_run[0].git["commit"][:8])


def test_a_folder_of_evaluate_py_holds_its_own_record(finished_run, tmp_path):
    folder = tmp_path / "evaluation-other"
    shutil.copytree(finished_run[1] / "evaluation", folder)
    shutil.copy(finished_run[1] / "result.json", folder)
    assert open_evaluation(evaluation_folder(folder), 0).title == finished_run[0].run


def test_a_region_that_does_not_exist_lists_those_that_do(finished_run):
    with pytest.raises(ConfigError, match=r"has the test regions 0$"):
        open_evaluation(finished_run[1] / "evaluation", 1)


def test_a_run_without_evaluation_is_told_how_to_get_one(copied):
    shutil.rmtree(copied / "evaluation")
    with pytest.raises(DataError, match=r"python evaluate.py checkpoint=.*best.ckpt"):
        evaluation_folder(copied)


@pytest.mark.parametrize(
    ("scores", "title"),
    [
        ({"top1": 0.5, "top5": 0.7, "clip_top1": 0.4}, "action recognition"),
        (dict.fromkeys(["dice_gm", "dice_wm", "dice_csf", "dice_mean"], 0.9), "brain tissue"),
    ],
)
def test_other_applications_are_refused_by_name(copied, scores, title):
    shutil.rmtree(copied / "evaluation")
    write_record(replace(read_record(copied), metrics={"test": scores}), copied)
    with pytest.raises(DataError, match=f"is a run of {title}"):
        evaluation_folder(copied)


def test_an_unfinished_run_is_refused(copied):
    (copied / "result.json").unlink()
    with pytest.raises(DataError, match="has not finished"):
        open_evaluation(copied / "evaluation", 0)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_truth(path):
    with h5py.File(path, "r+") as file:
        del file[output.TRUTH]


def other_shape(path):
    with h5py.File(path, "r+") as file:
        del file[output.BASELINE]
        file[output.BASELINE] = np.zeros((2, 3, 4), np.uint64)


def broken_offset(path):
    with h5py.File(path, "r+") as file:
        file[output.RAW].attrs["offset_voxels"] = "here"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated, damaged or unreadable"),
        (lambda path: path.write_bytes(b"<html>"), "a web page"),
        (without_truth, "'volumes/labels/neuron_ids' does not exist"),
        (other_shape, "no network does not cover the same voxels"),
        (broken_offset, "offset_voxels"),
    ],
)
def test_damaged_files_are_refused(copied, damage, message):
    damage(copied / "evaluation" / "test-0.h5")
    with pytest.raises(DataError, match=message):
        open_evaluation(copied / "evaluation", 0)


def test_without_errors_the_middle_is_looked_at_first(tmp_path):
    layer = Layer("raw", "grey", np.zeros((4, 6, 9), np.uint8))
    assert Scene("", tmp_path, {"raw": layer}, None).start == (2, 3, 4)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 0, 5, 5)])
def test_affinities_have_three_channels(tmp_path, shape):
    with pytest.raises(DataError, match="does not cover"):
        Scene("", tmp_path, {"a": Layer("a", "affinities", np.zeros(shape, np.float32))}, None)
