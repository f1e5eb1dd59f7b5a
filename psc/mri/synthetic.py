"""A stand-in for IBSR: phantom brains as NIfTI files, as scanner and stripping program leave them.

Every subject is a folder with a stripped T1 volume and its labels of the filled kind, under NITRC's
names but for the prefix. As real volumes do, they differ in voxel size, in the order and sense of
their axes, in how the head lies, in where the scanner has its origin, and in which of the header's
transforms is set. They are no data: results on them are never results of the paper; each header
says so in its description, which begins with ``SYNTHETIC_STAMP``.
"""

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.mri.nifti import SYNTHETIC_STAMP
from psc.mri.tissues import BACKGROUND, CLASSES, CSF, GM, WM

# ----------------------------------------
# Shapes and random fields that the phantom brain is composed of.
#
# A shape is its signed distance in mm: positive inside, 0 on its surface, negative outside. That of
# an ellipsoid holds to first order, near its surface, which is enough for layers of a few mm.


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


# ----------------------------------------
# Geometry of a phantom brain: how much of each material every voxel holds.
#
# Rounded lobes are cut by a midline fissure, a lateral fissure and sulci; along every surface so
# made lies a ribbon of cortex, within it white matter, deep grey nuclei and ventricles. Sulci stand
# where random waves of known length are zero, measured on the brain's surface and carried inwards:
# unequally deep sheets at right angles to the surface that wind and branch as real ones do.


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
    cerebellum = cerebellum_field(half)
    # The tentorium parts the two.
    cerebrum = np.minimum(cerebrum_field(half), -2 - cerebellum)
    radius, surface = _folded_surface(half, rng)
    deep_fold, deep_slant = _fold(_DEEP, x, radius, surface, affine, rng)
    shallow_fold, shallow_slant = _fold(_SHALLOW, x, radius, surface, affine, rng)
    return _Fields(
        x=x,
        y=y,
        z=z,
        midline=x + varying(0, 0.8, 30),
        cerebrum=cerebrum,
        arch=arch(points),
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
        folia=folia_phase(points) + varying(0, 0.9, 30),
        stem=stem(points),
        nuclei=nuclei(half),
        ventricles=ventricles(half, person.ventricles),
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
    away = np.arcsin(np.abs(np.sin(at.folia))) * np.float32(FOLIUM / np.pi)
    distance: Field = np.minimum(at.cerebellum, np.maximum(away - 0.4, at.cerebellum - 13))
    return distance


# ----------------------------------------
# The parts of the standard phantom brain, before it is bent into an individual and folded.
#
# Coordinates are those of ``phantom_shapes``, the origin between the thalami; sizes are an adult's.
# Most parts are the same on both sides and so are given ``half`` coordinates: |x|, y, z.


FOLIUM = 8.0
"""mm from one sulcus of the cerebellum to the next, where it is broadest."""

_FAN_ORIGIN = (-33.0, -30.0)  # y and z of where the folia fan out from
_FAN_RADIUS = 30.0  # mm; there they are as far apart as FOLIUM says


def cerebrum_field(half: Points) -> Field:
    """Both hemispheres as one body; fissures and sulci are cut later."""
    front = ellipsoid(half, (22, 20, 14), (40, 63, 45))
    rear = ellipsoid(half, (25, -28, 15), (42, 59, 49))
    temporal = ellipsoid(half, (42, -8, -20), (24, 44, 22))
    return smooth_union(smooth_union(front, rear, 16), temporal, 7)


def cerebellum_field(half: Points) -> Field:
    """Two lobes that overlap at the vermis."""
    return ellipsoid(half, (17, -55, -34), (34, 29, 22))


def folia_phase(points: Points) -> Field:
    """Rad along the cerebellum's surface, from front to back; π from one sulcus to the next."""
    _, y, z = points
    angle = np.arctan2(z - np.float32(_FAN_ORIGIN[1]), np.float32(_FAN_ORIGIN[0]) - y)
    return np.asarray(angle * np.float32(np.pi * _FAN_RADIUS / FOLIUM), dtype=np.float32)


def stem(points: Points) -> Field:
    """Midbrain, pons and medulla: white matter in IBSR's labels."""
    return tube(points, (((0, -18, -6), 12), ((0, -20, -30), 13), ((0, -32, -62), 7)))


def arch(points: Points) -> Field:
    """What the corpus callosum spans: ventricles and nuclei, between the hemispheres' cortex."""
    x, y, z = points
    return ellipsoid((np.zeros_like(x), y, z), (0, -4, 5), (1000, 41, 25))


def nuclei(half: Points) -> Field:
    """Thalamus, lentiform and caudate nucleus, amygdala with hippocampus, hypothalamus."""
    caudate = (((12, 23, 4), 6.5), ((14, 10, 17), 5), ((17, -14, 23), 3), ((23, -32, 16), 2))
    hippocampus = (((22, -2, -19), 8), ((27, -16, -17), 6), ((27, -33, -7), 4))
    parts = (
        ellipsoid(half, (10.5, -17, 8), (9.5, 15, 9)),
        ellipsoid(half, (23, 1, 3), (8, 20, 11)),
        tube(half, caudate),
        tube(half, hippocampus),
        ellipsoid(half, (0, 0, -9), (13, 9, 6)),
    )
    return np.asarray(np.maximum.reduce(parts), dtype=np.float32)


def ventricles(half: Points, size: float) -> Field:
    """Lateral ventricles with their horns, the third and the fourth; ``size`` scales volumes."""
    wide = float(np.sqrt(size))
    lateral = (
        ((7, 30, 7), 3.0 * wide),
        ((7, 18, 16), 4.5 * wide),
        ((9, -8, 23), 4.2 * wide),
        ((17, -33, 19), 5.0 * wide),
        ((24, -42, 8), 5.5 * wide),
        ((28, -28, -9), 2.4 * wide),
        ((30, -8, -17), 2.0 * wide),
    )
    parts = (
        tube(half, lateral),
        tube(half, (((24, -42, 8), 4.5 * wide), ((23, -66, 6), 1.5))),
        ellipsoid(half, (0, -14, 2), (1.8 * wide, 14, 9)),
        ellipsoid(half, (0, -36, -34), (7, 4.5, 11)),
    )
    return np.asarray(np.maximum.reduce(parts), dtype=np.float32)


# ----------------------------------------
# A phantom of a skull-stripped T1-weighted brain, with its tissue labels.
#
# For tests, demonstrations and first runs. It has what makes tissues hard to tell by intensity
# alone:
# voxels that hold several tissues, noise, a coil's uneven sensitivity, deep grey matter that is
# brighter than cortex, meninges that an imperfect stripping left, and an intensity scale of its own
# in every subject. Levels and shares of the tissues are set after IBSR. It is no data: results on
# it are never results of the paper.


_PEAKS = (80.0, 1300.0)  # IBSR's volumes have maxima of 79 to 1289
_TISSUES = {FLUID: CSF, CORTEX: GM, NUCLEI: GM, WHITE: WM}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A stripped volume and its labels.

    Attributes:
        image: int16 (D, H, W), positive in the brain, 0 elsewhere.
        labels: uint8 (D, H, W), values of ``psc.mri.tissues``: the tissue of which a voxel
            holds most. As in IBSR, a few labelled voxels at the rim were stripped from the image.
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Contrast:
    """How a subject's tissues look; levels are relative to white matter's.

    Attributes:
        fluid: level of cerebrospinal fluid.
        cortex: level of cortical grey matter.
        nuclei: level of deep grey matter.
        texture: standard deviation of the slow variation within tissues, relative.
        meninges: level, at most, that they add to the fluid around the brain.
        bias: the coil's sensitivity varies by ± this share.
        noise: standard deviation of the noise in either channel; the magnitude is Rician.
        peak: the image's maximum.
    """

    fluid: float = 0.35
    cortex: float = 0.67
    nuclei: float = 0.77
    texture: float = 0.04
    meninges: float = 0.6
    bias: float = 0.2
    noise: float = 0.06
    peak: float = 250.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Contrast":
        """A subject's own: levels differ by a few %, the peak 16-fold."""
        cortex = rng.uniform(0.64, 0.70)
        return cls(
            fluid=float(rng.uniform(0.28, 0.42)),
            cortex=float(cortex),
            nuclei=float(cortex + rng.uniform(0.07, 0.13)),
            bias=float(rng.uniform(0.12, 0.25)),
            noise=float(rng.uniform(0.05, 0.08)),
            peak=float(np.exp(rng.uniform(*np.log(_PEAKS)))),
        )


def draw_phantom(shape: Shape, affine: Affine, rng: np.random.Generator) -> Phantom:
    """Draw a subject and its volume.

    Args:
        shape: of the grid.
        affine: from voxel indices to mm, axes mostly to the right, anterior and superior (RAS). A
            brain is up to 150 × 185 × 150 mm; its middle lies near (0, -2, 0).
        rng: source of everything that differs between subjects.
    """
    return render(draw_anatomy(shape, affine, rng), affine, Contrast.draw(rng), rng)


def render(
    anatomy: Anatomy, affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Phantom:
    """What a scanner and a stripping program make of a brain."""
    shape = anatomy.hull.shape
    # The stripping leaves some fluid in one place and takes some cortex in another.
    rim = np.clip(0.1 + np.float32(0.9) * random_field(shape, affine, 35, rng), -1.5, 3)
    brain = anatomy.hull > -rim
    signal = _signal(anatomy, affine, contrast, rng) * _sensitivity(brain, affine, contrast, rng)
    real, imaginary = rng.standard_normal((2, *shape), np.float32) * np.float32(contrast.noise)
    image = np.hypot(signal + real, imaginary) * brain
    image *= np.float32(contrast.peak) / image.max()
    # A stripped volume shows where the brain is by not being 0 there.
    image = np.where(brain, np.maximum(np.rint(image), 1), 0)
    return Phantom(image.astype(np.int16), _labels(anatomy, brain))


def _signal(
    anatomy: Anatomy, affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Field:
    """The materials' levels, by their shares of each voxel."""
    shape = anatomy.hull.shape
    levels = np.ones(MATERIALS, np.float32)
    levels[[FLUID, CORTEX, NUCLEI]] = contrast.fluid, contrast.cortex, contrast.nuclei
    signal = np.tensordot(levels, anatomy.fractions, 1)
    patches = np.clip(random_field(shape, affine, 25, rng), 0, 1) * np.clip(-anatomy.hull, 0, 1)
    signal += np.float32(contrast.meninges * contrast.cortex) * patches
    signal *= 1 + np.float32(contrast.texture) * random_field(shape, affine, 20, rng)
    return np.asarray(signal, dtype=np.float32)


def _sensitivity(
    brain: npt.NDArray[np.bool_], affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Field:
    """A smooth factor, from 1 − bias to 1 + bias within the brain."""
    field = random_field(brain.shape, affine, 220, rng)
    low, high = field[brain].min(), field[brain].max()
    return np.asarray(1 + contrast.bias * (2 * (field - low) / (high - low) - 1), dtype=np.float32)


def _labels(anatomy: Anatomy, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    shares = np.zeros((CLASSES, *brain.shape), np.float32)
    for material, tissue in _TISSUES.items():
        shares[tissue] += anatomy.fractions[material]
    labels: npt.NDArray[np.uint8] = shares.argmax(axis=0).astype(np.uint8)
    labels[~brain & (labels == CSF)] = BACKGROUND  # fluid counts up to where the image ends
    return labels


PREFIX = "PHANTOM"
"""Subjects are PHANTOM_01, PHANTOM_02, …; nobody takes them for IBSR's."""

MARKER = "synthetic.json"
"""File in the folder that says from what it was made, and what files it has."""

_VERSION = 1  # of the generator: raise it whenever the same options give other files
_IMAGE, _LABELS = "ana_strip", "segTRI_fill_ana"
_MOST_SUBJECTS = 99

# (right, anterior, superior) in mm: IBSR's, but half as fine within slices; and a grid for each.
_GRIDS: tuple[tuple[tuple[float, float, float], Shape], ...] = (
    ((1.875, 2.0, 1.875), (82, 96, 82)),
    ((2.0, 2.0, 2.0), (78, 96, 78)),
    ((1.674, 2.0, 1.674), (92, 96, 92)),
)
_AXES = ("RAS", "LAS", "PSR", "RAS")
_OBLIQUE = 3  # which of these lie at an angle to the scanner's axes
_CENTRE = (0.0, -2.0, 0.0)  # mm, of the grid; the phantom's middle


@dataclass(frozen=True)
class SyntheticBrains:
    """What to generate.

    Attributes:
        subjects: how many; IBSR has 18.
        seed: of all of them. Subject n of a seed is the same, however many there are (on one
            machine: other CPUs round differently).

    Raises:
        ConfigError: a number out of range.
    """

    subjects: int = 18
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.subjects <= _MOST_SUBJECTS:
            raise ConfigError(f"subjects must be 1 to {_MOST_SUBJECTS}, found {self.subjects}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, found {self.seed}")


def write_synthetic_brains(folder: Path, options: SyntheticBrains | None = None) -> bool:
    """Write subjects as NIfTI files, unless they are there already.

    Everything appears at once, when it is complete: ``PHANTOM_01/PHANTOM_01_ana_strip.nii.gz``
    (int16, a trailing axis of one), ``PHANTOM_01/PHANTOM_01_segTRI_fill_ana.nii.gz`` (0 background,
    1 cerebrospinal fluid, 2 grey matter, 3 white matter), ….

    Args:
        folder: to write; must not be there, or be what an earlier call wrote.
        options: None: the defaults.

    Returns:
        True if it was written, False if it was there, from the same options and version.

    Raises:
        ConfigError: the folder holds something else; it is not overwritten.
        DataError: it cannot be written, or what an earlier call wrote is no longer whole.
    """
    options = options or SyntheticBrains()
    if folder.exists():
        _check_existing(folder, options)
        return False
    # The process id keeps two jobs that prepare the same folder apart.
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        files: dict[str, str] = {}
        for number in range(1, options.subjects + 1):
            files |= _write_subject(temporary, options.seed, number)
        marker = {**_description(options), "files": files}
        (temporary / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}); make room, run again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _description(options: SyntheticBrains) -> dict[str, Any]:
    return {"version": _VERSION, **asdict(options)}


def _check_existing(folder: Path, options: SyntheticBrains) -> None:
    """Refuse a folder that is not, or no longer, what the options ask for."""
    wanted = _description(options)
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files = dict(marker.pop("files"))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        marker, files = None, {}
    if marker != wanted:
        raise ConfigError(
            f"{folder} holds something else than the synthetic brains asked for ({wanted}); it is"
            " not overwritten: choose another folder or move it away"
        )
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise DataError(
                f"{path} is {'damaged' if path.exists() else 'missing'}, though {folder / MARKER}"
                f" lists it; remove {folder}, then run again: it will be written anew"
            )


def _write_subject(folder: Path, seed: int, number: int) -> dict[str, str]:
    """Write a subject's two files; returns the SHA-256 of each by its name in ``folder``."""
    size, shape = _GRIDS[(number - 1) % len(_GRIDS)]
    turn = (number - 1) % len(_AXES)
    rng = np.random.default_rng([seed, number])
    in_head = _grid_affine(size, shape, rng, oblique=turn == _OBLIQUE)
    phantom = draw_phantom(shape, in_head, rng)
    in_scanner = in_head.copy()
    in_scanner[:3, 3] += rng.uniform(-20, 20, 3)
    name = f"{PREFIX}_{number:02d}"
    (folder / name).mkdir(parents=True)
    written = {}
    for role, data in ((_IMAGE, phantom.image), (_LABELS, phantom.labels)):
        content = _nifti(
            data.astype(np.int16),
            in_scanner,
            axes=_AXES[turn],
            description=f"{SYNTHETIC_STAMP} phantom, seed {seed}",
            only_qform=number % 5 == 0,
        )
        path = folder / name / f"{name}_{role}.nii.gz"
        path.write_bytes(content)
        written[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return written


def _grid_affine(
    size: tuple[float, float, float], shape: Shape, rng: np.random.Generator, *, oblique: bool
) -> Affine:
    """A grid about the head, turned by some degrees if oblique; axes to right, front and top."""
    angles = np.deg2rad(rng.uniform(2, 5, 3) * rng.choice([-1, 1], 3)) * oblique
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = (k for k in range(3) if k != axis)
        about = np.eye(3)
        about[one, one] = about[other, other] = np.cos(angle)
        about[other, one], about[one, other] = np.sin(angle), -np.sin(angle)
        turned = turned @ about
    affine = np.eye(4)
    affine[:3, :3] = turned * size
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array(_CENTRE) - affine[:3, :3] @ middle
    return affine


def _nifti(
    data: npt.NDArray[np.int16],
    affine: Affine,
    *,
    axes: str,
    description: str,
    only_qform: bool,
) -> bytes:
    """A packed NIfTI-1 file of an array in RAS order, stored in another order of its axes."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))  # type: ignore[no-untyped-call]
    image: Any = nibabel.Nifti1Image  # without types
    image = image(data[..., np.newaxis], affine).as_reoriented(turn)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=0 if only_qform else 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
