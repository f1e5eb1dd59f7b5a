"""Compare finished runs: ``python scripts/summarize.py runs`` prints a table, draws pictures."""

import argparse
import sys
from pathlib import Path

from psc.errors import PSCError
from psc.reporting.summary import write_summary


def main() -> None:
    """Write summary.md and the pictures into the folder of runs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of run folders, such as runs")
    folder = parser.parse_args().folder
    try:
        print(write_summary(folder))
    except PSCError as error:
        sys.exit(f"error: {error}")
    for name in ("summary.md", "summary.png", "curves.png", "thresholds.png"):
        print(folder / name)


if __name__ == "__main__":
    main()
