"""The trade-off figure: what is drawn where, read back from the figure itself."""

from itertools import pairwise

import pytest
from PIL import Image

from psc.errors import ConfigError
from psc.paper import tradeoff
from psc.paper.measures import AFFINITY, VIDEO
from psc.paper.tradeoff import Panels, Point, tradeoff_figure

THREE = (
    Point("3d", None, 300_000, 4_000_000_000, 1.3, 0.4),
    Point("p2sc2", 2, 190_000, 2_800_000_000, 1.7, None),
    Point("p1sc1", 1, 170_000, None, 1.2, 0.1),
)
TITLE = "d: SYNTHETIC data, no result of the paper's"


@pytest.fixture
def panels(monkeypatch):
    """Draw; returns the panels of the figure."""

    def draw(*comparisons):
        drawn = []
        monkeypatch.setattr(tradeoff, "save_png", lambda figure, path: drawn.append(figure))
        tradeoff_figure(comparisons, "figure.png")
        return drawn[0].axes

    return draw


def points(axes):
    lines = [container.lines[0] for container in axes.containers]
    return sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines)


def names(axes):
    return {text.get_text(): text for text in axes.texts}


def test_error_against_parameters_and_against_flops(panels):
    left, right = panels(Panels(TITLE, THREE, 2.8, AFFINITY))
    assert points(left) == [(170_000, 1.2), (190_000, 1.7), (300_000, 1.3)]
    assert points(right) == [(2.8e9, 1.7), (4e9, 1.3)]  # one has no known FLOPs
    assert set(names(left)) == {"3d", "p2sc2", "p1sc1", "no network"}
    assert set(names(right)) == {"3d", "p2sc2", "no network"}
    assert "SYNTHETIC" in left.get_title(loc="left")
    assert "parameters" in left.get_xlabel()
    assert "FLOPs" in right.get_xlabel()
    assert left.get_ylabel() == "VI (bits), lower is better"
    assert "patch" in right.get_xlabel()


def test_a_name_belongs_to_its_point_and_bars_are_deviations(panels):
    left, _ = panels(Panels(TITLE, THREE, 2.8, AFFINITY))
    for network in THREE:
        assert names(left)[network.name].xy == (network.parameters, network.score)
    bars = [c.lines[2][0].get_segments()[0] for c in left.containers if c.has_yerr]
    spans = sorted((float(bar[0][1]), float(bar[1][1])) for bar in bars)
    assert spans == [pytest.approx((0.9, 1.7)), pytest.approx((1.1, 1.3))]


@pytest.mark.parametrize("baseline", [0.5, 2.8])
def test_everything_is_within_the_panel(panels, baseline):
    for axes in panels(Panels(TITLE, THREE, baseline, AFFINITY)):
        low, high = axes.get_ylim()
        assert low < min(0.9, baseline)
        assert max(1.7, baseline) < high
        left, right = axes.get_xlim()
        assert all(left < x < right for x, _ in points(axes))
        heights = sorted(text.xyann[1] for text in axes.texts if text.get_text() != "no network")
        assert all(b - a > 0.05 for a, b in pairwise(heights))
        assert heights[0] >= 0
        assert heights[-1] <= 1


def test_names_of_equal_points_do_not_hide_each_other(panels):
    equal = [Point(f"p1sc{n}", 1, 10, 20, 1.0, None) for n in range(1, 10)]
    for axes in panels(Panels(TITLE, equal, 1.0, AFFINITY)):
        heights = sorted(text.xyann[1] for text in axes.texts if text.get_text() != "no network")
        assert len(heights) == 9
        assert all(b - a > 0.05 for a, b in pairwise(heights))


def test_what_cannot_be_compared_is_in_rows_of_its_own(panels, tmp_path):
    axes = panels(
        Panels(TITLE, THREE[:2], 2.8, AFFINITY),
        Panels("other: real data", THREE[2:], 2, AFFINITY),
    )
    assert [len(points(panel)) for panel in axes] == [2, 2, 1, 0]
    assert [panel.get_title(loc="left") for panel in axes[::2]] == [TITLE, "other: real data"]


def test_accuracy_is_in_percent_higher_and_above_chance(panels):
    networks = [Point("3d", None, 10, 20, 0.5, 0.01), Point("p2sc2", 2, 5, 10, 0.75, None)]
    for axes in panels(Panels(TITLE, networks, 0.25, VIDEO)):
        assert set(names(axes)) == {"3d", "p2sc2", "chance"}
        assert names(axes)["chance"].xy[1] == 0.25
        assert [y for _, y in points(axes)] == [0.75, 0.5]
        assert axes.yaxis.get_major_formatter()(0.5) == "50%"
    left, right = panels(Panels(TITLE, networks, 0.25, VIDEO))
    assert left.get_ylabel() == "top-1 accuracy, higher is better"
    assert "clip" in right.get_xlabel()


def test_applications_are_rows_each_in_its_unit(panels):
    segmentation = Panels(TITLE, THREE, 2.8, AFFINITY)
    actions = Panels("v: real data", [Point("3d", None, 10, 20, 0.5, None)], 0.01, VIDEO)
    axes = panels(segmentation, actions)
    assert [panel.yaxis.get_major_formatter()(0.5) for panel in axes[2:]] == ["50%", "50%"]
    assert "%" not in axes[0].yaxis.get_major_formatter()(0.5)


def test_the_file_is_a_page_wide(tmp_path):
    tradeoff_figure([Panels(TITLE, THREE, 2.8, AFFINITY)], tmp_path / "tradeoff.png")
    assert Image.open(tmp_path / "tradeoff.png").size == (2070, 780)


@pytest.mark.parametrize("comparisons", [[], [Panels(TITLE, (), 1.0, AFFINITY)]])
def test_nothing_to_compare(comparisons, tmp_path):
    with pytest.raises(ConfigError, match="at least one network"):
        tradeoff_figure(comparisons, tmp_path / "tradeoff.png")
