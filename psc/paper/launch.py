"""Run what a table still lacks, one ``train.py --multirun`` per row, and collect its records."""

import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from psc.errors import ConfigError, DataError, PSCError
from psc.files import PROJECT
from psc.paper.experiments import (
    RECORDS,
    Experiment,
    PlannedRow,
    Protocol,
    assigned,
    composed,
    read_records,
)
from psc.paper.groups import finished_runs, settings
from psc.training.records import FILE_NAME, Record, read_record, write_record

log = logging.getLogger(__name__)

_QUEUES = "hydra/launcher=slurm"  # jobs wait in a queue, so all rows may be submitted at once


class LaunchError(PSCError):
    """Runs of a table have failed; train.py has told why."""


@dataclass(frozen=True)
class Launch:
    """The runs of one row."""

    planned: PlannedRow  # the row at its protocol
    seeds: tuple[int, ...]  # those that are not recorded yet
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

    Committed records are not run ``again``, nor are runs that are finished in their folder, and
    unfinished ones are continued: train.py sees to that. ``seeds`` take the place of each row's.
    With ``overrides`` that change the result, no record is of that run. Runs of seeds or settings
    that the table does not have lie beside ``output``.
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
        left = tuple(wanted.missing_seeds(own))
        records += sum(record.seed in wanted.seeds for record in own)
        if not left:
            continue
        of_table = not changed and set(left) <= set(planned.seeds)
        folder = output if of_table else output.with_name(f"{output.name}-own")
        folds = [f"dataset.fold={','.join(map(str, planned.folds))}"]
        arguments = (
            "--multirun",
            *planned.overrides,
            *(folds if len(planned.folds) > 1 else []),
            f"seed={','.join(map(str, left))}",
            f"output_directory={folder}",
            f"logger.group={experiment.name}",
            "resume=true",
            *overrides,
        )
        found.append(Launch(planned, left, arguments, folder, of_table))
    return found, records


def _changed(planned: PlannedRow, overrides: Sequence[str]) -> bool:
    """Whether overrides make another result of a row."""
    ours = [one for one in overrides if not one.lstrip("+~").startswith("hydra")]
    if any(one.is_sweep_override() for one in OverridesParser.create().parse_overrides(ours)):
        return True
    config = composed((*planned.overrides, *ours), f"row {planned.row.name}")
    return settings(asdict(config)) != planned.settings


def launch(pending: Sequence[Launch]) -> None:
    """Run all, row after row; rows of a SLURM cluster at once. A failing row stops no other.

    An interrupted run is a ``KeyboardInterrupt``: the same command goes on from there.
    """
    failed: list[str] = []
    waiting: list[tuple[Launch, subprocess.Popen[bytes]]] = []

    def finish(one: Launch, process: subprocess.Popen[bytes]) -> None:
        if code := process.wait():
            if code in (130, -2):
                raise KeyboardInterrupt
            failed.append(one.planned.row.name)

    for one in pending:
        log.info("%s: seeds %s", one.planned.row.label, ", ".join(map(str, one.seeds)))
        process = subprocess.Popen([sys.executable, str(PROJECT / "train.py"), *one.arguments])
        if _QUEUES in one.arguments:
            waiting.append((one, process))
        else:
            finish(one, process)
    for one, process in waiting:
        finish(one, process)
    if failed:
        raise LaunchError(f"runs of {', '.join(failed)} failed, see above; the others are finished")


def collect(experiment: Experiment, runs: Path) -> list[Path]:
    """Copy the records of a folder of runs to a table; returns the folders that were written.

    A record that is there already and equal is left alone. All are checked before any is copied.
    """
    new: dict[Path, Path] = {}
    for folder, record in finished_runs(runs).items():
        assigned(experiment, folder / FILE_NAME, record)
        target = experiment.folder / RECORDS / record.run
        if not (target / FILE_NAME).exists():
            new[folder] = target
        elif read_record(target) != _shared(record):
            raise DataError(
                f"{target} holds another record of run {record.run}; delete it to replace it"
            )
    for folder, target in new.items():
        share(folder, target)
    return list(new.values())


def share(run: Path, target: Path) -> None:
    """Copy a run's record and metrics, without the places where its files lay on this machine."""
    target.mkdir(parents=True, exist_ok=True)
    if (metrics := run / "metrics.csv").is_file():
        (target / metrics.name).write_bytes(metrics.read_bytes())
    write_record(_shared(read_record(run)), target)


def _shared(record: Record) -> Record:
    config = {**record.config, "output_directory": "runs"}
    if config.get("initial_weights") is not None:
        config["initial_weights"] = Path(config["initial_weights"]).name
    return replace(record, config=config)
