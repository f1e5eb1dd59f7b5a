"""UCF101's file names and official split lists.

Soomro et al. 2012, "UCF101: A dataset of 101 human actions classes from videos in the wild". The
data set spells one class two ways (folder HandstandPushups, files v_HandStandPushups_…), so names
are compared without regard to case.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from psc.errors import ConfigError, DataError
from psc.video.manifest import ActionSplit, ListedVideo, check_groups_apart

SPLITS = (1, 2, 3)
"""Numbers of the official splits; the paper uses split 1."""

_NAME = re.compile(r"v_(?P<action>\w+?)_g(?P<group>\d+)_c(?P<clip>\d+)", re.ASCII)


@dataclass(frozen=True)
class VideoName:
    """What the name ``v_<class>_g<group>_c<clip>.avi`` says."""

    action: str
    group: int
    clip: int


def parse_name(name: str) -> VideoName:
    """Class, group and clip of a video, from its file name.

    Raises:
        DataError: the name is not of UCF101's form.
    """
    match = _NAME.fullmatch(_stem(name))
    if match is None:
        raise DataError(
            f"{name}: the name must be v_<class>_g<group>_c<clip>.avi, for it alone tells the group"
        )
    return VideoName(match["action"], int(match["group"]), int(match["clip"]))


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of ``classInd.txt``, lines "<number from 1> <name>", in their order.

    Raises:
        DataError: the file is missing, a line is not of that form, or numbers or names are not
            1, 2, 3, … and all different.
    """
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
    return re.sub(r"\.avi$", "", PurePosixPath(name).name, flags=re.IGNORECASE)
