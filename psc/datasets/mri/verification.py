"""Whether a copy of IBSR is complete, and every volume of it in order."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from psc.datasets.mri.files import SubjectFiles
from psc.datasets.mri.subjects import FILLED, UNFILLED, LabelKind, read_subject
from psc.errors import DataError

__all__ = ["EXPECTED", "Verified", "incomplete", "table", "verify"]

EXPECTED = tuple(f"IBSR_{number:02d}" for number in range(1, 19))
"""Names of IBSR's 18 subjects."""


@dataclass(frozen=True)
class Verified:
    """A subject whose files were read and found in order.

    Attributes:
        name: IBSR_01, …
        paths: image and labels, where they were found.
        shape: voxels to the right, anterior and superior.
        voxel_size: mm along the same axes.
        labels: kinds that are there.
        brain_voxels: how many are not zero.
    """

    name: str
    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    voxel_size: tuple[float, float, float]
    labels: tuple[LabelKind, ...]
    brain_voxels: int


def incomplete(found: Mapping[str, SubjectFiles]) -> dict[str, str]:
    """What is missing of the 18 subjects, in words, by name: an image, or any labels."""
    missing = {}
    for name in EXPECTED:
        if name not in found:
            missing[name] = "no image"
        elif not _label_kinds(found[name]):
            missing[name] = "no labels"
    return missing


def verify(subjects: Sequence[SubjectFiles], *, progress: bool | None = None) -> list[Verified]:
    """Read every image and all labels of every subject.

    Args:
        subjects: with or without labels.
        progress: show a bar; None: if standard error is a terminal.

    Raises:
        DataError: a file is damaged, labels do not fit their image or have wrong values, or a
            subject is a phantom; the message has what is wrong with every subject.
    """
    disable = None if progress is None else not progress
    verified, problems = [], []
    for files in tqdm(subjects, "verifying", unit="subject", disable=disable, file=sys.stderr):
        try:
            verified.append(_verify(files))
        except DataError as error:
            problems.append(f"\n  {error}")
    if problems:
        raise DataError(
            f"{len(problems)} of {len(subjects)} subjects cannot be used:{''.join(problems)}"
        )
    return verified


def table(subjects: Sequence[Verified]) -> str:
    """A heading, and a line for every subject."""
    rows = [("subject", "shape", "voxel size [mm]", "labels", "brain voxels")]
    rows += [
        (
            subject.name,
            "×".join(map(str, subject.shape)),
            "×".join(f"{size:.4g}" for size in subject.voxel_size),
            ", ".join(subject.labels) or "none",
            f"{subject.brain_voxels:,}",
        )
        for subject in subjects
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _label_kinds(files: SubjectFiles) -> tuple[LabelKind, ...]:
    by_kind = {FILLED: files.filled, UNFILLED: files.unfilled}
    return tuple(kind for kind, path in by_kind.items() if path is not None)


def _verify(files: SubjectFiles) -> Verified:
    kinds = _label_kinds(files)
    for kind in kinds or (UNFILLED,):
        subject = read_subject(files, labels=kind, labels_required=bool(kinds))
    if subject.synthetic:
        raise DataError(f"{files.image} is a phantom that psc wrote, and not IBSR; remove it")
    paths = (files.image, files.filled, files.unfilled)
    return Verified(
        name=files.name,
        paths=tuple(path for path in paths if path is not None),
        shape=subject.native.data.shape,
        voxel_size=subject.native.voxel_size,
        labels=kinds,
        brain_voxels=int(subject.brain.sum()),
    )
