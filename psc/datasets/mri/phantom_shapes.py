"""Shapes and random fields that the phantom brain is composed of.

A shape is its signed distance in mm: positive inside, 0 on its surface, negative outside. That of
an ellipsoid holds to first order, near its surface, which is enough for layers of a few mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = [
    "Affine",
    "Field",
    "Point",
    "Points",
    "Shape",
    "Waves",
    "ellipsoid",
    "random_field",
    "random_waves",
    "smooth_union",
    "tube",
    "world_points",
]

Field = npt.NDArray[np.float32]
Points = tuple[Field, Field, Field]
"""Coordinates x, y, z in mm: to the right, anterior, superior."""

Point = tuple[float, float, float]
Shape = tuple[int, int, int]
"""Size of a voxel grid (D, H, W)."""

Affine = npt.NDArray[np.float64]
"""(4, 4), from voxel indices to mm; its axes are at right angles, but turned as they may be."""

_SOFTEST = 0.02  # of an ellipsoid's radius: at its centre the first-order distance is undefined


@dataclass(frozen=True, eq=False)
class Waves:
    """A sum of plane waves in random directions: a stationary random field, in closed form.

    Attributes:
        vectors: wave vectors (N, 3), rad/mm.
        phases: (N,), rad.
    """

    vectors: npt.NDArray[np.float64]
    phases: npt.NDArray[np.float64]

    def at(self, points: Points) -> Field:
        """Values at points: over many fields, mean 0 and standard deviation 1."""
        total = np.zeros_like(points[0])
        for vector, phase in zip(self.vectors.astype(np.float32), self.phases, strict=True):
            angle = vector[0] * points[0]
            angle += vector[1] * points[1]
            angle += vector[2] * points[2] + np.float32(phase)
            total += np.cos(angle, out=angle)
        total *= np.float32(np.sqrt(2 / len(self.phases)))
        return total

    def shifted(self, phases: npt.NDArray[np.float64]) -> "Waves":
        """The same waves displaced: a field that resembles this one as far as phases are small."""
        return Waves(self.vectors, self.phases + phases)


def random_waves(length: float, rng: np.random.Generator, count: int = 24) -> Waves:
    """Waves of about one length (mm, ± a sixth)."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = length * rng.uniform(0.85, 1.18, (count, 1))
    return Waves(directions * (2 * np.pi / lengths), rng.uniform(0, 2 * np.pi, count))


def random_field(
    shape: Shape, affine: Affine, length: float, rng: np.random.Generator, count: int = 24
) -> Field:
    """``random_waves(length, rng, count)`` at the voxels of a grid, but much faster.

    On a grid a plane wave is a product of three functions of one index each, and so a sum of waves
    is a product of matrices.
    """
    waves = random_waves(length, rng, count)
    steps = waves.vectors @ affine[:3, :3]  # rad per voxel along each axis of the grid
    first, second, third = (
        np.exp(1j * np.outer(np.arange(size), steps[:, axis])) for axis, size in enumerate(shape)
    )
    first = first * np.exp(1j * (waves.phases + waves.vectors @ affine[:3, 3]))
    plane = (first[:, None, :] * second[None, :, :]).reshape(-1, count).astype(np.complex64)
    line = third.T.astype(np.complex64)
    total = plane.real @ line.real - plane.imag @ line.imag
    total *= np.float32(np.sqrt(2 / count))
    return np.asarray(total.reshape(shape), dtype=np.float32)


def world_points(shape: Shape, affine: Affine) -> Points:
    """Where the voxels of a grid lie: three arrays of its shape."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    x, y, z = (
        (row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.float32) for row in affine[:3]
    )
    return x, y, z


def ellipsoid(points: Points, centre: Point, radii: Point) -> Field:
    """An ellipsoid along the axes."""
    reach, slope = np.zeros_like(points[0]), np.zeros_like(points[0])
    for axis, c, r in zip(points, centre, radii, strict=True):
        part = ((axis - np.float32(c)) * np.float32(1 / r)) ** 2
        reach += part
        slope += part * np.float32(1 / r**2)
    np.sqrt(reach, out=reach)
    np.sqrt(slope, out=slope)
    np.maximum(slope, np.float32(_SOFTEST / max(radii)), out=slope)
    # reach is 1 on the surface; the length of its gradient is slope over reach.
    distance: Field = (1 - reach) * np.maximum(reach, np.float32(_SOFTEST)) / slope
    return distance


def tube(points: Points, line: Sequence[tuple[Point, float]]) -> Field:
    """A round tube along a line through points, with a radius at each."""
    distance = np.full_like(points[0], -np.inf)
    for (start, first), (stop, last) in pairwise(line):
        direction = np.subtract(stop, start, dtype=np.float32)
        from_start = [axis - np.float32(s) for axis, s in zip(points, start, strict=True)]
        along = from_start[0] * direction[0]
        along += from_start[1] * direction[1]
        along += from_start[2] * direction[2]
        along *= 1 / (direction @ direction)
        np.clip(along, 0, 1, out=along)
        away = np.zeros_like(along)
        for coordinate, step in zip(from_start, direction, strict=True):
            away += (coordinate - along * step) ** 2
        radius = np.float32(first) + along * np.float32(last - first)
        np.maximum(distance, radius - np.sqrt(away, out=away), out=distance)
    return distance


def smooth_union(one: Field, other: Field, blend: float) -> Field:
    """Both shapes, with a fillet where they come within ``blend`` mm of each other."""
    near = np.maximum(np.float32(blend) - np.abs(one - other), 0)
    union: Field = np.maximum(one, other) + near * near * np.float32(0.25 / blend)
    return union
