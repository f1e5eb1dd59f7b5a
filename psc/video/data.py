"""Which videos there are and what for: UCF101's file names and official lists, and splits by group.

Soomro et al. 2012, "UCF101: A dataset of 101 human actions classes from videos in the wild". Clips
of one group were cut from the same recording. On a split at random a network recognises the
recording instead of the action, which is worth tens of points of accuracy; so a group is never in
two parts. The data set spells one class two ways (folder HandstandPushups, files
v_HandStandPushups_…), so names are compared without regard to case.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from psc.errors import ConfigError, DataError

SPLITS = (1, 2, 3)
"""Numbers of the official splits; the paper uses split 1."""

_NAME = re.compile(r"v_(?P<action>\w+?)_g(?P<group>\d+)_c(?P<clip>\d+)", re.ASCII)
_MOST_LISTED = 10


@dataclass(frozen=True)
class VideoName:
    """What the name ``v_<class>_g<group>_c<clip>.avi`` says."""

    action: str
    group: int
    clip: int


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
            listed = (
                v.name + (f" ({reasons[v.key]})" if v.key in reasons else "") for v in missing
            )
            raise DataError(
                f"{self.description}: {len(missing)} of {len(everything)} videos are missing:"
                f" {_first(listed)}. Prepare them (scripts/data.py ucf101 reports what it could not"
                " decode), or set dataset.allow_missing=true to go on without them"
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
    return _stem(name).casefold()


def parse_name(name: str) -> VideoName:
    """Class, group and clip of a video, from its file name."""
    match = _NAME.fullmatch(_stem(name))
    if match is None:
        raise DataError(
            f"{name}: the name must be v_<class>_g<group>_c<clip>.avi, for it alone tells the group"
        )
    return VideoName(match["action"], int(match["group"]), int(match["clip"]))


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of ``classInd.txt``, lines "<number from 1> <name>", in their order."""
    names: list[str] = []
    for number, line in _lines(path):
        index, _, name = line.partition(" ")
        if index != str(len(names) + 1) or not name.strip():
            raise DataError(
                f"{path}, line {number}: expected '{len(names) + 1} <class>', found {line!r};"
                " restore the official file"
            )
        names.append(name.strip())
    twice = [name for name, count in Counter(n.casefold() for n in names).items() if count > 1]
    if twice or not names:
        what = f"lists {twice[0]} twice" if twice else "lists no class"
        raise DataError(f"{path} {what}; restore the official file")
    return tuple(names)


def read_split(
    folder: Path, number: int, *, validation_groups: int = 2, seed: int = 0
) -> ActionSplit:
    """One of the three official splits, with a validation part carved from its training groups.

    Args:
        folder: has ``classInd.txt``, ``trainlist0N.txt`` and ``testlist0N.txt``.
        number: N.
        validation_groups: how many group numbers are held out of training, in all classes; chosen
            by ``seed``. Never single clips: they have their twins in their group. 0: none.
        seed: of that choice.

    Raises:
        ConfigError: a split that does not exist, or so many validation groups that none is left.
        DataError: lists that are missing, malformed, name a class that ``classInd.txt`` does not
            have, or have a group on both sides.
    """
    if number not in SPLITS:
        raise ConfigError(f"split must be one of {SPLITS}, found {number}")
    classes = read_classes(folder / "classInd.txt")
    listed = _read_list(folder / f"trainlist{number:02d}.txt", classes)
    test = _read_list(folder / f"testlist{number:02d}.txt", classes)
    groups = sorted({video.group for video in listed})
    if not 0 <= validation_groups < len(groups):
        raise ConfigError(
            f"validation_groups must be from 0 to {len(groups) - 1}, for split {number} trains on"
            f" {len(groups)} groups; found {validation_groups}"
        )
    chosen = np.random.default_rng(seed).permutation(groups)[:validation_groups]
    held_out = set(chosen.tolist())
    split = ActionSplit(
        classes,
        tuple(video for video in listed if video.group not in held_out),
        tuple(video for video in listed if video.group in held_out),
        test,
        description=f"split {number} of {folder.name}",
    )
    check_groups_apart(split)
    return split


def check_groups_apart(split: ActionSplit) -> None:
    """Refuse a split in which a group of a class, or a video, stands in two parts."""
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


def _read_list(path: Path, classes: Sequence[str]) -> tuple[ListedVideo, ...]:
    """Videos of a list whose lines are "<class>/<file>" and, when training, a class number."""
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    videos: dict[str, ListedVideo] = {}
    for line_number, line in _lines(path):
        where = f"{path}, line {line_number}"
        name, *rest = line.split()
        try:
            parsed = parse_name(name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        label = labels.get(parsed.action.casefold())
        if label is None:
            raise DataError(
                f"{where}: class {parsed.action!r} is not in {path.parent / 'classInd.txt'}; both"
                " must come from the same archive"
            )
        if rest and rest != [str(label + 1)]:
            raise DataError(
                f"{where}: {name} is given class {' '.join(rest)!r}, but classInd.txt numbers"
                f" {classes[label]} {label + 1}; both must come from the same archive"
            )
        video = ListedVideo(_stem(name), label, parsed.group)
        if video.key in videos:
            raise DataError(f"{where}: {name} is listed twice; restore the official file")
        videos[video.key] = video
    if not videos:
        raise DataError(f"{path} lists no video; restore the official file")
    return tuple(videos.values())


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, without empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); the split lists are in"
            " UCF101TrainTestSplits-RecognitionTask.zip (data/sources.yaml)"
        ) from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line]


def _stem(name: str) -> str:
    """A file's name without folder (of either system) and without .avi."""
    return re.sub(r"\.avi$", "", PurePosixPath(name.replace("\\", "/")).name, flags=re.IGNORECASE)


def _first(items: Iterable[str]) -> str:
    """The first ten, and how many more there are."""
    listed = list(items)
    more = len(listed) - _MOST_LISTED
    return ", ".join(listed[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
