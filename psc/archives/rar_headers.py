"""The table of contents of a RAR archive, read from its headers.

Unpacking is left to an outside tool; but what an archive holds, and whether that is safe, is known
before one is started, and does not depend on which. Both formats that are in use: RAR 1.5-4
("RAR4") and RAR 5. Layout: RARLAB's technical notes, https://www.rarlab.com/technote.htm.
"""

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from psc.archives.members import Member
from psc.errors import DataError

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
