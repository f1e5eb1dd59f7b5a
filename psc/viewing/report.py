"""A scene as one page of HTML, which holds all that it shows, and its pictures as one PNG.

Sections through all layers, then close-ups of the worst errors. A close-up of a split shows the
body in the ground truth, and in the segmentation its pieces only; one of a merge shows the segment,
and in the ground truth the bodies that it joins. What does not belong to the error stays grey.
"""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from psc.em.bodies import BodyError
from psc.em.pictures import assign_colours, match_labels, overlay
from psc.files import replacing
from psc.paper import style
from psc.paper.text import render_html
from psc.viewing.scene import AFFINITIES, RAW, SEGMENTATION, TRUTH, Layer, Scene
from psc.volumes.intensity import grey_image, grey_range
from psc.volumes.metadata import Size3

PLANES = ("xy", "xz", "yz")
"""Of the sections across z, y and x."""

_Box = tuple[slice, ...]

_LARGEST_SLICE = 640  # pixels along an axis; every n-th voxel beyond
_CLOSE_UP = 128  # extent in the smallest voxel size
_CHARACTERS = 118  # on a line of the PNG


@dataclass(frozen=True, eq=False)
class Panel:
    """One image."""

    title: str  # what it shows
    image: npt.NDArray[np.uint8]  # uint8 (H, W, 3), red, green, blue
    # extent of a pixel along both axes, nm; voxels where these are of unknown size
    pixel_size: tuple[float, float]
    mark: tuple[float, float]  # (row, column) in pixels of the place that it is about


@dataclass(frozen=True, eq=False)
class Panels:
    """Pictures of the same voxels."""

    heading: str  # which voxels, or which error
    text: str  # a sentence about them
    pictures: tuple[Panel, ...]  # of equal size


def write_report(scene: Scene, path: Path, worst: int) -> tuple[Path, Path]:
    """Write the page, and beside it the PNG; ``worst``: close-ups of each kind of error."""
    sections, places = overview(scene), worst_places(scene, worst)
    picture = path.with_suffix(".png")
    with replacing(path, "give another report=…") as unfinished:
        unfinished.write_text(report_html(scene, sections, places), encoding="utf-8")
        _write_png(scene, [*sections, *places], picture)
    return path, picture


def overview(scene: Scene) -> list[Panels]:
    """Sections of all layers across z, y and x, through the voxel to look at first."""
    matched = _matched(scene)
    rows = []
    for axis, plane in enumerate(PLANES):
        start = scene.start[axis]
        box = _thin(scene.box, axis, start)
        layers = list(scene.layers.values())
        labels = {
            layer.name: _section(matched.get(layer.name, layer), box, axis)
            for layer in layers
            if layer.kind == "labels"
        }
        heading = f"{plane} section at {'zyx'[axis]} = {start + scene.offset[axis]}"
        pictures = _pictures(scene, layers, labels, box, axis, scene.start)
        rows.append(Panels(heading, "", pictures))
    return rows


def worst_places(scene: Scene, count: int) -> list[Panels]:
    """Close-ups of the worst splits, then of the worst merges, ``count`` of each at most."""
    matched = _matched(scene)
    errors = (*scene.worst("split", count), *scene.worst("merge", count))
    return [_close_up(scene, matched, error) for error in errors]


def _close_up(scene: Scene, matched: Mapping[str, Layer], error: BodyError) -> Panels:
    owner, other = (TRUTH, SEGMENTATION) if error.kind == "split" else (SEGMENTATION, TRUTH)
    place = scene.within(error.location)
    axis, box = _best_plane(scene, owner, other, error, place)
    mask = _section(scene.layers[owner], box, axis) == error.label
    labels = {
        name: np.where(mask, _section(matched.get(name, scene.layers[name]), box, axis), 0)
        for name in (TRUTH, SEGMENTATION)
    }
    layers = [scene.layers[n] for n in (RAW, AFFINITIES, TRUTH, SEGMENTATION) if n in scene.layers]
    pieces = ", ".join(f"{piece.label} ({piece.voxels:,})" for piece in error.pieces[:4])
    return Panels(
        f"{error.kind.capitalize()}: {error.bits:.4f} bits",
        f"{error.what.capitalize()}; the largest (voxels): {pieces}"
        f"{', …' if error.pieces[4:] else ''}; around z, y, x ="
        f" {', '.join(map(str, error.location))}, {PLANES[axis]} section",
        _pictures(scene, layers, labels, box, axis, place),
    )


def _best_plane(
    scene: Scene, owner: str, other: str, error: BodyError, place: Size3
) -> tuple[int, _Box]:
    """Of the sections through a place the one that shows most of a second piece."""
    window = _window(scene, place)
    second, planes = [], []
    for axis in range(3):
        box = _thin(window, axis, place[axis])
        mask = _section(scene.layers[owner], box, axis) == error.label
        pieces = _section(scene.layers[other], box, axis)[mask]
        counts = np.sort(np.unique(pieces, return_counts=True)[1])
        second.append(int(counts[-2]) if counts.size > 1 else 0)
        planes.append((axis, box))
    return planes[int(np.argmax(second))]


def _window(scene: Scene, place: Size3) -> _Box:
    """A cube around a place, in nm where they are known, moved inwards at the volume's border."""
    parts = []
    for voxels, size, at in zip(scene.shape, scene.pixel, place, strict=True):
        extent = min(voxels, max(1, round(_CLOSE_UP * min(scene.pixel) / size)))
        start = int(np.clip(at - extent // 2, 0, voxels - extent))
        parts.append(slice(start, start + extent))
    return tuple(parts)


def _thin(box: _Box, axis: int, position: int) -> _Box:
    """The part of a box that is one voxel thick."""
    return (*box[:axis], slice(position, position + 1), *box[axis + 1 :])


def _section(layer: Layer, box: _Box, axis: int) -> npt.NDArray[Any]:
    """Voxels of a box that is one voxel thick: (H, W), of affinities (3, H, W)."""
    voxels = np.asarray(layer.voxels[(..., *box)]).squeeze(axis - 3)
    step = _step(voxels.shape[-2:])
    return voxels[..., ::step, ::step]


def _step(shape: Sequence[int]) -> int:
    return -(-max(shape) // _LARGEST_SLICE)


def _pictures(
    scene: Scene,
    layers: list[Layer],
    labels: Mapping[str, npt.NDArray[Any]],
    box: _Box,
    axis: int,
    place: Size3,
) -> tuple[Panel, ...]:
    grey = _grey(scene, box, axis)
    colours = assign_colours(list(labels.values()))
    across = [b for b in range(3) if b != axis]
    step = _step([box[b].stop - box[b].start for b in across])
    height, width = (scene.pixel[b] * step for b in across)
    row, column = ((place[b] - box[b].start + 0.5) / step for b in across)
    pictures = []
    for layer in layers:
        if layer.kind == "labels":
            values = overlay(grey, labels[layer.name], colours)
        elif layer.kind == "affinities":
            values = np.moveaxis(_section(layer, box, axis).astype(np.float32), 0, -1)
        else:
            values = np.repeat(grey[..., None], 3, axis=-1)
        image = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
        pictures.append(Panel(layer.name, image, (height, width), (row, column)))
    return tuple(pictures)


def _grey(scene: Scene, box: _Box, axis: int) -> npt.NDArray[np.float32]:
    """What lies below labels: raw, as bright as in the whole section, else the mean affinity."""
    if RAW in scene.layers:
        layer = scene.layers[RAW]
        whole = _section(layer, _thin(scene.box, axis, box[axis].start), axis)
        return grey_image(_section(layer, box, axis), grey_range(whole))
    if AFFINITIES in scene.layers:
        affinities = _section(scene.layers[AFFINITIES], box, axis)
        mean: npt.NDArray[np.float32] = affinities.mean(axis=0, dtype=np.float32)
        return mean
    shape = _section(next(iter(scene.layers.values())), box, axis).shape
    return np.full(shape, 0.5, dtype=np.float32)


def _matched(scene: Scene) -> dict[str, Layer]:
    """Label layers with the ids of the bodies that they cover most, so that colours agree."""
    if TRUTH not in scene.layers or (truth := scene.layers[TRUTH].in_memory) is None:
        return {}
    return {
        name: Layer(name, "labels", match_labels(truth, layer.in_memory))
        for name, layer in scene.layers.items()
        if layer.kind == "labels" and name != TRUTH and layer.in_memory is not None
    }


def report_html(scene: Scene, sections: Sequence[Panels], places: Sequence[Panels]) -> str:
    """The page: the template ``report.html`` with its ``report.css``."""

    def png(picture: Panel) -> str:
        file = io.BytesIO()
        Image.fromarray(picture.image).save(file, "PNG", optimize=True)
        return base64.b64encode(file.getvalue()).decode()

    return render_html(
        Path(__file__).with_suffix(".html"),
        scene=scene,
        sections=sections,
        places=places,
        png=png,
        scale_bar=style.scale_bar,
    )


@style.page_style()
def _write_png(scene: Scene, rows: Sequence[Panels], path: Path) -> None:
    """The same rows under each other, as wide as a page, for slides and for terminals."""
    head = [scene.title, *([scene.facts["data"]] if "data" in scene.facts else [])]
    for name, scores in scene.scores.items():
        head.append(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items()))
    ratios = []
    for first in (row.pictures[0] for row in rows):
        height, width = np.multiply(first.image.shape[:2], first.pixel_size)
        ratios.append(height / width)
    figure, grid = style.panel_rows(
        ratios,
        [len(row.pictures) for row in rows],
        title=head,
        title_lines=1,
        heads=[[row.heading, *textwrap.wrap(row.text, _CHARACTERS)] for row in rows],
    )
    for panels, row in zip(grid, rows, strict=True):
        for panel, picture in zip(panels, row.pictures, strict=True):
            style.show_image(panel, picture.image, [picture.title])
            x, z = picture.mark[1] - 0.5, picture.mark[0] - 0.5
            (ring,) = panel.plot(x, z, "o", mfc="none", mec="white", ms=7, mew=1)
            style.outline(ring, 2.2)
        if scene.voxel_size is not None:
            first = row.pictures[0]
            style.add_scale_bar(panels[0], first.image.shape[1] * first.pixel_size[1])
    style.save_png(figure, path)
