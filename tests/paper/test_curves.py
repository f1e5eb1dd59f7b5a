from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.paper import curves
from psc.paper.curves import curves_figure, read_curve, threshold_figure

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)

METRICS = """epoch,step,train/loss,validation/loss
0,0,0.9,
0,1,0.7,
0,1,,0.8
0,2,0.5,
1,1,0.6,
1,2,0.4,
1,3,0."""


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def share_of(path: Path, colour: tuple[int, int, int]) -> float:
    image = np.asarray(Image.open(path).convert("RGB")).astype(np.int64)
    return float((np.abs(image - colour).sum(axis=2) < 12).mean())


def test_a_curve_is_read_though_the_run_was_resumed_and_then_killed(metrics: Path):
    steps, losses = read_curve(metrics, "train/loss")
    np.testing.assert_array_equal(steps, [0, 1, 2])
    np.testing.assert_array_equal(losses, [0.9, 0.6, 0.4])
    steps, losses = read_curve(metrics, "validation/loss")
    np.testing.assert_array_equal(steps, [1])
    np.testing.assert_array_equal(losses, [0.8])


def test_a_column_that_may_be_missing_is_an_empty_curve(metrics: Path):
    steps, losses = read_curve(metrics, "validation/accuracy", required=False)
    assert steps.size == losses.size == 0
    with pytest.raises(DataError, match=r"validation/accuracy, found \['epoch', 'step'"):
        read_curve(metrics, "validation/accuracy")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "must have the columns"),
        ("epoch,train/loss\n0,1\n", "columns step"),
        ("step,train/loss\n0,good\n", "no number"),
        ("step,train/loss\n,0.5\n", "no number"),
    ],
)
def test_a_damaged_file_is_refused_by_name(text: str, match: str, metrics: Path):
    metrics.write_text(text)
    with pytest.raises(DataError, match=match) as refusal:
        read_curve(metrics, "train/loss")
    assert str(metrics) in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_curve(tmp_path / "metrics.csv", "train/loss")


def test_each_run_has_its_colour(metrics: Path, tmp_path: Path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    other = tmp_path / "other.csv"
    other.write_text("step,train/loss\n0,0.5\n1,0.2\n2,0.1\n")  # no validation at all
    curves_figure({"3D": metrics}, one)
    curves_figure({"3D": metrics, "P2SC2": other}, two)
    assert Image.open(two).size == (690, 240)
    assert share_of(one, BLUE) > 1e-4 < share_of(two, BLUE)
    assert share_of(one, ORANGE) == 0
    assert share_of(two, ORANGE) > 1e-4


def test_runs_without_curves_are_refused(metrics: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="at least one run"):
        curves_figure({}, tmp_path / "curves.png")
    metrics.write_text("step,train/loss\n")
    with pytest.raises(DataError, match="holds no train/loss"):
        curves_figure({"3D": metrics}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


ACTIONS = """epoch,step,train/loss,train/error,validation/loss,validation/top1
0,0,0.9,0.9,,
0,9,0.8,0.7,,
0,9,,,0.8,0.25
1,10,0.7,0.6,,
1,19,0.6,0.5,,
1,19,,,0.7,0.625
"""


@pytest.fixture
def error_panel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Draw runs given as text; returns the panels of the figure."""

    def draw(per_epoch: dict | None = None, **texts: str):
        drawn = []
        monkeypatch.setattr(curves, "save_png", lambda figure, path: drawn.append(figure))
        files = {name: tmp_path / f"{name}.csv" for name in texts}
        for name, file in files.items():
            file.write_text(texts[name])
        curves_figure(files, "curves.png", errors=True, per_epoch=per_epoch)
        return drawn[0].axes

    return draw


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]


def test_errors_stand_beside_the_losses_one_point_per_interval(error_panel):
    losses, errors = error_panel(a=ACTIONS)
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("iteration", "loss")
    assert (errors.get_xlabel(), errors.get_ylabel()) == ("iteration", "error")
    assert lines(errors) == [([10, 20], [0.7, 0.5]), ([10, 20], [0.75, 0.375])]
    training, validation = errors.lines
    assert training.get_linestyle() == "--"  # Figure 4a: training dashed, validation solid
    assert validation.get_linestyle() == "-"
    assert training.get_color() == validation.get_color()
    assert errors.yaxis.get_major_formatter()(0.5) == "50%"
    assert errors.get_ylim()[0] == 0


def test_errors_over_epochs_of_each_run(error_panel):
    _, errors = error_panel({"a": 5, "b": 20}, a=ACTIONS, b=ACTIONS)
    assert errors.get_xlabel() == "epoch"
    assert [x for x, _ in lines(errors)] == [[2, 4], [2, 4], [0.5, 1], [0.5, 1]]


def test_a_training_with_mixup_has_validation_errors_only(error_panel):
    mixed = "epoch,step,train/loss,validation/top1\n0,0,0.9,\n0,1,,0.25\n"
    _, errors = error_panel(a=mixed)
    assert lines(errors) == [([], []), ([2], [0.75])]


def test_without_logged_errors_the_losses_remain(error_panel, caplog: pytest.LogCaptureFixture):
    panels = error_panel(a="step,train/loss\n0,0.5\n")
    assert len(panels) == 1
    assert "losses only" in caplog.text


def sweep(*rows):
    return [dict(zip(("threshold", "split", "merge"), row, strict=True)) for row in rows]


SWEEP = sweep((0.1, 1.0, 0.1), (0.5, 0.3, 0.3), (0.9, 0.2, 1.1))


def test_the_threshold_figure_shows_every_sweep_whatever_its_order(tmp_path: Path):
    one, two, shuffled = (tmp_path / f"{name}.png" for name in ("one", "two", "shuffled"))
    threshold_figure({"3D": SWEEP}, one)
    threshold_figure({"3D": SWEEP, "P2SC2": sweep((0.1, 0.5, 0.05), (0.5, 0.1, 0.1))}, two)
    threshold_figure({"3D": [SWEEP[1], SWEEP[2], SWEEP[0]]}, shuffled)
    assert Image.open(one).size == (690, 240)
    assert share_of(one, ORANGE) == 0
    assert share_of(two, ORANGE) > 1e-4 < share_of(one, BLUE)
    np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(shuffled)))


@pytest.mark.parametrize(
    ("sweeps", "error", "match"),
    [
        ({}, ConfigError, "at least one sweep"),
        ({"3D": []}, DataError, "'3D' holds no threshold"),
        ({"3D": sweep((0.1, np.nan, 0.2))}, DataError, "finite"),
        ({"3D": sweep((0.1, 0.2, -0.1))}, DataError, "at least 0"),
    ],
)
def test_impossible_sweeps_are_refused(sweeps: dict, error: type, match: str, tmp_path: Path):
    with pytest.raises(error, match=match):
        threshold_figure(sweeps, tmp_path / "thresholds.png")
