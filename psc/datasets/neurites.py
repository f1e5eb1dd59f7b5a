"""Grow a block of packed neurites: the labels behind the synthetic EM volumes.

Neuropil is made of long, branching, tortuous processes of very different calibre that leave no
space between them. Here thick processes are grown first, as chains of balls that keep clear of
what is there already; thinner and thinner ones then fill the gaps, and every voxel left goes to
the process whose surface is nearest.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from psc.segmentation.labels import split_disconnected

__all__ = ["Neuropil", "grow_neuropil", "smooth_field"]

_Float = npt.NDArray[np.float32]
_Vector = npt.NDArray[np.float64]
Triple = tuple[int, int, int]

# All lengths are in voxels of 8 nm; chosen by comparison with FIB-25 (Drosophila medulla).
_MARGIN = 32  # processes are grown beyond the volume, so that its faces cut through them
_SPACING = 3  # grid on which free space is kept
_CALIBRES = (46.0, 34.0, 26.0, 20.0, 15.0, 11.0, 8.5, 6.5)  # radii, thickest first
_SEEDS_PER_CELL = 0.004  # seeds tried, per calibre and cell of the free-space grid
_LARGEST_SHARE = 0.16  # of the block that one calibre may fill, so that thin ones find room
_SHORTEST_CHAIN = 8  # balls
_LONGEST_CHAIN = 400
_MITOCHONDRION_MIN_RADIUS = 8.0  # of the process that contains it
_BEND = 6.0  # no voxel is moved further by the distortion
_SMALLEST_BODY = 150  # voxels; smaller pieces go to a neighbour


@dataclass(frozen=True, eq=False)
class Neuropil:
    """Packed bodies and their mitochondria.

    Attributes:
        labels: int32 (D, H, W), ids 1..N, each one connected body; no 0.
        mitochondria: float32 (D, H, W), signed distance to the nearest mitochondrion's surface in
            voxels, negative inside, at most 4.
    """

    labels: npt.NDArray[np.int32]
    mitochondria: _Float


@dataclass(frozen=True, eq=False)
class _Ball:
    centre: _Vector
    radius: float


def grow_neuropil(shape: Triple, rng: np.random.Generator) -> Neuropil:
    """Fill a block with neurites.

    Args:
        shape: size of the block (z, y, x) in voxels.
        rng: source of randomness.

    Returns:
        Labels and mitochondria of the block.
    """
    space = _FreeSpace(shape)
    # A small block gets thin processes only; one thick process would be all of it.
    widest = max(_CALIBRES[-2], np.cbrt(np.prod(shape)) / 4)
    calibres = [radius for radius in _CALIBRES if radius <= widest]
    bodies = [process for radius in calibres for process in _grow_calibre(radius, space, rng)]
    canvas = _Canvas(shape, rng)
    for label, balls in enumerate(bodies, start=1):
        canvas.paint_body(label, balls)
        canvas.paint_mitochondria(list(_mitochondria(balls, rng)))
    return Neuropil(_connected_bodies(canvas.filled_labels()), canvas.mitochondria)


class _FreeSpace:
    """Distance to the nearest process at the cells of a coarse grid, up to a limit."""

    def __init__(self, shape: Triple) -> None:
        self.low = np.full(3, -float(_MARGIN))
        self.high = np.array(shape) + float(_MARGIN)
        cells = np.ceil((self.high - self.low) / _SPACING).astype(int) + 1
        self.distance = np.full(cells, 2 * _CALIBRES[0], dtype=np.float32)

    def at(self, points: _Vector) -> _Float:
        """Free distance at points (N, 3); outside the grid there is none."""
        cells = np.rint((points - self.low) / _SPACING).astype(int)
        inside = ((cells >= 0) & (cells < self.distance.shape)).all(axis=1)
        cells[~inside] = 0
        return np.where(inside, self.distance[tuple(cells.T)], np.float32(-1))

    def occupy(self, ball: _Ball, limit: float) -> None:
        """Account for a ball; exact for free distances below ``limit``."""
        reach = ball.radius + limit
        first = np.maximum(np.floor((ball.centre - reach - self.low) / _SPACING), 0).astype(int)
        last = np.ceil((ball.centre + reach - self.low) / _SPACING).astype(int) + 1
        box = tuple(slice(a, max(a, b)) for a, b in zip(first, last, strict=True))
        view = self.distance[box]
        squares = [
            (np.arange(a, a + n, dtype=np.float32) * _SPACING + np.float32(low - c)) ** 2
            for a, n, low, c in zip(first, view.shape, self.low, ball.centre, strict=True)
        ]
        gap = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
        np.minimum(view, gap - np.float32(ball.radius), out=view)

    def seeds(self, radius: float, rng: np.random.Generator) -> _Vector:
        """Random places (N, 3) with room for a process of this radius."""
        cells = np.argwhere(self.distance >= radius)
        count = min(len(cells), max(1, int(_SEEDS_PER_CELL * self.distance.size)))
        chosen = cells[rng.permutation(len(cells))[:count]]
        return np.asarray(chosen * _SPACING + self.low, dtype=np.float64)


def _grow_calibre(
    radius: float, space: _FreeSpace, rng: np.random.Generator
) -> Iterator[list[_Ball]]:
    """Processes of about one calibre, until no room or the calibre's share is used up."""
    room = _LARGEST_SHARE * space.distance.size * _SPACING**3
    for seed in space.seeds(radius, rng):
        if room < 0 and radius not in _CALIBRES[-3:]:
            return  # the three thinnest calibres fill whatever is left
        if space.at(seed[np.newaxis])[0] < radius:
            continue  # taken since
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        balls = _chain(seed, direction, radius, space, rng)
        balls += _chain(seed, -direction, radius, space, rng)[1:]
        if len(balls) < _SHORTEST_CHAIN:
            continue  # a pocket; its neighbours will fill it
        for ball in balls:
            space.occupy(ball, radius)
        for branch in _branches(balls, radius, space, rng):
            for ball in branch:
                space.occupy(ball, radius)
            balls += branch
        room -= sum(2 * ball.radius**3 for ball in balls)  # steps of r/2: about π r² · r/2 each
        yield balls


def _chain(
    start: _Vector, direction: _Vector, radius: float, space: _FreeSpace, rng: np.random.Generator
) -> list[_Ball]:
    """A persistent random walk through free space; its balls shrink where it gets narrow."""
    balls: list[_Ball] = []
    point = start
    wander = 0.15 + 0.35 * rng.random()
    swelling = rng.uniform(0, 2 * np.pi)
    while True:
        swelling += 0.25
        wanted = radius * (1 + 0.3 * np.sin(swelling))  # varicosities
        free = float(space.at(point[np.newaxis])[0])
        if free < max(0.4 * radius, 2.5):
            return balls
        balls.append(_Ball(point, min(wanted, free)))
        step = max(2.0, 0.5 * balls[-1].radius)
        turns = direction + wander * rng.normal(size=(12, 3))
        turns /= np.linalg.norm(turns, axis=1, keepdims=True)
        room = np.minimum(space.at(point + step * turns), radius) / radius
        direction = turns[np.argmax(room + 0.4 * (turns @ direction))]
        point = point + step * direction
        if len(balls) == _LONGEST_CHAIN:
            return balls


def _branches(
    balls: list[_Ball], radius: float, space: _FreeSpace, rng: np.random.Generator
) -> Iterator[list[_Ball]]:
    """Thinner side branches and twigs, from random places on a process."""
    for origin in rng.permutation(len(balls))[: 1 + len(balls) // 8]:
        trunk = balls[origin]
        thickness = max(3.0, radius * rng.uniform(0.3, 0.6))
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        root = trunk.centre + (trunk.radius + thickness) * direction
        if space.at(root[np.newaxis])[0] < 0.8 * thickness:
            continue
        neck = [
            _Ball(trunk.centre + along * direction, thickness * 0.8)
            for along in np.arange(trunk.radius - thickness, trunk.radius + thickness, 2.0)
        ]
        yield neck + _chain(root, direction, thickness, space, rng)


def _mitochondria(balls: list[_Ball], rng: np.random.Generator) -> Iterator[_Ball]:
    """Chains of balls inside the thicker stretches of a process."""
    position = int(rng.integers(0, 12))
    while position < len(balls):
        length = int(rng.integers(3, 8))
        stretch = balls[position : position + length]
        if min(ball.radius for ball in stretch) >= _MITOCHONDRION_MIN_RADIUS:
            share = rng.uniform(0.5, 0.8)
            aside = rng.normal(size=3)
            aside *= rng.uniform(0, 0.9 - share) / np.linalg.norm(aside)
            radius = min(25.0, share * min(ball.radius for ball in stretch))
            for ball in stretch:
                yield _Ball(ball.centre + aside * ball.radius, radius)
        position += length + int(rng.integers(2, 12))


class _Canvas:
    """The voxels of the block, painted with balls seen through a smooth random distortion."""

    def __init__(self, shape: Triple, rng: np.random.Generator) -> None:
        self.labels = np.zeros(shape, dtype=np.int32)
        self.mitochondria = np.full(shape, 4, dtype=np.float32)
        self._gap = np.full(shape, np.inf, dtype=np.float32)
        # Straight tubes with round sections look like nothing that lives.
        self._coordinates = [
            np.clip(3.5 * smooth_field(shape, 14, rng), -_BEND, _BEND)
            + np.clip(1.0 * smooth_field(shape, 5, rng), -2, 2)
            + np.arange(shape[axis], dtype=np.float32).reshape(
                [-1 if a == axis else 1 for a in range(3)]
            )
            for axis in range(3)
        ]

    def paint_body(self, label: int, balls: list[_Ball]) -> None:
        """Give a body the voxels that are nearer to its surface than to any other so far."""
        for ball in balls:
            box = self._box(ball, 3.0)
            gap = self._distance(ball, box)
            nearer = gap < self._gap[box]
            self._gap[box][nearer] = gap[nearer]
            self.labels[box][nearer] = label

    def paint_mitochondria(self, balls: list[_Ball]) -> None:
        """Add to the distance field of mitochondria."""
        for ball in balls:
            box = self._box(ball, 4.0)
            view = self.mitochondria[box]
            np.minimum(view, self._distance(ball, box), out=view)

    def filled_labels(self) -> npt.NDArray[np.int32]:
        """The labels, with the gaps given to the nearest body."""
        gaps = self.labels == 0
        if not gaps.any() or gaps.all():
            return np.maximum(self.labels, 1)
        nearest = distance_transform_edt(gaps, return_distances=False, return_indices=True)
        filled: npt.NDArray[np.int32] = self.labels[tuple(nearest)]
        return filled

    def _box(self, ball: _Ball, beyond: float) -> tuple[slice, ...]:
        reach = ball.radius + beyond + _BEND + 2
        return tuple(
            slice(max(0, int(c - reach)), max(0, min(size, int(c + reach) + 1)))
            for c, size in zip(ball.centre, self.labels.shape, strict=True)
        )

    def _distance(self, ball: _Ball, box: tuple[slice, ...]) -> _Float:
        """Distance of the voxels of a box to the surface of a ball."""
        total: _Float = np.zeros(self.labels[box].shape, dtype=np.float32)
        for coordinate, centre in zip(self._coordinates, ball.centre, strict=True):
            offset = coordinate[box] - np.float32(centre)
            total += offset * offset
        np.sqrt(total, out=total)
        total -= np.float32(ball.radius)
        return total


def smooth_field(shape: Triple, scale: float, rng: np.random.Generator) -> _Float:
    """Gaussian random field with standard deviation 1.

    Args:
        shape: size (D, H, W) in voxels.
        scale: correlation length, about, in voxels.
        rng: source of randomness.

    Returns:
        float32 (D, H, W).
    """
    spacing = scale / 1.5  # of the white noise; close enough that the grid cannot be seen
    kernels = []
    for size in shape:
        nodes = np.arange(-3 * scale, size + 3 * scale, spacing)
        offsets = (np.arange(size)[:, None] - nodes) / scale
        kernel = np.exp(-0.5 * offsets**2)
        kernels.append(kernel / np.linalg.norm(kernel, axis=1, keepdims=True))
    field = rng.standard_normal([kernel.shape[1] for kernel in kernels], dtype=np.float32)
    for kernel in kernels:  # each turn contracts the first axis and appends it as the last
        field = np.tensordot(field, kernel.astype(np.float32), axes=(0, 1))
    return np.ascontiguousarray(field)


def _connected_bodies(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One id for each connected piece; specks go to a neighbour."""
    pieces = split_disconnected(labels)
    sizes = np.bincount(pieces.reshape(-1))
    if sizes.max() >= _SMALLEST_BODY:
        speck = (sizes < _SMALLEST_BODY)[pieces]
        pieces = np.where(speck, 0, pieces)
        if speck.any():
            nearest = distance_transform_edt(speck, return_distances=False, return_indices=True)
            pieces = pieces[tuple(nearest)]
    return split_disconnected(pieces)
