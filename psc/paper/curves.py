"""Plots of numbers: how training went, agglomeration thresholds, which classes are confused."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from psc.errors import ConfigError, DataError
from psc.paper.groups import step_samples
from psc.paper.style import DASHED, PAGE_WIDTH, look, page_style, plots, save_png
from psc.training.records import Record, over_attempts

log = logging.getLogger(__name__)

TRAINING_ERROR = "train/error"
VALIDATION_ACCURACY = "validation/top1"
"""Columns of metrics.csv: the running error of an interval between validations, and 1 − error."""

_Numbers = npt.NDArray[np.float64]
_Curve = tuple[npt.NDArray[np.int64], _Numbers]

BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
"""Of a legend."""
_SMOOTHED_PARTS = 50  # a training curve is averaged over a fiftieth of its points


def read_curve(metrics_csv: Path, column: str, *, required: bool = True) -> _Curve:
    """Steps, ascending, and values of one quantity of a run's ``metrics.csv``.

    A row holds only what was logged together, so most cells of a column are empty. Of several
    values for a step the last one counts, and a row cut short by a kill is dropped. A column that
    is not ``required`` and not there is an empty curve.
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
    except OSError as error:
        raise DataError(f"{metrics_csv} cannot be read ({error.strerror})") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{metrics_csv}: a value of step or {column} is no number") from error
    steps = sorted(values)
    return np.array(steps, dtype=np.int64), np.array([values[s] for s in steps], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Intervals:
    """How a training of a classifier went, at the end of each interval between validations."""

    iterations: npt.NDArray[np.int64]  # trained so far
    training_error: _Numbers  # share of 1, of the interval that ends there
    validation_error: _Numbers  # share of 1
    training_loss: _Numbers  # mean over the interval
    validation_loss: _Numbers  # of the validation samples. Numbers that were not logged are NaN.


def read_intervals(metrics_csv: Path) -> Intervals:
    """Read the numbers of each interval; none where validation accuracy was not logged."""
    steps, accuracy = read_curve(metrics_csv, VALIDATION_ACCURACY, required=False)
    error, loss, validation_loss = np.full((3, steps.size), np.nan)
    validated = dict(zip(*read_curve(metrics_csv, "validation/loss", required=False), strict=True))
    errors = read_curve(metrics_csv, TRAINING_ERROR, required=False)
    losses = read_curve(metrics_csv, "train/loss", required=False)
    before = np.concatenate([[-1], steps])[:-1]
    for i, (start, stop) in enumerate(zip(before, steps, strict=True)):
        validation_loss[i] = validated.get(stop, np.nan)
        # The error that is logged in an interval runs from its beginning: the last is of all of it.
        for (at, values), found, part in (
            (errors, error, slice(-1, None)),
            (losses, loss, slice(None)),
        ):
            inside = values[(at > start) & (at <= stop)][part]
            found[i] = inside.mean() if inside.size else np.nan
    return Intervals(steps + 1, error, 1 - accuracy, loss, validation_loss)


def iterations_per_epoch(record: Record) -> float | None:
    """Iterations that see as many samples as there are training videos; None where not known."""
    videos = record.data.get("splits", {}).get("videos")
    samples = step_samples(record) if videos else None
    return None if samples is None else float(videos["train"] / samples)


@page_style()
def curves_figure(
    metrics_csv: Mapping[str, Path],
    path: Path,
    *,
    errors: bool = False,
    per_epoch: Mapping[str, float] | None = None,
) -> None:
    """Training and validation loss against the iteration, one colour for each run.

    Training loss is that of one small batch and noisy, so it is drawn faintly and its running mean
    over a fiftieth of the points as a dashed line; validation loss is a solid line with markers.

    ``errors`` are a second panel, as in Figure 4a, left out where no run has logged its validation
    accuracy; against epochs where their iterations are given, ``per_epoch``, by label.
    """
    if not metrics_csv:
        raise ConfigError("a figure of curves needs at least one run")
    training = {label: read_curve(file, "train/loss") for label, file in metrics_csv.items()}
    for label, (steps, _) in training.items():
        if steps.size == 0:
            raise DataError(f"{metrics_csv[label]} holds no train/loss: has the run logged a step?")
    validation = {
        label: read_curve(file, "validation/loss", required=False)
        for label, file in metrics_csv.items()
    }
    intervals = [read_intervals(file) for file in metrics_csv.values()] if errors else []
    if errors and not any(run.iterations.size for run in intervals):
        log.warning("%s shows losses only: no run has logged %s", path, VALIDATION_ACCURACY)
        intervals = []
    figure, (axes,) = plots(1, 2 if intervals else 1)
    for i, label in enumerate(metrics_csv):
        faint = {"color": look(i)["color"], "alpha": 0.25, "linewidth": 0.5}
        axes[0].plot(*training[label], **faint)
        draw_pair(axes[0], i, _smoothed(*training[label]), validation[label])
    axes[0].set(xlabel="iteration", ylabel="loss")
    _positive_range(axes[0], [y for _, y in (*training.values(), *validation.values())])
    if intervals:
        for i, (label, run) in enumerate(zip(metrics_csv, intervals, strict=True)):
            x = run.iterations / (per_epoch or {}).get(label, 1.0)
            draw_pair(axes[1], i, (x, run.training_error), (x, run.validation_error))
        found = np.concatenate([[r.training_error, r.validation_error] for r in intervals], 1)
        highest = 1.05 * float(np.nanmax(found))
        axes[1].set(ylabel="error", xlim=(0, None), ylim=(0, highest or None))
        axes[1].set_xlabel("epoch" if per_epoch else "iteration")
        axes[1].yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes[-1].legend(handles=curve_handles(list(metrics_csv)), **BESIDE)
    save_png(figure, path)


def draw_pair(
    axes: Axes,
    i: int,
    training: tuple[npt.NDArray[Any], _Numbers],
    validation: tuple[npt.NDArray[Any], _Numbers],
    **style: Any,
) -> None:
    """Training dashed, validation solid with markers, in the colour of run i; NaN is left out."""
    (x, y), (vx, vy) = ((x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in (training, validation))
    axes.plot(x, y, color=look(i)["color"], linestyle=DASHED)
    axes.plot(vx, vy, **look(i), markersize=3, **style)


def curve_handles(labels: Sequence[str]) -> list[Line2D]:
    """For a legend: runs by colour and marker, training and validation by line."""
    return [
        *(Line2D([], [], **look(i), markersize=3, label=label) for i, label in enumerate(labels)),
        Line2D([], [], color="0.3", linestyle=DASHED, label="training"),
        Line2D([], [], color="0.3", label="validation"),
    ]


@page_style()
def threshold_figure(sweeps: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Variation of information over the agglomeration threshold, one colour for each network.

    Left: split against merge, one point for each threshold; nearer to the origin is better. Right:
    their sum against the threshold. The best threshold of each is a filled marker in both.
    ``sweeps``: threshold, and VI split and merge in bits, by label.
    """
    if not sweeps:
        raise ConfigError("a figure of thresholds needs at least one sweep")
    tables = {label: _sweep_table(label, sweep) for label, sweep in sweeps.items()}
    figure, ((left, right),) = plots(1, 2)
    for i, (label, (thresholds, split, merge)) in enumerate(tables.items()):
        style, total = look(i), split + merge
        best = int(np.argmin(total))
        for axes, x, y in ((left, merge, split), (right, thresholds, total)):
            axes.plot(x, y, markersize=2.5, markerfacecolor="w", **style)
            axes.plot(x[best], y[best], markersize=5.5, **style)
        text = f"{label}: {total[best]:.2f} at {thresholds[best]:g}"
        right.plot([], [], markersize=5.5, label=text, **style)
    left.set(xlabel="VI merge (bits)", ylabel="VI split (bits)", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="agglomeration threshold", ylabel="VI (bits)", ylim=(0, None))
    right.legend(title="lowest VI", alignment="left")
    save_png(figure, path)


def _sweep_table(label: str, sweep: Sequence[Mapping[str, float]]) -> _Numbers:
    """(3, thresholds) in ascending order of these."""
    table = np.array(sorted((row["threshold"], row["split"], row["merge"]) for row in sweep))
    if not table.size:
        raise DataError(f"the sweep of {label!r} holds no threshold")
    if not np.isfinite(table).all() or (table[:, 1:] < 0).any():
        raise DataError(f"the sweep of {label!r} must hold finite numbers, VI at least 0")
    return table.T


def _smoothed(steps: npt.NDArray[np.int64], losses: _Numbers) -> _Curve:
    """Mean over a window that moves along the curve and is shorter at its ends."""
    reach = max(1, losses.size // _SMOOTHED_PARTS) // 2
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    first = np.maximum(np.arange(losses.size) - reach, 0)
    last = np.minimum(np.arange(losses.size) + reach + 1, losses.size)
    return steps, (sums[last] - sums[first]) / (last - first)


def _positive_range(axes: Axes, curves: Sequence[_Numbers]) -> None:
    """From zero, and without the first iterations' peak, which would flatten all that follows."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if values.size and values.min() >= 0:
        axes.set_ylim(0, 1.1 * float(np.percentile(values, 99)) or None)


@page_style()
def learning_figure(
    runs: Mapping[str, Sequence[Path]],
    path: Path,
    scores: Mapping[str, Sequence[Mapping[int, float]]] | None = None,
    axis: str = "",
    flops: Mapping[str, int] | None = None,
) -> None:
    """Validation loss against iterations, counted operations and training time.

    A line is the mean over a network's runs, its seeds or folds, a band reaches from the least to
    the greatest. Single values far from all others leave the panel, lest they flatten it.

    Args:
        runs: the ``metrics.csv`` of each, by network.
        path: the PNG to write.
        scores: by iterations, of each run, by network: a second row. None: there is none.
        axis: what they are called.
        flops: of an iteration, by network. None: not known, no panel.
    """
    if not runs or not all(runs.values()):
        raise ConfigError("learning curves need at least one run of every network")
    figure, grid = plots(1 if scores is None else 2, 2 if flops is None else 3)
    shown: list[list[float]] = [[] for _ in grid]
    for i, (name, files) in enumerate(runs.items()):
        label = f"{name}, {len(files)} run{'s'[: len(files) > 1]}"
        clocks = [_clock(file) for file in files]
        losses = [by_iteration(file, "validation/loss") for file in files]
        values = [losses, *([] if scores is None else [scores[name]])]
        for axes, of_seeds, every in zip(grid, values, shown, strict=True):
            steps = sorted(set.intersection(*map(set, of_seeds)))
            if not steps:
                what = f"{', '.join(map(str, files))}: no iteration that all were validated at"
                raise DataError(what)
            seconds = [[clock.get(step, np.nan) for step in steps] for clock in clocks]
            curve = np.array([[of_seed[step] for step in steps] for of_seed in of_seeds])
            points = curve.T.tolist()
            every += curve.ravel().tolist()
            draw_band(axes[0], i, label, steps, points)
            draw_band(axes[-1], i, label, np.mean(seconds, axis=0) / 60, points)
            if flops is not None:
                draw_band(axes[1], i, label, np.array(steps) * flops[name] / 1e15, points)
    for (left, *middle, right), name, every in zip(
        grid, ("validation loss", axis), shown, strict=False
    ):
        for axes in (left, *middle, right):
            axes.set_ylim(*_without_outliers(every))
        left.set(xlabel="iteration", ylabel=name)
        right.set(xlabel="minutes, mean over runs")
        for axes in middle:
            axes.set(xlabel="PFLOP, counted")
            axes.xaxis.set_major_locator(MaxNLocator(3))  # of short trainings they are long
    grid[0, -1].legend(**BESIDE)
    save_png(figure, path)


def _without_outliers(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Lower and upper limit of a panel; None where the values themselves are the limit."""
    low, high = np.nanpercentile(values, (5, 95))
    span = high - low
    return (
        low - span / 2 if np.nanmin(values) < low - 1.5 * span else None,
        high + span / 2 if np.nanmax(values) > high + 1.5 * span else None,
    )


def _clock(file: Path) -> dict[int, float]:
    """Seconds of training by the number of iterations done."""
    read = by_iteration(file, "seconds", required=False)
    return dict(zip(read, over_attempts(read.values()), strict=True))


def by_iteration(file: Path, column: str, *, required: bool = True) -> dict[int, float]:
    """Value by the number of iterations done: a step is an iteration's index."""
    steps, values = read_curve(file, column, required=required)
    return dict(zip((steps + 1).tolist(), values.tolist(), strict=True))


def draw_band(
    axes: Axes,
    i: int,
    label: str,
    x: npt.ArrayLike,
    of_seeds: Sequence[Sequence[float]],
    **style: Any,
) -> None:
    """The ``i``-th network's values at each x: mean, and from the least to the greatest."""
    if max(map(len, of_seeds)) > 1:
        low, high = [min(values) for values in of_seeds], [max(values) for values in of_seeds]
        axes.fill_between(x, low, high, color=look(i)["color"], alpha=0.2)
    mean = [np.mean(values) for values in of_seeds]
    axes.plot(x, mean, label=label, **({"markersize": 3} | look(i) | style))


@page_style()
def confusion_figure(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw the share of each true class's videos (rows) that each class (columns) was given."""
    count = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion, count, out=np.zeros(confusion.shape), where=count > 0)
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
