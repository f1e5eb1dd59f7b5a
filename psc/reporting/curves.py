"""Curves: how training went, and how a segmentation depends on the agglomeration threshold."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from psc.errors import ConfigError, DataError
from psc.reporting.canvas import PAGE_WIDTH, checked_png, page_style, save_png

__all__ = ["curves_figure", "read_curve", "threshold_figure"]

_Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

# Okabe and Ito's colours, told apart with any colour vision; markers repeat the distinction.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_HEIGHT = 2.4  # inches
_SMOOTHED_PARTS = 50  # a training curve is averaged over a fiftieth of its points


def _marker(i: int) -> str:
    """Markers go round out of step with the colours, so that 49 curves differ."""
    return _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)]


def curves_figure(metrics_csv: Mapping[str, Path], path: Path | str) -> None:
    """Training and validation loss against the iteration, one colour for each run.

    Training loss is that of one small batch and noisy, so it is drawn faintly and its running mean
    over a fiftieth of the points as a dashed line; validation loss is a solid line with markers.

    Args:
        metrics_csv: the ``metrics.csv`` of run folders, by label, at least one.
        path: the PNG to write.

    Raises:
        DataError: a file is missing or lacks the columns ``step`` and ``train/loss``, a value is no
            number, or a run has logged no training loss.
        ConfigError: no run, or a path that is no PNG.
    """
    path = checked_png(path)
    if not metrics_csv:
        raise ConfigError("a figure of curves needs at least one run")
    training = {label: read_curve(file, "train/loss") for label, file in metrics_csv.items()}
    validation = {
        label: read_curve(file, "validation/loss", required=False)
        for label, file in metrics_csv.items()
    }
    for label, (steps, _) in training.items():
        if steps.size == 0:
            raise DataError(f"{metrics_csv[label]} holds no train/loss: has the run logged a step?")
    with page_style():
        figure, (axes,) = _figure_of_axes(1)
        for i, label in enumerate(metrics_csv):
            colour = _COLOURS[i % len(_COLOURS)]
            steps, losses = training[label]
            axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.5)
            axes.plot(*_smoothed(steps, losses), color=colour, linestyle=(0, (4, 1.5)))
            axes.plot(*validation[label], color=colour, marker=_marker(i), markersize=3)
        axes.set(xlabel="iteration", ylabel="loss")
        _positive_range(axes, [losses for _, losses in (*training.values(), *validation.values())])
        runs = [
            Line2D([], [], color=_COLOURS[i % len(_COLOURS)], marker=_marker(i), markersize=3)
            for i in range(len(metrics_csv))
        ]
        kinds = [
            Line2D([], [], color="0.3", linestyle=(0, (4, 1.5))),
            Line2D([], [], color="0.3", marker="o", markersize=3),
        ]
        axes.legend(
            runs + kinds,
            [*metrics_csv, "training", "validation"],
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
        )
        save_png(figure, path)


def threshold_figure(
    sweeps: Mapping[str, Sequence[tuple[float, float, float]]], path: Path | str
) -> None:
    """Variation of information over the agglomeration threshold, one colour for each network.

    Left: split against merge, one point for each threshold; nearer to the origin is better. Right:
    their sum against the threshold. The best threshold of each is a filled marker in both.

    Args:
        sweeps: (threshold, VI split, VI merge) in bits, by label, at least one of each.
        path: the PNG to write.

    Raises:
        DataError: a sweep is empty, holds a number that is not finite, or a negative VI.
        ConfigError: no sweep, or a path that is no PNG.
    """
    path = checked_png(path)
    if not sweeps:
        raise ConfigError("a figure of thresholds needs at least one sweep")
    tables = {label: _sweep_table(label, sweep) for label, sweep in sweeps.items()}
    with page_style():
        figure, (left, right) = _figure_of_axes(2)
        for i, (label, (thresholds, split, merge)) in enumerate(tables.items()):
            colour, marker = _COLOURS[i % len(_COLOURS)], _marker(i)
            total = split + merge
            best = int(np.argmin(total))
            for axes, x, y in ((left, merge, split), (right, thresholds, total)):
                axes.plot(x, y, color=colour, marker=marker, markersize=2.5, markerfacecolor="w")
                axes.plot(x[best], y[best], color=colour, marker=marker, markersize=5.5)
            text = f"{label}: {total[best]:.2f} at {thresholds[best]:g}"
            right.plot([], [], color=colour, marker=marker, markersize=5.5, label=text)
        left.set(xlabel="VI merge (bits)", ylabel="VI split (bits)", xlim=(0, None), ylim=(0, None))
        right.set(xlabel="agglomeration threshold", ylabel="VI (bits)", ylim=(0, None))
        right.legend(title="lowest VI", alignment="left")
        save_png(figure, path)


def read_curve(metrics_csv: Path, column: str, *, required: bool = True) -> _Curve:
    """Read one quantity from the ``metrics.csv`` of a run folder.

    A row holds only what was logged together, so most cells of a column are empty. Of several
    values for a step the last one counts, and a row cut short by a kill is dropped. Lightning's
    CSVLogger writes the same form.

    Args:
        metrics_csv: the file.
        column: name of the quantity.
        required: refuse a file without the column, which otherwise is an empty curve.

    Returns:
        Steps int64 (N,), ascending, and values float64 (N,).

    Raises:
        DataError: the file is missing, or lacks the column or ``step``, or a value is no number.
    """
    values: dict[int, float] = {}
    try:
        with Path(metrics_csv).open(newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            if "step" not in columns or (required and column not in columns):
                raise DataError(
                    f"{metrics_csv} must have the columns step and {column}, found {list(columns)}"
                )
            for row in rows:
                if None not in row.values() and row.get(column):
                    values[int(row["step"])] = float(row[column])
    except FileNotFoundError as error:
        raise DataError(f"{metrics_csv} does not exist; has the run begun to train?") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{metrics_csv}: a value of step or {column} is no number") from error
    steps = sorted(values)
    return np.array(steps, dtype=np.int64), np.array([values[s] for s in steps], dtype=np.float64)


def _sweep_table(
    label: str, sweep: Sequence[tuple[float, float, float]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not sweep:
        raise DataError(f"the sweep of {label!r} holds no threshold")
    table = np.array(sorted(sweep), dtype=np.float64)
    if table.shape[1] != 3 or not np.isfinite(table).all() or (table[:, 1:] < 0).any():
        raise DataError(
            f"the sweep of {label!r} must hold finite (threshold, split, merge), VI at least 0"
        )
    return table[:, 0], table[:, 1], table[:, 2]


def _smoothed(steps: npt.NDArray[np.int64], losses: npt.NDArray[np.float64]) -> _Curve:
    """Mean over a window that moves along the curve and is shorter at its ends."""
    reach = max(1, losses.size // _SMOOTHED_PARTS) // 2
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    first = np.maximum(np.arange(losses.size) - reach, 0)
    last = np.minimum(np.arange(losses.size) + reach + 1, losses.size)
    return steps, (sums[last] - sums[first]) / (last - first)


def _positive_range(axes: Axes, curves: Sequence[npt.NDArray[np.float64]]) -> None:
    """From zero, and without the first iterations' peak, which would flatten all that follows."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if values.size and values.min() >= 0:
        axes.set_ylim(0, 1.1 * float(np.percentile(values, 99)) or None)


def _figure_of_axes(columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PAGE_WIDTH, _HEIGHT), layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, columns, squeeze=False)))
