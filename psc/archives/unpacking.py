"""Unpacking: wholly or not at all, and nowhere but where it was told to."""

import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from psc.archives.damage import reported_damage
from psc.archives.members import Member, files_of
from psc.archives.rar_headers import RAR4_SIGNATURE, RAR5_SIGNATURE, rar_members
from psc.archives.rar_tools import require_rar_tool, unpack_rar
from psc.archives.tar_files import (
    COMPRESSED_SIGNATURES,
    is_tar_header,
    tar_contents,
    tar_members,
)
from psc.archives.zip_files import zip_contents, zip_members
from psc.disk_space import require_free_space
from psc.errors import DataError
from psc.locks import holder, try_lock

_MOST_NAMED = 3
_SIGNATURES = {
    RAR4_SIGNATURE: "rar",
    RAR5_SIGNATURE: "rar",
    b"PK\x03\x04": "zip",
    **dict.fromkeys(COMPRESSED_SIGNATURES, "tar"),
}
_MEMBERS: dict[str, Callable[[Path], Iterable[Member]]] = {
    "rar": rar_members,
    "zip": zip_members,
    "tar": tar_members,
}
_CONTENTS: dict[str, Callable[[Path], Generator[IO[bytes], None, None]]] = {
    "zip": zip_contents,
    "tar": tar_contents,
}


def unpack(archive: Path, destination: Path, *, progress: bool | None = None) -> int:
    """Unpack an archive to a folder that does not exist yet.

    Zip, RAR, and tar: plain (.tar) or compressed (.tar.gz or .tgz, .tar.bz2, .tar.xz).

    A folder that holds everything else of the archive becomes ``destination`` itself. What is
    unpacked lies in ``.NAME.unpacking`` beside it until it is complete; what an interruption left
    there is removed by the next call, which starts anew.

    Args:
        archive: what it is, is seen from its first bytes.
        destination: the new folder; its parent is made.
        progress: show a bar with the remaining time; None: if standard error is a terminal.

    Returns:
        How many files were unpacked.

    Raises:
        DataError: before anything is written, if a member would leave the folder or is no file or
            folder, the archive is damaged, encrypted or of another kind, the disk has no room, the
            destination exists, or no tool for RAR is installed; after that, if it cannot be
            unpacked completely.
    """
    if destination.exists():
        raise DataError(f"{destination} exists; move it away to unpack {archive} there")
    kind = _kind(archive)
    if kind == "rar":
        require_rar_tool()
    files = files_of(archive, _MEMBERS[kind](archive))
    require_free_space(destination.parent, sum(files.values()), f"{archive}, unpacked,")
    staging = destination.with_name(f".{destination.name}.unpacking")
    lock_path = staging.with_name(f"{staging.name}.lock")
    try:
        lock = try_lock(lock_path)
        if lock is None:
            raise DataError(f"{destination} is being unpacked by {holder(lock_path)}; wait")
        with lock:
            _unpack(archive, kind, files, staging, destination, progress)
    except OSError as error:
        raise DataError(
            f"{archive} cannot be unpacked to {destination}: {error.strerror or error}; make room"
            " or correct the folder's permissions, then run again"
        ) from error
    return len(files)


def _unpack(
    archive: Path,
    kind: str,
    files: Mapping[PurePosixPath, int],
    staging: Path,
    destination: Path,
    progress: bool | None,
) -> None:
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        if kind == "rar":
            check = partial(_check_complete, archive, staging, files)
            unpack_rar(archive, staging, len(files), check, progress=progress)
        else:  # zipfile and tarfile notice themselves what is missing
            with reported_damage(archive), closing(_CONTENTS[kind](archive)) as contents:
                _write(contents, files, staging, progress)
        first_parts = {path.parts[0] for path in files}
        whole = staging / first_parts.pop() if len(first_parts) == 1 else staging
        (whole if whole.is_dir() else staging).rename(destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _kind(archive: Path) -> str:
    if not archive.is_file():
        raise DataError(f"{archive} is not there; download it first")
    with archive.open("rb") as file:
        head = file.read(512)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if is_tar_header(head):
        return "tar"
    is_page = head.lstrip().startswith(b"<")
    found = "a web page (an error message, perhaps)" if is_page else f"something else: {head[:8]!r}"
    raise DataError(
        f"{archive} is no zip, RAR or tar archive but {found}; delete it and download it again"
    )


def _write(
    contents: Iterable[IO[bytes]],
    files: Mapping[PurePosixPath, int],
    folder: Path,
    progress: bool | None,
) -> None:
    """Write every file's content to its safe path; ``contents`` are in the order of ``files``."""
    with tqdm(
        desc="unpacking",
        total=len(files),
        unit="file",
        disable=None if progress is None else not progress,
    ) as bar:
        for path, content in zip(files, contents, strict=True):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                shutil.copyfileobj(content, copy)
            bar.update()


def _check_complete(archive: Path, folder: Path, files: Mapping[PurePosixPath, int]) -> None:
    """Compare what was unpacked with what the archive says it holds."""
    found: dict[PurePosixPath, int] = {}
    for entry in _walk(folder):
        path = Path(entry.path)
        if not entry.is_file(follow_symlinks=False):
            raise DataError(f"{archive}: {path.name!r} came out as a link or a device; removed")
        found[PurePosixPath(path.relative_to(folder))] = entry.stat(follow_symlinks=False).st_size
    if found == files:
        return
    wrong = sorted(set(found.items()) ^ set(files.items()))
    names = ", ".join(dict.fromkeys(str(path) for path, _ in wrong[:_MOST_NAMED]))
    raise DataError(
        f"{archive}: {len(found)} files came out, but {len(files)} are in it, or their sizes differ"
        f" ({names}, …)"
    )


def _walk(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Everything below a folder but folders; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield entry
