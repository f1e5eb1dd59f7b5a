"""Download and unpack UCF101 (paper, Section 4.1): ``python scripts/download_ucf101.py``.

6.5 GB to fetch, 13 GB of disk while it is unpacked. Into data/ucf101: the clips to ``UCF-101``, the
official lists of training and test clips to ``ucfTrainTestlist``. What is there is left alone;
after an interruption, run it again. An archive fetched in another way is used if it lies in the
folder under its own name.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psc.download.archives import require_rar_tool, unpack
from psc.download.download import PROJECT, SOURCES, SourceFile, fetch, source_files
from psc.errors import DataError, PSCError
from psc.files import in_words, require_free_space

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"

LIST_FILES = (
    "classInd.txt",
    *(f"{part}list0{split}.txt" for part in ("train", "test") for split in (1, 2, 3)),
)

_MOST_NAMED = 3
_UNPACKED = 1.05
"""Size of the unpacked videos, at most, in sizes of their archive: compressed video does not
compress."""


@dataclass(frozen=True)
class Part:
    """A part of the data set: the folder it becomes, and the archive it comes in."""

    folder: str
    archive: str


# The lists first: they are small, and say whether the videos are complete.
PARTS = {
    "splits": Part(LISTS, "UCF101TrainTestSplits-RecognitionTask.zip"),
    "videos": Part(VIDEOS, "UCF101.rar"),
}


def get_part(part: Part, source: SourceFile, folder: Path, *, keep_archives: bool) -> str:
    """Make one part complete; returns what was done, in words.

    Raises:
        DataError: it cannot be fetched or unpacked, or is there but incomplete.
    """
    destination, archive = folder / part.folder, folder / source.path
    if destination.exists():
        check_complete(folder, part)
        return f"{destination}: is there"
    if part.folder == VIDEOS:
        require_rar_tool()
        require_space(source, folder)
    fetch(source, folder)
    count = unpack(archive, destination)
    check_complete(folder, part)
    if not keep_archives:
        archive.unlink()
    return f"{destination}: {count} files"


def require_space(source: SourceFile, folder: Path) -> None:
    """Refuse before hours of downloading, not after, where the videos cannot be unpacked.

    Raises:
        DataError: the disk has no room for the archive and what is in it.
    """
    size = source.rounded_size or 0
    places = (folder / source.path, folder / f"{source.path}.partial")
    arrived = sum(place.stat().st_size for place in places if place.exists())
    needed = round(size * (1 + _UNPACKED)) - min(arrived, size)
    require_free_space(folder, needed, f"{source.url} with the videos unpacked from it")


def check_complete(folder: Path, part: Part) -> None:
    """Compare a part that is there with what it should hold.

    Raises:
        DataError: if a list is missing, or a clip that the lists of split 1 name (all have all).
    """
    place = folder / part.folder
    if part.folder == LISTS:
        missing = [name for name in LIST_FILES if not (place / name).is_file()]
        total = len(LIST_FILES)
    else:
        # By file name alone: a folder's name is not spelled alike everywhere (HandStandPushups).
        there = {path.name.lower() for path in place.rglob("*.avi")}
        listed = listed_clips(folder / LISTS)
        missing = [name for name in listed if name.lower() not in there]
        total = len(listed)
        if not there:
            raise DataError(f"{place} holds no videos; move it away, and it will be fetched")
    if missing:
        first = ", ".join(missing[:_MOST_NAMED])
        raise DataError(
            f"{place}: {len(missing)} of {total} files are missing ({first}, …). Move it away, and"
            " it will be fetched whole"
        )


def listed_clips(lists: Path) -> list[str]:
    """File names of all clips that split 1 names; none without lists."""
    names = []
    for name in ("trainlist01.txt", "testlist01.txt"):
        path = lists / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        names += [line.split()[0].rpartition("/")[2] for line in lines if line.strip()]
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Download from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=PROJECT / "data" / "ucf101")
    parser.add_argument("--only", choices=PARTS, help="one part; else both")
    parser.add_argument("--keep-archives", action="store_true", help="also once they are unpacked")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="another list, of a mirror")
    chosen = parser.parse_args(arguments)
    try:
        sources = {file.path.name: file for file in source_files("ucf101", chosen.sources)}
        for name, part in PARTS.items():
            if chosen.only in (None, name):
                if part.archive not in sources:
                    raise DataError(f"{chosen.sources}: has no {part.archive}; restore it")
                source = sources[part.archive]
                print(f"{name} ({size_in_words(source)})", flush=True)
                print(get_part(part, source, chosen.folder, keep_archives=chosen.keep_archives))
    except PSCError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)


def size_in_words(source: SourceFile) -> str:
    """How much there is to fetch, as far as it is known."""
    return in_words(source.rounded_size) if source.rounded_size else "of unknown size"


if __name__ == "__main__":
    main()
