"""What an archive says it holds, and which of that is safe to unpack."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from psc.errors import DataError


@dataclass(frozen=True)
class Member:
    r"""One entry of an archive.

    Attributes:
        name: as it is written there, with / or \ between its parts.
        size: bytes when unpacked; 0 for whatever is no file.
        kind: "special" stands for links, devices and all else that is neither file nor folder.
    """

    name: str
    size: int
    kind: Literal["file", "folder", "special"]


def files_of(archive: Path, members: Iterable[Member]) -> dict[PurePosixPath, int]:
    """Path and size of every file, once none of them can leave the folder it is unpacked to.

    Args:
        archive: for messages.
        members: all entries of it.

    Returns:
        Relative paths, without ``..``, and the files' sizes in bytes.

    Raises:
        DataError: an absolute path, one with ``..``, a link or device, a name that cannot be a
            file's, two entries of one name, or no file at all.
    """
    files: dict[PurePosixPath, int] = {}
    folders: set[PurePosixPath] = set()
    for member in members:
        path = _safe_path(archive, member)
        if member.kind == "folder":
            folders.add(path)
        elif path in files:
            raise _refusal(archive, member, "comes twice")
        else:
            files[path] = member.size
            folders.update(path.parents)
    if not files:
        raise DataError(f"{archive} holds no files; download it again")
    if both := folders & files.keys():
        raise DataError(f"{archive}: {min(both)} is both a file and a folder in it; not unpacked")
    return files


def _safe_path(archive: Path, member: Member) -> PurePosixPath:
    name = member.name.replace("\\", "/")
    path = PurePosixPath(name)
    if member.kind == "special":
        raise _refusal(archive, member, "is a link or a device")
    if path.is_absolute() or re.match("[A-Za-z]:", name):
        raise _refusal(archive, member, "is an absolute path")
    if ".." in path.parts:
        raise _refusal(archive, member, "leads out of the folder")
    if (not path.parts and member.kind == "file") or re.search(r"[\x00-\x1f]", name):
        raise _refusal(archive, member, "is no name for a file")
    return path


def _refusal(archive: Path, member: Member, what: str) -> DataError:
    return DataError(
        f"{archive}: {member.name!r} {what}; nothing was unpacked. An archive of data does not need"
        " this: check where it comes from"
    )
