"""Confusion matrix of action recognition as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from psc.paper.style import PAGE_WIDTH, page_style, save_png


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw the share of each true class's videos (rows) that each class (columns) was given."""
    count = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion, count, out=np.zeros(confusion.shape), where=count > 0)
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH * 0.7, PAGE_WIDTH * 0.6), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(share, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="true class")
        if len(classes) <= 30:  # of more, names would overlap; of more than 12, numbers
            axes.set_xticks(range(len(classes)), classes, rotation=90)
            axes.set_yticks(range(len(classes)), classes)
        if len(classes) <= 12:
            for (row, column), videos in np.ndenumerate(confusion):
                shade = "black" if share[row, column] > 0.5 else "white"
                axes.text(column, row, str(videos), ha="center", va="center", color=shade)
        figure.colorbar(image, ax=axes, label="share of the class's videos")
        save_png(figure, path)
