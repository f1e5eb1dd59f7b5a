"""Which bodies a segmentation splits, which of its segments merge bodies, and where to look.

Variation of information is a sum: a body of the truth adds to VI split by being cut into pieces, a
segment adds to VI merge by joining pieces of several bodies. Every error is a row, the worst first,
with a voxel where two of its pieces touch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from psc.em.labels import Pieces, pieces_of
from psc.errors import DataError
from psc.files import write_csv
from psc.volumes.metadata import Size3, size3

_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """What a body and a segment share: the id of the other one of the two, and how many voxels."""

    label: int
    voxels: int


@dataclass(frozen=True)
class BodyError:
    """A body that was split, or a segment that merges bodies."""

    kind: Literal["split", "merge"]
    label: int  # id of the body (of a split) or of the segment (of a merge)
    voxels: int  # of all pieces; where the truth is unknown nothing counts
    bits: float  # what it adds to VI split or VI merge
    pieces: tuple[Piece, ...]  # at least two, the largest first
    location: Size3
    """In the middle of where two pieces touch, of all that touch the two whose smaller one is
    largest; else in the middle of the largest piece."""
    touching: bool  # which of the two

    @property
    def what(self) -> str:
        """What happened, in words."""
        if self.kind == "split":
            return f"body {self.label} is cut into {len(self.pieces)} segments"
        return f"segment {self.label} joins {len(self.pieces)} bodies"


def body_errors(
    truth: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.integer[Any]],
    *,
    offset: Size3 = (0, 0, 0),
) -> list[BodyError]:
    """Every split and every merge of a segmentation, the worst first.

    The bits of all splits sum to VI split, those of all merges to VI merge (``psc.metrics``); a
    body that is one segment, or a segment of one body, adds nothing and is left out. Labels are
    (D, H, W): truth 0 is unknown, predicted 0 one segment like any other. Locations begin at
    ``offset``.
    """
    pieces = pieces_of(truth, predicted)
    if truth.ndim != 3:
        raise DataError(f"labels must have shape (D, H, W) to find places, found {truth.shape}")
    first, second, positions = _contacts(pieces)
    errors: list[BodyError] = []
    for kind, owner, owner_labels, labels in (
        ("split", pieces.body, pieces.body_labels, pieces.segment_labels[pieces.segment]),
        ("merge", pieces.segment, pieces.segment_labels, pieces.body_labels[pieces.body]),
    ):
        sizes = np.bincount(owner, pieces.voxels).astype(np.int64)
        bits = pieces.voxels * np.log2(sizes[owner] / pieces.voxels) / pieces.voxels.sum()
        owner_bits = np.bincount(owner, bits)
        between = owner[first] == owner[second]
        touching = _touching(
            owner, pieces.voxels, first[between], second[between], positions[between], truth.shape
        )
        members = {row: group for row, group in _groups(owner, pieces.voxels) if group.size > 1}
        apart = {group[0]: row for row, group in members.items() if row not in touching}
        centres = _centres(pieces, np.array(list(apart), dtype=np.int64))
        location = touching | {apart[piece]: voxel for piece, voxel in centres.items()}
        errors += [
            BodyError(
                kind="split" if kind == "split" else "merge",
                label=int(owner_labels[row]),
                voxels=int(sizes[row]),
                bits=float(owner_bits[row]),
                pieces=tuple(Piece(int(labels[p]), int(pieces.voxels[p])) for p in group),
                location=size3(np.add(location[row], offset)),
                touching=row in touching,
            )
            for row, group in members.items()
        ]
    return sorted(errors, key=lambda error: (-error.bits, error.kind, error.label))


def _contacts(pieces: Pieces) -> tuple[_Indices, _Indices, _Indices]:
    """Faces between two pieces of one body or segment: both, and the later one's flat position."""
    depth, height, width = pieces.volume.shape
    found: list[tuple[_Indices, _Indices, _Indices]] = []
    for z in range(depth):  # plane by plane: the volume is large
        plane, start = pieces.volume[z], z * height * width
        along = [(plane[:-1], plane[1:], width), (plane[:, :-1], plane[:, 1:], 1)]
        if z:
            along.append((pieces.volume[z - 1], plane, 0))
        for before, here, step in along:
            y, x = np.nonzero((before != here) & (before > 0) & (here > 0))
            first, second = (side[y, x].astype(np.int64) - 1 for side in (before, here))
            related = pieces.body[first] == pieces.body[second]
            related |= pieces.segment[first] == pieces.segment[second]
            positions = (start + step + y * width + x)[related]
            found.append((first[related], second[related], positions))
    first, second, positions = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, positions


def _centres(pieces: Pieces, numbers: _Indices) -> dict[int, Size3]:
    """The voxel in the middle of each of some pieces."""
    if not numbers.size:
        return {}
    number = np.full(pieces.voxels.size + 1, -1)
    number[numbers + 1] = np.arange(numbers.size)
    groups = number[pieces.volume.reshape(-1)]
    positions = np.flatnonzero(groups >= 0)
    middle = _middle(groups[positions], positions, pieces.volume.shape)
    return dict(zip(numbers.tolist(), middle, strict=True))


def _touching(
    owner: _Indices,
    voxels: _Indices,
    first: _Indices,
    second: _Indices,
    positions: _Indices,
    shape: tuple[int, ...],
) -> dict[int, Size3]:
    """The middle of the worst contact of each owner of pieces that touch, of equals the widest."""
    pairs = np.minimum(first, second) * owner.size + np.maximum(first, second)
    contacts, contact, faces = np.unique(pairs, return_inverse=True, return_counts=True)
    one, other = np.divmod(contacts, owner.size)
    order = np.lexsort((-faces, -np.minimum(voxels[one], voxels[other]), owner[one]))
    owners, index = np.unique(owner[one][order], return_index=True)
    number = np.full(contacts.size, -1)
    number[order[index]] = np.arange(owners.size)
    groups = number[contact]
    middle = _middle(groups[groups >= 0], positions[groups >= 0], shape)
    return dict(zip(owners.tolist(), middle, strict=True))


def _middle(groups: _Indices, positions: _Indices, shape: tuple[int, ...]) -> list[Size3]:
    """Of every group 0, 1, … of flat positions the one that is nearest to their mean."""
    voxels = np.stack(np.unravel_index(positions, shape)).astype(np.float64)
    sizes = np.bincount(groups)
    means = np.stack([np.bincount(groups, axis) / sizes for axis in voxels])
    distance = ((voxels - means[:, groups]) ** 2).sum(axis=0)
    order = np.lexsort((positions, distance, groups))
    nearest = order[np.cumsum(sizes) - sizes]
    return [size3(voxel) for voxel in voxels[:, nearest].T]


def _groups(owner: _Indices, voxels: _Indices) -> Iterator[tuple[int, _Indices]]:
    """The pieces of each owner, the largest first."""
    order = np.lexsort((-voxels, owner))
    owners, starts = np.unique(owner[order], return_index=True)
    yield from zip(owners.tolist(), np.split(order, starts[1:]), strict=True)


_HEADER = ("kind", "label", "bits", "voxels", "pieces", "z", "y", "x", "touching", "largest_pieces")
_LARGEST = 20  # pieces of an error by name; a shattered body has thousands


def write_body_errors(path: Path, errors: Sequence[BodyError]) -> None:
    """Write a CSV with a row per split and merge, bits unrounded, the 20 largest pieces named."""
    rows = []
    for error in errors:
        pieces = " ".join(f"{p.label}:{p.voxels}" for p in error.pieces[:_LARGEST])
        sizes = (error.voxels, len(error.pieces), *error.location)
        touching = "yes" if error.touching else "no"
        rows.append((error.kind, error.label, error.bits, *sizes, touching, pieces))
    write_csv(_HEADER, rows, path)
