"""Curves: how training went, and how a segmentation depends on the agglomeration threshold."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from psc.em.data import REAL, SYNTHETIC
from psc.errors import ConfigError, DataError
from psc.paper.measures import VIDEO
from psc.paper.pictures import Run, read_runs
from psc.paper.style import (
    COLUMN_WIDTH,
    DASHED,
    PAGE_WIDTH,
    checked_png,
    colour,
    marker,
    page_style,
    save_png,
)
from psc.training.records import FILE_NAME, Record, read_record

log = logging.getLogger(__name__)

TRAINING_ERROR = "train/error"
VALIDATION_ACCURACY = "validation/top1"
"""Columns of metrics.csv: the running error of an interval between validations, and 1 − error."""

_Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
_Points = tuple[npt.NDArray[np.number], npt.NDArray[np.float64]]

_HEIGHT = 2.4  # inches
_SMOOTHED_PARTS = 50  # a training curve is averaged over a fiftieth of its points


def curves_figure(
    metrics_csv: Mapping[str, Path],
    path: Path | str,
    *,
    errors: bool = False,
    iterations_per_epoch: Mapping[str, float] | None = None,
) -> None:
    """Training and validation loss against the iteration, one colour for each run.

    Training loss is that of one small batch and noisy, so it is drawn faintly and its running mean
    over a fiftieth of the points as a dashed line; validation loss is a solid line with markers.
    With ``errors`` a second panel shows the errors in the same way, as Figure 4a does.

    Args:
        metrics_csv: the ``metrics.csv`` of run folders, by label, at least one.
        path: the PNG to write.
        errors: also draw ``train/error``, as it stands at the end of each interval between
            validations, and 1 − ``validation/top1``; left out where no run has logged them.
        iterations_per_epoch: of each run, by label: errors are drawn against epochs; None: against
            iterations.

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
        label: _curve_if_any(file, "validation/loss") for label, file in metrics_csv.items()
    }
    for label, (steps, _) in training.items():
        if steps.size == 0:
            raise DataError(f"{metrics_csv[label]} holds no train/loss: has the run logged a step?")
    of_errors = [_errors(file) for file in metrics_csv.values()] if errors else []
    if errors and not any(values.size for run in of_errors for _, values in run):
        log.warning("%s shows losses only: no run has logged %s", path, VALIDATION_ACCURACY)
        of_errors = []
    with page_style():
        figure, axes = _figure_of_axes(2 if of_errors else 1)
        for i, label in enumerate(metrics_csv):
            axes[0].plot(*training[label], color=colour(i), alpha=0.25, linewidth=0.5)
            _draw(axes[0], i, _smoothed(*training[label]), validation[label])
        axes[0].set(xlabel="iteration", ylabel="loss")
        losses = [values for _, values in (*training.values(), *validation.values())]
        _positive_range(axes[0], losses)
        if of_errors:
            per_epoch = [(iterations_per_epoch or {}).get(label, 1.0) for label in metrics_csv]
            _draw_errors(axes[1], of_errors, per_epoch)
            axes[1].set_xlabel("epoch" if iterations_per_epoch else "iteration")
        _name_curves(axes[-1], list(metrics_csv))
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
            shade, shape = colour(i), marker(i)
            total = split + merge
            best = int(np.argmin(total))
            for axes, x, y in ((left, merge, split), (right, thresholds, total)):
                axes.plot(x, y, color=shade, marker=shape, markersize=2.5, markerfacecolor="w")
                axes.plot(x[best], y[best], color=shade, marker=shape, markersize=5.5)
            text = f"{label}: {total[best]:.2f} at {thresholds[best]:g}"
            right.plot([], [], color=shade, marker=shape, markersize=5.5, label=text)
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


def _curve_if_any(metrics_csv: Path, column: str) -> _Curve:
    return read_curve(metrics_csv, column, required=False)


def _errors(metrics_csv: Path) -> tuple[_Curve, _Curve]:
    """Training and validation errors, shares of 1; the former at the end of each interval."""
    steps, errors = _curve_if_any(metrics_csv, TRAINING_ERROR)
    intervals = dict(zip(*_curve_if_any(metrics_csv, "epoch"), strict=True))
    last = {intervals.get(step, step): i for i, step in enumerate(steps)}
    ends = list(last.values())
    validation_steps, accuracies = _curve_if_any(metrics_csv, VALIDATION_ACCURACY)
    return (steps[ends], errors[ends]), (validation_steps, 1 - accuracies)


def _draw(axes: Axes, i: int, training: _Points, validation: _Points) -> None:
    """Training dashed, validation solid with markers, in the colour of run i."""
    axes.plot(*training, color=colour(i), linestyle=DASHED)
    axes.plot(*validation, color=colour(i), marker=marker(i), markersize=3)


def _draw_errors(
    axes: Axes, runs: Sequence[tuple[_Curve, _Curve]], per_epoch: Sequence[float]
) -> None:
    for i, run in enumerate(runs):
        # Step s is the (s + 1)-th iteration.
        _draw(axes, i, *(((steps + 1) / per_epoch[i], errors) for steps, errors in run))
    highest = max(float(np.nanmax(errors)) for run in runs for _, errors in run if errors.size)
    axes.set(ylabel="error", xlim=(0, None), ylim=(0, 1.05 * highest or None))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _name_curves(axes: Axes, runs: Sequence[str]) -> None:
    """A legend on the right: runs by colour and marker, training and validation by line."""
    of_runs = [
        Line2D([], [], color=colour(i), marker=marker(i), markersize=3) for i in range(len(runs))
    ]
    kinds = [
        Line2D([], [], color="0.3", linestyle=DASHED),
        Line2D([], [], color="0.3", marker="o", markersize=3),
    ]
    axes.legend(
        of_runs + kinds,
        [*runs, "training", "validation"],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
    )


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


# ----------------------------------------
# Figure 4 (a): training and validation error against epochs, 3D beside P_mSC_n.
#
# The paper shows the first 50 epochs of ResNet-34 on UCF101. Where no such runs are recorded, the
# figure is drawn from synthetic clips, and its title says so.


BLOCKS = ("3d", "p2sc2")
"""The networks that Figure 4a compares."""

PAPER_EPOCHS = 50.0

_Numbers = npt.NDArray[np.float64]
_HEIGHT_curves_panel = 3.3  # inches


@dataclass(frozen=True, eq=False)
class Curves:
    """How one training went, at the end of each interval between validations.

    Attributes:
        epochs: training clips seen over training videos.
        training_error: share of 1, of the interval that ends there.
        validation_error: share of 1.
        training_loss: mean over the interval.
        validation_loss: of the validation videos.
    """

    epochs: _Numbers
    training_error: _Numbers
    validation_error: _Numbers
    training_loss: _Numbers
    validation_loss: _Numbers


def figure_4a_runs(experiments: Path) -> list[Path]:
    """Folders of the records that Figure 4a is drawn from, the 3D network's first.

    Those of table-4b on UCF101 itself if both networks have one, else the synthetic ones.

    Raises:
        DataError: there are neither.
    """
    for folder, kinds in (
        (experiments / "table-4b" / "records", (REAL,)),
        (experiments / "figure-4a" / "synthetic", (SYNTHETIC,)),
    ):
        found: dict[str, Path] = {}
        for path in sorted(folder.glob(f"*/{FILE_NAME}")):
            record = read_record(path)
            if record.data["kind"] in kinds:
                found.setdefault(record.config["block"]["name"], path.parent)
        if all(block in found for block in BLOCKS):
            return [found[block] for block in BLOCKS]
    raise DataError(
        f"{experiments} has no records of {' and '.join(BLOCKS)}, neither in table-4b/records nor"
        " in figure-4a/synthetic; restore them with git"
    )


def curves_figure_curves_panel(folders: Sequence[Path]) -> Figure:
    """Error above, loss below, against epochs; training dashed, validation solid.

    Of UCF101 itself the first 50 epochs, as in the paper; of anything else all.

    Args:
        folders: of finished runs, or of their records; each with result.json and metrics.csv.

    Raises:
        DataError: a record or its metrics.csv is missing or damaged, or is of no video network, or
            the runs were not tested alike.
        ConfigError: fewer than two runs, or two of one block.
    """
    runs, measures = read_runs(folders)
    if measures is not VIDEO:
        raise DataError(
            f"{runs[0].record.run} is scored as {measures.name}, not by errors over epochs; name"
            " runs on videos"
        )
    curves = {run.label: curves_of(run) for run in runs}
    if _kind(runs) == REAL:
        curves = {label: _until(curve, PAPER_EPOCHS) for label, curve in curves.items()}
    with page_style():
        figure = Figure(figsize=(COLUMN_WIDTH, _HEIGHT_curves_panel), layout="constrained")
        error, loss = figure.subplots(2, 1, sharex=True)
        for i, curve in enumerate(curves.values()):
            _draw_curves_panel(error, i, curve.epochs, curve.training_error, curve.validation_error)
            _draw_curves_panel(loss, i, curve.epochs, curve.training_loss, curve.validation_loss)
        error.set(ylabel="error", ylim=(0, None))
        error.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        loss.set(xlabel="epoch", ylabel="loss", yscale="log")
        loss.set_xlim(0, 1.02 * max(float(curve.epochs[-1]) for curve in curves.values()))
        _name_curves_curves_panel(error, list(curves))
        figure.align_ylabels()
        figure.suptitle(_title(runs), weight="bold", fontsize="medium", x=0.02, ha="left")
    return figure


def curves_of(run: Run) -> Curves:
    """Read a run's curves from the metrics.csv beside its record.

    Raises:
        DataError: it is missing or damaged, or holds no validation.
    """
    path = run.folder / "metrics.csv"
    steps, accuracy = read_curve(path, VALIDATION_ACCURACY)
    if steps.size == 0:
        raise DataError(f"{path} holds no {VALIDATION_ACCURACY}: was the run ever validated?")
    validation_loss = _at(read_curve(path, "validation/loss"), steps)
    errors = read_curve(path, TRAINING_ERROR)
    losses = read_curve(path, "train/loss")
    # An interval: after the validation before, up to this one. The error that is logged in it runs
    # from its beginning, so the last one is that of the whole interval.
    before = np.concatenate([[-1], steps[:-1]])
    training_error, training_loss = np.full((2, steps.size), np.nan)
    for i, (start, stop) in enumerate(zip(before, steps, strict=True)):
        for (at, values), means, whole in (
            (errors, training_error, slice(-1, None)),
            (losses, training_loss, slice(None)),
        ):
            inside = values[(at > start) & (at <= stop)][whole]
            if inside.size:
                means[i] = inside.mean()
    # Step s is the (s + 1)-th iteration.
    epochs = (steps + 1) / _iterations_per_epoch(run.record, path)
    return Curves(epochs, training_error, 1 - accuracy, training_loss, validation_loss)


def _until(curves: Curves, epoch: float) -> Curves:
    """The same up to an epoch, or the first point if it comes later."""
    count = max(1, int(np.count_nonzero(curves.epochs <= epoch)))
    return Curves(*(getattr(curves, field.name)[:count] for field in fields(curves)))


def _at(curve: tuple[npt.NDArray[np.int64], _Numbers], steps: npt.NDArray[np.int64]) -> _Numbers:
    values = dict(zip(*curve, strict=True))
    return np.array([values.get(step, np.nan) for step in steps], dtype=np.float64)


def _iterations_per_epoch(record: Record, path: Path) -> float:
    """Iterations that see as many clips as there are training videos."""
    trainer = record.config["trainer"]
    devices = trainer["devices"]
    if not isinstance(devices, int) or devices < 1:
        raise DataError(
            f"{path}: trainer.devices={devices} does not say how many clips an iteration saw"
        )
    batch = record.config["recipe"]["batch_size"] * devices * trainer["num_nodes"]
    return float(record.data["splits"]["videos"]["train"] / batch)


def _draw_curves_panel(
    axes: Axes, i: int, epochs: _Numbers, training: _Numbers, validation: _Numbers
) -> None:
    axes.plot(epochs, training, color=colour(i), linestyle=DASHED)
    axes.plot(
        epochs,
        validation,
        color=colour(i),
        marker=marker(i),
        markersize=3,
        clip_on=False,
    )


def _name_curves_curves_panel(axes: Axes, labels: Sequence[str]) -> None:
    networks = [
        Line2D(
            [],
            [],
            color=colour(i),
            marker=marker(i),
            markersize=3,
            label=label,
        )
        for i, label in enumerate(labels)
    ]
    kinds = [
        Line2D([], [], color="0.3", linestyle=DASHED, label="training"),
        Line2D([], [], color="0.3", label="validation"),
    ]
    axes.legend(handles=[*networks, *kinds], ncols=2, loc="upper right")


def _kind(runs: Sequence[Run]) -> str:
    return str(runs[0].record.data["kind"])


def _title(runs: Sequence[Run]) -> str:
    name = str(runs[0].record.config["backbone"]["name"])
    network = name.replace("resnet", "ResNet-")
    data = {REAL: "UCF101", SYNTHETIC: "SYNTHETIC clips, not UCF101"}
    return f"{network} on {data.get(_kind(runs), f'UCF101, {_kind(runs)}')}"
