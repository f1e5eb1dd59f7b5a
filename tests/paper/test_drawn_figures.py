"""Figures 1–3 as drawn: complete, legible, nothing cut, and the same bytes every time."""

import logging

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.paper.drawing import SMALL, Page, kernel_reach, kernel_size
from psc.paper.figure_1 import block_figure
from psc.paper.figure_2 import decomposition_figure
from psc.paper.figure_3 import network_figure
from psc.paper.style import PAGE_WIDTH, save_figure

DRAWINGS = (block_figure, decomposition_figure, network_figure)


@pytest.fixture(scope="module")
def drawn():
    return {draw.__name__: draw() for draw in DRAWINGS}


@pytest.fixture(params=[draw.__name__ for draw in DRAWINGS])
def figure(request, drawn):
    return drawn[request.param]


def visible(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def words(figure):
    return {text.get_text() for text in visible(figure)}


def test_it_is_written_legible_and_neither_cut_nor_overlapping(figure, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pdf, png = save_figure(figure, tmp_path / "new" / "folder", "figure")
    assert not caplog.records  # matplotlib would complain of a missing font
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in pdf.read_bytes()
    assert sorted(p.name for p in pdf.parent.iterdir()) == ["figure.pdf", "figure.png"]
    with Image.open(png) as image:
        assert image.width == pytest.approx(PAGE_WIDTH * 100, abs=1)
        pixels = np.asarray(image.convert("L"))
    for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (border == 255).all()
    renderer = FigureCanvasAgg(figure).get_renderer()
    assert figure.get_figwidth() == PAGE_WIDTH
    boxes = []
    for text in visible(figure):
        assert text.get_fontsize() >= SMALL >= 6
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        boxes.append((text.get_text(), box))
    for i, (one, box) in enumerate(boxes):
        for other, its in boxes[i + 1 :]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            up = min(box.y1, its.y1) - max(box.y0, its.y0)
            # Boxes have room for letters that reach lower; half a point of that may be shared.
            assert min(across, up) < figure.dpi / 72 * 1.5, (one, other)


def test_the_same_drawing_is_the_same_bytes(tmp_path):
    once, again = (save_figure(block_figure(blocks=[]), tmp_path / name, "figure") for name in "ab")
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_neither_file_is_left_if_one_fails(tmp_path, monkeypatch):
    figure = Page(1, 1).figure

    def fail(*args, **options):
        raise OSError("no room")

    monkeypatch.setattr(FigureCanvasAgg, "print_figure", fail)
    with pytest.raises(DataError, match="no room"):
        save_figure(figure, tmp_path, "figure")
    assert not list(tmp_path.iterdir())


def test_figures_say_what_was_walked(drawn):
    # Weights and biases of the U-Net's second level, by hand.
    full = 24 * 72 * 27 + 72 + 72 * 72 * 27 + 72
    streams = 2 * (24 * 54 * 9 + 54 + 54 * 54 * 9 + 54 + 54 * 36 * 5 + 36)
    said = words(block_figure(blocks=[(2, 2)]))
    assert {f"{full:,}", f"{streams:,}", "P₂SC₂", "1×3×3", "3×1×3", "5×1×1", "1×5×1"} <= said
    assert "P₃SC₂" not in said
    assert "54" in said
    said = words(drawn["network_figure"])
    for parameters in ("25,178,811", "63,527,717", "1,890,724"):
        assert f"{parameters} parameters" in said
    assert "15,698,611 parameters (−38 %)" in said
    assert "50,048,535 parameters (−21 %)" in said
    assert {"486", "324", "648 · 9³", "1× 230 → 230 → 128"} <= said


def test_a_block_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="m=4"):
        block_figure(blocks=[(4, 2)])


@pytest.mark.parametrize("kernel", [(3, 3, 3), (7, 1, 1), (1, 7, 1), (1, 1, 5), (1, 3, 3)])
def test_arrows_meet_a_kernel_within_its_extent(kernel):
    above, below = kernel_reach(kernel, 1.0)
    assert 0 < above <= kernel_size(kernel, 1.0)[1] / 2
    # A box seen like this is symmetric about its centre.
    assert above == pytest.approx(below)
