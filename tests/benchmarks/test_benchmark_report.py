"""What a benchmark leaves behind: tables in Markdown, CSV and JSON."""

import csv
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where Python itself looks when the script is started

from benchmarks import report  # noqa: E402


def test_markdown_table():
    rows = [
        {"name": "a|b", "wall_seconds": 0.0123456, "fails": None},
        {"name": "c", "wall_seconds": 12345.6, "fails": "no"},
    ]

    assert report.markdown_table(rows).splitlines() == [
        "| name | wall seconds | fails |",
        "| --- | --- | --- |",
        "| a/b | 0.0123 | – |",
        "| c | 12346 | no |",
    ]


def test_csv_holds_all_tables_and_markdown_says_where(tmp_path):
    tables = {"first": [{"a": 1, "b": None}, {"a": 2, "b": "x,y"}], "second": [{"b": 3, "c": 0.5}]}
    result = report.Report("block", {"device": "cpu", "repeats": 4}, tables)

    report.write_csv(result, tmp_path / "new" / "tables.csv")
    report.write_markdown(result, tmp_path / "new" / "tables.md")

    with (tmp_path / "new" / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hardware = report.environment()["cpu"]
    assert rows == [
        {"table": "first", "hardware": hardware, "a": "1", "b": "", "c": ""},
        {"table": "first", "hardware": hardware, "a": "2", "b": "x,y", "c": ""},
        {"table": "second", "hardware": hardware, "a": "", "b": "3", "c": "0.5"},
    ]
    first, _, rest = (tmp_path / "new" / "tables.md").read_text().partition("\n")
    assert first.startswith(hardware)
    assert f"torch {torch.__version__.split('+')[0]}" in first
    assert "repeats 4" in first
    assert rest.strip() == result.as_markdown()
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    unwritable = report.Report("metrics", {"size": object()}, {})

    with pytest.raises(TypeError):
        report.write_json(unwritable, path)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
