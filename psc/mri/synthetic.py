"""A stand-in for IBSR: phantom brains as NIfTI files, as scanner and stripping program leave them.

A phantom is an ellipsoid, warped and cut by folds, with a ribbon of cortex along every surface,
white matter within it, deep grey nuclei, ventricles and a stem: enough that place and surroundings
tell what intensity alone does not. For that there are voxels of several tissues, noise, a coil's
uneven sensitivity, nuclei brighter than cortex, meninges that the stripping left, and an intensity
scale of its own in every subject; levels and shares of the tissues are set after IBSR.

Every subject is a folder with a stripped T1 volume and its labels of the filled kind, under NITRC's
names but for the prefix. As real volumes do, they differ in voxel size, in the order and sense of
their axes, in how the head lies, in where the scanner has its origin, and in which of the header's
transforms is set. They are no data: results on them are never results of the paper; each header
says so in its description, which begins with ``SYNTHETIC_STAMP``.
"""

import gzip
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from psc.files import generate
from psc.mri.nifti import SYNTHETIC_STAMP, Affine
from psc.mri.settings import SyntheticBrainsConfig
from psc.mri.tissues import BACKGROUND, CLASSES, CSF, GM, WM
from psc.volumes.resampling import control_points, smooth_field

PREFIX = "PHANTOM"
"""Subjects are PHANTOM_01, PHANTOM_02, …; nobody takes them for IBSR's."""

MARKER = "synthetic.json"
"""File in the folder that says from what it was made, and what files it has."""

_VERSION = 2  # of the generator: raise it whenever the same options give other files
_IMAGE, _LABELS = "ana_strip", "segTRI_fill_ana"

_Field = npt.NDArray[np.float32]
_Shape = tuple[int, int, int]

# (right, anterior, superior) in mm: IBSR's, but half as fine within slices; and a grid for each.
_GRIDS: tuple[tuple[tuple[float, float, float], _Shape], ...] = (
    ((1.875, 2.0, 1.875), (82, 96, 82)),
    ((2.0, 2.0, 2.0), (78, 96, 78)),
    ((1.674, 2.0, 1.674), (92, 96, 92)),
)
_AXES = ("RAS", "LAS", "PSR", "RAS")
_OBLIQUE = 3  # which of these lie at an angle to the scanner's axes
_CENTRE = (0.0, -2.0, 0.0)  # mm, of the grid; the phantom's middle

_SAMPLES = 2  # per axis of a voxel
_SPLINE_DEVIATION = (151 / 315) ** 1.5  # of a cubic B-spline of standard normal coefficients
_PEAKS = (80.0, 1300.0)  # IBSR's volumes have maxima of 79 to 1289
_FLUID, _CORTEX, _NUCLEI, _WHITE = range(4)  # cortex and nuclei are one tissue, but not one level
_TISSUES = np.array([CSF, GM, GM, WM], dtype=np.uint8)


def write_synthetic_brains(folder: Path, options: SyntheticBrainsConfig) -> bool:
    """Write subjects as NIfTI files, unless they are there already, from the same options.

    Everything appears at once, when it is complete: ``PHANTOM_01/PHANTOM_01_ana_strip.nii.gz``
    (int16, a trailing axis of one), ``PHANTOM_01/PHANTOM_01_segTRI_fill_ana.nii.gz`` (values of
    ``psc.mri.tissues``), …. Returns whether it was written.
    """

    def make(temporary: Path) -> None:
        for number in range(1, options.subjects + 1):
            _write_subject(temporary, options.seed, number)

    return generate(folder, {"version": _VERSION, **asdict(options)}, MARKER, make)


def _write_subject(folder: Path, seed: int, number: int) -> None:
    """Write a subject's two files."""
    sizes, shape = _GRIDS[(number - 1) % len(_GRIDS)]
    turn = (number - 1) % len(_AXES)
    rng = np.random.default_rng([seed, number])
    degrees = rng.uniform(2, 5, 3) * rng.choice([-1, 1], 3) * (turn == _OBLIQUE)
    in_head = np.eye(4)
    in_head[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * sizes
    in_head[:3, 3] = _CENTRE - in_head[:3, :3] @ ((np.array(shape) - 1) / 2)
    image, labels = draw_phantom(shape, in_head, rng)
    in_scanner = in_head.copy()
    in_scanner[:3, 3] += rng.uniform(-20, 20, 3)
    name = f"{PREFIX}_{number:02d}"
    (folder / name).mkdir(parents=True)
    for role, data in ((_IMAGE, image), (_LABELS, labels)):
        path = folder / name / f"{name}_{role}.nii.gz"
        content = _nifti(
            data.astype(np.int16),
            in_scanner,
            axes=_AXES[turn],
            description=f"{SYNTHETIC_STAMP} phantom, seed {seed}",
            only_qform=number % 5 == 0,
        )
        path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))


def _nifti(
    data: npt.NDArray[np.int16], affine: Affine, *, axes: str, description: str, only_qform: bool
) -> bytes:
    """A NIfTI-1 file of an array in RAS order, stored in another order of its axes."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))  # type: ignore[no-untyped-call]
    image: Any = nibabel.Nifti1Image  # without types
    image = image(data[..., np.newaxis], affine).as_reoriented(turn)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=0 if only_qform else 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    content: bytes = image.to_bytes()
    return content


def draw_phantom(
    shape: _Shape, affine: Affine, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """What a scanner and a stripping program make of a subject, 0 around it; and its labels.

    ``affine`` leads from voxel indices to mm, axes mostly to the right, anterior and superior
    (RAS). A brain is up to 140 × 180 × 150 mm; its middle lies near (0, -2, 0). A label is the
    tissue of which a voxel holds most; as in IBSR, a few at the rim were stripped from the image.
    """
    material, depth = _anatomy(shape, affine, rng)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def varying(length: float) -> _Field:
        return _smooth(shape, spacing, length, rng)

    # The stripping leaves some fluid in one place and takes some cortex in another.
    brain = depth > -np.clip(0.2 + 0.9 * varying(15), -1.5, 3)
    cortex = rng.uniform(0.64, 0.70)
    levels = np.array([rng.uniform(0.28, 0.42), cortex, cortex + rng.uniform(0.07, 0.13), 1])
    signal = _per_voxel(levels.astype(np.float32)[material])
    meninges = np.clip(varying(10), 0, 1) * np.clip(-depth, 0, 1)
    signal += 0.6 * cortex * meninges
    signal *= 1 + 0.04 * varying(8)  # within tissues
    coil = varying(100)
    low, high = coil[brain].min(), coil[brain].max()
    signal *= 1 + rng.uniform(0.08, 0.2) * (2 * (coil - low) / (high - low) - 1)
    noise = rng.standard_normal((2, *shape), np.float32) * np.float32(rng.uniform(0.05, 0.08))
    image = np.hypot(signal + noise[0], noise[1]) * brain  # the magnitude: Rician
    image *= np.exp(rng.uniform(*np.log(_PEAKS))) / image.max()
    # A stripped volume shows where the brain is by not being 0 there.
    image = np.where(brain, np.maximum(np.rint(image), 1), 0)
    tissue = _TISSUES[material]
    shares = np.stack([_per_voxel(tissue == label) for label in range(CLASSES)])
    labels = shares.argmax(axis=0).astype(np.uint8)
    labels[~brain & (labels == CSF)] = BACKGROUND  # fluid counts up to where the image ends
    return image.astype(np.int16), labels


def _anatomy(
    shape: _Shape, affine: Affine, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], _Field]:
    """The material at every sample, and how deep in mm each voxel lies in the whole brain.

    Lengths are in mm. A part is its signed distance, positive inside; that of an ellipsoid holds
    near its surface only.
    """
    d, h, w = (_SAMPLES * size for size in shape)
    # Samples lie about voxel centres: index s is at voxel (s + 1/2) / 2 − 1/2.
    to_voxel = np.diag([1 / _SAMPLES] * 3 + [1.0])
    to_voxel[:3, 3] = 0.5 / _SAMPLES - 0.5
    grid = affine @ to_voxel
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    i, j, k = np.ogrid[:d, :h, :w]

    def varying(length: float) -> _Field:
        return _smooth((d, h, w), spacing, length, rng)

    scale = rng.uniform(0.94, 1.02) * rng.uniform(0.97, 1.03, 3)
    x, y, z = (
        ((row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.float32) + 2 * varying(25)) / s
        for row, s in zip(grid[:3], scale.astype(np.float32), strict=True)
    )
    side = abs(x)
    cerebrum = _ellipsoid((x, y, z), (0, 0, 6), (65, 84, 58))
    stem = _ellipsoid((x, y, z), (0, -22, -42), (14, 16, 26))
    ventricles = _ellipsoid(
        (side, y, z), (9, -4, 15), rng.uniform(0.85, 1.15) * np.array([5, 28, 8])
    )
    nuclei = _ellipsoid((side, y, z), (16, -2, 3), (10, 22, 12))
    # Sulci stand where a random field is zero, down to some depth; the fissure between the
    # hemispheres ends above the ventricles.
    fold = varying(7.5)
    slope = np.sqrt(sum(part**2 for part in np.gradient(fold, *spacing.tolist())))
    from_fold = abs(fold) / np.maximum(slope, 1e-3)
    width = np.clip(rng.uniform(0.1, 0.4) + 0.3 * varying(15), 0, None)
    bottom = rng.uniform(22, 26) + 4 * varying(20)
    sulci = np.maximum(from_fold - width, cerebrum - bottom)
    fissure = np.maximum(side - 0.7, 24 - z)
    surface = np.minimum.reduce([cerebrum, sulci, fissure])
    material = np.full(surface.shape, _FLUID, dtype=np.uint8)
    material[surface > 0] = _CORTEX
    material[surface > rng.uniform(2.9, 3.4)] = _WHITE
    material[stem > 0] = _WHITE
    material[nuclei > 0] = _NUCLEI
    material[ventricles > 0] = _FLUID
    return material, _per_voxel(np.maximum(cerebrum, stem))


def _ellipsoid(
    points: tuple[_Field, _Field, _Field], centre: tuple[float, float, float], radii: Any
) -> _Field:
    reach = np.sqrt(
        sum(
            ((axis - np.float32(c)) / np.float32(r)) ** 2
            for axis, c, r in zip(points, centre, radii, strict=True)
        )
    )
    return np.asarray((1 - reach) * np.float32(min(radii)), dtype=np.float32)


def _smooth(
    shape: _Shape, spacing: npt.NDArray[np.float64], length: float, rng: np.random.Generator
) -> _Field:
    """A random field of mean 0 and standard deviation 1 that varies over about so many mm."""
    a, b, c = (max(1, round(length / size)) for size in spacing.tolist())
    controls = rng.normal(
        size=[control_points(n, s) for n, s in zip(shape, (a, b, c), strict=True)]
    )
    return smooth_field(controls / _SPLINE_DEVIATION, (a, b, c), rng.random(3), shape)


def _per_voxel(samples: npt.NDArray[Any]) -> _Field:
    """Mean over the samples of each voxel."""
    d, h, w = (size // _SAMPLES for size in samples.shape)
    cells = samples.reshape(d, _SAMPLES, h, _SAMPLES, w, _SAMPLES)
    return np.asarray(cells.mean(axis=(1, 3, 5), dtype=np.float32))
