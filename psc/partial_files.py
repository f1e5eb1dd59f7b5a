"""What has arrived of a download, and of which version of the file on the server it is a part.

``NAME.partial`` holds the bytes, ``NAME.partial.json`` what the server said of the whole. Both
survive a kill; the second tells whether bytes that come later belong to those of the first.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType

from psc.disk_space import in_words
from psc.errors import DataError

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
