"""What a prepared store says of itself: settings, videos, and files that could not be prepared."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from psc.datasets.action_split import video_key
from psc.datasets.video_decoding import KERNEL
from psc.errors import ConfigError, DataError

__all__ = [
    "FRAMES",
    "MANIFEST",
    "Manifest",
    "PreparationSettings",
    "PreparedVideo",
    "UnreadableVideo",
    "check_settings",
    "read_manifest",
    "shard_path",
]

FRAMES, MANIFEST = "frames", "manifest"
"""Names within a shard: group of the videos' frames, and text of the manifest."""


@dataclass(frozen=True)
class PreparationSettings:
    """What the frames of a store depend on, besides the videos.

    Attributes:
        short_side: pixels of a frame's shorter side; the other keeps the aspect (80: 320×240 become
            107×80).
        size: (height, width) in pixels, aspect kept or not; overrides ``short_side``.
        kernel: that frames are resized with.
        version: of the preparation: raised whenever the same videos give other frames.

    Raises:
        ConfigError: a size below 1.
    """

    short_side: int = 80
    size: tuple[int, int] | None = None
    kernel: str = KERNEL
    version: int = 1

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
        mine, others = self._effective(), other._effective()
        return ", ".join(
            f"{name} is {mine[name]}, not {others[name]}"
            for name in mine
            if mine[name] != others[name]
        )

    def _effective(self) -> dict[str, Any]:
        values = asdict(self)
        if self.size is not None:
            values["short_side"] = None  # it has no effect then
        return values


@dataclass(frozen=True)
class PreparedVideo:
    """A video of a store: what its name says, its size in frames and pixels, its source's hash."""

    name: str
    action: str
    group: int
    clip: int
    frames: int
    height: int
    width: int
    fps: float
    source: str
    sha256: str

    @property
    def key(self) -> str:
        """Its name in the store."""
        return video_key(self.name)


@dataclass(frozen=True)
class UnreadableVideo:
    """A file that could not be prepared, and why."""

    name: str
    source: str
    sha256: str
    reason: str

    @property
    def key(self) -> str:
        """The name that it would have in the store."""
        return video_key(self.name)


@dataclass(frozen=True)
class Manifest:
    """What a shard says of itself."""

    settings: PreparationSettings
    synthetic: bool
    videos: tuple[PreparedVideo, ...]
    unreadable: tuple[UnreadableVideo, ...]

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """From ``to_json``.

        Raises:
            ValueError, KeyError, TypeError: it is not.
        """
        values = json.loads(text)
        settings = values["settings"]
        size = settings["size"]
        return cls(
            PreparationSettings(**(settings | {"size": tuple(size) if size else None})),
            bool(values["synthetic"]),
            tuple(PreparedVideo(**video) for video in values["videos"]),
            tuple(UnreadableVideo(**video) for video in values["unreadable"]),
        )


def shard_path(folder: Path, action: str) -> Path:
    """The file that holds a class."""
    return folder / f"{action}.h5"


def read_manifest(path: Path) -> Manifest:
    """What a shard says of itself.

    Raises:
        DataError: it is no shard, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return Manifest.from_json(file[MANIFEST].asstr()[()])
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path} is no shard of prepared videos, or damaged ({error}); delete it and run"
            " scripts/prepare_ucf101.py again"
        ) from error


def check_settings(path: Path, found: PreparationSettings, wanted: PreparationSettings) -> None:
    """Refuse a shard that was prepared with other settings.

    Raises:
        DataError: saying which.
    """
    differences = found.differences(wanted)
    if differences:
        raise DataError(
            f"{path} was prepared with other settings: {differences}. Ask for those, prepare into"
            f" another folder, or delete {path.parent} and prepare it anew"
        )
