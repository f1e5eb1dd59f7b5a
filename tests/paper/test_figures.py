"""make figures: what is missing is told, what is damaged is an error, the others are drawn."""

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import picture_runs
import pytest
from matplotlib.figure import Figure

from psc.errors import ConfigError, DataError
from psc.paper.experiments import EXPERIMENTS
from psc.paper.figures import (
    FIGURES,
    chosen_figures,
    epochs_of,
    figure_4a,
    figure_4a_runs,
    make_figure,
)
from psc.paper.panels import Run, read_runs
from psc.training.records import read_record

SCRIPT = Path(__file__).parents[2] / "scripts" / "paper.py"
spec = importlib.util.spec_from_file_location("paper_script", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def experiments(tmp_path):
    """A folder with one picture, that of Figure 6."""
    folder = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS / "figure-6", folder / "figure-6")
    return folder


def run(monkeypatch, experiments, *names):
    output = experiments.parent / "build"
    arguments = ["figures", *names, f"--experiments={experiments}", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["paper.py", *arguments])
    try:
        script.main()
    finally:
        drawn = sorted(path.name for path in (output / "figures").glob("*"))
    return drawn


def test_a_missing_picture_is_told_and_stops_nothing(experiments, monkeypatch, capsys):
    drawn = run(monkeypatch, experiments, "figure-5", "figure-4a", "figure-6")
    assert drawn == ["figure-6.pdf", "figure-6.png"]
    told = capsys.readouterr().err
    assert "figure-5 is left out: experiments/figure-5 has no picture" in told
    assert "python scripts/paper.py picture RUN_FOLDER RUN_FOLDER" in told
    assert "figure-4a is left out: there are no records of 3d and p2sc2" in told


def test_a_damaged_picture_is_an_error_after_the_others_are_drawn(experiments, monkeypatch):
    shutil.copytree(EXPERIMENTS / "figure-5", experiments / "figure-5")
    provenance = experiments / "figure-5" / "provenance.json"
    about = json.loads(provenance.read_text())
    about["runs"][0]["iterations"] += 1
    provenance.write_text(json.dumps(about))
    old = experiments.parent / "build" / "figures" / "figure-5.png"
    old.parent.mkdir(parents=True)
    old.touch()  # would show what is not there
    with pytest.raises(SystemExit, match=r"figure-5: .*provenance\.json was changed"):
        run(monkeypatch, experiments, "figure-5", "figure-6")
    names = sorted(path.name for path in old.parent.iterdir())
    assert names == ["figure-6.pdf", "figure-6.png"]


@pytest.mark.parametrize("name", ["slices.npz", "provenance.json"])
def test_half_a_picture_is_damaged_not_missing(experiments, tmp_path, name):
    (experiments / "figure-6" / name).unlink()
    made = make_figure(FIGURES["figure-6"], experiments, tmp_path)
    assert (made.png, made.missing) == (None, None)
    assert name in made.error


def test_figure_4a_is_left_out_with_one_of_its_records_and_refused_with_an_edited_one(tmp_path):
    shutil.copytree(EXPERIMENTS / "figure-4a", tmp_path / "figure-4a")
    record, _ = sorted(tmp_path.glob("figure-4a/synthetic/*/result.json"))
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    made = make_figure(FIGURES["figure-4a"], tmp_path, tmp_path)
    assert "was edited by hand" in made.error
    record.unlink()
    assert make_figure(FIGURES["figure-4a"], tmp_path, tmp_path).missing is not None


def test_drawings_need_no_experiments(tmp_path):
    for name in ("figure-1", "figure-2", "figure-3"):
        figure = replace(
            FIGURES[name], draw=lambda _: (Figure(), None)
        )  # theirs: test_drawn_figures.py
        made = make_figure(figure, tmp_path / "nowhere", tmp_path / name)
        assert made.png.read_bytes().startswith(b"\x89PNG")
        assert made.source is None


@pytest.mark.parametrize("name", ["figure-4a", "figure-5", "figure-6"])
def test_the_source_is_what_the_committed_files_say(name):
    _, source = FIGURES[name].draw(EXPERIMENTS)
    assert all((EXPERIMENTS / file).is_file() for file in source.files)
    if name == "figure-4a":
        records = [read_record(EXPERIMENTS / file) for file in source.files]
        told = [(r.run, r.git["commit"][:8], r.iterations) for r in records]
        kinds = {r.data["kind"] for r in records}
    else:
        about = json.loads((EXPERIMENTS / source.files[0]).read_text())
        told = [(r["run"], r["commit"][:8], r["iterations"]) for r in about["runs"]]
        kinds = {about["kind"]}
    assert [run[1:] for run in source.runs] == told
    assert {source.kind} == kinds


def test_every_figure_has_words_for_who_does_not_see_it():
    assert list(FIGURES) == [f"figure-{n}" for n in ("1", "2", "3", "4a", "5", "6")]
    for figure in FIGURES.values():
        assert len(figure.alternative) > 60
        assert not re.search(r"[_*`<]", figure.alternative)  # it is read out as it is
        assert figure.alternative != figure.caption


def test_an_unknown_figure_is_refused():
    with pytest.raises(ConfigError, match="figure-7: there is no such figure, only figure-1, "):
        chosen_figures(["figure-7"])
    assert [figure.name for figure in chosen_figures(["figure-5"])] == ["figure-5"]


def test_other_errors_are_not_swallowed(tmp_path):
    def draw(_):
        raise ZeroDivisionError

    figure = replace(FIGURES["figure-1"], draw=draw)
    with pytest.raises(ZeroDivisionError):
        make_figure(figure, tmp_path, tmp_path)

    def refuse(_):
        raise DataError("why")

    assert make_figure(replace(figure, draw=refuse), tmp_path, tmp_path).error == "why"


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
    epochs, curves = epochs_of(Run("3D", folder, read_record(folder)))
    np.testing.assert_allclose(epochs, [2, 4])  # 4 and 8 iterations of 8 clips, 16 videos
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
    figure = figure_4a(folders)
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
    error, _ = figure_4a(folders).axes
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
        figure_4a(folders)
    (folders[1] / "metrics.csv").unlink()
    with pytest.raises(DataError, match=r"metrics\.csv does not exist"):
        figure_4a(folders)
    others = [picture_runs.write_em_run(tmp_path, block, None) for block in ("3d", "p2sc2")]
    with pytest.raises(DataError, match="scored as affinity"):
        figure_4a(others)


def test_the_committed_figure_is_drawn():
    folders = figure_4a_runs(EXPERIMENTS)
    runs, _ = read_runs(folders)
    figure = figure_4a(folders)
    assert ("SYNTHETIC" in figure.get_suptitle()) == (runs[0].record.data["kind"] == "synthetic")
