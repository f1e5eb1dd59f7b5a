"""The pictures of a report as one PNG, for slides and for terminals without a browser."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib import patheffects
from matplotlib.figure import Figure

from psc.reporting.canvas import GAP, PAGE_WIDTH, add_scale_bar, page_style, save_png, show_image
from psc.viewing.layers import Scene
from psc.viewing.pictures import PictureRow

__all__ = ["write_png"]

_MARGIN = 0.1  # inches
_LINE = 0.13  # inches, of a line of type
_CHARACTERS = 118  # on a line of the page
_TITLE = 0.2  # inches above a panel


def write_png(scene: Scene, rows: Sequence[PictureRow], path: Path) -> None:
    """Write rows of panels under each other, each with its heading, as wide as a page.

    Args:
        scene: its title and scores stand above.
        rows: at least one; panels of a row are of equal size.
        path: the .png; see ``psc.reporting.canvas.save_png``.
    """
    head = [scene.title, *_score_lines(scene)]
    most = max(len(row.pictures) for row in rows)
    inside = PAGE_WIDTH - 2 * _MARGIN
    blocks = []
    for row in rows:
        image, pixel = row.pictures[0].image, row.pictures[0].pixel_size
        width = (inside - (most - 1) * GAP) / most
        ratio = image.shape[0] * pixel[0] / (image.shape[1] * pixel[1])
        text = textwrap.wrap(row.text, _CHARACTERS)
        blocks.append((row, text, width, width * ratio))
    gaps = sum(_LINE * (2 + len(text)) + _TITLE + tall for _, text, _, tall in blocks)
    height = 2 * _MARGIN + _LINE * len(head) + gaps
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, height))
        y = height - _MARGIN
        for i, line in enumerate(head):
            y -= _LINE
            _write(figure, line, y, bold=i == 0)
        for row, text, width, tall in blocks:
            y -= 2 * _LINE
            _write(figure, row.heading, y, bold=True)
            for line in text:
                y -= _LINE
                _write(figure, line, y)
            y -= _TITLE + tall
            _panels(figure, row, y, width, tall)
        save_png(figure, path)


def _panels(figure: Figure, row: PictureRow, bottom: float, width: float, tall: float) -> None:
    page, height = figure.get_size_inches()
    for i, picture in enumerate(row.pictures):
        left = _MARGIN + i * (width + GAP)
        panel = figure.add_axes((left / page, bottom / height, width / page, tall / height))
        show_image(panel, picture.image, [picture.title])
        (ring,) = panel.plot(
            picture.mark[1] - 0.5, picture.mark[0] - 0.5, "o", mfc="none", mec="white", ms=7, mew=1
        )
        ring.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="black")])
        if i == 0 and picture.in_nm:
            add_scale_bar(panel, picture.image.shape[:2], picture.pixel_size[1])


def _score_lines(scene: Scene) -> list[str]:
    lines = [scene.facts["data"]] if "data" in scene.facts else []
    for name, scores in scene.scores.items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items()))
    return lines


def _write(figure: Figure, text: str, y: float, *, bold: bool = False) -> None:
    page, height = figure.get_size_inches()
    weight = "bold" if bold else "normal"
    figure.text(_MARGIN / page, y / height, text, weight=weight, va="bottom")
