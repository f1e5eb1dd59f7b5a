"""What an experiment of the paper is: experiments/<name>/runs.yaml, paper.csv and records/.

runs.yaml lists the rows of a table with the Hydra overrides that make them, and the protocols that
they are run at: the paper's, and smaller ones. A row's overrides and a protocol's together, with a
seed, are exactly what train.py is given, and a record belongs to the row whose configuration it
has. A mistake is named with its file, row and key. What a table lacks is run by one ``train.py
--multirun`` for each row, and its records are collected.
"""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from threading import Event
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psc.cli import explain
from psc.config import compose
from psc.config.schema import TrainConfig
from psc.em.settings import AffinityRecipeConfig
from psc.errors import CheckpointError, ConfigError, DataError, PSCError
from psc.files import PROJECT
from psc.machine import cores
from psc.mri.settings import TissueRecipeConfig
from psc.paper.groups import (
    Settings,
    differences,
    finished_runs,
    record_settings,
    seed_and_fold,
    settings,
)
from psc.paper.measures import AFFINITY, TISSUE, VIDEO, Measures
from psc.paper.published import PARAMETERS, PublishedCell, read_published
from psc.training.records import FILE_NAME, Record, read_record, shared, write_record
from psc.video.settings import VideoRecipeConfig

log = logging.getLogger(__name__)

EXPERIMENTS = PROJECT / "experiments"
RUNS, PUBLISHED, RECORDS = "runs.yaml", "paper.csv", "records"

PAPER, REDUCED, SYNTHETIC = "paper", "reduced", "synthetic"
"""Kinds of protocols: the paper's, real data at less effort, and no result at all."""

DATA_OF_KIND: Mapping[str, tuple[str, ...]] = {
    PAPER: ("real",),
    REDUCED: ("real", "real sample"),
    SYNTHETIC: ("synthetic",),
}
"""Kind of protocol → kinds of data that its records may have."""

_MEASURES = {AffinityRecipeConfig: AFFINITY, VideoRecipeConfig: VIDEO, TissueRecipeConfig: TISSUE}


@dataclass(frozen=True)
class Row:
    """A row of the paper's table."""

    name: str  # what files call it
    label: str  # what tables call it
    overrides: tuple[str, ...]  # of Hydra, that make its network; empty for a row that is not ours
    quoted: str | None = None  # why there is no network of ours; None if there is
    in_paper: bool = True  # whether the paper's table has it; else it is one of smaller protocols


@dataclass(frozen=True)
class PlannedRow:
    """A row at a protocol."""

    row: Row  # the row
    overrides: tuple[str, ...]  # all that train.py is given, but for the seed
    seeds: tuple[int, ...]  # of the runs that are averaged
    config: TrainConfig  # what the overrides compose to
    settings: Settings  # what a record of this row agrees in

    @property
    def folds(self) -> range:
        """Of a cross-validation, each of which is a run; else a single one."""
        return range(getattr(self.config.dataset, "folds", None) or 1)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Seed and fold of each."""
        return list(product(self.seeds, self.folds))

    def missing(self, records: Iterable[Record]) -> list[tuple[int, int]]:
        """Seed and fold of the runs that have no record."""
        there = {seed_and_fold(record) for record in records}
        return [run for run in self.runs if run not in there]


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
    needed = {"title": _TEXT, "rows": _LIST, PAPER: _ANYTHING}
    content = _checked(content, path, needed, {REDUCED: _LIST, SYNTHETIC: _LIST})
    rows = _rows(content["rows"], path)
    protocols = [_protocol(content[PAPER], PAPER, rows, path)]
    for kind in (REDUCED, SYNTHETIC):
        protocols += [_protocol(entry, kind, rows, path) for entry in content.get(kind, ())]
    _refuse_twins(protocols, path)
    found = {_MEASURES[type(p.config.recipe)] for protocol in protocols for p in protocol.rows}
    if len(found) != 1:
        names = ", ".join(sorted(measures.name for measures in found))
        raise DataError(f"{path}: its rows are of several applications ({names})")
    (measures,) = found
    metrics = [PARAMETERS, *(score.key for score in measures.scores)]
    published = read_published(folder / PUBLISHED, list(rows), metrics)
    given = tuple(rows.values()), tuple(protocols), published
    return Experiment(folder, content["title"], measures, *given)


_TEXT, _LIST, _TEXTS, _SEEDS = "text", "a list", "a list of texts", "a list of different numbers"
_SWITCH, _ANYTHING = "true or false", "anything"
_IS: Mapping[str, Callable[[Any], bool]] = {
    _TEXT: lambda value: isinstance(value, str) and bool(value.strip()),
    _LIST: lambda value: isinstance(value, list),
    _TEXTS: lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    _SEEDS: lambda value: (  # type(), as True is an int
        isinstance(value, list)
        and all(type(v) is int and v >= 0 for v in value)
        and len(set(value)) == len(value) > 0
    ),
    _SWITCH: lambda value: isinstance(value, bool),
    _ANYTHING: lambda value: True,
}
"""What an entry of runs.yaml must be → whether it is."""


def _checked(
    entry: Any,
    where: object,
    required: Mapping[str, str],
    optional: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An entry with all required keys, and no other than these and the optional ones."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must have the keys {', '.join(required)}")
    known = {**required, **(optional or {})}
    for key in (*entry, *required):
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
        if key not in entry:
            raise DataError(f"{where}: the key {key} is missing")
        if not _IS[known[key]](entry[key]):
            quote = "; quote it" if known[key] == _TEXT else ""
            raise DataError(f"{where}: {key} must be {known[key]}, not {entry[key]!r}{quote}")
    return {key: v.strip() if isinstance(v, str) else v for key, v in entry.items()}


def _rows(entries: list[Any], path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, row {entry.get('row', number) if isinstance(entry, dict) else number}"
        quoted = isinstance(entry, dict) and "quoted" in entry
        made = {"quoted": _TEXT} if quoted else {"overrides": _TEXTS}
        found = _checked(entry, where, {"row": _TEXT, "label": _TEXT} | made, {"paper": _SWITCH})
        if found["row"] in rows:
            raise DataError(f"{where}: there are two rows of this name; rename one")
        overrides, in_paper = tuple(found.get("overrides", ())), found.get("paper", True)
        row = Row(found["row"], found["label"], overrides, found.get("quoted"), in_paper)
        rows[row.name] = row
    if not rows:
        raise DataError(f"{path}: rows must be a list of rows")
    return rows


def _protocol(entry: Any, kind: str, rows: Mapping[str, Row], path: Path) -> Protocol:
    needed = {"title": _TEXT, "overrides": _TEXTS, "seeds": _SEEDS}
    needed |= {} if kind == PAPER else {"name": _TEXT, "rows": _LIST}
    name = entry.get("name", kind) if isinstance(entry, dict) else kind
    where = f"{path}, protocol {name}"
    found = _checked(entry, where, needed)
    ours = [row.name for row in rows.values() if row.quoted is None]
    chosen = found.get("rows", [name for name in ours if rows[name].in_paper])
    planned: dict[str, PlannedRow] = {}
    for entry in chosen:
        keys = {"seeds": _SEEDS, "overrides": _TEXTS}
        own = _checked(entry, where, {"row": _TEXT}, keys) if isinstance(entry, dict) else {}
        row = own.get("row", entry)
        if row not in ours:
            raise DataError(f"{where}: row {row!r} is not one of {', '.join(ours)}")
        if row in planned:
            raise DataError(f"{where}: row {row} is named twice")
        every = (*rows[row].overrides, *found["overrides"], *own.get("overrides", ()))
        config = _row_config(every, f"{where}, row {row}")
        seeds = tuple(own.get("seeds", found["seeds"]))
        planned[row] = PlannedRow(rows[row], every, seeds, config, settings(asdict(config)))
    return Protocol(name, kind, found["title"], tuple(planned.values()))


def _row_config(overrides: tuple[str, ...], where: str) -> TrainConfig:
    keys = [override.split("=")[0] for override in overrides]
    if "seed" in keys:
        raise DataError(f"{where}: seed belongs into seeds")
    for needed in ("budget", "dataset"):  # else the machine would choose
        if needed not in keys:
            raise DataError(f"{where}: overrides must say {needed}=…")
    return composed(overrides, where)


def composed(overrides: tuple[str, ...], where: str) -> TrainConfig:
    """The configuration that train.py makes of overrides."""
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
    rows = [(row, protocol.name) for protocol in protocols for row in protocol.rows]
    for (other, known), (own, its) in combinations(rows, 2):
        if not differences(other.settings, own.settings):
            twins = f"row {own.row.name} of protocol {its} and row {other.row.name} of {known}"
            raise DataError(f"{path}: {twins} are the same configuration")


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A record and where it belongs."""

    path: Path  # its file
    record: Record  # what it says
    protocol: Protocol  # that it was run at
    planned: PlannedRow  # its row there


def read_records(experiment: Experiment) -> tuple[RecordedRun, ...]:
    """Read all records; refused: changed by hand, of no row, its seeds or data, a run twice."""
    runs: dict[str, RecordedRun] = {}
    for path in sorted((experiment.folder / RECORDS).glob(f"*/{FILE_NAME}")):
        run = assigned(experiment, path, read_record(path))
        if run.record.run in runs:
            raise DataError(
                f"{path} and {runs[run.record.run].path} are records of one run, "
                f"{run.record.run}; delete one"
            )
        runs[run.record.run] = run
    return tuple(runs.values())


def assigned(experiment: Experiment, path: Path, record: Record) -> RecordedRun:
    """The row of a table that a record is of; one of none is refused, and the nearest named."""
    try:
        found = record_settings(record, path)
    except CheckpointError as error:
        raise DataError(
            f"{path} fits no row of {experiment.name}: {error}; move it to the table that it is of"
        ) from error
    rows = [(protocol, planned) for protocol in experiment.protocols for planned in protocol.rows]
    apart = [differences(found, planned.settings) for _, planned in rows]
    differing, (protocol, planned) = min(
        zip(apart, rows, strict=True), key=lambda pair: len(pair[0])
    )
    where = f"row {planned.row.name} of protocol {protocol.name}"
    if not differing:
        _check(record, path, planned, protocol, where)
        return RecordedRun(path, record, protocol, planned)
    raise DataError(
        f"{path} fits no row of {experiment.name}. The nearest is {where}, but the record has "
        f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. Move it to the table "
        f"that it is of, or add its row or protocol to {experiment.folder.name}/runs.yaml"
    )


def _check(record: Record, path: Path, planned: PlannedRow, protocol: Protocol, where: str) -> None:
    """Refuse a seed or data that the row does not have."""
    if record.seed not in planned.seeds:
        seeds = ", ".join(map(str, planned.seeds))
        raise DataError(f"{path}: seed {record.seed} is not one of {where} ({seeds}); add it there")
    kind, allowed = record.data["kind"], DATA_OF_KIND[protocol.kind]
    if kind not in allowed:
        raise DataError(
            f"{path} is of {kind} data, but {where} has {' or '.join(allowed)} data only"
        )


# What a table lacks is run, and collected.

_QUEUES = "hydra/launcher=slurm"  # jobs wait in a queue, so all rows may be submitted at once


class LaunchError(PSCError):
    """Runs of a table have failed; train.py has told why."""


@dataclass(frozen=True)
class Launch:
    """Runs of one row: all folds of all seeds."""

    planned: PlannedRow  # the row at its protocol
    seeds: tuple[int, ...]  # those that lack a record
    folds: tuple[int, ...]  # of each of these seeds
    arguments: tuple[str, ...]  # of train.py
    output: Path  # folder of the runs
    of_table: bool = True  # else of a seed or a setting that the row does not have: never collected

    @property
    def command(self) -> str:
        """What a shell would be given."""
        return shlex.join(("python", "train.py", *self.arguments))


def launches(
    experiment: Experiment,
    protocol: Protocol,
    output: Path,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    again: bool = False,
) -> tuple[list[Launch], int]:
    """What is left to run of a table at a protocol, and how many records make the rest needless.

    ``seeds`` take the place of each row's. With ``overrides`` that change the result, no record is
    of that run; runs of seeds or settings that the table does not have lie beside ``output``.
    """
    known = [planned.row.name for planned in protocol.rows]
    if unknown := [name for name in rows if name not in known]:
        raise ConfigError(
            f"{experiment.name}, protocol {protocol.name}: no row {', '.join(unknown)}; there are"
            f" {', '.join(known)}"
        )
    recorded = () if again else read_records(experiment)
    found, records = [], 0
    for planned in protocol.rows:
        if rows and planned.row.name not in rows:
            continue
        changed = _changed(planned, overrides)
        own = [run.record for run in recorded if run.planned is planned and not changed]
        wanted = replace(planned, seeds=tuple(seeds)) if seeds else planned
        records += sum(record.seed in wanted.seeds for record in own)
        of_table = not changed and set(wanted.seeds) <= set(planned.seeds)
        folder = output if of_table else output.with_name(f"{output.name}-own")
        for folds, left in _together_missing(wanted.missing(own)).items():
            ours = [f"dataset.fold={','.join(map(str, folds))}"] * (len(planned.folds) > 1)
            ours += [f"seed={','.join(map(str, left))}", f"output_directory={folder}"]
            ours += [f"logger.group={experiment.name}", "resume=true"]
            arguments = ("--multirun", *planned.overrides, *ours, *overrides)
            found.append(Launch(planned, left, folds, arguments, folder, of_table))
    return found, records


def _together_missing(runs: Sequence[tuple[int, int]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Folds → the seeds that lack just these."""
    folds_of_seed: dict[int, tuple[int, ...]] = {}
    for seed, fold in runs:
        folds_of_seed[seed] = (*folds_of_seed.get(seed, ()), fold)
    return {
        folds: tuple(seed for seed, its in folds_of_seed.items() if its == folds)
        for folds in dict.fromkeys(folds_of_seed.values())
    }


def _changed(planned: PlannedRow, overrides: Sequence[str]) -> bool:
    """Whether overrides make another result of a row."""
    ours = [one for one in overrides if not one.lstrip("+~").startswith("hydra")]
    if any(one.is_sweep_override() for one in OverridesParser.create().parse_overrides(ours)):
        return True
    config = composed((*planned.overrides, *ours), f"row {planned.row.name}")
    return settings(asdict(config)) != planned.settings


def launch(pending: Sequence[Launch], at_once: int = 1) -> None:
    """Run all, a few rows at a time, each on its share of the cores; all if they wait in queues.

    A failing row stops no other; an interrupted one (KeyboardInterrupt) all. Of several at a time,
    lines in place of progress bars, each after the row's label.
    """
    queued = any(_QUEUES in one.arguments for one in pending)
    stopped = Event()

    def run(one: Launch) -> int:
        if stopped.is_set():
            return 0
        log.info("%s: seeds %s", one.planned.row.label, ", ".join(map(str, one.seeds)))
        command = [sys.executable, str(PROJECT / "train.py"), *one.arguments]
        apart = at_once == 1 or queued
        code = subprocess.run(command).returncode if apart else _together(command, one, at_once)
        if code in (130, -2):
            stopped.set()
        return code

    with ThreadPoolExecutor(max_workers=len(pending) if queued else at_once) as pool:
        try:
            codes = list(pool.map(run, pending))
        except KeyboardInterrupt:  # the runs have it too, and end
            stopped.set()
            raise
    if stopped.is_set():
        raise KeyboardInterrupt
    if failed := [one.planned.row.name for one, code in zip(pending, codes, strict=True) if code]:
        raise LaunchError(f"runs of {', '.join(failed)} failed, see above; the others are finished")


def _together(command: list[str], one: Launch, at_once: int) -> int:
    """Run one of several: threads of several trainings on the same cores hinder each other."""
    share = {"OMP_NUM_THREADS": str(max(cores() // at_once, 1))}
    with subprocess.Popen(
        [*command, "trainer.progress_bar=false"],
        env={**share, **os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(f"{one.planned.row.label}: {line}")
            sys.stdout.flush()
    return process.returncode


def collect(experiment: Experiment, runs: Path) -> list[Path]:
    """Copy the new records of a folder of runs to a table, all checked before; returns where to.

    A record that differs from the table's of the same run is refused, after the new are copied.
    """
    new: dict[Path, Path] = {}
    others: list[Path] = []
    for folder, record in finished_runs(runs).items():
        assigned(experiment, folder / FILE_NAME, record)
        target = experiment.folder / RECORDS / record.run
        if not (target / FILE_NAME).exists():
            new[folder] = target
        elif read_record(target) != shared(record):
            others.append(target)
    for folder, target in new.items():
        share(folder, target)
    if others:
        more = f" (as {len(others) - 1} more do)" if others[1:] else ""
        raise DataError(
            f"{others[0]} holds another record of run {others[0].name}{more}; delete it to replace "
            f"it. New and collected: {len(new)}"
        )
    return list(new.values())


def share(run: Path, target: Path) -> None:
    """Copy a run's record and metrics, without the places where its files lay on this machine."""
    target.mkdir(parents=True, exist_ok=True)
    if (metrics := run / "metrics.csv").is_file():
        (target / metrics.name).write_bytes(metrics.read_bytes())
    write_record(shared(read_record(run)), target)
