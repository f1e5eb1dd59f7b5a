"""The figure of energy kept against separable terms."""

import sys

import pytest
import torch
from PIL import Image

from psc.block.block import separable_width
from psc.decomposition import compose, factorise
from psc.errors import ConfigError
from psc.paper import energy as module
from psc.paper.energy import energy_figure, kept_energy, stream_error_table, stream_errors


def separable_along(axis):
    generator = torch.Generator().manual_seed(axis)
    plane_shape, line_shape = [3, 3, 3], [1, 1, 1]
    plane_shape[axis], line_shape[axis] = 1, 3
    plane = torch.randn(1, 2, *plane_shape, generator=generator)
    line = torch.randn(4, 1, *line_shape, generator=generator)
    return compose(plane, line)


def test_one_term_keeps_all_of_a_separable_layer():
    kept = kept_energy(separable_along(0))
    assert kept.along_depth == pytest.approx((0, 1, 1, 1))
    assert kept.any_orientation == pytest.approx((0, 1, 1, 1))
    assert kept.by_width[0] == 0
    assert kept.by_width[-1] == pytest.approx(1)


def test_another_orientation_needs_another_stream():
    kept = kept_energy(separable_along(2))
    assert kept.along_depth[1] < 0.95
    assert kept.any_orientation[1] == pytest.approx(1)
    assert kept.along_depth[3] == pytest.approx(1)  # all slices of one axis are enough


def test_what_is_drawn_is_what_is_returned(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(module, "save_png", lambda figure, path: drawn.append(figure))
    numbers = energy_figure({"a": separable_along(0), "b": separable_along(1)}, tmp_path / "e.png")
    left, right = drawn[0].axes
    for axes, field in ((left, "any_orientation"), (right, "by_width")):
        lines = [tuple(line.get_ydata()) for line in axes.lines if line.get_linewidth() == 0.5]
        expected = [getattr(of, field) for of in (*numbers["random"], *numbers["trained"])]
        assert lines == expected
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert set(labels) >= {"trained", "random"}


@pytest.mark.usefixtures("full_resolution")
def test_the_script_reads_a_checkpoint_and_prints_the_means(monkeypatch, tmp_path, capsys):
    layers = {
        "network.conv.weight": separable_along(0),
        "network.head.weight": torch.ones(1, 2, 1, 1, 1),
    }
    torch.save({"state_dict": layers}, tmp_path / "best.ckpt")
    picture = tmp_path / "energy.png"
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "best.ckpt"), "--into", str(picture)])
    module.main()
    printed = capsys.readouterr().out
    assert "| trained | 100.0 % | 100.0 % | 100.0 % | 100.0 %" in printed
    assert "1 layers" in printed
    with Image.open(picture) as image:
        assert image.width == pytest.approx(6.9 * 300, abs=2)


@pytest.mark.parametrize("weight", [torch.ones(2, 2, 1, 3, 3), torch.zeros(2, 2, 3, 3, 3)])
def test_a_layer_without_such_kernels_is_refused(weight, tmp_path):
    with pytest.raises(ConfigError, match="3×3×3"):
        energy_figure({"layer": weight}, tmp_path / "energy.png")
    with pytest.raises(ConfigError, match="at least one layer"):
        energy_figure({}, tmp_path / "energy.png")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_stream_is_the_truncated_svd_either_way():
    weight = normal(6, 4, 3, 3, 3)
    expected = float(factorise(weight, 0, separable_width(4, 6))[1])
    assert stream_errors(weight, 1) == pytest.approx((expected, expected), abs=1e-12)


def test_at_equal_weights_summed_streams_gain_and_concatenated_ones_lose():
    # Summed streams have Eq. 5's number of weights; concatenated ones share fewer 2D filters.
    weight = normal(12, 8, 3, 3, 3)
    one, two = stream_errors(weight, 1), stream_errors(weight, 2)
    assert two[1] < one[1]
    assert two[0] > one[0]


def test_the_table_has_a_row_for_every_m():
    separable = compose(normal(1, 2, 1, 3, 3), normal(4, 1, 3, 1, 1, seed=1))
    rows = stream_error_table({"layer": separable}).splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {label}", m] for label in ("trained", "random") for m in "123"
    ]
    assert rows[0] == "| trained | 1 | 0.000 | 0.000 |"
    assert "0.000" not in rows[3]
