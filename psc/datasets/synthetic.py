"""A stand-in for FIB-SEM volumes of neuropil: for tests, demonstrations and first runs.

The volumes look and behave like FIB-25 (Drosophila medulla, 8 nm, isotropic): bodies packed without
gaps, dark membranes of a few voxels that fade in places, dark mitochondria and specks that are no
borders, noise and slow drift. Grey values are set after those of FIB-25. It is no data: results on
it are never results of the paper, and its files say so.
"""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from psc.datasets.neurites import Neuropil, Triple, grow_neuropil, smooth_field
from psc.errors import ConfigError

__all__ = ["VOXEL_SIZE", "synthetic_fibsem", "write_synthetic_volume"]

VOXEL_SIZE = (8.0, 8.0, 8.0)  # nm (z, y, x)
_VERSION = 1  # of the generator: raise it whenever the same seed gives other voxels
_DESCRIPTION_ATTRIBUTE = "generator"
_Float = npt.NDArray[np.float32]

# Grey values (0 to 255), from FIB-25: membranes 99, cytoplasm 146 on average, mitochondria 85.
_CYTOPLASM = 163.0
_MITOCHONDRION = 84.0
_MEMBRANE = 88.0
_DARK_BODIES = 0.2  # share of bodies with dense cytoplasm


def synthetic_fibsem(
    shape: tuple[int, int, int], seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Generate a volume that resembles FIB-SEM of neuropil.

    Args:
        shape: size (D, H, W) in voxels.
        seed: same seed and shape, same volume (on one machine: other CPUs round differently).

    Returns:
        Grey values uint8 (D, H, W), membranes dark, and labels uint64 (D, H, W), ids 1..N, every
        body connected, no 0.

    Raises:
        ConfigError: shape or seed is not positive.
    """
    if len(shape) != 3 or min(shape) < 1 or seed < 0:
        raise ConfigError(
            f"need a positive shape (z, y, x) and a seed >= 0, found {shape} and {seed}"
        )
    rng = np.random.default_rng(seed)
    neuropil = grow_neuropil(shape, rng)
    return _image(neuropil, rng), neuropil.labels.astype(np.uint64)


def write_synthetic_volume(path: Path, shape: tuple[int, int, int], seed: int) -> bool:
    """Write a synthetic volume as HDF5 in CREMI's layout, unless it is there already.

    The file has ``volumes/raw`` and ``volumes/labels/neuron_ids`` with attribute ``resolution``,
    and is marked by the file attribute ``synthetic``. It appears complete or not at all.

    Args:
        path: file to write; its folder is made.
        shape: size (D, H, W) in voxels.
        seed: see ``synthetic_fibsem``.

    Returns:
        True if it was written, False if the file was there, from the same shape, seed and version.

    Raises:
        ConfigError: as ``synthetic_fibsem``; or the file exists and is not a synthetic volume.
    """
    description = json.dumps({"shape": list(shape), "seed": seed, "version": _VERSION})
    if path.exists() and _description(path) == description:
        return False
    raw, labels = synthetic_fibsem(shape, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two jobs that prepare the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["synthetic"] = True
            file.attrs[_DESCRIPTION_ATTRIBUTE] = description
            for key, values in (("volumes/raw", raw), ("volumes/labels/neuron_ids", labels)):
                dataset = file.create_dataset(key, data=values, compression="gzip", shuffle=True)
                dataset.attrs["resolution"] = VOXEL_SIZE
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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


def _image(neuropil: Neuropil, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What the microscope would show of the labels."""
    shape: Triple = neuropil.labels.shape
    cytoplasm = _cytoplasm(neuropil.labels, rng)
    membrane = _membranes(neuropil.labels)
    # Where a membrane lies flat or stains badly it can hardly be seen: the hard places.
    strength = np.clip(1.15 + 0.25 * smooth_field(shape, 7, rng), 0.3, 1.4)
    image = cytoplasm + _specks(neuropil, rng)
    image += np.clip(membrane * strength, 0, 1) * (np.float32(_MEMBRANE) - image)
    _add_mitochondria(image, neuropil.mitochondria, rng)
    gaussian_filter(image, 0.8, output=image)
    image += _noise(image, rng)
    image += 5 * smooth_field(shape, 60, rng)
    np.clip(np.rint(image), 0, 255, out=image)
    return image.astype(np.uint8)


def _membranes(labels: npt.NDArray[np.int32]) -> _Float:
    """Both voxels of every border, blurred; about 1 on a flat border, more where borders meet."""
    border = np.zeros(labels.shape, dtype=np.float32)
    for axis in range(3):
        here = (*[slice(None)] * axis, slice(1, None))
        before = (*[slice(None)] * axis, slice(None, -1))
        change = labels[here] != labels[before]
        border[here][change] = 1
        border[before][change] = 1
    gaussian_filter(border, 1.35, output=border)
    border *= np.float32(1.8)
    return border


def _cytoplasm(labels: npt.NDArray[np.int32], rng: np.random.Generator) -> _Float:
    """Grey of each body's inside, with the grain of cytoskeleton and ribosomes."""
    count = int(labels.max()) + 1
    grey = rng.normal(_CYTOPLASM, 12, count)
    dark = rng.random(count) < _DARK_BODIES
    grey[dark] -= rng.uniform(20, 45, int(dark.sum()))
    grain = rng.uniform(0.5, 1.3, count)
    texture = 10 * smooth_field(labels.shape, 2, rng) + 9 * smooth_field(labels.shape, 5, rng)
    image: _Float = grey.astype(np.float32)[labels]
    image += texture * grain.astype(np.float32)[labels]
    return image


def _specks(neuropil: Neuropil, rng: np.random.Generator) -> _Float:
    """Vesicles, in clusters within some bodies, and dark densities as at synapses."""
    shape = neuropil.labels.shape
    bouton = rng.random(int(neuropil.labels.max()) + 1) < 0.35
    density = np.where(bouton[neuropil.labels], np.float32(0.008), np.float32(0.0015))
    density *= smooth_field(shape, 15, rng) > 0
    impulses = (rng.random(shape, dtype=np.float32) < density).astype(np.float32)
    # Each impulse becomes a Gaussian whose peak is the first number, in grey values.
    image = gaussian_filter(impulses, 1.5) * np.float32(-45 * 1.5**3 * (2 * np.pi) ** 1.5)
    densities = (rng.random(shape, dtype=np.float32) < 1.2e-5).astype(np.float32)
    image += gaussian_filter(densities, 3) * np.float32(-70 * 3**3 * (2 * np.pi) ** 1.5)
    np.maximum(image, -75, out=image)
    return image


def _add_mitochondria(image: _Float, distance: _Float, rng: np.random.Generator) -> None:
    """Draw mitochondria: darker than cytoplasm, cristae within, and a dark outline."""
    inside = np.clip(0.5 - distance, 0, 1)  # a border of one voxel
    cristae = 9 * smooth_field(image.shape, 1.8, rng)
    image += inside * (np.float32(_MITOCHONDRION) + cristae - image)
    image -= 16 * np.exp(-0.5 * (distance / 1.2) ** 2)


def _noise(image: _Float, rng: np.random.Generator) -> _Float:
    """Shot noise: its variance grows with the number of electrons, that is, with brightness."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.sqrt(np.clip(image, 20, 255) / np.float32(_CYTOPLASM)) * np.float32(6.0)
    return noise
