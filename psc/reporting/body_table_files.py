"""The table of splits and merges as a file: CSV with every error, Markdown with the worst."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from psc.errors import ConfigError, DataError
from psc.reporting.body_table import BodyError

__all__ = ["write_body_errors"]

_HEADER = ("kind", "label", "bits", "voxels", "pieces", "z", "y", "x", "touching", "largest_pieces")
_LARGEST = 20  # pieces of an error by name; a shattered body has thousands


def write_body_errors(path: Path, errors: Sequence[BodyError], *, worst: int | None = None) -> None:
    """Write one row per split and merge; completely or not at all.

    Columns: kind ("split" of a body, "merge" by a segment), label (of that body or segment), bits
    (of VI split or VI merge), voxels, number of pieces, a location in voxels (``touching``: of two
    pieces that touch, else the middle of the largest), and up to 20 pieces as label:voxels, the
    largest first. Bits of a CSV are unrounded.

    Args:
        path: a .csv or a .md; replaced. Missing folders are made.
        errors: as ``body_errors`` sorts them; none leaves the header alone.
        worst: rows at most; None = all. Only all of them sum to VI.

    Raises:
        ConfigError: another kind of file, or ``worst`` below 1.
        DataError: the file cannot be written.
    """
    if worst is not None and worst < 1:
        raise ConfigError(f"worst={worst}: must be at least 1 row, or None for all")
    texts = {".csv": _csv, ".md": _markdown}
    if path.suffix not in texts:
        raise ConfigError(f"{path} is no table; name it .csv or .md")
    text = texts[path.suffix](errors[:worst])
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8", newline="")
        unfinished.replace(path)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error}; free disk space or correct the folder's permissions,"
            " run it again"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _csv(errors: Sequence[BodyError]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(_row(error, repr(error.bits)) for error in errors)
    return file.getvalue()


def _markdown(errors: Sequence[BodyError]) -> str:
    rows = [
        _HEADER,
        ("---",) * len(_HEADER),
        *(_row(error, f"{error.bits:.4f}") for error in errors),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(error: BodyError, bits: str) -> tuple[str, ...]:
    return (
        error.kind,
        str(error.label),
        bits,
        str(error.voxels),
        str(len(error.pieces)),
        *(str(position) for position in error.location),
        "yes" if error.touching else "no",
        " ".join(f"{piece.label}:{piece.voxels}" for piece in error.pieces[:_LARGEST]),
    )
