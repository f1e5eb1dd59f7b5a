"""Augmentation of brain MRI: reflection, rotation and zoom in millimetres, changes of intensity.

The paper says nothing about augmentation of its MRI, so all is off by default but the reflection
that anatomy itself suggests: left becomes right.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError
from psc.training.settings import at_least, between, interval


@dataclass(frozen=True)
class Pose:
    """How the anatomy in a patch is turned, enlarged and reflected, about the patch's centre."""

    reflected: tuple[bool, bool, bool] = (False, False, False)  # axes reversed, after turning
    # about axis 0, then 1, then 2, each positive from the next axis to the one after it
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zoom: float = 1.0  # 1.1 makes a brain 10 % longer

    @property
    def interpolates(self) -> bool:
        """Whether voxels come to lie between voxels."""
        return any(self.degrees) or self.zoom != 1

    def matrix(self, voxel_size: tuple[float, float, float]) -> npt.NDArray[np.float64]:
        """Where the values of a turned patch come from; reflections are not in it.

        V⁻¹ R⁻¹ V / zoom, V the voxel size in mm, so that a sphere stays one: takes the distance of
        a voxel from the patch's centre to that of its source, both in voxels.
        """
        from scipy.spatial.transform import Rotation  # not above: the configuration imports this

        turn = Rotation.from_euler("xyz", self.degrees, degrees=True).as_matrix()
        millimetres = np.asarray(voxel_size)
        matrix: npt.NDArray[np.float64] = turn.T * millimetres / millimetres[:, None] / self.zoom
        return matrix


@dataclass
class TissueAugmentation:
    """What is done at random to a training patch."""

    reflections: tuple[bool, bool, bool] = (True, False, False)
    """Axes that are reversed with probability 1/2: to the subject's right, to the front, up. Brains
    are nearly symmetric along the first alone."""
    rotation: float = 0.0
    """Largest angle about each of the three axes, in degrees."""
    scaling: tuple[float, float] = (1.0, 1.0)
    """Range of the zoom."""
    contrast: tuple[float, float] = (1.0, 1.0)
    """Range of c in x ← x · c. Subjects are normalised: 0 is the brain's mean."""
    brightness: tuple[float, float] = (0.0, 0.0)
    """Range of b in x ← x + b, in standard deviations of the brain."""
    noise: float = 0.0
    """Largest standard deviation of the Gaussian noise that is added, in the same unit."""

    def __post_init__(self) -> None:
        if len(self.reflections) != 3 or not {*self.reflections} <= {False, True}:
            raise ConfigError(
                f"reflections={list(self.reflections)}: must be three of true or false (right, "
                "anterior, superior)"
            )
        between(self, 0, 180, "rotation")
        at_least(self, 0, "noise")
        interval(self, "brightness")
        interval(self, "contrast", lowest=0)  # a negative one would swap dark and bright
        interval(self, "scaling")
        if self.scaling[0] <= 0:
            raise ConfigError(f"scaling={self.scaling}: must be positive; 1 keeps the size")

    def draw_pose(self, rng: np.random.Generator) -> Pose:
        """A pose: every reflection, angle and zoom by itself, uniform in its range.

        As many numbers are drawn whatever is switched on, so that one setting does not change what
        another one draws.
        """
        right, anterior, superior = (
            bool(drawn) and allowed
            for drawn, allowed in zip(rng.integers(2, size=3), self.reflections, strict=True)
        )
        first, second, third = (self.rotation * rng.uniform(-1, 1, size=3)).tolist()
        zoom = float(rng.uniform(*self.scaling))
        return Pose((right, anterior, superior), (first, second, third), zoom)

    def change_intensity(
        self, image: npt.NDArray[np.float32], background: float, rng: np.random.Generator
    ) -> None:
        """Random contrast, brightness and noise, in place.

        Voxels that are exactly background keep their value: skull stripping leaves a constant, and
        so it is at test time.
        """
        contrast, brightness = rng.uniform(*self.contrast), rng.uniform(*self.brightness)
        deviation = rng.uniform(0, self.noise)
        if contrast == 1 and brightness == 0 and deviation == 0:
            return
        inside = image != np.float32(background)
        np.multiply(image, np.float32(contrast), out=image, where=inside)
        np.add(image, np.float32(brightness), out=image, where=inside)
        if deviation:
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            noise *= np.float32(deviation)
            np.add(image, noise, out=image, where=inside)
