"""A folder that is replaced as a whole: at every moment the old one or the new one is there.

No file system of ours exchanges two folders at once. The old one is set aside as ``.NAME.previous``
until the new one is in its place; whoever is killed in between leaves it there to be recovered.
"""

import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from psc.errors import DataError

# ----------------------------------------
# Whether a disk has room, asked before anything large is written.


def require_free_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: where it will be written; need not exist yet.
        needed: bytes.
        purpose: what needs them, the subject of the message.

    Raises:
        DataError: fewer bytes are free on the disk of ``folder``.
    """
    folder = folder.absolute()
    present = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(present).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {in_words(needed)} in {folder}, but {in_words(free)} are free there;"
            f" free {in_words(needed - free)} or choose another folder"
        )


def in_words(size: int) -> str:
    """Bytes as a person reads them: ``in_words(6_500_000_000) == "6.5 GB"`` (powers of 1000)."""
    if size < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


# ----------------------------------------
# Locks between processes: a file that one of them holds and the kernel frees when it ends.
#
# However a process ends, killed included, its locks are free again: nothing is ever stale.


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


def replace_folder(complete: Path, place: Path) -> None:
    """Move a complete folder to its place; what was there is removed after that.

    Args:
        complete: on the same disk as ``place``.
        place: nothing, or the folder to replace.

    Raises:
        OSError: it cannot be moved; what was there is there again.
    """
    previous = _previous(place)
    if place.exists():
        place.rename(previous)
    try:
        complete.rename(place)
    except BaseException:
        if previous.exists():
            previous.rename(place)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(place: Path, is_complete: Callable[[Path], bool]) -> None:
    """Bring back, or remove, what a killed ``replace_folder`` left aside; usually nothing.

    Args:
        place: the folder's.
        is_complete: whether the folder that is there now is the new one.

    Raises:
        DataError: something else has come to lie there meanwhile.
    """
    previous = _previous(place)
    if not previous.exists():
        return
    if not place.exists() or is_empty(place):
        previous.rename(place)
    elif is_complete(place):
        shutil.rmtree(previous)
    else:
        raise DataError(
            f"{previous} is what {place} was before, but {place} holds something else now; move one"
            " of them away"
        )


def is_empty(folder: Path) -> bool:
    """Whether this is a folder with nothing in it."""
    return folder.is_dir() and not any(folder.iterdir())


def _previous(place: Path) -> Path:
    return place.with_name(f".{place.name}.previous")
