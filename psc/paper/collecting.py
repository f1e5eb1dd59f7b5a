"""Copy finished runs' records into experiments/, to be committed."""

from dataclasses import replace
from pathlib import Path

from psc.errors import DataError
from psc.paper.experiments import RECORDS, Experiment
from psc.paper.records import assigned
from psc.paper.summary import read_records
from psc.training.records import FILE_NAME, Record, read_record, write_record

_METRICS = "metrics.csv"


def collect(experiment: Experiment, runs: Path) -> list[Path]:
    """Copy the records of a folder of runs to a table; returns the folders that were written.

    Record and metrics, each run in a folder of its own. Where the run lay on this machine is nobody
    else's business and left out; everything else is copied as it is. A record that is there already
    and equal is left alone. All are checked before anything is copied.

    Args:
        experiment: the table.
        runs: a folder of run folders, all of rows of the table.

    Raises:
        DataError: if there is no finished run, one cannot be read or is of no row of the table, or
            another record of the same run is there already.
    """
    new: dict[Path, Record] = {}
    for folder, record in read_records(runs).items():
        assigned(experiment, folder / FILE_NAME, record)
        shared = replace(record, config={**record.config, "output_directory": "runs"})
        target = experiment.folder / RECORDS / record.run
        if not (target / FILE_NAME).exists():
            new[folder] = shared
        elif read_record(target) != shared:
            raise DataError(
                f"{target} holds another record of run {record.run}; delete it to replace it"
            )
    written = []
    for folder, record in new.items():
        target = experiment.folder / RECORDS / record.run
        target.mkdir(parents=True, exist_ok=True)
        if (folder / _METRICS).is_file():
            (target / _METRICS).write_bytes((folder / _METRICS).read_bytes())
        write_record(record, target)
        written.append(target)
    return written
