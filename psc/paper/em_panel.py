"""Figure 6 (a)-(c): raw, ground truth and the segmentations of two networks, of one EM slice.

The paper's ellipses were drawn by hand; here they are where the two segmentations differ most, in
bits of variation of information between them (``psc.reporting.disagreement``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from psc.datasets import output
from psc.errors import DataError
from psc.paper.panel_grid import circle_differences, panel_grid
from psc.paper.pictures import Picture, Run, data_note, run_entry, smallest
from psc.reporting.canvas import add_scale_bar, page_style, show_image
from psc.reporting.colours import assign_colours, match_labels
from psc.reporting.disagreement import disagreement, worst_slice
from psc.reporting.sections import grey_image, overlay
from psc.segmentation.labels import relabel_consecutive

__all__ = ["em_figure", "pick_em"]

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
            add_scale_bar(panels[0], shape, size[1])
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
