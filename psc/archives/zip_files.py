"""Zip archives: what is in them, and the content of their files."""

import stat
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from psc.archives.damage import reported_damage
from psc.archives.members import Member
from psc.errors import DataError

_ENCRYPTED = 0x1


def zip_members(archive: Path) -> Iterator[Member]:
    """Every entry, as the archive's directory lists them.

    Raises:
        DataError: it is damaged or encrypted.
    """
    with reported_damage(archive), zipfile.ZipFile(archive) as file:
        entries = file.infolist()
    for entry in entries:
        yield _member(archive, entry)


def zip_contents(archive: Path) -> Generator[IO[bytes], None, None]:
    """The content of every file, in the order of ``zip_members``; zipfile checks sizes and sums."""
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if not entry.is_dir():
                with file.open(entry) as content:
                    yield content


def _member(archive: Path, entry: zipfile.ZipInfo) -> Member:
    if entry.flag_bits & _ENCRYPTED:
        raise DataError(f"{archive} is encrypted; unpack it by hand")
    unix = stat.S_IFMT(entry.external_attr >> 16)
    if unix not in (0, stat.S_IFREG, stat.S_IFDIR):
        return Member(entry.filename, 0, "special")
    if entry.is_dir():
        return Member(entry.filename, 0, "folder")
    return Member(entry.filename, entry.file_size, "file")
