"""A stand-in for UCF101: encoded films in its folders and lists, of classes that only motion tells.

For tests, demonstrations and first runs. The films are MPEG-4 in AVI with B-frames, as UCF101's,
and go through the same preparation. They are no data: results on them are never results of the
paper, and their folder says so (``SYNTHETIC_MARKER``).

A film shows a texture, a sum of plane waves, that moves, grows, turns, or does so to and fro. To
move a texture is to shift the phases of its waves, to enlarge or turn it is to shorten or turn
their wave vectors. A group has colours and wavelengths of its own, the same in all classes; every
clip has other waves. So a frame shows a patch of texture, and hardly tells the class. Mirroring a
film left to right does not change its class: random flips are allowed in training.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError
from psc.files import generate
from psc.video.data import SPLITS
from psc.video.preparation import SYNTHETIC_MARKER
from psc.video.settings import SyntheticVideosConfig

HEIGHT, WIDTH = 120, 160
PERIOD = 16
"""Frames after which a motion to and fro, or growth, begins anew."""

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
"""Folders that UCF101's two archives unpack to."""

_VERSION = 2  # of the generator: raise it whenever the same arguments give other films
_WAVES = 12
_QUANTISER = 2


_COURSES: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "on": lambda time: time,
    "again": lambda time: time / PERIOD % 1,
    "again, backwards": lambda time: -time / PERIOD % 1,
    "to and fro": lambda time: 1 - np.abs(2 * (time / PERIOD % 1) - 1),
}
"""From a frame's number to how much of a motion is done."""

_MOTIONS = {
    "Bobbing": ("to and fro", 0, 40, 0, 0),
    "Growing": ("again", 0, 0, 1, 0),
    "Passing": ("on", 4, 0, 0, 0),
    "Pulsing": ("to and fro", 0, 0, 1, 0),
    "Rising": ("on", 0, -4, 0, 0),
    "Shrinking": ("again, backwards", 0, 0, 1, 0),
    "Sinking": ("on", 0, 4, 0, 0),
    "Swaying": ("to and fro", 40, 0, 0, 0),
    "Swinging": ("to and fro", 0, 0, 0, 1 / 4),
    "Turning": ("on", 0, 0, 0, 1 / 40),
}
"""Class → course, and how far it goes: pixels right, pixels down, octaves larger, turns."""

CLASSES = tuple(_MOTIONS)


def write_synthetic_videos(
    folder: Path, videos: SyntheticVideosConfig, frames: tuple[int, int] = (64, 96)
) -> bool:
    """Write films and split lists, unless they are there already, from the same arguments.

    Everything appears at once, when it is complete: ``UCF-101/<class>/v_<class>_g<group>_c<clip>
    .avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``. ``frames``: of the
    shortest and of the longest film. Returns whether it was written.
    """

    def make(temporary: Path) -> None:
        groups, clips = range(1, videos.groups + 1), range(1, videos.clips + 1)
        names = list(product(CLASSES, groups, clips))
        for action, group, clip in names:
            film = draw_film(action, videos.seed, group, clip, frames)
            write_avi(temporary / VIDEOS / _path(action, group, clip), film)
        _write_lists(temporary / LISTS, names, videos.groups)

    described = {"version": _VERSION, **asdict(videos), "frames": frames}
    return generate(folder, described, f"{VIDEOS}/{SYNTHETIC_MARKER}", make)


def draw_film(
    action: str, seed: int, group: int, clip: int, frames: tuple[int, int] = (64, 96)
) -> npt.NDArray[np.uint8]:
    """The frames of a film, uint8 (T, H, W, 3), a function of its arguments alone.

    Films of a group have colours and wavelengths in common; those of a clip are equally long.
    """
    if action not in _MOTIONS:
        raise ConfigError(f"class must be one of {', '.join(CLASSES)}, found {action!r}")
    course, right, down, growth, turn = _MOTIONS[action]
    look = np.random.default_rng([seed, group, 1])
    dark, bright = look.uniform(10, 110, 3), look.uniform(140, 245, 3)
    wavelength = look.uniform(35, 60)  # pixels
    length = int(np.random.default_rng([seed, group, clip, 2]).integers(frames[0], frames[1] + 1))
    rng = np.random.default_rng([seed, group, clip, CLASSES.index(action), 3])
    direction, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
    waves = np.exp(1j * direction) * 2 * np.pi / (wavelength * rng.uniform(0.8, 1.25, _WAVES))
    side = rng.choice([-1, 1])  # left or right; clockwise or not
    done = _COURSES[course](rng.uniform(0, PERIOD) + np.arange(length, dtype=np.float64))

    pictures = np.empty((length, HEIGHT, WIDTH, 3), np.uint8)
    x, y = np.arange(WIDTH) - WIDTH / 2, np.arange(HEIGHT) - HEIGHT / 2
    for picture, d in zip(pictures, done, strict=True):
        # A complex number is a wave vector (x + iy); a factor enlarges and turns the texture.
        w = waves * 2 ** (-growth * d) * np.exp(2j * np.pi * side * turn * d)
        shift = w.real * side * right * d + w.imag * down * d
        across, along = np.exp(1j * np.outer(w.real, x)), np.exp(1j * np.outer(w.imag, y))
        value = ((along * np.exp(1j * (phase - shift))[:, None]).T @ across).real
        share = 0.5 + 0.5 * np.tanh(value / np.sqrt(_WAVES / 2))
        picture[:] = np.rint(dark + share[..., None] * (bright - dark))
    return pictures


def write_avi(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Encode frames, uint8 (T, H, W, 3), as UCF101's are: MPEG-4 (XviD) in AVI, with B-frames."""
    import av  # here: it is large, and only this function needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
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


def test_groups(groups: int, split: int) -> range:
    """Those that a split tests on: 1 the first 7 of 25, as in UCF101, 2 the next, 3 the next."""
    count = max(1, round(groups * 7 / 25))
    return range((split - 1) * count + 1, split * count + 1)


def _path(action: str, group: int, clip: int) -> str:
    return f"{action}/v_{action}_g{group:02d}_c{clip:02d}.avi"


def _write_lists(folder: Path, clips: list[tuple[str, int, int]], groups: int) -> None:
    """Lists in UCF101's form: training lines end with the number of the class, from 1."""
    numbers = {action: number for number, action in enumerate(CLASSES, 1)}
    lines = {"classInd.txt": [f"{number} {action}" for action, number in numbers.items()]}
    for split in SPLITS:
        tested = test_groups(groups, split)
        lines[f"trainlist{split:02d}.txt"] = [
            f"{_path(*clip)} {numbers[clip[0]]}" for clip in clips if clip[1] not in tested
        ]
        lines[f"testlist{split:02d}.txt"] = [_path(*clip) for clip in clips if clip[1] in tested]
    folder.mkdir(parents=True)
    for name, listed in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in listed))
