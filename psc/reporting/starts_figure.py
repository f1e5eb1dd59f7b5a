"""Trainings that begin in different ways: validation loss from the first moment on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from psc.errors import ConfigError
from psc.reporting.canvas import PAGE_WIDTH, checked_png, page_style, save_png
from psc.reporting.curves import colour, marker, read_curve

__all__ = ["StartCurves", "starts_figure"]


@dataclass(frozen=True)
class StartCurves:
    """One way to begin, trained with one or more seeds.

    Attributes:
        label: what the legend calls it.
        metrics_csv: of each seed's run; they were validated at the same iterations.
        before: validation loss of each seed before the first iteration; empty if not measured.
    """

    label: str
    metrics_csv: Sequence[Path]
    before: Sequence[float]

    def points(self) -> tuple[list[int], list[float]]:
        """Iterations and the mean validation loss over seeds.

        Raises:
            ConfigError: if seeds were validated at different iterations.
            DataError: if a file cannot be read.
        """
        curves = [read_curve(path, "validation/loss") for path in self.metrics_csv]
        steps = curves[0][0]
        if any(not np.array_equal(steps, other) for other, _ in curves):
            raise ConfigError(f"{self.label}: seeds were validated at different iterations")
        x, y = list(steps + 1), list(np.mean([values for _, values in curves], axis=0))
        if self.before:
            x, y = [0, *x], [float(np.mean(self.before)), *y]
        return x, y


def starts_figure(
    panels: Mapping[str, Sequence[StartCurves]], path: Path, *, reference: float | None = None
) -> None:
    """A panel per network, a curve per way to begin; one scale for all.

    Args:
        panels: curves by the panel's title.
        path: the PNG to write.
        reference: a loss to compare with, drawn as a dashed line.

    Raises:
        ConfigError: for no curve, seeds that do not fit, or a path that is no PNG.
        DataError: if a file cannot be read.
    """
    path = checked_png(path)
    if not panels or not all(panels.values()):
        raise ConfigError("a figure of starts needs at least one curve in every panel")
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, 2.4), layout="constrained")
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, starts) in zip(all_axes, panels.items(), strict=True):
            for i, start in enumerate(starts):
                x, y = start.points()
                axes.plot(x, y, color=colour(i), marker=marker(i), markersize=3, label=start.label)
            if reference is not None:
                axes.axhline(reference, color="0.4", linestyle=(0, (4, 2)), linewidth=0.8)
            axes.set(title=title, xlabel="iteration")
            axes.legend()
        all_axes[0].set_ylabel("validation loss")
        save_png(figure, path)
