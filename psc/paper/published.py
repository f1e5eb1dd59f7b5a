"""What has been published: the numbers of a table (paper.csv), the sizes of networks, and verdicts.

``paper.csv`` holds the numbers that the paper prints in a table, each with its place there:
``value`` is a number, or ``unknown`` where only an image holds it; ``against`` names another row
where the paper tells no number but a comparison: ``value`` is then the change in per cent.

Sizes are exact where authors have released a network's definition, and millions where the paper's
Figure 4b prints them. The tables of Figures 5d and 6d exist only as images.
"""

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from psc.errors import DataError
from psc.paper.text import percent

PARAMETERS = "parameters"
"""A metric of paper.csv beside the test scores."""

UNKNOWN = "unknown"
UNITS = ("%", "M", "bits", UNKNOWN)
"""M: millions."""

COLUMNS = ("row", "metric", "against", "value", "unit", "place")


@dataclass(frozen=True)
class PublishedCell:
    """One number of a table of the paper."""

    row: str  # the row of the table that it stands in
    metric: str  # name of a test score, or ``parameters``
    against: str | None  # the row that it is a comparison with; None for a number of its own
    printed: str | None  # the number as printed; None where only an image holds it
    unit: str  # one of ``UNITS``
    place: str  # where in the paper

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
    """Read a paper.csv whose ``row``, ``against`` and ``metric`` are of these."""
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
    choices = {"row": rows, "metric": metrics, "against": (*rows, ""), "unit": UNITS}
    for key, known in choices.items():
        if entry[key] not in known:
            names = ", ".join(name or "(nothing)" for name in known)
            raise DataError(f"{where}: {key} {entry[key]!r} is not one of {names}")
    value, unit, against = entry.pop("value"), entry["unit"], entry.pop("against") or None
    if value != UNKNOWN and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        raise DataError(f"{where}: value {value!r} is neither a number nor {UNKNOWN}")
    if value != UNKNOWN and unit == UNKNOWN:
        raise DataError(f"{where}: the number {value} has no unit")
    if against and unit != "%":
        raise DataError(f"{where}: a comparison with another row is in %, not {unit!r}")
    if not entry["place"]:
        raise DataError(f"{where}: say at which place of the paper {value} stands")
    return PublishedCell(**entry, against=against, printed=None if value == UNKNOWN else value)


Network = tuple[str, str]
"""Backbone and block, by the names of their configuration files."""

MILLION = 1_000_000
NOT_SAID = "the paper does not say"
CALIBRATED = "calibration (ours), not a rule of the paper"
FIGURE_4B = "Figure 4b"


@dataclass(frozen=True)
class Size:
    """A published number of parameters."""

    parameters: int  # the number, as far as it is given
    source: str  # where it stands
    unit: int = 1  # it is rounded to multiples of this
    calibrated: bool = False  # ours was fitted to it, so that meeting it shows nothing

    def __str__(self) -> str:
        """As printed: 64 M, or 25,178,811."""
        if self.unit == MILLION:
            return f"{self.parameters // MILLION} M"
        return f"{self.parameters:,}"

    def verdict(self, parameters: int) -> str:
        """How a size of ours compares with it: "match" (as it is rounded) or the deviation."""
        deviation = 100 * (parameters / self.parameters - 1)
        if (parameters + self.unit // 2) // self.unit * self.unit == self.parameters:
            verdict = "match"
        elif abs(deviation) < 0.05:  # would read as no deviation at all
            verdict = f"{parameters - self.parameters:+,}"
        else:
            verdict = percent(deviation)
        return f"{verdict}: {CALIBRATED}" if self.calibrated else verdict


SIZES: dict[Network, Size] = {
    ("unet", "3d"): Size(
        25_178_811,
        "the network of the authors' definitions with 3×3×3 convolutions; no file of it is public",
    ),
    ("unet", "p1sc1"): Size(12_574_139, "the authors' network definition, VCG/psc 1_1"),
    ("unet", "p2sc2"): Size(15_698_611, "the authors' network definition, VCG/psc 2_2"),
    # Its decoder takes M from the 648 channels of the coarsest level, not from those that enter.
    ("unet", "p3sc2"): Size(14_381_295, "the authors' network definition, VCG/psc 3_2"),
    ("resnet34", "3d"): Size(64 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p1sc1"): Size(39 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc2"): Size(49 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc3"): Size(33 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc3_calibrated"): Size(33 * MILLION, FIGURE_4B, MILLION, calibrated=True),
    ("densenet_bui", "3d"): Size(
        1_551_392, "Bui et al.'s released network, with one input channel"
    ),
}


@dataclass(frozen=True)
class Relation:
    """What the paper says of one network's size by comparing it with another's."""

    network: Network  # the one it speaks of
    other: Network  # what it is compared with
    percent: int | None  # more parameters, negative for fewer; None: it does not say how many
    more: bool  # whether it has more parameters than the other
    source: str  # where it stands

    def __str__(self) -> str:
        """In words: 12 % fewer than densenet_bui 3d."""
        amount = "" if self.percent is None else f"{abs(self.percent)} % "
        backbone, block = self.other
        other = block if backbone == self.network[0] else f"{backbone} {block}"
        return f"{amount}{'more' if self.more else 'fewer'} than {other}"

    def verdict(self, parameters: int, other: int) -> str:
        """Whether our two networks, of so many parameters, bear it out."""
        deviation = 100 * (parameters / other - 1)
        if self.percent is None:
            agrees = self.more == (deviation > 0)
            return f"{'agrees' if agrees else 'disagrees'}: {percent(deviation)}"
        if round(deviation) == self.percent:
            return "match"
        return f"{percent(deviation)} instead of {percent(self.percent, 0)}"


RELATIONS = (
    Relation(("unet", "p2sc2"), ("unet", "3d"), -40, False, "Section 4.3"),
    Relation(("unet", "p2sc2"), ("unet", "p2sc1"), None, True, "Section 4.3"),
    Relation(("resnet34", "p2sc2"), ("resnet34", "p2sc1"), None, True, "Section 4.1"),
    Relation(("densenet", "p2sc3"), ("densenet_bui", "3d"), -12, False, "Section 4.2"),
    Relation(("densenet", "p2sc2"), ("densenet", "p1sc1"), None, False, "Section 4.2"),
)
