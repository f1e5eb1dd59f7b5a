"""Compare finished runs: ``python scripts/summarize.py runs`` prints a table, draws pictures."""

import argparse
import sys
from pathlib import Path

from psc.errors import PSCError
from psc.paper.summary import write_summary


def main() -> None:
    """Write the summary's tables and pictures into the folder of runs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of run folders, such as runs")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--commit", help="only runs of this version of the code")
    which.add_argument(
        "--all-commits", action="store_true", help="every version of the code, in rows of its own"
    )
    arguments = parser.parse_args()
    try:
        summary = write_summary(
            arguments.folder, commit=arguments.commit, all_commits=arguments.all_commits
        )
    except PSCError as error:
        sys.exit(f"error: {error}")
    print(summary.text)
    for path in summary.files:
        print(path)


if __name__ == "__main__":
    main()
