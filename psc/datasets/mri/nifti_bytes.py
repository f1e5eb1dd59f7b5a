"""The bytes of a NIfTI file: unpacked whole on reading, replaced in one step on writing."""

import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

from psc.datasets.volumes import FileRecord
from psc.errors import DataError

__all__ = ["GZIP_SUFFIX", "SUFFIXES", "nifti_version", "read_bytes", "write_bytes"]

GZIP_SUFFIX = ".gz"
SUFFIXES = (".nii", ".nii.gz")
"""Names that NIfTI files end with."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LEVEL = 6

# (first byte, magic, version, whether voxels lie in a file of their own); the magics are those of
# nifti1.h and nifti2.h.
_MAGICS = (
    (344, b"n+1\x00", 1, False),
    (344, b"ni1\x00", 1, True),
    (4, b"n+2\x00\r\n\x1a\n", 2, False),
    (4, b"ni2\x00\r\n\x1a\n", 2, True),
)
_HEADER_SIZES = {1: 348, 2: 540}

_FOREIGN: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"NRRD": "an NRRD volume; convert it to NIfTI",
    b"\x00\x00\x00\x01\x00\x00": "perhaps a FreeSurfer .mgz; convert it with mri_convert",
    b"\x89HDF": "HDF5 (perhaps MINC-2); convert it to NIfTI",
    b"CDF": "NetCDF (perhaps MINC-1); convert it to NIfTI",
    b"version https://git-lfs": "a Git LFS pointer, not the data; run git lfs pull",
    b"<": "a web page (the server's error message, perhaps); download it again",
}


def read_bytes(path: Path) -> tuple[bytes, FileRecord]:
    """A file's content, unpacked if it is a gzip, and the record of the file as it is stored.

    The whole gzip is unpacked, so that its checksum is compared: readers that stop after the last
    voxel never reach it.

    Raises:
        DataError: the file is missing, unreadable, empty, or a truncated or damaged gzip.
    """
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {what}; correct the path, or download the data first")
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); correct its permissions") from error
    if not stored:
        raise DataError(f"{path} is empty; download or copy it again")
    record = FileRecord(
        name=path.name, bytes=len(stored), sha256=hashlib.sha256(stored).hexdigest()
    )
    if not stored.startswith(_GZIP_MAGIC):
        return stored, record
    try:
        return gzip.decompress(stored), record
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} ({len(stored)} bytes) is truncated or damaged (gzip says: {error});"
            " download or copy it again"
        ) from error


def nifti_version(content: bytes, path: Path) -> int:
    """1 or 2, by the magic bytes of a header with its voxels in the same file.

    Args:
        content: the unpacked file.
        path: its name, for the message.

    Raises:
        DataError: it is something else; the message says what, where that can be told.
    """
    for first, magic, version, apart in _MAGICS:
        if content[first : first + len(magic)] != magic:
            continue
        if apart:
            raise DataError(
                f"{path} is the header of a NIfTI pair (.hdr and .img); convert the pair into one"
                " .nii.gz, for example with fslchfiletype NIFTI_GZ"
            )
        if len(content) < _HEADER_SIZES[version]:
            break
        return version
    raise DataError(f"{path} is not a NIfTI file: {_what_it_is(content, path)}")


def _what_it_is(content: bytes, path: Path) -> str:
    for magic, meaning in _FOREIGN.items():
        if content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic) or content.startswith(magic):
            return f"it is {meaning}"
    if content[128:132] == b"DICM":
        return "it is a DICOM image; convert the series with dcm2niix"
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        return "it belongs to a pair (.hdr and .img); convert the pair into one .nii.gz"
    if content[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # 348, Analyze's header size
        return "it looks like an Analyze 7.5 header; convert it into one .nii.gz"
    return f"it begins with the bytes {content[:8].hex(' ')}; check where it came from"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, as a gzip if its name ends with .gz.

    The same content makes the same file: no time and no name go into the gzip. An existing file
    is replaced once the new one is complete; nothing is left behind otherwise.

    Raises:
        DataError: ``path`` does not end with .nii or .nii.gz, or the disk refuses or is full.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: the name must end with {' or '.join(SUFFIXES)}; rename it")
    if path.name.lower().endswith(GZIP_SUFFIX):
        content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what failed
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DataError(
                f"could not write {path}: {error}; free disk space or correct the folder's"
                " permissions, and run it again"
            ) from error
        raise
