"""A folder that is replaced as a whole: at every moment the old one or the new one is there.

No file system of ours exchanges two folders at once. The old one is set aside as ``.NAME.previous``
until the new one is in its place; whoever is killed in between leaves it there to be recovered.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from psc.errors import DataError


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
