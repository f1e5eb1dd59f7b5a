"""Intensity scaling and augmentation of EM volumes.

The published training (Funke et al., TPAMI 2018) augments every patch by reflections and axis
swaps, contrast and brightness. Geometry acts on raw and labels alike, and before affinities are
taken: an affinity points to a predecessor, and a reflection makes a successor of it.

Augmentations of the field that the paper's training does not use are off. Deformation moves raw and
labels alike: an elastic deformation and a rotation (Ronneberger et al. 2015; Funke et al. 2018 in
gunpowder), and sections out of alignment. Defects change raw alone: sections that are missing, of
low contrast, or out of focus (Lee et al., arXiv 1706.00120). A section is a slice across axis 0.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from psc.em.affinities import at_borders, neighbours
from psc.errors import ConfigError
from psc.training.settings import at_least, between, interval, require, share

if TYPE_CHECKING:
    from psc.volumes.resampling import Sources

_Triple = tuple[int, int, int]
_IntegerT = TypeVar("_IntegerT", bound=np.integer[Any])
_PERMUTATIONS: dict[str, list[_Triple]] = {
    "all": list(itertools.permutations(range(3))),  # type: ignore[arg-type]
    "yx": [(0, 1, 2), (0, 2, 1)],
    "none": [(0, 1, 2)],
}
AXIS_SWAPS = tuple(_PERMUTATIONS)
_LARGEST_JITTER = 0.4
"""Of the spacing. A cubic B-spline of coefficients below 0.403 of it cannot fold the tissue (Choi
and Lee, Graphical Models 62, 2000)."""


@dataclass
class Deformation:
    """Where the voxels of a patch come from; all draws are uniform."""

    spacing: tuple[int, int, int] = (40, 40, 40)
    """Voxels (z, y, x) between control points of the elastic deformation."""
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Largest displacement of a control point along z, y, x, in voxels; no voxel moves further."""
    rotation: float = 0.0  # largest angle about the patch's centre in the plane of y and x, degrees
    offset: int = 10
    """Largest step of a section along y and x, in whole voxels; none comes to lie further away."""
    slip: float = 0.0  # probability that a section is out of place alone
    shift: float = 0.0  # probability that from a section on all are

    def __post_init__(self) -> None:
        if len(self.spacing) != 3 or any(step < 1 or step != int(step) for step in self.spacing):
            raise ConfigError(
                f"spacing={list(self.spacing)}: must be three whole numbers of voxels (z, y, x) ≥ 1"
            )
        if len(self.jitter) != 3 or not all(0 <= most < math.inf for most in self.jitter):
            raise ConfigError(
                f"jitter={list(self.jitter)}: must be three finite numbers of voxels (z, y, x) ≥ 0"
            )
        for most, step in zip(self.jitter, self.spacing, strict=True):
            if most > _LARGEST_JITTER * step:
                raise ConfigError(
                    f"jitter={self.jitter}: more than {_LARGEST_JITTER} of spacing={self.spacing}"
                    " can fold the tissue"
                )
        between(self, 0, 180, "rotation")
        if self.offset < 1 or self.offset != int(self.offset):
            raise ConfigError(f"offset={self.offset}: must be a whole number of voxels ≥ 1")
        share(self, "slip", "shift")
        if self.slip + self.shift > 1:
            raise ConfigError(
                f"slip={self.slip}: must not exceed 1 together with shift={self.shift}"
            )

    @property
    def active(self) -> bool:
        """Whether anything can move."""
        return any(self.jitter) or self.rotation > 0 or self.slip + self.shift > 0

    def reach(self, shape: _Triple) -> _Triple:
        """How far beyond a patch of this shape its values may come from, (z, y, x) in voxels."""
        offset = self.offset if self.slip + self.shift > 0 else 0
        y, x = ((size - 1) / 2 for size in shape[1:])
        wide_y, wide_x = y + self.jitter[1], x + self.jitter[2]
        angle = math.radians(self.rotation)
        return (
            math.ceil(self.jitter[0]),
            math.ceil(_turned(wide_y, wide_x, angle) - y + offset),
            math.ceil(_turned(wide_x, wide_y, angle) - x + offset),
        )

    def draw(self, shape: _Triple, rng: np.random.Generator) -> "Sources":
        """Where each voxel takes its values from, for a patch in the volume's order of axes.

        As many numbers are drawn whatever is switched on, so that one setting does not change what
        another one draws; only ``spacing`` says how many control points there are.
        """
        # Not above: numba takes a second, and the configuration imports this.
        from psc.volumes.resampling import control_points, smooth_field

        angle = math.radians(self.rotation * rng.uniform(-1, 1))
        offsets = self._draw_offsets(shape[0], rng)
        phase = rng.uniform(size=3)
        counts = [control_points(*pair) for pair in zip(shape, self.spacing, strict=True)]
        controls = rng.uniform(-1, 1, (3, *counts))
        sources = np.stack(
            np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
        )
        for axis, most in enumerate(self.jitter):
            if most:
                sources[axis] += smooth_field(controls[axis] * most, self.spacing, phase, shape)
        if angle:
            # After the elastic deformation: turned tissue folds no more than it did before.
            middle = np.array([(n - 1) / 2 for n in shape[1:]], dtype=np.float32)[
                :, None, None, None
            ]
            cosine, sine = math.cos(angle), math.sin(angle)
            turn = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float32)
            sources[1:] = np.tensordot(turn, sources[1:] - middle, axes=1) + middle
        sources[1:] += offsets.T[:, :, np.newaxis, np.newaxis]
        return sources

    def _draw_offsets(self, sections: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """How far each section is out of place along y and x, (sections, 2) in voxels."""
        chances = rng.random(sections)
        steps = rng.random((sections, 2))
        most = self.offset
        offsets = np.zeros((sections, 2), dtype=np.int64)
        here = np.zeros(2, dtype=np.int64)
        for section, chance in enumerate(chances):
            offsets[section] = here
            if chance < self.slip + self.shift:
                # Uniform over the steps that do not lead further than the window was enlarged.
                low, high = np.maximum(-most, here - most), np.minimum(most, here + most)
                offsets[section] = low + (steps[section] * (high - low + 1)).astype(np.int64)
                if chance >= self.slip:
                    here = offsets[section]
        return offsets


@dataclass
class SectionDefects:
    """Sections that were not imaged well; their labels stay, so the network has to bridge them."""

    missing: float = 0.0  # probability that a section is 0 everywhere
    low_contrast: float = 0.0  # probability that a section's contrast is lost
    contrast: tuple[float, float] = (0.1, 0.5)  # c in x ← mean + (x − mean) · c, section's mean
    blur: float = 0.0  # probability that a section is out of focus
    blur_sd: float = 2.0
    """Largest standard deviation of the Gaussian there, along y and x, in voxels, uniform; beyond
    the patch it sees the patch reflected."""

    def __post_init__(self) -> None:
        share(self, "missing", "low_contrast", "blur")
        interval(self, "contrast", lowest=0)
        if self.contrast[1] > 1:
            raise ConfigError(f"contrast={self.contrast}: must lie in 0 (flat) to 1 (unchanged)")
        at_least(self, 0, "blur_sd")

    @property
    def active(self) -> bool:
        """Whether anything can change."""
        return max(self.missing, self.low_contrast, self.blur) > 0

    def apply(self, sections: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        """Change sections (n, H, W) at random, in place, each by itself.

        One may have several defects. As many numbers are drawn whatever is switched on.
        """
        from scipy.ndimage import gaussian_filter  # not above, as in Deformation.draw

        blurred, faint, missing = (
            rng.random(len(sections)) < chance
            for chance in (self.blur, self.low_contrast, self.missing)
        )
        deviations = rng.uniform(0, self.blur_sd, len(sections))
        contrasts = rng.uniform(*self.contrast, len(sections)).astype(np.float32)
        for i, section in enumerate(sections):
            if missing[i]:
                section[...] = 0
                continue
            if blurred[i]:
                section[...] = gaussian_filter(section, deviations[i], mode="mirror")
            if faint[i]:
                mean = section.mean()
                section[...] = mean + (section - mean) * contrasts[i]


def _turned(along: float, across: float, most: float) -> float:
    """Largest extent along an axis of a rectangle turned by up to an angle, all from its centre."""
    angle = min(most, math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)


@dataclass(frozen=True)
class Geometry:
    """One of the 48 symmetries of a cube: an axis permutation, then reflections."""

    permutation: tuple[int, int, int] = (0, 1, 2)  # axis i of the result is this of the argument
    reflected: tuple[bool, bool, bool] = (False, False, False)  # which axes of the result

    def __call__(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Apply to the last three axes (…, D, H, W); the result is a view."""
        leading = array.ndim - 3
        axes = (*range(leading), *(leading + axis for axis in self.permutation))
        flips = tuple(slice(None, None, -1 if flip else None) for flip in self.reflected)
        return array.transpose(axes)[(..., *flips)]


@dataclass
class Augmentation:
    """What is done at random to a training patch; the defaults are the published training's.

    Deformation comes before reflections and swaps, defects of the volume's sections after contrast
    and brightness; both are off, as published.
    """

    reflections: bool = True  # of each axis, with probability 1/2
    axis_swaps: str = "all"
    """``"all"``: of z, y and x (isotropic voxels); ``"yx"`` (thicker slices); ``"none"``."""
    contrast: tuple[float, float] = (0.8, 1.2)  # c in x ← mean + (x − mean) · c, patch's mean
    brightness: tuple[float, float] = (-0.2, 0.2)  # b in x ← x + b, for x in [0, 1]
    deformation: Deformation = field(default_factory=Deformation)
    defects: SectionDefects = field(default_factory=SectionDefects)

    def __post_init__(self) -> None:
        require(self, "axis_swaps", AXIS_SWAPS)
        interval(self, "brightness")
        interval(self, "contrast", lowest=0)  # a negative one would swap dark and bright

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
        """Random contrast and brightness of values in [0, 1]; not clipped, as published.

        ``out``: where to put the result, ``raw`` itself for instance; None = a new array.
        """
        contrast = rng.uniform(*self.contrast)
        brightness = rng.uniform(*self.brightness)
        # mean + (x − mean)·c + b, with one multiplication and one addition per voxel
        offset = (1 - contrast) * float(raw.mean()) + brightness
        changed = np.multiply(raw, np.float32(contrast), out=out)
        return np.add(changed, np.float32(offset), out=changed)


def thicken_boundaries(labels: npt.NDArray[_IntegerT], thickness: int) -> npt.NDArray[_IntegerT]:
    """Set voxels near another label to 0, so that touching bodies get a boundary between them.

    Within ``thickness`` steps from voxel to voxel across faces. Label 0 is a label like others;
    what lies outside the array is unknown and makes no boundary. With 0 ``labels`` itself is
    returned.
    """
    if thickness < 0:
        raise ConfigError(f"boundary thickness must be at least 0 voxels, found {thickness}")
    if thickness == 0:
        return labels
    # Within one step of another label; every further step of thickness is a step from there:
    # on the way to a different label, some voxel of one's own stands next to the change.
    near = at_borders(labels)
    for _ in range(thickness - 1):
        nearer = near.copy()
        for axis in range(3):
            here, before = neighbours(axis)
            near[here] |= nearer[before]
            near[before] |= nearer[here]
    thickened = labels.copy()
    thickened[near] = 0
    return thickened
