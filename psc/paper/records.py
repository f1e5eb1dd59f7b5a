"""The committed records of an experiment, each at its row and protocol."""

from dataclasses import dataclass
from pathlib import Path

from psc.errors import CheckpointError, DataError
from psc.paper.experiments import (
    DATA_OF_KIND,
    RECORDS,
    Experiment,
    PlannedRow,
    Protocol,
    differences,
    record_settings,
)
from psc.training.records import FILE_NAME, Record, read_record


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A record and where it belongs.

    Attributes:
        path: its file.
        record: what it says.
        protocol: that it was run at.
        planned: its row there.
    """

    path: Path
    record: Record
    protocol: Protocol
    planned: PlannedRow


def read_records(experiment: Experiment) -> tuple[RecordedRun, ...]:
    """Read all of an experiment's records; in order of their folders' names.

    Raises:
        DataError: for a record that cannot be trusted (see ``psc.training.records.read_record``);
        that fits
            no row, and so belongs to another table; whose seed or data its row does not have; or
            whose run another record is of, too.
    """
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


def missing_seeds(planned: PlannedRow, runs: tuple[RecordedRun, ...]) -> list[int]:
    """Seeds of a row at a protocol that no record is there of."""
    there = {run.record.seed for run in runs if run.planned is planned}
    return [seed for seed in planned.seeds if seed not in there]


def assigned(experiment: Experiment, path: Path, record: Record) -> RecordedRun:
    """The row of a table that a record is of.

    Args:
        experiment: the table.
        path: of the record, for messages.
        record: what it says.

    Raises:
        DataError: for a record of no row, or whose seed or data its row does not have.
    """
    try:
        found = record_settings(record, path)
    except CheckpointError as error:
        raise DataError(
            f"{path} fits no row of {experiment.name}: {error}; move it to the table that it is of"
        ) from error
    nearest: tuple[list[str], str] | None = None
    for protocol in experiment.protocols:
        for planned in protocol.rows:
            differing = differences(found, planned.settings)
            if not differing:
                run = RecordedRun(path, record, protocol, planned)
                _check(run)
                return run
            if nearest is None or len(differing) < len(nearest[0]):
                nearest = differing, f"row {planned.row.name} of protocol {protocol.name}"
    assert nearest is not None  # an experiment has rows
    differing, where = nearest
    raise DataError(
        f"{path} fits no row of {experiment.name}. The nearest is {where}, but the record has "
        f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. Move it to the table "
        f"that it is of, or add its row or protocol to {experiment.folder.name}/runs.yaml"
    )


def _check(run: RecordedRun) -> None:
    where = f"row {run.planned.row.name} of protocol {run.protocol.name}"
    if run.record.seed not in run.planned.seeds:
        seeds = ", ".join(map(str, run.planned.seeds))
        raise DataError(
            f"{run.path}: seed {run.record.seed} is not one of {where} ({seeds}); add it there"
        )
    kind, allowed = run.record.data["kind"], DATA_OF_KIND[run.protocol.kind]
    if kind not in allowed:
        raise DataError(
            f"{run.path} is of {kind} data, but {where} has {' or '.join(allowed)} data only"
        )
