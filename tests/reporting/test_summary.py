"""The table of runs: what is averaged, what is not, and where the numbers come from."""

import csv
from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.reporting.summary import read_records, summary_notes, summary_table, write_summary
from psc.results import write_record

METRICS = "step,train/loss,validation/loss\n0,0.9,\n1,0.7,0.8\n"


@pytest.fixture
def folder_of(tmp_path):
    """Write records as finished runs without their volumes; returns the folder of runs."""

    def write(**records):
        for name, record in records.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.csv").write_text(METRICS)
            write_record(replace(record, run=name), tmp_path / name)
        return tmp_path

    return write


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_one_row_per_network_and_the_baseline_last(make_record):
    records = [make_record("3d", total=2.0), make_record("p2sc2", total=1.0)]
    table = rows(summary_table(records))
    assert [row[0] for row in table] == ["3d", "p2sc2", "no network"]
    assert table[0][1:8] == ["1,234,567", "5", "0.500", "1.500", "2.000", "0.100", "-50.0 %"]
    assert table[1][7] == "-75.0 %"
    assert table[2][5] == "4.000"


def test_seeds_are_averaged_with_their_deviation(make_record):
    records = [make_record(seed=0, total=2.0), make_record(seed=1, total=3.0)]
    (row, _) = rows(summary_table(records))
    assert row[5] == "2.500 ± 0.707"
    assert row[9] == "0, 1"


def test_other_code_is_another_row_and_says_which(make_record):
    one = summary_table([make_record()])
    assert "code" not in one.splitlines()[0]
    two = summary_table([make_record(), make_record(seed=1, commit="b" * 40)])
    assert two.splitlines()[0].endswith("| code |")
    table = rows(two)
    assert [row[0] for row in table] == ["3d", "3d", "no network"]
    assert [row[-1] for row in table] == ["aaaaaaaa", "bbbbbbbb", ""]


def test_every_test_has_its_own_baseline(make_record):
    other = make_record("p2sc2", splits={"test": ["here[9:18]"]})
    table = rows(summary_table([make_record(), other, make_record("p1sc1")]))
    assert [row[0] for row in table] == ["3d", "p1sc1", "no network", "p2sc2", "no network"]


def test_synthetic_data_is_said_to_be_synthetic(make_record):
    assert "SYNTHETIC" in summary_notes([make_record()])
    real = summary_notes([make_record(kind="real sample")])
    assert "SYNTHETIC" not in real
    assert "real sample data" in real
    assert "some CPU" in real
    assert "aaaaaaaa" in real


def test_only_finished_runs_are_read(tmp_path, folder_of, make_record):
    with pytest.raises(DataError, match="no finished run"):
        read_records(tmp_path)
    folder = folder_of(b=make_record(), a=make_record())
    (folder / "unfinished").mkdir()
    assert [path.name for path in read_records(folder)] == ["a", "b"]


def test_everything_that_is_said_to_be_written_is(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record("p2sc2", seed=1))
    summary = write_summary(folder)
    names = [path.name for path in summary.files]
    assert names == ["summary.md", "summary.csv", "tradeoff.png", "curves.png", "thresholds.png"]
    assert all(path.stat().st_size > 0 for path in summary.files)
    assert (folder / "summary.md").read_text() == summary.text
    with (folder / "summary.csv").open() as file:
        assert [row["block"] for row in csv.DictReader(file)] == ["3d", "p2sc2"]
    assert not (folder / "summary.png").exists()  # the volumes are not there


def test_versions_of_the_code_are_not_mixed(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record(seed=1, commit="b" * 40))
    with pytest.raises(DataError, match=r"bbbbbbbb: 1 run \(b\)"):
        write_summary(folder)
    assert not (folder / "summary.md").exists()
    assert "| 1 |" in write_summary(folder, commit="bbbb").text
    assert len(rows(write_summary(folder, all_commits=True).text.split("\n\n")[0])) == 3
