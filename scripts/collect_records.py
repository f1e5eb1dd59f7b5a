"""Copy finished runs' records into a table of the paper, to be committed.

``python scripts/collect_records.py table-6d runs``: result.json and metrics.csv of every finished
run. scripts/experiment.py does so by itself; this is for runs of another machine.
"""

import argparse
import sys
from pathlib import Path

from psc.errors import PSCError
from psc.paper.collecting import collect
from psc.paper.experiments import EXPERIMENTS, read_experiment


def main() -> None:
    """Collect from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", help="such as table-6d")
    parser.add_argument("runs", type=Path, help="a folder of run folders, such as runs")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="where tables lie")
    arguments = parser.parse_args()
    try:
        experiment = read_experiment(arguments.experiments / arguments.table)
        for folder in collect(experiment, arguments.runs):
            print(folder)
    except PSCError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
