"""The CSV file of tissue scores: a row for each subject and each way of segmenting it."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psc.errors import DataError
from psc.metrics.tissue_scores import TissueScores

__all__ = ["NETWORK", "SubjectScores", "write_subject_scores"]

NETWORK = "network"
"""The method of rows that are not a baseline's."""


@dataclass(frozen=True)
class SubjectScores:
    """One subject's scores by one method.

    Attributes:
        subject: IBSR_01, …
        part: of the split, "validation" or "test".
        method: what segmented it: ``NETWORK``, or a name of
            ``psc.segmentation.intensity_tissues.METHODS``.
        scores: on the whole volume.
    """

    subject: str
    part: str
    method: str
    scores: TissueScores


def write_subject_scores(path: Path, rows: Sequence[SubjectScores]) -> None:
    """Write one row per subject and method; completely or not at all.

    Columns: subject, part, method; then those of ``TissueScores.as_row`` (Dice in [0, 1], hd95 in
    mm, volumes in ml, their difference in % of the true volume), unrounded, and empty where a
    measure is not defined.

    Args:
        path: the file; replaced. Missing folders are made.
        rows: at least one, all of the same tissues.

    Raises:
        DataError: no rows, or not all have the same tissues.
    """
    table = [
        {"subject": row.subject, "part": row.part, "method": row.method} | row.scores.as_row()
        for row in rows
    ]
    if not table:
        raise DataError(f"no scores to write into {path}; score at least one subject")
    for row, line in zip(rows, table, strict=True):
        if line.keys() != table[0].keys():
            raise DataError(
                f"{row.subject} ({row.method}) was scored on {', '.join(row.scores.tissues)}, but"
                f" {rows[0].subject} on {', '.join(rows[0].scores.tissues)}; score all on the same"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
