"""Folders of runs: which are read, and what is written about them."""

import csv
from dataclasses import replace

import pytest
from PIL import Image

from psc.errors import DataError
from psc.paper import summary as summary_module
from psc.paper.summary import read_records, write_summary
from psc.training.records import write_record

METRICS = "step,train/loss,validation/loss\n0,0.9,\n1,0.7,0.8\n"
VIDEO_METRICS = """epoch,step,train/loss,train/error,validation/loss,validation/top1
0,0,0.9,0.8,,
0,1,,,0.8,0.5
"""


@pytest.fixture
def folder_of(tmp_path):
    """Write records as finished runs without their volumes; returns the folder of runs."""

    def write(**records):
        for name, record in records.items():
            (tmp_path / name).mkdir()
            metrics = VIDEO_METRICS if "top1" in record.metrics["test"] else METRICS
            (tmp_path / name / "metrics.csv").write_text(metrics)
            write_record(replace(record, run=name), tmp_path / name)
        return tmp_path

    return write


def test_only_finished_runs_are_read(tmp_path, folder_of, make_record):
    with pytest.raises(DataError, match="no finished run"):
        read_records(tmp_path)
    folder = folder_of(b=make_record(), a=make_record())
    (folder / "unfinished").mkdir()
    assert [path.name for path in read_records(folder)] == ["a", "b"]


def test_everything_that_is_said_to_be_written_is(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record("p2sc2", seed=1))
    summary = write_summary(folder)
    names = [path.name for path in summary.files]
    assert names == ["summary.md", "summary.csv", "tradeoff.png", "curves.png", "thresholds.png"]
    assert all(path.stat().st_size > 0 for path in summary.files)
    assert (folder / "summary.md").read_text() == summary.text
    with (folder / "summary.csv").open() as file:
        assert [row["block"] for row in csv.DictReader(file)] == ["3d", "p2sc2"]
    assert not (folder / "summary.png").exists()  # the volumes are not there


def test_versions_of_the_code_are_not_mixed(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record(seed=1, commit="b" * 40))
    with pytest.raises(DataError, match=r"bbbbbbbb: 1 run \(b\)"):
        write_summary(folder)
    assert not (folder / "summary.md").exists()
    assert "| 1 |" in write_summary(folder, commit="bbbb").text
    table = write_summary(folder, all_commits=True).text.split("\n\n")[0]
    assert table.count("\n| ") == 4  # a line, two networks, no network


def test_videos_have_no_segmentations_and_no_thresholds(folder_of, make_video_record):
    summary = write_summary(folder_of(a=make_video_record(), b=make_video_record("p2sc2")))
    names = [path.name for path in summary.files]
    assert names == ["summary.md", "summary.csv", "tradeoff.png", "curves.png"]
    assert Image.open(summary.files[-1]).size == (2070, 720)
    assert sorted(p.name for p in summary.files[0].parent.glob("*.png")) == sorted(names[2:])


def test_each_application_has_its_own_table_and_curves(folder_of, make_record, make_video_record):
    folder = folder_of(a=make_record(), b=make_video_record("p2sc2"))
    summary = write_summary(folder)
    assert [path.name for path in summary.files] == [
        "summary.md",
        "summary.csv",
        "tradeoff.png",
        "curves-affinity.png",
        "thresholds.png",
        "curves-video.png",
    ]
    assert all(path.is_file() for path in summary.files)
    neurons, actions = summary.text.split("## ")[1:]
    assert neurons.startswith("Neuron segmentation\n\n| block ")
    assert actions.startswith("Action recognition\n\n| block ")
    assert [("VI sum" in part, "top-1" in part) for part in (neurons, actions)] == [
        (True, False),
        (False, True),
    ]
    assert "; d; " in neurons
    assert "; v; " in actions
    with (folder / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["vi_sum_mean"], first["top1_mean"]) == ("2.0", "")
    assert (second["vi_sum_mean"], second["top1_mean"]) == ("", "0.5")


def test_errors_are_drawn_over_passes_through_the_training_videos(
    monkeypatch, folder_of, make_video_record
):
    drawn = {}
    monkeypatch.setattr(
        summary_module, "curves_figure", lambda *_, **options: drawn.update(options)
    )
    longer = {"iterations": 5, "batch_size": 64, "test_clips": 20}
    two_gpus = {"devices": 2, "num_nodes": 1}
    records = {
        "a": make_video_record("3d"),
        "b": make_video_record("p1sc1", recipe=longer),
        "c": make_video_record("p2sc2", trainer=two_gpus),
    }
    folder = folder_of(**records)
    write_summary(folder)
    assert drawn["errors"]
    assert drawn["iterations_per_epoch"] == {"3d": 100, "p1sc1": 50, "p2sc2": 50}
    (folder / "d").mkdir()
    some = make_video_record("p3sc1", trainer={"devices": "auto", "num_nodes": 1})
    write_record(some, folder / "d")
    write_summary(folder)
    assert drawn["iterations_per_epoch"] is None


def test_a_run_of_an_unknown_application_is_refused(folder_of, make_record):
    strange = replace(make_record(), metrics={"test": {"dice": 0.9}})
    folder = folder_of(a=strange)
    with pytest.raises(DataError, match=r"run a has the test scores \['dice'\]"):
        write_summary(folder)
    assert not (folder / "summary.md").exists()
