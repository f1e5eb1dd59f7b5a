"""Augmentations of the connectomics field that the paper's training does not use: all are off.

Deformation moves raw and labels alike, before affinities are taken of the labels: an elastic
deformation and a rotation (Ronneberger et al. 2015; Funke et al. 2018 in gunpowder), and sections
out of alignment. Defects change raw alone: sections that are missing, of low contrast, or out of
focus (Lee et al., arXiv 1706.00120). A section is a slice across axis 0 of the volume.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from psc.datasets.em_resampling import Sources, control_points, smooth_field
from psc.errors import ConfigError

__all__ = ["Deformation", "SectionDefects"]

_Triple = tuple[int, int, int]
_LARGEST_JITTER = 0.4
"""Of the spacing. A cubic B-spline of coefficients below 0.403 of it cannot fold the tissue (Choi
and Lee, Graphical Models 62, 2000)."""


@dataclass(frozen=True)
class Deformation:
    """Where the voxels of a patch come from.

    Attributes:
        spacing: voxels (z, y, x) between control points of the elastic deformation.
        jitter: largest displacement of a control point along z, y and x, in voxels, uniform; no
            voxel moves further.
        rotation: largest angle in the plane of y and x about the patch's centre, in degrees,
            uniform in both directions.
        offset: largest step of a section along y and x, in whole voxels, uniform; no section comes
            to lie further from its place either.
        slip: probability that a section is out of place alone.
        shift: probability that from a section on all are.

    Raises:
        ConfigError: a value outside its domain, or a jitter that could fold the tissue.
    """

    spacing: tuple[int, int, int] = (40, 40, 40)
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: float = 0.0
    offset: int = 10
    slip: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if len(self.spacing) != 3 or any(step < 1 or step != int(step) for step in self.spacing):
            raise ConfigError(
                f"spacing={self.spacing}: must be three whole numbers of voxels (z, y, x), at least"
                " 1"
            )
        if len(self.jitter) != 3 or not all(0 <= most < math.inf for most in self.jitter):
            raise ConfigError(
                f"jitter={self.jitter}: must be three finite distances in voxels (z, y, x), at"
                " least 0"
            )
        for most, step in zip(self.jitter, self.spacing, strict=True):
            if most > _LARGEST_JITTER * step:
                raise ConfigError(
                    f"jitter={self.jitter}: more than {_LARGEST_JITTER} of"
                    f" spacing={self.spacing} can fold the tissue; use less jitter or a wider"
                    " spacing"
                )
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"rotation={self.rotation}: must be 0 to 180 degrees")
        if self.offset < 1 or self.offset != int(self.offset):
            raise ConfigError(
                f"offset={self.offset}: must be a whole number of voxels, at least 1; slip=0 and"
                " shift=0 leave sections in place"
            )
        _check_probability("slip", self.slip)
        _check_probability("shift", self.shift)
        if self.slip + self.shift > 1:
            raise ConfigError(
                f"slip={self.slip}: must not exceed 1 together with shift={self.shift}; a section"
                " does one or the other"
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

    def draw(self, shape: _Triple, rng: np.random.Generator) -> Sources:
        """Where each voxel takes its values from.

        As many numbers are drawn whatever is switched on, so that one setting does not change what
        another one draws; only ``spacing`` says how many control points there are.

        Args:
            shape: of the patch (D, H, W), in the volume's order of axes.
            rng: source of randomness.

        Returns:
            float32 (3, D, H, W): positions along z, y and x in voxels from the patch's first.
        """
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


@dataclass(frozen=True)
class SectionDefects:
    """Sections that were not imaged well; their labels stay, so the network has to bridge them.

    Attributes:
        missing: probability that a section is 0 everywhere.
        low_contrast: probability that a section's contrast is lost.
        contrast: range of c in x ← mean + (x − mean) · c there, mean of the section.
        blur: probability that a section is out of focus.
        blur_sd: largest standard deviation of the Gaussian there, along y and x, in voxels,
            uniform; beyond the patch it sees the patch reflected.

    Raises:
        ConfigError: a value outside its domain.
    """

    missing: float = 0.0
    low_contrast: float = 0.0
    contrast: tuple[float, float] = (0.1, 0.5)
    blur: float = 0.0
    blur_sd: float = 2.0

    def __post_init__(self) -> None:
        for name in ("missing", "low_contrast", "blur"):
            _check_probability(name, getattr(self, name))
        if len(self.contrast) != 2 or not 0 <= self.contrast[0] <= self.contrast[1] <= 1:
            raise ConfigError(
                f"contrast={self.contrast}: must be a range (low, high) within 0 (flat) to 1"
                " (unchanged)"
            )
        if not 0 <= self.blur_sd < math.inf:
            raise ConfigError(
                f"blur_sd={self.blur_sd}: must be a finite number of voxels, at least 0"
            )

    @property
    def active(self) -> bool:
        """Whether anything can change."""
        return max(self.missing, self.low_contrast, self.blur) > 0

    def apply(self, sections: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        """Change sections at random, in place, each by itself; one may have several defects.

        As many numbers are drawn whatever is switched on.

        Args:
            sections: float32 (sections, H, W), any order in memory.
            rng: source of randomness.
        """
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


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value}: must be a probability, 0 to 1")


def _turned(along: float, across: float, most: float) -> float:
    """Largest extent along an axis of a rectangle turned by up to an angle, all from its centre."""
    angle = min(most, math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)
