"""What an experiment of the paper is: experiments/<name>/runs.yaml and paper.csv.

runs.yaml lists the rows of a table with the Hydra overrides that make them, and the protocols that
they are run at: the paper's, and smaller ones. A row's overrides and a protocol's together, with a
seed, are exactly what train.py is given. paper.csv holds the numbers that the paper prints, each
with its place there: ``value`` is a number, or ``unknown`` where only an image holds it;
``against`` names another row where the paper tells no number but a comparison: ``value`` is then
the change in per cent, negative for less. A mistake is named with its file, row and key.
"""

import csv
import io
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psc.cli import explain
from psc.config import compose
from psc.config.schema import TrainConfig
from psc.em.settings import AffinityRecipeConfig
from psc.errors import ConfigError, DataError
from psc.files import PROJECT
from psc.mri.settings import TissueRecipeConfig
from psc.paper.groups import Settings, differences, settings
from psc.paper.measures import AFFINITY, TISSUE, VIDEO, Measures
from psc.video.settings import VideoRecipeConfig

EXPERIMENTS = PROJECT / "experiments"
RUNS = "runs.yaml"
PUBLISHED = "paper.csv"
RECORDS = "records"

PAPER, REDUCED, SYNTHETIC = "paper", "reduced", "synthetic"
"""Kinds of protocols: the paper's, real data at less effort, and no result at all."""

DATA_OF_KIND: Mapping[str, tuple[str, ...]] = {
    PAPER: ("real",),
    REDUCED: ("real", "real sample"),
    SYNTHETIC: ("synthetic",),
}
"""Kind of protocol → kinds of data that its records may have."""

PARAMETERS = "parameters"
"""A metric of paper.csv beside the test scores."""

UNKNOWN = "unknown"
UNITS = ("%", "M", "bits", UNKNOWN)
"""M: millions."""

COLUMNS = ("row", "metric", "against", "value", "unit", "place")

_MEASURES = {AffinityRecipeConfig: AFFINITY, VideoRecipeConfig: VIDEO, TissueRecipeConfig: TISSUE}


@dataclass(frozen=True)
class PublishedCell:
    """One number of the paper."""

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


@dataclass(frozen=True)
class Row:
    """A row of the paper's table."""

    name: str  # what files call it
    label: str  # what tables call it
    overrides: tuple[str, ...]  # of Hydra, that make its network; empty for a row that is not ours
    quoted: str | None = None  # why there is no network of ours; None if there is


@dataclass(frozen=True)
class PlannedRow:
    """A row at a protocol."""

    row: Row  # the row
    overrides: tuple[str, ...]  # all that train.py is given, but for the seed
    seeds: tuple[int, ...]  # of the runs that are averaged
    config: TrainConfig  # what the overrides compose to
    settings: Settings  # what a record of this row agrees in

    def command(self, seed: int) -> str:
        """What starts one of its runs."""
        return shlex.join(("python", "train.py", *self.overrides, f"seed={seed}"))


@dataclass(frozen=True)
class Protocol:
    """How rows are run: data, length, width."""

    name: str  # what files call it; unique in its experiment
    kind: str  # PAPER, REDUCED or SYNTHETIC
    title: str  # what it is, in words
    rows: tuple[PlannedRow, ...]  # those of the table that are run at it


@dataclass(frozen=True)
class Experiment:
    """A table of the paper."""

    folder: Path  # of its files
    title: str  # heading of its tables
    measures: Measures  # how its runs are scored
    rows: tuple[Row, ...]  # in the paper's order
    protocols: tuple[Protocol, ...]  # the paper's first
    published: tuple[PublishedCell, ...]  # what the paper prints

    @property
    def name(self) -> str:
        """Name of its folder, such as table-6d."""
        return self.folder.name

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name."""
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise ConfigError(f"{self.name} has no protocol {name!r}, only {known}")


def table_names(root: Path = EXPERIMENTS) -> list[str]:
    """Names of all experiments that are tables."""
    return sorted(path.parent.name for path in root.glob(f"table-*/{RUNS}"))


def chosen_tables(names: Sequence[str], root: Path = EXPERIMENTS) -> list[str]:
    """The tables that a user names, all if none."""
    known = table_names(root)
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: there is no such table in {root}, only {', '.join(known)}")
    return list(names) or known


def read_experiment(folder: Path) -> Experiment:
    """Read and check a table's runs.yaml and paper.csv; every row is composed."""
    path = folder / RUNS
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    _check_keys(content, path, required=("title", "rows", PAPER), optional=(REDUCED, SYNTHETIC))
    rows = _rows(content["rows"], path)
    protocols = [_protocol(content[PAPER], PAPER, rows, path)]
    for kind in (REDUCED, SYNTHETIC):
        entries = content.get(kind) or []
        if not isinstance(entries, list):
            raise DataError(f"{path}: {kind} must be a list of protocols")
        protocols += [_protocol(entry, kind, rows, path) for entry in entries]
    _refuse_twins(protocols, path)
    found = {_MEASURES[type(p.config.recipe)] for protocol in protocols for p in protocol.rows}
    if len(found) != 1:
        names = ", ".join(sorted(measures.name for measures in found))
        raise DataError(f"{path}: its rows are of several applications ({names})")
    (measures,) = found
    metrics = [PARAMETERS, *(score.key for score in measures.scores)]
    return Experiment(
        folder=folder,
        title=_text(content, "title", path),
        measures=measures,
        rows=tuple(rows.values()),
        protocols=tuple(protocols),
        published=read_published(folder / PUBLISHED, list(rows), metrics),
    )


def _check_keys(
    entry: Any, where: object, *, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """All required keys, and no other than these and the optional ones."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must have the keys {', '.join(required)}")
    known = (*required, *optional)
    for key in entry:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    for key in required:
        if key not in entry:
            raise DataError(f"{where}: the key {key} is missing")


def _text(entry: Mapping[str, Any], key: str, where: object) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be text, not {value!r}; quote it")
    return value.strip()


def _texts(entry: Mapping[str, Any], key: str, where: object) -> tuple[str, ...]:
    values = entry[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: {key}: must be a list of texts, not {values!r}")
    return tuple(values)


def _seeds(values: Any, where: str) -> tuple[int, ...]:
    # type(), as True is an int.
    whole = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    if not whole or not values or len(set(values)) < len(values):
        raise DataError(f"{where}: seeds must be a list of different numbers, not {values!r}")
    return tuple(values)


def _rows(entries: Any, path: Path) -> dict[str, Row]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: rows must be a list of rows")
    rows: dict[str, Row] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, row {entry.get('row', number) if isinstance(entry, dict) else number}"
        quoted = isinstance(entry, dict) and "quoted" in entry
        _check_keys(entry, where, required=("row", "label", "quoted" if quoted else "overrides"))
        row = Row(
            name=_text(entry, "row", where),
            label=_text(entry, "label", where),
            overrides=() if quoted else _texts(entry, "overrides", where),
            quoted=_text(entry, "quoted", where) if quoted else None,
        )
        if row.name in rows:
            raise DataError(f"{where}: there are two rows of this name; rename one")
        rows[row.name] = row
    return rows


def _protocol(entry: Any, kind: str, rows: Mapping[str, Row], path: Path) -> Protocol:
    named = ("name", "rows") if kind != PAPER else ()
    where = f"{path}, {kind}"
    _check_keys(entry, where, required=("title", "overrides", "seeds", *named))
    name = _text(entry, "name", where) if named else PAPER
    where = f"{path}, protocol {name}"
    ours = [row.name for row in rows.values() if row.quoted is None]
    chosen = _texts(entry, "rows", where) if named else tuple(ours)
    for row in chosen:
        if row not in ours:
            raise DataError(f"{where}: row {row!r} is not one of {', '.join(ours)}")
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{where}: a row is named twice")
    overrides, seeds = _texts(entry, "overrides", where), _seeds(entry["seeds"], where)
    planned = []
    for row in chosen:
        both = (*rows[row].overrides, *overrides)
        config = _composed(both, f"{where}, row {row}")
        planned.append(PlannedRow(rows[row], both, seeds, config, settings(asdict(config))))
    return Protocol(name, kind, _text(entry, "title", where), tuple(planned))


def _composed(overrides: tuple[str, ...], where: str) -> TrainConfig:
    keys = [override.split("=")[0] for override in overrides]
    if "seed" in keys:
        raise DataError(f"{where}: seed belongs into seeds")
    for needed in ("budget", "dataset"):  # else the machine would choose
        if needed not in keys:
            raise DataError(f"{where}: overrides must say {needed}=…")
    try:
        return _compose(overrides)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        raise DataError(f"{where}: {' '.join(overrides)}: {explain(error)}") from error


_compose = cache(compose)  # Hydra takes a third of a second each time


def _refuse_twins(protocols: Sequence[Protocol], path: Path) -> None:
    """No record may fit two rows."""
    names = [protocol.name for protocol in protocols]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two protocols have one name ({', '.join(names)})")
    seen: list[tuple[str, Settings]] = []
    for protocol in protocols:
        for planned in protocol.rows:
            own = f"row {planned.row.name} of protocol {protocol.name}"
            for other, known in seen:
                if not differences(known, planned.settings):
                    raise DataError(f"{path}: {own} and {other} are the same configuration")
            seen.append((own, planned.settings))


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
    value, unit = entry["value"], entry["unit"]
    if value != UNKNOWN and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        raise DataError(f"{where}: value {value!r} is neither a number nor {UNKNOWN}")
    if value != UNKNOWN and unit == UNKNOWN:
        raise DataError(f"{where}: the number {value} has no unit")
    if entry["against"] and unit != "%":
        raise DataError(f"{where}: a comparison with another row is in %, not {unit!r}")
    if not entry["place"]:
        raise DataError(f"{where}: say at which place of the paper {value} stands")
    return PublishedCell(
        row=entry["row"],
        metric=entry["metric"],
        against=entry["against"] or None,
        printed=None if value == UNKNOWN else value,
        unit=unit,
        place=entry["place"],
    )
