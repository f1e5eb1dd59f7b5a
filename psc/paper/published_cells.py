"""paper.csv: the numbers that the paper prints, each with its place there.

Columns: row, metric, against, value, unit, place. ``value`` is a number, or ``unknown`` where only
an image holds it. ``against`` names another row where the paper tells no number but a comparison:
``value`` is then the change in per cent, negative for less.
"""

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from psc.errors import DataError

COLUMNS = ("row", "metric", "against", "value", "unit", "place")

UNKNOWN = "unknown"

UNITS = ("%", "M", "bits", UNKNOWN)
"""M: millions."""

_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class PublishedCell:
    """One number of the paper.

    Attributes:
        row: the row of the table that it stands in.
        metric: name of a test score, or ``parameters``.
        against: the row that it is a comparison with; None for a number of its own.
        printed: the number as printed; None where only an image holds it.
        unit: one of ``UNITS``.
        place: where in the paper.
    """

    row: str
    metric: str
    against: str | None
    printed: str | None
    unit: str
    place: str

    @property
    def value(self) -> float | None:
        """The number, in ``unit``."""
        return None if self.printed is None else float(self.printed)

    @property
    def text(self) -> str:
        """As a table shows it: 89.7, 64 M, unknown."""
        if self.printed is None:
            return UNKNOWN
        return f"{self.printed} M" if self.unit == "M" else self.printed


def read_published(
    path: Path, rows: Collection[str], metrics: Collection[str]
) -> tuple[PublishedCell, ...]:
    """Read a paper.csv.

    Args:
        path: the file.
        rows: names that ``row`` and ``against`` may have.
        metrics: names that ``metric`` may have.

    Raises:
        DataError: naming file, line and value: a missing column or place, an unknown row, metric
            or unit, a value that is neither a number nor "unknown", or two values for one cell.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it (git checkout)") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DataError(f"{path}: its first line must be {','.join(COLUMNS)}")
    cells: dict[tuple[str, str, str | None], PublishedCell] = {}
    try:
        for entry in reader:
            where = f"{path}, line {reader.line_num}"
            if None in entry or None in entry.values():
                raise DataError(f"{where}: a line has {len(COLUMNS)} values")
            cell = _cell({key: value.strip() for key, value in entry.items()}, where, rows, metrics)
            key = (cell.row, cell.metric, cell.against)
            if key in cells:
                raise DataError(f"{where}: {cell.row}, {cell.metric} is there already; keep one")
            cells[key] = cell
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    return tuple(cells.values())


def _cell(
    entry: dict[str, str], where: str, rows: Collection[str], metrics: Collection[str]
) -> PublishedCell:
    for key, value, known in (
        ("row", entry["row"], rows),
        ("metric", entry["metric"], metrics),
        ("against", entry["against"], (*rows, "")),
        ("unit", entry["unit"], UNITS),
    ):
        if value not in known:
            choices = ", ".join(name or "(nothing)" for name in known)
            raise DataError(f"{where}: {key} {value!r} is not one of {choices}")
    value = entry["value"]
    if value != UNKNOWN and not _NUMBER.fullmatch(value):
        raise DataError(f"{where}: value {value!r} is neither a number nor {UNKNOWN}")
    if value != UNKNOWN and entry["unit"] == UNKNOWN:
        raise DataError(f"{where}: the number {value} has no unit")
    if entry["against"] and entry["unit"] != "%":
        raise DataError(f"{where}: a comparison with another row is in %, not {entry['unit']!r}")
    if not entry["place"]:
        raise DataError(f"{where}: say at which place of the paper {value} stands")
    return PublishedCell(
        row=entry["row"],
        metric=entry["metric"],
        against=entry["against"] or None,
        printed=None if value == UNKNOWN else value,
        unit=entry["unit"],
        place=entry["place"],
    )
