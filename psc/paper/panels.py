"""Panels (a)-(c) of Figures 5 and 6: the slice of two runs that is shown, and how it is drawn.

Slice and ellipses are where the networks differ most, whichever of them is right; the paper's
ellipses were drawn by hand. In EM that is measured in bits of variation of information between the
segmentations (``psc.em.pictures``), in MRI in voxels labelled differently.

A fresh clone draws the figures without any data: ``scripts/paper.py picture`` has left the slice,
``slices.npz``, and what it is of, ``provenance.json``: data, runs, their records and scores, and
the checksum of the former. A changed file is refused; that guards against slips, not forgers.
IBSR's terms allow no published pictures: what is committed is of phantoms, and says so.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from psc.config.compose import from_plain
from psc.em.labels import relabel_consecutive
from psc.em.pictures import (
    assign_colours,
    circle_regions,
    disagreement,
    match_labels,
    overlay,
    worst_slice,
)
from psc.errors import ConfigError, DataError
from psc.files import locate, replacing, write_json
from psc.mri.data import Subject, prepare_synthetic, read_configured
from psc.mri.finding import find_subjects
from psc.mri.nifti import check_same_space, read_nifti
from psc.mri.pictures import tissue_colour
from psc.mri.settings import IBSRConfig
from psc.mri.tissues import GM, TISSUES
from psc.paper import style
from psc.paper.groups import Group, comparable
from psc.paper.measures import AFFINITY, TISSUE, Measures, measures_of
from psc.paper.text import block_label
from psc.training.records import (
    FILE_NAME,
    SAMPLE,
    SEAL,
    SYNTHETIC,
    Record,
    read_record,
    seal_of,
    shared,
)
from psc.volumes import output
from psc.volumes.intensity import grey_image

PIXELS, PROVENANCE = "slices.npz", "provenance.json"
LARGEST = 1_000_000
"""Bytes that the pixels may take in the repository."""

SCHEMA_VERSION = 1

_Labels = npt.NDArray[np.integer[Any]]

_FIB25 = "FIB-25, Janelia FlyEM (neuroproof_examples, CC BY)"
PUBLISHABLE = {
    "efa6c2dac85ecaf7510196d9b07a2897b37dc6894247a9c2cb0c49859b3996d2": _FIB25,  # the sample
    "ea031c98ee2de778a9a3a1e6d410df5de73e4ac28022df8e7255d84e3394cafa": _FIB25,  # training_sample2
    "fd508e7aee1fe51ac9ae0460db4a841d275236f013c1f2552314b4f21b1010ea": _FIB25,  # its ground truth
    "400ccb2a7268a3880c63656e0d794f8e6252e62031869455cc8caeef245b2a83": _FIB25,  # validation_sample
    "2c5e31af0af5476bc9669b88d01a4570a26eb020799eaf6131aa75f2f7d92e98": _FIB25,  # its ground truth
}
"""Attribution of the real files of which pictures may be shown, by SHA-256 (data/sources.yaml)."""

_ELLIPSES = "Ellipses: where the networks differ most."


@dataclass(frozen=True)
class Run:
    """A finished run whose prediction is shown."""

    label: str  # what its panel is called, such as 3D
    folder: Path  # where its volumes are
    record: Record  # its numbers


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice: what went in, what was wanted, and what each run made of it."""

    raw: npt.NDArray[np.uint8]  # uint8 (H, W)
    truth: _Labels  # labels (H, W); bodies are numbered together with those of ``predictions``
    # labels (H, W) by panel title; the first run is the one compared with
    predictions: Mapping[str, _Labels]
    difference: npt.NDArray[np.float16]  # float16 (H, W), at least 0: how much the runs differ here
    provenance: Mapping[str, Any]  # what is shown; see ``_picked``


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], Measures]:
    """The runs that a figure is to compare, of one test and a block each, and their scores."""
    if len(folders) < 2:
        raise ConfigError(f"a picture compares at least two runs, found {len(folders)}; name both")
    records = [read_record(folder / FILE_NAME) for folder in folders]
    labels = [block_label(record.config["block"]["name"]) for record in records]
    if len(set(labels)) < len(labels):
        raise ConfigError(
            f"runs of {', '.join(labels)}: a panel for each block, so one run of each"
        )
    tests = comparable([Group((record,)) for record in records])
    if len(tests) > 1:
        apart = tests[1][0].first
        raise DataError(
            f"{records[0].run} and {apart.run} were tested on different data, or in different ways;"
            " a picture compares runs of one test"
        )
    runs = [Run(*each) for each in zip(labels, folders, records, strict=True)]
    return runs, measures_of(records[0])


def write_picture(picture: Picture, folder: Path) -> tuple[Path, Path]:
    """Write a picture's pixels and provenance, each completely or not at all.

    A kill between the two leaves pixels that do not fit their provenance, which reading refuses.
    """
    pixels, provenance = folder / PIXELS, folder / PROVENANCE
    predictions = {
        f"prediction_{i}": labels for i, labels in enumerate(picture.predictions.values())
    }
    arrays = {"raw": picture.raw, "truth": picture.truth, "difference": picture.difference}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays, **predictions)
    content = file.getvalue()
    if len(content) > LARGEST:
        raise DataError(
            f"the picture takes {len(content):,} bytes, more than {LARGEST:,}; show a smaller"
            " slice, or fewer runs"
        )
    checksum = hashlib.sha256(content).hexdigest()
    about = {**picture.provenance, "schema_version": SCHEMA_VERSION, "sha256": checksum}
    with replacing(pixels) as partial:
        partial.write_bytes(content)
        write_json({**about, SEAL: seal_of(about)}, provenance)
    return pixels, provenance


def read_picture(folder: Path) -> Picture:
    """Read and check a picture."""
    pixels, provenance = folder / PIXELS, folder / PROVENANCE
    remedy = "restore both with git, or write them again with scripts/paper.py picture"
    try:
        about = json.loads(provenance.read_text(encoding="utf-8"))
        version, whole = about["schema_version"], about.get(SEAL) == seal_of(about)
        content = pixels.read_bytes()
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{provenance} is none ({error!r}); {remedy}") from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{provenance} has schema version {version}, this code reads {SCHEMA_VERSION}; {remedy}"
        )
    if not whole:
        raise DataError(f"{provenance} was changed after it was written; {remedy}")
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise DataError(f"{pixels} is not the file that {PROVENANCE} describes; {remedy}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names = [run["label"] for run in about["runs"]]
        predictions = {name: arrays[f"prediction_{i}"] for i, name in enumerate(names)}
        return Picture(arrays["raw"], arrays["truth"], predictions, arrays["difference"], about)


def keep_picture(
    folders: Sequence[Path], experiments: Path, *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write the slice of finished runs beside its figure's README, if it may be published."""
    runs, measures = read_runs(folders)
    figure, pick, _ = _figure_of(measures)
    attribution = _attribution(runs[0])
    there = [
        path for name in (PIXELS, PROVENANCE) if (path := experiments / figure / name).exists()
    ]
    if there and not overwrite:  # a look before a slice is searched for
        raise ConfigError(f"{there[0]} exists; --overwrite replaces it")
    return write_picture(pick(runs, attribution), experiments / figure)


def draw_runs(folders: Sequence[Path], place: Path) -> tuple[Path, Path]:
    """Draw the figure of runs into a folder, of whatever data; returns PDF and PNG."""
    runs, measures = read_runs(folders)
    figure, pick, draw = _figure_of(measures)
    picture = pick(runs, str(runs[0].record.config["dataset"]["name"]))
    return style.save_figure(draw(picture), place, figure)


def _figure_of(
    measures: Measures,
) -> tuple[str, Callable[[Sequence[Run], str], Picture], Callable[[Picture], Figure]]:
    if measures is AFFINITY:
        return "figure-6", pick_em, em_figure
    if measures is TISSUE:
        return "figure-5", pick_tissues, tissue_figure
    raise ConfigError(f"no figure shows pictures of {measures.name}; see curves for videos")


def _attribution(run: Run) -> str:
    dataset = run.record.config["dataset"]["name"]
    if run.record.data["kind"] == SYNTHETIC:
        return f"Generated by this project ({dataset})"
    for file in run.record.data["files"]:
        if file["sha256"] not in PUBLISHABLE:
            raise ConfigError(
                f"{file['name']} of {dataset} is not known to be publishable (FIB-25's CC BY ones"
                " and all that is synthetic are); --draw FOLDER draws it for your eyes only"
            )
    return ", ".join(sorted({PUBLISHABLE[file["sha256"]] for file in run.record.data["files"]}))


def _picked(
    runs: Sequence[Run],
    attribution: str,
    raw: npt.NDArray[np.uint8],
    labels: Sequence[_Labels],
    apart: npt.NDArray[np.float32],
    scores: Callable[[Run], Mapping[str, float]],
    **own: Any,
) -> Picture:
    """A slice and where it comes from; ``labels``: the truth, then each run's."""
    record = runs[0].record
    truth, *predictions = map(smallest, labels)
    about = {
        "application": "affinity" if own["unit"] == "nm" else "tissue",
        "dataset": record.config["dataset"]["name"],
        "kind": record.data["kind"],
        "attribution": attribution,
        **own,
        "runs": [
            {
                "label": run.label,
                "run": run.record.run,
                "record": shared(run.record).seal,
                "commit": run.record.git.get("commit"),
                "iterations": run.record.iterations,
                "parameters": run.record.parameters,
                "scores": dict(scores(run)),  # that its panel quotes
            }
            for run in runs
        ],
    }
    named = {run.label: found for run, found in zip(runs, predictions, strict=True)}
    return Picture(raw, truth, named, apart.astype(np.float16), about)


def data_note(about: Mapping[str, Any]) -> str:
    """Whose data, of which kind, and how long was trained on it: the beginning of a caption."""
    trained = {run["label"]: f"{run['iterations']:,}" for run in about["runs"]}
    if len(set(trained.values())) == 1:
        iterations = next(iter(trained.values()))
    else:
        iterations = ", ".join(f"{label} {count}" for label, count in trained.items())
    kind = "real sample, reduced protocol" if about["kind"] == SAMPLE else about["kind"]
    return f"{about['attribution']}; {kind}, {iterations} iterations."


def smallest(labels: npt.NDArray[np.integer[Any]]) -> _Labels:
    """Labels in the narrowest unsigned dtype that holds them."""
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def _draw(
    picture: Picture,
    grey: npt.NDArray[np.floating[Any]],
    paint: Callable[[Axes, _Labels, Sequence[str]], None],
    *,
    raw_titles: Sequence[str],
    quote: Callable[[Mapping[str, float]], str],
    synthetic: str,
    note: str,
    ellipses: int,
    extent: float,
) -> tuple[Figure, list[Axes]]:
    """Raw | ground truth | each prediction, the regions of largest difference circled.

    ``paint`` fills a panel with labels below its titles, ``quote`` is a prediction's second title;
    ``synthetic``: title of the figure where the data are; ``extent``: side of a region, of the
    picture's shorter side.
    """
    about, size = picture.provenance, picture.provenance["pixel_size"]
    height, width = np.multiply(picture.raw.shape, size or 1.0)
    count = 2 + len(picture.predictions)
    figure, rows = style.panel_rows(
        [height / width] * -(-count // 2),
        [2] * (count // 2) + [1] * (count % 2),
        width=style.COLUMN_WIDTH,
        title=[synthetic] if about["kind"] == SYNTHETIC else [],
        note=f"{data_note(about)} {note}",
    )
    panels = [panel for row in rows for panel in row]
    style.show_image(panels[0], grey, raw_titles)
    paint(panels[1], picture.truth, ["(a) ground truth", ""])
    for i, (label, labels) in enumerate(picture.predictions.items()):
        titles = [f"({'bcdefgh'[i]}) {label}", quote(about["runs"][i]["scores"])]
        paint(panels[2 + i], labels, titles)
    bits = picture.difference.astype(np.float32)  # sums of float16 overflow
    # The same ones in every panel, so that one can look up in the truth who is right.
    circle_regions(panels[1:], bits, ellipses, extent, numbered=True)
    if size is not None:
        style.add_scale_bar(panels[0], width, about["unit"])
    return figure, panels


# Figure 6: raw, ground truth and the segmentations of two networks, of one EM section.

_EVALUATION = "evaluation"
_PICTURED = (output.RAW, output.TRUTH, output.SEGMENTATION)


def pick_em(runs: Sequence[Run], attribution: str) -> Picture:
    """The slice of the test volumes in which the runs' segmentations differ most.

    The difference is that of every run from the first, where the truth is known. Bodies get the
    numbers of the true bodies that they cover most of in the volume.
    """
    volumes = [sorted(path.name for path in _places(run, "test-*.h5")) for run in runs]
    if any(names != volumes[0] for names in volumes):
        names = {run.label: names for run, names in zip(runs, volumes, strict=True)}
        raise DataError(f"the runs have different test volumes: {names}; evaluate them alike")
    picked = [_pick_of_volume(runs, name, attribution) for name in volumes[0]]
    return max(picked, key=lambda pair: pair[0])[1]


def _places(run: Run, pattern: str) -> list[Path]:
    """Files that the evaluation of a run has left, at least one."""
    found = list((run.folder / _EVALUATION).glob(pattern))
    if not found:
        raise DataError(
            f"{run.folder / _EVALUATION} holds no {pattern}, only the record is there; evaluate.py "
            "writes it again from the run's checkpoint"
        )
    return found


@style.page_style()
def em_figure(picture: Picture, *, regions: int = 3) -> Figure:
    """Raw | ground truth | each prediction; ``regions``: ellipses at most."""
    at = picture.provenance["slice"]
    z = at["index"] if at["in_file"] is None else at["in_file"]
    grey = grey_image(picture.raw)
    colours = assign_colours([picture.truth, *picture.predictions.values()])

    def paint(panel: Axes, labels: _Labels, titles: Sequence[str]) -> None:
        style.show_image(panel, overlay(grey, labels, colours), titles)

    figure, _ = _draw(
        picture,
        grey,
        paint,
        raw_titles=["raw", f"z = {z}"],
        quote=lambda s: f"VI {s['split']:.2f} split + {s['merge']:.2f} merge",
        synthetic="SYNTHETIC volume",
        note=f"VI in bits, of the whole test volume. {_ELLIPSES}",
        ellipses=regions,
        extent=0.2,
    )
    return figure


def _pick_of_volume(runs: Sequence[Run], name: str, attribution: str) -> tuple[float, Picture]:
    volumes, of_raw, offset = output.read_volumes(runs[0].folder / _EVALUATION / name, *_PICTURED)
    raw, truth, first = (volumes[key] for key in _PICTURED)
    predictions = [first]
    for run in runs[1:]:
        path = run.folder / _EVALUATION / name
        other, *_ = output.read_volumes(path, *_PICTURED)
        if not all(np.array_equal(volumes[key], other[key]) for key in (output.RAW, output.TRUTH)):
            raise DataError(
                f"{path} is not of the volume of {runs[0].record.run}; evaluate both on the same"
            )
        predictions.append(other[output.SEGMENTATION])
    # All of a first segmentation is known to itself, so 0 is a segment like any other.
    known = truth != 0
    apart = np.zeros(truth.shape, dtype=np.float32)
    for labels in predictions[1:]:
        apart += disagreement(first.astype(np.uint64) + np.uint64(1), labels).total * known
    z = worst_slice(apart)
    matched = [truth[z], *(match_labels(truth, labels)[z] for labels in predictions)]
    dense, _ = relabel_consecutive(np.stack(matched).astype(np.uint64))
    size = of_raw.voxel_size
    picture = _picked(
        *(runs, attribution, _as_bytes(raw[z]), list(dense), apart[z]),
        lambda run: {key: run.record.metrics["test"][key] for key in ("split", "merge")},
        files=runs[0].record.data["files"],
        slice={"volume": name, "axis": "z", "index": z, "in_file": z + offset[0]},
        pixel_size=None if size is None else list(size[1:]),
        unit="nm",
    )
    return float(apart[z].sum(dtype=np.float64)), picture


def _as_bytes(section: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """uint8 as it is, anything else stretched from its least to its largest value."""
    if section.dtype == np.uint8:
        return section
    values = section.astype(np.float64) - section.min()
    scaled: npt.NDArray[np.uint8] = np.rint(255 * values / (values.max() or 1.0)).astype(np.uint8)
    return scaled


# Figure 5: T1, ground truth and the tissues of two networks, of one axial slice. Tissues are
# outlined and grey matter, which the paper shows, is filled.

_AXIAL = 2
_AROUND_BRAIN = 3  # voxels
_FILL = 0.45  # opacity of grey matter


def pick_tissues(runs: Sequence[Run], attribution: str) -> Picture:
    """The axial slice, of test subjects that still lie there, in which the labels differ most."""
    picked = [_pick_of_subject(runs, one, attribution) for one in _test_subjects(runs[0])]
    return max(picked, key=lambda pair: pair[0])[1]


@style.page_style()
def tissue_figure(picture: Picture, *, regions: int = 3) -> Figure:
    """T1 | ground truth | each prediction, outlined; ``regions``: ellipses at most."""
    at = picture.provenance["slice"]
    grey = picture.raw.astype(np.float32) / 255

    def paint(panel: Axes, labels: _Labels, titles: Sequence[str]) -> None:
        style.show_image(panel, grey, titles)
        _outline(panel, labels)

    def quote(scores: Mapping[str, float]) -> str:
        shown = {tissue.upper(): 100 * scores[f"dice_{tissue}"] for tissue in ("gm", "wm", "csf")}
        return ", ".join(f"{tissue} {dice:.1f}" for tissue, dice in shown.items())

    figure, panels = _draw(
        picture,
        grey,
        paint,
        raw_titles=["T1", f"{at['volume']}, slice {at['index']}"],
        quote=quote,
        synthetic="SYNTHETIC phantom, no patient",
        note="Numbers: Dice of this subject in %. Left is the subject's left. " + _ELLIPSES,
        ellipses=regions,
        extent=0.15,  # differences of tissues are thin
    )
    _add_legend(panels[1])
    return figure


def _test_subjects(run: Run) -> list[Subject]:
    """T1 and labels of the test subjects, as they were when the run was tested."""
    where = run.folder / FILE_NAME
    config = from_plain(run.record.config, where).dataset
    if not isinstance(config, IBSRConfig):
        raise ConfigError(f"{where}: figure 5 shows subjects of IBSR, not of dataset={config.name}")
    prepare_synthetic(config)
    found = find_subjects(locate(config.folder))
    known = {file["sha256"] for file in run.record.data["files"]}
    subjects = []
    for name in run.record.data["splits"]["test"]:
        if name not in found:
            raise DataError(f"{name}, a test subject of {where}, is not in {config.folder}")
        subject = read_configured(found[name], config)
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
    first, *others = predictions = [_prediction(run, subject) for run in runs]
    apart = np.zeros(truth.shape, dtype=np.float32)
    for labels in others:
        apart += first != labels
    z = worst_slice(np.moveaxis(apart, _AXIAL, 0))
    labelled = np.logical_or.reduce([v[..., z] != 0 for v in (truth, *predictions)])
    box = style.bounding_box(labelled, _AROUND_BRAIN) or (slice(None), slice(None))

    def section(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As it is looked at: right to the right (neurological convention), anterior upwards."""
        return np.ascontiguousarray(volume[..., z][box].T[::-1])

    def dice(run: Run) -> dict[str, float]:
        scores = run.record.metrics["subjects"][subject.name]
        return {f"dice_{tissue}": scores[f"dice_{tissue}"] for tissue in TISSUES}

    size, volume = subject.native.voxel_size, subject.native.data
    # The brain's intensities but for half a per cent at the bright end.
    brightest = float(np.percentile(volume[volume != 0], 99.5)) or 1.0
    t1 = np.rint(255 * np.clip(section(volume) / brightest, 0, 1)).astype(np.uint8)
    picture = _picked(
        *(runs, attribution, t1, [*map(section, (truth, *predictions))], section(apart), dice),
        files=[dict(file) for file in subject.files],
        slice={"volume": subject.name, "axis": "superior", "index": z},
        pixel_size=[size[1], size[0]],
        unit="mm",
    )
    return float(apart[..., z].sum(dtype=np.float64)), picture


def _prediction(run: Run, subject: Subject) -> _Labels:
    (path,) = _places(run, f"{subject.name}_tissues.nii.gz")
    volume = read_nifti(path)
    check_same_space(subject.native, volume)
    return volume.data


def _outline(panel: Axes, labels: _Labels) -> None:
    """Outlines of the tissues, between the pixels; grey matter is filled."""
    panel.set_autoscale_on(False)  # the picture's own limits, whatever is drawn on it
    fill = np.zeros((*labels.shape, 4), dtype=np.float32)
    fill[labels == GM] = (*tissue_colour("gm"), _FILL)
    panel.imshow(fill, interpolation="nearest", aspect="auto")
    for tissue, value in TISSUES.items():
        if (mask := labels == value).any():
            panel.contour(mask, [0.5], colors=[tissue_colour(tissue)], linewidths=0.8)


def _add_legend(panel: Axes) -> None:
    """Above a panel."""
    handles: dict[str, Patch | Line2D] = {
        name: Line2D([], [], color=tissue_colour(name), linewidth=1.5, label=name.upper())
        for name in TISSUES
    }
    edge = tissue_colour("gm")
    handles["gm"] = Patch(facecolor=(*edge, _FILL), edgecolor=edge, label="GM")
    narrow = {"borderaxespad": 0.1, "borderpad": 0, "handlelength": 1.0, "handletextpad": 0.3}
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), **narrow}
    panel.legend(handles=[*handles.values()], ncols=len(handles), columnspacing=0.7, **place)
