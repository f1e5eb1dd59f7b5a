"""Table and figure of what scripts/conversion_study.py has collected, into experiments/conversion.

    python scripts/conversion_report.py

Prints the table as Markdown and draws curves.png.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from psc.errors import DataError, PSCError
from psc.paper.curves import read_curve
from psc.paper.energy import StartCurves, starts_figure
from psc.paper.experiments import EXPERIMENTS
from psc.training.records import FILE_NAME, Record, read_record

TRAINED = "3d"
"""The network that all conversions come from."""

LABELS = {
    "3d": "3D, as trained",
    "3d-further": "3D, trained further",
    "p1sc1-svd": "m = 1, SVD",
    "p1sc1-random": "m = 1, random blocks",
    "p1sc1-scratch": "P_1SC_1 from scratch",
    "p2sc1-svd": "m = 2, SVD",
    "p2sc1-calibrated": "m = 2, SVD, calibrated",
    "p2sc1-matched": "m = 2, calibrated, matched",
    "p2sc1-sum-calibrated": "m = 2 summed, calibrated",
    "p2sc1-random": "m = 2, random blocks",
    "p2sc1-scratch": "P_2SC_1 from scratch",
    "p2sc2-matched": "(2,2), calibrated, matched",
    "p2sc2-scratch": "P_2SC_2 from scratch",
}
"""In the table's order."""

PANELS = {"one stream": "p1sc1", "two streams": "p2sc1", "two streams, pairs of layers": "p2sc2"}


@dataclass(frozen=True)
class Outcome:
    """One way to begin, over its seeds.

    Attributes:
        label: of the table.
        seeds: that were run.
        parameters: of the network.
        before: validation loss of each seed before the first iteration; empty: not measured.
        tested: VI sum on the test slab of each seed at that point; empty: not measured.
        curves: metrics.csv of each seed's training.
        after: record of each seed's training.
    """

    label: str
    seeds: tuple[int, ...]
    parameters: int
    before: tuple[float, ...]
    tested: tuple[float, ...]
    curves: tuple[Path, ...]
    after: tuple[Record, ...]

    def row(self) -> list[str]:
        """Its cells."""
        lowest = [min(read_curve(path, "validation/loss")[1]) for path in self.curves]
        finished = [record.metrics["test"]["total"] for record in self.after]
        return [
            self.label,
            f"{self.parameters:,}",
            _spread(self.before),
            _spread(self.tested),
            _spread(lowest),
            _spread(finished),
            ", ".join(map(str, self.seeds)),
        ]


def main() -> None:
    """Report from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=EXPERIMENTS / "conversion")
    folder: Path = parser.parse_args().folder
    try:
        outcomes = read_outcomes(folder)
        head = [
            "start",
            "parameters",
            "loss before",
            "VI before",
            "loss after",
            "VI after",
            "seeds",
        ]
        print("\n".join(_line(cells) for cells in (head, ["---"] * len(head))))
        print("\n".join(_line(outcome.row()) for outcome in outcomes.values()))
        panels = {
            title: [
                StartCurves(outcome.label, outcome.curves, outcome.before)
                for name, outcome in outcomes.items()
                if name.startswith(prefix)
            ]
            for title, prefix in PANELS.items()
        }
        trained = outcomes[TRAINED]
        reference = mean(min(read_curve(path, "validation/loss")[1]) for path in trained.curves)
        starts_figure(panels, folder / "curves.png", reference=reference)
    except PSCError as error:
        sys.exit(f"error: {error}")


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """What was collected, by name of the start, in the order of ``LABELS``.

    Raises:
        DataError: if nothing was, or a file cannot be read.
    """
    rows = list(_starts(folder))
    found: dict[str, Outcome] = {}
    for name, label in LABELS.items():
        folders = sorted((folder / "records").glob(f"{name}-seed*"))
        if not folders:
            continue
        seeds = tuple(int(re.sub(r".*-seed", "", path.name)) for path in folders)
        records = tuple(read_record(path) for path in folders)
        before = tuple(
            float(row["validation_loss"])
            for seed in seeds
            for row in rows
            if (row["name"], row["seed"]) == (name, str(seed))
        )
        tests = sorted((folder / "records").glob(f"{name}-right-away-seed*"))
        tested = tuple(read_record(path).metrics["test"]["total"] for path in tests)
        curves = tuple(path / "metrics.csv" for path in folders)
        parameters = records[0].parameters
        found[name] = Outcome(label, seeds, parameters, before, tested, curves, records)
    if TRAINED not in found:
        raise DataError(f"{folder / 'records'} holds no {TRAINED}-seed*/{FILE_NAME}; run the study")
    return found


def _starts(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("starts-seed*.csv")):
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
