"""Tar archives, plain or compressed by gzip, bzip2 or xz: what is in them, and their content.

A tar has no directory, and only its headers have checksums. So it is read to its end before
anything is written: then every header is in order, nothing is missing behind the last one, and the
compression's own checksum holds.
"""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from psc.archives.damage import damaged, reported_damage
from psc.archives.members import Member
from psc.errors import DataError

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
            yield _member(entry)
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


def _member(entry: tarfile.TarInfo) -> Member:
    if entry.isdir():
        return Member(entry.name, 0, "folder")
    if entry.isreg():
        return Member(entry.name, entry.size, "file")
    return Member(entry.name, 0, "special")  # hard links too: they lead to another member, or out
