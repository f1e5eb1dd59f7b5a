"""RAR archives, written by hand: files stored as they are. Real tools read them."""

import struct
import zlib

UNIX, WINDOWS = 3, 2
LINK = 0o120777


def rar4(entries, *, flags=0, end=True):
    """An archive of RAR 3 and 4.

    Args:
        entries: dictionaries with name, and content, or folder=True, or attributes.
        flags: of the archive.
        end: whether it has an end block, which old ones have not.
    """
    parts = [b"Rar!\x1a\x07\x00", _block4(0x73, flags, bytes(6))]
    for entry in entries:
        parts += _file4(**entry)
    return b"".join([*parts, _block4(0x7B, 0x4000, b"") if end else b""])


def _block4(kind, flags, rest):
    head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head


def _file4(name, content=b"", *, folder=False, attributes=None, system=UNIX, flags=0, high=None):
    # The format has \ between parts, on every system; unar insists.
    raw = name if isinstance(name, bytes) else name.replace("/", "\\").encode()
    if attributes is None:
        attributes = (0o040755 if folder else 0o100644) if system == UNIX else 0x20
    size = len(content)
    rest = struct.pack("<IIBIIBBHI", size, size, system, zlib.crc32(content), 0x4C8F6000, 20, 0x30,
                       len(raw), attributes)  # fmt: skip
    rest += b"" if high is None else struct.pack("<II", *high)  # halves of packed and whole size
    flags |= 0x8000 | (0xE0 if folder else 0) | (0 if high is None else 0x100)
    return _block4(0x74, flags, rest + raw), content


def rar5(entries, *, flags=0):
    """An archive of RAR 5; arguments as ``rar4`` has them."""
    parts = [b"Rar!\x1a\x07\x01\x00", _block5(1, 0, number(flags))]
    for entry in entries:
        parts += _file5(**entry)
    return b"".join([*parts, _block5(5, 0, number(0))])


def number(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _block5(kind, flags, rest, extra=b"", size=None):
    flags |= (1 if extra else 0) | (2 if size is not None else 0)
    head = number(kind) + number(flags)
    head += number(len(extra)) if extra else b""
    head += number(size) if size is not None else b""
    head += rest + extra
    head = number(len(head)) + head
    return struct.pack("<I", zlib.crc32(head)) + head


def _file5(name, content=b"", *, folder=False, attributes=None, system=UNIX, flags=0, extra=b""):
    raw = name.encode()
    unix = system == UNIX
    if attributes is None:
        attributes = (0o040755 if folder else 0o100644) if unix else 0x20
    rest = number(1 if folder else 4) + number(len(content)) + number(attributes)
    rest += b"" if folder else struct.pack("<I", zlib.crc32(content))
    rest += number(0) + number(1 if unix else 0) + number(len(raw)) + raw
    return _block5(2, flags, rest, extra, len(content)), content


def redirection(kind, target):
    """The extra area of a RAR 5 link: kind 1 is a symbolic link of Unix, 5 a copy."""
    raw = target.encode()
    record = number(5) + number(kind) + number(0) + number(len(raw)) + raw
    return number(len(record)) + record


def encryption():
    """The extra area of an encrypted file of RAR 5."""
    record = number(1) + number(0) + number(0) + bytes(1 + 16 + 16)  # rounds, salt, start
    return number(len(record)) + record
