"""Whether a disk has room, asked before anything large is written."""

import shutil
from pathlib import Path

from psc.errors import DataError


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
