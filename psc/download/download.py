"""Files from the web: resumed where they broke off, checked, and there only when they are whole.

What arrives lies in ``NAME.partial`` until it is whole and right; ``NAME.partial.json`` says of
which version of the file on the server it is the beginning. Both survive a kill.
"""

import http.client
import json
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml
from tqdm import tqdm

from psc.errors import DataError
from psc.files import PROJECT, in_words, locked, require_free_space, sha256_of, write_json, writing

log = logging.getLogger(__name__)

SOURCES = PROJECT / "data" / "sources.yaml"
"""Where every file of every data set comes from."""

_CHUNK = 1 << 18
_ATTEMPTS = 6  # that fail in a row; one that brought new bytes counts as the first
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before the second attempt, doubled for each further
_TIMEOUT = 60.0  # seconds without a byte after which a connection counts as broken
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that may be better in a moment
_VERSION = {"url", "size", "etag", "modified"}
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Downloaded:
    """A file that is on disk and whole: bytes, checksum of what is there, and where it comes from.

    ``fetched`` is False if it was there already; ``modified`` is the server's Last-Modified.
    """

    path: Path
    size: int
    sha256: str
    fetched: bool
    modified: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set, as data/sources.yaml describes it; None where a thing is unknown."""

    path: Path  # where it goes, relative to the data set's folder
    url: str
    rounded_size: int | None  # bytes, as exactly as a person wrote them down
    sha256: str | None  # in hexadecimal


def source_files(data_set: str, listing: Path = SOURCES) -> list[SourceFile]:
    """The files of a data set, which is a key of the list and the name of a folder in data/."""
    try:
        entries = yaml.safe_load(listing.read_text(encoding="utf-8"))[data_set]["files"]
        return [_source_file(Path("data") / data_set, entry) for entry in entries]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{listing} does not list the files of {data_set} ({what}), each with path below"
            f" data/{data_set}/, url, size (as '6.5 GB') and sha256, the last two perhaps"
            " 'unknown'; restore it"
        ) from error


def _source_file(folder: Path, entry: Mapping[str, Any]) -> SourceFile:
    path, url = Path(entry["path"]).relative_to(folder), str(entry["url"])
    size, sha256 = str(entry["size"]), str(entry["sha256"])
    number = re.fullmatch(rf"([0-9.]+) ({'|'.join(_UNITS)})|unknown", size)
    if number is None or not re.fullmatch("[0-9a-f]{64}|unknown", sha256):
        raise ValueError(f"size {size!r} or sha256 {sha256!r}")
    rounded_size = round(float(number[1]) * _UNITS[number[2]]) if number[1] else None
    return SourceFile(path, url, rounded_size, None if sha256 == "unknown" else sha256)


def fetch(source: SourceFile, folder: Path) -> Downloaded:
    """Download a file of a data set to its place, and note in downloads.json what came."""
    found = download(source.url, folder / source.path, sha256=source.sha256)
    if found.fetched:
        record = folder / "downloads.json"
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
        write_json(notes, record)
    return found


def download(url: str, path: Path, *, sha256: str | None = None) -> Downloaded:
    """Fetch a file, unless it is there.

    A broken connection is taken up where it broke (as is a killed process, by the next call), if
    the server can do that and still has the same version; else the file is fetched anew. A whole
    file with another checksum (hexadecimal, None where unknown) is kept as ``path.rejected``. A
    file that is there already and right causes no request; one that is there and wrong is never
    touched.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: not an address that starts with http:// or https://")
    sha256 = sha256.lower() if sha256 else None
    if path.exists():
        return _present(url, path, sha256)
    bar: tqdm[NoReturn] = tqdm(desc=path.name, unit="B", unit_scale=True, miniters=1, disable=None)
    lock = path.with_name(f"{path.name}.lock")
    # Errors of the disk: those of the network are _BrokenError.
    with writing(path), locked(lock, f"{path} is being downloaded"), bar:
        if path.exists():  # another process has just finished
            return _present(url, path, sha256)
        partial = _Partial(path, url)
        while True:
            _complete(partial, sha256, bar)
            found = sha256_of(partial.path)
            if sha256 in (None, found):
                partial.move(path)
                modified = partial.version["modified"]
                return Downloaded(path, path.stat().st_size, found, True, modified)
            problem = f"its sha256 is {found} instead of {sha256}"
            if not partial.joined:
                aside = partial.move(path.with_name(f"{path.name}.rejected"))
                raise DataError(
                    f"{url}: what the server sent is not the file: {problem}; kept as {aside} for"
                    " you to look at. Try again; if it stays so, the file has been replaced there"
                    " or a proxy sends a page of its own"
                )
            log.warning("%s: joined from pieces, %s; starting again", path, problem)
            partial.discard()


def _present(url: str, path: Path, sha256: str | None) -> Downloaded:
    if not path.is_file():
        raise DataError(f"{path} is a folder, but {url} shall be written there; move it away")
    found = sha256_of(path)
    if sha256 not in (None, found):
        raise DataError(
            f"{path} is there, but its sha256 is {found} instead of {sha256}; it may be damaged or"
            f" of another version. Move it away or delete it, and it will be fetched from {url}"
        )
    return Downloaded(path, path.stat().st_size, found, fetched=False)


class _Partial:
    """The beginning of a file that shall be at ``place``.

    ``version``: what the server said of the file that the bytes are of (url, size, etag, modified);
    None while there are none. ``joined``: they may be of more than one answer, so that a wrong
    checksum may be due to the joining.
    """

    def __init__(self, place: Path, url: str) -> None:
        self.place, self.url = place, url
        self.path = place.with_name(f"{place.name}.partial")
        self._state = place.with_name(f"{place.name}.partial.json")
        try:
            self.version = json.loads(self._state.read_text(encoding="utf-8"))
            known = self.version.keys() == _VERSION and self.version["url"] == url
        except (OSError, ValueError, AttributeError):
            known = False
        if not known:
            self.discard()  # nobody knows of what these bytes are
        self.joined = self.size > 0

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self._state.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.version, self.joined = None, False

    def begin(self, version: dict[str, Any]) -> None:
        self.discard()
        write_json(version, self._state)
        self.path.touch()
        self.version = version

    def append(self, chunk: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(chunk)

    def move(self, target: Path) -> Path:
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self._state.unlink(missing_ok=True)
        return target


class _BrokenError(Exception):
    """An attempt that failed in a way that another one, after a pause (seconds), may not."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def _complete(partial: _Partial, sha256: str | None, bar: "tqdm[NoReturn]") -> None:
    """Attempts until the file is whole; progress renews the patience."""
    failures, most = 0, partial.size
    while partial.version is None or partial.version["size"] != partial.size:
        try:
            _attempt(partial, sha256, bar)
            return
        except _BrokenError as error:
            failures = failures + 1 if partial.size <= most else 1
            most = max(most, partial.size)
            if failures >= _ATTEMPTS:
                raise DataError(
                    f"{partial.url}: {error} ({failures} attempts); {in_words(most)} have arrived."
                    " Check the network, then run again: it goes on from there"
                ) from error
            seconds = min(max(_PAUSE * 2 ** (failures - 1), error.pause), _LONGEST_PAUSE)
            log.warning("%s: %s; trying again in %g s", partial.url, error, seconds)
            time.sleep(seconds)


def _attempt(partial: _Partial, sha256: str | None, bar: "tqdm[NoReturn]") -> None:
    """One request; raises ``_BrokenError`` if it brings less than the whole."""
    # What If-Range asks for (RFC 9110, Section 13.1.5).
    validator = partial.version and (partial.version["etag"] or partial.version["modified"])
    if validator is None and sha256 is None:
        partial.discard()  # nothing could tell whether the rest belongs to what is there
    headers = {"User-Agent": "psc downloads", "Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(partial.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(partial, error) from error
    with response:
        _join(partial, response, trusted=sha256 is not None)
        whole = partial.version["size"]
        require_free_space(partial.path.parent, (whole or 0) - partial.size, partial.url)
        bar.reset(whole)
        bar.initial = bar.n = partial.size
        bar.refresh()
        while True:
            try:
                chunk = response.read1(_CHUNK)  # what is there; read would wait
            except (OSError, http.client.HTTPException) as error:
                raise _failure(partial, error) from error
            if not chunk:
                break
            partial.append(chunk)
            bar.update(len(chunk))
    if partial.size < (whole or 0):
        raise _BrokenError(f"it broke off after {partial.size} of {whole} bytes")


def _join(partial: _Partial, response: http.client.HTTPResponse, *, trusted: bool) -> None:
    """Go on with an answer if it is the rest of what is there; begin anew if it is a whole."""
    headers, url, place = response.headers, partial.url, partial.place
    if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
        raise DataError(f"{url}: the server sends it as {encoding}, which was not asked")
    start, length = 0, headers.get("Content-Length", "")
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        parts = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        start, length = (int(parts[1]), parts[2]) if parts else (-1, "")
    etag = headers.get("ETag", "W/")
    version = {
        "url": url,
        "size": int(length) if length.isdecimal() else None,
        "etag": None if etag.startswith("W/") else etag,  # a weak one does not promise equal bytes
        "modified": headers["Last-Modified"],
    }
    if version["size"] is None and not trusted and not response.chunked:
        raise DataError(
            f"{url}: the server does not say how large it is, and nothing else is known, so nobody"
            f" could tell whether it has arrived whole; fetch it in your own way and put it at"
            f" {place}"
        )
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        partial.begin(version)  # at first, or the server cannot resume, or has a new version
        return
    before = partial.version or {}
    if start != partial.size or any(
        None not in (before.get(key), said) and before[key] != said for key, said in version.items()
    ):
        partial.discard()
        raise _BrokenError("the file there has changed, or another part was sent")
    partial.joined = True


def _failure(partial: _Partial, error: Exception) -> Exception:
    """What a refusal, or a connection that fails, means."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and partial.size:
            partial.discard()
            return _BrokenError("the file there is shorter than what has arrived")
        if error.code in _PASSING:
            wait = error.headers.get("Retry-After", "")
            return _BrokenError(answer, float(wait) if wait.isdecimal() else 0.0)
        return DataError(
            f"{partial.url}: {answer}; look in a browser whether the file has moved, and put it at"
            f" {partial.place}, or correct the address"
        )
    reason: object = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DataError(
            f"{partial.url}: the server's certificate cannot be verified ({reason.verify_message})."
            " Name a file of certificates that covers it in SSL_CERT_FILE, or fetch the file in"
            f" your own way and put it at {partial.place}"
        )
    return _BrokenError(f"no connection, or it broke: {reason or type(reason)}")
