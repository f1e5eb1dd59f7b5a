"""What a prepared store says of itself: settings, videos, and files that could not be prepared."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from psc.errors import ConfigError, DataError
from psc.video.decoding import KERNEL

# ----------------------------------------
# Which videos train, which choose, which test, and a guard against recordings on both sides.
#
# Clips of one group were cut from the same recording. On a split at random a network recognises the
# recording instead of the action, which is worth tens of points of accuracy.


_MOST_LISTED = 10


@dataclass(frozen=True)
class ListedVideo:
    """A video of a split: file name without ending, as listed; class (from 0) and group."""

    name: str
    label: int
    group: int

    @property
    def key(self) -> str:
        """Name of the video in a prepared store."""
        return video_key(self.name)


@dataclass(frozen=True)
class ActionSplit:
    """Videos to train on, to choose on and to test on.

    Attributes:
        classes: names; a label is a position in it.
        train: videos for gradient steps.
        validation: videos of training groups that are held out.
        test: videos for the reported numbers.
        missing: names of listed videos that were left out because they are not at hand.
        description: where the split comes from, for a record.
    """

    classes: tuple[str, ...]
    train: tuple[ListedVideo, ...]
    validation: tuple[ListedVideo, ...]
    test: tuple[ListedVideo, ...]
    missing: tuple[str, ...] = ()
    description: str = ""

    @property
    def parts(self) -> dict[str, tuple[ListedVideo, ...]]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def record(self) -> dict[str, Any]:
        """What result.json says about the split."""
        return {
            "split": self.description,
            "classes": len(self.classes),
            "videos": {name: len(part) for name, part in self.parts.items()},
            "validation_groups": sorted({video.group for video in self.validation}),
            "missing_videos": len(self.missing),
        }

    def only_present(
        self,
        available: Collection[str],
        *,
        allow_missing: bool,
        unreadable: Mapping[str, str] | None = None,
    ) -> "ActionSplit":
        """The split without the videos that are not at hand.

        Args:
            available: keys of the videos at hand (``PreparedVideos.videos``).
            allow_missing: whether to go on without the others.
            unreadable: why some are not: reasons by key (``PreparedVideos.unreadable``).

        Raises:
            DataError: videos are missing and may not be, or nothing remains to train or test on.
        """
        reasons = unreadable or {}
        everything = [video for part in self.parts.values() for video in part]
        missing = [video for video in everything if video.key not in available]
        if missing and not allow_missing:
            listed = [
                v.name + (f" ({reasons[v.key]})" if v.key in reasons else "") for v in missing
            ]
            raise DataError(
                f"{self.description}: {len(missing)} of {len(everything)} videos are missing:"
                f" {_first(listed)}. Prepare them (scripts/prepare_ucf101.py reports what it could"
                " not decode), or set allow_missing=true to go on without them"
            )
        kept = {
            name: tuple(video for video in part if video.key in available)
            for name, part in self.parts.items()
        }
        for name in ("train", "test"):
            if not kept[name]:
                raise DataError(
                    f"{self.description}: none of the {name} videos is at hand"
                    f" ({len(self.parts[name])} are listed); prepare the data set first"
                )
        gone = tuple(video.name for video in missing)
        return replace(self._with(kept), missing=(*self.missing, *gone))

    def only_shared_classes(self) -> "ActionSplit":
        """Only the classes that are both trained and tested, with labels counted anew from 0.

        For a part of the data set: a class that stands on one side only teaches nothing.

        Raises:
            DataError: no class stands on both sides.
        """
        shared = sorted({v.label for v in self.train} & {v.label for v in self.test})
        if not shared:
            raise DataError(f"{self.description}: no class has both training and test videos")
        labels = {old: new for new, old in enumerate(shared)}
        kept = {
            name: tuple(replace(v, label=labels[v.label]) for v in part if v.label in labels)
            for name, part in self.parts.items()
        }
        return replace(self._with(kept), classes=tuple(self.classes[old] for old in shared))

    def _with(self, parts: Mapping[str, tuple[ListedVideo, ...]]) -> "ActionSplit":
        train, validation, test = (parts[name] for name in self.parts)
        return replace(self, train=train, validation=validation, test=test)


def video_key(name: str) -> str:
    """What identifies a video in lists, folders and stores: its file name, no folder, no case."""
    return PurePosixPath(name.replace("\\", "/")).name.casefold().removesuffix(".avi")


def check_groups_apart(split: ActionSplit) -> None:
    """Refuse a split in which a group of a class, or a video, stands in two parts.

    Raises:
        DataError: naming the first ten.
    """
    seen: dict[tuple[int, int], str] = {}
    shared: dict[str, None] = {}  # a set that keeps the order
    for name, part in split.parts.items():
        for video in part:
            before = seen.setdefault((video.label, video.group), name)
            if before != name:
                group = f"{split.classes[video.label]} group {video.group} ({before}, {name})"
                shared[group] = None
    if shared:
        raise DataError(
            f"{split.description}: {len(shared)} groups stand on both sides: {_first(shared)}."
            " Clips of a group are cut from one recording, so the result would be worthless; use"
            " the official lists"
        )


def _first(items: Iterable[str]) -> str:
    """The first ten, and how many more there are."""
    listed = list(items)
    more = len(listed) - _MOST_LISTED
    return ", ".join(listed[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


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
