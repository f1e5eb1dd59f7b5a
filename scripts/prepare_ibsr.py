"""Verify IBSR and put it in place (paper, Section 4.2): ``python scripts/prepare_ibsr.py ARCHIVE``.

IBSR is given out after a registration, so nothing is downloaded here: without an argument this says
where to register and what to fetch. From one archive or folder, or several that complete each
other, the volumes and labels of the 18 subjects are taken, read and checked, and copied to
data/ibsr, which appears when all are in order. ibsr.json, there, lists them with checksums.

Exit status: 0 when all is done, 1 after an error, 130 when interrupted.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psc.download.archives import unpack
from psc.download.download import PROJECT
from psc.errors import DataError, PSCError
from psc.files import holder, is_empty, recover_folder, replace_folder, require_free_space, try_lock
from psc.mri.data import (
    EXPECTED,
    RECOGNISED_NAMES,
    Verified,
    find_subjects,
    incomplete,
    table,
    verify,
)

OUTPUT = PROJECT / "data" / "ibsr"
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare from the command line."""
    chosen = _parser().parse_args(arguments)
    if not chosen.sources:
        sys.exit(INSTRUCTIONS)
    try:
        subjects = prepare(
            chosen.sources,
            chosen.output,
            allow_missing=chosen.allow_missing,
            overwrite=chosen.overwrite,
        )
    except PSCError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run it again", file=sys.stderr)
        sys.exit(130)
    print(f"{chosen.output}: {len(subjects)} subjects, listed in {MANIFEST}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sources", type=Path, nargs="*", metavar="ARCHIVE_OR_FOLDER", help="zip, tar, RAR or folder"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--allow-missing", action="store_true", help="take a copy without some subjects or labels"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what this script put there before"
    )
    return parser


def prepare(
    sources: Sequence[Path], output: Path, *, allow_missing: bool, overwrite: bool
) -> list[Verified]:
    """Put IBSR into a folder, wholly or not at all.

    Args:
        sources: archives and folders with the subjects' files.
        output: the new folder; until it is complete, it lies in ``.NAME.preparing`` beside it.
        allow_missing: take what is there of the 18 subjects, labelled or not.
        overwrite: replace an earlier output, once the new one is complete.

    Raises:
        DataError: and an earlier output is as it was.
    """
    output = output.resolve()  # where it is a link to another disk, work there
    staging = output.with_name(f".{output.name}.preparing")
    lock_path = output.with_name(f"{staging.name}.lock")
    try:
        lock = try_lock(lock_path)
        if lock is None:
            raise DataError(f"{output} is being prepared by {holder(lock_path)}; wait")
        with lock:
            recover_folder(output, lambda place: (place / MANIFEST).is_file())
            check_places(sources, output, overwrite=overwrite)
            if staging.exists():  # of a run that was killed
                shutil.rmtree(staging)
            try:
                subjects = _verified(sources, staging, allow_missing=allow_missing)
                copy(subjects, sources, staging / "complete", output)
                replace_folder(staging / "complete", output)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written ({error}); make room or correct the permissions, then run"
            " it again"
        ) from error
    return subjects


def check_places(sources: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    """Refuse what could lose data, before anything is unpacked.

    Raises:
        DataError: a source is missing or lies in the output; the output is there and may not be
            replaced, or holds what this script did not put there.
    """
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
            f"{output} exists; --overwrite replaces what this script put there, or choose another"
            " --output"
        )
    if foreign := _foreign(output):
        raise DataError(
            f"{output} is not replaced: {foreign}, which this script did not put there. Move that"
            " away, or choose another --output"
        )


def _verified(sources: Sequence[Path], staging: Path, *, allow_missing: bool) -> list[Verified]:
    """Unpack what is an archive, read everything, and say what was found."""
    places = []
    unpacked: dict[Path, Path] = {}  # folder in the staging folder → archive
    for number, source in enumerate(sources):
        if source.is_dir():
            places.append(source)
        else:
            places.append(staging / f"unpacked_{number}_of_{len(sources)}")
            unpack(source, places[-1])
            unpacked[places[-1]] = source
    names = ", ".join(map(str, sources))
    try:
        found = find_subjects(*places)
        if others := sorted(found.keys() - set(EXPECTED)):
            print(f"left out, as they are not of IBSR: {', '.join(others)}", file=sys.stderr)
        if missing := incomplete(found):
            listed = ", ".join(f"{name} ({what})" for name, what in missing.items())
            said = f"{len(missing)} of {len(EXPECTED)} subjects are incomplete: {listed}"
            if not allow_missing:
                raise DataError(
                    f"{names}: {said}. Give the archive or folder that has"
                    " the rest as well; --allow-missing goes on without"
                )
            print(said, file=sys.stderr)
        subjects = [found[name] for name in EXPECTED if name in found]
        if not subjects:
            raise DataError(f"{names}: no subject of IBSR. Recognised are {RECOGNISED_NAMES}")
        verified = verify(subjects)
    except DataError as error:
        message = str(error)
        for folder, archive in unpacked.items():  # the user knows the archive only
            message = message.replace(str(folder), str(archive))
        raise DataError(message) from error
    print(table(verified))
    return verified


def copy(subjects: Sequence[Verified], sources: Sequence[Path], folder: Path, output: Path) -> None:
    """Copy the files into a folder for each subject, and write the manifest.

    Args:
        subjects: those to copy.
        sources: where they come from, for the manifest.
        folder: the new folder.
        output: where it will be moved, for messages.

    Raises:
        DataError: the disk has no room.
    """
    needed = sum(path.stat().st_size for subject in subjects for path in subject.paths)
    require_free_space(output.parent, needed, f"the copy to {output}")
    described = []
    for subject in subjects:
        (folder / subject.name).mkdir(parents=True)
        description: dict[str, Any] = {
            "name": subject.name,
            "shape": subject.shape,
            "voxel_size": subject.voxel_size,
            "labels": subject.labels,
            "brain_voxels": subject.brain_voxels,
            "files": [_copy(path, folder / subject.name / path.name) for path in subject.paths],
        }
        described.append(description)
    manifest = {
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "sources": [source.resolve().name for source in sources],
        "missing": sorted(set(EXPECTED) - {subject.name for subject in subjects}),
        "subjects": described,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _copy(source: Path, target: Path) -> dict[str, Any]:
    with source.open("rb") as original, target.open("xb+") as copied:
        shutil.copyfileobj(original, copied)
        copied.flush()
        os.fsync(copied.fileno())  # an earlier output is removed next
        copied.seek(0)
        sha256 = hashlib.file_digest(copied, "sha256").hexdigest()
    return {"name": target.name, "bytes": target.stat().st_size, "sha256": sha256}


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


if __name__ == "__main__":
    main()
