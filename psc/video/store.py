"""The prepared store: every video decoded and resized once, for random access during training.

A folder with ``index.json``, which says what is where, and files of bare bytes (shards, of UCF101
one for each class), in which the videos lie one behind another, each uint8 (3, T, H, W): the order
that networks take, so a clip is three copies from a file that the system maps. UCF101 at 80 × 107
pixels: 64 GB.

Shards are only ever appended to, and bytes that the index does not name do not count. A video whose
file has changed is appended anew; its old frames stay behind, unused.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.files import reading, write_text
from psc.video.decoding import KERNEL

COLOURS = 3
_INDEX = "index.json"


@dataclass(frozen=True)
class PreparationSettings:
    """What the frames of a store depend on, besides the videos."""

    short_side: int = 80  # pixels; the other side keeps the aspect: 320×240 become 107×80
    size: tuple[int, int] | None = None  # (height, width), aspect kept or not, overrides it
    kernel: str = KERNEL  # that frames are resized with
    version: int = 1  # raised whenever the same videos give other frames

    def __post_init__(self) -> None:
        if self.short_side < 1 or (self.size is not None and min(self.size) < 1):
            raise ConfigError(
                f"short_side and size must be positive pixels, found {self.short_side} and"
                f" {self.size}"
            )

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a frame of the given size is resized to."""
        if self.size is not None:
            return self.size
        scale = self.short_side / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def differences(self, other: "PreparationSettings") -> str:
        """What differs, in words; empty if nothing does."""
        mine, others = (
            asdict(s) | ({} if s.size is None else {"short_side": None}) for s in (self, other)
        )
        return ", ".join(
            f"{name} is {mine[name]}, not {others[name]}"
            for name in mine
            if mine[name] != others[name]
        )


@dataclass(frozen=True)
class PreparedVideo:
    """A video of a store: its frames and where they are, its source and that one's hash.

    ``action`` names the shard, ``offset`` is that of the first byte in it; ``concealed`` frames
    show the picture before them again, ``unmeasured``: see ``psc.video.decoding.Video``.
    """

    action: str
    frames: int
    height: int
    width: int
    fps: float
    concealed: int
    source: str
    sha256: str
    offset: int
    unmeasured: bool = False

    @property
    def end(self) -> int:
        """Where in the shard the next video begins."""
        return self.offset + COLOURS * self.frames * self.height * self.width


@dataclass(frozen=True)
class UnreadableVideo:
    """A file that could not be prepared, and why."""

    source: str
    sha256: str
    reason: str


_Entry = TypeVar("_Entry", PreparedVideo, UnreadableVideo)


@dataclass
class Index:
    """What a store says of itself; videos by key (``psc.video.data.video_key``)."""

    settings: PreparationSettings
    synthetic: bool
    videos: dict[str, PreparedVideo] = field(default_factory=dict)
    unreadable: dict[str, UnreadableVideo] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the store's index."""
        write_text(json.dumps(asdict(self), indent=0), folder / _INDEX)

    def lost(self, folder: Path) -> list[str]:
        """Keys of videos whose frames are not all there."""
        sizes = {path.stem: path.stat().st_size for path in folder.glob("*.u8")}
        return [key for key, v in self.videos.items() if sizes.get(v.action, 0) < v.end]


def shard_path(folder: Path, action: str) -> Path:
    """The file of a class."""
    return folder / f"{action}.u8"


def read_index(folder: Path, wanted: PreparationSettings | None = None) -> Index | None:
    """The store's index, None where there is none; other settings than ``wanted`` are refused."""
    path = folder / _INDEX
    if not path.exists():
        if any(folder.glob("*.h5")):
            raise DataError(
                f"{folder} holds videos that an earlier version prepared, one .h5 file a class,"
                " which are not read any more; delete it and run: python scripts/data.py ucf101"
            )
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        settings, size = values["settings"], values["settings"]["size"]
        index = Index(
            PreparationSettings(**(settings | {"size": tuple(size) if size else None})),
            bool(values["synthetic"]),
            {key: _entry(PreparedVideo, v) for key, v in values["videos"].items()},
            {key: _entry(UnreadableVideo, v) for key, v in values["unreadable"].items()},
        )
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete {folder} and run: python scripts/data.py ucf101"
        ) from error
    if differences := index.settings.differences(wanted or index.settings):
        raise DataError(
            f"{folder} was prepared with other settings: {differences}. Ask for those, prepare into"
            " another folder, or delete this one and prepare it anew"
        )
    return index


def _entry(kind: type[_Entry], values: dict[str, Any]) -> _Entry:
    """An entry of the index, whose values JSON may give any type; earlier ones said more."""
    entry = kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})
    for name, value in vars(entry).items():
        declared = kind.__annotations__[name]
        if type(value) is not declared and (declared, type(value)) != (float, int):
            raise ValueError(f"{name} of a video is {value!r}")
    if isinstance(entry, PreparedVideo) and (
        min(entry.frames, entry.height, entry.width) < 1 or entry.offset < 0
    ):
        raise ValueError(f"{entry.source} is said to have no frame")
    return entry


class Frames(Protocol):
    """What clips are cut from: videos by key, and their frames, uint8 (3, T, H, W)."""

    @property
    def videos(self) -> Mapping[str, PreparedVideo]:
        """By key."""

    def read(self, key: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Frames ``start`` to ``stop`` - 1."""


class PreparedVideos:
    """A store, open for reading: ``videos`` and files that were ``unreadable``, both by key.

    Files are mapped when first read from, so that an object may be handed to a loader's workers.
    Refused if it was prepared with other ``settings``; None takes any.
    """

    def __init__(self, folder: Path, settings: PreparationSettings | None = None) -> None:
        index = read_index(folder, settings)
        if index is None:
            option = f" --short-side {settings.short_side}" if settings else ""
            raise DataError(
                f"{folder} holds no prepared videos; run: python scripts/data.py ucf101 VIDEOS"
                f" --output {folder}{option}"
            )
        if lost := index.lost(folder):
            raise DataError(
                f"{folder} does not hold all frames of {len(lost)} videos that it lists, the first"
                f" is {lost[0]}; prepare again: that makes anew what is lost"
            )
        self.folder, self.settings, self.synthetic = folder, index.settings, index.synthetic
        self.videos, self.unreadable = index.videos, index.unreadable
        self._mapped: dict[str, npt.NDArray[np.uint8]] = {}

    def read(self, key: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Frames ``start`` to ``stop`` - 1 of a video: uint8 (3, stop - start, H, W), a copy."""
        video = self.videos[key]
        if not 0 <= start < stop <= video.frames:
            raise IndexError(f"{key}: frames {start} to {stop} of {video.frames}")
        if video.action not in self._mapped:
            path = shard_path(self.folder, video.action)
            with reading(path):
                self._mapped[video.action] = np.asarray(np.memmap(path, np.uint8, "r"))
        stored = self._mapped[video.action][video.offset : video.end]
        return stored.reshape(COLOURS, -1, video.height, video.width)[:, start:stop].copy()

    def record(self, only: Collection[str] | None = None) -> dict[str, Any]:
        """What result.json says about the store, or some of its videos; the hash stands for all."""
        videos = {k: v for k, v in sorted(self.videos.items()) if only is None or k in only}
        contents = {key: (video.sha256, video.frames) for key, video in videos.items()}
        text = json.dumps([asdict(self.settings), contents])
        return {
            "settings": asdict(self.settings),
            "synthetic": self.synthetic,
            "videos": len(videos),
            "frames": sum(video.frames for video in videos.values()),
            "concealed_frames": sum(video.concealed for video in videos.values()),
            "unreadable": len(self.unreadable),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}
