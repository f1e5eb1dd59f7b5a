"""Colours of labels: the same segment has the same colour in every panel of a figure.

A prediction's ids are arbitrary, so they are first replaced by those of the true segments that they
cover most (:func:`match_labels`); then a split shows as a second colour inside one cell, and a
merge as one colour across two. Segments that touch get different colours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.metrics import contingency_table
from psc.segmentation.labels import relabel_consecutive

__all__ = ["PALETTE", "Colour", "assign_colours", "colour_image", "match_labels"]

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
