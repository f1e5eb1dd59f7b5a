"""Figure 5 (a)-(c): T1, ground truth and the tissues of two networks, of one axial slice.

Tissues are outlined and grey matter, which the paper shows, is filled. The slice and the ellipses
are where the two networks label most voxels differently. IBSR's terms allow no published pictures:
what is committed is of phantoms, and says so.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from psc.config.plain import from_plain
from psc.config.schema import IBSRConfig
from psc.datasets.mri.cohort import prepare_synthetic
from psc.datasets.mri.files import find_subjects
from psc.datasets.mri.labels import GM, TISSUES
from psc.datasets.mri.nifti import check_same_space, read_nifti
from psc.datasets.mri.subjects import Subject, read_subject
from psc.datasets.splits import locate
from psc.errors import DataError
from psc.paper.panel_grid import circle_differences, panel_grid
from psc.paper.pictures import Picture, Run, data_note, run_entry, smallest
from psc.reporting.canvas import page_style, show_image
from psc.reporting.disagreement import worst_slice
from psc.reporting.tissue_style import tissue_colour
from psc.results import FILE_NAME

__all__ = ["pick_tissues", "tissue_figure"]

_AXIAL = 2
_AROUND_BRAIN = 3  # voxels
_REGION = 0.15  # of the picture's shorter side; differences of tissues are thin
_FILL = 0.45  # opacity of grey matter
_WIDTHS = {"csf": 0.8, "gm": 0.8, "wm": 0.8}  # points, of outlines
_NOTE = (
    "Numbers: Dice of this subject in %. Left is the subject's left. Ellipses: where the networks"
    " differ most."
)
_SCALE_BARS = (50, 20, 10, 5, 2, 1)  # mm


def pick_tissues(runs: Sequence[Run], attribution: str) -> Picture:
    """The axial slice of the test subjects in which the runs' labels differ most.

    Args:
        runs: of one test; the data must still be where the runs found them.
        attribution: whose data they are, as it is to stand below the picture.

    Raises:
        DataError: a run's labels or a subject's files are missing, or not those of the record.
    """
    best: tuple[float, Picture] | None = None
    for subject in _test_subjects(runs[0]):
        voxels, picture = _pick_of_subject(runs, subject, attribution)
        if best is None or voxels > best[0]:
            best = voxels, picture
    if best is None:
        raise DataError(f"{runs[0].record.run} has no test subjects")
    return best[1]


def tissue_figure(picture: Picture, *, regions: int = 3) -> Figure:
    """T1 | ground truth | each prediction, outlined, the regions of largest difference circled.

    Args:
        picture: from ``pick_tissues``, or committed.
        regions: ellipses at most.
    """
    about = picture.provenance
    shape = (picture.raw.shape[0], picture.raw.shape[1])
    size = about["pixel_size"]
    at = about["slice"]
    grey = picture.raw.astype(np.float32) / 255
    with page_style():
        figure, panels = panel_grid(
            2 + len(picture.predictions),
            shape,
            (size[0], size[1]),
            title="SYNTHETIC phantom, no patient" if about["kind"] == "synthetic" else "",
            note=f"{data_note(about)} {_NOTE}",
        )
        for panel in panels:
            panel.set_facecolor("black")
        show_image(panels[0], grey, ["T1", f"{at['volume']}, slice {at['index']}"])
        show_image(panels[1], grey, ["(a) ground truth", ""])
        _outline(panels[1], picture.truth)
        for i, (label, labels) in enumerate(picture.predictions.items()):
            scores = about["runs"][i]["scores"]
            dice = "GM {gm:.1f}, WM {wm:.1f}, CSF {csf:.1f}".format(
                **{tissue: 100 * scores[f"dice_{tissue}"] for tissue in TISSUES}
            )
            show_image(panels[2 + i], grey, [f"({'bcdefgh'[i]}) {label}", dice])
            _outline(panels[2 + i], labels)
        circle_differences(panels[1:], picture.difference, regions, extent=_REGION)
        _add_scale_bar(panels[0], shape, size)
        _add_legend(panels[1])
    return figure


def _test_subjects(run: Run) -> list[Subject]:
    """T1 and labels of the test subjects, as they were when the run was tested."""
    where = run.folder / FILE_NAME
    config = from_plain(run.record.config, where).dataset
    assert isinstance(config, IBSRConfig)  # the caller has looked at the record's scores
    prepare_synthetic(config)
    found = find_subjects(locate(config.folder))
    known = {file["sha256"] for file in run.record.data["files"]}
    subjects = []
    for name in run.record.data["splits"]["test"]:
        if name not in found:
            raise DataError(f"{name}, a test subject of {where}, is not in {config.folder}")
        subject = read_subject(
            found[name], labels="filled" if config.labels == "filled" else "unfilled"
        )
        for file in subject.files:
            if file["sha256"] not in known:
                raise DataError(
                    f"{file['name']} in {config.folder} is not the file that {where} was tested"
                    " on; restore it, or run again"
                )
        subjects.append(subject)
    return subjects


def _pick_of_subject(
    runs: Sequence[Run], subject: Subject, attribution: str
) -> tuple[float, Picture]:
    truth = subject.native_labels
    assert truth is not None  # read_subject refuses subjects without
    predictions = {run.label: _prediction(run, subject) for run in runs}
    first, *others = predictions.values()
    apart = np.zeros(truth.shape, dtype=np.float32)
    for labels in others:
        apart += first != labels
    z = worst_slice(np.moveaxis(apart, _AXIAL, 0))
    box = _box(truth[..., z] != 0, *(labels[..., z] != 0 for labels in predictions.values()))
    record, size = runs[0].record, subject.native.voxel_size
    about = {
        "application": "tissue",
        "dataset": record.config["dataset"]["name"],
        "kind": record.data["kind"],
        "attribution": attribution,
        "files": [dict(file) for file in subject.files],
        "slice": {"volume": subject.name, "axis": "superior", "index": z},
        "pixel_size": [size[1], size[0]],
        "unit": "mm",
        "runs": [run_entry(run, _dice(run, subject.name)) for run in runs],
    }
    picture = Picture(
        _section(_as_bytes(subject.native.data), z, box),
        smallest(_section(truth, z, box)),
        {label: smallest(_section(labels, z, box)) for label, labels in predictions.items()},
        _section(apart, z, box).astype(np.float16),
        about,
    )
    return float(apart[..., z].sum(dtype=np.float64)), picture


def _prediction(run: Run, subject: Subject) -> npt.NDArray[np.integer[Any]]:
    path = run.folder / "evaluation" / f"{subject.name}_tissues.nii.gz"
    if not path.is_file():
        raise DataError(
            f"{path} is missing, only the record is there; evaluate.py writes the labels again from"
            " the run's checkpoint"
        )
    volume = read_nifti(path)
    check_same_space(subject.native, volume)
    return volume.data


def _dice(run: Run, subject: str) -> dict[str, float]:
    scores = run.record.metrics["subjects"][subject]
    return {f"dice_{tissue}": scores[f"dice_{tissue}"] for tissue in TISSUES}


def _box(*masks: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Around all that is labelled in a slice; the whole slice where nothing is."""
    together = np.logical_or.reduce(masks)
    sides = []
    for axis in range(2):
        occupied = np.flatnonzero(together.any(axis=1 - axis))
        if occupied.size == 0:
            return slice(None), slice(None)
        start, stop = int(occupied[0]) - _AROUND_BRAIN, int(occupied[-1]) + 1 + _AROUND_BRAIN
        sides.append(slice(max(0, start), min(together.shape[axis], stop)))
    return sides[0], sides[1]


def _section(volume: npt.NDArray[Any], z: int, box: tuple[slice, slice]) -> npt.NDArray[Any]:
    """As it is looked at: right to the right (neurological convention), anterior upwards."""
    return np.ascontiguousarray(volume[(*box, z)].T[::-1])


def _as_bytes(volume: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The brain's intensities but for half a per cent at the bright end, as 0 to 255."""
    high = float(np.percentile(volume[volume != 0], 99.5))
    scaled = np.rint(255 * np.clip(volume / (high or 1.0), 0, 1))
    return scaled.astype(np.uint8)


def _outline(panel: Axes, labels: npt.NDArray[np.integer[Any]]) -> None:
    """Outlines of the tissues, between the pixels; grey matter is filled."""
    panel.set_autoscale_on(False)  # the picture's own limits, whatever is drawn on it
    fill = np.zeros((*labels.shape, 4), dtype=np.float32)
    fill[labels == GM] = (*tissue_colour("gm"), _FILL)
    panel.imshow(fill, interpolation="nearest", aspect="auto")
    for tissue, value in TISSUES.items():
        for edge in _edges(labels == value):
            panel.plot(*edge, color=tissue_colour(tissue), linewidth=_WIDTHS[tissue])


def _edges(mask: npt.NDArray[np.bool_]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Borders of a mask, between its pixels, as x and y: those along rows, those along columns."""
    lines = []
    padded = np.pad(mask, 1).astype(np.int8)
    for axis in range(2):
        before, after = np.nonzero(np.diff(padded, axis=axis))
        along, across = (before, after) if axis == 0 else (after, before)
        # NaN lifts the pen between pieces of one pixel's length.
        straight = np.stack([along - 0.5, along - 0.5, np.full(along.size, np.nan)], axis=1)
        moving = np.stack([across - 1.5, across - 0.5, np.full(across.size, np.nan)], axis=1)
        x, y = (moving, straight) if axis == 0 else (straight, moving)
        lines.append((x.ravel(), y.ravel()))
    return lines


def _add_scale_bar(panel: Axes, shape: tuple[int, int], size: Sequence[float]) -> None:
    """In the lower left, as long as fits into a third of the panel."""
    rows, columns = shape
    length = next((mm for mm in _SCALE_BARS if mm <= columns * size[1] / 3), _SCALE_BARS[-1])
    left, bottom, thickness = 0.04 * columns, 0.95 * rows, 0.015 * rows
    bar = Rectangle((left, bottom - thickness), length / size[1], thickness, color="white", lw=0)
    panel.add_patch(bar)
    text = panel.text(left, bottom - 1.8 * thickness, f"{length} mm", color="white", va="bottom")
    for artist in (bar, text):
        artist.set_path_effects([patheffects.withStroke(linewidth=1.2, foreground="black")])


def _add_legend(panel: Axes) -> None:
    handles: list[Patch | Line2D] = [
        Line2D([], [], color=tissue_colour(tissue), linewidth=1.5, label=tissue.upper())
        for tissue in TISSUES
    ]
    handles[1] = Patch(
        facecolor=(*tissue_colour("gm"), _FILL), edgecolor=tissue_colour("gm"), label="GM"
    )
    panel.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(handles),
        borderaxespad=0.1,
        borderpad=0,
        handlelength=1.0,
        handletextpad=0.3,
        columnspacing=0.7,
    )
