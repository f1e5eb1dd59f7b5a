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

from psc.datasets.moving_pictures import CLASSES, Scene, draw_scene
from psc.datasets.video_preparation import SYNTHETIC_MARKER
from psc.errors import ConfigError, DataError

__all__ = ["LISTS", "VIDEOS", "SyntheticVideos", "film", "write_avi", "write_synthetic_videos"]

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
