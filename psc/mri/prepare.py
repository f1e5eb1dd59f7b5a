"""IBSR put in place: found in archives and folders, read and checked whole, copied.

IBSR is given out after a registration, so nothing is downloaded here. From one archive or folder,
or several that complete each other, the volumes and labels of the 18 subjects are taken and copied
to a folder that appears when all are in order; ``MANIFEST``, there, lists them with checksums.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from psc.download.archives import unpack
from psc.errors import DataError
from psc.files import (
    is_empty,
    locked,
    recover_folder,
    replace_folder,
    require_free_space,
    sha256_of,
    write_json,
    writing,
)
from psc.mri.data import LabelKind, read_subject
from psc.mri.finding import RECOGNISED_NAMES, SubjectFiles, find_subjects
from psc.mri.nifti import VoxelSize
from psc.paper.text import aligned

EXPECTED = tuple(f"IBSR_{number:02d}" for number in range(1, 19))
"""Names of IBSR's 18 subjects."""

MANIFEST = "ibsr.json"

INSTRUCTIONS = f"""\
IBSR is given out after a registration, so you have to fetch it yourself:
  1. Register at NITRC, and ask for access to https://www.nitrc.org/projects/ibsr if it wants that.
  2. From its downloads fetch "IBSR V2.0 nifti stripped". Others call it
     IBSR_V2.0_nifti_stripped.tgz; we have not seen it, and its name does not matter. It must hold,
     for IBSR_01 to IBSR_18, the volume without the skull (IBSR_XX_ana_strip.nii.gz) and the tissues
     (IBSR_XX_segTRI_fill_ana.nii.gz, IBSR_XX_segTRI_ana.nii.gz, or both).
  3. make data-ibsr ARGS=ARCHIVE (or a folder with the files; several, if they complete each other)
Recognised are {RECOGNISED_NAMES}."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verified:
    """A subject whose files were read and found in order: where they are, and what they hold."""

    name: str
    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    voxel_size: VoxelSize
    labels: tuple[LabelKind, ...]
    brain_voxels: int


def prepare_ibsr(
    sources: Sequence[Path], output: Path, *, allow_missing: bool, overwrite: bool
) -> list[Verified]:
    """Put IBSR from archives and folders into a folder, wholly or not at all.

    Until it is complete, it lies in ``.NAME.preparing`` beside it; only then is an earlier output
    replaced. ``allow_missing`` takes what is there of the 18 subjects, labelled or not.
    """
    output = output.resolve()  # where it is a link to another disk, work there
    staging = output.with_name(f".{output.name}.preparing")
    lock = output.with_name(f"{staging.name}.lock")
    with writing(output), locked(lock, f"{output} is being prepared"):
        recover_folder(output, lambda place: (place / MANIFEST).is_file())
        _check_places(sources, output, overwrite=overwrite)
        if staging.exists():  # of a run that was killed
            shutil.rmtree(staging)
        try:
            with _unpacked(sources, staging) as places:
                subjects = _verified(places, allow_missing=allow_missing)
            _copy(subjects, sources, staging / "complete", output)
            replace_folder(staging / "complete", output)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return subjects


def table(subjects: Sequence[Verified]) -> str:
    """A heading, and a line for every subject."""
    rows = [("subject", "shape", "voxel size [mm]", "labels", "brain voxels")]
    for subject in subjects:
        shape, size = (
            "×".join(f"{n:.4g}" for n in numbers) for numbers in (subject.shape, subject.voxel_size)
        )
        labels = ", ".join(subject.labels) or "none"
        rows.append((subject.name, shape, size, labels, f"{subject.brain_voxels:,}"))
    return aligned(rows)


def _label_kinds(files: SubjectFiles) -> tuple[LabelKind, ...]:
    both: tuple[LabelKind, LabelKind] = ("filled", "unfilled")
    return tuple(kind for kind in both if getattr(files, kind) is not None)


def _verify(files: SubjectFiles) -> Verified:
    kinds = _label_kinds(files)
    for kind in kinds or ("given",):
        subject = read_subject(files, labels=kind, labels_required=bool(kinds))
    if subject.synthetic:
        raise DataError(f"{files.image} is a phantom that psc wrote, and not IBSR; remove it")
    return Verified(
        name=files.name,
        paths=tuple(p for p in (files.image, files.filled, files.unfilled) if p is not None),
        shape=subject.native.data.shape,
        voxel_size=subject.native.voxel_size,
        labels=kinds,
        brain_voxels=int(subject.native_brain.sum()),
    )


def _check_places(sources: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    """Refuse what could lose data, before anything is unpacked."""
    for source in sources:
        if not source.exists():
            raise DataError(f"{source} is not there; correct the path.\n{INSTRUCTIONS}")
        if source.resolve().is_relative_to(output):
            raise DataError(
                f"{source} lies in {output}, which is made anew as a whole; move it out of there"
                " or choose another --output"
            )
    if not output.exists() or is_empty(output):
        return
    if not overwrite:
        raise DataError(
            f"{output} exists; --overwrite replaces what this command put there, or choose another"
            " --output"
        )
    if foreign := _foreign(output):
        raise DataError(
            f"{output} is not replaced: {foreign}, which this command did not put there. Move that"
            " away, or choose another --output"
        )


def _foreign(output: Path) -> str | None:
    """What an output holds that its manifest does not name, in words; None if there is nothing."""
    try:
        subjects = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["subjects"]
        own = {f"{s['name']}/{file['name']}" for s in subjects for file in s["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no {MANIFEST} that can be read, but other things"
    there = {p.relative_to(output).as_posix() for p in output.rglob("*") if not p.is_dir()}
    others = sorted(there - own - {MANIFEST})
    return f"it holds {others[0]}" if others else None


@contextmanager
def _unpacked(sources: Sequence[Path], staging: Path) -> Iterator[list[Path]]:
    """Folders with what the sources hold; messages name the archives, all that the user knows."""
    places = {
        source: source if source.is_dir() else staging / f"unpacked_{number}_of_{len(sources)}"
        for number, source in enumerate(sources)
    }
    for source, place in places.items():
        if place != source:
            unpack(source, place)
    try:
        yield list(places.values())
    except DataError as error:
        message = str(error)
        for source, place in places.items():
            message = message.replace(str(place), str(source))
        raise DataError(message) from error


def _verified(places: Sequence[Path], *, allow_missing: bool) -> list[Verified]:
    """Read everything, and say what was found; what is wrong with any is in one error."""
    found = find_subjects(*places)
    if others := sorted(found.keys() - set(EXPECTED)):
        log.warning("left out, as they are not of IBSR: %s", ", ".join(others))
    names = ", ".join(map(str, places))
    if missing := {
        name: "no labels" if name in found else "no image"
        for name in EXPECTED
        if name not in found or not _label_kinds(found[name])
    }:
        listed = ", ".join(f"{name} ({what})" for name, what in missing.items())
        said = f"{len(missing)} of {len(EXPECTED)} subjects are incomplete: {listed}"
        if not allow_missing:
            raise DataError(
                f"{names}: {said}. Give the archive or folder that has the rest as well;"
                " --allow-missing goes on without"
            )
        log.warning("%s", said)
    subjects = [found[name] for name in EXPECTED if name in found]
    if not subjects:
        raise DataError(f"{names}: no subject of IBSR. Recognised are {RECOGNISED_NAMES}")
    verified, problems = [], []
    for files in tqdm(subjects, "verifying", unit="subject", disable=None):
        try:
            verified.append(_verify(files))
        except DataError as error:
            problems.append(f"\n  {error}")
    if problems:
        raise DataError(
            f"{len(problems)} of {len(subjects)} subjects cannot be used:{''.join(problems)}"
        )
    return verified


def _copy(
    subjects: Sequence[Verified], sources: Sequence[Path], folder: Path, output: Path
) -> None:
    """Copy the files into a folder for each subject, and write the manifest."""
    needed = sum(path.stat().st_size for subject in subjects for path in subject.paths)
    require_free_space(output.parent, needed, f"the copy to {output}")
    described = []
    for subject in subjects:
        place = folder / subject.name
        place.mkdir(parents=True)
        facts: dict[str, Any] = asdict(subject)
        facts["files"] = [_copied(path, place / path.name) for path in facts.pop("paths")]
        described.append(facts)
    manifest = {
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "sources": [source.resolve().name for source in sources],
        "missing": sorted(set(EXPECTED) - {subject.name for subject in subjects}),
        "subjects": described,
    }
    write_json(manifest, folder / MANIFEST)


def _copied(source: Path, target: Path) -> dict[str, Any]:
    """Copy a file and describe the copy, which is on the disk: an earlier output goes next."""
    with source.open("rb") as original, target.open("xb") as copied:
        shutil.copyfileobj(original, copied)
        copied.flush()
        os.fsync(copied.fileno())
    return {"name": target.name, "bytes": target.stat().st_size, "sha256": sha256_of(target)}
