"""Unpacking: wholly or not at all, and nowhere but where it was told to."""

import bz2
import errno
import gzip
import io
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

from tqdm import tqdm

from psc.errors import DataError, PSCError
from psc.files import holder, require_free_space, try_lock

# ----------------------------------------
# What the standard library raises about a damaged archive, as one error that says what to do.


@contextmanager
def reported_damage(archive: Path) -> Iterator[None]:
    """Within it, whatever shows that the archive is damaged becomes a DataError.

    Errors of ours and of the disk pass. The latter are OSErrors with a number: those of gzip and
    bz2 have none, and an invalid argument is a place before the beginning, which a header named.
    """
    try:
        yield
    except PSCError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(archive, error) from error
    # zipfile's NotImplementedError: a compression or a version of the format that it does not know
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        OverflowError,  # sizes that no file has
        MemoryError,
        NotImplementedError,
    ) as error:
        raise damaged(archive, error) from error


def damaged(archive: Path, why: object) -> DataError:
    """The error for an archive that is not as it was packed."""
    return DataError(
        f"{archive} ({archive.stat().st_size} bytes) is damaged or cut off ({why}); delete it and"
        " download it again"
    )


# ----------------------------------------
# What an archive says it holds, and which of that is safe to unpack.


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


# ----------------------------------------
# The table of contents of a RAR archive, read from its headers.
#
# Unpacking is left to an outside tool; but what an archive holds, and whether that is safe, is
# known before one is started, and does not depend on which. Both formats that are in use: RAR 1.5-4
# ("RAR4") and RAR 5. Layout: RARLAB's technical notes, https://www.rarlab.com/technote.htm.


RAR4_SIGNATURE = b"Rar!\x1a\x07\x00"
RAR5_SIGNATURE = b"Rar!\x1a\x07\x01\x00"

_UNIX_SYSTEMS_4 = {3, 5}
_WINDOWS_LINK = 0x400
_LONGEST_HEADER_5 = 2 << 20
"""Bytes; RAR 5 allows no more."""

_LONGEST_NUMBER_5 = 10
"""Bytes of a 64-bit integer."""


def rar_members(path: Path) -> list[Member]:
    """All files, folders and links of a RAR archive.

    Args:
        path: a whole archive, not one volume of several.

    Raises:
        DataError: not a RAR archive, damaged or cut off, one of several volumes, or encrypted.
    """
    with path.open("rb") as file:
        signature = file.read(len(RAR5_SIGNATURE))
        try:
            if signature == RAR5_SIGNATURE:
                return list(_members_5(file, path))
            if signature.startswith(RAR4_SIGNATURE):
                file.seek(len(RAR4_SIGNATURE))
                return list(_members_4(file, path))
        except (struct.error, IndexError) as error:
            raise _damaged(path) from error
    raise DataError(f"{path} is not a RAR archive; download it again")


def _members_4(file: BinaryIO, path: Path) -> Iterator[Member]:
    while head := file.read(7):
        crc, kind, flags, size = struct.unpack("<HBHH", head)
        header = head + _read(file, size - 7, path)
        data = 0
        if kind == 0x73 and flags & 0x0001:
            raise _volumes(path)
        if kind == 0x73 and flags & 0x0080:
            raise _encrypted(path)
        if kind in (0x74, 0x7A):  # a file or a folder; comments and the like
            has_comment = flags & 0x0008  # of RAR 1.5, and not part of the checksum
            if not has_comment and zlib.crc32(header[2:]) & 0xFFFF != crc:
                raise _damaged(path)
            member, data = _file_4(header, flags)
            if kind == 0x74:
                if flags & 0x0003:
                    raise _volumes(path)
                if flags & 0x0004:
                    raise _encrypted(path)
                yield member
        elif kind == 0x7B:
            return
        elif flags & 0x8000:
            (data,) = struct.unpack_from("<I", header, 7)
        _skip(file, data, path)


def _file_4(header: bytes, flags: int) -> tuple[Member, int]:
    """The entry that a file header describes, and how many bytes of data follow it."""
    packed, size, system = struct.unpack_from("<IIB", header, 7)
    length, attributes = struct.unpack_from("<HI", header, 26)
    start = 32
    if flags & 0x0100:  # more than 4 GiB
        high_packed, high_size = struct.unpack_from("<II", header, start)
        packed, size = packed | high_packed << 32, size | high_size << 32
        start += 8
    raw_name = header[start : start + length]
    name = _unicode_4(raw_name) if flags & 0x0200 else _text(raw_name)
    name = name.replace("\\", "/")  # this format has \ on every system
    folder = flags & 0x00E0 == 0x00E0
    return _member(name, size, folder, attributes, system in _UNIX_SYSTEMS_4), packed


def _unicode_4(raw: bytes) -> str:
    """A name with characters that its 8-bit form cannot hold.

    The 8-bit form, a zero and a program that makes UTF-16 units: two bits for each step say whether
    a unit is one byte, one byte in the page that the first byte names, or two bytes, or whether a
    run is taken from the 8-bit form. Without the zero, the name is UTF-8.
    """
    plain, zero, program = raw.partition(b"\x00")
    if not zero:
        return _text(raw)
    page, position = program[0] << 8, 1
    units: list[int] = []
    steps = 0
    left = 0
    while position < len(program):
        if left == 0:
            steps, left = program[position], 8
            position += 1
            if position == len(program):
                break
        left -= 2
        step = steps >> left & 3
        first = program[position]
        position += 1
        if step == 0:
            units.append(first)
        elif step == 1:
            units.append(page | first)
        elif step == 2:
            units.append(first | program[position] << 8)
            position += 1
        elif first & 0x80:  # a run, shifted and in the page
            shift = program[position]
            position += 1
            run = plain[len(units) : len(units) + (first & 0x7F) + 2]
            units += [page | (byte + shift & 0xFF) for byte in run]
        else:
            units += plain[len(units) : len(units) + first + 2]
    return struct.pack(f"<{len(units)}H", *units).decode("utf-16-le", errors="replace")


def _members_5(file: BinaryIO, path: Path) -> Iterator[Member]:
    while prefix := file.read(4):
        size_field = _read(file, 1, path)
        while size_field[-1] & 0x80 and len(size_field) < _LONGEST_NUMBER_5:
            size_field += _read(file, 1, path)
        size = _number(io.BytesIO(size_field))
        if size > _LONGEST_HEADER_5:
            raise _damaged(path)
        header = _read(file, size, path)
        if struct.unpack("<I", prefix) != (zlib.crc32(size_field + header),):
            raise _damaged(path)
        fields = io.BytesIO(header)
        kind, flags = _number(fields), _number(fields)
        extra = _number(fields) if flags & 0x0001 else 0
        data = _number(fields) if flags & 0x0002 else 0
        if kind == 4:
            raise _encrypted(path)
        if kind == 5:
            return
        if kind == 1 and _number(fields) & 0x0001:
            raise _volumes(path)
        if kind == 2:
            if flags & 0x0018:
                raise _volumes(path)
            records = dict(_extra_records(header[len(header) - extra :]))
            if 1 in records:
                raise _encrypted(path)
            yield _file_5(fields, path, redirected=5 in records)
        _skip(file, data, path)


def _file_5(fields: io.BytesIO, path: Path, *, redirected: bool) -> Member:
    flags, size, attributes = _number(fields), _number(fields), _number(fields)
    if flags & 0x0008:
        raise DataError(f"{path}: does not say how large its files are; unpack it by hand")
    fields.seek(4 * bool(flags & 0x0002) + 4 * bool(flags & 0x0004), io.SEEK_CUR)
    _number(fields)  # compression
    unix = _number(fields) == 1
    name = _text(fields.read(_number(fields)))
    if redirected:  # a link of some sort, or a copy of what another name leads to
        return Member(name, 0, "special")
    return _member(name, size, bool(flags & 0x0001), attributes, unix)


def _extra_records(area: bytes) -> Iterator[tuple[int, bytes]]:
    fields = io.BytesIO(area)
    while fields.tell() < len(area):
        record = io.BytesIO(fields.read(_number(fields)))
        yield _number(record), record.read()


def _member(name: str, size: int, folder: bool, attributes: int, unix: bool) -> Member:
    kind = stat.S_IFMT(attributes) if unix else 0
    special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    if special or (not unix and attributes & _WINDOWS_LINK):
        return Member(name, 0, "special")
    return Member(name, 0, "folder") if folder else Member(name, size, "file")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _number(fields: io.BytesIO) -> int:
    """RAR 5's integers: seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for i in range(_LONGEST_NUMBER_5):
        byte = fields.read(1)[0]
        value |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return value
    raise IndexError


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    content = file.read(size) if size >= 0 else b""
    if len(content) != size:
        raise _damaged(path)
    return content


def _skip(file: BinaryIO, size: int, path: Path) -> None:
    target = file.tell() + size
    if target > path.stat().st_size:
        raise _damaged(path)
    file.seek(target)


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} ({path.stat().st_size} bytes) is damaged or cut off; delete it and"
        " download it again"
    )


def _volumes(path: Path) -> DataError:
    return DataError(f"{path} is one of several volumes; unpack them by hand")


def _encrypted(path: Path) -> DataError:
    return DataError(f"{path} is encrypted; unpack it by hand")


# ----------------------------------------
# Unpacking RAR with whichever tool is on the machine: Python has none of its own.


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tool:
    """An unpacking program, and its command line; each prints a line for every file."""

    program: str
    arguments: Callable[[Path, Path], list[str]]


def _unrar(archive: Path, folder: Path) -> list[str]:
    # Overwrite, do not ask, no percentages, no password; the slash says that it is a folder.
    return ["x", "-o+", "-y", "-idp", "-p-", "--", str(archive), f"{folder}/"]


def _unar(archive: Path, folder: Path) -> list[str]:
    return ["-force-overwrite", "-no-directory", "-output-directory", str(folder), str(archive)]


def _seven_zip(archive: Path, folder: Path) -> list[str]:
    return ["x", "-y", "-bb1", "-bsp0", f"-o{folder}", "--", str(archive)]


def _bsdtar(archive: Path, folder: Path) -> list[str]:
    return ["-x", "-v", "--no-same-owner", "-f", str(archive), "-C", str(folder)]


_TOOLS = (
    _Tool("unrar", _unrar),
    _Tool("unar", _unar),
    _Tool("7z", _seven_zip),  # some distributions build it without RAR: the next one is tried
    _Tool("7zz", _seven_zip),
    _Tool("bsdtar", _bsdtar),
)
"""In the order in which they are tried: the one by RAR's author first."""

RAR_PROGRAMS = tuple(tool.program for tool in _TOOLS)
"""Names of the programs that can unpack RAR."""

INSTRUCTIONS = (
    "install one of them: apt install unrar (Debian, Ubuntu; or unar, libarchive-tools), dnf"
    " install unar or bsdtar (Fedora), conda install -c conda-forge p7zip or libarchive (7z,"
    " bsdtar), brew install unar (macOS; its bsdtar is there already)"
)


def require_rar_tool() -> None:
    """Say early that nothing here can unpack RAR.

    Raises:
        DataError: with the names of what to install.
    """
    if not any(shutil.which(program) for program in RAR_PROGRAMS):
        raise DataError(
            f"RAR archives need an outside program, and none of {', '.join(RAR_PROGRAMS)} is here;"
            f" {INSTRUCTIONS}"
        )


def unpack_rar(
    archive: Path,
    folder: Path,
    files: int,
    is_complete: Callable[[], None],
    *,
    progress: bool | None,
) -> None:
    """Unpack into an empty folder, with the first tool that can.

    A tool counts as able if it reports success and ``is_complete`` agrees: some lack RAR, or one of
    its methods, some fail at names, and not all of them report it.

    Args:
        archive: a RAR archive whose members have been found safe.
        folder: empty; emptied between tools.
        files: how many there are, for the progress bar.
        is_complete: raises DataError if the folder does not hold what it should.
        progress: show a bar; None: if standard error is a terminal.

    Raises:
        DataError: no tool is there, or none could.
    """
    require_rar_tool()
    failures = []
    for tool in _TOOLS:
        program = shutil.which(tool.program)
        if program is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [program, *tool.arguments(archive.resolve(), folder.resolve())]
        status, said = _run(command, files, progress)
        problem = f"it failed with status {status}" if status else None
        try:
            is_complete()
        except DataError as error:
            problem = str(error)
        if problem is None:
            return
        failures.append(f"{tool.program}: {problem} (it said: {said})")
        log.warning("%s could not unpack %s", tool.program, archive)
    raise DataError(
        f"{archive} could not be unpacked:\n  " + "\n  ".join(failures) + "\n  If two programs say"
        " the same it is damaged: delete it and download it again. Another program may be able to:"
        f" {INSTRUCTIONS}"
    )


def _run(command: list[str], files: int, progress: bool | None) -> tuple[int, str]:
    """Run a tool to its end; returns its exit status and the last lines that it printed."""
    last: deque[str] = deque(maxlen=3)
    with (
        tqdm(
            desc=f"unpacking with {Path(command[0]).name}",
            total=files,
            unit="file",
            disable=None if progress is None else not progress,
        ) as bar,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,  # whatever it asks, nobody answers
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last.append(line.strip())
                bar.update(min(1, files - bar.n))
    return process.returncode, " | ".join(last) or "nothing"


# ----------------------------------------
# Tar archives, plain or compressed by gzip, bzip2 or xz: what is in them, and their content.
#
# A tar has no directory, and only its headers have checksums. So it is read to its end before
# anything is written: then every header is in order, nothing is missing behind the last one, and
# the compression's own checksum holds.


_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

COMPRESSED_SIGNATURES = tuple(_OPENERS)
"""First bytes of what a tar may be compressed by."""

_CHUNK = 1 << 20


def is_tar_header(block: bytes) -> bool:
    """Whether a file that begins like this is a tar (not a compressed one)."""
    try:
        tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def tar_members(archive: Path) -> Iterator[Member]:
    """Every entry in order; the whole archive is read on the way.

    Raises:
        DataError: it is damaged, cut off, or not a tar once decompressed.
    """
    with reported_damage(archive), _decompressed(archive) as stream:
        try:
            file = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (it has no file of its own)
        except tarfile.ReadError as error:
            raise DataError(
                f"{archive} is compressed, but what is in it is no tar archive ({error}); check"
                " whether it is the right file, or download it again"
            ) from error
        for entry in file:
            if entry.size < 0:
                raise damaged(archive, f"{entry.name!r} has a negative size")
            yield _member_tar_files(entry)
        # tarfile takes an unreadable header, or none, for the end: the end is a block of zeros.
        stream.seek(file.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise damaged(archive, "it does not end where a tar archive ends")
        while stream.read(_CHUNK):  # at its end the checksum is compared
            pass


def tar_contents(archive: Path) -> Generator[IO[bytes], None, None]:
    """The content of every file, in the order of ``tar_members``; owners and rights are ignored."""
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as file:
        for entry in file:
            content = file.extractfile(entry) if entry.isreg() else None
            if content is not None:
                with content:
                    yield content


@contextmanager
def _decompressed(archive: Path) -> Iterator[BufferedIOBase]:
    with archive.open("rb") as file:
        head = file.read(max(map(len, COMPRESSED_SIGNATURES)))
    for signature, opener in _OPENERS.items():
        if head.startswith(signature):
            with opener(archive) as stream:
                yield stream
            return
    with archive.open("rb") as stream:
        yield stream


def _member_tar_files(entry: tarfile.TarInfo) -> Member:
    if entry.isdir():
        return Member(entry.name, 0, "folder")
    if entry.isreg():
        return Member(entry.name, entry.size, "file")
    return Member(entry.name, 0, "special")  # hard links too: they lead to another member, or out


# ----------------------------------------
# Zip archives: what is in them, and the content of their files.


_ENCRYPTED = 0x1


def zip_members(archive: Path) -> Iterator[Member]:
    """Every entry, as the archive's directory lists them.

    Raises:
        DataError: it is damaged or encrypted.
    """
    with reported_damage(archive), zipfile.ZipFile(archive) as file:
        entries = file.infolist()
    for entry in entries:
        yield _member_zip_files(archive, entry)


def zip_contents(archive: Path) -> Generator[IO[bytes], None, None]:
    """The content of every file, in the order of ``zip_members``; zipfile checks sizes and sums."""
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if not entry.is_dir():
                with file.open(entry) as content:
                    yield content


def _member_zip_files(archive: Path, entry: zipfile.ZipInfo) -> Member:
    if entry.flag_bits & _ENCRYPTED:
        raise DataError(f"{archive} is encrypted; unpack it by hand")
    unix = stat.S_IFMT(entry.external_attr >> 16)
    if unix not in (0, stat.S_IFREG, stat.S_IFDIR):
        return Member(entry.filename, 0, "special")
    if entry.is_dir():
        return Member(entry.filename, 0, "folder")
    return Member(entry.filename, entry.file_size, "file")


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
