"""Pictures of a segmentation: what went in, what was wanted, what came out, and where it errs.

The layout is that of the paper's Figure 6 (a)-(c), where ellipses mark the regions that differ.
There they were drawn by hand; here they are where the bits of variation of information are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from psc.em.labels import relabel_consecutive
from psc.errors import ConfigError, DataError
from psc.metrics import contingency_table
from psc.paper.style import (
    GAP,
    add_scale_bar,
    checked_png,
    page_style,
    row_of_panels,
    save_png,
    show_image,
)

# ----------------------------------------
# Colours of labels: the same segment has the same colour in every panel of a figure.
#
# A prediction's ids are arbitrary, so they are first replaced by those of the true segments that
# they
# cover most (:func:`match_labels`); then a split shows as a second colour inside one cell, and a
# merge as one colour across two. Segments that touch get different colours.


Colour = tuple[float, float, float]
_Labels = npt.NDArray[np.integer[Any]]

# Chosen by farthest-point search for the largest CIEDE2000 distance between any two of them as seen
# with normal vision, protanopia and deuteranopia (simulated); the smallest of all is about 15.
_PALETTE_HEX = (
    "ff6900 4b00ff 87f0ff 962d3c 009696 2dffc3 69b4ff d23c78 d21e00 960f87 69c3b4 ffe15a 87b478"
    " 4b78ff"
)
PALETTE: tuple[Colour, ...] = tuple(
    (int(h[:2], 16) / 255, int(h[2:4], 16) / 255, int(h[4:], 16) / 255)
    for h in _PALETTE_HEX.split()
)
# Segments this many pixels apart look as if they touched: membranes are often labelled 0.
_TOUCHING_PIXELS = (1, 2, 4)


def match_labels(truth: _Labels, predicted: _Labels) -> npt.NDArray[np.uint64]:
    """Rename predicted segments after the true segments that they cover most.

    Each predicted segment wants the id of the true segment that it shares most voxels with. If
    several want the same, the one with the largest overlap gets it, and the others get ids that
    the truth does not use.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape, 0 = unassigned.

    Returns:
        ``predicted`` with other ids, uint64 and of the same shape; 0 stays 0, and the partition is
        the same.

    Raises:
        DataError: labels are not integers, are negative, or differ in shape.
    """
    table = contingency_table(truth, predicted, ignore_truth=())
    both = (table.truth_ids != 0) & (table.predicted_ids != 0)
    largest_first = np.argsort(-table.counts[both], kind="stable")
    pairs = zip(
        table.truth_ids[both][largest_first].tolist(),
        table.predicted_ids[both][largest_first].tolist(),
        strict=True,
    )
    new_id = {0: 0}
    taken: set[int] = set()
    leftover: list[int] = []
    seen: set[int] = set()
    for true_id, predicted_id in pairs:
        if predicted_id in seen:
            continue  # a lesser overlap of the same segment: slivers must not decide a colour
        seen.add(predicted_id)
        if true_id in taken:
            leftover.append(predicted_id)
        else:
            new_id[predicted_id] = true_id
            taken.add(true_id)
    leftover += [i for i in np.unique(table.predicted_ids).tolist() if i != 0 and i not in seen]

    true_ids = np.unique(table.truth_ids)
    # Of the first T + L numbers at least L are none of the T true ids.
    candidates = np.arange(1, true_ids.size + len(leftover) + 1, dtype=np.uint64)
    free = np.setdiff1d(candidates, true_ids)[: len(leftover)]
    new_id.update(zip(leftover, free.tolist(), strict=True))

    dense, original_ids = relabel_consecutive(predicted)
    return np.array([new_id[i] for i in original_ids.tolist()], dtype=np.uint64)[dense]


def assign_colours(images: Sequence[_Labels]) -> dict[int, Colour]:
    """One colour for each id that occurs in any of a figure's images.

    An id starts from a colour of its own, always the same, and moves on only if a larger segment
    that it touches in one of the images already has that colour.

    Args:
        images: integer labels (H, W), sizes may differ; 0 is no segment and gets no colour.

    Returns:
        Colour (red, green, blue in [0, 1]) of each id. Neighbours differ as long as a segment has
        fewer neighbours than the palette has colours; beyond that, the least used is taken.

    Raises:
        DataError: an image is not two-dimensional or not of integers.
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
        chosen[label] = min(_preferred(label), key=lambda colour: uses[colour])
    return {label: PALETTE[colour] for label, colour in chosen.items()}


def colour_image(labels: _Labels, colours: Mapping[int, Colour]) -> npt.NDArray[np.float32]:
    """Paint a label image.

    Args:
        labels: integer labels (H, W).
        colours: colour of each id but 0, from :func:`assign_colours`.

    Returns:
        float32 (H, W, 4): red, green, blue and opacity in [0, 1]; label 0 is transparent.

    Raises:
        DataError: the image is not two-dimensional or not of integers, or an id has no colour.
    """
    _check_image(labels)
    ids, index = np.unique(labels, return_inverse=True)
    missing = [i for i in ids.tolist() if i != 0 and i not in colours]
    if missing:
        raise DataError(f"no colour for the labels {missing[:5]}; assign them from all images")
    table = np.array([(*colours[i], 1.0) if i else (0.0,) * 4 for i in ids.tolist()], np.float32)
    return table[index.reshape(labels.shape)]


def _check_image(image: _Labels) -> None:
    if image.ndim != 2 or image.dtype.kind not in "iu":
        raise DataError(
            f"a label image must be integers of shape (H, W), found {image.dtype} of shape"
            f" {image.shape}"
        )


def _preferred(label: int) -> list[int]:
    """All palette positions, in an order that belongs to this id and looks random."""
    return [int(i) for i in np.random.default_rng(label).permutation(len(PALETTE))]


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


# ----------------------------------------
# A section of a volume as an image: grey values, and labels painted over them.


_OPACITY = 0.5  # of label colours over the raw image


def grey_image(section: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A slice in [0, 1], its darkest and brightest half per cent clipped.

    Args:
        section: (H, W), any real dtype.

    Returns:
        float32 (H, W).
    """
    grey = section.astype(np.float32)
    low, high = (float(value) for value in np.percentile(grey, [0.5, 99.5]))
    grey -= low
    if high > low:
        grey /= high - low
    return np.clip(grey, 0, 1)


def overlay(
    grey: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer[Any]],
    colours: Mapping[int, Colour],
) -> npt.NDArray[np.float32]:
    """Labels in their colours over a grey image.

    Args:
        grey: (H, W) in [0, 1].
        labels: (H, W); ids without a colour stay grey.
        colours: by id.

    Returns:
        float32 (H, W, 3).
    """
    paint = colour_image(labels, colours)
    opacity = _OPACITY * paint[..., 3:]
    blended: npt.NDArray[np.float32] = (1 - opacity) * grey[..., None] + opacity * paint[..., :3]
    return blended


# ----------------------------------------
# Where a segmentation errs: variation of information, voxel by voxel.
#
# Variation of information is a mean over voxels of bits of surprise, so it can be drawn: a voxel
# that was cut off from the rest of its neuron carries many bits of split, one that was given to the
# wrong neuron many bits of merge, and the mean over the map is the published number.


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Bits by which each voxel adds to variation of information.

    Attributes:
        split: float32, bits of over-segmentation, −log2 p(predicted | truth); 0 where unknown.
        merge: float32, bits of under-segmentation, −log2 p(truth | predicted); 0 where unknown.
        known: bool, False where the truth is 0 = unknown. All three have the labels' shape.
    """

    split: npt.NDArray[np.float32]
    merge: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]

    @property
    def total(self) -> npt.NDArray[np.float32]:
        """Bits of split and merge together, float32, of the labels' shape."""
        return self.split + self.merge

    @property
    def vi_split(self) -> float:
        """VI split in bits: the mean of ``split`` over the known voxels."""
        return float(self.split.sum(dtype=np.float64) / np.count_nonzero(self.known))

    @property
    def vi_merge(self) -> float:
        """VI merge in bits: the mean of ``merge`` over the known voxels."""
        return float(self.merge.sum(dtype=np.float64) / np.count_nonzero(self.known))


@dataclass(frozen=True)
class Region:
    """A box of voxels.

    Attributes:
        start: first index along each axis.
        stop: index after the last along each axis.
        bits: disagreement summed over the box.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    bits: float

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the box in an array of the same axes."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


def disagreement(
    truth: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]]
) -> Disagreement:
    """Spread VI split and VI merge over the voxels that cause them.

    Probabilities are those of the whole volume, so a slice of the maps shows what the volume's
    number is made of. Predicted 0 counts as one segment of its own, as in
    :func:`psc.metrics.partitions`.

    Args:
        truth: integer labels, one to three axes, 0 = unknown.
        predicted: integer labels of the same shape.

    Returns:
        Maps of the same shape whose means over the known voxels are VI split and VI merge.

    Raises:
        DataError: labels are not integers, are negative, differ in shape, or no voxel is known.
    """
    table = contingency_table(truth, predicted)
    truth_sizes, truth_index = table.truth_sizes()
    predicted_sizes, predicted_index = table.predicted_sizes()
    split_bits = np.log2(truth_sizes[truth_index] / table.counts)
    merge_bits = np.log2(predicted_sizes[predicted_index] / table.counts)

    dense_truth, original_truth = relabel_consecutive(truth)
    dense_predicted, original_predicted = relabel_consecutive(predicted)
    # One integer for each pair of labels; the table's pairs in ascending order, to be looked up.
    pairs = _dense_ids(table.truth_ids, original_truth) * original_predicted.size
    pairs += _dense_ids(table.predicted_ids, original_predicted)
    order = np.argsort(pairs)
    pairs = pairs[order]

    known = dense_truth != 0
    split = np.zeros(known.shape, dtype=np.float32)
    merge = np.zeros(known.shape, dtype=np.float32)
    for i in range(known.shape[0]):  # slice by slice: 64-bit pairs of a volume would be 8x its size
        part = slice(i, i + 1)
        here = known[part]
        voxel_pairs = dense_truth[part][here].astype(np.int64) * original_predicted.size
        voxel_pairs += dense_predicted[part][here]
        found = order[np.searchsorted(pairs, voxel_pairs)]
        split[part][here] = split_bits[found]
        merge[part][here] = merge_bits[found]
    return Disagreement(split, merge, known)


def worst_regions(
    bits: npt.NDArray[np.floating[Any]], size: Sequence[int], count: int
) -> list[Region]:
    """Find the boxes that hold the most disagreement, none overlapping another.

    Greedy: the best box, then the best of those that do not touch it, and so on. Boxes without
    any disagreement are not returned, so a perfect prediction has none.

    Args:
        bits: non-negative disagreement of each voxel, e.g. ``Disagreement.total`` or a slice of it.
        size: extent of a box along each axis of ``bits``, voxels; cut to the array's.
        count: number of boxes at most, at least 1.

    Returns:
        At most ``count`` boxes, worst first.

    Raises:
        ConfigError: ``size`` does not fit the array's axes, or an extent or ``count`` is below 1.
        DataError: ``bits`` is empty, or holds a negative or non-finite number.
    """
    if len(size) != bits.ndim or min(size, default=0) < 1:
        raise ConfigError(f"size must hold {bits.ndim} extents of at least 1, found {tuple(size)}")
    if count < 1:
        raise ConfigError(f"count must be at least 1, found {count}")
    if bits.size == 0 or not (np.isfinite(bits).all() and bits.min() >= 0):
        raise DataError(f"bits of shape {bits.shape} must be finite, at least 0, and not empty")
    extent = tuple(min(s, n) for s, n in zip(size, bits.shape, strict=True))
    sums = _box_sums(bits, extent)  # indexed by a box's start
    regions: list[Region] = []
    while len(regions) < count:
        start = tuple(int(i) for i in np.unravel_index(np.argmax(sums), sums.shape))
        stop = tuple(a + e for a, e in zip(start, extent, strict=True))
        region = Region(start, stop, 0.0)
        # Summed again from the voxels: differences of running sums leave rounding errors.
        total = float(bits[region.slices].sum(dtype=np.float64))
        if total == 0 or np.isneginf(sums[start]):
            break
        regions.append(Region(start, stop, total))
        overlapping = tuple(
            slice(max(0, a - e + 1), a + e) for a, e in zip(start, extent, strict=True)
        )
        sums[overlapping] = -np.inf
    return regions


def worst_slice(bits: npt.NDArray[np.floating[Any]]) -> int:
    """Index along the first axis of the slice with the most disagreement.

    Args:
        bits: disagreement of each voxel, (D, H, W).

    Returns:
        The slice with the largest sum, the first of several.

    Raises:
        DataError: ``bits`` is not three-dimensional or is empty.
    """
    if bits.ndim != 3 or bits.size == 0:
        raise DataError(f"bits must have shape (D, H, W) with voxels in it, found {bits.shape}")
    return int(np.argmax(bits.sum(axis=(1, 2), dtype=np.float64)))


def _dense_ids(
    ids: npt.NDArray[np.uint64], original_ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Position of each id in ``original_ids``, whose order is arbitrary."""
    order = np.argsort(original_ids)
    positions = order[np.searchsorted(original_ids, ids, sorter=order)]
    return positions.astype(np.int64)


def _box_sums(
    bits: npt.NDArray[np.floating[Any]], extent: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Sum over the box that starts at each voxel, for the starts whose box fits."""
    padded = [(1, 0)] * bits.ndim
    integral = np.pad(bits.astype(np.float64), padded)
    for axis in range(bits.ndim):
        np.cumsum(integral, axis=axis, out=integral)
    sums = np.zeros(tuple(n - e + 1 for n, e in zip(bits.shape, extent, strict=True)))
    for corner in product((0, 1), repeat=bits.ndim):  # inclusion and exclusion
        window = tuple(
            slice(c * e, c * e + n) for c, e, n in zip(corner, extent, sums.shape, strict=True)
        )
        sums += (-1) ** (bits.ndim - sum(corner)) * integral[window]
    return sums


_VoxelSize = float | tuple[float, float, float]

_COLOUR_BAR_WIDTH = 0.42  # inches, numbers included
_REGION_EXTENT = 0.2  # of the slice's shorter side


def segmentation_figure(
    raw: npt.NDArray[Any],
    truth: _Labels,
    predictions: Mapping[str, _Labels],
    path: Path | str,
    *,
    voxel_size_nm: _VoxelSize | None = None,
    captions: Mapping[str, str] | None = None,
    slice_index: int | None = None,
    regions: int = 3,
) -> None:
    """One row of panels: raw | ground truth | each prediction, of one slice of a volume.

    Colours match: a predicted segment has the colour of the true segment that it covers most of in
    the volume. In each prediction, dotted ellipses mark where the slice holds most of the volume's
    variation of information.

    Args:
        raw: grey values (D, H, W), any real dtype and range.
        truth: integer labels (D, H, W), 0 = unknown.
        predictions: integer labels (D, H, W) by name, at least one; names become titles.
        path: the PNG to write.
        voxel_size_nm: nanometres, one number or (z, y, x); a scale bar is drawn where it is given.
        captions: second line of a prediction's title, by name. By default its VI over the volume.
        slice_index: z of the slice; by default the one with most disagreement, summed over
            predictions.
        regions: ellipses in each prediction, at most; 0 for none.

    Raises:
        DataError: shapes differ or are not three-dimensional, or labels are no valid labels.
        ConfigError: no prediction, a slice outside the volume, a caption for no prediction, a
            voxel size that is not positive, or a path that is no PNG.
    """
    path = checked_png(path)
    _check_volumes(raw, {"truth": truth, **predictions})
    if not predictions:
        raise ConfigError("a segmentation figure needs at least one prediction")
    if captions is not None and not set(captions) <= set(predictions):
        raise ConfigError(f"captions for {sorted(captions)}, predictions {sorted(predictions)}")
    maps = {name: disagreement(truth, labels) for name, labels in predictions.items()}
    if slice_index is None:
        slice_index = worst_slice(np.sum([m.total for m in maps.values()], axis=0))
    z = _checked_slice(slice_index, raw.shape[0])

    matched = {name: match_labels(truth, labels)[z] for name, labels in predictions.items()}
    colours = assign_colours([truth[z], *matched.values()])
    size = _voxel_size(voxel_size_nm)
    with page_style():
        figure, panels = row_of_panels(2 + len(matched), raw.shape[1:], size[1:], title_lines=2)
        grey = grey_image(raw[z])
        show_image(panels[0], grey, ["raw", f"z = {z}"])
        show_image(panels[1], overlay(grey, truth[z], colours), ["ground truth", ""])
        for panel, (name, labels) in zip(panels[2:], matched.items(), strict=True):
            vi = f"VI split {maps[name].vi_split:.2f}, merge {maps[name].vi_merge:.2f}"
            subtitle = vi if captions is None else captions.get(name, "")
            show_image(panel, overlay(grey, labels, colours), [name, subtitle])
            if regions > 0:
                _circle(panel, maps[name].total[z], regions)
        if voxel_size_nm is not None:
            add_scale_bar(panels[0], raw.shape[2] * size[2])
        save_png(figure, path)


def affinity_figure(
    raw: npt.NDArray[Any],
    affinities: npt.NDArray[np.floating[Any]],
    path: Path | str,
    *,
    voxel_size_nm: _VoxelSize | None = None,
    slice_index: int | None = None,
) -> None:
    """One row of panels: raw | affinity along z | along y | along x, of one slice of a volume.

    Args:
        raw: grey values (D, H, W), any real dtype and range.
        affinities: (3, D, H, W) in [0, 1], channels z, y, x.
        path: the PNG to write.
        voxel_size_nm: nanometres, one number or (z, y, x); a scale bar is drawn where it is given.
        slice_index: z of the slice; by default the middle one.

    Raises:
        DataError: shapes do not belong together, or an affinity is outside [0, 1].
        ConfigError: a slice outside the volume, a voxel size that is not positive, or a path that
            is no PNG.
    """
    path = checked_png(path)
    if affinities.ndim != 4 or affinities.shape[0] != 3:
        raise DataError(f"affinities must have shape (3, D, H, W), found {affinities.shape}")
    _check_volumes(raw, {"affinities": affinities[0]})
    z = _checked_slice(raw.shape[0] // 2 if slice_index is None else slice_index, raw.shape[0])
    section = np.asarray(affinities[:, z], dtype=np.float32)
    if not (section.min() >= 0 and section.max() <= 1):
        raise DataError(
            f"affinities must be in [0, 1], found {section.min():g} to {section.max():g} in slice"
            f" {z}; apply the sigmoid first"
        )
    size = _voxel_size(voxel_size_nm)
    with page_style():
        figure, panels = row_of_panels(
            4, raw.shape[1:], size[1:], title_lines=1, right=_COLOUR_BAR_WIDTH
        )
        show_image(panels[0], grey_image(raw[z]), [f"raw, z = {z}"])
        for panel, image, axis in zip(panels[1:], section, "zyx", strict=True):
            show_image(panel, image, [f"affinity along {axis}"], cmap="cividis")
        box = panels[-1].get_position()
        width = figure.get_figwidth()
        bar = figure.add_axes((box.x1 + GAP / width, box.y0, 0.08 / width, box.height))
        figure.colorbar(panels[-1].images[0], cax=bar, ticks=[0, 0.5, 1])
        if voxel_size_nm is not None:
            add_scale_bar(panels[0], raw.shape[2] * size[2])
        save_png(figure, path)


def region_ellipse(
    bits: npt.NDArray[np.floating[Any]], region: Region
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The upright ellipse around the disagreement inside a box of a slice.

    Args:
        bits: disagreement of each pixel (H, W).
        region: a box of this slice that holds disagreement.

    Returns:
        centre: (row, column), the mean position of the bits.
        radii: (rows, columns), two and a half standard deviations of them, but no less than a
            quarter of the box's extent, and no more than those of the ellipse through its corners.
    """
    inside = bits[region.slices].astype(np.float64)
    centre, radii = [], []
    for axis in range(2):
        weight = inside.sum(axis=1 - axis)
        position = np.arange(region.start[axis], region.stop[axis])
        mean = float(np.average(position, weights=weight))
        spread = float(np.sqrt(np.average((position - mean) ** 2, weights=weight)))
        extent = region.stop[axis] - region.start[axis]
        centre.append(mean)
        radii.append(float(np.clip(2.5 * spread, extent / 4, extent / np.sqrt(2))))
    return (centre[0], centre[1]), (radii[0], radii[1])


def _check_volumes(raw: npt.NDArray[Any], others: Mapping[str, npt.NDArray[Any]]) -> None:
    if raw.ndim != 3 or raw.size == 0:
        raise DataError(f"raw must have shape (D, H, W) with voxels in it, found {raw.shape}")
    for name, volume in others.items():
        if volume.shape != raw.shape:
            raise DataError(f"{name} has shape {volume.shape}, raw {raw.shape}; crop one to match")


def _checked_slice(index: int, depth: int) -> int:
    if not 0 <= index < depth:
        raise ConfigError(f"slice_index must be from 0 to {depth - 1}, found {index}")
    return index


def _voxel_size(voxel_size_nm: _VoxelSize | None) -> tuple[float, float, float]:
    """Voxel size (z, y, x); cubes of side 1 where it is unknown."""
    if voxel_size_nm is None:
        return (1.0, 1.0, 1.0)
    size = np.broadcast_to(np.asarray(voxel_size_nm, dtype=np.float64), 3)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ConfigError(f"voxel_size_nm must be positive, found {voxel_size_nm}")
    return (float(size[0]), float(size[1]), float(size[2]))


def _circle(panel: Axes, bits: npt.NDArray[np.float32], count: int) -> None:
    extent = max(1, round(_REGION_EXTENT * min(bits.shape)))
    for region in worst_regions(bits, (extent, extent), count):
        (row, column), (rows, columns) = region_ellipse(bits, region)
        ellipse = Ellipse(
            (column, row), 2 * columns, 2 * rows, fill=False, edgecolor="white", linewidth=1.2
        )
        ellipse.set_linestyle((0, (1.2, 0.9)))
        ellipse.set_path_effects([patheffects.withStroke(linewidth=2.4, foreground="black")])
        panel.add_patch(ellipse)
