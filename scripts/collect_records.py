"""Copy finished runs' records into experiments/, to be committed.

``python scripts/collect_records.py runs experiments/table-6d/records``: result.json and metrics.csv
of every finished run, each in a folder of its own. Where the run lay on this machine is nobody
else's business and left out, and the record sealed again; everything else is copied as it is.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from psc.errors import DataError, PSCError
from psc.reporting.summary import read_records
from psc.results import FILE_NAME, read_record, write_record

METRICS = "metrics.csv"


def collect(runs: Path, destination: Path) -> list[Path]:
    """Copy the records of a folder of runs; returns the folders that were written.

    A record that is there already and equal is left alone.

    Raises:
        DataError: if there is no finished run, one cannot be read, or another record of the same
            run is there already.
    """
    written = []
    for folder, record in read_records(runs).items():
        shared = replace(record, config={**record.config, "output_directory": "runs"})
        target = destination / record.run
        if (target / FILE_NAME).exists():
            if read_record(target) != shared:
                raise DataError(
                    f"{target} holds another record of run {record.run}; delete it to replace it"
                )
            continue
        target.mkdir(parents=True, exist_ok=True)
        if (folder / METRICS).is_file():
            (target / METRICS).write_bytes((folder / METRICS).read_bytes())
        write_record(shared, target)
        written.append(target)
    return written


def main() -> None:
    """Collect from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of run folders, such as runs")
    parser.add_argument("destination", type=Path, help="such as experiments/table-6d/records")
    arguments = parser.parse_args()
    try:
        for folder in collect(arguments.runs, arguments.destination):
            print(folder)
    except PSCError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
