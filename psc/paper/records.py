"""The committed records of an experiment: each at its row and protocol, and how they come there."""

from dataclasses import dataclass, replace
from pathlib import Path

from psc.errors import CheckpointError, DataError
from psc.paper.experiments import DATA_OF_KIND, RECORDS, Experiment, PlannedRow, Protocol
from psc.paper.groups import differences, record_settings
from psc.training.records import FILE_NAME, Record, read_record, write_record


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A record and where it belongs."""

    path: Path  # its file
    record: Record  # what it says
    protocol: Protocol  # that it was run at
    planned: PlannedRow  # its row there


def read_records(experiment: Experiment) -> tuple[RecordedRun, ...]:
    """Read all of an experiment's records, in order of their folders' names.

    One that cannot be trusted is refused: changed by hand, of no row, of a seed or of data that its
    row does not have, or of a run that another record is of, too.
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
    """The row of a table that a record is of; one of none is refused, and the nearest named."""
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
            where = f"row {planned.row.name} of protocol {protocol.name}"
            if not differing:
                _check(record, path, planned, protocol, where)
                return RecordedRun(path, record, protocol, planned)
            if nearest is None or len(differing) < len(nearest[0]):
                nearest = differing, where
    assert nearest is not None  # an experiment has rows
    differing, where = nearest
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


def finished_runs(folder: Path) -> dict[Path, Record]:
    """Records of all finished runs directly in a folder, by run folder, in order of name."""
    records = {path.parent: read_record(path) for path in sorted(folder.glob(f"*/{FILE_NAME}"))}
    if not records:
        raise DataError(f"{folder} holds no finished run (no */{FILE_NAME})")
    return records


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
