"""Slices and close-ups of a scene as small images, for pages and figures.

A close-up of a split shows the body in the ground truth, and in the segmentation its pieces only;
one of a merge shows the segment, and in the ground truth the bodies that it joins. What does not
belong to the error stays grey.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError
from psc.reporting.body_table import BodyError
from psc.reporting.colours import assign_colours, colour_image, match_labels
from psc.tiling import Size3
from psc.viewing.layers import AFFINITIES, RAW, SEGMENTATION, TRUTH, Layer, Scene

__all__ = ["Picture", "PictureRow", "overview", "worst_places"]

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
