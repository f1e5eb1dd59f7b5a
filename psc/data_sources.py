"""Where every file of every data set comes from (data/sources.yaml), and what was fetched."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from psc.downloads import Downloaded, download
from psc.errors import DataError

PROJECT = Path(__file__).resolve().parents[1]
"""The checkout: data/ lies here."""

SOURCES = PROJECT / "data" / "sources.yaml"

RECORD = "downloads.json"
"""File, in a data set's folder, that says what was fetched into it."""

_UNKNOWN = "unknown"
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set, as the list describes it.

    Attributes:
        path: where it goes, relative to the data set's folder.
        url: where it is.
        rounded_size: bytes, as exactly as a person wrote them down; None where unknown.
        sha256: checksum in hexadecimal; None where unknown.
    """

    path: Path
    url: str
    rounded_size: int | None
    sha256: str | None


def source_files(data_set: str, listing: Path = SOURCES) -> list[SourceFile]:
    """The files of a data set.

    Args:
        data_set: a key of the list, and the name of its folder in data/.
        listing: the list.

    Raises:
        DataError: the list cannot be read, or has no such data set, or an entry is incomplete.
    """
    try:
        content = yaml.safe_load(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{listing} cannot be read ({error}); restore it") from error
    entries = content.get(data_set) if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not isinstance(entries.get("files"), list):
        raise DataError(f"{listing}: has no files of {data_set!r}; restore it")
    return [_source_file(data_set, listing, entry) for entry in entries["files"]]


def fetch(source: SourceFile, folder: Path, *, progress: bool | None = None) -> Downloaded:
    """Download a file of a data set to its place, and note in ``RECORD`` what came.

    Args:
        source: the file.
        folder: the data set's.
        progress: as for ``psc.downloads.download``.

    Raises:
        DataError: as ``psc.downloads.download``.
    """
    found = download(source.url, folder / source.path, sha256=source.sha256, progress=progress)
    if found.fetched:
        _note(source, found, folder / RECORD)
    return found


def _note(source: SourceFile, found: Downloaded, record: Path) -> None:
    """Add a file to the record of a folder, or replace what it said of it."""
    try:
        notes = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes = {}
    notes[source.path.as_posix()] = {
        "url": source.url,
        "bytes": found.size,
        "sha256": found.sha256,
        "last_modified": found.modified,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    temporary = record.with_name(f"{record.name}.tmp")
    try:
        temporary.write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
        temporary.replace(record)
    except OSError as error:
        raise DataError(
            f"{record} cannot be written: {error.strerror}; {found.path} is there, but where it"
            " came from is not noted. Make room or correct the permissions"
        ) from error


def _source_file(data_set: str, listing: Path, entry: Any) -> SourceFile:
    try:
        path = Path(entry["path"]).relative_to(f"data/{data_set}")
        url, size, sha256 = str(entry["url"]), str(entry["size"]), str(entry["sha256"])
        number = re.fullmatch(rf"([0-9.]+) ({'|'.join(_UNITS)})|{_UNKNOWN}", size)
        if number is None or not re.fullmatch(f"[0-9a-f]{{64}}|{_UNKNOWN}", sha256):
            raise ValueError(f"size {size!r} or sha256 {sha256!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{listing}: an entry of {data_set} is wrong ({error}): {entry}; each has path below"
            f" data/{data_set}/, url, size (as '6.5 GB') and sha256, the last two perhaps"
            f" {_UNKNOWN!r}"
        ) from error
    return SourceFile(
        path=path,
        url=url,
        rounded_size=round(float(number[1]) * _UNITS[number[2]]) if number[1] else None,
        sha256=None if sha256 == _UNKNOWN else sha256,
    )
