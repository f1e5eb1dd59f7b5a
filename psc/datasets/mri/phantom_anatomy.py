"""Geometry of a phantom brain: how much of each material every voxel holds.

Rounded lobes are cut by a midline fissure, a lateral fissure and sulci; along every surface so
made lies a ribbon of cortex, within it white matter, deep grey nuclei and ventricles. Sulci stand
where random waves of known length are zero, measured on the brain's surface and carried inwards:
unequally deep sheets at right angles to the surface that wind and branch as real ones do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from psc.datasets.mri import phantom_parts as parts
from psc.datasets.mri.phantom_shapes import (
    Affine,
    Field,
    Point,
    Points,
    Shape,
    random_field,
    random_waves,
    smooth_union,
    world_points,
)

__all__ = ["CORTEX", "FLUID", "MATERIALS", "NUCLEI", "WHITE", "Anatomy", "draw_anatomy"]

MATERIALS = 4
FLUID, CORTEX, NUCLEI, WHITE = range(MATERIALS)
"""What a brain is made of; cortex and nuclei are one tissue, but differ in brightness."""

# All lengths are in mm.
_DEEP, _SHALLOW = 46.0, 23.0  # wavelengths of the two kinds of sulci, two sulci per wave
_FOLDED_SURFACE = (52.0, 84.0, 58.0)  # radii of the ellipsoid on which these lengths are measured
_FOLD_CENTRE: Point = (14.0, -6.0, 6.0)  # of that ellipsoid, in the right hemisphere
_ASYMMETRY = 0.4  # rad by which waves of the left and of the right hemisphere differ
_MARGIN = 8.0  # nothing but fluid is further outside the hull
_SAMPLES = 2  # per axis of a voxel


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A brain on a voxel grid.

    Attributes:
        fractions: float32 (MATERIALS, D, H, W), shares of each voxel's volume; they add up to 1,
            for all that is not brain counts as fluid.
        hull: float32 (D, H, W), mm to the surface that wraps the brain, positive inside.
    """

    fractions: npt.NDArray[np.float32]
    hull: Field


@dataclass(frozen=True)
class _Individual:
    """What differs between brains, besides the course of their folds."""

    scale: Point
    cortex: float
    sulcus: float
    depth: float
    ventricles: float


class _Fields(NamedTuple):
    """What the material at a point follows from; every field is smooth on the scale of a voxel.

    Distances are positive inside. ``fold`` fields are 0 in sulci, and ``fold · slant`` is the
    tangent of a wave's phase.
    """

    x: Field
    y: Field
    z: Field
    midline: Field
    cerebrum: Field
    arch: Field
    radius: Field
    deep_fold: Field
    deep_slant: Field
    deep_depth: Field
    shallow_fold: Field
    shallow_slant: Field
    shallow_depth: Field
    lateral_fissure: Field
    width: Field
    thickness: Field
    cerebellum: Field
    folia: Field
    stem: Field
    nuclei: Field
    ventricles: Field


def draw_anatomy(shape: Shape, affine: Affine, rng: np.random.Generator) -> Anatomy:
    """Draw a brain and sample it.

    Args:
        shape: of the grid.
        affine: from voxel indices to mm, the brain's middle near the origin, x to the right, y
            anterior, z superior; voxels of 2 mm or less show the folds well.
        rng: source of the individual.
    """
    individual = _draw_individual(rng)
    points = _bent(world_points(shape, affine), affine, individual, rng)
    fields = _fields(points, affine, individual, rng)
    hull = smooth_union(fields.cerebrum, fields.cerebellum, 14)
    hull = smooth_union(hull, fields.stem, 10)
    near = np.flatnonzero(hull.ravel() > -_MARGIN)
    fractions = np.zeros((MATERIALS, hull.size), np.float32)
    fractions[FLUID] = 1
    fractions[:, near] = _sampled(fields, near)
    return Anatomy(fractions.reshape(MATERIALS, *shape), hull)


def _draw_individual(rng: np.random.Generator) -> _Individual:
    x, y, z = rng.uniform(0.94, 1.02) * rng.uniform(0.97, 1.03, 3)
    return _Individual(
        scale=(float(x), float(y), float(z)),
        cortex=float(rng.uniform(2.9, 3.4)),
        sulcus=float(rng.uniform(0.1, 0.5)),
        depth=float(rng.uniform(14, 17)),
        ventricles=float(rng.uniform(0.75, 1.5)),
    )


def _bent(points: Points, affine: Affine, person: _Individual, rng: np.random.Generator) -> Points:
    """Coordinates in the standard brain, such that no two halves of a brain are alike either."""
    bent = []
    for axis, scale in zip(points, person.scale, strict=True):
        shift = 1.5 * random_field(axis.shape, affine, 90, rng)
        shift += 0.6 * random_field(axis.shape, affine, 30, rng)
        bent.append((axis + shift) * np.float32(1 / scale))
    return bent[0], bent[1], bent[2]


def _fields(
    points: Points, affine: Affine, person: _Individual, rng: np.random.Generator
) -> _Fields:
    x, y, z = points

    def varying(mean: float, deviation: float, length: float) -> Field:
        return mean + np.float32(deviation) * random_field(x.shape, affine, length, rng)

    half = (np.abs(x), y, z)
    cerebellum = parts.cerebellum(half)
    # The tentorium parts the two.
    cerebrum = np.minimum(parts.cerebrum(half), -2 - cerebellum)
    radius, surface = _folded_surface(half, rng)
    deep_fold, deep_slant = _fold(_DEEP, x, radius, surface, affine, rng)
    shallow_fold, shallow_slant = _fold(_SHALLOW, x, radius, surface, affine, rng)
    return _Fields(
        x=x,
        y=y,
        z=z,
        midline=x + varying(0, 0.8, 30),
        cerebrum=cerebrum,
        arch=parts.arch(points),
        radius=radius,
        deep_fold=deep_fold,
        deep_slant=deep_slant,
        deep_depth=varying(1.6 * person.depth, 5, 60),
        shallow_fold=shallow_fold,
        shallow_slant=shallow_slant,
        shallow_depth=varying(person.depth, 4, 40),
        lateral_fissure=0.94 * (z + 0.36 * y + varying(1, 2.5, 35)),  # rises backwards
        width=person.sulcus * varying(1, 0.6, 35),
        thickness=varying(person.cortex, 0.35, 30),
        cerebellum=cerebellum,
        folia=parts.folia_phase(points) + varying(0, 0.9, 30),
        stem=parts.stem(points),
        nuclei=parts.nuclei(half),
        ventricles=parts.ventricles(half, person.ventricles),
    )


def _folded_surface(half: Points, rng: np.random.Generator) -> tuple[Field, Points]:
    """How far out points are (1: on the surface), and where on it what is below them is measured.

    Points on one ray from the centre have one place on the surface, but for a drift that keeps
    sulci from being straight.
    """
    centred = [axis - np.float32(c) for axis, c in zip(half, _FOLD_CENTRE, strict=True)]
    squares = [
        (axis * np.float32(1 / r)) ** 2 for axis, r in zip(centred, _FOLDED_SURFACE, strict=True)
    ]
    radius = np.maximum(np.sqrt(squares[0] + squares[1] + squares[2]), np.float32(0.15))
    x, y, z = (
        axis / radius + np.float32(4) * random_waves(40, rng, count=8).at(half) for axis in centred
    )
    return radius, (x, y, z)


def _fold(
    length: float,
    x: Field,
    radius: Field,
    surface: Points,
    affine: Affine,
    rng: np.random.Generator,
) -> tuple[Field, Field]:
    """Waves whose zeros are sulci, and what turns their values into the tangent of their phase.

    A wave sin φ of length L has the slope k·cos φ with k = 2π/L, so that tan φ = k·value/slope;
    inwards, where rays come closer, k grows as 1/radius.
    """
    right = random_waves(length, rng)
    left = right.shifted(rng.normal(0, _ASYMMETRY, right.phases.size))
    fold = np.empty_like(x)
    for side, waves in ((x > 0, right), (x <= 0, left)):
        on_it = (surface[0][side], surface[1][side], surface[2][side])
        fold[side] = waves.at(on_it)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    slopes = np.gradient(fold, *(float(size) for size in sizes))
    slope = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2)
    slant = np.float32(2 * np.pi / length) / (radius * np.maximum(slope, np.float32(1e-4)))
    return fold, np.asarray(slant, dtype=np.float32)


def _sampled(fields: _Fields, voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Shares of the materials in some voxels, (MATERIALS, N), from samples within each.

    Between voxel centres fields are continued along their slopes.
    """
    centres = [field.ravel()[voxels] for field in fields]
    slopes = [[slope.ravel()[voxels] for slope in np.gradient(field)] for field in fields]
    shares = np.zeros((MATERIALS, voxels.size), np.float32)
    steps = (np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES - 0.5
    for i, j, k in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
        here = (c + i * a + j * b + k * d for c, (a, b, d) in zip(centres, slopes, strict=True))
        material = _material(_Fields(*here))
        for value in range(MATERIALS):
            shares[value] += material == value
    return shares / np.float32(_SAMPLES**3)


def _material(at: _Fields) -> npt.NDArray[np.uint8]:
    """What is at each point."""
    pial, folia = _pial_distance(at), _folia_distance(at)
    callosum = (np.abs(at.arch + 3.5) < 3.5) & (at.z > 1) & (np.abs(at.x) < 26)
    material = np.full(pial.shape, FLUID, np.uint8)
    material[folia > 0] = CORTEX
    material[folia > 2.6] = WHITE
    material[pial > 0] = CORTEX
    material[pial > at.thickness] = WHITE
    material[callosum | (at.stem > 0)] = WHITE
    material[at.nuclei > 0] = NUCLEI
    material[at.ventricles > 0] = FLUID
    return material


def _pial_distance(at: _Fields) -> Field:
    """Distance to the cerebrum's surface, that in fissures and sulci included."""
    depth = at.cerebrum
    half_width = 0.5 * at.width + 0.6 * np.exp(-np.abs(depth) / 2)  # gyri are rounded
    side, beside = np.abs(at.midline), np.abs(at.lateral_fissure)
    # The midline fissure ends on the corpus callosum, 7 mm thick, above the arch.
    cuts = [np.minimum(0.6 + 0.02 * depth - side, -7 - at.arch)]
    folded = np.clip(5 * at.radius - 2.25, 0, 1)  # no sulci around the nuclei
    for length, fold, slant, deepest in (
        (_DEEP, at.deep_fold, at.deep_slant, at.deep_depth),
        (_SHALLOW, at.shallow_fold, at.shallow_slant, at.shallow_depth),
    ):
        away = np.arctan(np.abs(fold) * slant) * np.float32(length / (2 * np.pi))
        cuts.append(np.minimum(half_width - away, deepest * folded - depth))
    # The lateral fissure, with the insula across its inner end.
    ends = 30 - np.abs(at.y + 4)
    cuts.append(np.minimum(half_width + 0.4 - beside, np.minimum(side - 34, ends)))
    insula = half_width - np.abs(side - 36 + beside**2 / 50)
    cuts.append(np.minimum(insula, np.minimum(12 - beside, ends - 4)))
    distance: Field = np.minimum(depth, -np.maximum.reduce(cuts))
    return distance


def _folia_distance(at: _Fields) -> Field:
    """Distance to the cerebellum's surface, that between its folia included."""
    away = np.arcsin(np.abs(np.sin(at.folia))) * np.float32(parts.FOLIUM / np.pi)
    distance: Field = np.minimum(at.cerebellum, np.maximum(away - 0.4, at.cerebellum - 13))
    return distance
