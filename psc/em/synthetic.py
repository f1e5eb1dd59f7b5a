"""A stand-in for FIB-SEM volumes of neuropil: for tests, demonstrations and first runs.

Something to learn, no anatomy: bodies of different calibres along random walks, packed without
gaps; dark membranes that fade in places; dark organelles and specks that are no borders; noise and
slow drift. Grey values are set after those of FIB-25 (Drosophila medulla, 8 nm, isotropic). It is
no data: results on it are never results of the paper, and its files say so.

Version 2 of the generator. Records and pictures that say version 1 are of an earlier one, which
grew branching neurites with mitochondria: another volume for the same seed, and other scores.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d

from psc.em.affinities import at_borders
from psc.em.labels import split_disconnected
from psc.errors import ConfigError
from psc.volumes.output import replacing_hdf5
from psc.volumes.resampling import control_points, smooth_field

Triple = tuple[int, int, int]
_Float = npt.NDArray[np.float32]

VOXEL_SIZE = (8.0, 8.0, 8.0)  # nm (z, y, x)
_VERSION = 2  # of the generator: raise it whenever the same seed gives other voxels
_DESCRIPTION_ATTRIBUTE = "generator"

# Lengths are in voxels.
_MARGIN = 16  # bodies begin beyond the volume, so that its faces cut through them
_CALIBRES = ((14.0, 60), (7.0, 30), (3.5, 18))  # radius, and spacing of walks of that radius
_STEPS = 120  # of a walk, each 1.5 voxels long
_SMALLEST_BODY = 150  # voxels; smaller pieces go to a neighbour

# Grey values (0 to 255), from FIB-25: membranes 99, cytoplasm 146 on average, mitochondria 85.
_CYTOPLASM, _ORGANELLE, _MEMBRANE = 163.0, 84.0, 78.0
_DARK_BODIES = 0.2  # share of bodies with dense cytoplasm


def synthetic_fibsem(
    shape: tuple[int, int, int], seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Generate a volume that resembles FIB-SEM of neuropil.

    Grey values are uint8 (D, H, W), membranes dark; labels uint64, ids 1..N, every body connected,
    no 0. The same seed and shape give the same volume (on one machine: CPUs round differently).
    """
    rng = np.random.default_rng(seed)
    labels = grow_bodies(shape, rng)
    return _image(labels, rng), labels.astype(np.uint64)


def write_synthetic_volume(path: Path, shape: tuple[int, int, int], seed: int) -> bool:
    """Write ``synthetic_fibsem`` as HDF5 in CREMI's layout, marked by the attribute ``synthetic``.

    False if the file was there already, from the same shape, seed and version.
    """
    description = json.dumps({"shape": list(shape), "seed": seed, "version": _VERSION})
    if path.exists() and _description(path) == description:
        return False
    raw, labels = synthetic_fibsem(shape, seed)
    with replacing_hdf5(path) as file:
        file.attrs["synthetic"] = True
        file.attrs[_DESCRIPTION_ATTRIBUTE] = description
        for key, values in (("volumes/raw", raw), ("volumes/labels/neuron_ids", labels)):
            dataset = file.create_dataset(key, data=values, compression="gzip", shuffle=True)
            dataset.attrs["resolution"] = VOXEL_SIZE
    return True


def _description(path: Path) -> str:
    """What an existing synthetic file says it was made from."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("synthetic", False):
                return str(file.attrs.get(_DESCRIPTION_ATTRIBUTE, ""))
    except OSError:
        pass  # not HDF5, a folder, damaged: all the same, not ours to replace
    raise ConfigError(
        f"{path} exists and is not a synthetic volume; it is not overwritten: choose another path"
        " or move the file away"
    )


def grow_bodies(shape: Triple, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Labels (D, H, W), 1..N, each one connected body: tubes along walks, the thickest first.

    What no tube claims goes to the nearest one.
    """
    padded = [size + 2 * _MARGIN for size in shape]
    labels, count = np.zeros(padded, dtype=np.int32), 0
    for radius, spacing in _CALIBRES:
        trails = np.zeros(padded, dtype=np.int32)
        for _ in range(max(2, round(np.prod(padded) / (spacing**2 * _STEPS)))):
            count += 1
            # A direction that turns slowly.
            ways = gaussian_filter1d(rng.standard_normal((_STEPS, 3)), 8, axis=0)
            ways *= 1.5 / np.linalg.norm(ways, axis=1, keepdims=True)
            points = (rng.uniform(0, padded) + np.cumsum(ways, axis=0)).astype(int)
            points = points[((points >= 0) & (points < padded)).all(axis=1)]
            trails[tuple(points.T)] = count
        trails[labels > 0] = 0
        distance, nearest = distance_transform_edt(trails == 0, return_indices=True)
        claimed = (distance <= radius) & (labels == 0) & (trails.max() > 0)
        labels[claimed] = trails[tuple(nearest)][claimed]
    labels = _filled(labels)[tuple(slice(_MARGIN, _MARGIN + size) for size in shape)]
    return _connected_bodies(labels)


def _filled(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The labels, with what is 0 given to the nearest body."""
    nearest = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    filled: npt.NDArray[np.int32] = labels[tuple(nearest)]
    return filled


def _connected_bodies(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One id for each connected piece; specks go to a neighbour."""
    pieces = split_disconnected(labels)
    sizes = np.bincount(pieces.reshape(-1))
    if sizes.max() >= _SMALLEST_BODY:
        pieces = _filled(np.where((sizes < _SMALLEST_BODY)[pieces], 0, pieces))
    return split_disconnected(pieces)


def _image(labels: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What the microscope would show of the labels."""
    border = at_borders(labels).astype(np.float32)
    depth = distance_transform_edt(border == 0) if border.any() else np.full(labels.shape, 9.0)

    def noise(scale: float) -> _Float:
        return _noise_field(labels.shape, scale, rng)

    count = int(labels.max()) + 1
    grey = rng.normal(_CYTOPLASM, 12, count) - 32 * (rng.random(count) < _DARK_BODIES)
    image: _Float = grey.astype(np.float32)[labels]
    image += 10 * noise(2) + 9 * noise(5)  # the grain of cytoskeleton and ribosomes
    specks = (rng.random(labels.shape, dtype=np.float32) < 0.002).astype(np.float32)
    image -= np.minimum(gaussian_filter(specks, 1.5) * np.float32(45 * 1.5**3 * 15.75), 75)
    organelles = np.clip(2 * (noise(7) - 1.1), 0, 1) * np.clip(depth / 3 - 1, 0, 1)
    image += organelles.astype(np.float32) * (np.float32(_ORGANELLE) + 9 * noise(2) - image)
    # About 1.3 on a flat border; where one lies flat or stains badly it can hardly be seen.
    membrane = gaussian_filter(border, 1.35) * 2.3 * np.clip(1.15 + 0.25 * noise(7), 0.3, 1.4)
    image += np.clip(membrane, 0, 1).astype(np.float32) * (np.float32(_MEMBRANE) - image)
    gaussian_filter(image, 0.8, output=image)
    # Shot noise: its variance grows with the number of electrons, that is, with brightness.
    shot = rng.standard_normal(labels.shape, dtype=np.float32)
    image += shot * np.sqrt(np.clip(image, 20, 255) / np.float32(_CYTOPLASM)) * np.float32(6)
    image += 5 * noise(60)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _noise_field(shape: Triple, scale: float, rng: np.random.Generator) -> _Float:
    """Smooth noise of standard deviation about 1, like white noise blurred by ``scale`` voxels."""
    step = max(1, round(1.73 * scale))  # a cubic B-spline's standard deviation is 1/√3 of its step
    spacing = (step, step, step)
    controls = rng.standard_normal([control_points(size, step) for size in shape])
    return smooth_field(controls / 0.33, spacing, rng.uniform(size=3), shape)
