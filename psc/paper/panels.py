"""Panels in a grid that is as wide as a column of print, and what is drawn on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch

from psc.config.compose import from_plain
from psc.config.schema import IBSRConfig
from psc.em.data import locate
from psc.em.labels import relabel_consecutive
from psc.em.pictures import (
    assign_colours,
    disagreement,
    grey_image,
    match_labels,
    overlay,
    region_ellipse,
    worst_regions,
    worst_slice,
)
from psc.errors import DataError
from psc.mri.data import Subject, find_subjects, prepare_synthetic, read_subject
from psc.mri.nifti import check_same_space, read_nifti
from psc.mri.pictures import tissue_colour
from psc.mri.tissues import GM, TISSUES
from psc.paper.pictures import Picture, Run, data_note, run_entry, smallest
from psc.paper.style import add_scale_bar, outline, page_style, panel_grid, show_image
from psc.training.records import FILE_NAME
from psc.volumes import output


def circle_differences(
    panels: list[Axes], difference: npt.NDArray[np.floating], count: int, *, extent: float = 0.2
) -> None:
    """Numbered, dotted ellipses about the regions that hold most of a difference.

    The same ones in every panel, so that one can look up in the truth who is right.

    Args:
        panels: that show images of one shape.
        difference: (H, W), at least 0.
        count: regions at most; fewer where there is no more difference.
        extent: side of a region, of the picture's shorter side.
    """
    side = max(1, round(extent * min(difference.shape)))
    # In float32: sums of float16 overflow.
    bits = difference.astype(np.float32)
    for i, region in enumerate(worst_regions(bits, (side, side), count), start=1):
        (row, column), (rows, columns) = region_ellipse(bits, region)
        for panel in panels:
            ellipse = Ellipse(
                (column, row), 2 * columns, 2 * rows, fill=False, edgecolor="white", linewidth=1.1
            )
            ellipse.set_linestyle((0, (1.2, 0.9)))
            outline(ellipse, 2.2)
            panel.add_patch(ellipse)
            # Beside the upper right of the ellipse, or wherever that is still on the picture.
            x, y = (
                at + sign * 0.85 * radius
                for at, sign, radius in (
                    (column, 1 if column + columns < 0.95 * difference.shape[1] else -1, columns),
                    (row, -1 if row - rows > 0.05 * difference.shape[0] else 1, rows),
                )
            )
            number = panel.text(
                x, y, str(i), color="white", weight="bold", ha="center", va="center"
            )
            outline(number)


# ----------------------------------------
# Figure 6 (a)-(c): raw, ground truth and the segmentations of two networks, of one EM slice.
#
# The paper's ellipses were drawn by hand; here they are where the two segmentations differ most, in
# bits of variation of information between them (``psc.em.pictures``).


_Labels = npt.NDArray[np.integer[Any]]

_ELLIPSES = "Ellipses: where the networks differ most."
_VOLUMES = "evaluation"
_PICTURED = (output.RAW, output.TRUTH, output.SEGMENTATION)


def pick_em(runs: Sequence[Run], attribution: str) -> Picture:
    """The slice of the test volumes in which the runs' segmentations differ most.

    The difference is that of every run from the first, where the truth is known. Bodies get the
    numbers of the true bodies that they cover most of in the volume.

    Args:
        runs: of one test, evaluated with their volumes kept.
        attribution: whose data they are, as it is to stand below the picture.

    Raises:
        DataError: evaluation volumes are missing or hold something else, or the runs' volumes are
            not the same.
    """
    best: tuple[float, Picture] | None = None
    for name in _volume_names(runs):
        bits, picture = _pick_of_volume(runs, name, attribution)
        if best is None or bits > best[0]:
            best = bits, picture
    assert best is not None  # _volume_names refuses runs without volumes
    return best[1]


def em_figure(picture: Picture, *, regions: int = 3) -> Figure:
    """Raw | ground truth | each prediction, the regions of largest difference circled.

    Args:
        picture: from ``pick_em``, or committed.
        regions: ellipses at most.
    """
    about = picture.provenance
    shape = (picture.raw.shape[0], picture.raw.shape[1])
    size = about["pixel_size"]
    at = about["slice"]
    z = at["index"] if at["in_file"] is None else at["in_file"]
    grey = grey_image(picture.raw)
    colours = assign_colours([picture.truth, *picture.predictions.values()])
    with page_style():
        figure, panels = panel_grid(
            2 + len(picture.predictions),
            shape,
            (1.0, 1.0) if size is None else (size[0], size[1]),
            title="SYNTHETIC volume" if about["kind"] == "synthetic" else "",
            note=f"{data_note(about)} VI in bits, of the whole test volume. {_ELLIPSES}",
        )
        show_image(panels[0], grey, ["raw", f"z = {z}"])
        show_image(panels[1], overlay(grey, picture.truth, colours), ["(a) ground truth", ""])
        for i, (label, labels) in enumerate(picture.predictions.items()):
            scores = about["runs"][i]["scores"]
            vi = f"VI {scores['split']:.2f} split + {scores['merge']:.2f} merge"
            title = f"({'bcdefgh'[i]}) {label}"
            show_image(panels[2 + i], overlay(grey, labels, colours), [title, vi])
        circle_differences(panels[1:], picture.difference, regions)
        if size is not None:
            add_scale_bar(panels[0], shape[1] * size[1])
    return figure


def _volume_names(runs: Sequence[Run]) -> list[str]:
    names: dict[str, list[str]] = {
        run.label: sorted(path.name for path in (run.folder / _VOLUMES).glob("test-*.h5"))
        for run in runs
    }
    for run in runs:
        if not names[run.label]:
            raise DataError(
                f"{run.folder / _VOLUMES} holds no test-*.h5, only the record is there; evaluate.py"
                " writes the volumes again from the run's checkpoint"
            )
    first, *others = names.values()
    if any(other != first for other in others):
        raise DataError(f"the runs have different test volumes: {names}; evaluate them alike")
    return first


def _pick_of_volume(runs: Sequence[Run], name: str, attribution: str) -> tuple[float, Picture]:
    volumes, attributes = _read_volumes(runs[0].folder / _VOLUMES / name)
    raw, truth, first = (volumes[key] for key in _PICTURED)
    predictions = {runs[0].label: first}
    for run in runs[1:]:
        path = run.folder / _VOLUMES / name
        other, _ = _read_volumes(path)
        if not all(np.array_equal(volumes[key], other[key]) for key in (output.RAW, output.TRUTH)):
            raise DataError(
                f"{path} is not of the volume of {runs[0].record.run}; evaluate both on the same"
            )
        predictions[run.label] = other[output.SEGMENTATION]
    # All of a first segmentation is known to itself, so 0 is a segment like any other.
    known = truth != 0
    apart = np.zeros(truth.shape, dtype=np.float32)
    for labels in list(predictions.values())[1:]:
        apart += disagreement(first.astype(np.uint64) + np.uint64(1), labels).total * known
    z = worst_slice(apart)
    matched = [truth[z], *(match_labels(truth, labels)[z] for labels in predictions.values())]
    dense, _ = relabel_consecutive(np.stack(matched).astype(np.uint64))
    numbered = smallest(dense)
    record = runs[0].record
    size, offset = attributes["resolution"], attributes["offset_voxels"]
    about = {
        "application": "affinity",
        "dataset": record.config["dataset"]["name"],
        "kind": record.data["kind"],
        "attribution": attribution,
        "files": record.data["files"],
        "slice": {
            "volume": name,
            "axis": "z",
            "index": z,
            "in_file": None if offset is None else z + int(offset[0]),
        },
        "pixel_size": None if size is None else [float(size[1]), float(size[2])],
        "unit": "nm",
        "runs": [
            run_entry(run, {key: run.record.metrics["test"][key] for key in ("split", "merge")})
            for run in runs
        ],
    }
    picture = Picture(
        _as_bytes(raw[z]),
        numbered[0],
        dict(zip(predictions, numbered[1:], strict=True)),
        apart[z].astype(np.float16),
        about,
    )
    return float(apart[z].sum(dtype=np.float64)), picture


def _read_volumes(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Raw, truth and segmentation, and the raw volume's resolution and offset, if any."""
    try:
        with h5py.File(path) as file:
            volumes = {key: file[key][:] for key in _PICTURED}
            attributes = file[output.RAW].attrs
            return volumes, {key: attributes.get(key) for key in ("resolution", "offset_voxels")}
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path} is damaged or no evaluation's file ({error}); evaluate.py writes it again"
        ) from error


def _as_bytes(section: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """uint8 as it is, anything else stretched from its least to its largest value."""
    if section.dtype == np.uint8:
        return section
    values = section.astype(np.float64) - section.min()
    scaled: npt.NDArray[np.uint8] = np.rint(255 * values / (values.max() or 1.0)).astype(np.uint8)
    return scaled


# ----------------------------------------
# Figure 5 (a)-(c): T1, ground truth and the tissues of two networks, of one axial slice.
#
# Tissues are outlined and grey matter, which the paper shows, is filled. The slice and the ellipses
# are where the two networks label most voxels differently. IBSR's terms allow no published
# pictures: what is committed is of phantoms, and says so.


_AXIAL = 2
_AROUND_BRAIN = 3  # voxels
_REGION = 0.15  # of the picture's shorter side; differences of tissues are thin
_FILL = 0.45  # opacity of grey matter
_WIDTHS = {"csf": 0.8, "gm": 0.8, "wm": 0.8}  # points, of outlines
_NOTE = (
    "Numbers: Dice of this subject in %. Left is the subject's left. Ellipses: where the networks"
    " differ most."
)


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
        add_scale_bar(panels[0], shape[1] * size[1], "mm")
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
        _section(_as_bytes_tissue_panel(subject.native.data), z, box),
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


def _as_bytes_tissue_panel(volume: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
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
