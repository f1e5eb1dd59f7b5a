"""The figures of the paper: what draws each, what it needs, and what is written below it.

Figures 1–3 are drawn from the modules alone. The others need what is committed in experiments/:
records with their curves, or the slice of a picture. Where that is not there, the figure is left
out; where it is there and damaged, that is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from psc.errors import ConfigError, DataError
from psc.paper import curves, panels, style
from psc.paper.figure_1 import block_figure
from psc.paper.figure_2 import decomposition_figure
from psc.paper.figure_3 import network_figure
from psc.paper.measures import VIDEO
from psc.paper.panels import PIXELS, PROVENANCE, Picture, Run
from psc.paper.text import block_label
from psc.training.records import FILE_NAME, REAL, SYNTHETIC, read_record

BLOCKS = ("3d", "p2sc2")
"""The networks that Figure 4a compares."""

PAPER_EPOCHS = 50.0
"""That it shows; of anything but UCF101 itself all are shown."""

_CURVES = ("table-4b/records", "figure-4a/synthetic")


@dataclass(frozen=True)
class Source:
    """What a figure of results shows."""

    kind: str  # of the data: "real", "real sample" or "synthetic"
    data: str  # whose, in words
    # of each panel or curve: its label, run, commit and number of iterations
    runs: tuple[tuple[str, str, str, int], ...]
    files: tuple[str, ...]  # that hold it, below experiments/


class NotThereError(DataError):
    """What a figure is drawn from is not there; says which command makes it."""


@dataclass(frozen=True)
class PaperFigure:
    """A figure."""

    name: str  # of its files and of its folder in experiments/
    title: str  # what it is about
    caption: str  # what is to be seen
    alternative: str  # what a reader is told who cannot see it
    # draws it from a folder of experiments, and says what it shows of results
    draw: Callable[[Path], tuple[Figure, Source | None]]
    results: bool = True  # whether it shows any; else it is as wide as a page, not as a column


@dataclass(frozen=True)
class MadeFigure:
    """What became of a figure."""

    figure: PaperFigure  # which
    source: Source | None = None  # what it shows of results, if any
    pdf: Path | None = None  # its files; None where it could not be drawn
    png: Path | None = None
    missing: str | None = None  # what it lacks
    error: str | None = None  # what is wrong with what is there


def chosen_figures(names: Sequence[str]) -> list[PaperFigure]:
    """The figures that a user names, all if none."""
    for name in names:
        if name not in FIGURES:
            raise ConfigError(f"{name}: there is no such figure, only {', '.join(FIGURES)}")
    return [FIGURES[name] for name in names or FIGURES]


def make_figure(figure: PaperFigure, experiments: Path, folder: Path) -> MadeFigure:
    """Draw a figure as PDF and PNG, or say why not and delete older ones."""
    try:
        drawn, source = figure.draw(experiments)
        return MadeFigure(figure, source, *style.save_figure(drawn, folder, figure.name))
    except NotThereError as error:
        made = MadeFigure(figure, missing=str(error))
    except DataError as error:
        made = MadeFigure(figure, error=str(error))
    for suffix in (".pdf", ".png"):
        (folder / f"{figure.name}{suffix}").unlink(missing_ok=True)
    return made


def figure_4a_runs(experiments: Path) -> list[Path]:
    """Records of Figure 4a, 3D's first: of UCF101 if both networks have one, else synthetic."""
    for place, kind in zip(_CURVES, (REAL, SYNTHETIC), strict=True):
        found: dict[str, Path] = {}
        for path in sorted((experiments / place).glob(f"*/{FILE_NAME}")):
            record = read_record(path)
            if record.data["kind"] == kind:
                found.setdefault(record.config["block"]["name"], path.parent)
        if all(block in found for block in BLOCKS):
            return [found[block] for block in BLOCKS]
    raise NotThereError(
        f"there are no records of {' and '.join(BLOCKS)} in experiments/{_CURVES[0]} nor in "
        f"experiments/{_CURVES[1]}; git restores the committed ones, or train on UCF101 "
        "(experiments/table-4b/README.md)"
    )


@style.page_style()
def figure_4a(folders: Sequence[Path]) -> Figure:
    """Error above, loss below, of runs on videos, against epochs; training dashed, else solid."""
    runs, measures = panels.read_runs(folders)
    if measures is not VIDEO:
        raise DataError(
            f"{runs[0].record.run} is scored as {measures.name}, not by errors over epochs; name"
            " runs on videos"
        )
    figure = Figure(figsize=(style.COLUMN_WIDTH, 3.3), layout="constrained")
    error, loss = figure.subplots(2, 1, sharex=True)
    kind = str(runs[0].record.data["kind"])
    longest = 0.0
    for i, (epochs, of) in enumerate(map(epochs_of, runs)):
        shown = epochs <= max(PAPER_EPOCHS if kind == REAL else np.inf, epochs[0])
        x, longest = epochs[shown], max(longest, float(epochs[shown][-1]))
        pairs = (of.training_error, of.validation_error), (of.training_loss, of.validation_loss)
        for axes, pair in zip((error, loss), pairs, strict=True):
            training, validation = ((x, values[shown]) for values in pair)
            curves.draw_pair(axes, i, training, validation, clip_on=False)
    error.set(ylabel="error", ylim=(0, None))
    error.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    loss.set(xlabel="epoch", ylabel="loss", yscale="log", xlim=(0, 1.02 * longest))
    labels = [run.label for run in runs]
    error.legend(handles=curves.curve_handles(labels), ncols=2, loc="upper right")
    figure.align_ylabels()
    network = str(runs[0].record.config["backbone"]["name"]).replace("resnet", "ResNet-")
    named = {REAL: "UCF101", SYNTHETIC: "SYNTHETIC clips, not UCF101"}
    title = f"{network} on {named.get(kind, f'UCF101, {kind}')}"
    figure.suptitle(title, weight="bold", fontsize="medium", x=0.02, ha="left")
    return figure


def epochs_of(run: Run) -> tuple[npt.NDArray[np.float64], curves.Intervals]:
    """Training clips seen over training videos, and what was logged then."""
    path = run.folder / "metrics.csv"
    intervals = curves.read_intervals(path)
    if intervals.iterations.size == 0:
        missing = curves.VALIDATION_ACCURACY
        raise DataError(f"{path} holds no {missing}: was the run ever validated?")
    per_epoch = curves.iterations_per_epoch(run.record)
    if per_epoch is None:
        devices = run.record.config["trainer"]["devices"]
        raise DataError(
            f"{path}: trainer.devices={devices} does not say how many clips an iteration saw"
        )
    return intervals.iterations / per_epoch, intervals


def _figure_4a(experiments: Path) -> tuple[Figure, Source]:
    folders = figure_4a_runs(experiments)
    records = [read_record(folder) for folder in folders]
    kind = records[0].data["kind"]
    data = "Generated by this project" if kind == SYNTHETIC else "UCF101, split 1"
    runs = tuple(
        _shown(block_label(r.config["block"]["name"]), r.run, r.git["commit"], r.iterations)
        for r in records
    )
    files = tuple((folder / FILE_NAME).relative_to(experiments).as_posix() for folder in folders)
    return figure_4a(folders), Source(kind, data, runs, files)


def _shown(label: str, run: str, commit: str | None, iterations: int) -> tuple[str, str, str, int]:
    return label, run, str(commit or "unknown")[:8], iterations


def _pictured(
    name: str, runs: str, draw: Callable[[Picture], Figure]
) -> Callable[[Path], tuple[Figure, Source]]:
    """Draws a figure's committed picture; ``runs``: of what two runs make another."""

    def drawn(experiments: Path) -> tuple[Figure, Source]:
        if not any((experiments / name / file).exists() for file in (PIXELS, PROVENANCE)):
            raise NotThereError(
                f"experiments/{name} has no picture; git restores the committed one, or make "
                f"another of two runs of {runs}: python scripts/paper.py picture RUN_FOLDER "
                "RUN_FOLDER"
            )
        picture = panels.read_picture(experiments / name)
        about, keys = picture.provenance, ("label", "run", "commit", "iterations")
        shown = tuple(_shown(*(run[key] for key in keys)) for run in about["runs"])
        source = Source(about["kind"], about["attribution"], shown, (f"{name}/{PROVENANCE}",))
        return draw(picture), source

    return drawn


_ALL = (
    PaperFigure(
        "figure-1",
        "The structure of the block",
        "Two consecutive 3D convolutions, and what P_mSC_n puts in their place: m parallel "
        "streams, each of n 2D convolutions in one plane and a 1D convolution across it. "
        "Kernels, channels and parameters are read from the modules that the networks are built "
        "of, here at the second level of the U-Net.",
        "Five columns of convolution kernels drawn as boxes of voxels and joined by arrows, from "
        "the channels that enter to the channels that leave: 3D, P1SC1, P2SC2, P2SC3 and P3SC2, "
        "with the number of parameters below each.",
        lambda _: (block_figure(), None),
        results=False,
    ),
    PaperFigure(
        "figure-2",
        "Why parallel streams",
        "A kernel's higher-order SVD (a); its core cut into sub-tensors (b); and the separable "
        "kernel, a rod times a plane, that each sub-tensor gives (c). Their sum is the kernel, and "
        "they lie in three orientations: one stream is not enough. All numbers are computed.",
        "Three rows of shaded grids: a 3×3×3 kernel as a core tensor times three orthogonal "
        "matrices; the core as a sum of parts on single slices; the kernel as a sum of separable "
        "kernels, each with its rod, its plane and its share of the energy.",
        lambda _: (decomposition_figure(), None),
        results=False,
    ),
    PaperFigure(
        "figure-3",
        "The networks with their blocks",
        "U-Net (a), ResNet-34 (b) and DenseNet (c), each with 3D convolutions and with P_2SC_2, as "
        "the configuration builds them: channels, resolutions, connections and parameters.",
        "Three networks as diagrams of boxes and arrows, each drawn twice: above with 3D "
        "convolutions, below with P2SC2, whose two streams are two rows of coloured cells.",
        lambda _: (network_figure(), None),
        results=False,
    ),
    PaperFigure(
        "figure-4a",
        "Training and validation error",
        "Error (above) and loss (below) against epochs, 3D beside P_2SC_2; training dashed, "
        "validation solid.",
        "Two line plots of 3D and P2SC2 against epochs: error above, loss below; training and "
        "validation.",
        _figure_4a,
    ),
    PaperFigure(
        "figure-5",
        "Tissues of a brain",
        "One axial slice: T1, ground truth (a), 3D (b) and P_2SC_2 (c). Tissues are outlined, grey "
        "matter is filled. The slice and the numbered ellipses are where the two networks differ "
        "most, whichever of them is right.",
        "Four panels of one axial brain slice: the T1 image, and the tissue outlines of the ground "
        "truth, of 3D and of P2SC2, with numbered ellipses where the networks differ most.",
        _pictured("figure-5", "brains", panels.tissue_figure),
    ),
    PaperFigure(
        "figure-6",
        "Neurons in electron microscopy",
        "One section: raw, ground truth (a), 3D (b) and P_2SC_2 (c); bodies have the colours of "
        "the true bodies that they cover most of. The section and the numbered ellipses are where "
        "the two networks differ most, whichever of them is right.",
        "Four panels of one section of neural tissue: the raw image, and in random colours the "
        "segmentations of the ground truth, of 3D and of P2SC2, with numbered ellipses where the "
        "networks differ most.",
        _pictured("figure-6", "EM volumes", panels.em_figure),
    ),
)

FIGURES: Mapping[str, PaperFigure] = {figure.name: figure for figure in _ALL}
"""All figures by name, in the paper's order."""
