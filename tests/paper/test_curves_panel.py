"""Figure 4a shows what metrics.csv holds, against epochs, and says of which data it is."""

from pathlib import Path

import numpy as np
import picture_runs
import pytest

from psc.errors import DataError
from psc.paper.curves import curves_figure_curves_panel as curves_figure
from psc.paper.curves import curves_of, figure_4a_runs
from psc.paper.pictures import Run, read_runs
from psc.training.records import read_record

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CLIPS_PER_ITERATION = ("recipe.batch_size=4", "trainer.devices=2")
METRICS = """step,epoch,train/loss,train/error,validation/loss,validation/top1
1,0,2.0,0.9,,
3,0,1.0,0.7,,
3,0,,,1.5,0.4
5,1,0.5,0.5,,
7,1,0.25,0.3,,
7,1,,,1.25,0.75
9,2,0.1,0.1,,
"""


def write_run(folder, block, kind="synthetic", metrics=METRICS):
    config = picture_runs.config_of(
        block, "backbone=resnet18", "dataset=ucf101_synthetic", *CLIPS_PER_ITERATION
    )
    data = {
        "kind": kind,
        "splits": {
            "split": "split 1", "classes": 6, "videos": {"train": 16, "validation": 4, "test": 4}
        },
        "files": [{"name": "clips", "sha256": picture_runs.SHA}],
    }  # fmt: skip
    test = {"top1": 0.5, "top5": 1.0, "clip_top1": 0.5}
    run = picture_runs.write_run(folder, f"video-{block}", config, test, data)
    (run / "metrics.csv").write_text(metrics)
    return run


def test_numbers_at_the_end_of_each_interval(tmp_path):
    folder = write_run(tmp_path, "3d")
    curves = curves_of(Run("3D", folder, read_record(folder)))
    np.testing.assert_allclose(curves.epochs, [2, 4])  # 4 and 8 iterations of 8 clips, 16 videos
    np.testing.assert_allclose(curves.training_error, [0.7, 0.3])
    np.testing.assert_allclose(curves.validation_error, [0.6, 0.25])
    np.testing.assert_allclose(curves.training_loss, [1.5, 0.375])
    np.testing.assert_allclose(curves.validation_loss, [1.5, 1.25])


@pytest.mark.parametrize(
    ("kind", "words", "not_there"),
    [("synthetic", "SYNTHETIC", None), ("real", "ResNet-18 on UCF101", "SYNTHETIC")],
)
def test_lines_and_title(tmp_path, kind, words, not_there):
    folders = [write_run(tmp_path, block, kind) for block in ("3d", "p2sc2")]
    figure = curves_figure(folders)
    error, loss = figure.axes
    assert [line.get_linestyle() for line in error.lines] == ["--", "-", "--", "-"]
    np.testing.assert_allclose(error.lines[1].get_ydata(), [0.6, 0.25])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1.5, 0.375])
    assert error.lines[0].get_color() == error.lines[1].get_color() != error.lines[2].get_color()
    title = figure.get_suptitle()
    assert words in title
    assert not_there is None or not_there not in title
    names = [text.get_text() for text in error.get_legend().get_texts()]
    assert names == ["3D", "P₂SC₂", "training", "validation"]


def test_the_first_50_epochs_of_real_runs(tmp_path):
    long = METRICS + "".join(f"{step},9,,,1.0,0.5\n" for step in (99, 101, 199))
    folders = [write_run(tmp_path, block, "real", long) for block in ("3d", "p2sc2")]
    error, _ = curves_figure(folders).axes
    np.testing.assert_allclose(error.lines[1].get_xdata(), [2, 4, 50])
    assert error.get_xlim()[1] == pytest.approx(51)


def test_real_records_come_before_synthetic_ones(tmp_path):
    with pytest.raises(DataError, match="no records of 3d and p2sc2"):
        figure_4a_runs(tmp_path)
    synthetic = [
        write_run(tmp_path / "figure-4a" / "synthetic", block) for block in ("3d", "p2sc2")
    ]
    records = tmp_path / "table-4b" / "records"
    first = write_run(records, "3d", "real")
    assert figure_4a_runs(tmp_path) == synthetic  # one real network is no comparison
    write_run(records, "p2sc3", "real")
    sample = write_run(records, "p2sc2", "real sample")
    assert figure_4a_runs(tmp_path) == synthetic  # nor is one of a sample
    second = write_run(tmp_path / "elsewhere", "p2sc2", "real")
    sample.rename(tmp_path / "sample")
    second = second.rename(records / second.name)
    assert figure_4a_runs(tmp_path) == [first, second]


def test_damaged_curves_are_named(tmp_path):
    folders = [write_run(tmp_path, block) for block in ("3d", "p2sc2")]
    (folders[1] / "metrics.csv").write_text(METRICS.replace("0.75", "").replace("0.4", ""))
    with pytest.raises(DataError, match=r"p2sc2.metrics\.csv holds no validation/top1"):
        curves_figure(folders)
    (folders[1] / "metrics.csv").unlink()
    with pytest.raises(DataError, match=r"metrics\.csv does not exist"):
        curves_figure(folders)
    others = [picture_runs.write_em_run(tmp_path, block, None) for block in ("3d", "p2sc2")]
    with pytest.raises(DataError, match="scored as affinity"):
        curves_figure(others)


def test_the_committed_figure_is_drawn():
    folders = figure_4a_runs(EXPERIMENTS)
    runs, _ = read_runs(folders)
    figure = curves_figure(folders)
    assert ("SYNTHETIC" in figure.get_suptitle()) == (runs[0].record.data["kind"] == "synthetic")
