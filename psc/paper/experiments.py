"""What an experiment of the paper is: experiments/<name>/runs.yaml and paper.csv.

runs.yaml lists the rows of a table with the Hydra overrides that make them, and the protocols that
they are run at: the paper's, and smaller ones. A row's overrides and a protocol's together, with a
seed, are exactly what train.py is given.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psc.cli import explain
from psc.config import compose
from psc.config.choices import PROJECT
from psc.config.schema import (
    AffinityRecipeConfig,
    TissueRecipeConfig,
    TrainConfig,
    VideoRecipeConfig,
)
from psc.errors import ConfigError, DataError
from psc.paper.matching import Settings, differences, settings
from psc.paper.published_cells import PublishedCell, read_published
from psc.paper.yaml_values import check_keys, read_yaml, seeds, text, texts
from psc.reporting.measures import AFFINITY, TISSUE, VIDEO, Measures

EXPERIMENTS = PROJECT / "experiments"

RUNS = "runs.yaml"
PUBLISHED = "paper.csv"
RECORDS = "records"

PAPER, REDUCED, SYNTHETIC = "paper", "reduced", "synthetic"

DATA_OF_KIND: Mapping[str, tuple[str, ...]] = {
    PAPER: ("real",),
    REDUCED: ("real", "real sample"),
    SYNTHETIC: ("synthetic",),
}
"""Kind of protocol → kinds of data that its records may have."""

PARAMETERS = "parameters"
"""A metric of paper.csv beside the test scores."""

_MEASURES = {AffinityRecipeConfig: AFFINITY, VideoRecipeConfig: VIDEO, TissueRecipeConfig: TISSUE}


@dataclass(frozen=True)
class Row:
    """A row of the paper's table.

    Attributes:
        name: what files call it.
        label: what tables call it.
        overrides: of Hydra, that make its network; empty for a row that is not ours.
        quoted: why there is no network of ours; None if there is.
    """

    name: str
    label: str
    overrides: tuple[str, ...]
    quoted: str | None = None


@dataclass(frozen=True)
class PlannedRow:
    """A row at a protocol.

    Attributes:
        row: the row.
        overrides: all that train.py is given, but for the seed.
        seeds: of the runs that are averaged.
        config: what the overrides compose to.
    """

    row: Row
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    config: TrainConfig

    @property
    def settings(self) -> Settings:
        """What a record of this row agrees in."""
        return settings(self.config)

    def command(self, seed: int) -> str:
        """What starts one of its runs."""
        return shlex.join(("python", "train.py", *self.overrides, f"seed={seed}"))


@dataclass(frozen=True)
class Protocol:
    """How rows are run: data, length, width.

    Attributes:
        name: what files call it; unique in its experiment.
        kind: PAPER, REDUCED or SYNTHETIC.
        title: what it is, in words.
        rows: those of the table that are run at it.
    """

    name: str
    kind: str
    title: str
    rows: tuple[PlannedRow, ...]


@dataclass(frozen=True)
class Experiment:
    """A table of the paper.

    Attributes:
        folder: of its files.
        title: heading of its tables.
        measures: how its runs are scored.
        rows: in the paper's order.
        protocols: the paper's first.
        published: what the paper prints.
    """

    folder: Path
    title: str
    measures: Measures
    rows: tuple[Row, ...]
    protocols: tuple[Protocol, ...]
    published: tuple[PublishedCell, ...]

    @property
    def name(self) -> str:
        """Name of its folder, such as table-6d."""
        return self.folder.name

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name.

        Raises:
            ConfigError: if there is none.
        """
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise ConfigError(f"{self.name} has no protocol {name!r}, only {known}")


def table_names(root: Path = EXPERIMENTS) -> list[str]:
    """Names of all experiments that are tables."""
    return sorted(path.parent.name for path in root.glob(f"table-*/{RUNS}"))


def read_experiment(folder: Path) -> Experiment:
    """Read and check a table's runs.yaml and paper.csv; every row is composed.

    Raises:
        DataError: naming file, row and key: something missing, unknown, twice, or of a wrong type;
            overrides that do not compose; a value of paper.csv that does not parse.
    """
    path = folder / RUNS
    content = read_yaml(path)
    check_keys(content, path, required=("title", "rows", PAPER), optional=(REDUCED, SYNTHETIC))
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
    return Experiment(
        folder=folder,
        title=text(content, "title", str(path)),
        measures=measures,
        rows=tuple(rows.values()),
        protocols=tuple(protocols),
        published=read_published(
            folder / PUBLISHED, list(rows), [PARAMETERS, *(s.key for s in measures.scores)]
        ),
    )


def _rows(entries: Any, path: Path) -> dict[str, Row]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: rows must be a list of rows")
    rows: dict[str, Row] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, row {entry.get('row', number) if isinstance(entry, dict) else number}"
        quoted = isinstance(entry, dict) and "quoted" in entry
        check_keys(entry, where, required=("row", "label", "quoted" if quoted else "overrides"))
        row = Row(
            name=text(entry, "row", where),
            label=text(entry, "label", where),
            overrides=() if quoted else texts(entry["overrides"], f"{where}: overrides"),
            quoted=text(entry, "quoted", where) if quoted else None,
        )
        if row.name in rows:
            raise DataError(f"{where}: there are two rows of this name; rename one")
        rows[row.name] = row
    return rows


def _protocol(entry: Any, kind: str, rows: Mapping[str, Row], path: Path) -> Protocol:
    named = kind != PAPER
    where = f"{path}, {kind}"
    check_keys(
        entry,
        where,
        required=("title", "overrides", "seeds", *(("name", "rows") if named else ())),
    )
    name = text(entry, "name", where) if named else PAPER
    where = f"{path}, protocol {name}"
    ours = [row.name for row in rows.values() if row.quoted is None]
    chosen = texts(entry["rows"], f"{where}: rows") if named else tuple(ours)
    for row in chosen:
        if row not in ours:
            raise DataError(f"{where}: row {row!r} is not one of {', '.join(ours)}")
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{where}: a row is named twice")
    overrides = texts(entry["overrides"], f"{where}: overrides")
    chosen_seeds = seeds(entry["seeds"], where)
    planned = tuple(
        PlannedRow(
            rows[row],
            (*rows[row].overrides, *overrides),
            chosen_seeds,
            _composed((*rows[row].overrides, *overrides), f"{where}, row {row}"),
        )
        for row in chosen
    )
    return Protocol(name, kind, text(entry, "title", where), planned)


def _composed(overrides: Sequence[str], where: str) -> TrainConfig:
    keys = [override.split("=")[0] for override in overrides]
    if "seed" in keys:
        raise DataError(f"{where}: seed belongs into seeds")
    for needed in ("budget", "dataset"):  # else the machine would choose
        if needed not in keys:
            raise DataError(f"{where}: overrides must say {needed}=…")
    try:
        return _compose(tuple(overrides))
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        raise DataError(f"{where}: {' '.join(overrides)}: {explain(error)}") from error


@cache
def _compose(overrides: tuple[str, ...]) -> TrainConfig:
    """Hydra takes a third of a second each time."""
    return compose(overrides)


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
