"""Which files are whose: IBSR's by their names; others by patterns, in BIDS's layout, or nnU-Net's.

A pattern is a path with ``{subject}`` in it, any number of times, and ``*`` for whatever may
differ beside; relative ones begin at the data set's folder. BIDS (https://bids.neuroimaging.io)
has ``sub-01/anat/sub-01_T1w.nii.gz``, sessions between both, and segmentations named ``_dseg``
beside the image or below ``derivatives``. A raw data set of nnU-Net (Isensee et al. 2021) has
``imagesTr/NAME_0000.nii.gz``, ``labelsTr/NAME.nii.gz`` and the labels' meaning in dataset.json.
"""

import glob
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from psc.errors import DataError
from psc.files import entries, files_below, locate
from psc.mri.nifti import ENDINGS
from psc.mri.settings import DATASET_JSON, SUBJECT, OwnMRIConfig

GETTING_IBSR = (
    "IBSR is given out after registration at https://www.nitrc.org/projects/ibsr: fetch the"
    " skull-stripped NIfTI files of IBSR V2.0, then run make data-ibsr ARGS=ARCHIVE"
)
RECOGNISED_NAMES = (
    "IBSR_01_ana_strip.nii.gz (image), IBSR_01_segTRI_fill_ana.nii.gz (filled labels) and"
    " IBSR_01_segTRI_ana.nii.gz (unfilled labels), as from NITRC, or IBSR_01.nii.gz and"
    " IBSR_01_seg.nii.gz (unfilled labels)"
)

_NAME = re.compile(
    r"(?P<prefix>[a-z]+)_(?P<number>[0-9]{2,})(?P<role>_[a-z_]+)?\.nii(\.gz)?", re.ASCII | re.I
)
_IMAGE, _FILLED, _UNFILLED, _WITH_SKULL = "image", "filled labels", "unfilled labels", "with skull"
_ROLES = {  # what follows the subject's name, without case; all else is somebody else's file
    "": _IMAGE,
    "_ana_strip": _IMAGE,
    "_segtri_fill_ana": _FILLED,
    "_segtri_ana": _UNFILLED,
    "_seg": _UNFILLED,
    "_ana": _WITH_SKULL,
}
_SESSIONS = ("{subject}/anat/{subject}*", "{subject}/ses-*/anat/{subject}*")
_BIDS_IMAGES = [f"{place}_T1w{ending}" for place in _SESSIONS for ending in ENDINGS]
_BIDS_LABELS = [
    f"{above}{place}_dseg{ending}"
    for above in ("", "derivatives/*/")
    for place in _SESSIONS
    for ending in ENDINGS
]
LABELLED = "_tissues"
"""Ends the names of what is written, which is no input where a folder is searched."""

_MOST_SEARCHED = 20_000  # files, for those that a pattern nearly matches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectFiles:
    """Files of one subject: a skull-stripped T1 volume, and labels of either kind if any."""

    name: str  # IBSR_01, …
    image: Path
    filled: Path | None = None  # segTRI_fill_ana
    unfilled: Path | None = None  # segTRI_ana, or _seg in course copies


def find_subjects(folder: Path, *more: Path) -> dict[str, SubjectFiles]:
    """Find the subjects below a folder, or below several that complete each other.

    Recognised are ``RECOGNISED_NAMES`` with any prefix of letters and two digits or more, without
    regard to case, as .nii and as .nii.gz. Everything else is ignored, and so is what is hidden.
    Links to folders are followed. Labels without an image are left out, which the log says. Names
    are sorted: ``PREFIX_NN``, in capitals, zeros as two digits need them (IBSR_001 is IBSR_01).
    """
    subjects: dict[str, dict[str, Path]] = {}
    for place in (folder, *more):
        try:
            files = list(files_below(place))
        except OSError as error:
            raise DataError(
                f"{error.filename} cannot be searched for subjects ({error.strerror}); correct the"
                f" path. Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}"
            ) from error
        for path in files:
            match = _NAME.fullmatch(path.name)
            role = _ROLES.get((match["role"] or "").lower()) if match else None
            if match is None or role is None:
                continue
            name = f"{match['prefix'].upper()}_{int(match['number']):02d}"
            other = subjects.setdefault(name, {}).setdefault(role, path)
            if other != path and role != _WITH_SKULL:
                raise DataError(
                    f"{name} has two files of one kind ({role}): {other} and {path}; move away the"
                    " one that is not to be used"
                )
    found = {
        name: SubjectFiles(name, of[_IMAGE], of.get(_FILLED), of.get(_UNFILLED))
        for name, of in sorted(subjects.items())
        if _IMAGE in of
    }
    if not found:
        raise _nothing_found(", ".join(map(str, (folder, *more))), subjects)
    for name in sorted(subjects.keys() - found.keys()):
        has = ", ".join(path.name for path in subjects[name].values())
        log.warning("%s is left out: it has %s, but no stripped volume", name, has)
    return found


def _nothing_found(where: str, subjects: Mapping[str, Mapping[str, Path]]) -> DataError:
    files = [(role, path) for roles in subjects.values() for role, path in sorted(roles.items())]
    with_skull = [path for role, path in files if role == _WITH_SKULL]
    if with_skull:
        what = (
            f": T1 volumes with the skull only ({with_skull[0].name}, …). The stripped ones are"
            " needed"
        )
    elif files:
        what = f": labels only ({files[0][1].name}, …), no image"
    else:
        what = " holds no subject"
    return DataError(f"{where}{what}. Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}")


# Any other data set -------------------------------------------------------------------------------


def find_own_subjects(config: OwnMRIConfig) -> dict[str, SubjectFiles]:
    """Files of every subject that the configuration means, by name; labels stay as they are.

    Refused: patterns that match nothing, several files of one kind for a subject, a subject
    without labels, subjects that are named and not there.
    """
    folder = None if config.folder is None else locate(config.folder)
    if folder is not None and not folder.is_dir():
        raise DataError(f"dataset.folder={folder}: no such folder; correct the path")
    images, labels = _patterns(config, folder)
    found_images, found_labels = _apart(images, labels)
    _refuse_none("dataset.images", images, found_images, folder)
    _refuse_none("dataset.labels", labels, found_labels, folder)
    for key, found in (("images", found_images), ("labels", found_labels)):
        for name, paths in sorted(found.items()):
            if len(paths) > 1 and (config.subjects is None or name in config.subjects):
                raise DataError(
                    f"{name} has {len(paths)} files for dataset.{key}: {_listed(paths)}; say more"
                    f" of the name in dataset.{key}=PATTERN, such as the session or run"
                )
    names = sorted(found_images) if config.subjects is None else config.subjects
    if absent := [name for name in names if name not in found_images]:
        raise DataError(
            f"dataset.subjects: no image of {', '.join(absent)}; there are"
            f" {', '.join(sorted(found_images))}"
        )
    if without := [name for name in names if name not in found_labels]:
        raise DataError(
            f"{', '.join(without)}: an image ({found_images[without[0]][0]}), but no labels"
            f" ({' or '.join(labels)}); add them, or name the subjects to use:"
            " dataset.subjects=[…]"
        )
    if surplus := sorted(found_labels.keys() - found_images.keys()):
        log.warning("left out, as they have labels but no image: %s", ", ".join(surplus))
    return {
        name: SubjectFiles(name, found_images[name][0], unfilled=found_labels[name][0])
        for name in names
    }


def find_images(place: str) -> dict[str, Path]:
    """Volumes to predict by name: a pattern's matches, or what a folder holds.

    Of a folder in BIDS's layout the T1 images are taken, of any other every NIfTI file that lies
    directly in it; nnU-Net's ``_0000`` is not part of a name, and what has a ``_0001``, too, is
    refused.
    """
    if SUBJECT in place:
        found = _matches([_located(place, None)])
    elif not (found := _matches([f"{place}/{pattern}" for pattern in _BIDS_IMAGES])):
        for file in entries(Path(place)):
            if file.name.lower().endswith(ENDINGS):
                name = re.sub(r"(_0000)?\.nii(\.gz)?$", "", file.name, flags=re.IGNORECASE)
                found.setdefault(name, []).append(file)
        for name in found:
            second = found.get(f"{name}_0001")
            if second and found[name][0].name.startswith(f"{name}_0000."):
                raise DataError(
                    f"input={place} has several channels ({second[0].name}), a network takes one;"
                    f" choose by input={place}/{SUBJECT}_0000.nii.gz, or, if each file is a"
                    f" subject, input={place}/{SUBJECT}.nii.gz"
                )
    if passed := [name for name in found if name.endswith(LABELLED)]:
        log.warning("passed over, as named like what is written: %s", ", ".join(passed))
        found = {name: paths for name, paths in found.items() if name not in passed}
    if SUBJECT in place:
        _refuse_none("input", [place], found, None)
    elif not found:
        raise DataError(f"input={place}: no NIfTI file to label lies in this folder")
    for name, paths in found.items():
        if len(paths) > 1:
            raise DataError(f"{name} has {len(paths)} volumes: {_listed(paths)}; give a pattern")
    return {name: paths[0] for name, paths in sorted(found.items())}


def _patterns(config: OwnMRIConfig, folder: Path | None) -> tuple[list[str], list[str]]:
    """Of images and labels, beginning at the data set's folder."""
    layout: tuple[list[str], list[str]] = _BIDS_IMAGES, _BIDS_LABELS
    if folder is not None and (folder / DATASET_JSON).is_file() and (folder / "imagesTr").is_dir():
        layout = _nnunet(folder, chosen=config.images is not None)
    images, labels = (
        [_located(pattern, folder) for pattern in (found if given is None else [given])]
        for given, found in zip((config.images, config.labels), layout, strict=True)
    )
    return images, labels


def _located(pattern: str, folder: Path | None) -> str:
    """A pattern from its folder on; without one as any other configured path."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if SUBJECT in part or "*" in part)
    start = Path(*parts[:fixed])
    return str((folder / start if folder else locate(str(start))).joinpath(*parts[fixed:]))


def _nnunet(folder: Path, *, chosen: bool) -> tuple[list[str], list[str]]:
    images = [f"imagesTr/{{subject}}_0000{ending}" for ending in ENDINGS]
    second = sorted((folder / "imagesTr").glob("*_0001.nii*"))
    if second and not chosen:
        raise DataError(
            f"{folder} has several channels ({second[0].name}), the network takes one; choose by"
            " dataset.images=imagesTr/{subject}_0000.nii.gz"
        )
    return images, [f"labelsTr/{{subject}}{ending}" for ending in ENDINGS]


def _apart(
    images: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Matches of both; what both match belongs to the pattern that says more of its name."""
    found, others = _matches(images), _matches(labels)
    both = {p for ps in found.values() for p in ps} & {p for ps in others.values() for p in ps}
    says_more = len(max(images, key=len)) > len(max(labels, key=len))
    loser = others if says_more else found
    for name in list(loser):
        if kept := [path for path in loser[name] if path not in both]:
            loser[name] = kept
        else:
            del loser[name]
    return found, others


def _matches(patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Files by subject that any of some patterns matches."""
    found: dict[str, list[Path]] = {}
    for pattern in patterns:
        first, *others = (re.escape(p).replace(r"\*", "[^/]*") for p in pattern.split(SUBJECT))
        expression = re.compile(f"{first}(?P<subject>[^/]+?){'(?P=subject)'.join(others)}")
        wild = re.sub(r"[\[?]", r"[\g<0>]", pattern).replace(SUBJECT, "*")
        for path in sorted(glob.glob(wild)):  # noqa: PTH207  Path.glob takes no absolute ones
            if match := expression.fullmatch(path):
                found.setdefault(match["subject"], []).append(Path(path))
    return found


def _refuse_none(
    key: str, patterns: Sequence[str], found: dict[str, list[Path]], folder: Path | None
) -> None:
    """Refuse patterns without a match, and name the files that come nearest."""
    if found:
        return
    root = folder or Path(patterns[0].split(SUBJECT)[0]).parent
    while not root.is_dir():
        root = root.parent
    there = islice(root.rglob("*"), _MOST_SEARCHED)
    files = {str(path): path for path in there if path.name.lower().endswith(ENDINGS)}
    close = get_close_matches(patterns[0].replace(SUBJECT, ""), files, n=3, cutoff=0.3)
    near = _listed([files[name] for name in close or sorted(files)[:3]])
    raise DataError(
        f"{key}: nothing matches {' or '.join(patterns)}; "
        + (f"nearest are {near}" if near else f"{root} holds no NIfTI file")
        + f". Give {key}=PATTERN with {SUBJECT} for what differs between subjects"
    )


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
