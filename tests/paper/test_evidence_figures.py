"""The figures of scores against costs and of training: what is drawn, read back from the figure."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.paper import compare, curves
from psc.paper.account import Cost
from psc.paper.compare import tradeoff_figure
from psc.paper.curves import learning_figure
from psc.paper.groups import Group

FLOOR = 4.0  # of all records here


@pytest.fixture
def panels(monkeypatch):
    """Draw; returns the panels of the figure."""

    def draw(*comparisons, by=tradeoff_figure):
        drawn = []
        for module in (compare, curves):
            monkeypatch.setattr(module, "save_png", lambda figure, path: drawn.append(figure))
        by(*comparisons, "figure.png")
        return drawn[0].axes

    return draw


def points(axes):
    lines = [container.lines[0] for container in axes.containers]
    return sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines)


@pytest.fixture
def three(make_record):
    """A row of three networks, the last without known FLOPs and time; and what they cost."""

    def group(block, *totals, seconds=None):
        records = [make_record(block, seed=s, total=total) for s, total in enumerate(totals)]
        spent = {} if seconds is None else {"training": seconds}
        return Group(tuple(replace(record, wall_seconds=spent) for record in records))

    row = {
        "3d": group("3d", 0.9, 1.3, 1.7, seconds=420.0),
        "p2sc2": group("p2sc2", 1.7, seconds=480.0),
        "p1sc1": group("p1sc1", 1.1, 1.2, 1.3),
    }
    numbers = ((300_000, 2_000_000_000), (190_000, 1_400_000_000), (170_000, None))
    return row, {g: Cost(*cost) for g, cost in zip(row.values(), numbers, strict=True)}


def test_error_against_parameters_flops_and_training_time(panels, three):
    row, costs = three
    left, middle, right = panels([row], costs)
    assert points(left) == [
        (170_000, pytest.approx(1.2)), (190_000, 1.7), (300_000, pytest.approx(1.3))
    ]  # fmt: skip
    assert [x for x, _ in points(middle)] == [2.8e9, 4e9]  # one has no known FLOPs
    assert [x for x, _ in points(right)] == [7, 8]  # nor a measured time
    assert left.get_title(loc="left") == "d: SYNTHETIC data, no result of the paper's"
    assert "parameters" in left.get_xlabel()
    assert "FLOPs" in middle.get_xlabel()
    assert "minutes of training" in right.get_xlabel()
    assert left.get_ylabel() == "VI (bits), lower is better"
    assert "patch" in middle.get_xlabel()
    assert [text.get_text() for text in left.texts] == ["no network: 4.00 ↑"]


def test_a_network_looks_the_same_in_every_panel_and_bars_are_deviations(panels, three):
    row, costs = three
    left, middle, right = panels([row], costs)
    looks = [
        {c.get_label(): (c.lines[0].get_color(), c.lines[0].get_marker()) for c in axes.containers}
        for axes in (left, middle, right)
    ]
    assert len(set(looks[0].values())) == 3
    assert looks[1].items() <= looks[0].items()
    assert looks[2].items() <= looks[0].items()
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["3d", "p2sc2", "p1sc1"]  # also one that this panel does not have
    bars = [c.lines[2][0].get_segments()[0] for c in left.containers if c.has_yerr]
    spans = sorted((float(bar[0][1]), float(bar[1][1])) for bar in bars)
    assert spans == [pytest.approx((0.9, 1.7)), pytest.approx((1.1, 1.3))]
    for axes in (left, middle, right):
        low, high = axes.get_ylim()
        assert low < 0.9 < 1.7 < high < FLOOR
        first, last = axes.get_xlim()
        assert all(first < x < last for x, _ in points(axes))


def test_what_cannot_be_compared_is_in_rows_of_its_own(panels, three, make_video_record):
    row, costs = three
    actions = Group((make_video_record(),))
    costs |= {actions: Cost(10, 10)}
    axes = panels([row, {"3d": actions}], costs)
    assert [len(points(panel)) for panel in axes] == [3, 2, 2, 1, 1, 1]
    assert axes[3].get_title(loc="left").startswith("v: ")
    assert all("%" in panel.yaxis.get_major_formatter()(0.5) for panel in axes[3:])
    assert "%" not in axes[0].yaxis.get_major_formatter()(0.5)
    assert axes[3].get_ylabel() == "top-1 accuracy, higher is better"
    assert "clip" in axes[4].get_xlabel()
    assert [text.get_text() for text in axes[3].texts] == ["chance"]
    assert axes[3].texts[0].xy[1] == pytest.approx(1 / 60)


@pytest.mark.usefixtures("full_resolution")
def test_the_file_is_a_page_wide(tmp_path, three):
    row, costs = three
    tradeoff_figure([row], costs, tmp_path / "tradeoff.png")
    assert Image.open(tmp_path / "tradeoff.png").size == (2070, 720)


@pytest.fixture
def metrics(tmp_path):
    """Write a metrics.csv with these validation losses, of one second an iteration."""

    def write(name, losses):
        rows = [f"{step},{step + 1}.0,{loss}" for step, loss in losses.items()]
        (tmp_path / name).write_text("\n".join(["step,seconds,validation/loss", *rows]))
        return tmp_path / name

    return write


def test_seeds_are_a_band_over_what_all_have_validated(panels, metrics):
    seeds = [metrics("a", {9: 1.0, 19: 0.5, 29: 0.4}), metrics("b", {9: 0.6, 19: 0.7})]
    left, right = panels({"3d": seeds, "p2sc2": seeds[:1]}, by=learning_figure)
    mean, alone = left.lines
    np.testing.assert_array_equal(mean.get_xdata(), [10, 20])
    np.testing.assert_allclose(mean.get_ydata(), [0.8, 0.6])
    np.testing.assert_array_equal(alone.get_ydata(), [1.0, 0.5, 0.4])
    (band,) = left.collections  # a single run has none
    assert {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()} == {
        *((10, 0.6), (10, 1.0), (20, 0.5), (20, 0.7)),
    }
    np.testing.assert_allclose(right.lines[0].get_xdata(), [10 / 60, 20 / 60])
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["3d, 2 runs", "p2sc2, 1 run"]


def test_scores_of_checkpoints_are_a_second_row_at_the_time_of_their_iteration(panels, metrics):
    runs = {"3d": [metrics("a", {9: 1.0, 19: 0.5}), metrics("b", {9: 0.6, 19: 0.7})]}
    tested = {"3d": [{10: 2.0, 20: 1.0}, {10: 1.0}]}

    def draw(runs, path):
        learning_figure(runs, path, tested, "VI [bits]")

    *_, left, right = panels(runs, by=draw)
    assert left.get_ylabel() == "VI [bits]"
    np.testing.assert_array_equal(left.lines[0].get_xydata(), [[10, 1.5]])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[10 / 60, 1.5]])


def test_a_single_peak_does_not_flatten_a_panel(panels, metrics):
    losses = {step: 0.3 + step / 1e4 for step in range(0, 1000, 25)}
    left, right = panels({"3d": [metrics("a", losses)]}, by=learning_figure)
    low, high = left.get_ylim()
    assert low < 0.3 < 0.3975 < high
    left, right = panels({"3d": [metrics("b", losses | {500: 5.0})]}, by=learning_figure)
    for axes in (left, right):
        low, high = axes.get_ylim()
        assert low < 0.3 < 0.3975 < high < 0.5


def test_the_clock_of_a_resumed_run_goes_on(panels, metrics):
    file = metrics("a", {9: 1.0, 19: 0.5, 29: 0.4})
    file.write_text(file.read_text().replace("29,30.0", "29,5.0"))  # the second attempt's clock
    _, right = panels({"3d": [file]}, by=learning_figure)
    np.testing.assert_allclose(right.lines[0].get_xdata(), [10 / 60, 20 / 60, 25 / 60])


def test_counted_operations_have_panels_between_iterations_and_time(panels, metrics):
    runs = {"3d": [metrics("a", {9: 1.0, 19: 0.5})], "p1sc1": [metrics("b", {9: 0.6, 19: 0.7})]}

    def draw(runs, path):
        scores = {name: [{20: 2.0}] for name in runs}
        flops = {"3d": 3 * 10**13, "p1sc1": 10**13}
        learning_figure(runs, path, scores, "VI [bits]", flops)

    axes = panels(runs, by=draw)
    assert [panel.get_xlabel().split(",")[0] for panel in axes] == [
        "iteration",
        "PFLOP",
        "minutes",
    ] * 2
    for panel, points in ((axes[1], 2), (axes[4], 1)):
        full, separable = (line.get_xdata() for line in panel.lines)
        np.testing.assert_allclose(full, [0.3, 0.6][-points:])
        np.testing.assert_allclose(separable, [0.1, 0.2][-points:])


def test_without_tested_checkpoints_scores_are_of_the_validation_part(
    panels, make_tissue_record, make_video_record, make_record, tmp_path
):
    def draw(record, columns, *rows):
        metrics = tmp_path / "metrics.csv"
        metrics.write_text("\n".join([f"step,validation/loss,{columns}", *rows]))
        group = Group((record,))

        def drawn(path):
            compare._draw_learning({"3d": group}, {"3d": [metrics]}, {group: Cost(9, 10)}, path)

        return panels(by=drawn)

    dice = ",".join(f"validation/dice_{tissue}" for tissue in ("csf", "gm", "wm"))
    recipe = {"batch_size": 4}
    axes = draw(make_tissue_record(recipe=recipe), dice, "9,1.0,0.3,0.6,0.9", "19,0.5,0.5,0.8,0.8")
    assert axes[3].get_ylabel() == "mean Dice of the tissues, validation"
    np.testing.assert_allclose(axes[3].lines[0].get_xydata(), [[10, 0.6], [20, 0.7]])
    (_, last) = axes[4].lines[0].get_xdata()
    assert last == pytest.approx(20 * 4 * 3 * 2 * 10 / 1e15)
    axes = draw(make_video_record(), "validation/top1,train/error", "9,1.0,0.25,0.5")
    assert axes[3].lines[0].get_ydata() == [0.25]
    assert len(draw(make_video_record(), "train/error", "9,1.0,0.5")) == 3  # was not logged
    assert len(draw(make_record(), "train/stage", "9,1.0,1.0")) == 3  # no such score in EM


def test_scores_and_errors_against_the_amount_of_training_data(panels, make_video_record, tmp_path):
    metrics = "step,validation/top1,train/error,train/loss,validation/loss\n4,{},{},1,1\n"

    def group(block, videos, *errors):
        records, files = [], []
        for seed, error in enumerate(errors):
            splits = {"videos": {"train": videos, "validation": 10, "test": 40}}
            records.append(make_video_record(block, seed=seed, top1=1 - error, splits=splits))
            files.append(tmp_path / f"{block}-{videos}-{seed}.csv")
            files[-1].write_text(metrics.format(1 - error / 2, error / 4))
        return Group(tuple(records)), files

    made = [group("3d", 20, 0.6, 0.8), group("p2sc2", 20, 0.5), group("3d", 160, 0.4)]
    scores, errors = panels(*zip(*made, strict=True), by=compare._draw_data_efficiency)
    assert scores.get_title(loc="left") == "v: SYNTHETIC data, no result of the paper's"
    assert scores.get_xlabel() == "videos to train on"
    full, separable = scores.lines
    np.testing.assert_allclose(full.get_xydata(), [[20, 0.3], [160, 0.6]])
    np.testing.assert_allclose(separable.get_xydata(), [[20, 0.5]])
    training, validation, *_ = errors.lines
    np.testing.assert_allclose(training.get_xydata(), [[20, 0.175], [160, 0.1]])
    np.testing.assert_allclose(validation.get_xydata(), [[20, 0.35], [160, 0.2]])
    assert training.get_linestyle() == "--"
    named = [text.get_text() for text in errors.get_legend().get_texts()]
    assert named == ["3d", "p2sc2", "training", "validation"]
    made[0][1][0].write_text("step,validation/top1\n")  # no error was logged
    (scores,) = panels(*zip(*made, strict=True), by=compare._draw_data_efficiency)
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["3d", "p2sc2"]


def test_seeds_that_were_never_validated_together_are_refused(metrics, tmp_path):
    files = [metrics("a", {9: 1.0}), metrics("b", {19: 0.7})]
    with pytest.raises(DataError, match="no iteration that all were validated at"):
        learning_figure({"3d": files}, tmp_path / "learning.png")
    with pytest.raises(ConfigError, match="at least one run"):
        learning_figure({}, tmp_path / "learning.png")
