"""Pictures of a segmentation: what went in, what was wanted, what came out, and where it errs.

The layout is that of the paper's Figure 6 (a)-(c), where ellipses mark the regions that differ.
There they were drawn by hand; here they are where the bits of variation of information are: it is
a mean over voxels of bits of surprise, so it can be drawn. A voxel that was cut off from the rest
of its neuron carries many bits of split, one that was given to the wrong neuron many of merge.

A segment has the same colour in every panel. A prediction's ids are arbitrary, so they are first
replaced by those of the true segments that they cover most; then a split shows as a second colour
inside one cell, and a merge as one colour across two. Segments that touch get different colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.lib.stride_tricks import sliding_window_view

from psc.em.labels import pieces_of, relabel_consecutive
from psc.errors import ConfigError, DataError
from psc.metrics import contingency_table
from psc.paper import style
from psc.volumes.intensity import grey_image
from psc.volumes.metadata import Triple

Colour = tuple[float, float, float]
_Labels = npt.NDArray[np.integer[Any]]
Box = tuple[slice, ...]

# Chosen by farthest-point search for the largest CIEDE2000 distance between any two of them as seen
# with normal vision, protanopia and deuteranopia (simulated); the smallest of all is about 15.
_PALETTE_HEX = (
    "ff6900 4b00ff 87f0ff 962d3c 009696 2dffc3 69b4ff d23c78 d21e00 960f87 69c3b4 ffe15a 87b478"
    " 4b78ff"
)
PALETTE: tuple[Colour, ...] = tuple(to_rgb(f"#{colour}") for colour in _PALETTE_HEX.split())
# Segments this many pixels apart look as if they touched: membranes are often labelled 0.
_TOUCHING_PIXELS = (1, 2, 4)
_COLOUR_BAR_WIDTH = 0.42  # inches, numbers included
_REGIONS, _REGION_EXTENT = 3, 0.2  # ellipses at most; of the slice's shorter side
_OPACITY = 0.5  # of label colours over the raw image


@style.page_style()
def segmentation_figure(
    raw: npt.NDArray[Any],
    truth: _Labels,
    predictions: Mapping[str, _Labels],
    path: Path,
    *,
    voxel_size_nm: Triple | None = None,
) -> None:
    """One row of panels: raw | ground truth | each prediction by name, of one slice of a volume.

    Volumes are (D, H, W); the slice is the one with most disagreement, summed over predictions. In
    each prediction, dotted ellipses mark where the slice holds most of the volume's variation of
    information; its title says the volume's. A scale bar is drawn where ``voxel_size_nm`` (z, y, x)
    is given.
    """
    _check_volumes(raw, {"truth": truth, **predictions})
    if not predictions:
        raise ConfigError("a segmentation figure needs at least one prediction")
    maps = {name: disagreement(truth, labels) for name, labels in predictions.items()}
    z = worst_slice(np.sum([m.total for m in maps.values()], axis=0))
    matched = {name: match_labels(truth, labels)[z] for name, labels in predictions.items()}
    colours = assign_colours([truth[z], *matched.values()])
    figure, panels = _row(raw, 2 + len(matched), voxel_size_nm)
    grey = grey_image(raw[z])
    style.show_image(panels[0], grey, ["raw", f"z = {z}"])
    style.show_image(panels[1], overlay(grey, truth[z], colours), ["ground truth", ""])
    for panel, (name, labels) in zip(panels[2:], matched.items(), strict=True):
        vi = "VI split {:.2f}, merge {:.2f}".format(*maps[name].vi)
        style.show_image(panel, overlay(grey, labels, colours), [name, vi])
        circle_regions([panel], maps[name].total[z], _REGIONS, _REGION_EXTENT)
    style.save_png(figure, path)


@style.page_style()
def affinity_figure(
    raw: npt.NDArray[Any],
    affinities: npt.NDArray[np.floating[Any]],
    path: Path,
    *,
    voxel_size_nm: Triple | None = None,
) -> None:
    """Raw | affinity along z | along y | along x, (3, D, H, W) in [0, 1], of the middle slice."""
    _check_volumes(raw, {"affinities": affinities[0]})
    z = len(raw) // 2
    look: dict[str, Any] = {"title_lines": 1, "room": (_COLOUR_BAR_WIDTH, 0.0)}
    figure, panels = _row(raw, 4, voxel_size_nm, **look)
    style.show_image(panels[0], grey_image(raw[z]), [f"raw, z = {z}"])
    section = np.asarray(affinities[:, z], dtype=np.float32)
    for panel, image, axis in zip(panels[1:], section, "zyx", strict=True):
        style.show_image(panel, image, [f"affinity along {axis}"], cmap="cividis")
    box = panels[-1].get_position()
    width = figure.get_figwidth()
    bar = figure.add_axes((box.x1 + style.GAP / width, box.y0, 0.08 / width, box.height))
    figure.colorbar(panels[-1].images[0], cax=bar, ticks=[0, 0.5, 1])
    style.save_png(figure, path)


def _row(
    raw: npt.NDArray[Any], count: int, voxel_size: Triple | None, **look: Any
) -> tuple[Figure, list[Axes]]:
    """Panels of a section's proportions, the first with a scale bar where these are known."""
    _, height, width = np.multiply(raw.shape, voxel_size or 1.0)
    figure, (panels,) = style.panel_rows([height / width], count, **look)
    if voxel_size is not None:
        style.add_scale_bar(panels[0], width)
    return figure, panels


def _check_volumes(raw: npt.NDArray[Any], others: Mapping[str, npt.NDArray[Any]]) -> None:
    if raw.ndim != 3 or raw.size == 0:
        raise DataError(f"raw must have shape (D, H, W) with voxels in it, found {raw.shape}")
    for name, volume in others.items():
        if volume.shape != raw.shape:
            raise DataError(f"{name} has shape {volume.shape}, raw {raw.shape}; crop one to match")


def circle_regions(
    panels: Sequence[Axes],
    bits: npt.NDArray[np.floating[Any]],
    count: int,
    extent: float,
    *,
    numbered: bool = False,
) -> None:
    """Ellipses around the regions of a slice with most bits, of an extent of its shorter side."""
    side = max(1, round(extent * min(bits.shape)))
    for i, region in enumerate(worst_regions(bits, (side, side), count), start=1):
        (row, column), (rows, columns) = region_ellipse(bits, region)
        # The number is beside the upper right of the ellipse, or wherever that is on the picture.
        right = 1 if column + columns < 0.95 * bits.shape[1] else -1
        up = -1 if row - rows > 0.05 * bits.shape[0] else 1
        place = column + right * 0.85 * columns, row + up * 0.85 * rows
        for panel in panels:
            ellipse = Ellipse((column, row), 2 * columns, 2 * rows, fill=False, linewidth=1.1)
            ellipse.set(edgecolor="white", linestyle=(0, (1.2, 0.9)))
            style.outline(ellipse, 2.2)
            panel.add_patch(ellipse)
            if numbered:
                middle: dict[str, Any] = {"ha": "center", "va": "center"}
                style.outline(panel.text(*place, str(i), color="white", weight="bold", **middle))


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Bits by which each voxel adds to variation of information; arrays of the labels' shape."""

    split: npt.NDArray[np.float32]  # −log2 p(predicted | truth); 0 where unknown
    merge: npt.NDArray[np.float32]  # −log2 p(truth | predicted); 0 where unknown
    known: npt.NDArray[np.bool_]  # where the truth is not 0

    @property
    def total(self) -> npt.NDArray[np.float32]:
        """Bits of split and merge together."""
        return self.split + self.merge

    @property
    def vi(self) -> tuple[float, float]:
        """VI split and VI merge in bits: the means over the known voxels."""
        split, merge = (bits.sum(dtype=np.float64) for bits in (self.split, self.merge))
        known = np.count_nonzero(self.known)
        return float(split / known), float(merge / known)


def disagreement(truth: _Labels, predicted: _Labels) -> Disagreement:
    """Spread VI split and VI merge over the voxels that cause them.

    Probabilities are those of the whole volume, so a slice of the maps shows what the volume's
    number is made of: their means over the known voxels are VI split and VI merge. Labels have one
    to three axes; predicted 0 is one segment like any other, as in ``psc.metrics``.
    """
    pieces = pieces_of(truth, predicted)

    def bits(owner: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        of_piece = np.log2(np.bincount(owner, pieces.voxels)[owner] / pieces.voxels)
        table: npt.NDArray[np.float32] = np.append(0, of_piece).astype(np.float32)
        return table[pieces.volume]

    return Disagreement(bits(pieces.body), bits(pieces.segment), pieces.volume > 0)


def worst_regions(
    bits: npt.NDArray[np.floating[Any]], size: Sequence[int], count: int
) -> list[Box]:
    """Boxes that hold the most disagreement, at most so many, none overlapping another.

    Greedy: the worst box, then the worst of those that do not touch it, and so on. Boxes without
    any disagreement are not returned, so a perfect prediction has none. ``bits`` are not negative;
    ``size`` is a box's extent along each axis, cut to the array's.
    """
    extent = tuple(min(s, n) for s, n in zip(size, bits.shape, strict=True))
    sums = bits.astype(np.float64)  # then: over the box that starts at each voxel
    for axis, length in enumerate(extent):
        sums = sliding_window_view(sums, length, axis).sum(axis=-1)
    boxes: list[Box] = []
    while len(boxes) < count and sums.max() > 0:
        start = np.unravel_index(np.argmax(sums), sums.shape)
        places = [(int(a), e) for a, e in zip(start, extent, strict=True)]
        boxes.append(tuple(slice(a, a + e) for a, e in places))
        sums[tuple(slice(max(0, a - e + 1), a + e) for a, e in places)] = 0
    return boxes


def worst_slice(bits: npt.NDArray[np.floating[Any]]) -> int:
    """Index along the first axis of the slice of (D, H, W) with the most disagreement."""
    return int(np.argmax(bits.sum(axis=(1, 2), dtype=np.float64)))


def region_ellipse(
    bits: npt.NDArray[np.floating[Any]], region: Box
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and radii (rows, columns) of an ellipse around the bits in a box of a slice."""
    inside = bits[region].astype(np.float64)
    centre, radii = [], []
    for axis, side in enumerate(region):
        weight = inside.sum(axis=1 - axis)
        position = np.arange(side.start, side.stop)
        mean = float(np.average(position, weights=weight))
        spread = float(np.sqrt(np.average((position - mean) ** 2, weights=weight)))
        extent = side.stop - side.start
        centre.append(mean)
        radii.append(float(np.clip(2.5 * spread, extent / 4, extent / np.sqrt(2))))
    return (centre[0], centre[1]), (radii[0], radii[1])


def match_labels(truth: _Labels, predicted: _Labels) -> npt.NDArray[np.uint64]:
    """Rename predicted segments after the true segments that they cover most; 0 stays 0.

    If several want the same id, the one with the largest overlap gets it, and the others get ids
    that the truth does not use. The result is uint64 and the same partition.
    """
    table = contingency_table(truth, predicted, ignore_truth=())
    order = np.argsort(-table.counts, kind="stable")
    new_id, taken, waiting = {0: 0}, {0}, {}  # waiting: in the order in which they get an id
    for true_id, predicted_id in zip(
        table.truth_ids[order].tolist(), table.predicted_ids[order].tolist(), strict=True
    ):
        if true_id == 0 or predicted_id in new_id or predicted_id in waiting:
            continue  # a lesser overlap of the same segment: slivers must not decide a colour
        if true_id in taken:
            waiting[predicted_id] = True
        else:
            new_id[predicted_id] = true_id
            taken.add(true_id)
    waiting.update((i, True) for i in np.unique(table.predicted_ids).tolist() if i not in new_id)
    # Of the first T + L numbers at least L are none of the T true ids.
    true_ids = np.unique(table.truth_ids)
    candidates = np.arange(1, true_ids.size + len(waiting) + 1, dtype=np.uint64)
    free = np.setdiff1d(candidates, true_ids)[: len(waiting)]
    new_id.update(zip(waiting, free.tolist(), strict=True))
    dense, original_ids = relabel_consecutive(predicted)
    return np.array([new_id[i] for i in original_ids.tolist()], dtype=np.uint64)[dense]


def assign_colours(images: Sequence[_Labels]) -> dict[int, Colour]:
    """One colour for each id that occurs in any of a figure's label images (H, W) but 0.

    An id starts from a colour of its own, always the same, and moves on only if a larger segment
    that it touches in one of the images already has that colour. Neighbours differ as long as a
    segment has fewer neighbours than the palette has colours; beyond that, the least used is taken.
    """
    neighbours: dict[int, set[int]] = {}
    sizes: dict[int, int] = {}
    for image in images:
        _check_image(image)
        ids, counts = np.unique(image, return_counts=True)
        for label, size in zip(ids.tolist(), counts.tolist(), strict=True):
            if label != 0:
                sizes[label] = sizes.get(label, 0) + size
                neighbours.setdefault(label, set())
        for one, other in _touching(image):
            neighbours[one].add(other)
            neighbours[other].add(one)
    chosen: dict[int, int] = {}
    for label in sorted(sizes, key=lambda i: (-sizes[i], i)):
        uses = np.zeros(len(PALETTE), dtype=np.int64)
        for other in neighbours[label]:
            if other in chosen:
                uses[chosen[other]] += 1
        # All positions in the palette, in an order that belongs to this id and looks random.
        preferred = np.random.default_rng(label).permutation(len(PALETTE)).tolist()
        chosen[label] = min(preferred, key=lambda colour: uses[colour])
    return {label: PALETTE[colour] for label, colour in chosen.items()}


def _check_image(image: _Labels) -> None:
    if image.ndim != 2 or image.dtype.kind not in "iu":
        raise DataError(
            f"a label image must be integers of shape (H, W), found {image.dtype} of shape"
            f" {image.shape}"
        )


def _touching(image: _Labels) -> set[tuple[int, int]]:
    """Pairs of ids that lie next to each other along a row or a column."""
    pairs: set[tuple[int, int]] = set()
    for pixels in _TOUCHING_PIXELS:
        shifted = ((image[pixels:], image[:-pixels]), (image.T[pixels:], image.T[:-pixels]))
        for here, there in shifted:
            edge = (here != there) & (here != 0) & (there != 0)
            found = np.unique(np.stack([here[edge], there[edge]], axis=1), axis=0)
            pairs.update((int(one), int(other)) for one, other in found)
    return pairs


def overlay(
    grey: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer[Any]],
    colours: Mapping[int, Colour],
) -> npt.NDArray[np.float32]:
    """Labels in their colours over a grey image (H, W), float32 (H, W, 3)."""
    _check_image(labels)
    ids, index = np.unique(labels, return_inverse=True)
    # 0 is not painted: its grey values stay.
    table = np.array(
        [(*colours[i], _OPACITY) if i else (0.0,) * 4 for i in ids.tolist()], np.float32
    )
    paint = table[index.reshape(labels.shape)]
    opacity = paint[..., 3:]
    blended: npt.NDArray[np.float32] = (1 - opacity) * grey[..., None] + opacity * paint[..., :3]
    return blended
