"""Films whose classes differ in nothing but the order of their pictures.

Every scene is a set of 16 pictures, and a film shows them over and over. Beads stand at another
height in each picture, discs have another size. In which order the pictures come is the class: if
the beads are to rise, the sizes of the discs come in disorder, and the other way round. So any 16
consecutive frames hold the same 16 pictures whatever the class: neither a single frame nor any
number of frames in disorder can tell it.

Mirroring a film left to right does not change its class: random flips are allowed in training.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError

__all__ = ["CLASSES", "HEIGHT", "PICTURES", "WIDTH", "Scene", "draw_scene"]

HEIGHT, WIDTH = 240, 320
PICTURES = 16
"""Pictures of a scene, and frames after which its film begins anew."""

CLASSES = (
    "BeadsBobbing",
    "BeadsRising",
    "BeadsSinking",
    "DiscsGrowing",
    "DiscsPulsing",
    "DiscsShrinking",
)

_LANES = 5  # beads and discs in turn, so that a crop of half the width shows both
_LANE_WIDTH = WIDTH // _LANES
_SPACING = HEIGHT // 3  # of beads; their motion repeats after it
_STEPS = np.arange(PICTURES)
_THERE_AND_BACK = np.concatenate([_STEPS[::2], _STEPS[::-2]])
_Image = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scene:
    """The pictures of a film, the same in every class.

    Attributes:
        pictures: uint8 (16, H, W, 3); in picture j the beads have sunk by j/16 of their distance.
        sizes: (16,), a permutation: size of the discs in picture j, 15 the largest.
        first: step of the motion that the film begins with.
        frames: length of the film.
    """

    pictures: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int64]
    first: int
    frames: int

    def order(self, action: str) -> npt.NDArray[np.int64]:
        """Which picture each frame of the film shows, (frames,).

        Raises:
            ConfigError: an unknown class.
        """
        if action not in CLASSES:
            raise ConfigError(f"class must be one of {', '.join(CLASSES)}, found {action!r}")
        by_height, by_size = _STEPS, np.argsort(self.sizes)
        turn = {
            "BeadsSinking": by_height,
            "BeadsRising": by_height[::-1],
            "BeadsBobbing": by_height[_THERE_AND_BACK],
            "DiscsGrowing": by_size,
            "DiscsShrinking": by_size[::-1],
            "DiscsPulsing": by_size[_THERE_AND_BACK],
        }[action]
        shown: npt.NDArray[np.int64] = turn[(self.first + np.arange(self.frames)) % PICTURES]
        return shown


@dataclass(frozen=True, eq=False)
class _Appearance:
    """What the films of one group have in common; no class has a part in it."""

    background: _Image
    bead_colour: _Image
    disc_colour: _Image
    bead_size: float
    bead_norm: float
    disc_norm: float
    radii: tuple[float, float]
    beads_first: bool


def draw_scene(seed: int, group: int, clip: int, frames: tuple[int, int] = (64, 96)) -> Scene:
    """The scene of a clip, a function of its arguments alone.

    Args:
        seed: of the whole data set.
        group: films of a group have colours, shapes and background in common.
        clip: films of a clip have everything in common but their order.
        frames: shortest and longest film.
    """
    appearance = _draw_appearance(np.random.default_rng([seed, group, 1]))
    rng = np.random.default_rng([seed, group, clip, 2])
    x_shift = rng.uniform(-6, 6)
    bead_height = rng.uniform(0, _SPACING, _LANES)
    disc_height = rng.uniform(-8, 8, (_LANES, 2)) + np.array([HEIGHT * 0.27, HEIGHT * 0.73])
    brightness = np.float32(rng.uniform(0.9, 1.0))
    sizes = rng.permutation(PICTURES)
    pictures = np.empty((PICTURES, HEIGHT, WIDTH, 3), np.uint8)
    for j in range(PICTURES):
        image = appearance.background.copy()
        for lane in range(_LANES):
            x = (lane + 0.5) * _LANE_WIDTH + x_shift
            if (lane % 2 == 0) == appearance.beads_first:
                first = (bead_height[lane] + _SPACING * j / PICTURES) % _SPACING
                for y in np.arange(first - _SPACING, HEIGHT + _SPACING, _SPACING):
                    _draw(
                        image,
                        (y, x),
                        appearance.bead_size,
                        appearance.bead_norm,
                        appearance.bead_colour,
                    )
            else:
                smallest, largest = appearance.radii
                radius = smallest + (largest - smallest) * sizes[j] / (PICTURES - 1)
                for y in disc_height[lane]:
                    _draw(image, (y, x), radius, appearance.disc_norm, appearance.disc_colour)
        pictures[j] = np.rint(image * brightness)
    return Scene(
        pictures,
        sizes,
        first=int(rng.integers(PICTURES)),
        frames=int(rng.integers(frames[0], frames[1] + 1)),
    )


def _draw_appearance(rng: np.random.Generator) -> _Appearance:
    """Dark, textured background and bright objects, or all of it inverted."""
    coarse = rng.normal(0, 14, (7, 9))
    rows = np.linspace(0, 6, HEIGHT)
    columns = np.linspace(0, 8, WIDTH)
    texture = _interpolate(_interpolate(coarse, rows).T, columns).T
    background = rng.uniform(30, 90, 3) + texture[..., None] * rng.uniform(0.5, 1.0, 3)
    colours = rng.uniform(150, 240, (2, 3))
    invert = rng.random() < 0.5
    images = [np.clip(image, 0, 255) for image in (background, *colours)]
    images = [255 - image if invert else image for image in images]
    background, beads, discs = (image.astype(np.float32) for image in images)
    norms = rng.choice([1.0, 2.0, 8.0], 2)  # rhombus, disc, rounded square
    smallest = rng.uniform(6, 9)
    return _Appearance(
        background=background,
        bead_colour=beads,
        disc_colour=discs,
        bead_size=float(rng.uniform(11, 16)),
        bead_norm=float(norms[0]),
        disc_norm=float(norms[1]),
        radii=(float(smallest), float(smallest + rng.uniform(17, 21))),
        beads_first=bool(rng.random() < 0.5),
    )


def _interpolate(
    values: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Linear interpolation along the first axis."""
    below = np.minimum(at.astype(int), len(values) - 2)
    share = (at - below)[:, None]
    between: npt.NDArray[np.float64] = values[below] * (1 - share) + values[below + 1] * share
    return between


def _draw(
    image: _Image, centre: tuple[float, float], radius: float, norm: float, colour: _Image
) -> None:
    """Paint {|x|^norm + |y|^norm < radius^norm} with a soft edge of one pixel."""
    (y, x), reach = centre, radius + 1
    top, bottom = max(0, int(y - reach)), min(HEIGHT, int(y + reach) + 2)
    left, right = max(0, int(x - reach)), min(WIDTH, int(x + reach) + 2)
    if top >= bottom or left >= right:
        return
    rows = np.abs(np.arange(top, bottom) - y)[:, None]
    columns = np.abs(np.arange(left, right) - x)
    distance = (rows**norm + columns**norm) ** (1 / norm) - radius
    cover = np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]
    part = image[top:bottom, left:right]
    part += cover * (colour - part)
