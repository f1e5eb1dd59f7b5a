"""Which files a subject has, under the names that IBSR is known by."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psc.errors import DataError

__all__ = ["GETTING_IBSR", "RECOGNISED_NAMES", "SubjectFiles", "find_subjects"]

log = logging.getLogger(__name__)

GETTING_IBSR = (
    "IBSR is given out after registration at https://www.nitrc.org/projects/ibsr: fetch the"
    " skull-stripped NIfTI files of IBSR V2.0, then run make data-ibsr ARGS=ARCHIVE"
)
"""What to do where there is no data, for messages."""

RECOGNISED_NAMES = (
    "IBSR_01_ana_strip.nii.gz (image), IBSR_01_segTRI_fill_ana.nii.gz (filled labels) and"
    " IBSR_01_segTRI_ana.nii.gz (unfilled labels), as from NITRC, or IBSR_01.nii.gz and"
    " IBSR_01_seg.nii.gz (unfilled labels)"
)
"""The names that ``find_subjects`` knows, for messages."""

_NAME = re.compile(
    r"(?P<prefix>[a-z]+)_(?P<number>[0-9]{2,})(?P<role>_[a-z_]+)?\.nii(\.gz)?", re.ASCII | re.I
)
_IMAGE, _FILLED, _UNFILLED, _WITH_SKULL = "image", "filled labels", "unfilled labels", "with skull"
_ROLES = {
    "": _IMAGE,
    "_ana_strip": _IMAGE,
    "_segtri_fill_ana": _FILLED,
    "_segtri_ana": _UNFILLED,
    "_seg": _UNFILLED,
    "_ana": _WITH_SKULL,
}
"""What follows the subject's name in a file's, without case; all else is somebody else's file."""


@dataclass(frozen=True)
class SubjectFiles:
    """Files of one subject.

    Attributes:
        name: IBSR_01, …
        image: the skull-stripped T1 volume.
        filled: labels whose cerebrospinal fluid includes that around the brain (segTRI_fill_ana).
        unfilled: labels with the ventricles' fluid only (segTRI_ana, or _seg in course copies).
    """

    name: str
    image: Path
    filled: Path | None
    unfilled: Path | None


def find_subjects(folder: Path, *more: Path) -> dict[str, SubjectFiles]:
    """Find the subjects below a folder, or below several that complete each other.

    Recognised are, for ``PREFIX`` of letters and ``NN`` of two digits or more, without regard to
    case, as .nii and as .nii.gz:

    * NITRC's names: ``PREFIX_NN_ana_strip`` (image), ``PREFIX_NN_segTRI_fill_ana`` (filled
      labels) and ``PREFIX_NN_segTRI_ana`` (unfilled ones);
    * those of course copies: ``PREFIX_NN`` (image) and ``PREFIX_NN_seg`` (unfilled labels).

    Everything else is ignored, and so is what is hidden. Links to folders are followed. Labels
    without an image are left out, which the log says.

    Returns:
        Files by subject, sorted by name. The name is ``PREFIX_NN``, in capitals, with leading
        zeros as two digits need them (IBSR_001 is IBSR_01).

    Raises:
        DataError: a folder is missing, no folder holds a subject, only volumes with the skull are
            there, or two files would be the same of one subject.
    """
    subjects: dict[str, dict[str, Path]] = {}
    for place in (folder, *more):
        for path in _files_below(place):
            if recognised := _recognise(path.name):
                name, role = recognised
                other = subjects.setdefault(name, {}).setdefault(role, path)
                if other != path and role != _WITH_SKULL:
                    raise DataError(
                        f"{name} has two files of one kind ({role}): {other} and {path}; move away"
                        " the one that is not to be used"
                    )
    found = {
        name: SubjectFiles(name, files[_IMAGE], files.get(_FILLED), files.get(_UNFILLED))
        for name, files in sorted(subjects.items())
        if _IMAGE in files
    }
    if not found:
        raise _nothing_found(", ".join(map(str, (folder, *more))), subjects)
    for name in sorted(subjects.keys() - found.keys()):
        files = ", ".join(path.name for path in subjects[name].values())
        log.warning("%s is left out: it has %s, but no stripped volume", name, files)
    return found


def _recognise(file_name: str) -> tuple[str, str] | None:
    """Name and role, None for other files."""
    match = _NAME.fullmatch(file_name)
    role = _ROLES.get((match["role"] or "").lower()) if match else None
    if match is None or role is None:
        return None
    return f"{match['prefix'].upper()}_{int(match['number']):02d}", role


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All that is not hidden below a folder, in order; ``above`` guards against links in circles.

    A link that leads nowhere is a file here: reading it says that it is missing.
    """
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be searched for subjects ({error.strerror}); correct the path."
            f" Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}"
        ) from error
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _nothing_found(where: str, subjects: dict[str, dict[str, Path]]) -> DataError:
    files = [(role, path) for roles in subjects.values() for role, path in sorted(roles.items())]
    with_skull = [path for role, path in files if role == _WITH_SKULL]
    if with_skull:
        return DataError(
            f"{where}: T1 volumes with the skull only ({with_skull[0].name}, …). The stripped ones"
            f" are needed, IBSR_XX_ana_strip.nii.gz. {GETTING_IBSR}"
        )
    if files:
        return DataError(
            f"{where}: labels only ({files[0][1].name}, …), no image. Recognised are"
            f" {RECOGNISED_NAMES}. {GETTING_IBSR}"
        )
    return DataError(f"{where} holds no subject. Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}")
