"""The tables of the checkout hold what its committed records say, computed here once more."""

import json

import numpy as np
import pytest

from psc.paper.experiments import EXPERIMENTS
from psc.paper.page import README_PLACES, readme_parts
from psc.paper.text import markers

ROWS = {
    "table-5d": {
        "3D‡ (Bui et al.)": ("densenet_bui", "3d"),
        "3D": ("densenet", "3d"),
        "(1,1)": ("densenet", "p1sc1"),
        "(2,2)": ("densenet", "p2sc2"),
        "(2,3)": ("densenet", "p2sc3"),
    },
    "table-6d": {
        "3D (Funke et al.)": ("unet", "3d"),
        "(1,1)": ("unet", "p1sc1"),
        "(2,2)": ("unet", "p2sc2"),
    },
}
COLUMNS = {
    "table-5d": {
        "Dice GM [%]": ("dice_gm", 100, 1),
        "Dice WM [%]": ("dice_wm", 100, 1),
        "Dice CSF [%]": ("dice_csf", 100, 1),
        "mean Dice [%]": ("dice_mean", 100, 1),
    },
    "table-6d": {
        "VI split": ("split", 1, 3),
        "VI merge": ("merge", 1, 3),
        "VI sum [bits]": ("total", 1, 3),
        "adapted Rand error": ("adapted_rand_error", 1, 3),
    },
}


def committed(table):
    return [
        json.loads(path.read_text())
        for path in sorted((EXPERIMENTS / table / "records").glob("*/result.json"))
    ]


def of_quick(records, network):
    """The records of a network at the reduced protocol of a CPU: by name, width and length."""
    return [
        record
        for record in records
        if (record["config"]["backbone"]["name"], record["config"]["block"]["name"]) == network
        and record["data"]["kind"] == "real sample"
        and record["config"]["budget"]["name"] == "quick"
        and record["iterations"] <= 1200  # "long" is of the same budget
    ]


def shown(heading):
    """A table of docs/results.md below its heading: cell by row and column."""
    text = (EXPERIMENTS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    lines = text.partition(heading)[2].split("\n\n")[1].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("name", "heading"),
    [("table-5d", "1,000 iterations of two patches"), ("table-6d", "1,200 iterations, on a CPU")],
)
def test_every_cell_is_the_mean_of_its_records(name, heading):
    """Of docs/results.md, which holds what is made of the records (the last test here)."""
    records, filled = committed(name), shown(heading)
    checked = 0
    for label, network in ROWS[name].items():
        own = of_quick(records, network)
        for column, (key, scale, digits) in COLUMNS[name].items():
            values = scale * np.array([record["metrics"]["test"][key] for record in own])
            expected = f"{values.mean():.{digits}f}"
            if len(values) > 1:
                expected += f" ± {values.std(ddof=1):.{digits}f}"
            assert filled[label][column] == expected
        assert filled[label]["parameters"] == f"{own[0]['parameters']:,}"
        checked += len(own)
    assert checked == sum(line["seeds"].count(",") + 1 for line in filled.values()) - 1  # the floor


def readme_rows(name):
    text = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_numbers_of_readme_5d_are_those_of_the_records():
    rows = {(row[0], row[1]): row[2:] for row in readme_rows("table-5d") if len(row) == 9}
    for network in ROWS["table-5d"].values():
        (record,) = of_quick(committed("table-5d"), network)
        test = record["metrics"]["test"]
        dice = [
            f"{100 * test[f'dice_{tissue}']:.1f} ± {100 * test[f'dice_{tissue}_sd']:.1f}"
            for tissue in ("gm", "wm", "csf")
        ]
        distance = [f"{test[f'hd95_{tissue}']:.1f}" for tissue in ("gm", "wm", "csf")]
        assert rows[network] == [f"{record['parameters']:,}", *dice, *distance]


def test_the_numbers_of_readme_6d_are_those_of_the_records():
    rows = {row[0]: row[1:] for row in readme_rows("table-6d") if len(row) == 10}
    for network in ROWS["table-6d"].values():
        own = of_quick(committed("table-6d"), network)
        values = {
            key: np.array([record["metrics"]["test"][key] for record in own])
            for key in ("split", "merge", "total", "adapted_rand_error")
        }
        expected = [f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" for v in values.values()]
        assert rows[network[1]][2:6] == expected
        assert rows[network[1]][0] == f"{own[0]['parameters']:,}"


def test_no_row_of_table_4b_has_been_run():
    """Until UCF101 has been trained on: then its rows are checked as those above."""
    assert committed("table-4b") == []


@pytest.mark.slow
def test_the_readme_has_the_generated_parts():
    for name, content in readme_parts(EXPERIMENTS).items():
        text = (EXPERIMENTS.parent / README_PLACES[name]).read_text(encoding="utf-8")
        start, end = markers(name)
        assert text.partition(start)[2].partition(end)[0].strip() == content, "make readme"
