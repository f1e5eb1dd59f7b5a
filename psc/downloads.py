"""Files from the web: resumed where they broke off, checked, and there only when they are whole."""

import hashlib
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from tqdm import tqdm

from psc.disk_space import in_words, require_free_space
from psc.errors import DataError
from psc.locks import holder, try_lock
from psc.partial_files import PartialFile, RemoteFile, remote_file

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
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
        while chunk := response.read1(_CHUNK):  # what is there; read would wait
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
