"""Clips of one's own: in a folder for each class, or listed by a CSV; and their split into parts.

A folder holds one for each class, or ``train``, ``val`` and ``test`` that do. A CSV has a header
with ``path`` and ``label``, perhaps ``group`` (what was recorded together) and ``part``; or it is
of Kinetics (Kay et al. 2017) with ``label``, ``youtube_id``, ``time_start``, ``time_end`` and
perhaps ``split``, whose clips are named ``<youtube_id>_<start>_<end>`` with six digits each.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from psc.errors import DataError, first_of
from psc.files import entries, files_below, locate, nearest, reading
from psc.training.settings import PARTS
from psc.video.data import ActionSplit, ListedVideo, check_groups_apart

ENDINGS = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)
"""Of files that are taken for videos where a folder is searched; a CSV may name any file."""

_CALLED = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a part may be called."""

_KINETICS = ("label", "youtube_id", "time_start", "time_end")


class Clip(NamedTuple):
    """A file of a listing; ``name``, its path from the data set's folder on, identifies it."""

    name: str
    path: Path
    label: str
    group: str = ""  # "": a recording of its own
    part: str = ""  # "": not said


@dataclass
class Listing:
    """Clips, and what was found and is none; ``where`` names the data set in messages."""

    where: str
    root: Path
    clips: list[Clip] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # files that are no video, or of no class
    missing: list[Clip] = field(default_factory=list)  # listed, but not there
    labels: set[str] = field(default_factory=set)  # of all clips, also of those not taken


def list_clips(
    folder: str | None,
    tables: Any,
    *,
    classes: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> Listing:
    """Find the clips of a data set; ``OwnVideoConfig`` says what is what."""
    place = None if folder is None else locate(folder)
    if place is not None and not place.is_dir():
        raise DataError(f"dataset.folder={folder}: no such folder; {nearest(place)}")
    if tables is None:
        assert place is not None  # OwnVideoConfig
        found = _in_folders(place, classes)
    else:
        listed = tables if isinstance(tables, list | dict) else [tables]
        named = listed.items() if isinstance(listed, dict) else [("", table) for table in listed]
        found = read_tables([(part, locate(table)) for part, table in named], place)
        if found.missing and not (allow_missing and found.clips):
            names = [clip.name for clip in found.missing]
            total = len(names) + len(found.clips)
            raise DataError(
                f"{found.where}: {len(names)} of {total} clips are not there:"
                f" {first_of(names, 3)}; {nearest(found.root / names[0])}. Paths"
                f" begin at {found.root} (dataset.folder=… names another folder);"
                " dataset.allow_missing=true goes on without them"
            )
    found.labels = {clip.label for clip in found.clips}
    spelled = Counter(label.casefold() for label in found.labels)
    for label in sorted(found.labels):
        if spelled[label.casefold()] > 1:
            raise DataError(f"{found.where}: class {label} is spelled in two ways; choose one")
    if classes is not None:
        others = [clip for clip in found.clips if clip.label not in classes]
        found.left_out += [f"{clip.name} (class {clip.label})" for clip in others]
        found.clips = [clip for clip in found.clips if clip.label in classes]
    if not found.clips:
        raise DataError(f"{found.where} holds no clip")
    return found


def is_video(path: Path) -> bool:
    """Whether a file's ending is a video's."""
    return path.suffix.lower() in ENDINGS


def _in_folders(folder: Path, classes: Sequence[str] | None) -> Listing:
    """Clips below class folders, or below those of parts."""
    found = Listing(str(folder), folder)
    places, depth = [path for path in entries(folder) if path.is_dir()], 1
    parts = {path.name: _CALLED.get(path.name.casefold(), "") for path in places}
    if len({*filter(None, parts.values())}) > 1 and not all(parts.values()):
        others = [name for name, part in parts.items() if not part]
        raise DataError(
            f"{folder} holds folders of parts ({', '.join(n for n, part in parts.items() if part)})"
            f" beside others ({first_of(others, 3)}), which are no part; move these away, or list"
            " the clips: dataset.csv=…"
        )
    if len(places) > 1 and all(parts.values()):
        places, depth = [p for above in places for p in entries(above) if p.is_dir()], 2
    full = set()
    for path in files_below(folder):
        name = path.relative_to(folder)
        if is_video(path) and len(name.parts) > depth:
            part = parts[name.parts[0]] if depth == 2 else ""
            found.clips.append(Clip(name.as_posix(), path, name.parts[depth - 1], part=part))
            full.add(folder.joinpath(*name.parts[:depth]))
        else:
            why = "in no class folder" if is_video(path) else "no video"
            found.left_out.append(f"{name} ({why})")
    for place in places:
        if place not in full and (classes is None or place.name in classes):
            holds = first_of([path.name for path in files_below(place)], 3)
            raise DataError(
                f"{place} holds no video (it holds {holds}); add clips, remove the folder, or name"
                " the classes: dataset.classes=[…]"
            )
    if not found.clips:
        raise DataError(
            f"{folder} holds no folder with videos; put the clips of each class into a folder of"
            f" its name, or list them: dataset.csv=…. It holds {first_of(found.left_out, 3)}"
            if found.left_out
            else f"{folder} is empty; give a folder that holds one for each class"
        )
    return found


def read_tables(
    tables: Sequence[tuple[str, Path]], folder: Path | None, *, labelled: bool = True
) -> Listing:
    """Clips that CSVs list, each of a part, or of "" where its rows say so.

    Paths begin at ``folder``; None: in the folder of the CSV.
    """
    root = tables[0][1].parent if folder is None else folder
    found = Listing(", ".join(path.name for _, path in tables), root)
    seen: dict[Path, str] = {}
    stems: dict[str, list[Path]] | None = None
    for of, table in tables:
        rows, kinetics = _rows(table, labelled)
        if kinetics and stems is None:
            stems = {}
            for path in filter(is_video, files_below(folder or table.parent)):
                stems.setdefault(path.stem, []).append(path)
        for line, row in rows:
            where = f"{table}, line {line}"
            said = row.get("part") or row.get("split") or of
            part = _CALLED.get((of or said).casefold(), "")
            if said and not part:
                raise DataError(f"{where}: part is {said!r}; train, validation and test are known")
            if labelled and not row["label"]:
                raise DataError(f"{where} has no label; give the clip's class, or remove the line")
            if kinetics and stems is not None:
                path = _kinetics_file(row, stems, where, folder or table.parent)
            else:
                path = (folder or table.parent) / row["path"].replace("\\", "/")
            if not path.is_file():
                found.missing.append(Clip(row["path"] or path.name, path, row["label"]))
                continue
            if (before := seen.setdefault(path.resolve(), where)) != where:
                raise DataError(f"{where}: {path} stands in {before} already; each clip once")
            inside = path.is_relative_to(root)
            name = path.relative_to(root).as_posix() if inside else str(path)
            found.clips.append(Clip(name, path, row["label"], row.get("group", ""), part))
    return found


def _rows(table: Path, labelled: bool) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    """Lines with their numbers, columns by their names in lower case; and whether as Kinetics's."""
    if not table.exists():
        raise DataError(f"{table} is not there; {nearest(table)}")
    with reading(table, "give a CSV, saved as UTF-8"):
        text = table.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter=max(",;\t", key=header.count),
        skipinitialspace=True,
        restval="",
    )
    columns = [name.strip().casefold() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    needed = ("path", "label") if labelled else ("path",)
    kinetics = {*_KINETICS[not labelled :]} <= {*columns} and "path" not in columns
    if not (kinetics or {*needed} <= {*columns}):
        raise DataError(
            f"{table}: its first line must name the columns {', '.join(needed)} (and group, part"
            f" where there are any), or Kinetics's {', '.join(_KINETICS)}; it is {header.strip()!r}"
        )
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{table}: its first line names the column {twice[0]} twice; keep one")
    rows = []
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{table}, line {reader.line_num} has more values than the {len(columns)}"
                    " columns; a path or label with a comma in it stands in double quotes"
                )
            values = {"path": "", "label": ""} | {k: v.strip() for k, v in row.items()}
            if not kinetics and not values["path"]:
                raise DataError(f"{table}, line {reader.line_num} has no path")
            rows.append((reader.line_num, values))
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num} is no CSV: {error}") from error
    if not rows:
        raise DataError(f"{table} lists no clip")
    return rows, kinetics


def _kinetics_file(
    row: Mapping[str, str], stems: Mapping[str, Sequence[Path]], where: str, folder: Path
) -> Path:
    """The clip of a row of Kinetics: of several, that in the folder of its class."""
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except (ValueError, OverflowError) as error:  # no number, or inf
        raise DataError(f"{where}: time_start and time_end must be seconds") from error
    stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
    found = stems.get(stem, ())
    own = [path for path in found if path.parent.name == row["label"]] or found
    if len(own) > 1:
        raise DataError(f"{where}: {own[0]} and {own[1]} are the same clip; remove one")
    return own[0] if own else folder / f"{stem}.mp4"


def split_clips(
    listing: Listing, classes: Sequence[str], *, shares: Sequence[float], seed: int
) -> tuple[ActionSplit, list[str]]:
    """Parts as the listing says, else at random by ``shares``; and what is to be said of it.

    Whole groups are split, those with clips of the same classes among themselves; a clip without a
    group is one by itself.
    """
    clips, said = listing.clips, []
    parts: dict[str, list[Clip]] = {name: [] for name in PARTS}
    unsaid = [clip for clip in clips if not clip.part]
    if unsaid and len(unsaid) < len(clips):
        raise DataError(
            f"{listing.where}: {len(unsaid)} of {len(clips)} clips have no part, such as"
            f" {unsaid[0].name}; say it of all or of none"
        )
    grouped = any(clip.group for clip in clips)
    by = "group" if grouped else "clip"
    percent = "/".join(f"{100 * share:g}" for share in shares)
    if unsaid:
        parts = _at_random(clips, shares, seed)
        description = f"{listing.where} at random by {by}, {percent} %, seed {seed}"
    else:
        description = f"the parts of {listing.where}"
        for clip in clips:
            parts[clip.part].append(clip)
        if not parts["test"] and not (parts["train"] and parts["validation"]):
            only = next(name for name in PARTS if parts[name])
            raise DataError(
                f"{listing.where}: all clips are of part {only}; give some of them part test, or"
                " leave the parts out, then dataset.shares splits"
            )
        if parts["train"] and not parts["test"]:
            parts["test"], parts["validation"] = parts["validation"], []
            said.append("no part test is given: the validation clips are tested")
        if parts["train"] and not parts["validation"]:
            apart = (1 - shares[1], shares[1], 0)
            parts |= {"test": parts["test"]} | {
                name: part for name, part in _at_random(parts["train"], apart, seed).items() if part
            }
            chosen = f"{100 * shares[1]:g} % of the training clips (dataset.shares)"
            said.append(f"no clips are left to choose the checkpoint by: {chosen} do")
            description += f", validation by {by} from train, {100 * shares[1]:g} %, seed {seed}"
    numbers = {name: number for number, name in enumerate(classes)}
    listed = {
        name: tuple(
            ListedVideo(clip.name, numbers[clip.label], clip.group or clip.name, clip.path)
            for clip in sorted(parts[name])
        )
        for name in PARTS
    }
    missing = tuple(clip.name for clip in listing.missing)
    split = ActionSplit(tuple(classes), listed, missing, description)
    check_groups_apart(split)
    if parts["train"] and (absent := [name for name in classes if name not in listing.labels]):
        near = get_close_matches(absent[0], listing.labels, n=1)
        test = "dataset.shares=[0,0,1]" if unsaid else "list the clips in dataset.csv={test: FILE}"
        raise DataError(
            f"{listing.where}: no clip of class {first_of(absent, 5)}; there are"
            f" {first_of(sorted(listing.labels))}{f'; did you mean {near[0]}?' if near else ''}"
            f" (only to evaluate: {test})"
        )
    check_sides(split)
    if not grouped and unsaid and parts["train"]:
        said.append(
            "clips of one recording may stand in several parts, which makes scores too good: a"
            " column group in dataset.csv keeps together what belongs together"
        )
    return split, said


def _at_random(clips: Sequence[Clip], shares: Sequence[float], seed: int) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in sorted(clips):
        groups.setdefault(f"group {clip.group}" if clip.group else clip.name, []).append(clip)
    alike: dict[tuple[str, ...], list[list[Clip]]] = {}
    for group in groups.values():
        alike.setdefault(tuple(sorted({clip.label for clip in group})), []).append(group)
    few = [group for those in alike.values() if len(those) < 3 for group in those]
    parts: dict[str, list[Clip]] = {name: [] for name in PARTS}
    rng = np.random.default_rng(seed)
    for those in [*(those for _, those in sorted(alike.items()) if len(those) >= 3), few]:
        count = len(those)
        validation, test = (
            max(round(count * share), int(share > 0 and count > 2)) for share in shares[1:]
        )
        if shares[0] == 0:
            validation = count - test if shares[1] else 0
        order = [those[i] for i in rng.permutation(count)]
        cut = {"test": order[:test], "validation": order[test : test + validation]}
        for name, chosen in (cut | {"train": order[test + validation :]}).items():
            parts[name] += [clip for group in chosen for clip in group]
    return parts


def check_sides(split: ActionSplit, why: str = "") -> None:
    """Refuse classes that stand on one side only, where there is a training; ``why`` they do."""
    counts = {name: Counter(v.label for v in part) for name, part in split.parts.items()}
    if not split.parts["train"]:
        if not split.parts["test"]:
            raise DataError(f"{split.description}: no clip to test{why}; change dataset.shares")
        return
    total = sum(counts.values(), Counter())
    one_sided = [
        f"{split.classes[label]} ({total[label]}, none in {side})"
        for label in range(len(split.classes))
        for side in ("train", "test")
        if not counts[side][label]
    ]
    if one_sided:
        raise DataError(
            f"{split.description}: classes with clips on one side only: {first_of(one_sided)}{why}."
            " A class is learned from train and judged in test, for which it needs three clips or"
            " groups: add some, or name the other classes: dataset.classes=[…]"
        )
    if not split.parts["validation"]:
        raise DataError(
            f"{split.description}: no clip is left for validation{why}, which chooses the"
            " checkpoint; add clips, or change dataset.shares"
        )
