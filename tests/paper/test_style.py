import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.paper.style import (
    add_scale_bar,
    bounding_box,
    page_style,
    panel_rows,
    save_png,
    show_image,
)


def test_figures_leave_no_global_state():
    program = "import psc.paper.style, sys; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "psc.paper.style" in loaded
    assert not {"matplotlib.pyplot", "lightning", "hydra", "wandb"} & set(loaded)


def test_page_style_is_the_same_for_everyone_and_ends_with_the_block():
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "red"}):
        with page_style():
            assert mpl.rcParams["font.size"] == 7
            assert mpl.rcParams["axes.facecolor"] == mpl.rcParamsDefault["axes.facecolor"]
        assert mpl.rcParams["font.size"] == 31
        assert mpl.rcParams["axes.facecolor"] == "red"


def test_only_png_is_written():
    with pytest.raises(ConfigError, match=r"b\.pdf"):
        save_png(Figure(), Path("a/b.pdf"))


@pytest.mark.usefixtures("full_resolution")
def test_a_figure_appears_complete_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new" / "figure.png"
    save_png(Figure(figsize=(2, 1)), path)
    assert Image.open(path).size == (600, 300)
    before = path.read_bytes()

    def fail_half_way(self: object, target: Path, **_: object) -> None:
        Path(target).write_bytes(before[:50])
        raise OSError("disk full")

    monkeypatch.setattr("psc.paper.style.FigureCanvasAgg.print_figure", fail_half_way)
    with pytest.raises(DataError, match="disk full"):
        save_png(Figure(figsize=(3, 3)), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("count", "shape", "pixel", "width"),
    [
        (3, (50, 50), (1.0, 1.0), 6.9),
        (4, (20, 80), (4.0, 1.0), 6.9),
        (8, (9, 7), (2.0, 3.0), 10.85),
    ],
)
def test_panels_have_the_images_proportions(
    count: int, shape: tuple[int, int], pixel: tuple[float, float], width: float
):
    ratios = [shape[0] * pixel[0] / (shape[1] * pixel[1]), 0.5]
    figure, rows = panel_rows(ratios, [count, 2], heads=[["one"], ["two", "more"]])
    assert [len(panels) for panels in rows] == [count, 2]
    assert figure.get_figwidth() == pytest.approx(width)
    for panel, ratio in [(rows[0][0], ratios[0]), (rows[0][-1], ratios[0]), (rows[1][1], 0.5)]:
        box = panel.get_position()
        found = (box.height * figure.get_figheight()) / (box.width * figure.get_figwidth())
        assert found == pytest.approx(ratio)
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
    heads = {text.get_text(): text.get_position()[1] for text in figure.texts}
    edges = [rows[0][0].get_position().y1, rows[0][0].get_position().y0]
    assert heads["one"] > edges[0] > edges[1] > heads["two"] > heads["more"]
    assert heads["more"] > rows[1][0].get_position().y1


@pytest.mark.parametrize(
    ("columns", "nanometres", "pixels", "label"),
    [(250, 8, 62.5, "500 nm"), (100, 8, 25, "200 nm"), (1000, 10, 200, "2 µm"), (10, 1, 2, "2 nm")],
)
def test_the_scale_bar_has_the_longest_round_length_that_fits(
    columns: int, nanometres: float, pixels: float, label: str
):
    _, ((panel,),) = panel_rows([80 / columns], 1, title_lines=0)
    show_image(panel, np.zeros((80, columns)), [])
    add_scale_bar(panel, columns * nanometres)
    (bar,) = panel.patches
    assert bar.get_width() * columns == pytest.approx(pixels)
    assert [text.get_text() for text in panel.texts] == [label]


def test_the_box_around_what_is_true():
    mask = np.zeros((6, 7, 8), dtype=bool)
    assert bounding_box(mask) is None
    mask[2, 3, 0] = mask[4, 3, 5] = True
    assert bounding_box(mask) == (slice(2, 5), slice(3, 4), slice(0, 6))
    assert bounding_box(mask, 3) == (slice(0, 6), slice(0, 7), slice(0, 8))
