"""Compare finished runs: ``python scripts/compare.py runs`` prints a table, draws pictures."""

import argparse
from pathlib import Path

from psc.errors import told_in_a_line
from psc.paper.compare import compare_runs


def main() -> None:
    """Write tables and pictures into a folder, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="of run folders, such as runs"
    )
    parser.add_argument("--into", type=Path, help="where to write; default: the first folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--commit", help="only runs of this version of the code")
    which.add_argument(
        "--all-commits", action="store_true", help="every version of the code, in rows of its own"
    )
    arguments = vars(parser.parse_args())
    with told_in_a_line():
        text, files = compare_runs(*arguments.pop("folders"), **arguments)
    print(text, *files, sep="\n")


if __name__ == "__main__":
    main()
