"""Locks between processes: a file that one of them holds and the kernel frees when it ends.

However a process ends, killed included, its locks are free again: nothing is ever stale.
"""

import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

_PAUSE = 0.2  # seconds


class FileLock:
    """A lock that this process holds; from ``try_lock``. A context manager that releases it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go and remove the file."""
        self._path.unlink(missing_ok=True)  # first, while nobody else can hold it
        os.close(self._descriptor)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def try_lock(path: Path) -> FileLock | None:
    """Lock a file that exists for nothing else; its folder is made.

    On a file system without locks every process gets one, with a warning.

    Returns:
        The lock, or None while another process (or another call in this one) holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no run twice", path, error)
        if _is(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it between our opening and our locking
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return FileLock(path, descriptor)


def wait_for_lock(path: Path) -> FileLock:
    """Lock a file as ``try_lock`` does, after everybody who holds it; says once that it waits."""
    lock = try_lock(path)
    if lock is None:
        log.info("waiting for %s, who holds %s", holder(path), path)
    while lock is None:
        time.sleep(_PAUSE)
        lock = try_lock(path)
    return lock


def holder(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
