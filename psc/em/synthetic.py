"""A stand-in for FIB-SEM volumes of neuropil: for tests, demonstrations and first runs.

The volumes look and behave like FIB-25 (Drosophila medulla, 8 nm, isotropic): bodies packed without
gaps, dark membranes of a few voxels that fade in places, dark mitochondria and specks that are no
borders, noise and slow drift. Grey values are set after those of FIB-25. It is no data: results on
it are never results of the paper, and its files say so.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter

from psc.em.labels import split_disconnected
from psc.errors import ConfigError

# ----------------------------------------
# Grow a block of packed neurites: the labels behind the synthetic EM volumes.
#
# Neuropil is made of long, branching, tortuous processes of very different calibre that leave no
# space between them. Here thick processes are grown first, as chains of balls that keep clear of
# what is there already; thinner and thinner ones then fill the gaps, and every voxel left goes to
# the process whose surface is nearest.


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


VOXEL_SIZE = (8.0, 8.0, 8.0)  # nm (z, y, x)
_VERSION = 1  # of the generator: raise it whenever the same seed gives other voxels
_DESCRIPTION_ATTRIBUTE = "generator"

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
