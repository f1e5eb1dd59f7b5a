"""UCF101's file names and official lists (Soomro et al. 2012), and splits that keep groups apart.

Clips of one group were cut from the same recording. On a split at random a network recognises the
recording instead of the action, which is worth tens of points of accuracy. The data set spells one
class two ways (HandstandPushups, v_HandStandPushups_…), so names are compared without their case.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from psc.errors import ConfigError, DataError, first_of
from psc.files import reading

SPLITS = (1, 2, 3)
"""Numbers of the official splits; the paper uses split 1."""

_NAME = re.compile(r"v_(?P<action>\w+?)_g(?P<group>\d+)_c(?P<clip>\d+)", re.ASCII)


class VideoName(NamedTuple):
    """What the name ``v_<class>_g<group>_c<clip>.avi`` says."""

    action: str
    group: int
    clip: int


@dataclass(frozen=True)
class ListedVideo:
    """A video of a list: its file name without ending, class (from 0) and group.

    One of a user's own has a ``path``, and a name that tells folders and endings apart.
    """

    name: str
    label: int
    group: int | str
    path: Path | None = None

    @property
    def key(self) -> str:
        """Name of the video in a prepared store."""
        return video_key(self.name) if self.path is None else self.name


@dataclass(frozen=True)
class ActionSplit:
    """Videos to train on, to choose on (of training groups that are held out) and to test on.

    A label is a position in ``classes``; ``missing`` are the names of listed videos that were left
    out because they are not at hand; ``description`` says where the split comes from.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, tuple[ListedVideo, ...]]
    missing: tuple[str, ...] = ()
    description: str = ""

    def record(self) -> dict[str, Any]:
        """What result.json says about the split."""
        return {
            "split": self.description,
            "classes": len(self.classes),
            "videos": {name: len(part) for name, part in self.parts.items()},
            "validation_groups": sorted(
                {v.group for v in self.parts["validation"] if isinstance(v.group, int)}
            ),
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

        Refused if they may not be missing, or if nothing remains to train or test on. Both
        arguments are by key: of the videos at hand, and why others are ``unreadable``.
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
                f" {first_of(listed)}. Prepare them (scripts/data.py ucf101 reports what it could"
                " not decode), or set dataset.allow_missing=true to go on without them"
            )
        kept = self._map(lambda video: video if video.key in available else None)
        for name in ("train", "test"):
            if self.parts[name] and not kept.parts[name]:
                raise DataError(
                    f"{self.description}: none of the {name} videos is at hand and readable"
                    f" ({len(self.parts[name])} are listed); prepare the data set first"
                )
        return replace(kept, missing=(*self.missing, *(video.name for video in missing)))

    def only_shared_classes(self) -> "ActionSplit":
        """Only the classes that are both trained and tested, with labels counted anew from 0.

        For a part of the data set: a class that stands on one side only teaches nothing.
        """
        trained, tested = ({v.label for v in self.parts[name]} for name in ("train", "test"))
        shared = sorted(trained & tested)
        if not shared:
            raise DataError(f"{self.description}: no class has both training and test videos")
        labels = {old: new for new, old in enumerate(shared)}
        kept = self._map(lambda v: replace(v, label=labels[v.label]) if v.label in labels else None)
        return replace(kept, classes=tuple(self.classes[old] for old in shared))

    def _map(self, change: Callable[[ListedVideo], ListedVideo | None]) -> "ActionSplit":
        """Every video changed, or left out."""
        parts = {
            name: tuple(new for video in part if (new := change(video)) is not None)
            for name, part in self.parts.items()
        }
        return replace(self, parts=parts)


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
    """Official split N of classInd.txt, trainlist0N.txt and testlist0N.txt, and a validation part.

    That is of so many group numbers, in all classes, held out of training, chosen by ``seed``.
    Never single clips: they have their twins in their group.
    """
    if number not in SPLITS:
        raise ConfigError(f"split must be one of {SPLITS}, found {number}")
    classes = read_classes(folder / "classInd.txt")
    listed = _read_list(folder / f"trainlist{number:02d}.txt", classes)
    test = _read_list(folder / f"testlist{number:02d}.txt", classes)
    groups = sorted({int(video.group) for video in listed})
    if not 0 <= validation_groups < len(groups):
        raise ConfigError(
            f"validation_groups must be from 0 to {len(groups) - 1}, for split {number} trains on"
            f" {len(groups)} groups; found {validation_groups}"
        )
    chosen = np.random.default_rng(seed).permutation(groups)[:validation_groups]
    held_out = set(chosen.tolist())
    parts = {
        "train": tuple(video for video in listed if video.group not in held_out),
        "validation": tuple(video for video in listed if video.group in held_out),
        "test": test,
    }
    split = ActionSplit(classes, parts, description=f"split {number} of {folder.name}")
    check_groups_apart(split)
    return split


def check_groups_apart(split: ActionSplit) -> None:
    """Refuse a split in which a group, or a video, stands in two parts."""
    seen: dict[tuple[str, int | str], str] = {}
    shared = []
    for name, part in split.parts.items():
        # UCF101 numbers the groups of each class anew; a user's is one person in all classes.
        groups = {(split.classes[v.label] if v.path is None else "", v.group) for v in part}
        for of, group in sorted(groups):  # a data set's groups are all numbers or all text
            before = seen.setdefault((of, group), name)
            if before != name:
                shared.append(f"{of} group {group} ({before}, {name})".strip())
    if shared:
        raise DataError(
            f"{split.description}: {len(shared)} groups stand on both sides: {first_of(shared)}."
            " Clips of a group are cut from one recording, so the result would be worthless; keep"
            " each in one part, as the official lists do"
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
        label = labels.get(parsed.action.casefold(), -1)
        video, problem = ListedVideo(_stem(name), label, parsed.group), None
        if label < 0:
            problem = f"class {parsed.action!r} is not in {path.parent / 'classInd.txt'}"
        elif rest and rest != [str(label + 1)]:
            number = f"classInd.txt numbers {classes[label]} {label + 1}"
            problem = f"{name} is given class {' '.join(rest)!r}, but {number}"
        elif video.key in videos:
            problem = f"{name} is listed twice"
        if problem:
            raise DataError(f"{where}: {problem}; restore the official lists, all of one archive")
        videos[video.key] = video
    if not videos:
        raise DataError(f"{path} lists no video; restore the official file")
    return tuple(videos.values())


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, without empty ones."""
    archive = "UCF101TrainTestSplits-RecognitionTask.zip"
    with reading(path, f"the split lists are in {archive} (data/sources.yaml)"):
        text = path.read_text(encoding="utf-8-sig")
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line]


def _stem(name: str) -> str:
    """A file's name without folder (of either system) and without .avi."""
    return re.sub(r"\.avi$", "", PurePosixPath(name.replace("\\", "/")).name, flags=re.IGNORECASE)
