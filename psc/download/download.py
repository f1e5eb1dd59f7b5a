"""Files from the web: resumed where they broke off, checked, and there only when they are whole."""

import hashlib
import http.client
import json
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml
from tqdm import tqdm

from psc.errors import DataError
from psc.files import holder, in_words, require_free_space, try_lock

# ----------------------------------------
# What has arrived of a download, and of which version of the file on the server it is a part.
#
# ``NAME.partial`` holds the bytes, ``NAME.partial.json`` what the server said of the whole. Both
# survive a kill; the second tells whether bytes that come later belong to those of the first.


_CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A version of a file, as its server describes it.

    Attributes:
        url: its address.
        size: bytes of the whole; None if the server does not say.
        etag: the server's name of this version; weak ones, which do not promise equal bytes, are
            left out.
        modified: Last-Modified.
    """

    url: str
    size: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """What If-Range asks for (RFC 9110, Section 13.1.5)."""
        return self.etag or self.modified

    def may_be(self, other: "RemoteFile") -> bool:
        """Whether nothing that both say contradicts that they are the same version."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return all(one == two for one, two in pairs if one is not None and two is not None)


def remote_file(url: str, response: HTTPResponse) -> tuple[RemoteFile, int]:
    """The version that an answer is of, and at which byte of it the answer's body begins."""
    start, size = 0, response.headers["Content-Length"]
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        parts = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        # -1 is no offset of ours: an answer that says nothing is of no use.
        start, size = (int(parts[1]), parts[2]) if parts else (-1, None)
    etag = response.headers["ETag"]
    return RemoteFile(
        url=url,
        size=int(size) if size is not None and size.isdecimal() else None,
        etag=etag if etag and not etag.startswith("W/") else None,
        modified=response.headers["Last-Modified"],
    ), start


class PartialFile:
    """The beginning of a file at ``path``, appended to until it is whole; a context manager.

    Attributes:
        size: bytes that are there.
        remote: the version they are of; None while there are none.
        joined: whether they may be of more than one answer, so that a wrong checksum may be due to
            the joining.

    Raises:
        DataError: from every method, if the disk refuses or is full; what is there stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._state = path.with_name(f"{path.name}.partial.json")
        self._digest = hashlib.sha256()
        self.size = 0
        self.remote = self._read_state()
        try:
            # Unbuffered, so that a full disk is noticed by the write that fills it.
            self._file = self._partial.open("ab+", buffering=0)
            if self.remote is None:
                self._file.truncate(0)  # nobody knows of what these bytes were
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                self._digest.update(chunk)
                self.size += len(chunk)
        except OSError as error:
            raise self._failure(error) from error
        self.joined = self.size > 0

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self.remote is None:
            self._partial.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Checksum of what is there."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Forget what is there."""
        try:
            self._state.unlink(missing_ok=True)
            self._file.truncate(0)
        except OSError as error:
            raise self._failure(error) from error
        self._digest = hashlib.sha256()
        self.size, self.remote, self.joined = 0, None, False

    def begin(self, remote: RemoteFile) -> None:
        """Start anew with a version of the file."""
        self.discard()
        try:
            temporary = self._state.with_name(f"{self._state.name}.tmp")
            temporary.write_text(json.dumps(asdict(remote)), encoding="utf-8")
            temporary.replace(self._state)
        except OSError as error:
            raise self._failure(error) from error
        self.remote = remote

    def append(self, chunk: bytes) -> None:
        """Write the next bytes."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failure(error) from error
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Give the whole file its name, in one step."""
        self._move(self.path)

    def set_aside(self) -> Path:
        """Keep a file that is not what it should be, under another name; returns that."""
        aside = self.path.with_name(f"{self.path.name}.rejected")
        self._move(aside)
        return aside

    def _move(self, target: Path) -> None:
        try:
            os.fsync(self._file.fileno())
            self._partial.replace(target)
            self._state.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error) from error
        self.remote = None

    def _read_state(self) -> RemoteFile | None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            return RemoteFile(**state)
        except (OSError, ValueError, TypeError):
            return None

    def _failure(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be written: {error.strerror or error};"
            f" {in_words(self.size)} have arrived. Make room or correct the folder's permissions,"
            " then run again: it goes on from there"
        )


log = logging.getLogger(__name__)

_CHUNK_downloads = 1 << 18
_LONGEST_PAUSE = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that may be better in a moment."""

_RANGE_REFUSED = 416


@dataclass(frozen=True)
class Patience:
    """How long a download bears with a server or a network that fails.

    Attributes:
        attempts: how many in a row may fail; one that brought new bytes counts as the first.
        first_pause: seconds before the second attempt, doubled for each further one.
        timeout: seconds without a byte after which a connection counts as broken.
    """

    attempts: int = 6
    first_pause: float = 1.0
    timeout: float = 60.0


@dataclass(frozen=True)
class Downloaded:
    """A file that is on disk and whole.

    Attributes:
        path: where it is.
        size: bytes.
        sha256: checksum of what is on disk, in hexadecimal.
        fetched: False if it was there already.
        modified: the server's Last-Modified; None if it does not say, or nothing was fetched.
    """

    path: Path
    size: int
    sha256: str
    fetched: bool
    modified: str | None = None


class _BrokenError(Exception):
    """An attempt that failed in a way that another one may not."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool | None = None,
    patience: Patience | None = None,
) -> Downloaded:
    """Fetch a file, unless it is there.

    What arrives goes to ``path.partial`` and takes its name when it is whole and right. A broken
    connection is taken up where it broke (as is a killed process, by the next call), if the server
    can do that and still has the same version; else the file is fetched anew. A whole file with
    another checksum or size is kept as ``path.rejected``. A file that is there already and right
    causes no request; one that is there and wrong is never touched.

    Args:
        url: http or https address.
        path: where the file shall be; its folder is made.
        size: bytes, where they are known exactly.
        sha256: checksum in hexadecimal, where it is known.
        progress: a progress bar with the remaining time; None: if standard error is a terminal.
        patience: how long to bear with failures.

    Raises:
        DataError: the server refuses, there is no connection, the disk has no room, the file is
            not what it should be (or one that is there is not), or another process fetches it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: not an address that starts with http:// or https://")
    if path.exists():
        return _present(url, path, size, sha256)
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = try_lock(lock_path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; correct the folder or its permissions"
        ) from error
    if lock is None:
        raise DataError(f"{path} is being downloaded by {holder(lock_path)}; wait until it ends")
    quiet = None if progress is None else not progress
    bar: tqdm[NoReturn] = tqdm(desc=path.name, unit="B", unit_scale=True, miniters=1, disable=quiet)
    with lock, bar:
        if path.exists():  # another process has just finished
            return _present(url, path, size, sha256)
        with PartialFile(path) as partial:
            _Download(url, partial, size, sha256, patience or Patience(), bar).run()
            modified = partial.remote.modified if partial.remote else None
            partial.finish()
            return Downloaded(path, partial.size, partial.sha256, fetched=True, modified=modified)


def _present(url: str, path: Path, size: int | None, sha256: str | None) -> Downloaded:
    if not path.is_file():
        raise DataError(f"{path} is a folder, but {url} shall be written there; move it away")
    with path.open("rb") as file:
        found = Downloaded(
            path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), False
        )
    if problem := _difference(found.size, found.sha256, size, sha256):
        raise DataError(
            f"{path} is there, but {problem}; it may be damaged or of another version. Move it"
            f" away or delete it, and it will be fetched from {url}"
        )
    return found


def _difference(
    found_size: int, found_sha256: str, size: int | None, sha256: str | None
) -> str | None:
    """How a file differs from what is known of it, None if it does not."""
    if size is not None and found_size != size:
        return f"has {found_size} bytes instead of {size}"
    if sha256 is not None and found_sha256 != sha256.lower():
        return f"its sha256 is {found_sha256} instead of {sha256.lower()}"
    return None


class _Download:
    """One download: attempts, until the partial file is whole and right."""

    def __init__(
        self,
        url: str,
        partial: PartialFile,
        size: int | None,
        sha256: str | None,
        patience: Patience,
        bar: "tqdm[NoReturn]",
    ) -> None:
        self._url, self._partial, self._bar = url, partial, bar
        self._size, self._sha256, self._patience = size, sha256, patience
        if partial.remote is not None and partial.remote.url != url:
            partial.discard()

    def run(self) -> None:
        while True:
            self._persist()
            partial = self._partial
            problem = _difference(partial.size, partial.sha256, self._size, self._sha256)
            if problem is None:
                return
            if not partial.joined:
                aside = partial.set_aside()
                raise DataError(
                    f"{self._url}: what the server sent {problem}; kept as {aside} for you to look"
                    " at. Try again; if it stays so, the file has been replaced there or a proxy"
                    " sends a page of its own"
                )
            log.warning("%s: joined from pieces, it %s; starting again", partial.path, problem)
            partial.discard()

    def _persist(self) -> None:
        """Attempts until the file is whole; progress renews the patience."""
        failures, most = 0, self._partial.size
        while not self._is_whole():
            try:
                self._attempt()
                return
            except _BrokenError as error:
                failures = failures + 1 if self._partial.size <= most else 1
                most = max(most, self._partial.size)
                if failures >= self._patience.attempts:
                    raise DataError(
                        f"{self._url}: {error} ({failures} attempts); {in_words(most)} have"
                        " arrived. Check the network, then run again: it goes on from there"
                    ) from error
                pause = max(self._patience.first_pause * 2 ** (failures - 1), error.pause)
                pause = min(pause, _LONGEST_PAUSE)
                log.warning("%s: %s; trying again in %g s", self._url, error, pause)
                time.sleep(pause)

    def _is_whole(self) -> bool:
        remote = self._partial.remote
        return remote is not None and remote.size == self._partial.size

    def _attempt(self) -> None:
        """One request; raises ``_BrokenError`` if it brought less than the whole."""
        headers = {"User-Agent": "psc downloads", "Accept-Encoding": "identity"}
        validator = self._partial.remote.validator if self._partial.remote else None
        if validator is None and self._sha256 is None:
            self._partial.discard()  # nothing could tell whether the rest belongs to what is there
        if self._partial.size:
            headers["Range"] = f"bytes={self._partial.size}-"
            if validator:
                headers["If-Range"] = validator
        request = urllib.request.Request(self._url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self._patience.timeout) as response:
                self._receive(response)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DataError(
                    f"{self._url}: the server's certificate cannot be verified"
                    f" ({reason.verify_message}). Name a file of certificates that covers it in"
                    " SSL_CERT_FILE, or fetch the file in your own way and put it at"
                    f" {self._partial.path}"
                ) from error
            raise _BrokenError(f"no connection, or it broke: {reason or type(reason)}") from error

    def _receive(self, response: http.client.HTTPResponse) -> None:
        remote, start = remote_file(self._url, response)
        self._check(remote, response)
        partial = self._partial
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            if start != partial.size or partial.remote is None or not partial.remote.may_be(remote):
                partial.discard()
                raise _BrokenError("the file there has changed, or another part was sent")
            partial.joined = True
        else:  # the whole: at first, or because the server cannot resume, or has a new version
            partial.begin(remote)
        if remote.size is not None:
            rest = remote.size - partial.size
            require_free_space(partial.path.parent, rest, f"{self._url} (what is left of it)")
        self._bar.reset(remote.size)
        self._bar.initial = self._bar.n = partial.size
        self._bar.refresh()
        while chunk := response.read1(_CHUNK_downloads):  # what is there; read would wait
            partial.append(chunk)
            self._bar.update(len(chunk))
            if self._size is not None and partial.size > self._size:
                break  # it will be refused; no need to have all of it
        if remote.size is not None and partial.size < remote.size:
            raise _BrokenError(f"it broke off after {partial.size} of {remote.size} bytes")

    def _check(self, remote: RemoteFile, response: http.client.HTTPResponse) -> None:
        """Refuse an answer that cannot be the file, before anything is written."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DataError(f"{self._url}: the server sends it as {encoding}, which was not asked")
        if self._size is not None and remote.size not in (None, self._size):
            raise DataError(
                f"{self._url}: has {remote.size} bytes there instead of {self._size}; it has been"
                " replaced, or a proxy sends a page of its own"
            )
        unknown = remote.size is None and self._size is None and self._sha256 is None
        if unknown and not response.chunked:
            raise DataError(
                f"{self._url}: the server does not say how large it is, and nothing else is known,"
                " so nobody could tell whether it has arrived whole; fetch it in your own way and"
                f" put it at {self._partial.path}"
            )

    def _refused(self, error: urllib.error.HTTPError) -> None:
        """Turn an answer that is no file into an exception."""
        reason = f"the server answers {error.code} {error.reason}"
        if error.code == _RANGE_REFUSED and self._partial.size:
            self._partial.discard()
            raise _BrokenError("the file there is shorter than what has arrived") from error
        if error.code in _PASSING:
            wait = error.headers.get("Retry-After", "")
            pause = float(wait) if wait.isdecimal() else 0.0
            raise _BrokenError(reason, pause) from error
        raise DataError(
            f"{self._url}: {reason}; look in a browser whether the file has moved, and put it at"
            f" {self._partial.path}, or correct the address"
        ) from error


# ----------------------------------------
# Where every file of every data set comes from (data/sources.yaml), and what was fetched.


PROJECT = Path(__file__).resolve().parents[2]
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
        progress: as for ``psc.download.download.download``.

    Raises:
        DataError: as ``psc.download.download.download``.
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
