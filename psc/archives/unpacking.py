"""Unpacking: wholly or not at all, and nowhere but where it was told to."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from psc.archives.members import Member, files_of
from psc.archives.rar_headers import RAR4_SIGNATURE, RAR5_SIGNATURE, rar_members
from psc.archives.rar_tools import require_rar_tool, unpack_rar
from psc.disk_space import require_free_space
from psc.errors import DataError
from psc.locks import holder, try_lock

_ENCRYPTED = 0x1
_MOST_NAMED = 3
_SIGNATURES = {RAR4_SIGNATURE: "rar", RAR5_SIGNATURE: "rar", b"PK\x03\x04": "zip"}


def unpack(archive: Path, destination: Path, *, progress: bool | None = None) -> int:
    """Unpack a zip or a RAR archive to a folder that does not exist yet.

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
    files = files_of(archive, rar_members(archive) if kind == "rar" else _zip_members(archive))
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
        else:
            _unzip(archive, files, staging, progress)  # checks sizes and sums itself
        first_parts = {path.parts[0] for path in files}
        whole = staging / first_parts.pop() if len(first_parts) == 1 else staging
        (whole if whole.is_dir() else staging).rename(destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _kind(archive: Path) -> str:
    if not archive.is_file():
        raise DataError(f"{archive} is not there; download it first")
    with archive.open("rb") as file:
        head = file.read(64)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    is_page = head.lstrip().startswith(b"<")
    found = "a web page (an error message, perhaps)" if is_page else f"something else: {head[:8]!r}"
    raise DataError(
        f"{archive} is neither a zip nor a RAR archive but {found}; delete it and download it again"
    )


def _zip_members(archive: Path) -> list[Member]:
    return [_zip_member(archive, entry) for entry in _entries(archive)]


def _entries(archive: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.infolist()
    # zipfile's NotImplementedError: a compression or a version of the format that it does not know
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(archive, error) from error


def _zip_member(archive: Path, entry: zipfile.ZipInfo) -> Member:
    if entry.flag_bits & _ENCRYPTED:
        raise DataError(f"{archive} is encrypted; unpack it by hand")
    unix = stat.S_IFMT(entry.external_attr >> 16)
    if unix not in (0, stat.S_IFREG, stat.S_IFDIR):
        return Member(entry.filename, 0, "special")
    if entry.is_dir():
        return Member(entry.filename, 0, "folder")
    return Member(entry.filename, entry.file_size, "file")


def _unzip(
    archive: Path, files: Mapping[PurePosixPath, int], folder: Path, progress: bool | None
) -> None:
    """Write every file to its safe path."""
    with (
        zipfile.ZipFile(archive) as file,
        tqdm(
            desc="unpacking",
            total=len(files),
            unit="file",
            disable=None if progress is None else not progress,
        ) as bar,
    ):
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        for path, entry in zip(files, entries, strict=True):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open(entry) as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise _damaged(archive, error) from error
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


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(
        f"{archive} ({archive.stat().st_size} bytes) is damaged or cut off ({error}); delete it and"
        " download it again"
    )
