"""Run what a table of the paper still lacks, and collect the records.

    python scripts/experiment.py table-6d                  the paper's protocol, here
    python scripts/experiment.py table-6d --protocol quick
    python scripts/experiment.py table-6d hydra/launcher=slurm hydra.launcher.partition=gpu

Runs that are recorded in experiments/ or finished in the output folder are not run again, those
that were interrupted are continued. Further arguments are Hydra overrides for every run.
"""

import argparse
import logging
import sys
from pathlib import Path

from psc.errors import PSCError
from psc.paper.collecting import collect
from psc.paper.experiments import EXPERIMENTS, SYNTHETIC, read_experiment
from psc.paper.launch import launch, launches
from psc.paper.table import chosen_tables
from psc.training.records import FILE_NAME


def main() -> None:
    """Launch from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="such as table-6d")
    parser.add_argument("--protocol", default="paper", help="of its runs.yaml; default: paper")
    parser.add_argument("--rows", nargs="+", default=(), help="of its runs.yaml; default: all")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="where tables lie")
    parser.add_argument(
        "--again", action="store_true", help="also what is recorded; nothing is collected then"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    arguments, rest = parser.parse_known_intermixed_args()
    tables = [name for name in arguments.tables if "=" not in name]
    overrides = [*(name for name in arguments.tables if "=" in name), *rest]
    if not tables:
        parser.error("name a table, such as table-6d")
    if options := [word for word in overrides if "=" not in word or word.startswith("-")]:
        parser.error(f"neither options nor overrides (key=value): {' '.join(options)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _run(arguments, tables, overrides)
    except PSCError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _run(arguments: argparse.Namespace, tables: list[str], overrides: list[str]) -> None:
    planned = []
    for name in chosen_tables(tables, arguments.experiments):  # all are read before any is run
        experiment = read_experiment(arguments.experiments / name)
        protocol = experiment.protocol(arguments.protocol)
        output = arguments.output / f"{name}-{protocol.name}"
        pending = launches(
            experiment,
            protocol,
            output,
            rows=arguments.rows,
            overrides=overrides,
            again=arguments.again,
        )
        planned.append((experiment, protocol, output, pending))
    for experiment, protocol, output, pending in planned:
        if arguments.dry_run:
            print("\n".join(one.command for one in pending))
            continue
        if not pending:
            print(f"{experiment.name}: nothing is left to run at protocol {protocol.name}")
            continue
        try:
            launch(pending)
        finally:  # what has finished is recorded whether or not another row failed
            result = protocol.kind != SYNTHETIC and not arguments.again
            if result and any(output.glob(f"*/{FILE_NAME}")):
                print(*collect(experiment, output), sep="\n")


if __name__ == "__main__":
    main()
