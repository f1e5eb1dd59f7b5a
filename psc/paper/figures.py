"""The figures of the paper: what draws each, what it needs, and what is written below it.

Figures 1–3 are drawn from the modules alone. The others need what is committed in experiments/:
records with their curves, or the slice of a picture. Where that is not there, the figure is left
out; where it is there and damaged, that is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from psc.em.data import SYNTHETIC
from psc.errors import ConfigError, DataError
from psc.paper.curves import BLOCKS, figure_4a_runs
from psc.paper.curves import curves_figure_curves_panel as curves_figure
from psc.paper.drawings import DRAWINGS
from psc.paper.panels import em_figure, tissue_figure
from psc.paper.pictures import PIXELS, PROVENANCE, Picture, block_label, read_picture
from psc.paper.style import save_figure
from psc.training.records import FILE_NAME, read_record


@dataclass(frozen=True)
class Source:
    """What a figure of results shows.

    Attributes:
        kind: of the data: "real", "real sample" or "synthetic".
        data: whose, in words.
        runs: of each panel or curve: its label, run, commit and number of iterations.
        files: that hold it, below experiments/.
    """

    kind: str
    data: str
    runs: tuple[tuple[str, str, str, int], ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class PaperFigure:
    """A figure.

    Attributes:
        name: of its files and of its folder in experiments/.
        title: what it is about.
        caption: what is to be seen.
        alternative: what a reader is told who cannot see it.
        draw: draws it from a folder of experiments.
        missing: what it lacks there, and which command makes it; None if nothing.
        source: what it shows of results; None where there are no results in it.
        wide: it is as wide as a page, not as a column.
    """

    name: str
    title: str
    caption: str
    alternative: str
    draw: Callable[[Path], Figure]
    missing: Callable[[Path], str | None] = lambda _: None
    source: Callable[[Path], Source] | None = None
    wide: bool = False


@dataclass(frozen=True)
class MadeFigure:
    """What became of a figure.

    Attributes:
        figure: which.
        source: what it shows of results, if any.
        pdf, png: its files; None where it could not be drawn.
        missing: what it lacks.
        error: what is wrong with what is there.
    """

    figure: PaperFigure
    source: Source | None = None
    pdf: Path | None = None
    png: Path | None = None
    missing: str | None = None
    error: str | None = None


def chosen_figures(names: Sequence[str]) -> list[PaperFigure]:
    """The figures that a user names, all if none.

    Raises:
        ConfigError: for one that does not exist.
    """
    for name in names:
        if name not in FIGURES:
            raise ConfigError(f"{name}: there is no such figure, only {', '.join(FIGURES)}")
    return [FIGURES[name] for name in names or FIGURES]


def make_figure(figure: PaperFigure, experiments: Path, folder: Path) -> MadeFigure:
    """Draw a figure into ``folder``, as PDF and PNG, or say why not.

    Older files of a figure that cannot be drawn are deleted: they would show what is not there.
    """
    try:
        lacking = figure.missing(experiments)
        if lacking is None:
            source = None if figure.source is None else figure.source(experiments)
            pdf, png = save_figure(figure.draw(experiments), folder, figure.name)
            return MadeFigure(figure, source, pdf, png)
        made = MadeFigure(figure, missing=lacking)
    except DataError as error:
        made = MadeFigure(figure, error=str(error))
    for suffix in (".pdf", ".png"):
        (folder / f"{figure.name}{suffix}").unlink(missing_ok=True)
    return made


def _missing_picture(name: str, runs: str) -> Callable[[Path], str | None]:
    def missing(experiments: Path) -> str | None:
        if any((experiments / name / file).exists() for file in (PIXELS, PROVENANCE)):
            return None
        return (
            f"experiments/{name} has no picture; git restores the committed one, or make another "
            f"of two runs of {runs}: python scripts/collect_pictures.py RUN_FOLDER RUN_FOLDER"
        )

    return missing


def _missing_curves(experiments: Path) -> str | None:
    places = ("table-4b/records", "figure-4a/synthetic")
    if any(len([*(experiments / p).glob(f"*/{FILE_NAME}")]) >= len(BLOCKS) for p in places):
        return None
    return (
        f"there are no records of {' and '.join(BLOCKS)} in experiments/{places[0]} nor in "
        f"experiments/{places[1]}; git restores the committed ones, or train on UCF101 "
        "(experiments/table-4b/README.md)"
    )


def _source_of_picture(name: str) -> Callable[[Path], Source]:
    def source(experiments: Path) -> Source:
        about: Mapping[str, Any] = read_picture(experiments / name).provenance
        runs = tuple(
            (run["label"], run["run"], str(run["commit"] or "unknown")[:8], run["iterations"])
            for run in about["runs"]
        )
        return Source(about["kind"], about["attribution"], runs, (f"{name}/{PROVENANCE}",))

    return source


def _source_of_curves(experiments: Path) -> Source:
    folders = figure_4a_runs(experiments)
    records = [read_record(folder) for folder in folders]
    kind = records[0].data["kind"]
    return Source(
        kind,
        "Generated by this project" if kind == SYNTHETIC else "UCF101, split 1",
        tuple(
            (
                block_label(record.config["block"]["name"]),
                record.run,
                str(record.git["commit"] or "unknown")[:8],
                record.iterations,
            )
            for record in records
        ),
        tuple((folder / FILE_NAME).relative_to(experiments).as_posix() for folder in folders),
    )


def _drawn(name: str) -> Callable[[Path], Figure]:
    return lambda _: DRAWINGS[name]()


def _pictured(name: str, panel: Callable[[Picture], Figure]) -> Callable[[Path], Figure]:
    return lambda experiments: panel(read_picture(experiments / name))


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
        _drawn("figure-1"),
        wide=True,
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
        _drawn("figure-2"),
        wide=True,
    ),
    PaperFigure(
        "figure-3",
        "The networks with their blocks",
        "U-Net (a), ResNet-34 (b) and DenseNet (c), each with 3D convolutions and with P_2SC_2, as "
        "the configuration builds them: channels, resolutions, connections and parameters.",
        "Three networks as diagrams of boxes and arrows, each drawn twice: above with 3D "
        "convolutions, below with P2SC2, whose two streams are two rows of coloured cells.",
        _drawn("figure-3"),
        wide=True,
    ),
    PaperFigure(
        "figure-4a",
        "Training and validation error",
        "Error (above) and loss (below) against epochs, 3D beside P_2SC_2; training dashed, "
        "validation solid.",
        "Two line plots of 3D and P2SC2 against epochs: error above, loss below; training and "
        "validation.",
        lambda experiments: curves_figure(figure_4a_runs(experiments)),
        _missing_curves,
        _source_of_curves,
    ),
    PaperFigure(
        "figure-5",
        "Tissues of a brain",
        "One axial slice: T1, ground truth (a), 3D (b) and P_2SC_2 (c). Tissues are outlined, grey "
        "matter is filled. The slice and the numbered ellipses are where the two networks differ "
        "most, whichever of them is right.",
        "Four panels of one axial brain slice: the T1 image, and the tissue outlines of the ground "
        "truth, of 3D and of P2SC2, with numbered ellipses where the networks differ most.",
        _pictured("figure-5", tissue_figure),
        _missing_picture("figure-5", "brains"),
        _source_of_picture("figure-5"),
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
        _pictured("figure-6", em_figure),
        _missing_picture("figure-6", "EM volumes"),
        _source_of_picture("figure-6"),
    ),
)

FIGURES: Mapping[str, PaperFigure] = {figure.name: figure for figure in _ALL}
"""All figures by name, in the paper's order."""
