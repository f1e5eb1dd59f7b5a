"""Figure 4 (a): training and validation error against epochs, 3D beside P_mSC_n.

The paper shows the first 50 epochs of ResNet-34 on UCF101. Where no such runs are recorded, the
figure is drawn from synthetic clips, and its title says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from psc.datasets.splits import REAL, SYNTHETIC
from psc.errors import DataError
from psc.paper.panel_grid import COLUMN_WIDTH
from psc.paper.pictures import Run, read_runs
from psc.reporting.canvas import page_style
from psc.reporting.curves import TRAINING_ERROR, VALIDATION_ACCURACY, read_curve
from psc.reporting.measures import VIDEO
from psc.results import FILE_NAME, Record, read_record

__all__ = ["Curves", "curves_figure", "curves_of", "figure_4a_runs"]

BLOCKS = ("3d", "p2sc2")
"""The networks that Figure 4a compares."""

PAPER_EPOCHS = 50.0

_Numbers = npt.NDArray[np.float64]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito; the paper's: blue, red
_MARKERS = "osD^"
_DASHED = (0, (4, 1.5))
_HEIGHT = 3.3  # inches


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


def curves_figure(folders: Sequence[Path]) -> Figure:
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
        figure = Figure(figsize=(COLUMN_WIDTH, _HEIGHT), layout="constrained")
        error, loss = figure.subplots(2, 1, sharex=True)
        for i, curve in enumerate(curves.values()):
            _draw(error, i, curve.epochs, curve.training_error, curve.validation_error)
            _draw(loss, i, curve.epochs, curve.training_loss, curve.validation_loss)
        error.set(ylabel="error", ylim=(0, None))
        error.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        loss.set(xlabel="epoch", ylabel="loss", yscale="log")
        loss.set_xlim(0, 1.02 * max(float(curve.epochs[-1]) for curve in curves.values()))
        _name_curves(error, list(curves))
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


def _draw(axes: Axes, i: int, epochs: _Numbers, training: _Numbers, validation: _Numbers) -> None:
    axes.plot(epochs, training, color=_COLOURS[i], linestyle=_DASHED)
    axes.plot(
        epochs, validation, color=_COLOURS[i], marker=_MARKERS[i], markersize=3, clip_on=False
    )


def _name_curves(axes: Axes, labels: Sequence[str]) -> None:
    networks = [
        Line2D([], [], color=_COLOURS[i], marker=_MARKERS[i], markersize=3, label=label)
        for i, label in enumerate(labels)
    ]
    kinds = [
        Line2D([], [], color="0.3", linestyle=_DASHED, label="training"),
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
