"""A stand-in for UCF101: encoded films in its folders and lists, of classes that only motion tells.

For tests, demonstrations and first runs. The films are MPEG-4 in AVI, 320×240 pixels, 25 frames per
second, with B-frames, like UCF101's, and go through the same preparation. They are no data: results
on them are never results of the paper, and their folder says so (``SYNTHETIC_MARKER``).
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.video.store import SYNTHETIC_MARKER

# ----------------------------------------
# Films whose classes differ in nothing but the order of their pictures.
#
# Every scene is a set of 16 pictures, and a film shows them over and over. Beads stand at another
# height in each picture, discs have another size. In which order the pictures come is the class: if
# the beads are to rise, the sizes of the discs come in disorder, and the other way round. So any 16
# consecutive frames hold the same 16 pictures whatever the class: neither a single frame nor any
# number of frames in disorder can tell it.
#
# Mirroring a film left to right does not change its class: random flips are allowed in training.


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


VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
"""Folders that UCF101's two archives unpack to."""

FPS = 25
_VERSION = 1  # of the generator: raise it whenever the same arguments give other films
_TEST_SHARE = 7 / 25  # of the groups, as in UCF101
_SPLITS = 3
_QUANTISER = 2


@dataclass(frozen=True)
class SyntheticVideos:
    """What to generate.

    Attributes:
        seed: of everything.
        groups: per class; each has an appearance of its own, the same in all classes.
        clips: per group and class.
        frames: shortest and longest film.

    Raises:
        ConfigError: a number that is too small; three splits need four groups.
    """

    seed: int = 0
    groups: int = 25
    clips: int = 2
    frames: tuple[int, int] = (64, 96)

    def __post_init__(self) -> None:
        shortest, longest = self.frames
        if self.seed < 0 or self.groups < _SPLITS + 1 or self.clips < 1:
            raise ConfigError(
                f"need seed >= 0, groups >= {_SPLITS + 1} and clips >= 1, found {self.seed},"
                f" {self.groups} and {self.clips}"
            )
        if not 1 <= shortest <= longest:
            raise ConfigError(f"frames must be an increasing range, found {self.frames}")

    def test_groups(self, split: int) -> range:
        """Groups that split 1, 2 or 3 tests on: the first, the next, the next but one seventh."""
        count = max(1, round(self.groups * _TEST_SHARE))
        return range((split - 1) * count + 1, split * count + 1)


def write_synthetic_videos(folder: Path, videos: SyntheticVideos | None = None) -> bool:
    """Write films and split lists, unless they are there already.

    Everything appears at once, when it is complete: ``UCF-101/<class>/v_<class>_g<group>_c<clip>
    .avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``.

    Args:
        folder: to write; must not be there, or be what an earlier call wrote.
        videos: None: the defaults (6 classes × 25 groups × 2 clips).

    Returns:
        True if it was written, False if it was there, from the same arguments and version.

    Raises:
        ConfigError: the folder holds something else; it is not overwritten.
        DataError: it cannot be written.
    """
    videos = videos or SyntheticVideos()
    description = {"version": _VERSION, **json.loads(json.dumps(asdict(videos)))}
    if folder.exists():
        if _description(folder) == description:
            return False
        raise ConfigError(
            f"{folder} holds something else than the synthetic videos asked for ({description});"
            " it is not overwritten: choose another folder or move it away"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _write_films(temporary / VIDEOS, videos)
        _write_lists(temporary / LISTS, videos)
        (temporary / VIDEOS / SYNTHETIC_MARKER).write_text(json.dumps(description))
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}); make room, run again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def write_avi(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Encode frames as UCF101's are: MPEG-4 (XviD) in AVI, 25 per second, with B-frames.

    Args:
        path: file to write; its folder is made.
        frames: uint8 (T, H, W, 3), RGB.

    Raises:
        OSError: it cannot be written.
    """
    import av  # here: it is large, and only this function needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(FPS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.codec_tag = "XVID"
        context.max_b_frames, context.gop_size = 2, 48
        context.thread_count = 1  # the same bytes on every machine
        # A fixed, fine quantiser: with a bit rate to keep, faster motion would look coarser.
        context.qmin = context.qmax = _QUANTISER
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _write_films(folder: Path, videos: SyntheticVideos) -> None:
    for group in range(1, videos.groups + 1):
        for clip in range(1, videos.clips + 1):
            scene = draw_scene(videos.seed, group, clip, videos.frames)
            for action in CLASSES:
                path = folder / action / f"{_name(action, group, clip)}.avi"
                write_avi(path, film(scene, action))


def film(scene: Scene, action: str) -> npt.NDArray[np.uint8]:
    """Frames of a film, uint8 (T, H, W, 3)."""
    return scene.pictures[scene.order(action)]


def _write_lists(folder: Path, videos: SyntheticVideos) -> None:
    """Lists in UCF101's form: training lines end with the number of the class, from 1."""
    folder.mkdir(parents=True)
    numbered = list(enumerate(CLASSES, 1))
    _write_lines(folder / "classInd.txt", [f"{number} {action}" for number, action in numbered])
    for split in range(1, _SPLITS + 1):
        train, test = [], []
        for number, action in numbered:
            for group in range(1, videos.groups + 1):
                for clip in range(1, videos.clips + 1):
                    line = f"{action}/{_name(action, group, clip)}.avi"
                    if group in videos.test_groups(split):
                        test.append(line)
                    else:
                        train.append(f"{line} {number}")
        _write_lines(folder / f"trainlist{split:02d}.txt", train)
        _write_lines(folder / f"testlist{split:02d}.txt", test)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _name(action: str, group: int, clip: int) -> str:
    return f"v_{action}_g{group:02d}_c{clip:02d}"


def _description(folder: Path) -> object:
    """What an existing folder says it was made from; None if it says nothing."""
    try:
        return json.loads((folder / VIDEOS / SYNTHETIC_MARKER).read_text())
    except (OSError, ValueError):
        return None
