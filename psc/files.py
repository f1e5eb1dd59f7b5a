"""Files that are whole or not there, their checksum, locks between processes, room on a disk."""

import csv
import difflib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from psc.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_HELD = Path(__file__).resolve().with_name("project")
PROJECT = _HELD if _HELD.is_dir() else _HELD.parents[1]
"""The checkout, or what a wheel holds of it (setup.py): configs/, data/splits/, the programs."""

WORKPLACE = Path() if _HELD.is_dir() else PROJECT
"""Where data/ of the user's lies: in the checkout, else in the folder of work."""


_REMEDY = "make room or correct the permissions, then run again"


@contextmanager
def reading(path: Path, remedy: str = "correct the path or its permissions") -> Iterator[None]:
    """Around all that reads a file that a user names: what the system refuses is a DataError."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({why}); {remedy}") from error


@contextmanager
def writing(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Around all that writes: a full disk, or what else the system refuses, is a DataError.

    Not what it says of another file, which is read meanwhile.
    """
    try:
        yield
    except OSError as error:
        named, place = Path(str(error.filename)).absolute(), path.absolute()
        ours = place.is_relative_to(named) or (
            named.is_relative_to(place.parent)
            and place.name in named.relative_to(place.parent).parts[0]
        )
        if error.filename is not None and not ours:
            raise
        why = error.strerror or error
        raise DataError(f"{path} cannot be written ({why}); {remedy}") from error


@contextmanager
def replacing(path: Path, remedy: str = _REMEDY) -> Iterator[Path]:
    """Give a temporary place beside ``path`` to write a file, or a folder, which then replaces it.

    If the body fails, what was written is removed and ``path`` is what it was; errors of the disk
    are told as by ``writing``. The temporary name ends with ``.tmp``: a writer that goes by the
    ending must be told the format.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if temporary.is_dir():
                replace_folder(temporary, path)
            else:
                temporary.replace(path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without what systems put beside a user's data.

    That is: hidden files and Finder's (``._scan.png``), thumbnails of a NAS (``@eaDir``), and what
    Finder and Windows leave in archives and folders.
    """
    left = {"@eadir", "#recycle", "__macosx", "thumbs.db", "desktop.ini", "lost+found"}
    found = (p for p in folder.iterdir() if p.name[0] != "." and p.name.casefold() not in left)
    return sorted(found, key=lambda path: (natural_order(path.name), path.name))


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, in order; ``above`` guards against links in circles.

    A link that leads nowhere is a file here: reading it says that it is missing.
    """
    if (real := folder.resolve()) in above:
        return
    for path in entries(folder):
        if path.is_dir():
            yield from files_below(path, (*above, real))
        else:
            yield path


def nearest(missing: Path, most: int = 5) -> str:
    """For a message: what there is, where a path or a pattern leads to nothing, of a like name."""
    folder = next(place for place in missing.absolute().parents if place.is_dir())
    names = [path.name for path in entries(folder)]
    wanted = missing.absolute().relative_to(folder).parts[0]
    close = difflib.get_close_matches(wanted, names, most, cutoff=0.5) or names[:most]
    more = ", …" if len(names) > len(close) else ""
    return f"{folder} holds {', '.join(close) or 'nothing'}{more}"


def locate(path: str) -> Path:
    """A configured path: ``$VARIABLE`` expanded, relative ones tried from the project too."""
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise DataError(f"{path}: the environment variable is not set; export it, or give a path")
    found = Path(expanded).expanduser()
    if found.is_absolute() or found.exists() or matching(found):
        return found
    if (PROJECT / found).exists():
        return PROJECT / found
    return WORKPLACE / found if (WORKPLACE / found.parts[0]).exists() else found


def matching(pattern: Path) -> list[str]:
    """Paths that a pattern with * stands for, in natural order."""
    folder = next(place for place in (pattern, *pattern.parents) if "*" not in str(place))
    parts = str(pattern.relative_to(folder))
    return sorted(map(str, folder.glob(parts)) if "*" in parts else (), key=natural_order)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``slice.10`` after ``slice.9``: digit runs count as numbers."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def clear(folder: Path, patterns: Sequence[str]) -> None:
    """Make a folder ready for what is named so; nothing else in it is ours to delete."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        path.unlink()


def check_output(
    path: Path,
    *,
    overwrite: bool,
    source: Path | None = None,
    folder: bool = False,
    key: str = "output",
) -> Path:
    """A command's ``output=``: refused if it may not be replaced, or if it is the input itself."""
    if path.exists() and path.is_dir() != folder:
        kinds = ("a folder; give a file", "a file; give a folder")
        raise ConfigError(f"{key}={path} is {kinds[folder]}")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{key}={path} is the input; give another file")
    if path.exists() and not overwrite:
        what = "folder" if folder else "file"
        raise ConfigError(f"{key}={path} exists; give another {what}, or overwrite=true")
    return path


def write_text(text: str, path: Path) -> Path:
    r"""Write text, whole or not at all; returns the path.

    A file's name that is no UTF-8 is written as \udcf6, which JSON reads as that name again.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(content: Any, path: Path) -> Path:
    """Write JSON, whole or not at all; returns the path."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(text + "\n", path)


def write_csv(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> Path:
    """Write a table, whole or not at all; returns the path."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return write_text(text.getvalue(), path)


def sha256_of(path: Path) -> str:
    """Checksum of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_lock(path: Path) -> ExitStack | None:
    """Lock a file that exists for nothing else; None while anybody holds it, in this process too.

    ``close`` or leaving the context frees it; so does the end of the process, killed or not. On a
    file system without locks everybody gets one, with a warning.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    held = ExitStack()
    try:
        lock.acquire(timeout=0.05, poll_interval=0.01)  # twice: its holder may just remove it
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        held.callback(lock.release)
        held.callback(path.unlink, missing_ok=True)  # first, while nobody else can hold it
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        log.warning("%s cannot be locked (%s): start nothing twice", path, error.strerror)
    return held


@contextmanager
def locked(path: Path, work: str | None = None) -> Iterator[None]:
    """Hold a lock as ``try_lock`` gives it.

    Args:
        path: of the lock.
        work: what its holder is doing ("data/ucf101 is being prepared"): who comes second is
            refused with that. By default it waits, and says so.
    """
    lock = try_lock(path)
    if lock is None and work is not None:
        raise DataError(f"{work} by {holder(path)}; wait for it to end")
    if lock is None:
        log.info("waiting for %s, who holds %s", holder(path), path)
    while lock is None:
        time.sleep(0.2)
        lock = try_lock(path)
    with lock:
        yield


def holder(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"


def require_free_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: where it will be written; need not exist yet.
        needed: bytes.
        purpose: what needs them, the subject of the message.
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


def generate(
    folder: Path, described: Mapping[str, Any], marker: str, make: Callable[[Path], None]
) -> bool:
    """Make a folder of generated data, whole or not at all, unless it is there already.

    Its file ``marker`` says of what it was made, by which version, and the SHA-256 of every file; a
    folder that is something else, or no longer whole, is refused. Processes that start together
    wait for the first. Returns whether it was made.
    """
    lock = folder.with_name(f".{folder.name}.preparation")
    with nullcontext() if folder.exists() else locked(lock):
        if not folder.exists():
            with replacing(folder) as temporary:
                make(temporary)
                files = {p.relative_to(temporary).as_posix(): p for p in files_below(temporary)}
                sums = {name: sha256_of(path) for name, path in files.items()}
                text = json.dumps({**described, "files": sums}, indent=2)
                (temporary / marker).write_text(f"{text}\n", encoding="utf-8")
            return True
    try:
        found = json.loads((folder / marker).read_text(encoding="utf-8"))
        sums = dict(found.pop("files", {}))
    except (OSError, ValueError, TypeError, AttributeError):
        found, sums = None, {}
    if found != json.loads(json.dumps(described)):
        raise ConfigError(
            f"{folder} holds something else than the stand-in asked for ({described}); it is not"
            " overwritten: choose another folder or move it away"
        )
    for name, sha256 in sums.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise DataError(
                f"{path} is {'damaged' if path.exists() else 'missing'}, though {folder / marker}"
                f" lists it; remove {folder}, then run again: it will be written anew"
            )
    return False


def replace_folder(complete: Path, place: Path) -> None:
    """Move a complete folder to its place, on the same disk; what was there is removed after that.

    No file system of ours exchanges two folders at once: the old one is set aside as
    ``.NAME.previous`` until the new one is there. Whoever is killed in between leaves it for
    ``recover_folder``.
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
