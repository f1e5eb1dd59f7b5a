"""The table of runs: what is averaged, what is not, and where the numbers come from."""

from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.reporting.summary import read_records, summary_notes, summary_table
from psc.results import Record, write_record


def scores(total):
    return {"split": total / 4, "merge": total * 3 / 4, "total": total, "adapted_rand_error": 0.1}


def record(block="3d", seed=0, total=2.0, kind="synthetic", commit="a" * 40):
    config = {
        "backbone": {"name": "unet"},
        "block": {"name": block},
        "dataset": {"name": "d"},
        "recipe": {"iterations": 5},
        "segmentation": {},
        "seed": seed,
    }
    return Record(
        run=f"{block}-{seed}",
        config=config,
        parameters=1234567,
        iterations=5,
        seed=seed,
        metrics={"test": scores(total), "baseline": {"test": scores(4.0)}},
        wall_seconds={"training": 90.0},
        throughput={},
        data={"kind": kind, "files": []},
        git={"commit": commit, "dirty": False},
        versions={},
        hardware={"device": "some CPU"},
        finished="2026-01-01T00:00:00+00:00",
    )


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_one_row_per_network_and_the_baseline_last():
    table = rows(summary_table([record("3d", total=2.0), record("p2sc2", total=1.0)]))
    assert [row[0] for row in table] == ["3d", "p2sc2", "no network"]
    assert table[0][1:8] == ["1,234,567", "5", "0.500", "1.500", "2.000", "0.100", "-50.0 %"]
    assert table[1][7] == "-75.0 %"
    assert table[2][5] == "4.000"


def test_seeds_are_averaged_with_their_deviation():
    (row, _) = rows(summary_table([record(seed=0, total=2.0), record(seed=1, total=3.0)]))
    assert row[5] == "2.500 ± 0.707"
    assert row[9] == "0, 1"


def test_other_code_is_another_row():
    table = rows(summary_table([record(), record(seed=1, commit="b" * 40)]))
    assert [row[0] for row in table] == ["3d", "3d", "no network"]


def test_synthetic_data_is_said_to_be_synthetic():
    assert "SYNTHETIC" in summary_notes([record()])
    real = summary_notes([record(kind="real sample")])
    assert "SYNTHETIC" not in real
    assert "real sample data" in real
    assert "some CPU" in real
    assert "aaaaaaaa" in real


def test_only_finished_runs_are_read(tmp_path):
    with pytest.raises(DataError, match="no finished run"):
        read_records(tmp_path)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        write_record(replace(record(), run=name), tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    assert [path.name for path in read_records(tmp_path)] == ["a", "b"]
