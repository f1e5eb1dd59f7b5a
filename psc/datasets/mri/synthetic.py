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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.datasets.mri.nifti import SYNTHETIC_STAMP
from psc.datasets.mri.phantom import draw_phantom
from psc.datasets.mri.phantom_shapes import Affine, Shape
from psc.errors import ConfigError, DataError

__all__ = ["MARKER", "PREFIX", "SyntheticBrains", "write_synthetic_brains"]

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
