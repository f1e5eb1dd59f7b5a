"""Intensity scaling and augmentation of EM volumes, as the paper's U-Net was trained with.

The published training code (Funke et al., TPAMI 2018) augments every patch by reflections and axis
swaps, contrast and brightness. Geometry acts on raw and labels alike, and before affinities are
taken: an affinity points to a predecessor, and a reflection makes a successor of it.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from psc.datasets.em_augmentation import Deformation, SectionDefects
from psc.errors import ConfigError, DataError

__all__ = ["Augmentation", "Geometry", "scale_intensity", "thicken_boundaries"]

_IntegerT = TypeVar("_IntegerT", bound=np.integer[Any])
_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_Permutation = tuple[int, int, int]
_PERMUTATIONS: dict[str, list[_Permutation]] = {
    "none": [(0, 1, 2)],
    "yx": [(0, 1, 2), (0, 2, 1)],
    "all": list(itertools.permutations(range(3))),  # type: ignore[arg-type]
}


@dataclass(frozen=True)
class Geometry:
    """One of the 48 symmetries of a cube: an axis permutation, then reflections.

    Attributes:
        permutation: axis i of the result is axis ``permutation[i]`` of the argument.
        reflected: which axes of the result are reversed.
    """

    permutation: tuple[int, int, int] = (0, 1, 2)
    reflected: tuple[bool, bool, bool] = (False, False, False)

    def __call__(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Apply to the last three axes (…, D, H, W); the result is a view."""
        leading = array.ndim - 3
        axes = (*range(leading), *(leading + axis for axis in self.permutation))
        flips = tuple(slice(None, None, -1 if flip else None) for flip in self.reflected)
        return array.transpose(axes)[(..., *flips)]


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a training patch; the defaults are the published training's.

    Attributes:
        reflections: reverse each axis with probability 1/2.
        axis_swaps: ``"all"`` permutes z, y and x (isotropic voxels), ``"yx"`` y and x only
            (thicker slices), ``"none"`` nothing.
        contrast: range of c in x ← mean + (x − mean) · c, mean of the patch.
        brightness: range of b in x ← x + b, for x in [0, 1].
        deformation: where voxels come from, before reflections and swaps; off, as published.
        defects: of sections of the volume, after contrast and brightness; off, as published.

    Raises:
        ConfigError: an unknown ``axis_swaps``, or a range that is not ordered and finite.
    """

    reflections: bool = True
    axis_swaps: Literal["all", "yx", "none"] = "all"
    contrast: tuple[float, float] = (0.8, 1.2)
    brightness: tuple[float, float] = (-0.2, 0.2)
    deformation: Deformation = field(default_factory=Deformation)
    defects: SectionDefects = field(default_factory=SectionDefects)

    def __post_init__(self) -> None:
        if self.axis_swaps not in _PERMUTATIONS:
            raise ConfigError(
                f"axis_swaps must be one of {', '.join(_PERMUTATIONS)}, found {self.axis_swaps!r}"
            )
        for name, (low, high) in (("contrast", self.contrast), ("brightness", self.brightness)):
            if not -np.inf < low <= high < np.inf:
                raise ConfigError(
                    f"{name} must be a finite range (low, high), found ({low}, {high})"
                )
        if self.contrast[0] < 0:
            raise ConfigError(
                f"contrast must not be negative, found {self.contrast}: it would swap dark and"
                " bright"
            )

    def draw_geometry(self, rng: np.random.Generator) -> Geometry:
        """A symmetry, uniform over those that are switched on."""
        permutations = _PERMUTATIONS[self.axis_swaps]
        permutation = permutations[rng.integers(len(permutations))]
        if not self.reflections:
            return Geometry(permutation)
        z, y, x = (bool(flip) for flip in rng.integers(2, size=3))
        return Geometry(permutation, (z, y, x))

    def change_intensity(
        self,
        raw: npt.NDArray[np.float32],
        rng: np.random.Generator,
        out: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Random contrast and brightness; the result is not clipped, as in the published training.

        Args:
            raw: float32, any shape, values in [0, 1].
            rng: source of randomness.
            out: where to put the result, ``raw`` itself for instance; None = a new array.

        Returns:
            float32 array of the same shape.
        """
        contrast = rng.uniform(*self.contrast)
        brightness = rng.uniform(*self.brightness)
        # mean + (x − mean)·c + b, with one multiplication and one addition per voxel
        offset = (1 - contrast) * float(raw.mean()) + brightness
        changed = np.multiply(raw, np.float32(contrast), out=out)
        return np.add(changed, np.float32(offset), out=changed)


def scale_intensity(
    raw: npt.NDArray[Any], intensity_range: tuple[float, float] | None = None
) -> npt.NDArray[np.float32]:
    """Grey values as float32 in [0, 1].

    Args:
        raw: grey values of any shape. uint8 is divided by 255 and uint16 by 65535; floats must lie
            in [0, 1] already.
        intensity_range: grey values that become 0 and 1, for any dtype; beyond them is clipped.

    Returns:
        float32, same shape, in C order, never a view of ``raw``.

    Raises:
        DataError: the dtype needs a range, or floats lie outside [0, 1] and no range is given.
        ConfigError: the range is not increasing.
    """
    scaled = np.empty(raw.shape, dtype=np.float32)
    if intensity_range is not None:
        low, high = intensity_range
        if not -np.inf < low < high < np.inf:
            raise ConfigError(f"intensity_range must be increasing, found ({low}, {high})")
        # float64 inside the ufunc: large integers minus a large offset lose nothing
        np.subtract(raw, low, out=scaled, dtype=np.float64, casting="unsafe")
        scaled *= np.float32(1 / (high - low))
        return np.clip(scaled, 0, 1, out=scaled)
    if raw.dtype in _FULL_SCALE:
        np.multiply(raw, np.float32(1 / _FULL_SCALE[raw.dtype]), out=scaled, casting="unsafe")
        return scaled
    if raw.dtype.kind != "f":
        raise DataError(
            f"raw is {raw.dtype}, whose full scale says nothing about its grey values; set"
            " intensity_range to the values that should become 0 and 1"
        )
    if raw.size and not (raw.min() >= 0 and raw.max() <= 1):
        raise DataError(
            f"raw is {raw.dtype} with values from {raw.min():g} to {raw.max():g}, expected [0, 1];"
            " set intensity_range to the values that should become 0 and 1"
        )
    scaled[...] = raw
    return scaled


def thicken_boundaries(labels: npt.NDArray[_IntegerT], thickness: int) -> npt.NDArray[_IntegerT]:
    """Set voxels near another label to 0, so that touching bodies get a boundary between them.

    Distance is counted in steps from voxel to voxel across faces. Label 0 is a label like others.
    What lies outside the array is unknown and makes no boundary.

    Args:
        labels: integer array (D, H, W).
        thickness: voxels within this many steps of a different label become 0; 0 changes nothing.

    Returns:
        Labels of the same dtype and shape; ``labels`` itself if ``thickness`` is 0.

    Raises:
        ConfigError: thickness is negative.
    """
    if thickness < 0:
        raise ConfigError(f"boundary thickness must be at least 0 voxels, found {thickness}")
    if thickness == 0:
        return labels
    # Within one step of another label; every further step of thickness is a step from there:
    # on the way to a different label, some voxel of one's own stands next to the change.
    near = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(3):
        here, before = _pairs(axis)
        change = labels[here] != labels[before]
        near[here] |= change
        near[before] |= change
    for _ in range(thickness - 1):
        nearer = near.copy()
        for axis in range(3):
            here, before = _pairs(axis)
            near[here] |= nearer[before]
            near[before] |= nearer[here]
    thickened = labels.copy()
    thickened[near] = 0
    return thickened


def _pairs(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    here = (*[slice(None)] * axis, slice(1, None))
    before = (*[slice(None)] * axis, slice(None, -1))
    return here, before
