"""A scene as one page of HTML: nothing is fetched, everything is in the file."""

import base64
import html
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.figure import Figure
from PIL import Image

from psc.em.bodies import BodyError
from psc.em.pictures import assign_colours, colour_image, match_labels
from psc.errors import ConfigError, DataError
from psc.paper.style import GAP, PAGE_WIDTH, add_scale_bar, page_style, save_png, show_image
from psc.viewing.neuroglancer import AFFINITIES, RAW, SEGMENTATION, TRUTH, Layer, Scene
from psc.volumes.tiling import Size3

# ----------------------------------------
# Slices and close-ups of a scene as small images, for pages and figures.
#
# A close-up of a split shows the body in the ground truth, and in the segmentation its pieces only;
# one of a merge shows the segment, and in the ground truth the bodies that it joins. What does not
# belong to the error stays grey.


PLANES = ("xy", "xz", "yz")
"""Of the sections across z, y and x."""

_Image = npt.NDArray[np.uint8]
_Box = tuple[slice, slice, slice]

_LARGEST_SLICE = 640  # pixels along an axis; every n-th voxel beyond
_CLOSE_UP = 128  # extent in the smallest voxel size
_OPACITY = 0.5  # of label colours over grey values
_CLIPPED = (0.5, 99.5)  # per cent of grey values that become black and white


@dataclass(frozen=True, eq=False)
class Picture:
    """One image.

    Attributes:
        title: what it shows.
        image: uint8 (H, W, 3), red, green, blue.
        pixel_size: extent of a pixel along both axes; nm where ``in_nm``, else voxels.
        in_nm: whether the extent is known.
        mark: (row, column) in pixels of the place that it is about.
    """

    title: str
    image: _Image
    pixel_size: tuple[float, float]
    in_nm: bool
    mark: tuple[float, float]


@dataclass(frozen=True, eq=False)
class PictureRow:
    """Pictures of the same voxels.

    Attributes:
        heading: which voxels, or which error.
        text: a sentence about them.
        pictures: of equal size.
    """

    heading: str
    text: str
    pictures: tuple[Picture, ...]


def overview(scene: Scene) -> list[PictureRow]:
    """Sections of all layers across z, y and x, through the voxel to look at first."""
    matched = _matched(scene)
    rows = []
    for axis, plane in enumerate(PLANES):
        start, offset = scene.start[axis], scene.offset[axis]
        box = _box(tuple(slice(0, size) for size in scene.shape), axis, start)
        layers = list(scene.layers.values())
        labels = {
            layer.name: _section(matched.get(layer.name, layer), box, axis)
            for layer in layers
            if layer.kind == "labels"
        }
        rows.append(
            PictureRow(
                f"{plane} section at {'zyx'[axis]} = {start + offset}",
                "",
                _pictures(scene, layers, labels, box, axis, scene.start),
            )
        )
    return rows


def worst_places(scene: Scene, count: int) -> list[PictureRow]:
    """Close-ups of the worst splits, then of the worst merges.

    Args:
        scene: with a ground truth, else there are none.
        count: of each kind, at most.

    Raises:
        ConfigError: ``count`` is negative.
    """
    if count < 0:
        raise ConfigError(f"worst={count}: must be 0 or more")
    matched = _matched(scene)
    errors = (*scene.worst("split", count), *scene.worst("merge", count))
    return [_close_up(scene, matched, error) for error in errors]


def _close_up(scene: Scene, matched: Mapping[str, Layer], error: BodyError) -> PictureRow:
    owner, other = (TRUTH, SEGMENTATION) if error.kind == "split" else (SEGMENTATION, TRUTH)
    place = scene.within(error.location)
    axis, box = _best_plane(scene, owner, other, error, place)
    mask = _section(scene.layers[owner], box, axis) == error.label
    labels = {
        name: np.where(mask, _section(matched.get(name, scene.layers[name]), box, axis), 0)
        for name in (TRUTH, SEGMENTATION)
    }
    layers = [scene.layers[n] for n in (RAW, AFFINITIES, TRUTH, SEGMENTATION) if n in scene.layers]
    what = (
        f"Body {error.label} is cut into {len(error.pieces)} segments"
        if error.kind == "split"
        else f"Segment {error.label} joins {len(error.pieces)} bodies"
    )
    pieces = ", ".join(f"{piece.label} ({piece.voxels:,})" for piece in error.pieces[:4])
    more = ", …" if len(error.pieces) > 4 else ""
    where = ", ".join(map(str, error.location))
    return PictureRow(
        f"{error.kind.capitalize()}: {error.bits:.4f} bits",
        f"{what}; the largest (voxels): {pieces}{more}; around z, y, x = {where},"
        f" {PLANES[axis]} section",
        _pictures(scene, layers, labels, box, axis, place),
    )


def _best_plane(
    scene: Scene, owner: str, other: str, error: BodyError, place: Size3
) -> tuple[int, _Box]:
    """Of the sections through a place the one that shows most of a second piece."""
    window = _window(scene, place)
    second, planes = [], []
    for axis in range(3):
        box = _box(window, axis, place[axis])
        mask = _section(scene.layers[owner], box, axis) == error.label
        pieces = _section(scene.layers[other], box, axis)[mask]
        counts = np.sort(np.unique(pieces, return_counts=True)[1])
        second.append(int(counts[-2]) if counts.size > 1 else 0)
        planes.append((axis, box))
    return planes[int(np.argmax(second))]


def _window(scene: Scene, place: Size3) -> _Box:
    """A cube around a place, in nm where they are known, moved inwards at the volume's border."""
    size = np.asarray(scene.voxel_size or (1.0, 1.0, 1.0))
    parts = []
    for axis, voxels in enumerate(scene.shape):
        extent = min(voxels, max(1, round(_CLOSE_UP * size.min() / size[axis])))
        start = int(np.clip(place[axis] - extent // 2, 0, voxels - extent))
        parts.append(slice(start, start + extent))
    return parts[0], parts[1], parts[2]


def _box(window: tuple[slice, ...], axis: int, position: int) -> _Box:
    parts = list(window)
    parts[axis] = slice(position, position + 1)
    return parts[0], parts[1], parts[2]


def _section(layer: Layer, box: _Box, axis: int) -> npt.NDArray[Any]:
    """Voxels of a box that is one voxel thick: (H, W), of affinities (3, H, W)."""
    voxels = np.asarray(layer.voxels[(..., *box)]).squeeze(axis - 3)
    step = -(-max(voxels.shape[-2:]) // _LARGEST_SLICE)
    return voxels[..., ::step, ::step]


def _pictures(
    scene: Scene,
    layers: list[Layer],
    labels: Mapping[str, npt.NDArray[Any]],
    box: _Box,
    axis: int,
    place: Size3,
) -> tuple[Picture, ...]:
    grey = _grey(scene, box, axis)
    colours = assign_colours(list(labels.values()))
    across = [b for b in range(3) if b != axis]
    voxels = [box[b].stop - box[b].start for b in across]
    size = [(scene.voxel_size or (1.0, 1.0, 1.0))[b] for b in across]
    pictures = []
    for layer in layers:
        if layer.kind == "labels":
            paint = colour_image(labels[layer.name], colours)
            opacity = _OPACITY * paint[..., 3:]
            values = (1 - opacity) * grey[..., None] + opacity * paint[..., :3]
        elif layer.kind == "affinities":
            values = np.moveaxis(_section(layer, box, axis).astype(np.float32), 0, -1)
        else:
            values = np.repeat(grey[..., None], 3, axis=-1)
        image = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
        step = -(-max(voxels) // _LARGEST_SLICE)
        mark = [(place[b] - box[b].start + 0.5) / step for b in across]
        pictures.append(
            Picture(
                layer.name,
                image,
                (size[0] * step, size[1] * step),
                scene.voxel_size is not None,
                (mark[0], mark[1]),
            )
        )
    return tuple(pictures)


def _grey(scene: Scene, box: _Box, axis: int) -> npt.NDArray[np.float32]:
    """What lies below labels, in [0, 1]: raw, else the mean affinity, which is dark at membranes.

    Black and white are those of the whole section, so that a close-up is no brighter than it.
    """
    if RAW not in scene.layers:
        if AFFINITIES not in scene.layers:
            shape = _section(next(iter(scene.layers.values())), box, axis).shape
            return np.full(shape, 0.5, dtype=np.float32)
        mean: npt.NDArray[np.float32] = _section(scene.layers[AFFINITIES], box, axis).mean(
            axis=0, dtype=np.float32
        )
        return mean
    layer = scene.layers[RAW]
    position = box[axis].start
    everything = _box(tuple(slice(0, size) for size in scene.shape), axis, position)
    low, high = (float(v) for v in np.percentile(_section(layer, everything, axis), _CLIPPED))
    grey = _section(layer, box, axis).astype(np.float32) - low
    return np.clip(grey / (high - low), 0, 1) if high > low else np.zeros_like(grey)


def _matched(scene: Scene) -> dict[str, Layer]:
    """Label layers with the ids of the bodies that they cover most, so that colours agree."""
    if TRUTH not in scene.layers or (truth := scene.layers[TRUTH].in_memory) is None:
        return {}
    return {
        name: Layer(name, "labels", match_labels(truth, layer.in_memory))
        for name, layer in scene.layers.items()
        if layer.kind == "labels" and name != TRUTH and layer.in_memory is not None
    }


_SCALE_BAR_EXTENT = 0.3  # of a picture's width, at most

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1d20; --faint: #5b626b;
  --line: #d9dde2; --alarm: #9a3412; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e7e9ec; --faint: #a2abb5; --line: #363c43; --alarm: #fdba74; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; margin: .3rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .1rem; }
p { margin: .2rem 0 .5rem; max-width: 70ch; overflow-wrap: anywhere; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
.alarm { color: var(--alarm); font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.facts td { overflow-wrap: anywhere; }
.facts th { min-width: 6rem; }
.row { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 9rem), 1fr)); }
@media (min-width: 45rem) { .row { grid-template-columns: repeat(4, 1fr); max-width: 64rem; }
  .overview { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); max-width: none; } }
figure { margin: 0; }
.picture { position: relative; overflow: hidden; }
.picture img { display: block; width: 100%; height: 100%; image-rendering: pixelated; }
.picture i { position: absolute; width: 1.2rem; height: 1.2rem; margin: -.6rem;
  border: 2px solid #fff; border-radius: 50%;
  box-shadow: 0 0 2px 1px #000, inset 0 0 2px 1px #000; }
.picture b { position: absolute; left: 4%; bottom: 5%; border-bottom: 3px solid #fff; color: #fff;
  font: 600 .75rem/1.4 system-ui, sans-serif; text-shadow: 0 0 2px #000, 0 0 2px #000;
  white-space: nowrap; filter: drop-shadow(0 0 1px #000); }
"""


def report_html(scene: Scene, sections: Sequence[PictureRow], places: Sequence[PictureRow]) -> str:
    """The page.

    Args:
        scene: its scores and facts.
        sections: of the whole volume.
        places: close-ups of splits and merges.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(scene.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
        f"<h1>{html.escape(scene.title)}</h1>\n",
        _lead(scene),
        _scores(scene),
        "<h2>Overview</h2>\n",
        _legend(scene),
        *(_row(row, "row overview") for row in sections),
    ]
    if places:
        parts += ["<h2>Worst places</h2>\n", _bits(scene), *(_row(row, "row") for row in places)]
    elif scene.scores:
        parts.append("<h2>Worst places</h2>\n<p>No split and no merge is shown.</p>\n")
    parts += ["<h2>Where it comes from</h2>\n", _facts(scene), "</body>\n</html>\n"]
    return "".join(parts)


def write_html(text: str, path: Path) -> None:
    """Write a page, completely or not at all; missing folders are made.

    Raises:
        DataError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error}; free disk space or give another report=…"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _lead(scene: Scene) -> str:
    z, y, x = scene.shape
    size = (
        f"voxels of {' × '.join(f'{s:g}' for s in scene.voxel_size)} nm"
        if scene.voxel_size
        else "voxels of unknown size"
    )
    begin = ", ".join(map(str, scene.offset))
    data = scene.facts.get("data", "")
    alarm = ' class="alarm"' if "SYNTHETIC" in data else ""
    kind = f"<p{alarm}>{html.escape(data)}</p>\n" if data else ""
    return (
        f"{kind}<p class=faint>{z} × {y} × {x} {size} (z, y, x), which begin at voxel {begin} of"
        " their source volume.</p>\n"
    )


def _scores(scene: Scene) -> str:
    if not scene.scores:
        return ""
    columns = list(next(iter(scene.scores.values())))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *columns))
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{scores[column]:.4f}</td>" for column in columns)
        + "</tr>"
        for name, scores in scene.scores.items()
    )
    return (
        f"<h2>Scores of the test part</h2>\n<div class=wide><table><tr>{head}</tr>{rows}</table>"
        "</div>\n<p class=faint>VI in bits; each threshold was chosen on the validation part."
        "</p>\n"
    )


def _legend(scene: Scene) -> str:
    text = "The ring marks the same voxel everywhere."
    if AFFINITIES in scene.layers:
        text += " Affinities along z, y, x are red, green and blue: dark is a boundary."
    if scene.errors:
        text += (
            " A segment has the colour of the body that it covers most; every further piece of that"
            " body has another."
        )
    return f"<p class=faint>{text}</p>\n"


def _bits(scene: Scene) -> str:
    splits, merges = (
        sum(1 for error in scene.errors if error.kind == kind) for kind in ("split", "merge")
    )
    return (
        f"<p class=faint>This region has {splits} splits, {scene.bits('split'):.4f} bits of VI"
        f" split, and {merges} merges, {scene.bits('merge'):.4f} bits of VI merge. Only what"
        " belongs to an error is coloured.</p>\n"
    )


def _row(row: PictureRow, kind: str) -> str:
    text = f"<p class=faint>{html.escape(row.text)}</p>\n" if row.text else ""
    figures = "".join(_figure(picture, first=i == 0) for i, picture in enumerate(row.pictures))
    return f'<h3>{html.escape(row.heading)}</h3>\n{text}<div class="{kind}">{figures}</div>\n'


def _figure(picture: Picture, *, first: bool) -> str:
    rows, columns = picture.image.shape[:2]
    height, width = rows * picture.pixel_size[0], columns * picture.pixel_size[1]
    row, column = picture.mark
    bar = _scale_bar(width) if first and picture.in_nm else ""
    name = html.escape(picture.title)
    return (
        f'<figure><div class=picture style="aspect-ratio: {width:g} / {height:g}">'
        f'<img alt="{name}" src="data:image/png;base64,{_png(picture)}">'
        f'<i style="left: {100 * column / columns:.2f}%; top: {100 * row / rows:.2f}%"></i>{bar}'
        f"</div><figcaption>{name}</figcaption></figure>\n"
    )


def _scale_bar(width: float) -> str:
    """A bar of the longest of 1, 2, 5, 10, … nm that fits."""
    longest = _SCALE_BAR_EXTENT * width
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step == 1 or step * power <= longest)
    label = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    return f'<b style="width: {100 * length / width:.2f}%">{label}</b>'


def _png(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.image).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _facts(scene: Scene) -> str:
    facts = {**scene.facts, "file": scene.path.name}
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>\n'


# ----------------------------------------
# The pictures of a report as one PNG, for slides and for terminals without a browser.


_MARGIN = 0.1  # inches
_LINE = 0.13  # inches, of a line of type
_CHARACTERS = 118  # on a line of the page
_TITLE = 0.2  # inches above a panel


def write_png(scene: Scene, rows: Sequence[PictureRow], path: Path) -> None:
    """Write rows of panels under each other, each with its heading, as wide as a page.

    Args:
        scene: its title and scores stand above.
        rows: at least one; panels of a row are of equal size.
        path: the .png; see ``psc.paper.style.save_png``.
    """
    head = [scene.title, *_score_lines(scene)]
    most = max(len(row.pictures) for row in rows)
    inside = PAGE_WIDTH - 2 * _MARGIN
    blocks = []
    for row in rows:
        image, pixel = row.pictures[0].image, row.pictures[0].pixel_size
        width = (inside - (most - 1) * GAP) / most
        ratio = image.shape[0] * pixel[0] / (image.shape[1] * pixel[1])
        text = textwrap.wrap(row.text, _CHARACTERS)
        blocks.append((row, text, width, width * ratio))
    gaps = sum(_LINE * (2 + len(text)) + _TITLE + tall for _, text, _, tall in blocks)
    height = 2 * _MARGIN + _LINE * len(head) + gaps
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, height))
        y = height - _MARGIN
        for i, line in enumerate(head):
            y -= _LINE
            _write(figure, line, y, bold=i == 0)
        for row, text, width, tall in blocks:
            y -= 2 * _LINE
            _write(figure, row.heading, y, bold=True)
            for line in text:
                y -= _LINE
                _write(figure, line, y)
            y -= _TITLE + tall
            _panels(figure, row, y, width, tall)
        save_png(figure, path)


def _panels(figure: Figure, row: PictureRow, bottom: float, width: float, tall: float) -> None:
    page, height = figure.get_size_inches()
    for i, picture in enumerate(row.pictures):
        left = _MARGIN + i * (width + GAP)
        panel = figure.add_axes((left / page, bottom / height, width / page, tall / height))
        show_image(panel, picture.image, [picture.title])
        (ring,) = panel.plot(
            picture.mark[1] - 0.5, picture.mark[0] - 0.5, "o", mfc="none", mec="white", ms=7, mew=1
        )
        ring.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="black")])
        if i == 0 and picture.in_nm:
            add_scale_bar(panel, picture.image.shape[1] * picture.pixel_size[1])


def _score_lines(scene: Scene) -> list[str]:
    lines = [scene.facts["data"]] if "data" in scene.facts else []
    for name, scores in scene.scores.items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items()))
    return lines


def _write(figure: Figure, text: str, y: float, *, bold: bool = False) -> None:
    page, height = figure.get_size_inches()
    weight = "bold" if bold else "normal"
    figure.text(_MARGIN / page, y / height, text, weight=weight, va="bottom")
