"""The paper from our records: ``python scripts/paper.py tables`` prints and writes its tables."""

import argparse
import sys
from pathlib import Path

from psc.errors import PSCError

OUTPUT = Path("build/paper")


def tables(arguments: argparse.Namespace) -> None:
    """Print the tables as Markdown, write them as Markdown, CSV and LaTeX."""
    from psc.paper.table_files import chosen_tables, tables_of, write_tables

    folder = arguments.output / "tables"
    for name in chosen_tables(arguments.names, arguments.experiments):
        written = write_tables(tables_of(arguments.experiments / name), folder)
        print(written.markdown)
        for path in written.files:
            print(path, file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """A subcommand for each part of the paper."""
    from psc.paper.experiments import EXPERIMENTS

    top = argparse.ArgumentParser(description=__doc__)
    parts = top.add_subparsers(required=True, metavar="PART")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="where they lie")
    common.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    part = parts.add_parser("tables", parents=[common], help="the paper's numbers beside ours")
    part.add_argument("names", nargs="*", metavar="NAME", help="such as table-6d; default: all")
    part.set_defaults(main=tables)
    return top


def main() -> None:
    """Make a part of the paper from the command line."""
    arguments = parser().parse_args()
    try:
        arguments.main(arguments)
    except PSCError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
