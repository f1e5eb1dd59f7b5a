"""Unpacking: wholly or not at all, and nowhere but where it was told to.

Of an archive only names and bytes are used. Every name is checked before anything is written; every
file is written by us, so no link, owner or permission comes out; and it must have the size that the
archive announced and, where the format has one, the checksum.
"""

import errno
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import rarfile
from tqdm import tqdm

from psc.errors import DataError, PSCError
from psc.files import locked, require_free_space

_CHUNK = 1 << 20
_INSTRUCTIONS = (
    "install one of them: apt install unrar (Debian, Ubuntu; or unar, libarchive-tools), dnf"
    " install unar or bsdtar (Fedora), conda install -c conda-forge p7zip or libarchive (7z,"
    " bsdtar), brew install unar (macOS; its bsdtar is there already)"
)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: its name as written there, bytes when unpacked, CRC-32 if known.

    "special" stands for links, devices and all else that is neither file nor folder.
    """

    name: str
    kind: Literal["file", "folder", "special"]
    size: int
    crc: int | None = None


_Opened = tuple[list[_Member], Iterator[IO[bytes]]]
"""All members of an archive, and the contents of its files in their order."""


def unpack(archive: Path, destination: Path) -> int:
    """Unpack a zip, RAR or tar (plain, gzip, bzip2, xz) to a new folder; returns how many files.

    A folder that holds everything else of the archive becomes ``destination`` itself. What is
    unpacked lies in ``.NAME.unpacking`` beside it until it is complete; what an interruption left
    there is removed by the next call, which starts anew. What is wrong with an archive is told
    before anything is written, if its directory or its first bytes show it.
    """
    if destination.exists():
        raise DataError(f"{destination} exists; move it away to unpack {archive} there")
    staging = destination.with_name(f".{destination.name}.unpacking")
    lock = staging.with_name(f"{staging.name}.lock")
    with _reported(archive, destination), _opener(archive)(archive) as (members, contents):
        files = _checked(archive, members)
        size = sum(member.size for member in files.values())
        require_free_space(destination.parent, size, f"{archive}, unpacked,")
        with locked(lock, f"{destination} is being unpacked"):
            shutil.rmtree(staging, ignore_errors=True)
            try:
                _write(files, contents, staging)
                first_parts = {path.parts[0] for path in files}
                whole = staging / first_parts.pop() if len(first_parts) == 1 else staging
                (whole if whole.is_dir() else staging).rename(destination)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return len(files)


def require_rar_tool() -> None:
    """Say early that nothing here can unpack RAR."""
    try:
        rarfile.tool_setup(force=True)
    except rarfile.RarCannotExec as error:
        raise DataError(
            "RAR archives need an outside program, and none of unrar, unar, 7z, 7zz, bsdtar is"
            f" here; {_INSTRUCTIONS}"
        ) from error


def _checked(archive: Path, members: list[_Member]) -> dict[PurePosixPath, _Member]:
    """The files by path, once none of them can leave the folder it is unpacked to."""
    files: dict[PurePosixPath, _Member] = {}
    folders: set[PurePosixPath] = set()
    for member in members:
        name = member.name.replace("\\", "/")
        path = PurePosixPath(name)
        what = None
        if member.kind == "special":
            what = "is a link or a device"
        elif path.is_absolute() or re.match("[A-Za-z]:", name):
            what = "is an absolute path"
        elif ".." in path.parts:
            what = "leads out of the folder"
        elif (not path.parts and member.kind == "file") or re.search(r"[\x00-\x1f]", name):
            what = "is no name for a file"
        elif path in files:
            what = "comes twice"
        if what is not None:
            raise DataError(
                f"{archive}: {member.name!r} {what}; nothing was unpacked. An archive of data does"
                " not need this: check where it comes from"
            )
        if member.kind == "folder":
            folders.add(path)
        else:
            files[path] = member
            folders.update(path.parents)
    if not files:
        raise DataError(f"{archive} holds no files; download it again")
    if both := folders & files.keys():
        raise DataError(f"{archive}: {min(both)} is both a file and a folder in it; not unpacked")
    return files


def _write(
    files: dict[PurePosixPath, _Member], contents: Iterator[IO[bytes]], folder: Path
) -> None:
    """Write every file's content to its safe path."""
    with tqdm(desc="unpacking", total=len(files), unit="file", disable=None) as bar:
        for (path, member), content in zip(files.items(), contents, strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            crc, left = 0, member.size
            with (folder / path).open("xb") as copy:
                while left and (chunk := content.read(min(left, _CHUNK))):
                    copy.write(chunk)
                    crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            if left or member.crc not in (None, crc):
                raise EOFError(f"{path} does not come out as it was packed")
            bar.update()


def _opener(archive: Path) -> Callable[[Path], AbstractContextManager[_Opened]]:
    """By the archive's first bytes."""
    if not archive.is_file():
        raise DataError(f"{archive} is not there; download it first")
    with archive.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(b"Rar!\x1a\x07"):
        return _open_rar
    if head.startswith(b"PK\x03\x04"):
        return _open_zip
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or _is_tar(head):
        return _open_tar
    is_page = head.lstrip().startswith(b"<")
    found = "a web page (an error message, perhaps)" if is_page else f"something else: {head[:8]!r}"
    raise DataError(
        f"{archive} is no zip, RAR or tar archive but {found}; delete it and download it again"
    )


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


@contextmanager
def _open_zip(archive: Path) -> Iterator[_Opened]:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        if any(entry.flag_bits & 1 for entry in entries):
            raise _encrypted(archive)
        yield (
            [
                _Member(e.filename, _kind(e.is_dir(), e.external_attr >> 16), e.file_size, e.CRC)
                for e in entries
            ],
            (file.open(entry) for entry in entries if not entry.is_dir()),
        )


@contextmanager
def _open_tar(archive: Path) -> Iterator[_Opened]:
    """Read to its end before anything is written, for a tar has no directory.

    Then every header is in order, nothing is missing behind the last one (tarfile takes an
    unreadable header, or none, for the end: the end is a block of zeros), and the checksum of the
    compression holds.
    """
    try:
        file = tarfile.open(archive)  # noqa: SIM115 (with its error it would say too much)
    except tarfile.ReadError as error:
        raise EOFError("no tar archive can be read from it; is it the right file?") from error
    with file:
        entries = file.getmembers()
        stream = file.fileobj
        assert stream is not None
        stream.seek(file.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it does not end where a tar archive ends")
        while stream.read(_CHUNK):
            pass
        if any(entry.size < 0 for entry in entries):
            raise ValueError("a size is negative")
        yield (
            [
                _Member(
                    entry.name,
                    # Hard links are special, too: they lead to another member, or out.
                    "folder" if entry.isdir() else "file" if entry.isreg() else "special",
                    entry.size,
                )
                for entry in entries
            ],
            (content for e in entries if (content := file.extractfile(e)) is not None),
        )


@contextmanager
def _open_rar(archive: Path) -> Iterator[_Opened]:
    with rarfile.RarFile(archive, errors="strict") as file:
        if file.needs_password():
            raise _encrypted(archive)
        entries = file.infolist()
    members = [
        _Member(
            e.filename,
            "special"
            if e.file_redir or e.is_symlink()
            else _kind(e.is_dir(), (e.mode or 0) if e.host_os == rarfile.RAR_OS_UNIX else 0),
            e.file_size or 0,
            e.CRC,
        )
        for e in entries
    ]
    try:
        yield members, _rar_contents(archive, sum(member.kind == "file" for member in members))
    except EOFError as error:
        tool = rarfile.tool_setup().open_cmdline(None, "")[0]
        raise DataError(
            f"{archive} could not be unpacked with {tool}: {error}. Either the archive is damaged:"
            " delete it and download it again; or another program can:"
            f" {_INSTRUCTIONS}"
        ) from error


def _rar_contents(archive: Path, files: int) -> Iterator[IO[bytes]]:
    """All files' contents come from one run of rarfile's tool, one behind another.

    (rarfile itself starts a process for each file, which in a solid archive unpacks all before it.)
    """
    require_rar_tool()
    command = rarfile.tool_setup().open_cmdline(None, str(archive.resolve()))
    command.remove("--")  # needless before an absolute path; bsdtar takes it for the archive
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            for _ in range(files):
                yield process.stdout
            if process.stdout.read(1):
                raise EOFError("more comes out than is in it")
            if status := process.wait():
                raise EOFError(f"it ends with status {status}")
        finally:
            process.kill()


def _kind(folder: bool, unix_mode: int) -> Literal["file", "folder", "special"]:
    if stat.S_IFMT(unix_mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special"
    return "folder" if folder else "file"


def _encrypted(archive: Path) -> DataError:
    return DataError(f"{archive} is encrypted; unpack it by hand")


@contextmanager
def _reported(archive: Path, destination: Path) -> Iterator[None]:
    """Within it, whatever shows that the archive is damaged, or the disk full, is a DataError."""
    try:
        yield
    except PSCError:
        raise
    except Exception as error:
        # Errors of the disk have a number, those of gzip and bz2 none; an invalid argument is a
        # place before the beginning, which a header named. All else (a dozen kinds) is damage.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DataError(
                f"{archive} cannot be unpacked to {destination}: {error.strerror}; make room or"
                " correct the folder's permissions, then run again"
            ) from error
        raise DataError(
            f"{archive} ({archive.stat().st_size} bytes) is damaged or cut off ({error}); delete it"
            " and download it again"
        ) from error
